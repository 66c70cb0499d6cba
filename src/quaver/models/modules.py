"""Modules of sentence-transformers after the pooling, as steps of a head."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from quaver.errors import ModelFolderError, UnsupportedArchitectureError, WeightsError
from quaver.models.families.registry import classifier_spec, masked_lm_spec
from quaver.models.files import ModuleFile, checked
from quaver.models.folder import ModelFolder, Module
from quaver.models.geometry import MAX_WIDTH, EncoderSpec
from quaver.models.head import DenseStep, HeadActivation, HeadStep, NormStep
from quaver.models.tokenizer import MAX_TOKENS
from quaver.models.weights_file import read_tensors

_ACTIVATIONS: dict[str, HeadActivation] = {
    "Tanh": "tanh",
    "Identity": "none",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
}
# torch's default for the value added to the variance.
_NORM_EPS = 1e-5
# Far below the square of any vector's length, and still a normal float32.
_LENGTH_EPS = 1e-30


def module_steps(modules: Sequence[Module], size: int) -> tuple[HeadStep, ...]:
    """Translate modules into steps of a head.

    The steps of a Normalize between others use that the LayerNorm of (x, -x) has no mean to
    subtract: it is x / |x| times the root of the size.

    Args:
        modules: as the model folder lists them.
        size: the features of a pooled vector.

    Returns:
        the steps; their tensors have the names of `module_tensors`.

    Raises:
        ModelFolderError: a size is missing from a module's config.json.
        UnsupportedArchitectureError: a module has an option or an activation that Quaver does not
            run. Its name is read; it is never imported.
    """
    steps: list[HeadStep] = []
    for name, module, width in _placed(modules, size):
        if module.kind == "LayerNorm":
            steps.append(NormStep(f"{name}.norm", _NORM_EPS))
        elif module.kind == "LogitScore":
            steps.append(DenseStep(f"{name}.words", 1, "none", has_bias=False))
        elif module.kind == "Normalize":
            steps += [
                DenseStep(f"{name}.mirror", 2 * width, "none", has_bias=False),
                NormStep(f"{name}.norm", _LENGTH_EPS, has_bias=False),
                DenseStep(f"{name}.half", width, "none", has_bias=False),
            ]
        else:
            steps.append(_dense(name, module))
    return tuple(steps)


def module_tensors(
    folder: ModelFolder, size: int, stored: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Read the weights of a folder's modules, under names that cannot occur in an encoder.

    Args:
        folder: the model's folder.
        size: the features of a pooled vector.
        stored: the tensors of the model's file, whose head has the words of a LogitScore.

    Returns:
        tensors by name.

    Raises:
        WeightsError: a file is broken.
        ModelFolderError: a module has no weights.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for name, module, width in _placed(folder.modules, size):
        if module.kind == "LogitScore":
            tensors[f"{name}.words.weight"] = _words(folder, module, stored)
            continue
        if module.kind == "Normalize":
            one = np.eye(width, dtype=np.float32)
            tensors[f"{name}.mirror.weight"] = np.concatenate([one, -one])
            tensors[f"{name}.norm.weight"] = np.full(
                2 * width, 1 / math.sqrt(width), dtype=np.float32
            )
            tensors[f"{name}.half.weight"] = np.eye(width, 2 * width, dtype=np.float32)
            continue
        for tensor, values in read_tensors(module.path).items():
            tensors[f"{name}.{tensor}"] = values
    return tensors


def cross_encoder_spec(folder: ModelFolder) -> EncoderSpec:
    """Return the encoder of a cross-encoder: with the head of its class, or with its modules.

    Args:
        folder: the model's folder.

    Returns:
        the spec; `outputs` is the number of labels.

    Raises:
        UnsupportedArchitectureError: the model type, an option, the head or a module is not
            supported.
        ModelFolderError: a size is missing from a config.json or is no positive number.
    """
    if not folder.scores:
        return classifier_spec(folder.config)
    spec = folder.encoder_spec(normalize=False)
    return replace(spec, head=module_steps(folder.modules, spec.pooled_size))


def sparse_spec(folder: ModelFolder) -> EncoderSpec:
    """Return the masked language model of a sparse encoder.

    Args:
        folder: the model's folder, of a sparse encoder.

    Returns:
        the spec; `outputs` is the size of the vocabulary.

    Raises:
        UnsupportedArchitectureError: the model type or an option is not supported, or the family has no
            masked-language-model head.
        ModelFolderError: a size is missing from config.json or is no positive number.
    """
    assert folder.sparse is not None
    return masked_lm_spec(
        folder.config, pooling=folder.sparse.pooling, logarithms=folder.sparse.logarithms
    )


def multi_vector_spec(folder: ModelFolder) -> EncoderSpec:
    """Return the encoder of a multi-vector model, with the projection of its tokens.

    Args:
        folder: the model's folder, of a multi-vector model.

    Returns:
        the spec; `outputs` is the dimension of a token's vector.

    Raises:
        UnsupportedArchitectureError: the model type, an option or a module is not supported.
        ModelFolderError: a size is missing from a config.json, or the weights lack the projection.
    """
    modules = folder.multi_vector
    assert modules is not None
    spec = folder.encoder_spec(pooling="cls", normalize=modules.normalize)
    if not modules.inline:
        return replace(spec, head=module_steps(folder.modules, spec.pooled_size))
    weight = folder.tensors().get("linear.weight")
    if weight is None or weight.ndim != 2:
        raise ModelFolderError(
            f"{folder.name} is a ColBERT (architectures in config.json), so its weights must have its "
            "projection, linear.weight: they have none"
        )
    return replace(spec, head=(DenseStep("linear", len(weight), "none", has_bias=False),))


def model_tensors(folder: ModelFolder, spec: EncoderSpec) -> Mapping[str, NDArray[Any]]:
    """Read the weights of a model and of its modules.

    Args:
        folder: the model's folder.
        spec: its encoder.

    Returns:
        tensors by name.

    Raises:
        WeightsError: a file is broken.
        ModelFolderError: there are no weights.
    """
    stored = folder.tensors()
    return with_modules(stored, module_tensors(folder, spec.pooled_size, stored))


def with_modules(
    stored: Mapping[str, NDArray[Any]], modules: Mapping[str, NDArray[Any]]
) -> Mapping[str, NDArray[Any]]:
    """Join tensors of two sources without reading them."""
    return ChainMap(cast("Any", modules), cast("Any", stored))


def word_ids(folder: ModelFolder, module: Module) -> tuple[int | None, int | None]:
    """Return the tokens whose logits a LogitScore subtracts; the second may be missing.

    Args:
        folder: the model's folder.
        module: the LogitScore.

    Raises:
        ModelFolderError: the tokenizer lacks one of them.
    """
    if "true_token" not in module.config:
        config = checked(ModuleFile, module.config, module.path / "config.json")
        return config.true_token_id, config.false_token_id
    tokenizer = folder.tokenizer(MAX_TOKENS)
    yes, no = (tokenizer.token_id(module.config[key]) for key in ("true_token", "false_token"))
    if yes is None or no is None:
        raise ModelFolderError(
            f"{folder.name} scores by the words {module.config['true_token']!r} and "
            f"{module.config['false_token']!r}, so its tokenizer must have both as tokens"
        )
    return yes, no


def _words(
    folder: ModelFolder, module: Module, stored: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Return the row of the head that gives the logit of one word minus that of another, (1, H).

    The whole head would multiply every word of the vocabulary.
    """
    ids = word_ids(folder, module)
    names = [name for name in stored if f".{name}".endswith(".lm_head.weight")]
    tied, stated = folder.file.tie_word_embeddings, ""
    if tied is None:  # transformers' defaults
        tied, stated = folder.file.model_type == "gemma3_text", ", which is the default"
    if not names and not tied:
        raise WeightsError(
            f"{folder.name} reads its score from words, so its weights must have lm_head.weight, or config.json "
            f"tie_word_embeddings=true: got neither (tie_word_embeddings is false{stated}); download the model again, "
            "or set it to true if its head is its table of words"
        )
    # A tied head is the table of words.
    names += [name for name in stored if f".{name}".endswith(".embed_tokens.weight")]
    if not names:
        raise WeightsError(
            f"{folder.name} reads its score from words, so its weights must have lm_head.weight or "
            "embed_tokens.weight: they have neither"
        )
    table, scales = stored[names[0]], stored.get(f"{names[0]}_scale")
    rows = []
    for number in ids:
        if number is None:
            continue
        if number >= len(table):
            raise ModelFolderError(
                f"{module.path / 'config.json'} must name tokens of the vocabulary: got {number} of "
                f"{len(table)}"
            )
        row = table[number : number + 1].astype(np.float32)
        rows.append(row if scales is None else row * scales[number])
    return rows[0] - rows[1] if len(rows) > 1 else rows[0]


