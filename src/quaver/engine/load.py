"""Loading a model: from its name to folder, spec, tokenizer and engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from quaver.engine.engine import Engine
from quaver.engine.footprint import layer_bytes, packed_bytes, table_bytes
from quaver.engine.native_model import PRECISIONS, Precision
from quaver.engine.static import StaticEngine
from quaver.engine.tasks import TaskEngine
from quaver.engine.threads import choose_threads
from quaver.engine.word_pieces import word_pieces
from quaver.errors import (
    InputError,
    ModelFolderError,
    PoolingError,
    UnsupportedArchitectureError,
    check_range,
)
from quaver.models import (
    MAX_TOKENS,
    POOLINGS,
    EncoderSpec,
    EncoderWeights,
    LinearWeights,
    ModelFolder,
    StaticSpec,
    TokenHeads,
    Tokenizer,
    WordTable,
    cross_encoder_spec,
    encoder_weights,
    is_quantized,
    model_tensors,
    module_steps,
    multi_vector_spec,
    query_prompt,
    sparse_spec,
    static_model,
    static_tokenizer,
    token_heads,
    tokenizer_bytes,
    wide_features,
    word_table,
)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, its parts checked against each other.

    Attributes:
        folder: what the model folder says.
        spec: the model as data; `normalize` as the folder or the caller says.
        tokenizer: cuts at the requested length.
        engine: pools and never normalizes, whatever `spec` says: truncated and plain vectors need
            the values before that.
        options: the arguments besides the name that load the model again in another process; the
            hub's token, a secret, is left out.
        heads: what reads each token besides; None for most models.
    """

    folder: ModelFolder
    spec: EncoderSpec | StaticSpec
    tokenizer: Tokenizer
    engine: Engine | StaticEngine | TaskEngine
    options: Mapping[str, Any]
    heads: TokenHeads | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class LoadedSparse(LoadedModel):
    """A sparse encoder ready to run.

    Attributes:
        queries: what weighs the words of queries; None where they go through the engine.
    """

    spec: EncoderSpec
    engine: Engine
    queries: WordTable | None


@dataclass(frozen=True)
class LoadedMultiVector(LoadedModel):
    """A multi-vector model ready to run; its engine normalizes, as `spec` says."""

    spec: EncoderSpec
    engine: Engine


def load_model(
    name_or_path: str | Path,
    *,
    precision: Precision = "int8",
    revision: str | None = None,
    max_seq_length: int | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    threads: int | None = None,
    isa: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    task: str | None = None,
    is_causal: bool | None = None,
) -> LoadedModel:
    """Load a model; arguments and errors are those of `Embedder.from_pretrained`."""
    if pooling is not None:
        check_pooling(pooling)
    options = {
        "precision": precision,
        "revision": revision,
        "max_seq_length": max_seq_length,
        "pooling": pooling,
        "normalize": normalize,
        "threads": threads,
        "isa": isa,
        "local_files_only": local_files_only,
        "task": task,
        "is_causal": is_causal,
    }
    folder = _opened(name_or_path, options, token, "sentence-transformers")
    _require_embedder(folder)
    if folder.static:
        return _load_static(folder, options)
    spec = _embedder_spec(folder, pooling, normalize)
    heads = token_heads(folder, spec)
    tokenizer, engine = _parts(
        folder, spec, options, token_head=None if heads is None else heads.linear
    )
    loaded = LoadedModel(folder, spec, tokenizer, engine, options, heads=heads)
    if folder.queries is None:
        return loaded
    return replace(loaded, engine=_task_engine(folder.queries, loaded, engine))


def _embedder_spec(
    folder: ModelFolder, pooling: str | None, normalize: bool | None = None
) -> EncoderSpec:
    spec = folder.encoder_spec(pooling=agreed_pooling(folder, pooling), normalize=normalize)
    return replace(spec, head=module_steps(folder.modules, spec.pooled_size))


