"""Cost of each rounding in int8, alone and together, and of bfloat16.

    python benchmarks/rounding.py MODEL TEXTS [--count 40]
    python benchmarks/rounding.py MODEL TEXTS ... --forms [--json FILE]
    python benchmarks/rounding.py MODEL TEXTS ... --schemes [--calibration TEXTS ...] [--json FILE]
    python benchmarks/rounding.py MODEL TEXTS ... --bfloat16 [--json FILE]

MODEL is a model folder; TEXTS a folder of documents, or a .jsonl file with "text" in its lines. Prints the loss, 1 -
mean cosine to float32 in parts of 10,000, also of vectors less their mean, with the first percentile and the smallest
cosine. For a cross-encoder it prints the mean difference of scores; its pairs are the first twelve words of each text
with that text and with the next one.

Alone, the roundings of symmetric weights and single ranges are simulated in NumPy, for BERT models. With --forms the
engine runs whole forms of int8, from one scale for each output to the default; with --schemes, what `quaver quantize`
makes: dynamic without text; with --calibration also dynamic and static with text that is not among TEXTS, the same
number from each source. With --bfloat16 it runs both precisions with weights in bfloat16; a CPU that does not multiply
bfloat16 needs the build of `make test-emulated` (PYTHONPATH=build/emulated QUAVER_ISA=avx512vnni).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.engine.eight_bits import eight_bits
from quaver.engine.engine import Engine
from quaver.engine.forward import embed, run_layer
from quaver.engine.instruction_sets import choose_isa
from quaver.engine.native_model import Precision
from quaver.evaluate.fidelity import row_cosines
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.folder import ModelFolder
from quaver.models.geometry import EncoderSpec
from quaver.models.linear import Linear, dequantized, quantize_weight, rounded_rows
from quaver.models.modules import cross_encoder_spec, model_tensors
from quaver.models.tokenizer import TokenBatch
from quaver.quantization.calibration import calibration_texts
from quaver.quantization.convert import Recipe, convert, convert_calibrated
from quaver.reference import normalized, pool
from quaver_bench.record import describe_run

FloatArray = NDArray[np.float32]
LINEARS = ("qkv", "out", "up", "down")
PARTS = ("query", "key", "weight", "value")
IN_BFLOAT16: dict[str, Precision] = {
    "bfloat16-weights": "bfloat16-weights",
    "bfloat16": "bfloat16",
}


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


def forms(spec: EncoderSpec, weights: EncoderWeights) -> dict[str, EncoderWeights]:
    """Quantize a model in several forms, each with one change more, up to the default."""
    how = eight_bits(spec, weights)

    def made(
        name: str, *, asymmetric: bool, groups: bool, power: bool, wide: bool
    ) -> tuple[str, EncoderWeights]:
        layers = []
        for i, parts in enumerate(weights.layers):
            linears: dict[str, Linear] = {}
            for field in LINEARS:
                linears[field] = quantize_weight(
                    dequantized(getattr(parts, field)),
                    symmetric=not asymmetric or field == "out",
                    groups=how.ends[i] if groups and field == "down" else (),
                    power=how.power[i, field] if power else None,
                )
            layers.append(replace(parts, **linears))  # type: ignore[arg-type]
        return name, replace(weights, layers=tuple(layers), wide=how.wide if wide else None)

    plain = {"asymmetric": False, "groups": False, "power": False, "wide": False}
    return dict(
        [
            made("one range, symmetric", **plain),
            made("wide features apart", **{**plain, "wide": True}),
            made("asymmetric", **{**plain, "asymmetric": True}),
            made("both", **{**plain, "wide": True, "asymmetric": True}),
            made("and groups of down", asymmetric=True, groups=True, power=False, wide=True),
            made("and scales by loss", asymmetric=True, groups=True, power=True, wide=True),
        ]
    )


def schemes(
    spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch | None
) -> Iterator[tuple[str, EncoderWeights]]:
    """Quantize a model as `quaver quantize` does, without text, and with it if there is some."""
    yield "dynamic", convert(spec, weights).quantized
    if batch is None:
        return
    for name, recipe in {
        "dynamic, calibrated": Recipe("dynamic", "gptq", "mse"),
        "static": Recipe("static", "gptq", "mse"),
        "static, strict": Recipe("static", "gptq", "mse", strict=True),
    }.items():
        yield name, convert_calibrated(spec, weights, recipe, batch, lambda _: None).quantized


def chosen(options: argparse.Namespace) -> tuple[dict[str, list[str]], list[str]]:
    """Return the texts to read, by source, and as many calibration texts from each of its sources, all different."""
    read = {
        "/".join(path.parts[-2:]): list(calibration_texts(path, options.count).texts)
        for path in options.texts
    }
    taken = {text for texts in read.values() for text in texts}
    calibration: list[str] = []
    for path in options.calibration:
        share = options.samples // len(options.calibration)
        candidates = calibration_texts(path, share + options.count).texts
        calibration += [text for text in candidates if text not in taken][:share]
    return read, calibration


def compare_in_engine(options: argparse.Namespace) -> None:
    """Run forms or schemes of int8 in the engine and print a row for each."""
    folder = ModelFolder.open(options.model)
    scores = folder.is_cross_encoder
    spec = cross_encoder_spec(folder) if scores else folder.encoder_spec(normalize=True)
    weights = encoder_weights(spec, model_tensors(folder, spec))
    weights = replace(weights, layers=tuple(weights.layers))
    tokenizer = folder.tokenizer(min(options.length, spec.length_within(folder.max_seq_length)))
    read, calibration = chosen(options)
    texts = [text for part in read.values() for text in part]

    def query(text: str) -> str:
        return " ".join(text.split()[:12])

    def tokens(texts: Sequence[str]) -> TokenBatch:
        if scores:
            return tokenizer.encode_pairs([(query(text), text) for text in texts])
        return tokenizer.encode(texts)

    batch = tokens(texts)
    if scores:
        others = [*texts[1:], texts[0]]
        queries = [query(text) for text in texts]
        pairs = [*zip(queries, texts, strict=True), *zip(queries, others, strict=True)]
        batch = tokenizer.encode_pairs(pairs)

    def outputs(made: EncoderWeights, precision: Precision | None) -> NDArray[np.float64]:
        engine = Engine(spec, made, precision=precision)
        return np.concatenate([engine.encode(part) for _, part in batch.split(8192)]).astype(float)

    truth = outputs(weights, "float32")
    sources = np.repeat(np.arange(len(read)), [len(part) for part in read.values()])
    found: dict[str, Any] = {
        "model": options.name or folder.name,
        "texts": list(read),
        "inputs": len(batch),
        "tokens": int(batch.offsets[-1]),
        "longest": options.length,
        "isa": choose_isa(None),
        "commit": describe_run(1, sys.argv)["commit"],
    }
    made: Iterable[tuple[str, EncoderWeights]]
    if options.bfloat16:
        made = [(name, weights) for name in IN_BFLOAT16]
    elif options.forms:
        made = forms(spec, weights).items()
    else:
        text = tokens(calibration) if calibration else None
        found["calibration"] = ["/".join(path.parts[-2:]) for path in options.calibration]
        if text is not None:
            found |= {"calibrated_on": len(text), "calibration_tokens": int(text.offsets[-1])}
        made = schemes(spec, weights, text)
    rows = found["rows"] = []
    for name, quantized in made:
        got = outputs(quantized, IN_BFLOAT16.get(name))
        row: dict[str, Any] = {"form": name}
        if scores:
            row["difference"] = float(np.abs(got - truth).mean())
        else:
            raw = row_cosines(got, truth)
            centred = row_cosines(got, truth, centre=truth.mean(axis=0))
            row |= {
                "loss": round(1e4 * (1 - float(raw.mean())), 3),
                "centred": round(1e4 * (1 - float(centred.mean())), 3),
                "p1": round(float(np.percentile(raw, 1)), 6),
                "min": round(float(raw.min()), 6),
            }
            if options.schemes:
                row["by_source"] = {
                    source: round(1e4 * (1 - float(raw[sources == number].mean())), 3)
                    for number, source in enumerate(read)
                }
        rows.append(row)
        print(" | ".join(map(str, row.values())), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=40, help="texts from each source")
    parser.add_argument("--length", type=int, default=192, help="tokens of a text, with --forms")
    parser.add_argument("--forms", action="store_true", help="compare forms of int8 in the engine")
    parser.add_argument(
        "--schemes", action="store_true", help="compare what `quaver quantize` makes"
    )
    parser.add_argument("--calibration", type=Path, nargs="*", default=[], help="of --schemes")
    parser.add_argument("--samples", type=int, default=128, help="calibration texts in all")
    parser.add_argument("--name", help="the model's name in the file; default: its folder's")
    parser.add_argument("--json", type=Path, help="write the rows of the engine to a file")
    parser.add_argument(
        "--bfloat16", action="store_true", help="compare precisions with weights in bfloat16"
    )
    options = parser.parse_args()
    if options.forms or options.schemes or options.bfloat16:
        compare_in_engine(options)
        return
    folder = ModelFolder.open(options.model)
    spec = encoder_spec(folder.config, pooling=folder.pooling, normalize=folder.normalize)
    weights = encoder_weights(spec, folder.tensors())
    tokenizer = folder.tokenizer(spec.length_within(folder.max_seq_length))
    batch = tokenizer.encode(calibration_texts(options.texts[0], options.count).texts)
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
