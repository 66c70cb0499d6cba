"""Cost of each rounding in int8, alone and together, in NumPy.

    python benchmarks/rounding.py MODEL TEXTS [--count 40]

MODEL is a BERT model folder; TEXTS a folder of documents, or a .jsonl file with "text" in its lines.
Prints the loss, 1 - mean cosine to float32 in parts of 10,000, with the first percentile and the
smallest cosine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quaver.engine.forward import embed, run_layer
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.folder import ModelFolder
from quaver.models.geometry import EncoderSpec
from quaver.models.linear import Linear, dequantized, quantize_weight, rounded_rows
from quaver.models.tokenizer import TokenBatch
from quaver.quantization.calibration import calibration_texts
from quaver.reference import normalized, pool

FloatArray = NDArray[np.float32]
LINEARS = ("qkv", "out", "up", "down")
PARTS = ("query", "key", "weight", "value")


@dataclass(frozen=True)
class Rounding:
    """What is rounded.

    Attributes:
        weights: linear layers with rounded weights.
        inputs: linear layers with a rounded input.
        attention: rounded parts of attention.
        centred: whether the mean is subtracted from values, and attention weights are normalized, before rounding.
        first_twice: whether qkv gets the first token's row twice.
    """

    weights: Sequence[str] = ()
    inputs: Sequence[str] = ()
    attention: Sequence[str] = ()
    centred: bool = True
    first_twice: bool = True


def symmetric(x: FloatArray, axis: int) -> FloatArray:
    """Round to 127 steps on each side of zero, one scale along an axis."""
    scale = np.maximum(np.abs(x).max(axis=axis, keepdims=True) / np.float32(127), 1e-30)
    return np.asarray(np.rint(x / scale) * scale, np.float32)


def attend(qkv: FloatArray, spec: EncoderSpec, batch: TokenBatch, how: Rounding) -> FloatArray:
    """Compute `quaver.engine.forward.attention` with rounding."""
    tokens, layer = len(qkv), spec.layers[0]
    q, k, v = np.moveaxis(qkv.reshape(tokens, 3, layer.heads, -1), 0, 2)
    if "query" in how.attention:
        q = rounded_rows(q.reshape(-1, layer.head_size)).reshape(q.shape)
    if "key" in how.attention:
        k = symmetric(k, 2)
    context = np.empty_like(q)
    for begin, end in pairwise(batch.offsets):
        one = np.s_[:, begin:end]
        mean = v[one].mean(axis=1, keepdims=True) if how.centred else np.float32(0)
        values = v[one] - mean
        if "value" in how.attention:
            values = symmetric(values, 1)
        scores = q[one] @ k[one].swapaxes(1, 2) * np.float32(layer.score_scale)
        powers = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights = np.rint(powers * 255) / np.float32(255) if "weight" in how.attention else powers
        total = (powers if how.centred else weights).sum(axis=2, keepdims=True)
        context[one] = weights / total @ values + mean
    return np.ascontiguousarray(context.swapaxes(0, 1)).reshape(tokens, layer.query_width)


def vectors(
    spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch, how: Rounding
) -> FloatArray:
    """Encode with rounding; return float32 (N, H), unit rows."""
    x = embed(spec, weights, batch)
    for layer, parts in zip(spec.layers, weights.layers, strict=True):
        names = {id(getattr(parts, name)): name for name in LINEARS}

        def apply(x: FloatArray, linear: Linear, names: dict[int, str] = names) -> FloatArray:
            name, exact = names[id(linear)], dequantized(linear)
            read = rounded_rows(x) if name in how.inputs else x
            if name == "qkv" and how.first_twice and read is not x:
                first = batch.offsets[:-1]
                read[first] += rounded_rows(x[first] - read[first])
            if name in how.weights:
                exact = dequantized(quantize_weight(exact))
            return np.asarray(read @ exact.weight.T + exact.bias, np.float32)

        x = run_layer(
            layer,
            parts,
            x,
            lambda qkv: attend(qkv, spec, batch, how),
            eps=spec.norm_eps,
            apply=apply,
        )
    return normalized(pool(spec, x, batch.offsets)).astype(np.float32)


def cases() -> dict[str, Rounding]:
    """List what is measured, by name."""
    everything = Rounding(LINEARS, LINEARS, PARTS)
    return {
        "everything": everything,
        "everything, first row once, values with their mean": replace(
            everything, centred=False, first_twice=False
        ),
        "weights": Rounding(weights=LINEARS),
        **{f"weights of {name}": Rounding(weights=[name]) for name in LINEARS},
        "inputs": Rounding(inputs=LINEARS),
        "inputs, first row once": Rounding(inputs=LINEARS, first_twice=False),
        **{f"input of {name}": Rounding(inputs=[name]) for name in LINEARS},
        "input of qkv, first row once": Rounding(inputs=["qkv"], first_twice=False),
        "attention": Rounding(attention=PARTS),
        "attention, values with their mean": Rounding(attention=PARTS, centred=False),
        **{f"attention, {part}": Rounding(attention=[part]) for part in PARTS},
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--count", type=int, default=40)
    options = parser.parse_args()
    folder = ModelFolder.open(options.model)
    spec = encoder_spec(folder.config, pooling=folder.pooling, normalize=folder.normalize)
    weights = encoder_weights(spec, folder.tensors())
    tokenizer = folder.tokenizer(spec.length_within(folder.max_seq_length))
    batch = tokenizer.encode(calibration_texts(options.texts, options.count).texts)
    truth = vectors(spec, weights, batch, Rounding()).astype(np.float64)
    print(f"{len(batch)} texts, {batch.offsets[-1]} tokens\n\n| rounded | loss | p1 | min |")
    print("|---|---:|---:|---:|")
    for name, how in cases().items():
        c = (vectors(spec, weights, batch, how) * truth).sum(axis=1)
        print(
            f"| {name} | {1e4 * (1 - c.mean()):.2f} | {np.percentile(c, 1):.5f} | {c.min():.5f} |"
        )


if __name__ == "__main__":
    main()
