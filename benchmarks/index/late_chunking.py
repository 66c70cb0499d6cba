"""What late chunking gives a search, and what it costs.

    python benchmarks/index/late_chunking.py MODEL --sets SET ... --tokens 64 128 --out FILE.json

A set is a folder in BEIR's layout whose ids tell documents from their parts: NAME-0, NAME-1 or NAME_0. Each document
becomes a file of its parts, which `Index.update` splits into passages; a judged part is found where a passage of it
is. NDCG@10 without late chunking is the baseline, with the 95 % interval of the difference over questions.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from quaver import Embedder, Index
from quaver.evaluate import Measured, Task, compare_models, read_task
from quaver.store import Hit, Mode

DEPTH = 100
SEPARATOR = "\n\n"
_PART = re.compile(r"(.+)[-_]\d+")


class Files:
    """The documents of a set as files, and where their judged parts are.

    Attributes:
        texts: text of each file.
        parts: of each file, the id of each part with its first character and the one after its last.
    """

    def __init__(self, folder: Path) -> None:
        """Read a set.

        Args:
            folder: Its folder.
        """
        self.texts: dict[str, str] = defaultdict(str)
        self.parts: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
        for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            matched = _PART.fullmatch(row["_id"])
            if matched is None:
                raise SystemExit(
                    f"late_chunking: ids must end in the number of the part: got {row['_id']!r}"
                )
            file = f"{matched[1]}.txt"
            if not self.texts[file] and row.get("title"):
                self.texts[file] = row["title"] + SEPARATOR
            start = len(self.texts[file])
            self.parts[file].append((row["_id"], start, start + len(row["text"])))
            self.texts[file] += row["text"] + SEPARATOR

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        folder.mkdir()
        for name, text in self.texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="")

    def found(self, hits: list[Hit]) -> dict[str, float]:
        """Return the parts that passages belong to, with a score that falls with the rank."""
        order: dict[str, None] = {}
        for hit in hits:
            shares = {
                part: min(stop, hit.end) - max(start, hit.start)
                for part, start, stop in self.parts[hit.source]
            }
            for part in sorted(shares, key=lambda part: -shares[part]):
                if shares[part] > 0:
                    order.setdefault(part)
        return {part: 1 / rank for rank, part in enumerate(order, start=1)}


class FileSystem:
    """A search of the files' passages, for `compare_models`.

    Attributes:
        name: Heading of the column.
        seconds: CPU seconds of indexing, by task.
        passages: Passages, by task.
    """

    def __init__(
        self, name: str, embedder: Embedder, files: dict[str, Files], mode: Mode, **options: Any
    ) -> None:
        """Wrap a search.

        Args:
            name: Heading of the column.
            embedder: The model.
            files: The documents of each task.
            mode: As for `Index.search`.
            **options: As for `Index.create`.
        """
        self.name = name
        self.seconds: dict[str, float] = {}
        self.passages: dict[str, int] = {}
        self._embedder, self._files, self._mode, self._options = embedder, files, mode, options

    def measure(self, task: Task) -> Measured:
        """Index the files, and search for each question."""
        files = self._files[task.name]
        with tempfile.TemporaryDirectory() as place:
            files.write(Path(place) / "files")
            with Index.create(Path(place) / "kb", self._embedder, **self._options) as index:
                begin = time.process_time()
                report = index.update(Path(place) / "files")
                self.seconds[task.name] = time.process_time() - begin
                self.passages[task.name] = report.added
                return Measured(
                    {
                        question: files.found(index.search(text, k=DEPTH, mode=self._mode))
                        for question, text in task.queries.items()
                    }
                )


def main() -> None:
    """Measure the sets of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or hub id, with mean pooling")
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64], help="of a passage")
    parser.add_argument("--mode", default="dense", help="as for quaver search")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    embedder = Embedder.from_pretrained(asked.model, threads=asked.threads)
    tasks = [read_task(folder) for folder in asked.sets]
    files = {task.name: Files(folder) for task, folder in zip(tasks, asked.sets, strict=True)}
    rows: list[dict[str, Any]] = []
    print("| set | questions | passages of | without | with | difference | 95 % interval | CPU |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for task in tasks:
        for tokens in asked.tokens:
            options = {"passage_tokens": tokens}
            plain = FileSystem("without", embedder, files, asked.mode, **options)
            late = FileSystem("with", embedder, files, asked.mode, late_chunking=True, **options)
            report = compare_models({"without": plain, "with": late}, task, baseline="without")
            difference = report.tasks[0].differences["with"]
            cost = late.seconds[task.name] / plain.seconds[task.name]
            rows.append(
                {
                    "set": task.name,
                    "questions": len(task.queries),
                    "files": len(files[task.name].texts),
                    "passages": late.passages[task.name],
                    "passage_tokens": tokens,
                    "mode": asked.mode,
                    "without": difference.baseline,
                    "with": difference.mean,
                    "relative": difference.relative,
                    "low": difference.low,
                    "high": difference.high,
                    "cpu_ratio": cost,
                }
            )
            print(
                f"| {task.name} | {len(task.queries)} | {tokens} | {difference.baseline:.4f} | "
                f"{difference.mean:.4f} | {100 * difference.relative:+.2f} % | {100 * difference.low:+.2f} to "
                f"{100 * difference.high:+.2f} | {cost:.2f} x |",
                flush=True,
            )
            if (
                asked.out is not None
            ):  # after each row, so that an interrupted run has something to show
                result = {
                    "measure": "NDCG@10",
                    "model": embedder.name,
                    "precision": embedder.precision,
                    "max_seq_length": embedder.max_seq_length,
                    "rows": rows,
                }
                asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
