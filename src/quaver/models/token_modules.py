"""Folders of models that give more than one vector: sparse encoders and multi-vector models.

A sparse encoder weighs the words of the vocabulary; a multi-vector model (ColBERT) has a vector for
each token. sentence-transformers 6, PyLate and Stanford's ColBERT write such folders.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.files import (
    ColbertMetadataFile,
    ExpansionFile,
    ModuleEntry,
    ModuleFile,
    RouterFile,
    SentenceBertFile,
    SentenceTransformersFile,
    read_checked,
)

Kind = Literal["sparse", "multi-vector"]
ModelKind = Literal["embedder", "cross-encoder", "sparse", "multi-vector"]
"""What a folder holds."""

OPENS: Mapping[ModelKind, str] = {
    "embedder": "Embedder",
    "cross-encoder": "CrossEncoder",
    "sparse": "SparseEncoder",
    "multi-vector": "MultiVectorEncoder",
}
"""The class that opens each kind of folder."""
KIND_NAMES: Mapping[ModelKind, str] = {
    "embedder": "an embedding model",
    "cross-encoder": "a cross-encoder",
    "sparse": "a sparse encoder",
    "multi-vector": "a multi-vector model",
}
"""Each kind in words."""

_TYPES: Mapping[str, Kind] = {
    "SparseEncoder": "sparse",
    "MultiVectorEncoder": "multi-vector",
    "ColBERT": "multi-vector",
}
_MODULES: Mapping[str, Kind] = {
    "MLMTransformer": "sparse",
    "SpladePooling": "sparse",
    "SparseAutoEncoder": "sparse",
    "SparseStaticEmbedding": "sparse",
    "MultiVectorMask": "multi-vector",
    "TokenPooling": "multi-vector",
    "HierarchicalTokenPooling": "multi-vector",
}
_STANFORD = "HF_ColBERT"
_ROUTER = "router_config.json"
_MOST_WORDS = 4096


@dataclass(frozen=True)
class SparseModules:
    """How a sparse encoder weighs words.

    Attributes:
        transformer: the folder of the masked language model.
        pooling: "max" or "sum" over a text's tokens.
        logarithms: 1 or 2, see `WordHead`.
        query: the folder of the table that weighs the words of queries; None where queries go
            through the model, as documents do.
        folders: of all modules, those inside a Router too.
    """

    transformer: Path
    pooling: Literal["max", "sum"] = "max"
    logarithms: int = 1
    query: Path | None = None
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class QueryExpansion:
    """Mask tokens that make a query longer.

    Attributes:
        length: the least number of tokens in a query.
        cuts: whether longer queries are cut to it.
        attend: whether other tokens attend to the mask tokens.
        token: the token; None for the tokenizer's mask token.
    """

    length: int
    cuts: bool
    attend: bool
    token: str | None = None


@dataclass(frozen=True)
class MultiVectorModules:
    """How a multi-vector model makes and keeps the vectors of tokens.

    Attributes:
        transformer: the folder of the encoder.
        projections: the modules that run on each token, with their folders.
        prefixes: tokens that go before a text, by "query" and "document"; words of the vocabulary.
        query_length: maximum number of tokens in a query; None for the model's.
        document_length: the same of a document.
        expansion: mask tokens of queries, or None.
        skipped: tokens that get no vector, in texts of the kinds `skips`.
        skips: "query", "document" or both.
        normalize: whether vectors have length 1.
        pool_factor: one of so many vectors of a document stays after pooling; 1 for all.
        protected: its first vectors, which are not pooled.
        normalize_pooled: whether pooled vectors get length 1 again.
        mean: whether a score is divided by the number of the query's vectors.
        inline: whether the projection is in the encoder's own file, as `linear.weight`.
    """

    transformer: Path
    projections: tuple[tuple[str, Path], ...] = ()
    prefixes: tuple[tuple[str, str], ...] = ()
    query_length: int | None = None
    document_length: int | None = None
    expansion: QueryExpansion | None = None
    skipped: tuple[str, ...] = ()
    skips: tuple[str, ...] = ("document",)
    normalize: bool = True
    pool_factor: float = 1.0
    protected: int = 1
    normalize_pooled: bool = False
    mean: bool = False
    inline: bool = False

    def prefix(self, side: str) -> str:
        """Return the token before queries or documents, or ""."""
        return dict(self.prefixes).get(side, "")


def kind_of(
    path: Path,
    listed: Sequence[ModuleEntry] | None,
    settings: SentenceTransformersFile,
    architectures: Sequence[str],
) -> Kind | None:
    """Tell a sparse encoder and a multi-vector model from other folders.

    Args:
        path: the folder.
        listed: modules.json, or None.
        settings: config_sentence_transformers.json.
        architectures: of config.json.

    Returns:
        the kind; None for embedding models, cross-encoders and plain encoders.
    """
    stated = _TYPES.get(settings.model_type or "")
    if stated is not None:
        return stated
    for entry in _with_routes(path, listed or ()):
        if entry.type.startswith("pylate."):
            return "multi-vector"
        kind = _MODULES.get(_class(entry))
        if kind is not None:
            return kind
    return "multi-vector" if listed is None and _STANFORD in architectures else None


def require_kind(
    name: str, kind: Kind | None, wanted: Kind | None, opens: str, architectures: Sequence[str]
) -> None:
    """Check that a folder is of the kind that a class opens.

    Args:
        name: the model's name.
        kind: what the folder is.
        wanted: what the class opens.
        opens: the class that opens folders of neither kind: "Embedder" or "CrossEncoder".
        architectures: of config.json.

    Raises:
        UnsupportedArchitectureError: it is another; the class that opens it is named.
    """
    if kind == wanted:
        return
    if kind is not None:
        raise UnsupportedArchitectureError(
            f"{name} is {KIND_NAMES[kind]}; open it with {OPENS[kind]}.from_pretrained(...)"
        )
    assert wanted is not None
    listed = f" (architectures: {', '.join(architectures)})" if architectures else ""
    raise UnsupportedArchitectureError(
        f"{name} is not {KIND_NAMES[wanted]}{listed}; open it with {opens}.from_pretrained(...)"
    )


def sparse_modules(path: Path, name: str, listed: Sequence[ModuleEntry] | None) -> SparseModules:
    """Read the modules of a sparse encoder.

    Args:
        path: the folder.
        name: the model's name.
        listed: modules.json; None for the folder of a masked language model, which
            sentence-transformers opens with the largest value of each word.

    Raises:
        UnsupportedArchitectureError: a module or an option is not supported.
        ModelFolderError: a file is missing or contradicts another.
    """
    if listed is None:
        return SparseModules(path)
    chain, query = list(listed), None
    if [_class(entry) for entry in listed] == ["Router"]:
        chain, query = _routed(path / listed[0].path, name)
        path = path / listed[0].path
    kinds = [_class(entry) for entry in chain]
    if (
        len(kinds) != 2
        or kinds[0] not in ("Transformer", "MLMTransformer")
        or kinds[1] != "SpladePooling"
    ):
        raise UnsupportedArchitectureError(
            f"modules.json of {name} lists {', '.join(kinds) or 'nothing'}; sparse encoders are supported "
            "with a masked language model (Transformer or MLMTransformer), then SpladePooling"
        )
    where = path / chain[1].path / "config.json"
    read = read_checked(ModuleFile, where) or ModuleFile()
    pooling, activation = read.pooling_strategy or "max", read.activation_function or "relu"
    if pooling not in ("max", "sum") or activation not in ("relu", "log1p_relu"):
        raise UnsupportedArchitectureError(
            f"{where} has pooling_strategy={pooling!r} and activation_function={activation!r}; supported "
            "are 'max' and 'sum', and 'relu' and 'log1p_relu'"
        )
    folders = [path / entry.path for entry in chain]
    return SparseModules(
        folders[0],
        "sum" if pooling == "sum" else "max",
        2 if activation == "log1p_relu" else 1,
        query,
        (*folders, *([] if query is None else [query])),
    )


def _routed(path: Path, name: str) -> tuple[list[ModuleEntry], Path | None]:
    """Read a Router: the modules of documents, and the table of queries."""
    router = read_checked(RouterFile, path / _ROUTER) or read_checked(
        RouterFile, path / "config.json"
    )
    if router is None or not router.types or not router.structure:
        raise ModelFolderError(
            f"modules.json of {name} names a Router, but {path / _ROUTER} does not list its modules"
        )
    for side in ("query", "document"):
        if not router.structure.get(side):
            raise ModelFolderError(
                f"{path / _ROUTER} must have modules for queries and for documents: it has none for "
                f"{side!r}"
            )
    routes = {}
    for side in ("query", "document"):
        names = router.structure[side]
        unknown = [key for key in names if key not in router.types]
        if unknown:
            raise ModelFolderError(f"{path / _ROUTER} must have a type for {unknown[0]!r}")
        routes[side] = [
            ModuleEntry(type=router.types[key], path=checked_path(key, path)) for key in names
        ]
    if router.structure["query"] == router.structure["document"]:
        return routes["document"], None
    kinds = [_class(entry) for entry in routes["query"]]
    if kinds != ["SparseStaticEmbedding"]:
        raise UnsupportedArchitectureError(
            f"{path / _ROUTER} lists {', '.join(kinds)} for queries; supported are SparseStaticEmbedding "
            "and the modules of documents"
        )
    return routes["document"], path / routes["query"][0].path


def multi_vector_modules(
    path: Path,
    name: str,
    listed: Sequence[ModuleEntry] | None,
    settings: SentenceTransformersFile,
) -> MultiVectorModules:
    """Read the modules and settings of a multi-vector model.

    Args:
        path: the folder.
        name: the model's name.
        listed: modules.json; None for a folder of Stanford's ColBERT.
        settings: config_sentence_transformers.json.

    Raises:
        UnsupportedArchitectureError: a module or an option is not supported.
        ModelFolderError: a file is missing or contradicts another.
    """
    if listed is None:
        return _stanford(path)
    kinds = [_class(entry) for entry in listed]
    known = {"Dense", "MultiVectorMask", "Normalize", "HierarchicalTokenPooling"}
    if kinds[:1] != ["Transformer"] or set(kinds[1:]) - known:
        raise UnsupportedArchitectureError(
            f"modules.json of {name} lists {', '.join(kinds) or 'nothing'}; multi-vector models are "
            f"supported with Transformer, then any of {', '.join(sorted(known))}"
        )
    if "HierarchicalTokenPooling" in kinds[:-1] or kinds.count("Normalize") > 1:
        raise UnsupportedArchitectureError(
            f"modules.json of {name} lists {', '.join(kinds)}; supported are one Normalize, and "
            "HierarchicalTokenPooling as the last module"
        )
    places = [path / entry.path for entry in listed]
    dense = tuple(place for kind, place in zip(kinds, places, strict=True) if kind == "Dense")
    if "Normalize" in kinds and "Dense" in kinds[kinds.index("Normalize") :]:
        raise UnsupportedArchitectureError(
            f"modules.json of {name} lists {', '.join(kinds)}; supported is Normalize behind Dense"
        )
    pylate = settings.model_type == "ColBERT" or any(e.type.startswith("pylate.") for e in listed)
    text = read_checked(SentenceBertFile, places[0] / "sentence_bert_config.json")
    text = text or SentenceBertFile()
    expansion = _expansion(text.query_expansion, f"{places[0]}/sentence_bert_config.json")
    query_length, document_length = text.query_length, text.document_length
    skipped: Sequence[str] = string.punctuation if pylate else ()
    prefixes: dict[str, str] = {}
    marked = (
        settings.query_prefix,
        settings.document_prefix,
        settings.query_length,
        settings.document_length,
        settings.do_query_expansion,
        settings.attend_to_expansion_tokens,
        settings.skiplist_words,
    )
    if any(value is not None for value in marked):  # PyLate's
        document_length = document_length or settings.document_length
        if settings.do_query_expansion is not False and expansion is None:
            attend = bool(settings.attend_to_expansion_tokens)
            expansion = QueryExpansion(settings.query_length or 32, True, attend)
        elif expansion is None:
            query_length = query_length or settings.query_length
        if settings.skiplist_words is not None:
            skipped = settings.skiplist_words
        prefixes = {
            "query": settings.query_prefix or "",
            "document": settings.document_prefix or "",
        }
    skips: Sequence[str] = ("document",)
    pooling = ModuleFile()
    for kind, place in zip(kinds, places, strict=True):
        read = read_checked(ModuleFile, place / "config.json") or ModuleFile()
        if kind == "MultiVectorMask":
            if read.keep_only_token_ids:
                raise UnsupportedArchitectureError(
                    f"{place / 'config.json'} has keep_only_token_ids, for models of images; supported "
                    "are models of texts"
                )
            skipped = read.skiplist_words or ()
            skips = read.skiplist_tasks or ("document",)
            skips = (skips,) if isinstance(skips, str) else skips
        elif kind == "HierarchicalTokenPooling":
            pooling = read
            if read.tasks not in (None, ["document"], "document"):
                raise UnsupportedArchitectureError(
                    f"{place / 'config.json'} pools {read.tasks!r}; supported is ['document']"
                )
        elif kind in ("Dense", "Normalize") and not pylate:
            wanted = "token_embeddings"
            if (read.module_input_name or wanted) != wanted or read.module_output_name not in (
                None,
                wanted,
            ):
                raise UnsupportedArchitectureError(
                    f"{place / 'config.json'} says module_input_name={read.module_input_name!r}; "
                    f"supported is {wanted!r}"
                )
    if len(skipped) > _MOST_WORDS:
        raise ModelFolderError(f"{name} may skip at most {_MOST_WORDS} tokens: got {len(skipped)}")
    return MultiVectorModules(
        transformer=places[0],
        projections=tuple(("Dense", place) for place in dense),
        prefixes=tuple((side, prefix) for side, prefix in prefixes.items() if prefix),
        query_length=query_length,
        document_length=document_length,
        expansion=expansion,
        skipped=tuple(skipped),
        skips=tuple(skips),
        normalize=pylate or "Normalize" in kinds,
        pool_factor=pooling.pool_factor or 1.0,
        protected=1 if pooling.num_protected_tokens is None else pooling.num_protected_tokens,
        normalize_pooled=bool(pooling.normalize_embeddings),
        mean=settings.similarity_fn_name == "meanmaxsim",
    )


def _stanford(path: Path) -> MultiVectorModules:
    """Read artifact.metadata of Stanford's ColBERT; its defaults are those of the library."""
    read = read_checked(ColbertMetadataFile, path / "artifact.metadata") or ColbertMetadataFile()
    expansion = QueryExpansion(read.query_maxlen or 32, True, bool(read.attend_to_mask_tokens))
    return MultiVectorModules(
        transformer=path,
        prefixes=(
            ("query", read.query_token_id or "[unused0]"),
            ("document", read.doc_token_id or "[unused1]"),
        ),
        document_length=read.doc_maxlen,
        expansion=expansion,
        skipped=() if read.mask_punctuation is False else tuple(string.punctuation),
        inline=True,
    )


