"""Simulate machines with many cores, and check the simulation against this one.

    make many-cores                                          # measure here, simulate, print and record
    python benchmarks/many_cores.py --build build/bench --costs FILE      # simulate with recorded costs

The engine itself runs in the simulation: its schedule, stages and items (`native/engine`). Two things are replaced:
a kernel costs what it costs here (`measure`: the least of many runs on one core) instead of computing, and threads
exist in simulated time (`benchmarks/many_cores/simulated_threads.cpp`), where a hand-over costs what was published for
such machines. The models are the shapes of BGE small and base in int8, the batches those of
`benchmarks/many_cores/workload.h`.

"busy" is the time of one thread, divided by threads times the simulated time: whatever is not the work of one thread is
lost, be it waiting, hand-overs, waking, keys packed twice or weights read slowly. The first machines are this one, with
one and two threads, beside what was measured.

What the simulation cannot know: the clock of a machine that falls when all cores work; memory on another node (weights
lie where they were packed); pages and tables of addresses; threads that share a core, or that the system moves or does
not run; other programs; how well the cores' caches hold what the model says they hold. Kernels cost the same on every
core, and stay as fast when all cores work, but for the weights: a core reads them at `READ` GB/s, which is a cautious
assumption. Embedding and pooling are not kernels and cost nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from quaver_bench.record import describe_run

# Median latencies of a cache line between cores, compare-exchange of two threads: 51 ns within an Ice Lake Xeon of
# 32 cores, 107 ns between the caches of an EPYC of 48, 108 ns between two of these Xeons and 197 ns between two EPYCs;
# 18 ns within one L3 of Zen 3. Source: github.com/nviennot/core-to-core-latency, README.md
LINE = {8: 51, 28: 51, 56: 108, 96: 197}
HERE = 18
CLAIM = 20
"""Nanoseconds of an atomic operation on a cache line that this core has."""
WAKE, NOTIFY = 50_000, 3_000
"""Nanoseconds until a sleeping thread runs, and to wake one: what `native/threads/threads.cpp` assumes."""
READ = 10
"""GB/s of weights that a core reads while all others do, too."""


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--build", type=Path, default=Path("build/bench"), help="where they are built"
    )
    parser.add_argument("--seconds", type=float, default=0.05, help="of each measurement")
    parser.add_argument("--costs", type=Path, help="a recorded result whose costs to use")
    parser.add_argument("--out", type=Path, help="where to record")
    given = parser.parse_args()
    if given.costs is None:
        run = describe_run(2, sys.argv)
        lines = _run([given.build / "measure", str(given.seconds)], "")
    else:
        recorded = json.loads(given.costs.read_text())
        run, lines = recorded["run"], recorded["costs"]
    machines = {"here-1": (1, HERE, True, 1.0), "here-2": (2, HERE, True, 1.0)}
    for cores, line in LINE.items():
        for faster in (1.0, 4.0):
            for awake in (True, False):
                name = f"{cores}{'' if faster == 1 else '-fast'}{'' if awake else '-asleep'}"
                machines[name] = (cores, line, awake, faster)
    asked = [
        f"machine {name} {cores} {line} {CLAIM} {WAKE} {NOTIFY} {int(awake)} "
        f"{1e9 if name.startswith('here') else READ} {faster}"
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
            }
            record["machines"].append(result)
    _print_machines(record["machines"])
    record |= {
        "costs": lines,
        "assumed": {"claim_ns": CLAIM, "wake_ns": WAKE, "notify_ns": NOTIFY, "read_gb_s": READ},
    }
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=1) + "\n")


FIELDS = ("machine", "model", "batch", "threads", "teams", "ns_one", "ns", "work")


def _print_machines(rows: list[dict[str, Any]]) -> None:
    for awake in (True, False):
        for faster in (1.0, 4.0):
            print(
                f"\nshare of the cores that is busy (times one core), workers {'awake' if awake else 'asleep'}"
                + (", kernels 4 times as fast" if faster > 1 else "")
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


def _run(command: list[str | Path], text: str) -> list[str]:
    done = subprocess.run(
        list(map(str, command)), input=text, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed with code {done.returncode}")
    return done.stdout.splitlines()


if __name__ == "__main__":
    main()