def _task_engine(queries: ModelFolder, loaded: LoadedModel, documents: Engine) -> TaskEngine:
    """Join the engine of documents and that of queries, which is loaded with the first query."""
    tokenizer, prompt = loaded.tokenizer, query_prompt(queries.prompts).rstrip()
    ids = tokenizer.locate(prompt).ids.tolist()
    if not ids:
        raise ModelFolderError(
            f"{queries.name} has an adapter for queries and one for documents, so it must have a prompt of "
            "queries that tells them apart: task_instructions of config.json has none for retrieval.query; "
            "open it twice, with task='retrieval.query' and with task='retrieval.passage'"
        )
    spec = documents.spec
    options = loaded.options

    def load() -> Engine:
        return _engine(queries, spec, options, normalize=spec.normalize)

    return TaskEngine(documents, load, [*tokenizer.special_ids()[0], *ids])


def _load_static(folder: ModelFolder, options: Mapping[str, Any]) -> LoadedModel:
    if options["isa"] is not None:
        raise InputError(
            f"{folder.name} is a static model, a table that no kernel runs: got "
            f"isa={options['isa']!r}; leave it out"
        )
    choose_threads(options["threads"])  # refuses what is no number of threads
    length = options["max_seq_length"]
    if length is not None:
        check_range("max_seq_length", length, MAX_TOKENS)
    spec, weights = static_model(folder, pooling=options["pooling"], normalize=options["normalize"])
    tokenizer = static_tokenizer(folder, spec, length, word_pieces)
    return LoadedModel(folder, spec, tokenizer, StaticEngine(spec, weights), options)


