"""A plan on paper for a billion passages on 100 machines of 32 cores, from speeds measured on two cores.

    python benchmarks/bulk/paper_plan.py

It measures nothing: speeds are those of benchmarks/results, and cores are taken to add up. Qwen3-Embedding-0.6B
was measured on Zen 3 alone, with its shape and random weights; on the others its speed is that of BGE-base divided by
the ratio of their products for a token.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
PASSAGES, TOKENS_OF_A_PASSAGE, BYTES_OF_A_TOKEN = 10**9, 100, 4.5
MACHINES, CORES = 100, 32
CORE_PRICE = 0.04
"""Dollars of a core in an hour, as clouds ask for machines on demand; spot is a third of it."""
SHARD_BYTES = 64 << 20
RECORD_BYTES = 640
"""A line of the manifest, with a path of 60 characters."""
# Products of a token in the layers: 12 of BGE-base (4 * 768^2 + 2 * 768 * 3072); 28 of Qwen3-0.6B with 16 query and 8
# key-value heads of 128 (2 * 1024 * 2048 + 2 * 1024 * 1024) and a gated inner size of 3072 (3 * 1024 * 3072).
BGE_BASE = 12 * (4 * 768**2 + 2 * 768 * 3072)
QWEN = 28 * (2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072)
# What others ask for a million tokens, as their pages said in November 2026.
PRICES = {"Qwen3-Embedding-0.6B by API, the cheapest": 0.002, "the same, others": 0.01}
GPU = "8 A100 on spot: 685 million short messages for $6.75 (multilingual-e5-small, dev.to/artain)"
MACHINES_MEASURED = (("amd-epyc-zen5-2cores", "Zen 5"), ("amd-epyc-zen4-2cores", "Zen 4"))
MODELS = {
    "MiniLM-L6": ("all-MiniLM-L6-v2", 384),
    "BGE-small": ("bge-small-en-v1.5 shape", 384),
    "BGE-base": ("bge-base-en-v1.5 shape", 768),
}


def speed(machine: str, model: str) -> float:
    """Return the tokens per second of int8 on two cores: of ragged batches where they were measured, else the best."""
    rows = json.loads((RESULTS / machine / "results.json").read_text())["rows"]
    found = {
        row["case"]: row["values"]["tokens_per_second"]
        for row in rows
        if (row["part"], row["model"], row["engine"]) == ("throughput", model, "quaver-int8")
    }
    ragged = [value for case, value in found.items() if case.startswith("ragged")]
    return max(ragged or list(found.values()))


def decoder_speed() -> float:
    """Return the tokens per second of Qwen3-0.6B's shape with random weights, in batches of 8 texts of 256 tokens."""
    rows = json.loads((RESULTS / "amd-epyc-zen3-2cores" / "decoders.json").read_text())["rows"]
    (row,) = (row for row in rows if (row["shape"], row["case"]) == ("qwen3-0.6b", "8x256"))
    return float(row["engines"]["quaver-int8"]["tokens_per_second"])


def main() -> None:
    """Print the tables as Markdown."""
    tokens = PASSAGES * TOKENS_OF_A_PASSAGE
    shards = round(tokens * BYTES_OF_A_TOKEN / SHARD_BYTES)
    print(
        f"{PASSAGES:,} passages of {TOKENS_OF_A_PASSAGE} tokens, {tokens * BYTES_OF_A_TOKEN / 1e9:,.0f} GB of text: "
        f"{shards:,} shards of 64 MiB, a manifest of {shards * RECORD_BYTES / 1e6:.0f} MB; {MACHINES} machines of "
        f"{CORES} cores at ${CORE_PRICE:g} for a core and hour.\n"
    )
    print(
        "| model | vectors, float32 | CPU | tokens/s, 2 cores | hours | dollars | $ per million tokens |"
    )
    print("|---|---|---|---|---|---|---|")
    lines = [
        (name, dimension, cpu, speed(machine, model))
        for name, (model, dimension) in MODELS.items()
        for machine, cpu in MACHINES_MEASURED
    ]
    lines += [
        (
            "Qwen3-0.6B, estimated",
            1024,
            cpu,
            speed(machine, MODELS["BGE-base"][0]) * BGE_BASE / QWEN,
        )
        for machine, cpu in MACHINES_MEASURED
    ]
    lines.append(("Qwen3-0.6B's shape, measured", 1024, "Zen 3", decoder_speed()))
    for name, dimension, cpu, rate in lines:
        core_hours = tokens / rate * 2 / 3600
        dollars = core_hours * CORE_PRICE
        print(
            f"| {name} | {PASSAGES * dimension * 4 / 1e12:.1f} TB | {cpu} | {rate:,.0f} | "
            f"{core_hours / MACHINES / CORES:.1f} | {dollars:,.0f} | {dollars / tokens * 1e6:.4f} |"
        )
    print()
    for name, price in PRICES.items():
        print(f"- {name}: ${price:g} for a million tokens, ${tokens / 1e6 * price:,.0f} for these")
    print(f"- {GPU}")


if __name__ == "__main__":
    main()
