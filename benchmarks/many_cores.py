"""Simulate machines with many cores, and check the simulation against this one.

    make many-cores                                          # measure here, simulate, print and record
    python benchmarks/many_cores.py --build build/bench --costs FILE      # simulate with recorded costs
    python benchmarks/many_cores.py --page                   # write the record's figures into docs/internals/engine.md

The engine itself runs in the simulation: its schedule, stages and items (`native/engine`). Two things are replaced:
a kernel costs what it costs here (`measure`: the least of many runs on one core) instead of computing, and threads
exist in simulated time (`benchmarks/many_cores/simulated_threads.cpp`), where a hand-over costs what was published for
such machines. Who takes which item, who wakes whom and how long a thread looks before it sleeps is the pool's own code
(`native/threads/rules.h`); that file says what the rest assumes and leaves out. The models are the shapes of BGE small
and base in the form of `precision="int8"`, the batches those of `benchmarks/many_cores/workload.h`.

Kernels that are 4, 8 and 16 times as fast stand for other instruction sets. The schedule then counts with a rate of as
many times that of this machine's kernel table, as the tables of those sets have theirs. Weights are read as slowly.

"busy" is the time of one thread, divided by threads times the simulated time: whatever is not the work of one thread is
lost, be it waiting, hand-overs, waking, keys packed twice or weights read slowly. "slower" is how much longer a batch
of at most 512 tokens takes than with the number of threads that would have been the best one: what a better estimate of
the hand-overs could gain. The first machines are this one, with one and two threads, beside what was measured.

What the simulation cannot know: the clock of a machine that falls when all cores work; memory on another node (weights
lie where they were packed); pages and tables of addresses; threads that share a core, or that the system moves or does
not run; other programs; how well the cores' caches hold what the model says they hold. Kernels cost the same on every
core, and stay as fast when all cores work, but for the weights: a core reads them at `READ` GB/s, or `READ_ALONE`
where a few work, which are cautious assumptions. Embedding and pooling are not kernels and cost nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from quaver_bench.record import describe_run

REPOSITORY = Path(__file__).parents[1]
RECORD = REPOSITORY / "benchmarks" / "results" / "amd-epyc-zen3-2cores" / "many-cores.json"
PAGE = REPOSITORY / "docs" / "internals" / "engine.md"
START, END = "<!-- many-cores:start -->", "<!-- many-cores:end -->"
FORM = 'the form of `precision="int8"`'
"""Of the layers in `benchmarks/many_cores/workload.h`."""

# Median latencies of a cache line between cores, compare-exchange of two threads: 51 ns within an Ice Lake Xeon of
# 32 cores, 107 ns between the caches of an EPYC of 48, 108 ns between two of these Xeons and 197 ns between two EPYCs;
# 18 ns within one L3 of Zen 3. Source: github.com/nviennot/core-to-core-latency, README.md
LINE = {8: 51, 28: 51, 56: 108, 96: 197}
HERE = 18
CLAIM = 20
"""Nanoseconds of an atomic operation on a cache line that this core has."""
WAKE, NOTIFY = 50_000, 3_000
"""Nanoseconds until a sleeping thread runs, and to wake one: what `native/threads/threads.cpp` assumes."""
READ, READ_ALONE = 10, 40
"""GB/s of weights that a core reads while all others do, too, and at most while they do not: here one row of BGE base's
largest layer takes the time that 41 GB/s take."""
FASTER = (1.0, 4.0, 8.0, 16.0)
"""How many times as fast as here kernels are: with AVX2 here, 4 is about AVX512-VNNI, and the model of AMX
(docs/internals/kernels.md) lies between 8 and 16."""


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--build", type=Path, default=Path("build/bench"), help="where they are built"
    )
    parser.add_argument("--seconds", type=float, default=0.05, help="of each measurement")
    parser.add_argument("--costs", type=Path, help="a recorded result whose costs to use")
    parser.add_argument("--out", type=Path, help="where to record")
    parser.add_argument("--page", action="store_true", help=f"update {PAGE.name} instead")
    given = parser.parse_args()
    if given.page:
        before, _, after = PAGE.read_text(encoding="utf-8").partition(START)
        text = section(json.loads(RECORD.read_text()))
        PAGE.write_text(
            f"{before}{START}\n{text}\n{END}{after.partition(END)[2]}", encoding="utf-8"
        )
        return
    if given.costs is None:
        run = describe_run(2, sys.argv)
        lines = _run([given.build / "measure", str(given.seconds)], "")
    else:
        recorded = json.loads(given.costs.read_text())
        run, lines = recorded["run"], recorded["costs"]
    machines = {"here-1": (1, HERE, True, 1.0), "here-2": (2, HERE, True, 1.0)}
    for cores, line in LINE.items():
        for faster in FASTER:
            for awake in (True, False):
                name = f"{cores}-{faster:g}{'' if awake else '-asleep'}"
                machines[name] = (cores, line, awake, faster)
    asked = [
        f"machine {name} {cores} {line} {CLAIM} {WAKE} {NOTIFY} {int(awake)} "
        + ("1e9 1e9" if name.startswith("here") else f"{READ} {READ_ALONE}")
        + f" {faster}"
        for name, (cores, line, awake, faster) in machines.items()
    ]
    simulated = [
        dict(zip(FIELDS, line.split(), strict=True))
        for line in _run([given.build / "simulate"], "\n".join([*lines, *asked]))
    ]
    measured = {
        tuple(words[1:4]): float(words[4]) for words in map(str.split, lines) if words[0] == "call"
    }
    record: dict[str, Any] = {
        "run": run,
        "isa": lines[0].split()[1],
        "form": FORM,
        "here": [],
        "machines": [],
    }
    print(f"{'this machine':32} {'measured':>10} {'simulated':>10}")
    for row in simulated:
        cores, line, awake, faster = machines[row["machine"]]
        took, one = float(row["ns"]), float(row["ns_one"])
        result = {
            "model": row["model"],
            "batch": row["batch"],
            "cores": cores,
            "threads": int(row["threads"]),
            "teams": int(row["teams"]),
            "milliseconds": round(took / 1e6, 3),
        }
        if row["machine"].startswith("here"):
            real = measured.get((row["model"], row["batch"], str(cores)))
            if real is None:
                continue
            result |= {"measured": round(real / 1e6, 3), "error": round(took / real - 1, 3)}
            record["here"].append(result)
            print(
                f"{row['model']:6}{row['batch']:12} {cores} thread{'s' * (cores > 1):1}     "
                f"{real / 1e6:7.2f} ms {took / 1e6:7.2f} ms {result['error']:+7.1%}"
            )
        else:
            result |= {
                "awake": awake,
                "kernels_faster": faster,
                "line_ns": line,
                "times_one_core": round(one / took, 2),
                "busy": round(one / (cores * took), 3),
                "best_threads": int(row["best_threads"]),
                "slower_than_best": round(took / float(row["best_ns"]) - 1, 3),
            }
            record["machines"].append(result)
    _print_machines(record["machines"])
    record |= {
        "costs": lines,
        "assumed": {"claim_ns": CLAIM, "wake_ns": WAKE, "notify_ns": NOTIFY, "read_gb_s": READ}
        | {"read_alone_gb_s": READ_ALONE},
    }
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=1) + "\n")


FIELDS = (
    *("machine", "model", "batch", "threads", "teams", "ns_one", "ns", "work"),
    *("best_threads", "best_ns"),
)


def _print_machines(rows: list[dict[str, Any]]) -> None:
    for awake in (True, False):
        for faster in FASTER:
            print(
                f"\nshare of the cores that is busy (times one core), workers {'awake' if awake else 'asleep'}"
                + (f", kernels {faster:g} times as fast" if faster > 1 else "")
            )
            print(f"{'':20}" + "".join(f"{cores:>8} cores " for cores in LINE))
            cells: dict[str, str] = {}
            for row in rows:
                if row["awake"] == awake and row["kernels_faster"] == faster:
                    name = f"{row['model']:6}{row['batch']}"
                    cells[name] = cells.get(name, "") + (
                        f"{row['busy']:6.0%} ({row['times_one_core']:4.1f}) "
                    )
            for name, text in cells.items():
                print(f"{name:20}{text}")
    print(
        "\nshort batches, workers awake: threads that take part, the best number, how much slower"
    )
    print(f"{'':30}" + "".join(f"{cores:>10} cores" for cores in LINE))
    cells = {}
    for row in rows:
        if row["awake"] and row["batch"].startswith(("1x", "4x")):
            name = f"{row['model']:6}{row['batch']:8} {row['kernels_faster']:>4g} times"
            cells[name] = cells.get(name, "") + (
                f"{row['threads']:3} {row['best_threads']:3} {row['slower_than_best']:+7.0%} "
            )
    for name, text in cells.items():
        print(f"{name:30}{text}")


def section(record: dict[str, Any]) -> str:
    """Return what docs/internals/engine.md says of a record, between `START` and `END`."""
    errors = sorted(row["error"] for row in record["here"])
    rows = {
        (row["model"], row["batch"], row["cores"], row["awake"], row["kernels_faster"]): row
        for row in record["machines"]
    }
    cores = sorted({row["cores"] for row in record["machines"]})
    speeds = sorted({row["kernels_faster"] for row in record["machines"]})
    fastest = speeds[-1]
    lines = [
        f"With the costs of `{record['isa']}` on an {record['run']['cpu']} (Zen 3), for layers in "
        f"{record.get('form', 'eight bits with one range of inputs and symmetric weights')}",
        f"([record](../../{RECORD.relative_to(REPOSITORY).as_posix()})), the simulated times of {len(errors)} calls "
        "with one and two threads differ from the",
        f"measured ones by {100 * errors[0]:+.0f} to {100 * errors[-1]:+.0f} %, in the median "
        f"{100 * median(errors):+.0f} %. How busy the "
        "simulated cores are, with workers awake, and in brackets with",
        f"kernels that are {fastest:g} times as fast:",
        "",
        f"| texts x tokens | {cores[0]} cores | {' | '.join(map(str, cores[1:]))} |",
        f"| --- |{' ---: |' * len(cores)}",
    ]
    for model, batch, name in (
        ("small", "32x256", "32 x 256"),
        ("small", "128x256", "128 x 256"),
        ("small", "64-ragged", "64 of 8 to 512"),
        ("base", "32x256", "32 x 256"),
        ("base", "64-ragged", "64 of 8 to 512"),
        ("base", "1x512", "1 x 512"),
        ("base", "1x16", "1 x 16"),
    ):
        cells = [
            "{:.0f} % ({:.0f})".format(
                *(100 * rows[model, batch, count, True, speed]["busy"] for speed in (1.0, fastest))
            )
            for count in cores
        ]
        lines.append(f"| {model}, {name} | {' | '.join(cells)} |")
    one = rows["base", "1x512", 28, True, 1.0]["times_one_core"]
    slow = rows["base", "1x512", 28, False, fastest]["times_one_core"]
    lines += [
        "",
        f"So one text of 512 tokens (base) is {one:.0f} times as fast on 28 cores as on one, and {slow:.0f} times if "
        "the kernels are faster and the workers have to wake up.",
        "Many texts at a time keep all cores busy; a short one gains little from more than eight.",
    ]
    if "best_threads" in record["machines"][0]:
        lines += [
            "Threads that take part in one text, by how many times as fast the kernels are, and in brackets how much "
            "longer it takes than with the best number of threads:",
            "",
            f"| one text, cores | {' | '.join(f'{speed:g}' for speed in speeds)} |",
            f"| --- |{' ---: |' * len(speeds)}",
        ]
        for model in ("small", "base"):
            for tokens in (16, 128, 512):
                for count in (28, 96):
                    found = [rows[model, f"1x{tokens}", count, True, speed] for speed in speeds]
                    cells = [
                        f"{row['threads']} ({100 * row['slower_than_best']:+.0f} %)"
                        for row in found
                    ]
                    lines.append(f"| {model}, {tokens} tokens, {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _run(command: list[str | Path], text: str) -> list[str]:
    done = subprocess.run(
        list(map(str, command)), input=text, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed with code {done.returncode}")
    return done.stdout.splitlines()


if __name__ == "__main__":
    main()
