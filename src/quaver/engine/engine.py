"""EncoderSpec + weights + TokenBatch -> vectors. The only caller of the native encoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from quaver import _native
from quaver.engine.instruction_sets import choose_isa
from quaver.engine.threads import choose_threads
from quaver.errors import (
    EngineError,
    InputError,
    TokenRangeError,
    UnsupportedArchitectureError,
)
from quaver.models import (
    MAX_LENGTH,
    AttentionSpec,
    DenseStep,
    EncoderSpec,
    EncoderWeights,
    HeadStep,
    LayerWeights,
    Linear,
    LinearWeights,
    NormWeights,
    QuantizedLinear,
    Rotary,
    TokenBatch,
    dequantized,
    quantize_weight,
    relative_rows,
    release_pages,
    rotary_tables,
)

Precision = Literal["int8", "float32"]
PRECISIONS: tuple[Precision, ...] = ("int8", "float32")

_Floats = NDArray[np.float32]
# Weight and bias; weight, scale and bias; the same with scale and zero point of the input.
_LinearParts = (
    tuple[_Floats, _Floats]
    | tuple[NDArray[np.int8], _Floats, _Floats]
    | tuple[NDArray[np.int8], _Floats, _Floats, float, int]
)


class Engine:
    """An encoder with its weights packed for one instruction set.

    In "int8" the linear layers multiply u8 activations (one scale and zero point for each token)
    with s8 weights (one scale for each output), and attention quantizes its heads the same way;
    norms and embeddings stay float32. "float32" is the same engine with float weights. Weights that
    are int8 already keep their integers; some of a model's layers may be int8 and others float32.

    A text's vector is the same bits alone, in any batch, at any position, and with any number of
    threads. Several Python threads may call `encode` at once; the work runs without the GIL. Ctrl-C
    ends a long call.

    Attributes:
        spec: the encoder.
        precision: "int8" when at least one linear layer computes in int8, else "float32".
        isa: the instruction set in use.
        threads: how many threads take part in a call at most.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        weights: EncoderWeights,
        *,
        precision: Precision | None = "int8",
        threads: int | None = None,
        isa: str | None = None,
        copy_tables: bool = False,
    ) -> None:
        """Pack the weights.

        Args:
            spec: the encoder.
            weights: its weights, float32. Linear layers and norms are copied.
            copy_tables: copy the embedding tables, too. Otherwise they are read in place and stay
                alive with the engine; where they are mapped from a file, writing to the file
                changes vectors, and cutting it short ends the process.
            precision: what the linear layers compute in: "int8" quantizes those in float32,
                "float32" dequantizes those in int8, None leaves each as it is.
            threads: at least 1; None takes the CPUs this process may use.
            isa: instruction set to force; None takes QUAVER_ISA, else the best available.

        Raises:
            InputError: precision or threads is invalid.
            InstructionSetError: isa is unknown or not available here.
            UnsupportedArchitectureError: texts may have more tokens than the kernels can sum over.
        """
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}: got {precision!r}")
        if spec.max_length > MAX_LENGTH:
            raise UnsupportedArchitectureError(
                f"a text may have at most {MAX_LENGTH} tokens, more would overflow the sums of "
                f"attention: the model has room for {spec.max_length}; lower its "
                "max_position_embeddings"
            )
        if copy_tables:
            weights = _with_copied_tables(weights)
        self.spec = spec
        self.precision: Precision = "float32"
        self.isa = choose_isa(isa)
        self.threads = choose_threads(threads)
        self._encoder = _native.Encoder(
            _native_spec(spec),
            self.isa,
            weights.word,
            weights.position,
            weights.token_type,
            _norm(weights.embedding_norm),
        )
        rotaries = list(dict.fromkeys(a.rotary for a in spec.attention if a.rotary is not None))
        for rotary in rotaries:
            self._encoder.add_rotary(*rotary_tables(rotary, spec.max_length, spec.head_size))
        if spec.relative is not None:
            rows = relative_rows(spec.relative, spec.max_length)
            self._encoder.set_relative_rows(rows, spec.relative.span)
        for attention, layer in zip(spec.attention, weights.layers, strict=True):
            self._add_layer(attention, rotaries, layer, self._positions(weights, layer), precision)
            for linear in (layer.qkv, layer.out, layer.up, layer.down):
                release_pages(linear.weight)
        if weights.final_norm is not None:
            self._encoder.set_final_norm(_norm(weights.final_norm))
        if weights.distance_bias is not None:
            # The kernels' softmax is in base two.
            bias = weights.distance_bias * np.float32(math.log2(math.e))
            self._encoder.set_distance_bias(bias, spec.max_length)
        for step, weight in zip(spec.head, weights.head, strict=True):
            self._add_head_step(step, weight)

    def _add_layer(
        self,
        attention: AttentionSpec,
        rotaries: list[Rotary],
        layer: LayerWeights,
        positions: list[list[LinearWeights]],
        precision: Precision | None,
    ) -> None:
        qkv, *others = (
            _in_precision(linear, precision)
            for linear in (layer.qkv, layer.out, layer.up, layer.down)
        )
        linears = (_scaled(qkv, _query_factor(self.spec)), *others)
        if any(isinstance(linear, QuantizedLinear) for linear in linears):
            self.precision = "int8"
        kind: Precision = "int8" if isinstance(qkv, QuantizedLinear) else "float32"
        queries, keys = (
            [_native_linear(_in_precision(head, kind)) for head in heads] for heads in positions
        )
        native_qkv, out, up, down = map(_native_linear, linears)
        attention_norm = None if layer.attention_norm is None else _norm(layer.attention_norm)
        self._encoder.add_layer(
            native_qkv,
            out,
            attention_norm,
            up,
            down,
            _norm(layer.output_norm),
            attention.window or 0,
            -1 if attention.rotary is None else rotaries.index(attention.rotary),
            queries,
            keys,
        )

    def _positions(self, weights: EncoderWeights, layer: LayerWeights) -> list[list[LinearWeights]]:
        """Return queries and keys of relative positions, (2S, D) for each head, or nothing."""
        if self.spec.relative is None:
            return [[], []]
        queries, keys = relative_projections(self.spec, weights, layer)
        bias = np.zeros(len(queries), np.float32)
        factor = np.float32(math.log2(math.e) * self.spec.score_scale)
        return [
            [
                LinearWeights(np.ascontiguousarray(head), bias)
                for head in np.split(table, self.spec.heads, axis=1)
            ]
            for table in (queries * factor, keys)
        ]

    def _add_head_step(self, step: HeadStep, weight: LinearWeights | NormWeights) -> None:
        if isinstance(step, DenseStep):
            assert isinstance(weight, LinearWeights)
            activation = getattr(_native.Activation, step.activation)
            self._encoder.add_dense(weight.weight, weight.bias, activation)
        else:
            assert isinstance(weight, NormWeights)
            self._encoder.add_norm(_norm(weight), step.eps)

    def encode(
        self, batch: TokenBatch, *, position: Callable[[int], int] | None = None
    ) -> NDArray[np.float32]:
        """Encode a ragged batch; one native call, GIL released.

        The call reads a copy of the batch: another thread that writes to its arrays does no harm.

        Args:
            batch: ids int32 (T,) in [0, V), offsets int32 (N + 1,), type_ids int32 (T,) or None.
            position: for messages, where the caller has the batch's i-th text; None for i.

        Returns:
            float32 (N, spec.outputs): pooled, through the head if there is one, and with unit rows
            when the spec says so.

        Raises:
            InputError: an array is not int32 (n,), or offsets do not rise from 0 to T.
            TokenRangeError: an id or type is outside its table, or a text is longer than the
                position table.
            EngineError: a vector came out with NaN or infinity; the text's position is named.
            MemoryError: scratch memory cannot be had.
            KeyboardInterrupt: Ctrl-C while encoding.
        """
        for name in ("ids", "offsets", "type_ids"):
            _check_array(name, getattr(batch, name))
        vectors = np.empty((max(len(batch.offsets) - 1, 0), self.spec.outputs), np.float32)
        # A model without token types ignores those that its tokenizer sets.
        bad = self._encoder.encode(batch.ids, batch.offsets, batch.type_ids, self.threads, vectors)
        if bad == -1:
            self._explain(batch)
        if bad is not None:
            at = bad if position is None else position(bad)
            raise EngineError(
                f"every number of a vector must be finite: text {at} came out with NaN or infinity; "
                "the model's weights are broken or too large for float32, encode with another model"
            )
        return vectors

    def _explain(self, batch: TokenBatch) -> NoReturn:
        """Say what is wrong with a batch that the encoder does not accept."""
        offsets, total = batch.offsets, len(batch.ids)
        if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != total:
            raise InputError(
                f"offsets must start with 0 and end with the number of tokens, {total}: "
                f"got {offsets[:1].tolist()} ... {offsets[-1:].tolist()}"
            )
        stalled = offsets[1:] <= offsets[:-1]
        if stalled.any():
            at = int(np.argmax(stalled))
            raise InputError(
                f"offsets must increase: got offsets[{at + 1}]={offsets[at + 1]} after "
                f"{offsets[at]}; every text has at least one token"
            )
        _check_range("token id", batch.ids, self.spec.vocab_size, "the word embeddings")
        if batch.type_ids is not None:
            if len(batch.type_ids) != total:
                raise InputError(
                    f"type_ids must have one value for each of {total} tokens: "
                    f"got {len(batch.type_ids)}"
                )
            types = self.spec.type_vocab_size
            if types:
                _check_range("token type", batch.type_ids, types, "the token type embeddings")
        lengths = np.diff(offsets)
        at = int(np.argmax(lengths))
        if lengths[at] <= self.spec.max_length:
            raise InputError(
                "the arrays of a batch must stay as they are while it is encoded: another thread "
                "wrote to them; encode a copy"
            )
        raise TokenRangeError(
            f"a text may have at most {self.spec.max_length} tokens: text {at} has "
            f"{int(lengths[at])}; truncate it"
        )


