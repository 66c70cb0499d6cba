"""A model's name to the parts that work together: folder, spec, tokenizer, engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from quaver.architecture import (
    POOLINGS,
    EncoderSpec,
    classifier_spec,
    encoder_spec,
    encoder_weights,
    module_steps,
    module_tensors,
)
from quaver.arguments import check_range
from quaver.engine import PRECISIONS, Engine, Precision
from quaver.errors import InputError, PoolingError
from quaver.model_folder import ModelFolder
from quaver.quantization_config import is_quantized
from quaver.tokenizer import Tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """An encoder ready to run, its parts checked against each other.

    Attributes:
        folder: what the model folder says.
        spec: the encoder as data; `normalize` as the folder or the caller wants it.
        tokenizer: cuts at the length that was asked for.
        engine: pools and does not normalise, whatever `spec` says: shorter vectors
            (`truncate_dim`) and plain ones need the values before that.
    """

    folder: ModelFolder
    spec: EncoderSpec
    tokenizer: Tokenizer
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
) -> LoadedModel:
    """Load a model; arguments and errors are those of `Embedder.from_pretrained`."""
    if pooling is not None and not set(str(pooling).split("+")) <= set(POOLINGS):
        raise InputError(
            f"pooling must be {', '.join(POOLINGS)}, or several joined by +: got {pooling!r}"
        )
    _check_precision(precision)
    folder = ModelFolder.open(
        name_or_path, revision=revision, local_files_only=local_files_only, token=token
    )
    spec = encoder_spec(
        folder.config,
        pooling=_agreed_pooling(folder, pooling),
        normalize=folder.normalize if normalize is None else normalize,
    )
    spec = replace(spec, head=module_steps(folder.modules))
    return _load(folder, spec, max_seq_length, precision, threads, isa)


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
    _check_precision(precision)
    folder = ModelFolder.open(
        name_or_path, revision=revision, local_files_only=local_files_only, token=token
    )
    return _load(folder, classifier_spec(folder.config), max_seq_length, precision, threads, isa)


def _check_precision(precision: object) -> None:
    if precision not in PRECISIONS:
        names = " or ".join(map(repr, PRECISIONS))
        raise InputError(f"precision must be {names}: got {precision!r}")


def _load(
    folder: ModelFolder,
    spec: EncoderSpec,
    max_seq_length: int | None,
    precision: Precision,
    threads: int | None,
    isa: str | None,
) -> LoadedModel:
    if max_seq_length is not None:
        check_range("max_seq_length", max_seq_length, spec.max_length)
    tokenizer = Tokenizer.from_folder(
        folder.transformer,
        max_length=max_seq_length or spec.length_within(folder.max_seq_length),
        lowercase=folder.lowercase,
    )
    tokenizer.require_vocabulary(spec.vocab_size)
    quantized = is_quantized(folder.config)
    engine = Engine(
        replace(spec, normalize=False),
        encoder_weights(spec, {**folder.tensors(), **module_tensors(folder.modules)}),
        precision=None if quantized and precision == "int8" else precision,
        threads=threads,
        isa=isa,
    )
    return LoadedModel(folder, spec, tokenizer, engine)


def _agreed_pooling(folder: ModelFolder, pooling: str | None) -> str | None:
    if folder.pooling is not None and pooling is not None and folder.pooling != pooling:
        raise PoolingError(
            f"{folder.name} was trained with {folder.pooling} pooling (modules.json): got "
            f"pooling={pooling!r}, which gives useless vectors; leave the argument out"
        )
    return folder.pooling or pooling
