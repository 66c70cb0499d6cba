"""Writing a quantized model folder: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.disk_space import require_disk_space
from quaver.engine import Place
from quaver.errors import QuantizationError
from quaver.models import (
    FAMILIES,
    OWN_SECTION,
    WEIGHTS_FILE,
    WEIGHTS_INDEX,
    EncoderSpec,
    EncoderWeights,
    Linear,
    LinearPart,
    LinearWeights,
    ModelFolder,
    QuantizedLinear,
    StoredForm,
    StoredTable,
    packed_int4,
    quantization_config,
    quantize_weight,
    release_pages,
    word_ids,
)
from quaver.quantization.convert import linears
from quaver.quantization.weights_writer import write_weights
from quaver.system import sync, written_whole

Words = Literal["int8", "float16"]
WORD_FORMATS: tuple[Words, ...] = ("int8", "float16")

_COPIED = (".json", ".txt", ".model", ".jinja")
_LICENCES = ("LICENSE", "NOTICE")
# Bytes of a tensor's entry in the header besides its name.
_ENTRY = 160
# Settings of Stanford's ColBERT, and heads of BGE-M3 next to its encoder.
_OTHER_FILES = ("artifact.metadata", "sparse_linear.pt", "colbert_linear.pt")
# The name of a text model among others, and layers outside of the encoder's that have no bias.
_TEXT = "language_model."
_UNBIASED = ("ple.per_layer_model_projection.weight", "embedding_projection.weight")
# Rows of word embeddings that decide how they are stored, and the loss from which they stay in floats.
_ROWS, _MOST_LOSS = 4096, 1e-3
_FLOAT16_MAX = float(np.finfo(np.float16).max)


class Layers:
    """What config.json and the report say about the linear layers, collected while they are written.

    Attributes:
        stored: place, names and form of each; None for one that stays in floats.
        prefix: of the names in the file, such as "bert.".
    """

    def __init__(self) -> None:
        """Begin without layers."""
        self.stored: dict[Place, tuple[tuple[LinearPart, ...], StoredForm | None]] = {}

    def add(self, place: Place, linear: Linear) -> None:
        """Add a layer."""
        form = None
        if isinstance(linear, QuantizedLinear):
            size = linear.groups[0] if linear.groups else None
            form = StoredForm(linear.input is not None, linear.zero is None, size, linear.bits)
        self.stored[place] = (linear.parts, form)

    @property
    def prefix(self) -> str:
        """The prefix of all names; "" if they have different ones."""
        prefixes = {part.prefix for parts, _ in self.stored.values() for part in parts}
        return prefixes.pop() if len(prefixes) == 1 else ""


def quantized_tensors(
    source: Mapping[str, NDArray[Any]],
    weights: EncoderWeights,
    words: Words = "int8",
    layers: Layers | None = None,
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the tensors of the quantized model's file, each read and quantized when it is its turn.

    int8 layers are `X.weight` int8, `X.weight_scale` float32 (O, G) for G groups of inputs of the same
    size and, where they are asymmetric, `X.weight_zero_point` int8 (O, G). With a fixed input
    range there are `X.input_scale` float32 (1,) and `X.input_zero_point` int8 (1,). Layers in four bits are
    `X.weight_packed` int32 (O, K / 8), `X.weight_scale` and `X.weight_shape` int64 (2,). The table of words is int8
    with a scale for each row, or float16. Other tables and layers that the encoder does not run are
    float16, everything else is unchanged.

    Args:
        source: the tensors of the model's file.
        weights: the encoder's weights, some of its linear layers quantized.
        words: how the word embeddings are stored.
        layers: collects the layers.

    Yields:
        names and tensors.
    """
    dense = [step for step in weights.head if isinstance(step, LinearWeights)]
    dense += [p for p in (weights.projection, weights.output_projection) if p is not None]
    kept = {linear.parts[0].stored for linear in dense if linear.parts}
    done: set[str] = set()
    for index, layer in enumerate(weights.layers):
        for field, linear in linears(layer):
            for name, tensor in _linear_tensors(linear, source):
                done.add(name)
                yield name, tensor
            done.update(f"{part.stored}.weight" for part in linear.parts)
            kept.update(part.stored for part in linear.parts)
            if layers is not None:
                layers.add((index, field), linear)
        for norm in (layer.attention_norm, layer.output_norm, layer.query_norm, layer.key_norm):
            if norm is not None and norm.stored:  # factors may have moved between it and a layer
                done.add(norm.stored)
                yield norm.stored, norm.gamma - np.float32(norm.offset)
    for name in sorted(source):
        if name in done:
            continue
        tensor = source[name]
        if words == "int8" and _is_word_table(name):
            rows = quantize_weight(LinearWeights(tensor, np.zeros(len(tensor), np.float32)))
            yield name, rows.weight
            yield f"{name}_scale", rows.scale[:, None]
            continue
        small = tensor.ndim == 2 and name.removesuffix(".weight") not in kept
        yield name, _half(tensor) if small and tensor.dtype == np.float32 else tensor
        release_pages(tensor)


