"""Measure time per token and memory for texts of 512 to 32,768 tokens: the cost of attention.

    python benchmarks/long_inputs.py                    all shapes and lengths, int8
    python benchmarks/long_inputs.py --precision float32 --shapes modernbert
    python benchmarks/long_inputs.py --shapes qwen3 --out FILE.json
    python benchmarks/long_inputs.py --instructions     what causal layers and a last token save, under valgrind

Random weights in the shapes of published models, one text per call, the median of the calls in four
seconds. Each length runs in its own process; its memory is the peak resident size minus that before the first
call.
"modernbert-local" has a window in every layer: its time per token must not grow. "qwen3" is causal and pools the last
token; a text of 32,768 tokens takes minutes.

--instructions counts what one call executes with callgrind, one thread, 2,048 tokens, in a model whose attention is
most of the work: what two calls execute minus what one does. Counts do not depend on the load of the machine.
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
from quaver_bench.record import describe_run

LENGTHS = (512, 2048, 8192)
DECODER_LENGTHS = (*LENGTHS, 32768)
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
    "qwen3": {
        "model_type": "qwen3",
        "vocab_size": 1000,
        "hidden_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "max_position_embeddings": 32768,
    },
}
# Heads are most of the work.
_NARROW = CONFIGS["qwen3"] | {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 64,
}
COUNTED: dict[str, dict[str, Any]] = {
    "every token sees all": _NARROW | {"is_causal": False},
    "causal": _NARROW,
    "causal, last token": _NARROW,
}
COUNTED_LENGTH = 2048
LIKE = {
    "modernbert": "gte-modernbert-base (768 x 22)",
    "modernbert-local": "the same, no global layer",
    "gte": "gte-base-en-v1.5 (768 x 12)",
    "qwen3": "two layers of Qwen3-Embedding-0.6B (1024 x 2)",
}


def random_weights(spec: EncoderSpec) -> EncoderWeights:
    """Draw random weights; the time of a forward pass does not depend on them."""
    chance = np.random.default_rng(0)
    hidden = spec.hidden_size

    def linear(outputs: int, inputs: int) -> LinearWeights:
        weight = chance.standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)
        return LinearWeights(weight, np.zeros(outputs, np.float32))

    def norm_of(size: int) -> NormWeights:
        return NormWeights(
            np.ones(size, np.float32), np.zeros(size, np.float32), spec.layers[0].norm
        )

    norm = norm_of(hidden)
    layers = tuple(
        LayerWeights(
            qkv=linear(layer.query_width + 2 * layer.kv_width, hidden),
            out=linear(hidden, layer.query_width),
            attention_norm=norm,
            up=linear(layer.up_width, hidden),
            down=linear(hidden, layer.intermediate_size),
            output_norm=norm,
            query_norm=norm_of(layer.head_size) if layer.head_norms else None,
            key_norm=norm_of(layer.head_size) if layer.head_norms else None,
        )
        for layer in spec.layers
    )
    return EncoderWeights(
        word=chance.standard_normal((spec.vocab_size, hidden), np.float32),
        position=None,
        token_type=None,
        embedding_norm=norm if spec.layers[0].norm == "layer" else None,
        layers=layers,
        final_norm=norm if spec.layers[-1].norm_places == "before" else None,
    )


def measure(shape: str, length: int, precision: Any, threads: int | None) -> dict[str, float]:
    """Time one length in this process."""
    pooling = "lasttoken" if CONFIGS[shape]["model_type"] == "qwen3" else "mean"
    spec = replace(encoder_spec(CONFIGS[shape], pooling=pooling, normalize=True), type_vocab_size=0)
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


def run_counted(name: str, calls: int, precision: Any) -> None:
    """Encode one text so many times, for callgrind."""
    pooling = "lasttoken" if name.endswith("last token") else "mean"
    spec = encoder_spec(COUNTED[name], pooling=pooling, normalize=True)
    engine = Engine(spec, random_weights(spec), precision=precision, threads=1)
    ids = np.random.default_rng(1).integers(5, spec.vocab_size, COUNTED_LENGTH).astype(np.int32)
    batch = TokenBatch(ids, np.array([0, COUNTED_LENGTH], np.int32), None, 0)
    for _ in range(calls):
        engine.encode(batch)


def instructions(name: str, precision: str) -> int:
    """Return what one call executes."""
    counts = []
    for calls in (1, 2):
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        command += [
            sys.executable,
            __file__,
            "--counted",
            name,
            str(calls),
            "--precision",
            precision,
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        counts.append(int(done.stderr.rpartition("Collected :")[2].split()[0]))
    return counts[1] - counts[0]


def count_instructions(precision: str) -> None:
    """Print a row for each form."""
    print("| form | million instructions | of the first |")
    print("| --- | ---: | ---: |")
    first = 0
    for name in COUNTED:
        count = instructions(name, precision)
        first = first or count
        print(f"| {name} | {count / 1e6:.0f} | {count / first:.2f} |", flush=True)


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
    parser.add_argument("--out", type=Path, help="JSON record, written after each row")
    parser.add_argument("--instructions", action="store_true", help="count them, with valgrind")
    parser.add_argument("--one", nargs=2, metavar=("SHAPE", "LENGTH"), help=argparse.SUPPRESS)
    parser.add_argument("--counted", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.counted:
        run_counted(chosen.counted[0], int(chosen.counted[1]), chosen.precision)
        return
    if chosen.instructions:
        count_instructions(chosen.precision)
        return
    if chosen.one:
        shape, length = chosen.one
        print(json.dumps(measure(shape, int(length), chosen.precision, chosen.threads)))
        return
    print("| shape | tokens | µs a token | memory, MiB |")
    print("| --- | ---: | ---: | ---: |")
    rows: list[dict[str, Any]] = []
    for shape in chosen.shapes.split(","):
        for length in DECODER_LENGTHS if shape == "qwen3" else LENGTHS:
            command = [sys.executable, __file__, "--one", shape, str(length)]
            command += ["--precision", chosen.precision]
            command += ["--threads", str(chosen.threads)] if chosen.threads else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout)
            print(
                f"| {LIKE[shape]} | {length} | {row['microseconds']:.0f} | {row['mebibytes']:.0f} |",
                flush=True,
            )
            rows.append({"shape": LIKE[shape], "tokens": length, **row})
            if chosen.out:
                record = {
                    "run": describe_run(row["threads"], sys.argv),
                    "precision": chosen.precision,
                }
                text = json.dumps(record | {"rows": rows}, indent=1)
                chosen.out.write_text(text + "\n", encoding="utf-8")
    print(f"\n{chosen.precision}, {row['threads']} threads")


if __name__ == "__main__":
    main()