def relative_projections(
    spec: EncoderSpec, weights: EncoderWeights, layer: LayerWeights
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Project the relative positions as a layer projects its tokens.

    Formula:
        query(norm(relative)), key(norm(relative))

    Args:
        spec: the encoder.
        weights: with a table of relative positions, float32 (2S, H).
        layer: the layer whose query and key projections read the table.

    Returns:
        Queries and keys, two float32 (2S, H).
    """
    assert weights.relative is not None
    table = weights.relative
    if weights.relative_norm is not None:
        centered = table - table.mean(axis=1, keepdims=True)
        variance = np.square(centered).mean(axis=1, keepdims=True)
        scaled = centered / np.sqrt(variance + np.float32(spec.norm_eps))
        table = scaled * weights.relative_norm.gamma + weights.relative_norm.beta
    exact, both = dequantized(layer.qkv), np.s_[: 2 * spec.hidden_size]
    queries, keys = np.split(table @ exact.weight[both].T + exact.bias[both], 2, axis=1)
    return queries, keys


def _check_array(name: str, values: NDArray[np.int32] | None) -> None:
    if values is None and name == "type_ids":
        return
    if not isinstance(values, np.ndarray):
        raise InputError(f"{name} must be an int32 array: got {type(values).__name__}")
    if values.dtype != np.int32 or values.ndim != 1 or not values.flags.c_contiguous:
        raise InputError(
            f"{name} must be int32, one-dimensional and contiguous: got {values.dtype} "
            f"{values.shape} with strides {values.strides}; pass "
            f"np.ascontiguousarray({name}, np.int32)"
        )


def _check_range(what: str, values: NDArray[np.int32], size: int, table: str) -> None:
    if len(values) and (values.min() < 0 or values.max() >= size):
        at = int(np.argmax((values < 0) | (values >= size)))
        raise TokenRangeError(
            f"a {what} must be in 0..{size - 1} (rows of {table}): got {int(values[at])} at "
            f"position {at}; does the tokenizer belong to this model?"
        )


def _query_factor(spec: EncoderSpec) -> NDArray[np.float32]:
    """Return what the rows of qkv are multiplied with, float32 (3H,).

    The kernels want what scores are scaled with in the query, for a softmax in base two.
    """
    factor = np.ones(3 * spec.hidden_size, np.float32)
    factor[: spec.hidden_size] = math.log2(math.e) * spec.score_scale
    return factor


def _in_precision(linear: Linear, precision: Precision | None) -> Linear:
    if precision == "float32":
        return dequantized(linear)
    if precision == "int8" and isinstance(linear, LinearWeights):
        return quantize_weight(linear)
    return linear


def _scaled(linear: Linear, factor: NDArray[np.float32]) -> Linear:
    """Multiply the outputs of a layer with a factor each, float32 (O,)."""
    if isinstance(linear, QuantizedLinear):
        return replace(linear, scale=linear.scale * factor, bias=linear.bias * factor)
    return replace(linear, weight=linear.weight * factor[:, None], bias=linear.bias * factor)


def _with_copied_tables(weights: EncoderWeights) -> EncoderWeights:
    return replace(
        weights,
        word=weights.word.copy(),
        position=None if weights.position is None else weights.position.copy(),
        token_type=None if weights.token_type is None else weights.token_type.copy(),
    )


def _native_linear(linear: Linear) -> _LinearParts:
    if isinstance(linear, LinearWeights):
        return linear.weight, linear.bias
    if linear.input is None:
        return linear.weight, linear.scale, linear.bias
    return linear.weight, linear.scale, linear.bias, linear.input.scale, linear.input.zero


def _native_spec(spec: EncoderSpec) -> _native.EncoderSpec:
    return _native.EncoderSpec(
        hidden=spec.hidden_size,
        heads=spec.heads,
        intermediate=spec.intermediate_size,
        vocabulary=spec.vocab_size,
        positions=spec.max_positions,
        position_offset=spec.position_offset,
        token_types=spec.type_vocab_size,
        norm_eps=spec.norm_eps,
        activation=getattr(_native.Activation, spec.activation),
        gate=getattr(_native.Gate, spec.gate),
        norm_first=spec.norm_first,
        pooling=[getattr(_native.Pooling, mode) for mode in spec.poolings],
        normalize=spec.normalize,
    )


def _norm(norm: NormWeights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return norm.gamma, norm.beta