def load_classifier(
    name_or_path: str | Path,
    *,
    precision: Precision = "int8",
    revision: str | None = None,
    max_seq_length: int | None = None,
    threads: int | None = None,
    isa: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> LoadedModel:
    """Load a model with a classification head, as `CrossEncoder.from_pretrained` says."""
    options = {
        "precision": precision,
        "revision": revision,
        "max_seq_length": max_seq_length,
        "threads": threads,
        "isa": isa,
        "local_files_only": local_files_only,
    }
    folder = _opened(name_or_path, options, token, "cross-encoder")
    _require_classifier(folder)
    spec = cross_encoder_spec(folder)
    return LoadedModel(folder, spec, *_parts(folder, spec, options), options)


def load_sparse(
    name_or_path: str | Path,
    *,
    precision: Precision = "int8",
    revision: str | None = None,
    max_seq_length: int | None = None,
    threads: int | None = None,
    isa: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> LoadedSparse:
    """Load a sparse encoder, as `SparseEncoder.from_pretrained` says."""
    options = {
        "precision": precision,
        "revision": revision,
        "max_seq_length": max_seq_length,
        "threads": threads,
        "isa": isa,
        "local_files_only": local_files_only,
    }
    folder = _opened(name_or_path, options, token, "sparse-encoder", "sparse")
    assert folder.sparse is not None
    if folder.similarity not in ("dot", "cosine"):
        raise UnsupportedArchitectureError(
            f"{folder.name} compares by {folder.similarity!r}; sparse encoders are supported with 'dot' "
            "and 'cosine'"
        )
    spec = sparse_spec(folder)
    tokenizer, engine = _parts(folder, spec, options)
    queries = (
        None
        if folder.sparse.query is None
        else word_table(folder, folder.sparse.query, word_pieces)
    )
    if queries is not None and len(queries.weights) != spec.vocab_size:
        raise ModelFolderError(
            f"queries and documents of {folder.name} must have the same vocabulary: "
            f"{folder.sparse.query} weighs {len(queries.weights)} words, the model {spec.vocab_size}"
        )
    return LoadedSparse(folder, spec, tokenizer, engine, options, queries)


def load_multi_vector(
    name_or_path: str | Path,
    *,
    precision: Precision = "int8",
    revision: str | None = None,
    max_seq_length: int | None = None,
    threads: int | None = None,
    isa: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> LoadedMultiVector:
    """Load a multi-vector model, as `MultiVectorEncoder.from_pretrained` says."""
    options = {
        "precision": precision,
        "revision": revision,
        "max_seq_length": max_seq_length,
        "threads": threads,
        "isa": isa,
        "local_files_only": local_files_only,
    }
    folder = _opened(name_or_path, options, token, "lightonai", "multi-vector")
    spec = multi_vector_spec(folder)
    tokenizer, engine = _parts(folder, spec, options, normalize=spec.normalize)
    return LoadedMultiVector(folder, spec, tokenizer, engine, options)


def bytes_of_folder(
    folder: ModelFolder,
    *,
    precision: Precision = "int8",
    max_seq_length: int | None = None,
    pooling: str | None = None,
) -> int:
    """Estimate the bytes that a model will hold once it is loaded, without packing it.

    Args:
        folder: the opened folder of any kind of model.
        precision: as of `Embedder.from_pretrained`; so are the others.
        max_seq_length: maximum number of tokens in a text.
        pooling: for a folder that does not say.

    Returns:
        what `nbytes` of the loaded model will be, within a few percent.

    Raises:
        ModelError: the model cannot be loaded; see the subclasses.
    """
    if folder.static:
        spec, weights = static_model(folder, pooling=pooling, normalize=None)
        words = tokenizer_bytes(folder.transformer, spec.vocab_size)
        return StaticEngine(spec, weights).nbytes + words
    encoder = _spec_of(folder, pooling)
    length = max_seq_length or encoder.length_within(folder.max_seq_length)
    encoder = _with_short_tables(encoder, length)
    read, kept = _weights_as_stored(folder, encoder, precision)
    total = layer_bytes(encoder, read, kept) + table_bytes(encoder, read, kept)
    if folder.queries is not None:
        total *= 2
    total += tokenizer_bytes(folder.transformer, encoder.vocab_size)
    if folder.kind == "embedder" and (heads := token_heads(folder, encoder)) is not None:
        # Beside the heads, the vector goes through the same layer as it is.
        size = encoder.pooled_size
        total += packed_bytes(size + len(heads.linear.bias), size, "float32")
    if folder.sparse is not None and folder.sparse.query is not None:
        total += 4 * encoder.vocab_size
        total += tokenizer_bytes(folder.sparse.query, encoder.vocab_size)
    return total


def _spec_of(folder: ModelFolder, pooling: str | None) -> EncoderSpec:
    if folder.kind == "sparse":
        return sparse_spec(folder)
    if folder.kind == "multi-vector":
        return multi_vector_spec(folder)
    if folder.kind == "cross-encoder":
        return cross_encoder_spec(folder)
    return _embedder_spec(folder, pooling)


def check_loaded(name: str, model: object, kind: type) -> None:
    """Check that a constructor received a loaded model.

    Args:
        name: the class's name.
        model: the argument to check.
        kind: what it wraps.

    Raises:
        InputError: it is something else, such as a name or a folder.
    """
    if not isinstance(model, kind):
        given = f"{str(model)!r}" if isinstance(model, (str, PurePath)) else "name_or_path"
        raise InputError(
            f"{name}(...) wraps a model that is loaded: got {type(model).__name__}; load one with "
            f"{name}.from_pretrained({given})"
        )


def check_reopened(kind: str, name: str, source: str, found: str, expected: str) -> None:
    """Check that a pickled model has been loaded from the files that it was made with.

    Args:
        kind: what the model is, in words.
        name: the class's name.
        source: what the model was loaded from.
        found: its fingerprint here.
        expected: its fingerprint where it was pickled.

    Raises:
        ModelFolderError: the fingerprints differ.
    """
    if found != expected:
        raise ModelFolderError(
            f"a pickled {kind} needs the files that it was made with: {source} has others here; "
            f"load the model where it is used, with {name}.from_pretrained(...)"
        )


def check_pooling(pooling: str) -> None:
    """Check the name of a pooling.

    Args:
        pooling: one of `quaver.models.POOLINGS`, or several joined by "+".

    Raises:
        InputError: there is no such pooling, or one is named twice.
    """
    kinds = str(pooling).split("+")
    if not set(kinds) <= set(POOLINGS) or len(set(kinds)) < len(kinds):
        raise InputError(
            f"pooling must be one of {', '.join(POOLINGS)}, or several joined by +: got {pooling!r}"
        )


def agreed_pooling(folder: ModelFolder, pooling: str | None) -> str | None:
    """Return the pooling of a folder, or the caller's if the folder does not say.

    Args:
        folder: the model folder.
        pooling: from the caller, or None.

    Raises:
        PoolingError: both say something, and not the same.
    """
    if folder.pooling is not None and pooling is not None and folder.pooling != pooling:
        raise PoolingError(
            f"{folder.name} was trained with {folder.pooling} pooling (modules.json): got "
            f"pooling={pooling!r}, which makes useless vectors; leave it out"
        )
    return folder.pooling or pooling


def _require_embedder(folder: ModelFolder) -> None:
    """Refuse a cross-encoder: it was never trained to produce vectors."""
    if folder.scores:
        raise UnsupportedArchitectureError(
            f"{folder.name} is a cross-encoder: its modules.json ends with scores; open it with "
            "CrossEncoder.from_pretrained(...), which scores pairs of texts"
        )
    if folder.is_cross_encoder:
        raise UnsupportedArchitectureError(
            f"{folder.name} is a cross-encoder: config.json lists "
            f"{', '.join(folder.architectures)} and no modules.json says how to pool; open it with "
            "CrossEncoder.from_pretrained(...), which scores pairs of texts"
        )


def _require_classifier(folder: ModelFolder) -> None:
    if folder.static:
        raise UnsupportedArchitectureError(
            f"{folder.name} is a static embedding model; open it with Embedder.from_pretrained(...), "
            "and rank with BiEncoderRanker(embedder)"
        )
    if folder.pooling is not None and not folder.is_cross_encoder:
        raise UnsupportedArchitectureError(
            f"{folder.name} is an embedding model: its modules.json names a Pooling module; open it "
            "with Embedder.from_pretrained(...), and rank with BiEncoderRanker(embedder)"
        )


def _opened(
    name_or_path: str | Path,
    options: Mapping[str, Any],
    token: str | bool | None,
    organization: str,
    kind: Literal["sparse", "multi-vector"] | None = None,
) -> ModelFolder:
    """Check the precision and open a folder, or a hub id, to which an organization may be added."""
    _check_precision(options["precision"])
    return ModelFolder.open(
        name_or_path,
        revision=options["revision"],
        local_files_only=options["local_files_only"],
        token=token,
        organizations=(organization,),
        kind=kind,
        task=options.get("task"),
        is_causal=options.get("is_causal"),
    )


def _check_precision(precision: object) -> None:
    if precision not in PRECISIONS:
        *names, last = map(repr, PRECISIONS)
        raise InputError(f"precision must be {', '.join(names)} or {last}: got {precision!r}")


def _parts(
    folder: ModelFolder,
    spec: EncoderSpec,
    options: Mapping[str, Any],
    *,
    normalize: bool = False,
    token_head: LinearWeights | None = None,
) -> tuple[Tokenizer, Engine]:
    max_seq_length = options["max_seq_length"]
    if max_seq_length is not None:
        check_range("max_seq_length", max_seq_length, spec.max_length)
    length = spec.length_within(folder.max_seq_length)
    try:
        tokenizer = folder.tokenizer(max_seq_length or length, pooling=spec.pooling)
    except InputError as error:
        if max_seq_length is not None:
            raise
        raise ModelFolderError(
            f"{folder.name} says that a text may have {length} tokens (config.json, "
            f"sentence_bert_config.json, tokenizer_config.json), too few for its tokenizer: {error}"
        ) from error
    tokenizer.require_vocabulary(spec.vocab_size)
    spec = _with_short_tables(spec, tokenizer.max_length)
    return tokenizer, _engine(folder, spec, options, normalize=normalize, token_head=token_head)


def _with_short_tables(spec: EncoderSpec, length: int) -> EncoderSpec:
    """Let tables of rotary positions end where texts do: those of EmbeddingGemma 2 could take 200 MB."""
    if spec.position_table or spec.bias != "none" or spec.relative is not None:
        return spec
    return replace(spec, max_positions=spec.position_offset + length)


def _weights_as_stored(
    folder: ModelFolder, spec: EncoderSpec, precision: Precision
) -> tuple[EncoderWeights, Precision | None]:
    """Return a folder's weights, and the precision they are to be packed in; None leaves each as it is."""
    weights = encoder_weights(spec, model_tensors(folder, spec))
    if not is_quantized(folder.config):
        return weights, precision
    weights = replace(weights, wide=wide_features(folder.config, spec.hidden_size))
    return weights, None if precision == "int8" else precision


def _engine(
    folder: ModelFolder,
    spec: EncoderSpec,
    options: Mapping[str, Any],
    *,
    normalize: bool,
    token_head: LinearWeights | None = None,
) -> Engine:
    weights, precision = _weights_as_stored(folder, spec, options["precision"])
    return Engine(
        replace(spec, normalize=normalize),
        weights,
        precision=precision,
        threads=options["threads"],
        isa=options["isa"],
        token_head=token_head,
    )
