"""Measure the memory of indexing over time.

    python benchmarks/index/memory.py MODEL CORPUS.jsonl ... --passages 1000000 --out RESULT.json

The texts are repeated with every sentence changed, written to a folder, and indexed as by
``quaver index``. Only the first layer of the model runs, and passages are short, so a million of them
take minutes instead of hours. Reading, storing and searching, whose memory grows with the number of
passages, are not affected: vectors keep their length. ``--all-layers`` runs the whole model.

A row of the result has the passages stored, the seconds, the anonymous memory in MB, and the memory
mapped from the store's files, which the system can reclaim. To see that it does, set a limit:

    systemd-run --scope -p MemoryMax=1500M python benchmarks/index/memory.py ...
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from corpus import finish, memory, questions, write_folder
from safetensors.numpy import load_file, save_file

from quaver import Embedder, Index
from quaver.index import UpdateProgress

_LATER_LAYER = re.compile(r"encoder\.layer\.[1-9]")


def one_layer(model: Path, folder: Path) -> Path:
    """Write a model that has only the first layer of another."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if not _LATER_LAYER.search(name)}
    save_file(kept, folder / "model.safetensors")
    return folder


class Recorder:
    """Records the memory at regular intervals, in a thread.

    Attributes:
        rows: What was recorded.
        passages: How many are stored; set by the caller.
    """

    def __init__(self, seconds: float) -> None:
        """Start the thread.

        Args:
            seconds: Between two rows.
        """
        self.rows: list[dict[str, float]] = []
        self.passages = 0
        self._begin, self._seconds, self._done = time.perf_counter(), seconds, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(self._seconds):
            self.note()

    def note(self) -> None:
        """Add a row."""
        row = {"passages": self.passages, "seconds": round(time.perf_counter() - self._begin)}
        self.rows.append({**row, **memory()})
        print(self.rows[-1], flush=True)

    def stop(self) -> None:
        """Stop the thread and add a last row."""
        self._done.set()
        self._thread.join()
        self.note()


def disk(folder: Path) -> float:
    """Return the size of a folder on disk in MB."""
    files = (file.stat() for file in folder.rglob("*") if file.is_file())
    return sum(file.st_blocks * 512 for file in files) / 1e6


def main() -> None:
    """Read the arguments, index, and write the results."""
    parser = argparse.ArgumentParser(description="Measure the memory of indexing.")
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("corpora", type=Path, nargs="+", help=".jsonl files of texts")
    parser.add_argument("--passages", type=int, default=100_000, help="about how many")
    parser.add_argument("--passage-tokens", type=int, default=64)
    parser.add_argument("--vectors", default="float32", help="float32, int8 or binary")
    parser.add_argument("--all-layers", action="store_true", help="run the whole model")
    parser.add_argument("--every", type=float, default=20, help="seconds between rows")
    parser.add_argument("--place", type=Path, help="folder for temporary files")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.place) as name:
        place = Path(name)
        model = arguments.model
        if not arguments.all_layers:
            model = one_layer(model, place / "model")
        embedder = Embedder.from_pretrained(model)
        result = measure(embedder, place, arguments)
    finish(result, arguments.out)


def measure(embedder: Embedder, place: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Index a folder of about this many passages, then search and update again.

    Args:
        embedder: The model.
        place: Folder for the files.
        arguments: From the command line.

    Returns:
        What was measured.
    """
    store, folder = place / "kb", place / "docs"
    tokens = arguments.passage_tokens
    # Passages per text, from the first thousand.
    write_folder(place / "trial", arguments.corpora, 1000)
    with Index.create(place / "trial-kb", embedder, passage_tokens=tokens) as trial:
        each = trial.update(place / "trial").added / 1000
    write_folder(folder, arguments.corpora, round(arguments.passages / each * 1.02))
    recorder = Recorder(arguments.every)

    def show(progress: UpdateProgress) -> None:
        recorder.passages = progress.passages

    with Index.create(store, embedder, passage_tokens=tokens, vectors=arguments.vectors) as index:
        first = index.update(folder, on_progress=show)
    recorder.stop()
    result: dict[str, Any] = {
        "model": "all layers" if arguments.all_layers else "first layer",
        "dimension": embedder.dimension,
        "vectors": arguments.vectors,
        "passage_tokens": tokens,
        "files": first.files,
        "passages": first.added,
        "seconds": first.seconds,
        "disk_mb": disk(store),
        "most_anonymous_mb": max(row["anonymous_mb"] for row in recorder.rows),
        "rows": recorder.rows,
    }
    recorder = Recorder(arguments.every)
    with Index.open(store, embedder) as index:
        again = index.update(folder)
        for question in questions(arguments.corpora, 100):
            index.search(question)
    recorder.stop()
    result["again"] = {
        "unchanged": again.unchanged,
        "added": again.added,
        "seconds": again.seconds,
        "most_anonymous_mb": max(row["anonymous_mb"] for row in recorder.rows),
    }
    return result


if __name__ == "__main__":
    main()
