"""Embedder: texts to vectors."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quaver.architecture import POOLINGS, EncoderSpec, encoder_spec, encoder_weights
from quaver.engine import Engine
from quaver.errors import InputError, PoolingError
from quaver.model_folder import ModelFolder
from quaver.tokenizer import Tokenizer
from quaver.vectors import Output, Vectors, convert, similarity

Precision = Literal["int8", "float32"]

MAX_BATCH_TOKENS = 16384
# Texts tokenized at a time: few enough that a progress bar moves, many enough to fill several
# batches.
_TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class EncodeReport:
    """What `encode_with_report` did.

    Attributes:
        vectors: as `encode` returns them.
        tokens: tokens that went through the model; a text given twice counts once.
        truncated: different texts that were longer than the model and lost their end.
    """

    vectors: Vectors
    tokens: int
    truncated: int


class Embedder:
    """A model that turns texts into vectors.

        model = Embedder.from_pretrained("BAAI/bge-small-en-v1.5")
        documents = model.encode_document(["Paris is the capital of France.", "Rome is that of
        Italy."]) model.similarity(model.encode_query("What is the capital of France?"), documents)

    An embedder holds no state that a call changes; threads may share it.

    Attributes:
        name: hub id or folder name.
        source: what `from_pretrained` takes to load this model again, in any process: the hub id,
            or the folder's absolute path.
        spec: the encoder as data.
        precision: "int8" or "float32".
        prompts: texts that go before a text, by name.
        default_prompt_name: the prompt `encode` uses when none is named.
        max_seq_length: most tokens of a text, special tokens included; longer texts lose their end.
        truncate_dim: leading components kept of every vector, or None for all.
        normalize: whether vectors have length 1.
        tokenizer: the model's tokenizer.
        fingerprint: 64 hex digits that say which vectors can be compared: the model's files,
            pooling, normalisation, truncate_dim and the document prompt. The same for int8 and
            float32.
    """

    def __init__(
        self,
        folder: ModelFolder,
        spec: EncoderSpec,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        precision: Precision,
        prompts: Mapping[str, str],
        truncate_dim: int | None,
    ) -> None:
        """Join the parts; `from_pretrained` is the usual way.

        Args:
            folder: the model folder.
            spec: the encoder.
            engine: an engine for `spec` that pools and does not normalise.
            tokenizer: the tokenizer.
            precision: what the engine computes in.
            prompts: prompts by name.
            truncate_dim: leading components kept, or None.
        """
        self.name = folder.name
        self.source = folder.source
        self.spec = spec
        self.precision = precision
        self.prompts = dict(prompts)
        self.default_prompt_name = (
            folder.default_prompt_name if folder.default_prompt_name in self.prompts else None
        )
        self.max_seq_length = tokenizer.max_length
        self.truncate_dim = truncate_dim
        self.normalize = spec.normalize
        self.tokenizer = tokenizer
        self._engine = engine
        self._metric = folder.similarity
        identity = (
            folder.fingerprint,
            spec.pooling,
            spec.normalize,
            truncate_dim,
            self.document_prompt,
        )
        self.fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        precision: Precision = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        truncate_dim: int | None = None,
        pooling: str | None = None,
        normalize: bool | None = None,
        prompts: Mapping[str, str] | None = None,
        threads: int | None = None,
        isa: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Embedder:
        """Load a model.

        Args:
            name_or_path: local folder, or hub id.
            precision: "int8" quantizes the weights while loading; "float32" is the same engine with
                the weights as they are.
            revision: branch, tag or commit on the hub.
            max_seq_length: most tokens of a text, at most what the model allows; None takes the
                model's own.
            truncate_dim: keep only the leading components, 1 to the hidden size, for models trained
                for it.
            pooling: "cls" or "mean", for a folder that does not say; it may not contradict one that
                does.
            normalize: whether vectors get length 1; None follows modules.json (no modules.json:
                they do not).
            prompts: prompts by name, instead of the folder's.
            threads: threads of the engine; None takes the CPUs this process may use.
            isa: force an instruction set; None takes the best.
            local_files_only: never use the network.
            token: access token of the hub.

        Returns:
            The embedder.

        Raises:
            ModelNotFoundError: no such folder or hub model.
            ModelError: the folder is broken, not supported, or does not say how to pool; see the
                subclasses.
            InputError: an argument is outside its rule.
            InstructionSetError: isa is unknown or not available here.
        """
        if precision not in ("int8", "float32"):
            raise InputError(f"precision must be 'int8' or 'float32': got {precision!r}")
        if pooling is not None and pooling not in POOLINGS:
            raise InputError(f"pooling must be one of {', '.join(POOLINGS)}: got {pooling!r}")
        folder = ModelFolder.open(
            name_or_path,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
        )
        spec = encoder_spec(
            folder.config,
            pooling=_agreed_pooling(folder, pooling),
            normalize=folder.normalize if normalize is None else normalize,
        )
        if truncate_dim is not None:
            _check_range("truncate_dim", truncate_dim, spec.hidden_size)
        if max_seq_length is not None:
            _check_range("max_seq_length", max_seq_length, spec.max_positions)
        length = max_seq_length or folder.max_seq_length
        tokenizer = Tokenizer.from_folder(
            folder.transformer, max_length=length, lowercase=folder.lowercase
        )
        tokenizer.require_vocabulary(spec.vocab_size)
        # The engine never normalises here: encode(normalize=False) and truncate_dim need the plain
        # vectors.
        engine = Engine(
            replace(spec, normalize=False),
            encoder_weights(spec, folder.tensors()),
            precision=precision,
            threads=threads,
            isa=isa,
        )
        return cls(
            folder,
            spec,
            engine,
            tokenizer,
            precision=precision,
            prompts=folder.prompts if prompts is None else _checked_prompts(prompts),
            truncate_dim=truncate_dim,
        )

    @property
    def dimension(self) -> int:
        """D, the components of a vector."""
        return self.truncate_dim or self.spec.hidden_size

    @property
    def isa(self) -> str:
        """The instruction set the engine runs."""
        return self._engine.isa

    @property
    def threads(self) -> int:
        """The threads the engine runs."""
        return self._engine.threads

    @property
    def document_prompt(self) -> str:
        """What `encode_document` puts before a text: prompt "document", else "passage", else ""."""
        return self.prompts.get("document", self.prompts.get("passage", ""))

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vectors:
        """Turn texts into vectors, in the order of the texts.

        Formula:
            v = pool(encoder(prompt + text))[:truncate_dim], then v / |v| if normalize; then
            `output`, see `quaver.vectors.convert`

        Args:
            texts: one text or many; the empty text is valid, an empty list too.
            prompt_name: a name in `prompts`; None takes the model's default prompt, if it has one.
            prompt: a text to put before every text, instead of a named one; "" for none.
            normalize: overrides the model's own.
            truncate_dim: overrides the model's own; 1 to the hidden size.
            output: "float32", "int8" (unit vectors times 127, rounded) or "binary" (packed signs).
            max_batch_tokens: most tokens in one native call; bounds the memory, changes no vector.
            show_progress_bar: a bar on stderr.

        Returns:
            A str gives (D,), many give (N, D), none (0, D); float32 or int8, C-contiguous. binary:
            uint8 of ceil(D / 8).

        Raises:
            InputError: an argument or a text is outside its rule; the position of the text is
                named.
        """
        return self.encode_with_report(
            texts,
            prompt_name=prompt_name,
            prompt=prompt,
            normalize=normalize,
            truncate_dim=truncate_dim,
            output=output,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        ).vectors

    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vectors:
        """Turn queries into vectors: `encode` with the prompt "query", none if there is none."""
        return self.encode(
            texts,
            prompt=self.prompts.get("query", ""),
            normalize=normalize,
            truncate_dim=truncate_dim,
            output=output,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        )

    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vectors:
        """Turn documents into vectors: `encode` with `document_prompt`."""
        return self.encode(
            texts,
            prompt=self.document_prompt,
            normalize=normalize,
            truncate_dim=truncate_dim,
            output=output,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        )

    def encode_with_report(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> EncodeReport:
        """Do what `encode` does, with its arguments and errors, and count tokens and cut texts."""
        if truncate_dim is not None:
            _check_range("truncate_dim", truncate_dim, self.spec.hidden_size)
        _check_range("max_batch_tokens", max_batch_tokens, sys.maxsize)
        start = self._prompt(prompt_name, prompt)
        items = [texts] if isinstance(texts, str) else _text_list(texts)
        unique = {text: row for row, text in enumerate(dict.fromkeys(items))}
        pooled, tokens, truncated = self._pooled(
            [start + text for text in unique], max_batch_tokens, bool(show_progress_bar)
        )
        vectors = convert(
            pooled[:, : truncate_dim or self.truncate_dim],
            normalize=self.normalize if normalize is None else normalize,
            output=output,
        )
        if isinstance(texts, str):
            vectors = vectors[0]
        elif len(unique) < len(items):
            vectors = vectors[[unique[text] for text in items]]
        return EncodeReport(vectors, tokens, truncated)

    def similarity(self, a: Vectors, b: Vectors) -> NDArray[np.float32]:
        """Compare vectors by cosine, or by dot product if the model folder says so.

        See `quaver.vectors.similarity` for shapes and errors.
        """
        return similarity(a, b, metric=self._metric)

    def _prompt(self, prompt_name: str | None, prompt: str | None) -> str:
        if prompt is not None and prompt_name is not None:
            raise InputError(f"give prompt or prompt_name: got {prompt!r} and {prompt_name!r}")
        if prompt is not None:
            if not isinstance(prompt, str):
                raise InputError(f"prompt must be a str: got {type(prompt).__name__}")
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            have = ", ".join(map(repr, self.prompts)) or "none"
            raise InputError(f"no prompt is named {name!r}: {self.name} has {have}")
        return self.prompts[name]

    def _pooled(
        self, texts: list[str], max_batch_tokens: int, show: bool
    ) -> tuple[NDArray[np.float32], int, int]:
        """Run texts through the engine; float32 (N, H), tokens, truncated texts.

        Why not sorted by length: the engine pads nothing, so a batch costs its tokens in any order.
        """
        from tqdm import tqdm

        vectors = np.empty((len(texts), self.spec.hidden_size), np.float32)
        tokens = truncated = 0
        hidden = not show or sys.stderr is None
        with tqdm(total=len(texts), unit="text", file=sys.stderr, disable=hidden) as bar:
            for first in range(0, len(texts), _TEXTS_AT_ONCE):
                tokenized = self.tokenizer.encode(texts[first : first + _TEXTS_AT_ONCE])
                tokens += tokenized.tokens
                truncated += tokenized.truncated
                for begin, batch in tokenized.split(max_batch_tokens):
                    row = first + begin
                    vectors[row : row + len(batch)] = self._engine.encode(batch)
                    bar.update(len(batch))
        return vectors, tokens, truncated


def _agreed_pooling(folder: ModelFolder, pooling: str | None) -> str | None:
    if folder.pooling is not None and pooling is not None and folder.pooling != pooling:
        raise PoolingError(
            f"{folder.name} was trained with {folder.pooling} pooling (modules.json): got "
            f"pooling={pooling!r}, which gives "
            "useless vectors; leave the argument out"
        )
    return folder.pooling or pooling


def _check_range(name: str, value: int, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise InputError(f"{name} must be a whole number from 1 to {largest}: got {value!r}")


def _checked_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    for name, text in prompts.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(f"prompts must map names to texts: got {name!r}: {text!r}")
    return dict(prompts)


def _text_list(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, (bytes, bytearray, Mapping)) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be a str or a list of str: got {type(texts).__name__}")
    items = list(texts)
    for i, text in enumerate(items):
        if not isinstance(text, str):
            raise InputError(
                f"every text must be a str: texts[{i}] is {type(text).__name__}; decode or drop it"
            )
    return items
