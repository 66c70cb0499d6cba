"""A corpus of any size as a folder of files, and questions about it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from quaver import info

WORDS = 8
_SAMPLE = 5000


def texts(corpora: Sequence[Path]) -> Iterator[str]:
    """Yield the texts of .jsonl files, then repeat them endlessly with every sentence changed."""
    for turn in count():
        number = 0
        for corpus in corpora:
            with corpus.open(encoding="utf-8") as file:
                for line in file:
                    text = json.loads(line)["text"]
                    yield text if turn == 0 else text.replace(". ", f", copy{turn}x{number}. ")
                    number += 1


def write_folder(folder: Path, corpora: Sequence[Path], number: int) -> None:
    """Write texts as .txt files, a thousand to a folder."""
    for i, text in enumerate(islice(texts(corpora), number)):
        path = folder / f"{i // 1000}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def questions(corpora: Sequence[Path], number: int) -> list[str]:
    """Return runs of words from some of the first texts, the same in every run."""
    chance = random.Random(5)
    sample = list(islice(texts(corpora), _SAMPLE))
    found: list[str] = []
    while len(found) < number:
        words = chance.choice(sample).split()
        if len(words) >= WORDS:
            first = chance.randrange(len(words) - WORDS + 1)
            found.append(" ".join(words[first : first + WORDS]))
    return found


def memory() -> dict[str, float]:
    """Return this process's memory in MB: anonymous, mapped from files, and the peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    names = {"anonymous_mb": "RssAnon", "mapped_mb": "RssFile", "peak_mb": "VmHWM"}
    return {name: round(int(fields[key].split()[0]) / 1024, 1) for name, key in names.items()}


def finish(result: dict[str, Any], out: Path | None) -> None:
    """Print a result with the CPU, and write it to a file if one is given.

    Args:
        result: What was measured.
        out: A JSON file, whose folder is created, or None.
    """
    facts = info()
    text = json.dumps({"cpu": f"{facts['cpu']}, {os.cpu_count()} CPUs", **result}, indent=1)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
