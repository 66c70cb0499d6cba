"""EncoderSpec + weights + TokenBatch -> vectors. The only caller of the native encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from quaver import _native
from quaver.engine.eight_bits import in_eight_bits
from quaver.engine.footprint import table_bytes
from quaver.engine.instruction_sets import permitted_isa, require_bfloat16
from quaver.engine.native_model import PRECISIONS, Precision, computes_in, native_model
from quaver.engine.threads import choose_threads
from quaver.errors import (
    EngineError,
    InputError,
    TokenRangeError,
    UnsupportedArchitectureError,
)
from quaver.models import (
    MAX_LENGTH,
    DenseStep,
    EncoderSpec,
    EncoderWeights,
    LinearWeights,
    TokenBatch,
    gathered,
)


class Engine:
    """An encoder with its weights packed for one instruction set.

    In "int8" the linear layers multiply u8 activations (one scale and zero point for each token)
    with s8 weights (one scale for each output), and attention quantizes its heads the same way;
    norms and embeddings stay float32. "float32" is the same engine with float weights. "bfloat16"
    multiplies weights, activations and heads that are rounded to bfloat16 and adds in float32, on
    CPUs with instructions for it. "bfloat16-weights" rounds the weights alone: half the memory,
    products and sums in float32, on every CPU. Weights that are int8 already keep their integers;
    some of a model's layers may be int8 and others float32.

    A text's vector is the same bits alone, in any batch, at any position, and with any number of
    threads. Several Python threads may call `encode` at once; the work runs without the GIL. Ctrl-C
    ends a long call.

    Attributes:
        spec: the encoder.
        precision: as asked for; for None "int8" when at least one linear layer computes in int8,
            else "float32".
        isa: the instruction set in use.
        threads: how many threads take part in a call at most.
        nbytes: bytes of the packed weights and of the tables, mapped or not.
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
        token_head: LinearWeights | None = None,
    ) -> None:
        """Pack the weights.

        Args:
            spec: the encoder.
            weights: its weights, float32. Linear layers and norms are copied.
            copy_tables: copy the embedding tables, too. Otherwise they are read in place and stay
                alive with the engine; where they are mapped from a file, writing to the file
                changes vectors, and cutting it short ends the process.
            precision: what the linear layers compute in: "int8" quantizes those in float32,
                "float32" dequantizes those in int8, "bfloat16" and "bfloat16-weights" do so and
                round all weights to bfloat16, None leaves each as it is.
            threads: at least 1; None takes the CPUs this process may use.
            isa: instruction set to force; None takes QUAVER_ISA, else the best available.
            token_head: a layer (E, H) that reads each token's last state in float32, for
                `encode_tokens_too`; only for a model without head and words that does not normalize.

        Raises:
            InputError: precision or threads is invalid.
            InstructionSetError: isa is unknown or not available here, or does not multiply bfloat16
                where precision asks for that.
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
        self._width = spec.outputs
        if token_head is not None:
            spec, weights = _with_token_head(spec, weights, token_head)
            self._width = spec.outputs
        self.precision: Precision = computes_in(weights, precision)
        self.isa = permitted_isa(isa)
        if precision == "bfloat16":
            require_bfloat16(self.isa)
        self.threads = choose_threads(threads)
        self._encoder = _native.Encoder(
            self.isa, native_model(spec, _prepared(spec, weights, precision), precision)
        )
        self.nbytes = self._encoder.weight_bytes + table_bytes(spec, weights, precision)
        # What a text begins with can be computed once for several where no token of it sees those behind.
        self._splits = (
            spec.poolings == ("lasttoken",)
            and spec.words is None
            and all(layer.causal for layer in spec.layers)
        )

    def encode(
        self,
        batch: TokenBatch,
        *,
        spans: NDArray[np.int32] | None = None,
        position: Callable[[int], int] | None = None,
    ) -> NDArray[np.float32]:
        """Encode a ragged batch; one native call, GIL released.

        With `spans` it pools parts of the texts instead of whole ones, each token still reading its
        whole text: a span of one token gives the vector of that token. A vector of each token is
        `spans=token_spans(batch)`.

        The call reads a copy of the batch: another thread that writes to its arrays does no harm.

        Args:
            batch: ids int32 (T,) in [0, V), offsets int32 (N + 1,), type_ids int32 (T,) or None.
            spans: int32 (S, 2), for each span its first token and the one after its last, counted
                as `batch.ids` is; text by text, none across two texts. None for the whole texts.
            position: for messages, where the caller has the batch's i-th text; None for i.

        Returns:
            float32 (N, spec.outputs), or (S, spec.outputs) for spans: pooled, through the head if
            there is one, and with unit rows when the spec says so.

        Raises:
            InputError: an array is not int32 of its shape, offsets do not rise from 0 to T, a span
                is empty or not inside one text, or a text with fewer keys than tokens is longer than
                the model's window.
            TokenRangeError: an id or type is outside its table, or a text is longer than the
                position table.
            EngineError: a vector came out with NaN or infinity; the text's position is named.
            MemoryError: scratch memory cannot be had.
            KeyboardInterrupt: Ctrl-C while encoding.
        """
        vectors = self._encode(batch, spans, position)
        if self._width == self.spec.outputs:
            return vectors
        return np.ascontiguousarray(vectors[:, : self.spec.outputs])

    def encode_tokens_too(
        self, batch: TokenBatch, *, position: Callable[[int], int] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode a ragged batch, and read each token with the engine's token head; one native call.

        Args:
            batch: as for `encode`.
            position: as for `encode`.

        Returns:
            float32 (N, spec.outputs) as `encode` returns them, and float32 (T, E) of the tokens.

        Raises:
            InputError: the engine has no token head, or as for `encode`.
            TokenRangeError: as for `encode`.
            EngineError: as for `encode`.
        """
        if self._width == self.spec.outputs:
            raise InputError("the engine was made without a token head; give it one")
        # Before the spans of each text's tokens goes the whole text.
        counts = np.diff(batch.offsets)
        texts = np.arange(len(counts)) + batch.offsets[:-1]
        whole = np.stack([batch.offsets[:-1], batch.offsets[1:]], axis=1)
        spans = np.insert(token_spans(batch), batch.offsets[:-1], whole, axis=0)
        vectors = self._encode(batch, spans, position)
        tokens = np.delete(vectors[:, self.spec.outputs :], texts, axis=0)
        return np.ascontiguousarray(vectors[texts, : self.spec.outputs]), tokens

    def _encode(
        self,
        batch: TokenBatch,
        spans: NDArray[np.int32] | None,
        position: Callable[[int], int] | None,
    ) -> NDArray[np.float32]:
        for name in ("ids", "offsets", "type_ids", "keys", "splits", "unpooled"):
            _check_array(name, getattr(batch, name))
        if batch.splits is not None and spans is None and self._splits:
            return self._encode_split(batch, batch.splits, position)
        if batch.unpooled is not None and spans is None:
            if len(batch.unpooled) != len(batch.offsets) - 1:
                raise InputError(
                    f"unpooled must have a count for each of {len(batch.offsets) - 1} texts: got "
                    f"{len(batch.unpooled)}"
                )
            spans = np.stack([batch.offsets[:-1] + batch.unpooled, batch.offsets[1:]], axis=1)
        rows, bounds, parts = max(len(batch.offsets) - 1, 0), None, None
        if spans is not None:
            bounds, parts = self._spans_by_text(batch, spans)
            rows = len(parts)
        vectors = np.empty((rows, self._width), np.float32)
        # A model without token types ignores those that its tokenizer sets.
        bad = self._encoder.encode(
            batch.ids,
            batch.offsets,
            batch.type_ids,
            self.threads,
            vectors,
            batch.keys,
            bounds,
            parts,
        )
        if bad == -1:
            self._explain(batch)
        if bad is not None:
            if bounds is not None:
                bad = int(np.searchsorted(bounds, bad, side="right")) - 1
            _refuse_not_finite(bad, position)
        return vectors

    def _encode_split(
        self,
        batch: TokenBatch,
        splits: NDArray[np.int32],
        position: Callable[[int], int] | None,
    ) -> NDArray[np.float32]:
        """Encode texts that begin with tokens of a query alone, these once for all texts that share them.

        Alone a text goes through the layers as a whole, but is split at the same token: in eight bits values
        depend on all that are packed together. So its bits are the same.
        """
        vectors = np.empty((len(batch), self._width), np.float32)
        offsets = batch.offsets
        if len(splits) != len(batch) or (np.diff(offsets) <= 0).any() or offsets[-1] > batch.tokens:
            self._explain(batch)
        sharing: dict[bytes, list[int]] = {}
        for i, (first, split) in enumerate(
            zip(offsets[:-1].tolist(), splits.tolist(), strict=True)
        ):
            sharing.setdefault(batch.ids[first : first + max(split, 0)].tobytes(), []).append(i)
        alone = [texts[0] for texts in sharing.values() if len(texts) == 1] + (
            sharing[b""] if len(sharing.get(b"", ())) > 1 else []
        )
        parts: list[tuple[list[int], int]] = [(sorted(alone), 0)] if alone else []
        parts += [(t, len(k) // 4) for k, t in sharing.items() if k and len(t) > 1]
        for texts, shared in parts:
            pieces = [batch.ids[offsets[i] + shared : offsets[i + 1]] for i in texts]
            bounds = np.concatenate([[0], np.cumsum([len(p) for p in pieces])]).astype(np.int32)
            prefix = None
            if shared:
                first = int(offsets[texts[0]])
                ids = np.ascontiguousarray(batch.ids[first : first + shared])
                prefix = self._encoder.prefix(ids, self.threads)
            found = np.empty((len(texts), self._width), np.float32)
            bad: int | None = -1
            if prefix is not None or not shared:
                bad = self._encoder.encode(
                    np.concatenate(pieces),
                    bounds,
                    None,
                    self.threads,
                    found,
                    splits=None if shared else np.ascontiguousarray(splits[texts]),
                    prefix=prefix,
                )
            if bad == -1:
                self._explain(batch)
            if bad is not None:
                _refuse_not_finite(texts[bad], position)
            vectors[texts] = found
        return vectors

    def _spans_by_text(
        self, batch: TokenBatch, spans: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the first span of each text, and the spans counted from the start of their text."""
        if not isinstance(spans, np.ndarray) or spans.dtype != np.int32 or spans.shape[1:] != (2,):
            got = getattr(spans, "dtype", type(spans).__name__)
            raise InputError(f"spans must be int32 (S, 2): got {got} {np.shape(spans)}")
        if self.spec.words is not None:
            raise InputError("spans are pooled, and this model weighs words; leave spans out")
        texts = np.searchsorted(batch.offsets, spans[:, 0], side="right").astype(np.int32) - 1
        inside = (texts >= 0) & (texts < len(batch.offsets) - 1) & (spans[:, 0] < spans[:, 1])
        inside[inside] = spans[inside, 1] <= batch.offsets[texts[inside] + 1]
        if not inside.all() or (np.diff(texts) < 0).any():
            at = int(np.argmin(inside))
            raise InputError(
                "spans must have at least one token, lie inside one text each, and come text by text: "
                f"got spans[{at}]={spans[at].tolist()}"
            )
        bounds = np.searchsorted(texts, np.arange(len(batch.offsets))).astype(np.int32)
        return bounds, np.ascontiguousarray(spans - batch.offsets[texts][:, None])

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
        if batch.keys is not None and lengths[at] <= self.spec.max_length:
            raise InputError(
                "keys must have a count for each text, from 1 to its tokens, and a text with fewer keys "
                "than tokens must fit the model's attention windows: got "
                f"{np.shape(batch.keys)} for {len(lengths)} texts of at most {int(lengths[at])} tokens"
            )
        if lengths[at] <= self.spec.max_length:
            raise InputError(
                "the arrays of a batch must stay as they are while it is encoded: another thread "
                "wrote to them; encode a copy"
            )
        raise TokenRangeError(
            f"a text may have at most {self.spec.max_length} tokens: text {at} has "
            f"{int(lengths[at])}; truncate it"
        )


def _refuse_not_finite(at: int, position: Callable[[int], int] | None) -> NoReturn:
    raise EngineError(
        f"every number of a vector must be finite: text {at if position is None else position(at)} came out "
        "with NaN or infinity; the model's weights are broken or too large for float32, encode with another "
        "model"
    )


def _with_token_head(
    spec: EncoderSpec, weights: EncoderWeights, head: LinearWeights
) -> tuple[EncoderSpec, EncoderWeights]:
    """Let a head return a pooled vector as it is, then the outputs of another layer.

    Why the identity: texts and tokens share a call, and one head. Its products add zeros to each
    feature, so a vector keeps its values.
    """
    assert not spec.head
    assert spec.words is None
    assert not spec.normalize
    size = spec.pooled_size
    weight = np.concatenate([np.eye(size, dtype=np.float32), head.weight])
    bias = np.concatenate([np.zeros(size, np.float32), head.bias])
    step = DenseStep("token_head", len(bias), "none")
    return replace(spec, head=(step,)), replace(weights, head=(LinearWeights(weight, bias),))


def token_spans(batch: TokenBatch, kept: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    """Return a span of one token for each token, for `Engine.encode`.

    Args:
        batch: the texts.
        kept: bool (T,), which tokens get one; None for all.

    Returns:
        int32 (S, 2).
    """
    first = np.arange(batch.tokens, dtype=np.int32)
    if kept is not None:
        first = first[kept]
    return np.stack([first, first + 1], axis=1)


def _check_array(name: str, values: NDArray[np.int32] | None) -> None:
    if values is None and name in ("type_ids", "keys", "splits", "unpooled"):
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


def _prepared(
    spec: EncoderSpec, weights: EncoderWeights, precision: Precision | None
) -> EncoderWeights:
    """Return the weights that are packed; those that have an order already stay as they are."""
    if precision in ("float32", "bfloat16", "bfloat16-weights") or weights.order is not None:
        return weights
    return gathered(spec, in_eight_bits(spec, weights) if precision == "int8" else weights)


def _with_copied_tables(weights: EncoderWeights) -> EncoderWeights:
    return replace(
        weights,
        word=weights.word.copy(),
        position=None if weights.position is None else weights.position.copy(),
        token_type=None if weights.token_type is None else weights.token_type.copy(),
    )
