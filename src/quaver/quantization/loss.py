"""The loss of int8 on calibration text, layer by layer, and how to keep it within a bound."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quaver.engine import Engine, Place, token_spans
from quaver.models import EncoderSpec, EncoderWeights, ModelKind, TokenBatch
from quaver.quantization.convert import linear_places, with_linears

_MAX_BATCH_TOKENS = 16384
# Texts on which each layer is measured alone: the shares only decide the order to try.
_SHARE_TEXTS = 32


@dataclass(frozen=True)
class Bounded:
    """A model whose loss is within a bound.

    Attributes:
        weights: int8, except for the layers in `kept`.
        kept: the layers in float32.
        loss: of these weights.
        shares: the loss of each layer alone, divided by the sum over all; empty if the bound
            is met with every layer in int8.
        slowdown: time with the kept layers in float32 / time with all in int8, or None.
    """

    weights: EncoderWeights
    kept: tuple[Place, ...]
    loss: float
    shares: dict[Place, float]
    slowdown: float | None


class LossMeter:
    """Measures the loss of int8 weights on calibration text, against the same engine in float32.

    For an embedder: 1 - the mean cosine between the two vectors of a text; for a sparse encoder the
    vectors are weights of words, for a multi-vector model those of each token count. For a
    cross-encoder: 1 - Pearson's correlation between the two scores, averaged over labels.
    """

    def __init__(
        self, spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch, *, kind: ModelKind
    ) -> None:
        """Run the text through the float32 model.

        Args:
            spec: the encoder.
            weights: float32 weights.
            batch: calibration text.
            kind: what the model's outputs are.
        """
        self._spec, self._batch, self._kind = spec, batch, kind
        self._truth = self._outputs(Engine(spec, weights, precision="float32"), batch)

    def loss(self, weights: EncoderWeights, texts: int | None = None) -> float:
        """Return the loss of some weights on the first `texts` texts, or on all."""
        count = len(self._batch) if texts is None else min(texts, len(self._batch))
        part = self._batch.select(0, count)
        outputs = self._outputs(Engine(self._spec, weights, precision=None), part)
        return self._difference(outputs, self._truth[: len(outputs)])

    def seconds(self, engines: Sequence[EncoderWeights]) -> list[float]:
        """Time several weights on the text in turns; return the median of five runs for each."""
        made = [Engine(self._spec, weights, precision=None) for weights in engines]
        runs: list[list[float]] = [[] for _ in made]
        for _ in range(6):
            for engine, times in zip(made, runs, strict=True):
                begin = time.perf_counter()
                self._outputs(engine, self._batch)
                times.append(time.perf_counter() - begin)
        return [statistics.median(times[1:]) for times in runs]

    def _outputs(self, engine: Engine, batch: TokenBatch) -> NDArray[np.float64]:
        tokens = self._kind == "multi-vector"
        parts = [
            engine.encode(part, spans=token_spans(part) if tokens else None)
            for _, part in batch.split(_MAX_BATCH_TOKENS)
        ]
        return np.concatenate(parts).astype(np.float64)

    def _difference(self, got: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
        axis = 0 if self._kind == "cross-encoder" else 1
        if axis == 0:
            got, truth = got - got.mean(axis=0), truth - truth.mean(axis=0)
        lengths = np.sqrt(np.square(got).sum(axis=axis) * np.square(truth).sum(axis=axis))
        return float(1 - ((got * truth).sum(axis=axis) / np.maximum(lengths, 1e-300)).mean())


def keep_within(
    meter: LossMeter,
    exact: EncoderWeights,
    quantized: EncoderWeights,
    bound: float,
    progress: Callable[[str], object],
) -> Bounded:
    """Keep the layers that cost most in float32 until the loss is within a bound.

    Each layer is measured alone: it in int8, all others in float32. Then layers go back to float32,
    the one with the largest loss first, until the loss of the whole model is within the bound. With all
    of them in float32 it is 0.

    Args:
        meter: measures the loss.
        exact: float32 weights.
        quantized: the same in int8.
        bound: the largest loss allowed, see `LossMeter`.
        progress: called with the name of each step.

    Returns:
        weights whose loss is within the bound.
    """
    loss = meter.loss(quantized)
    if loss <= bound:
        return Bounded(quantized, (), loss, {}, None)
    originals, places = dict(linear_places(exact)), dict(linear_places(quantized))
    alone: dict[Place, float] = {}
    for place, linear in places.items():
        alone[place] = max(0.0, meter.loss(with_linears(exact, {place: linear}), _SHARE_TEXTS))
        progress(f"{place[0]} {place[1]}")
    total = sum(alone.values()) or 1.0
    shares = {place: value / total for place, value in alone.items()}
    order = sorted(alone, key=lambda place: -alone[place])
    weights, kept = quantized, []
    for place in order:
        kept.append(place)
        weights = with_linears(weights, {place: originals[place]})
        loss = meter.loss(weights)
        progress(f"keep {place[0]} {place[1]}")
        if loss <= bound:
            break
    int8, mixed = meter.seconds([quantized, weights])
    return Bounded(weights, tuple(kept), loss, shares, mixed / int8)
