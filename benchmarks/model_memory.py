"""Memory that quantizing a model and loading the result take.

    python benchmarks/model_memory.py MODEL [--scheme int4]

MODEL is a model folder in floats. It is quantized without text into a temporary folder, which is then loaded and
encodes one text. Prints sizes, and private memory in MiB: its peak while quantizing, and what loading adds.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import quaver


def private() -> int:
    """Return the private memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = next(line for line in lines if line.startswith("RssAnon"))
    return int(found.split()[1]) // 1024


class Peak:
    """The largest private memory so far, sampled by a thread."""

    def __init__(self) -> None:
        """Begin to sample."""
        self.most = private()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, private())
            time.sleep(0.02)


def main() -> None:
    """Print two lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--scheme", choices=("dynamic", "int4"), default="dynamic")
    options = parser.parse_args()
    peak = Peak()
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "quantized"
        report = quaver.quantize(options.model, target, scheme=options.scheme)
        print(
            f"quantize: {report.source_bytes >> 20} MiB to {report.target_bytes >> 20} MiB, "
            f"{report.seconds:.0f} s, at most {peak.most} MiB"
        )
        before = private()
        peak.most = before
        model = quaver.Embedder.from_pretrained(target)
        model.encode("a text")
        print(f"load: {private() - before} MiB more than {before}, at most {peak.most} MiB")


if __name__ == "__main__":
    main()
