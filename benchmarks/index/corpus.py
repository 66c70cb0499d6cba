"""A corpus of any size as a folder of files, and questions about it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from quaver import info

WORDS = 8
WINDOW = 32
"""Words of a paragraph in later turns."""
TURNS = WINDOW
_STEP = 7  # has no factor in common with WINDOW, so each turn begins at another word
_SAMPLE = 5000


def texts(corpora: Sequence[Path]) -> Iterator[str]:
    """Yield the texts of .jsonl files, then the same words cut into other paragraphs, `TURNS` times in all."""
    for turn in range(TURNS):
        yield from texts_of(turn, corpora)


def texts_of(turn: int, corpora: Sequence[Path]) -> Iterator[str]:
    """Yield the texts of .jsonl files; in a later turn, paragraphs of `WINDOW` words from another word on.

    So a passage of a later turn is in no other. Texts that are shorter than a paragraph are left out of these.
    """
    for corpus in corpora:
        with corpus.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(text := row.get("text"), str):
                    raise ValueError(
                        f'{corpus}: a line must be an object with a str "text": got {line.strip():.80}'
                    )
                if turn == 0:
                    yield text
                elif len(words := text.split()) >= WINDOW:
                    first = _STEP * turn % WINDOW
                    cuts = [0, *range(first, len(words), WINDOW), len(words)]
                    yield "\n\n".join(" ".join(words[a:b]) for a, b in pairwise(cuts))


def write_folder(folder: Path, corpora: Sequence[Path], number: int) -> None:
    """Write texts as .txt files, a thousand to a folder.

    Raises:
        ValueError: the files do not have so many.
    """
    written = 0
    for written, text in enumerate(islice(texts(corpora), number), start=1):
        path = folder / f"{(written - 1) // 1000}" / f"{written - 1}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if written < number:
        raise ValueError(
            f"the files must make {number} texts: got {written}; give more or longer ones"
        )


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
