"""How many bytes a model holds in memory: its tables exactly, its layers as they will be once they are packed."""

from __future__ import annotations

from collections.abc import Iterator

from quaver.engine.eight_bits import group_count
from quaver.engine.native_model import Precision, computes_in
from quaver.models import (
    EncoderSpec,
    EncoderWeights,
    LayerSpec,
    LayerWeights,
    Linear,
    LinearWeights,
    StoredTable,
    ranges_of_inputs,
)

# kPanel, kDepthStep and kPairStep of native/kernels/table.h.
_PANEL, _DEPTH_STEP, _PAIR_STEP = 64, 64, 32
_FLOAT = 4
_FIELDS = ("qkv", "out", "up", "down", "input", "input_gate", "input_out")


def table_bytes(spec: EncoderSpec, weights: EncoderWeights, precision: Precision | None) -> int:
    """Return the bytes of what an engine holds besides its layers: tables, head and words.

    Args:
        spec: the encoder.
        weights: its weights.
        precision: what linear layers compute in; None leaves each as it is.

    Returns:
        those of whole tables, of which an engine that reads a mapped file has only the used pages in memory.
    """
    word = weights.word
    arrays = [weights.position, weights.token_type, weights.distance_bias]
    arrays += [word.rows, word.scale] if isinstance(word, StoredTable) else [word]
    total = sum(array.nbytes for array in arrays if array is not None)
    rotaries = {(layer.rotary, layer.head_size) for layer in spec.layers if layer.rotary}
    total += sum(_FLOAT * spec.max_length * size for _, size in rotaries)
    if spec.relative is not None:
        total += _FLOAT * (2 * spec.max_length - 1)
    of_tokens: Precision = "float32"
    if spec.words is not None:
        of_tokens = computes_in(weights, precision)
    if weights.output_projection is not None:
        outputs, inputs = weights.output_projection.weight.shape
        count = len(spec.poolings)
        total += packed_bytes(outputs * count, inputs * count, "float32")
    for step in (*weights.head, weights.words):
        if isinstance(step, LinearWeights):
            outputs, inputs = step.weight.shape
            total += packed_bytes(outputs, inputs, of_tokens)
    return total


def layer_bytes(spec: EncoderSpec, weights: EncoderWeights, precision: Precision | None) -> int:
    """Return the bytes that the layers of an engine will have, as `_native.Encoder.weight_bytes` counts them.

    Args:
        spec: the encoder.
        weights: its weights, before they are prepared. Layers are read only where they are stored in fewer
            than 16 bits.
        precision: what linear layers compute in; None leaves each as it is.

    Returns:
        the same but for what decides itself while the weights are quantized.
    """
    total = 0
    if weights.projection is not None:
        outputs, inputs = weights.projection.weight.shape
        total += packed_bytes(outputs, inputs, "float32")
    for i, layer in enumerate(spec.layers):
        if precision is None:
            stored = weights.layers[i]
            total += sum(_stored(weights, name, linear) for name, linear in _linears(stored))
            int8 = not isinstance(stored.qkv, LinearWeights)
        else:
            for name, outputs, inputs in _shapes(spec, layer):
                groups = group_count(spec, layer, name)
                total += packed_bytes(
                    outputs, inputs, precision, groups, centers=name not in ("out", "input")
                )
            int8 = precision == "int8"
        if spec.relative is not None:
            kind: Precision = "int8" if int8 else "float32"
            each = packed_bytes(2 * spec.relative.span, layer.head_size, kind)
            total += 2 * layer.heads * each
    return total


def _shapes(spec: EncoderSpec, layer: LayerSpec) -> Iterator[tuple[str, int, int]]:
    """Yield field, outputs and inputs of a layer's linear layers."""
    hidden, inner, extra = spec.hidden_size, layer.intermediate_size, layer.input_size
    yield "qkv", layer.query_width + 2 * layer.kv_width, hidden
    yield "out", hidden, layer.query_width
    yield "up", layer.up_width, hidden
    yield "down", hidden, inner
    if extra:
        yield "input", extra, hidden
        yield "input_gate", extra, hidden
        yield "input_out", hidden, extra


def _linears(layer: LayerWeights) -> Iterator[tuple[str, Linear]]:
    for name in _FIELDS:
        linear = getattr(layer, name)
        if linear is not None:
            yield name, linear


def _stored(weights: EncoderWeights, name: str, linear: Linear) -> int:
    """Return the bytes of a layer that stays as it is stored."""
    outputs, inputs = linear.weight.shape
    if isinstance(linear, LinearWeights):
        return packed_bytes(outputs, inputs, "float32")
    groups, wide = len(linear.slices), weights.wide is not None
    reads_wide = wide and name in ("qkv", "up", "input_gate")
    if linear.bits == 8:
        count = max(groups, 2) if reads_wide else groups
        return packed_bytes(outputs, inputs, "int8", count, centers=linear.zero is not None)
    # Of each output a bias, scales of groups of weights, and sums for ranges of inputs.
    ranges = ranges_of_inputs(inputs, linear.groups[0]) if name == "down" and groups > 1 else ()
    numbers = 1 + groups + max(1, len(ranges)) + reads_wide
    total = _up_to(_PANEL, outputs) * (_up_to(_DEPTH_STEP, inputs) // 2 + _FLOAT * numbers)
    if reads_wide:
        assert weights.wide is not None
        total += packed_bytes(outputs, len(weights.wide), "int8")
    return total


def packed_bytes(
    outputs: int, inputs: int, kind: Precision, groups: int = 1, *, centers: bool = False
) -> int:
    """Return what native/engine/linear.cpp says that a packed linear layer has.

    Args:
        outputs: O.
        inputs: K.
        kind: what its weights are.
        groups: of its inputs, in int8.
        centers: whether its weights are asymmetric, in int8.
    """
    padded = _up_to(_PANEL, outputs)
    if kind == "float32":
        return _FLOAT * padded * (inputs + 1)
    if kind == "bfloat16" or kind == "bfloat16-weights":
        return padded * (2 * _up_to(_PAIR_STEP, inputs) + 2 * _FLOAT)
    # Of each group a scale, a sum and with centers a shift, besides the bias.
    numbers = 1 + groups * (3 if centers else 2)
    return padded * (_up_to(_DEPTH_STEP, inputs) + _FLOAT * numbers)


def _up_to(step: int, count: int) -> int:
    return -(-count // step) * step
