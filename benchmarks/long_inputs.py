"""Measure time per token and memory for texts of 512, 2048 and 8192 tokens: the cost of attention.

    python benchmarks/long_inputs.py                    all shapes and lengths, int8
    python benchmarks/long_inputs.py --precision float32 --shapes modernbert

Random weights in the shapes of published models, one text per call, the median of the calls in four
seconds. Each length runs in its own process; its memory is the peak resident size minus that before the first
call.
"modernbert-local" has a window in every layer: its time per token must not grow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from quaver.engine.engine import Engine
from quaver.models.encoder_weights import EncoderWeights, LayerWeights, NormWeights
from quaver.models.families.registry import encoder_spec
from quaver.models.geometry import EncoderSpec
from quaver.models.linear import LinearWeights
from quaver.models.tokenizer import TokenBatch

LENGTHS = (512, 2048, 8192)
LEAST_SECONDS = 4.0
_BASE = {
    "vocab_size": 1000,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "max_position_embeddings": 8192,
}
_MODERNBERT = _BASE | {
    "model_type": "modernbert",
    "num_hidden_layers": 22,
    "intermediate_size": 1152,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "modernbert": _MODERNBERT,
    "modernbert-local": _MODERNBERT | {"layer_types": ["sliding_attention"] * 22},
    "gte": _BASE | {"model_type": "new", "num_hidden_layers": 12, "intermediate_size": 3072},
}
LIKE = {
    "modernbert": "gte-modernbert-base (768 x 22)",
    "modernbert-local": "the same, no global layer",
    "gte": "gte-base-en-v1.5 (768 x 12)",
}


def random_weights(spec: EncoderSpec) -> EncoderWeights:
    """Draw random weights; the time of a forward pass does not depend on them."""
    chance = np.random.default_rng(0)
    hidden = spec.hidden_size

    def linear(outputs: int, inputs: int) -> LinearWeights:
        weight = chance.standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)
        return LinearWeights(weight, np.zeros(outputs, np.float32))

    norm = NormWeights(np.ones(hidden, np.float32), np.zeros(hidden, np.float32))
    layers = tuple(
        LayerWeights(
            qkv=linear(layer.query_width + 2 * layer.kv_width, hidden),
            out=linear(hidden, layer.query_width),
            attention_norm=norm,
            up=linear(layer.up_width, hidden),
            down=linear(hidden, layer.intermediate_size),
            output_norm=norm,
        )
        for layer in spec.layers
    )
    return EncoderWeights(
        word=chance.standard_normal((spec.vocab_size, hidden), np.float32),
        position=None,
        token_type=None,
        embedding_norm=norm,
        layers=layers,
        final_norm=norm if spec.layers[-1].norm_places == "before" else None,
    )


def measure(shape: str, length: int, precision: Any, threads: int | None) -> dict[str, float]:
    """Time one length in this process."""
    spec = replace(encoder_spec(CONFIGS[shape], pooling="mean", normalize=True), type_vocab_size=0)
    engine = Engine(spec, random_weights(spec), precision=precision, threads=threads)
    ids = np.random.default_rng(1).integers(5, spec.vocab_size, length).astype(np.int32)
    batch = TokenBatch(ids, np.array([0, length], np.int32), None, 0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak of loading
    before, times = resident("VmRSS"), list[float]()
    while sum(times) < LEAST_SECONDS:
        start = time.perf_counter()
        engine.encode(batch)
        times.append(time.perf_counter() - start)
    peak = resident("VmHWM")
    return {
        "microseconds": statistics.median(times) / length * 1e6,
        "mebibytes": (peak - before) / 1024,
        "threads": engine.threads,
    }


def resident(name: str) -> int:
    """Return a memory figure of this process in KiB, from the kernel."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Measure every length in its own process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=",".join(CONFIGS), help="with commas")
    parser.add_argument("--precision", choices=("int8", "float32"), default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--one", nargs=2, metavar=("SHAPE", "LENGTH"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        shape, length = chosen.one
        print(json.dumps(measure(shape, int(length), chosen.precision, chosen.threads)))
        return
    print("| shape | tokens | µs a token | memory, MiB |")
    print("| --- | ---: | ---: | ---: |")
    for shape in chosen.shapes.split(","):
        for length in LENGTHS:
            command = [sys.executable, __file__, "--one", shape, str(length)]
            command += ["--precision", chosen.precision]
            command += ["--threads", str(chosen.threads)] if chosen.threads else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout)
            print(
                f"| {LIKE[shape]} | {length} | {row['microseconds']:.0f} | {row['mebibytes']:.0f} |",
                flush=True,
            )
    print(f"\n{chosen.precision}, {row['threads']} threads")


if __name__ == "__main__":
    main()