def _expansion(read: ExpansionFile | None, where: str) -> QueryExpansion | None:
    if read is None:
        return None
    if read.strategy not in ("fixed", "min") or read.length is None:
        raise UnsupportedArchitectureError(
            f"{where} has a query_expansion of strategy {read.strategy!r} and length {read.length!r}; "
            "supported are 'fixed' and 'min' with a length"
        )
    return QueryExpansion(read.length, read.strategy == "fixed", bool(read.attend), read.token)


def _with_routes(path: Path, listed: Sequence[ModuleEntry]) -> list[ModuleEntry]:
    """Return the modules, those inside a Router too."""
    found = list(listed)
    for entry in listed:
        if _class(entry) == "Router":
            router = read_checked(RouterFile, path / entry.path / _ROUTER) or RouterFile()
            found += [ModuleEntry(type=kind, path="") for kind in (router.types or {}).values()]
    return found


def checked_path(inner: str, path: Path) -> str:
    """Check that a module's path stays inside its model's folder, and return it.

    Raises:
        ModelFolderError: it leaves the folder.
    """
    parts = PurePosixPath(inner)
    if parts.is_absolute() or ".." in parts.parts or "\0" in inner:
        raise ModelFolderError(f"{path} must name folders inside the model's: got {inner!r}")
    return inner


def _class(entry: ModuleEntry) -> str:
    return entry.type.rpartition(".")[2]