def word_format(word: NDArray[np.float32] | StoredTable) -> Words:
    """Return "int8" for word embeddings, or "float16" where wide features leave the others too few levels.

    Formula:
        loss of a feature: the mean square of a row's step / 12, over the mean square of the feature; the
        median over the features decides, about 5e-5 for normal values

    Args:
        word: (V, E).
    """
    rows = word[:: max(1, len(word) // _ROWS)].astype(np.float64)
    steps = np.square(np.abs(rows).max(axis=1, initial=0) / 127).mean()
    loss = steps / 12 / np.maximum(np.square(rows).mean(axis=0), 1e-300)
    return "int8" if np.median(loss) <= _MOST_LOSS else "float16"


def _is_word_table(name: str) -> bool:
    tables = {table for family in FAMILIES.values() for table in family.tables or (family.anchor,)}
    return any(f".{name}".endswith(f".{table}") for table in tables)


def _half(tensor: NDArray[np.float32]) -> NDArray[Any]:
    fits = max(tensor.max(initial=0), -tensor.min(initial=0)) <= _FLOAT16_MAX
    return tensor.astype(np.float16) if fits else tensor


def _linear_tensors(
    linear: Linear, source: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, Any]]:
    first = 0
    for part in linear.parts:
        rows = slice(first, first + part.rows)
        first += part.rows
        if f"{part.stored}.bias" in source:
            yield f"{part.stored}.bias", linear.bias[rows]
        if not isinstance(linear, QuantizedLinear) or linear.bits == 8:
            yield f"{part.stored}.weight", linear.weight[rows]
        else:
            yield f"{part.stored}.weight_packed", packed_int4(linear.weight[rows])
            yield f"{part.stored}.weight_shape", np.array(linear.weight[rows].shape, np.int64)
        if isinstance(linear, QuantizedLinear):
            by_group = (part.rows, -1)
            yield f"{part.stored}.weight_scale", linear.scale[rows].reshape(by_group)
            if linear.zero is not None:
                yield f"{part.stored}.weight_zero_point", linear.zero[rows].reshape(by_group)
            if linear.input is not None:
                scale, zero = linear.input.scale, linear.input.zero
                yield f"{part.stored}.input_scale", np.array([scale], np.float32)
                # The file counts from -128, the kernels from 0.
                yield f"{part.stored}.input_zero_point", np.array([zero - 128], np.int8)


Stored = Mapping[str, tuple[str, tuple[int, ...]]]


def quantized_config(
    config: Mapping[str, Any],
    spec: EncoderSpec,
    wide: NDArray[np.int32] | None,
    layers: Layers,
    stored: Stored,
) -> dict[str, Any]:
    """Return config.json of the quantized model.

    Args:
        config: config.json of the source.
        spec: the encoder.
        wide: see `EncoderWeights`.
        layers: its linear layers.
        stored: dtype and shape of the tensors of the new file.
    """
    forms: dict[StoredForm, list[str]] = {}
    tower = _TEXT if layers.prefix.endswith(_TEXT) else ""
    left = [name.removesuffix(".weight") for name in _left(layers.prefix, tower, stored)]
    for parts, form in layers.stored.values():
        names = [tower + part.name for part in parts]
        if form is None:
            left += names
        else:
            forms.setdefault(form, []).extend(names)
    new = {key: value for key, value in config.items() if key != "torch_dtype"}
    tables = [
        name.removesuffix(".weight")
        for name, (dtype, _) in stored.items()
        if dtype == "int8" and _is_word_table(name)
    ]
    left += [step.name for step in spec.head]
    described = quantization_config(forms, left, tables)
    if wide is not None:
        new[OWN_SECTION] = {"wide_features": wide.tolist()}
    return {**new, "dtype": "float32", "quantization_config": described}


def _left(prefix: str, tower: str, stored: Stored) -> list[str]:
    """List linear layers that are not those of the encoder: poolers, other heads, projections.

    Args:
        prefix: of the encoder's names in the file.
        tower: what of it stays, in a model of several towers whose layers may have the same names.
        stored: dtype and shape of the tensors of the new file.
    """
    return [
        tower + name.removeprefix(prefix) if name.startswith(prefix) else name
        for name, (dtype, shape) in sorted(stored.items())
        if name.endswith(".weight")
        and len(shape) == 2
        and dtype != "int8"
        and (
            f"{name.removesuffix('.weight')}.bias" in stored
            or name.removeprefix(prefix) in _UNBIASED
        )
    ]


def write_folder(
    target: Path,
    source: ModelFolder,
    tensors: Iterable[tuple[str, NDArray[Any]]],
    describe: Callable[[Stored], tuple[Mapping[str, Any], str]],
    *,
    names: Iterable[str],
    needed: int,
) -> int:
    """Write a model folder next to its target, then move it there in one step.

    Args:
        target: the new folder; its parent exists or can be created.
        source: the model whose tokenizer, modules and prompts are copied.
        tensors: the weights, one after the other.
        describe: from dtype and shape of the weights to config.json and README.md; called when all
            weights are written.
        names: those of the source's tensors; each becomes at most four.
        needed: bytes that the weights need at least.

    Returns:
        bytes of the folder.

    Raises:
        QuantizationError: the folder cannot be written; nothing is left of it.
    """
    room = 4 * sum(len(name.encode()) + _ENTRY for name in names) + (1 << 12)
    with _new_folder(target, needed + (4 << 20)) as folder:
        transformer = folder / os.path.relpath(source.transformer, source.path)
        transformer.mkdir(parents=True, exist_ok=True)
        for file in _companions(source):
            place = folder / file.relative_to(source.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        config, card = describe(write_weights(transformer / WEIGHTS_FILE, tensors, room))
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (transformer / "config.json").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        _keep_prompts(folder / "config_sentence_transformers.json", source)
        _keep_words(folder, source)
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        for path in [*files, *(p for p in folder.rglob("*") if p.is_dir()), folder]:
            sync(path)
    return size


def require_new(target: Path) -> None:
    """Check that there is nothing at the target yet.

    Raises:
        QuantizationError: there is something.
    """
    if target.exists() or target.is_symlink():
        raise QuantizationError(
            f"the target must not exist yet: there is something at {target}; give another name or "
            "remove it"
        )


def _companions(source: ModelFolder) -> list[Path]:
    """List the files that a model has besides its config and its weights."""
    left_out = {"config.json", WEIGHTS_INDEX}
    folders: Sequence[Path] = [source.path, source.transformer]
    modules = source.path / "modules.json"
    if modules.is_file():
        listed = json.loads(modules.read_text(encoding="utf-8"))
        folders = [*folders, *(source.path / module["path"] for module in listed)]
    weighted = {module.path for module in source.modules}
    if source.sparse is not None:
        folders = [*folders, *source.sparse.folders]
        weighted |= {path for path in folders if path == source.sparse.query}
    found = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    return sorted(
        path
        for path in found
        if path.is_file()
        and (
            path.suffix in _COPIED
            or path.name in _OTHER_FILES
            or path.name.startswith(_LICENCES)
            or path.parent in weighted
        )
        and not (path.parent == source.transformer and path.name in left_out)
        and not path.name.endswith(".index.json")
    )


def _keep_prompts(path: Path, source: ModelFolder) -> None:
    """Store prompts that are known only by the model's name: the new folder has another name."""
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if source.prompts and not settings.get("prompts"):
        settings["prompts"] = source.prompts
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _keep_words(folder: Path, source: ModelFolder) -> None:
    """Store how a reranker scores that is known by its name, in sentence-transformers' files."""
    words = [module for module in source.modules if module.kind == "LogitScore"]
    if not words or source.template is None or (source.path / "modules.json").is_file():
        return
    yes, no = word_ids(source, words[0])
    output = {"method": "forward", "method_output_name": "logits"}
    files = {
        "modules.json": [
            {
                "idx": 0,
                "name": "0",
                "path": "",
                "type": "sentence_transformers.base.modules.transformer.Transformer",
            },
            {
                "idx": 1,
                "name": "1",
                "path": "1_LogitScore",
                "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
            },
        ],
        "1_LogitScore/config.json": {
            "true_token_id": yes,
            "false_token_id": no,
            "module_input_name": "causal_logits",
        },
        "sentence_bert_config.json": {
            "transformer_task": "text-generation",
            "modality_config": {"text": output, "message": {**output, "format": "flat"}},
            "module_output_name": "causal_logits",
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(source.template.source, encoding="utf-8")


@contextmanager
def _new_folder(target: Path, needed: int) -> Iterator[Path]:
    """Yield a folder that becomes the target when the block ends, and is removed if it fails."""
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as partial:
            require_disk_space(target, needed, QuantizationError)
            partial.mkdir()
            yield partial
            require_new(target)
        sync(target.parent)
    except OSError as error:
        raise QuantizationError(
            f"cannot write {target}: {error.strerror or error}; nothing was left there"
        ) from error