def _placed(modules: Sequence[Module], size: int) -> Iterator[tuple[str, Module, int]]:
    """Yield the name, the module, and the features of the vector that it reads."""
    for number, module in enumerate(modules):
        yield f"modules.{number}", module, size
        if module.kind == "LogitScore":
            size = 1
        if module.kind == "Dense":
            size = _dense("", module).outputs


def _dense(name: str, module: Module) -> DenseStep:
    where = module.path / "config.json"
    config = checked(ModuleFile, module.config, where)
    if config.out_features is None:
        raise ModelFolderError(f"{where} must have out_features, the module's output size")
    if config.out_features > MAX_WIDTH:
        raise UnsupportedArchitectureError(
            f"{where} has out_features={config.out_features}; supported are up to {MAX_WIDTH}"
        )
    if config.use_residual:
        raise UnsupportedArchitectureError(
            f"{where} says use_residual=true; supported are Dense modules without a residual"
        )
    activation = config.activation_function or "torch.nn.modules.activation.Tanh"
    kind = activation.rpartition(".")[2].removesuffix("()")
    if kind not in _ACTIVATIONS:
        raise UnsupportedArchitectureError(
            f"{where} has activation_function={activation!r}; supported: {', '.join(_ACTIVATIONS)}"
        )
    biased = config.bias is not False
    return DenseStep(f"{name}.linear", config.out_features, _ACTIVATIONS[kind], biased)
