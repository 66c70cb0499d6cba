"""What a tokenizer holds in memory, by the size of its vocabulary: `Tokenizer.nbytes` takes its factor from here.

    python benchmarks/tokenizer_memory.py [FOLDER ...] [--words 30000] [--copies 6]

Loads the tokenizer of each folder, and random ones of each kind, several times, and takes the median of how much
the process grew with each copy but the first two: these bring the library and the memory of parsing. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import statistics
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models

from quaver import Tokenizer


def resident() -> int:
    """Return the bytes of the process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def words(count: int) -> list[str]:
    """Draw words of two to nine letters."""
    draw = random.Random(7)
    found: dict[str, None] = dict.fromkeys(string.ascii_lowercase)
    while len(found) < count:
        found["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9)))] = None
    return list(found)


def write(folder: Path, count: int) -> Iterator[Path]:
    """Write a tokenizer of each kind, in a folder of its own."""
    drawn = words(count)
    ids = {word: i for i, word in enumerate(["[UNK]", *drawn])}
    # Each merge makes a word of its first letter and the others, which are words, too.
    pairs = {word: (word[0], word[1:]) for word in drawn if len(word) > 1}
    made = dict(ids)
    for _, rest in pairs.values():
        made.setdefault(rest, len(made))
    made = {word: i for word, i in made.items() if i < count or word in ids}
    merges = [pair for pair in pairs.values() if pair[1] in made]
    for name, model in (
        ("word pieces", models.WordPiece(ids, unk_token="[UNK]")),
        ("byte pairs", models.BPE(made, merges, unk_token="[UNK]")),
        ("unigrams", models.Unigram([(word, -1.0 - i / count) for word, i in ids.items()], 0)),
    ):
        target = folder / name
        target.mkdir()
        backend = Backend(model)
        backend.save(str(target / "tokenizer.json"))
        yield target


def growth(folder: Path, copies: int) -> tuple[int, int]:
    """Return the bytes of a copy, and the words of the vocabulary."""
    kept, grown = [], []
    for _ in range(copies):
        gc.collect()
        before = resident()
        kept.append(Tokenizer.from_folder(folder, max_length=512))
        kept[-1].encode(["the text of a tokenizer"] * 8)
        gc.collect()
        grown.append(resident() - before)
    return round(statistics.median(grown[2:])), kept[0].vocab_size


def main() -> None:
    """Measure, and print a line for each tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--words", type=int, default=30_000)
    parser.add_argument("--copies", type=int, default=6)
    options = parser.parse_args()
    # Each in a process of its own: memory that another one gave back would be used again unseen.
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, maxtasksperchild=1) as pool:
        for each in (*options.folders, *write(Path(folder), options.words)):
            size, count = pool.apply(growth, (each, options.copies))
            print(
                f"{each.name:24} {count:8} words {size / 1e6:8.2f} MB {size / count:8.0f} bytes a word"
            )


if __name__ == "__main__":
    main()
