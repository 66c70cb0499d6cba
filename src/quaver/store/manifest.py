"""quaver.json, the manifest of a store. It is written last, so a store that has one is complete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from quaver.errors import (
    InputError,
    StoreError,
    StoreMismatchError,
    StoreNotFoundError,
)
from quaver.store.column import write_whole

FILE_NAME = "quaver.json"
SETTINGS = frozenset(
    {"pooling", "normalize", "max_seq_length", "truncate_dim", "task", "is_causal"}
)
TOKEN_SETTINGS = frozenset({"max_seq_length", "max_active_dims"})
FORMAT_VERSION = 3
"""Changes when a store written by one version cannot be read by the other."""

TOKEN_FORMAT_VERSION = 4
"""Version of a store with sparse or token vectors; one without stays readable for earlier versions."""

LATE_FORMAT_VERSION = 5
"""Version of a store with late chunking: earlier versions would keep the vector of a passage whose document
has changed around it."""

_READABLE = (FORMAT_VERSION, TOKEN_FORMAT_VERSION, LATE_FORMAT_VERSION)

TokenKind = Literal["sparse", "multi"]
"""What a store can hold besides the vector of a passage: weights of words, or a vector for each token."""

_CALLED = {"sparse": "sparse vectors", "multi": "token vectors"}


@dataclass(frozen=True)
class TokenModel:
    """The model that made a store's sparse or token vectors.

    Attributes:
        model: hub id or absolute folder of the model, to load it again.
        fingerprint: identifies the vectors that can be compared.
        dimension: words of the vocabulary, or length of a token's vector.
        settings: further arguments of `from_pretrained` that change the vectors, by name.
    """

    model: str
    fingerprint: str
    dimension: int
    settings: dict[str, Any] = field(default_factory=dict)

    def check(self, kind: TokenKind, store: object, other: TokenModel) -> None:
        """Check that another model's vectors are the same kind of vectors.

        Args:
            kind: what the models make.
            store: the store, for the message.
            other: the model in use.

        Raises:
            StoreMismatchError: they are not.
        """
        if (other.fingerprint, other.dimension) != (self.fingerprint, self.dimension):
            raise StoreMismatchError(
                f"the {_CALLED[kind]} of the store at {store} were made with {self.model} "
                f"(fingerprint {self.fingerprint[:12]}), not with {other.model} (fingerprint "
                f"{other.fingerprint[:12]}); use the first model, or another store"
            )


@dataclass(frozen=True)
class Manifest:
    """The model and the settings that a store was created with.

    Attributes:
        model: hub id or absolute folder of the model, to load it again.
        settings: further arguments of `Embedder.from_pretrained` that the model was loaded with and
            that change its vectors, by name.
        fingerprint: identifies the vector space; vectors of different spaces cannot be compared.
        dimension: length of a vector.
        passage_tokens: maximum number of tokens in a passage with its heading.
        created: UTC, ISO 8601.
        language: language of stop words and stems in keyword search; one of `LANGUAGES`, or "none".
        vectors: vectors that a server compares: "float32", or "int8" or "binary" with the best
            candidates rescored in float32. A folder searches the same way with all three.
        format_version: version of the store's format.
        sparse: the model of the sparse vectors; None for a store without.
        multi: the model of the token vectors; None for a store without.
        late_chunking: whether the vector of a passage is pooled from one pass over its document.
    """

    model: str
    fingerprint: str
    dimension: int
    passage_tokens: int
    created: str
    settings: dict[str, Any] = field(default_factory=dict)
    language: str = "english"
    vectors: str = "float32"
    format_version: int = FORMAT_VERSION
    sparse: TokenModel | None = None
    multi: TokenModel | None = None
    late_chunking: bool = False

    def __post_init__(self) -> None:
        """Give a store with late chunking, sparse or token vectors the version that knows them."""
        if self.late_chunking:
            object.__setattr__(self, "format_version", LATE_FORMAT_VERSION)
        elif self.sparse is not None or self.multi is not None:
            object.__setattr__(self, "format_version", TOKEN_FORMAT_VERSION)

    @classmethod
    def read(cls, store: Path) -> Manifest:
        """Read the manifest of a store.

        Args:
            store: the store's folder.

        Returns:
            the manifest.

        Raises:
            StoreNotFoundError: there is no store at this path.
            StoreMismatchError: another version of Quaver wrote it.
            StoreError: the file is broken or cannot be read.
        """
        path = store / FILE_NAME
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreNotFoundError(
                f"a store is a folder with a {FILE_NAME}: there is none at {store}; "
                "make one with `quaver index`"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        return cls.parse(text, where=str(path))

    @classmethod
    def parse(cls, text: str | bytes, *, where: str) -> Manifest:
        """Build a manifest from its JSON and check every field.

        Args:
            text: JSON.
            where: its location, for messages.

        Returns:
            the manifest.

        Raises:
            StoreMismatchError: another version of Quaver wrote it.
            StoreError: it is broken.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{where} must be JSON: {error}; restore it, or index again into another place"
            ) from error
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version not in _READABLE:
            newer = version > FORMAT_VERSION
            raise StoreMismatchError(
                f"{where} has format version {version}, this Quaver reads "
                f"{', '.join(map(str, _READABLE))}; "
                + ("upgrade Quaver, or index" if newer else "index")
                + " again into another place"
            )
        if not isinstance(content, dict):
            raise StoreError(
                f"{where} must hold a JSON object: got {type(content).__name__}; "
                "index again into another place"
            )
        for name, kind in _FIELDS.items():
            value = content.get(name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise StoreError(
                    f"{where} needs {name!r} as {kind.__name__}: got {value!r}; "
                    "index again into another place"
                )
        unknown = sorted(set(content["settings"]) - SETTINGS)
        if unknown:
            raise StoreMismatchError(
                f"{where} knows the settings {', '.join(sorted(SETTINGS))}: got {unknown[0]!r}; "
                "a later version of Quaver may have made this store"
            )
        late = content.get("late_chunking", False)
        if not isinstance(late, bool):
            raise StoreError(
                f"{where} needs 'late_chunking' as bool: got {late!r}; index again into another place"
            )
        return cls(
            **{name: content[name] for name in _FIELDS},
            late_chunking=late,
            sparse=_token_model(content.get("sparse"), "sparse", where),
            multi=_token_model(content.get("multi"), "multi", where),
        )

    def to_json(self) -> str:
        """Return the manifest as JSON text, as `parse` reads it."""
        fields = asdict(self).items()
        content = {name: v for name, v in fields if v is not None and v is not False}
        return json.dumps(content, indent=2) + "\n"

    def token_model(self, kind: TokenKind, store: object) -> TokenModel:
        """Return the model of the sparse or token vectors.

        Args:
            kind: which.
            store: the store, for the message.

        Raises:
            StoreMismatchError: the store has no such vectors.
        """
        found = self.sparse if kind == "sparse" else self.multi
        if found is None:
            raise StoreMismatchError(
                f"the store at {store} has no {_CALLED[kind]}: add them with `quaver index FOLDER "
                f"--store {store} --{kind} MODEL`, or Index.add_models({kind}=...)"
            )
        return found

    def write(self, store: Path) -> None:
        """Write the manifest atomically.

        Args:
            store: the store's folder, which exists.

        Raises:
            StoreWriteError: writing failed.
        """
        write_whole(store / FILE_NAME, self.to_json().encode())

    def check_asked(
        self,
        store: object,
        *,
        language: str | None = None,
        vectors: str | None = None,
        late_chunking: bool | None = None,
    ) -> None:
        """Check that requested settings match the manifest; they cannot change.

        Args:
            store: the store's folder, for the message.
            language: the requested language; None accepts any.
            vectors: the requested vectors; None accepts any.
            late_chunking: whether late chunking is requested; None accepts both.

        Raises:
            InputError: the store was created with other settings.
        """
        if late_chunking not in (None, self.late_chunking):
            made, other = ("with", "without") if self.late_chunking else ("without", "with")
            raise InputError(
                f"the store at {store} was made {made} late chunking, which cannot change: the vectors "
                f"{other} it are others; use another store"
            )
        for name, asked, kept in (
            ("language", language, self.language),
            ("vectors", vectors, self.vectors),
        ):
            if asked not in (None, kept):
                raise InputError(
                    f"the store at {store} was made with {name} {kept}, which cannot change: "
                    f"got {asked}; use another store"
                )

    def check(self, store: object, *, model: str, fingerprint: str, dimension: int) -> None:
        """Check that a model's vectors fit the store.

        Args:
            store: the store's folder, for the message.
            model: name of the model in use.
            fingerprint: its fingerprint.
            dimension: length of its vectors.

        Raises:
            StoreMismatchError: they do not fit.
        """
        if dimension != self.dimension:
            raise StoreMismatchError(
                f"the store at {store} holds vectors of dimension {self.dimension} "
                f"(model {self.model}), "
                f"but {model} gives dimension {dimension}; use the first model, or another store"
            )
        if fingerprint != self.fingerprint:
            raise StoreMismatchError(
                f"the store at {store} was made with {self.model} "
                f"(fingerprint {self.fingerprint[:12]}), "
                f"not with {model} (fingerprint {fingerprint[:12]}); "
                "use the first model, or another store"
            )


_FIELDS: dict[str, type] = {
    "model": str,
    "fingerprint": str,
    "dimension": int,
    "passage_tokens": int,
    "created": str,
    "settings": dict,
    "language": str,
    "vectors": str,
    "format_version": int,
}


def _token_model(content: Any, kind: str, where: str) -> TokenModel | None:
    if content is None:
        return None
    kinds = {"model": str, "fingerprint": str, "dimension": int, "settings": dict}
    if (
        not isinstance(content, dict)
        or any(
            not isinstance(content.get(name), needed) or isinstance(content[name], bool)
            for name, needed in kinds.items()
        )
        or not set(content["settings"]) <= TOKEN_SETTINGS
        or content["dimension"] < 1
    ):
        raise StoreError(
            f"{where} needs {kind!r} with model, fingerprint, dimension and settings: got {content!r:.80}; "
            "index again into another place"
        )
    return TokenModel(**{name: content[name] for name in kinds})
