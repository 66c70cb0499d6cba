"""Memory that quantizing a model and loading the result take, and the time of one text.

    python benchmarks/model_memory.py MODEL [--scheme int4 --group-size 128]
    python benchmarks/model_memory.py --shape qwen3-0.6b --out FILE.json
    python benchmarks/model_memory.py --shape mistral-7b --folder /large/disk
    python benchmarks/model_memory.py --shape mistral-7b --scheme int4 --tokens 512 --keep /large/disk/int4 --out FILE

MODEL is a model folder in floats; with --shape, one of random weights is written first (random_decoder.py). It is
quantized without text in a process of its own; another one loads the result, encodes a short text, and then three of
--tokens tokens. Prints MiB: sizes on disk; the peak of private memory while quantizing, which is what the process has
besides mapped files; the resident memory after loading, of which private, its peak while loading, and the peak while
the long texts are encoded. The temporary folder, on the disk of --folder, is removed.

With --keep the quantized folder stays there, and one that is there already is only loaded: the row of the same model
and scheme in --out gets the new figures. So the time can be measured later, on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import quaver
from random_decoder import SHAPES, write_folder

TEXTS = 3


def resident(name: str) -> int:
    """Return a memory figure of this process in MiB, from the kernel."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) // 1024


class Peak:
    """The largest private memory so far, sampled by a thread."""

    def __init__(self) -> None:
        """Begin to sample."""
        self.most = resident("RssAnon")
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, resident("RssAnon"))
            time.sleep(0.02)


def quantized(model: Path, target: Path, scheme: str, group: int) -> dict[str, Any]:
    """Quantize in this process."""
    before, peak = resident("RssAnon"), Peak()
    report = quaver.quantize(model, target, scheme=scheme, group_size=group)  # type: ignore[arg-type]
    return {
        "source_mib": report.source_bytes >> 20,
        "target_mib": report.target_bytes >> 20,
        "quantize_seconds": round(report.seconds, 1),
        "quantize_private_peak_mib": peak.most,
        "imports_private_mib": before,
    }


def loaded(folder: Path, tokens: int, threads: int | None) -> dict[str, Any]:
    """Load and encode in this process."""
    before, peak = resident("RssAnon"), Peak()
    begin = time.perf_counter()
    model = quaver.Embedder.from_pretrained(folder, threads=threads)
    model.encode("w5 w6 w7")
    found = {
        "load_seconds": round(time.perf_counter() - begin, 1),
        "loaded_rss_mib": resident("VmRSS"),
        "loaded_private_mib": resident("RssAnon"),
        "before_private_mib": before,
        "load_private_peak_mib": peak.most,
        "load_rss_peak_mib": resident("VmHWM"),
        "threads": model.threads,
        "isa": model.isa,
    }
    if tokens:
        ids = np.random.default_rng(0).integers(5, 1000, (TEXTS, tokens - 1))
        texts = [" ".join(f"w{i}" for i in row) for row in ids]
        times = []
        for text in texts:
            begin = time.perf_counter()
            model.encode(text)
            times.append(time.perf_counter() - begin)
        found |= {
            "tokens": tokens,
            "milliseconds_per_token": round(statistics.median(times) / tokens * 1e3, 3),
            "encode_rss_peak_mib": resident("VmHWM"),
        }
    return found


def in_process(*arguments: object) -> dict[str, Any]:
    """Run a part of this script in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def named(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what a row is of."""
    row = {"model": chosen.shape or chosen.model.resolve().name, "scheme": chosen.scheme}
    return row | ({"group_size": chosen.group_size} if chosen.scheme == "int4" else {})


def measured(chosen: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Quantize and load."""
    model, target = chosen.model, chosen.keep or place / "quantized"
    row = named(chosen)
    if not target.is_dir():
        if chosen.shape:
            model = write_folder(place / "floats", chosen.shape)
        common = ["--scheme", chosen.scheme, "--group-size", chosen.group_size]
        row |= in_process("--quantize", model, target, *common)
        if chosen.shape:
            shutil.rmtree(model)  # a large disk holds one of them
    threads = ["--threads", chosen.threads] if chosen.threads else []
    return row | in_process("--load", target, "--tokens", chosen.tokens, *threads)


def add_row(path: Path, row: dict[str, Any], same: dict[str, Any]) -> None:
    """Add a row to the file, or its figures to the row of the same model and scheme."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    known = [old for old in rows if {key: old.get(key) for key in same} == same]
    if known:
        known[-1].update(row)
    else:
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print, and add a row to the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--scheme", choices=("dynamic", "int4"), default="dynamic")
    parser.add_argument("--group-size", type=int, choices=(32, 64, 128), default=32)
    parser.add_argument("--tokens", type=int, default=0, help="of timed texts, with --shape")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="where temporary folders go")
    parser.add_argument("--keep", type=Path, help="where the quantized folder stays, or is already")
    parser.add_argument("--out", type=Path, help="JSON that gets the row")
    parser.add_argument("--quantize", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.quantize:
        print(json.dumps(quantized(*chosen.quantize, chosen.scheme, chosen.group_size)))
        return
    if chosen.load:
        print(json.dumps(loaded(chosen.load, chosen.tokens, chosen.threads)))
        return
    if (chosen.model is None) == (chosen.shape is None):
        parser.error("give a model folder or --shape")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as place:
        row = measured(chosen, Path(place))
    print(json.dumps(row, indent=1))
    if chosen.out:
        add_row(chosen.out, row, named(chosen))


if __name__ == "__main__":
    main()
