"""Compare Quaver's store with one on SQLite: writing, searching, opening, kills, readers, read-only media.

    python benchmarks/index/sqlite_store.py write KIND PASSAGES FOLDER     # then the others, in the same folder
    python benchmarks/index/sqlite_store.py {search,open,beside,read-only} KIND PASSAGES FOLDER
    python benchmarks/index/sqlite_store.py kill KIND PASSAGES EMPTY_FOLDER

KIND is quaver, or wal or delete: SQLite with that journal. There texts, metadata and words are in SQLite,
the words as hashed terms in FTS5, and the vectors in a file that is mapped and searched as Quaver does it.
Passages have 90 words drawn by Zipf's law, vectors 384 components. No model is needed. read-only mounts
the folder and needs root. On a machine that is not quiet the CPU time and the fastest call are the fairer
figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver import Passage, StoreError
from quaver.store import Manifest
from quaver.store.folder import FolderStore
from quaver.store.nearest import Sketches, nearest, sketches
from quaver.store.query import best, fused
from quaver.store.terms import TermAnalyzer

D = 384
BATCH = 64
FLUSH = 5
"""Batches between two commits: about a second of indexing."""
K = 10
DEPTH = 50
"""Hits of each half of a hybrid search."""

Vectors = NDArray[np.float32]

TABLES = """
create table passages(row integer primary key, id text unique, source text, root text, heading text,
  start int, "end" int, metadata text, text text);
create index passages_source on passages(root, source);
create virtual table words using fts5(terms, content='', tokenize='ascii');
"""


class Quaver:
    """Files of our own."""

    def __init__(self, folder: Path, *, read_only: bool, journal: str) -> None:
        """Open a store, or make it."""
        path = folder / "kb"
        if path.exists():
            self._store = FolderStore.open(path, read_only=read_only)
        else:
            self._store = FolderStore.create(path, Manifest("m", "f" * 64, D, 100, ""))
        self._read_only = read_only

    def write(self, passages: list[Passage], vectors: Vectors) -> None:
        """Store passages."""
        self._store.upsert(passages, vectors)

    def flush(self) -> None:
        """Commit."""
        self._store.flush()

    def finish(self) -> None:
        """Merge words."""
        self._store.flush()
        self._store.optimize()

    def dense(self, vector: Vectors) -> object:
        """Find by vector."""
        return self._store.search(vector, k=K)

    def words(self, text: str) -> object:
        """Find by words."""
        return self._store.search(text=text, k=K)

    def hybrid(self, vector: Vectors, text: str) -> Any:
        """Find by both, in what is stored now."""
        if self._read_only:
            self._store.refresh()
        return self._store.search(vector, text=text, k=K)

    def count(self) -> int:
        """Count passages."""
        return self._store.count()

    def damage(self) -> str:
        """Return nothing: opening compares checksums."""
        return ""

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class Sqlite:
    """SQLite, and a file of vectors."""

    def __init__(self, folder: Path, *, read_only: bool, journal: str) -> None:
        """Open a store, or make it."""
        self._vectors, new = folder / "vectors", not (folder / "db").exists()
        mode = "ro" if read_only else "rwc"
        self._db = sqlite3.connect(
            f"file:{folder / 'db'}?mode={mode}", uri=True, isolation_level=None, timeout=10
        )
        if not read_only:
            self._db.execute(f"pragma journal_mode={journal}")
            self._db.execute("pragma synchronous=full")
        if new:
            self._db.executescript(TABLES)
        self._file = os.open(self._vectors, os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT)
        self._analyzer = TermAnalyzer("english")
        self._sketches = Sketches(D)
        self._rows = self.count()
        self._begun = False

    def write(self, passages: list[Passage], vectors: Vectors) -> None:
        """Store passages."""
        if not self._begun:
            self._db.execute("begin")
            self._begun = True
        os.pwrite(self._file, vectors.tobytes(), self._rows * D * 4)
        for row, p in enumerate(passages, self._rows):
            values = (p.id, p.source, p.root, p.heading, p.start, p.end, json.dumps(p.metadata))
            self._db.execute(
                "insert into passages values(?,?,?,?,?,?,?,?,?)", (row, *values, p.text)
            )
            # FTS5 counts how often a passage has a word, so each occurrence is written.
            terms = (self._analyzer.query(word).indices for word in p.text.split())
            hashed = " ".join(f"t{term:x}" for found in terms for term in found)
            self._db.execute("insert into words(rowid, terms) values(?,?)", (row, hashed))
        self._rows += len(passages)

    def flush(self) -> None:
        """Commit the vectors, then all that counts them."""
        os.fsync(self._file)
        if self._begun:
            self._db.execute("commit")
            self._begun = False

    def finish(self) -> None:
        """Commit."""
        self.flush()

    def _nearest(self, vector: Vectors, k: int) -> list[int]:
        rows = self.count()
        mapped = np.memmap(self._vectors, np.float32, "r", shape=(rows, D))
        for first in range(self._sketches.rows, rows, 1 << 16):
            self._sketches.extend(
                sketches(np.asarray(mapped[first : min(first + (1 << 16), rows)]))
            )
        every = np.ones(rows, np.bool_)
        found, cosines = nearest(vector, mapped, every, self._sketches.all()[:, :rows], k)
        return [int(row) for row in found[np.argsort(-cosines)[:k]]]

    def _worded(self, text: str, k: int) -> list[int]:
        terms = self._analyzer.query(text).indices
        if not terms:
            return []
        match = " OR ".join(f"t{term:x}" for term in terms)
        asked = "select rowid from words where words match ? order by rank limit ?"
        return [row for (row,) in self._db.execute(asked, (match, k))]

    def _read(self, rows: list[int]) -> list[Any]:
        marks = ",".join("?" * len(rows))
        asked = f"select * from passages where row in ({marks})"
        found = {record[0]: record for record in self._db.execute(asked, rows)}
        return [found[row] for row in rows]

    def dense(self, vector: Vectors) -> object:
        """Find by vector."""
        return self._read(self._nearest(vector, K))

    def words(self, text: str) -> object:
        """Find by words."""
        return self._read(self._worded(text, K))

    def hybrid(self, vector: Vectors, text: str) -> Any:
        """Find by both, in what is stored now."""
        rankings = [self._nearest(vector, DEPTH), self._worded(text, DEPTH)]
        return self._read([row for row, _ in best(fused(rankings), K)])

    def count(self) -> int:
        """Count passages, which are never deleted here."""
        (found,) = self._db.execute("select coalesce(max(row) + 1, 0) from passages").fetchone()
        return int(found)

    def damage(self) -> str:
        """Return what SQLite finds damaged, or that vectors are missing."""
        (found,) = self._db.execute("pragma integrity_check").fetchone()
        if self._vectors.stat().st_size < self.count() * D * 4:
            return "vectors are missing"
        return "" if found == "ok" else str(found)

    def close(self) -> None:
        """Commit and close."""
        self.flush()
        self._db.close()
        os.close(self._file)


def opened(kind: str, folder: Path, *, read_only: bool = False) -> Any:
    """Open a store of a kind, or make it."""
    folder.mkdir(exist_ok=True, parents=True)
    store = Quaver if kind == "quaver" else Sqlite
    return store(folder, read_only=read_only, journal=kind)


def made(count: int) -> tuple[list[Passage], Vectors]:
    """Return passages and their vectors, which lie around 400 centers."""
    chance = np.random.default_rng(7)
    words = np.array([f"w{i:x}" for i in range(60_000)])
    shares = 1 / np.arange(1, len(words) + 1) ** 1.05
    drawn = np.searchsorted(np.cumsum(shares / shares.sum()), chance.random((count, 90)))
    texts = [" ".join(words[np.minimum(row, len(words) - 1)]) for row in drawn]
    centers = chance.standard_normal((400, D)).astype(np.float32)
    vectors = centers[chance.integers(0, 400, count)]
    vectors += 0.8 * chance.standard_normal((count, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    passages = [
        Passage(f"id{i}", text, f"{i // 20}.txt", "Top", i, i + 1, "/r", {"page": i % 50})
        for i, text in enumerate(texts)
    ]
    return passages, vectors


def asked(passages: list[Passage], vectors: Vectors) -> list[tuple[Vectors, str]]:
    """Return 200 questions: a vector near a passage's, and six of its words."""
    chance = np.random.default_rng(3)
    questions = []
    for row in chance.integers(0, len(passages), 200).tolist():
        near = vectors[row] + 0.3 * chance.standard_normal(D).astype(np.float32)
        text = " ".join(chance.choice(passages[row].text.split(), 6))
        questions.append(((near / np.linalg.norm(near)).astype(np.float32), text))
    return questions


def batches(passages: list[Passage], vectors: Vectors, first: int = 0) -> Any:
    """Yield passages and vectors to write at once, from a passage on."""
    for begin in range(first, len(passages), BATCH):
        yield passages[begin : begin + BATCH], vectors[begin : begin + BATCH]


def write(kind: str, count: int, folder: Path) -> None:
    """Write all passages, a commit every few batches."""
    passages, vectors = made(count)
    store = opened(kind, folder)
    wall, cpu = time.perf_counter(), time.process_time()
    for turn, batch in enumerate(batches(passages, vectors)):
        store.write(*batch)
        if turn % FLUSH == FLUSH - 1:
            store.flush()
    store.finish()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    store.close()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"written in {wall:.1f} s, CPU {cpu:.1f} s, {size / 1e6:.0f} MB")


def search(kind: str, count: int, folder: Path) -> None:
    """Search by vector, by words, and by both."""
    questions = asked(*made(count))
    store = opened(kind, folder, read_only=True)
    calls: dict[str, Callable[[Vectors, str], object]] = {
        "dense": lambda vector, _: store.dense(vector),
        "bm25": lambda _, text: store.words(text),
        "hybrid": store.hybrid,
    }
    for name, call in calls.items():
        call(*questions[0])
        walls, cpus = [], []
        for question in questions:
            wall, cpu = time.perf_counter(), time.process_time()
            call(*question)
            walls.append((time.perf_counter() - wall) * 1e3)
            cpus.append((time.process_time() - cpu) * 1e3)
        print(
            f"{name:8} p50 {np.median(walls):6.2f} ms   fastest {min(walls):6.2f} ms   "
            f"CPU {np.median(cpus):6.2f} ms"
        )


def open_once(kind: str, count: int, folder: Path) -> None:
    """Open a store to read and search it once."""
    cpu = time.process_time()
    store = opened(kind, folder, read_only=True)
    first = time.process_time()
    store.hybrid(np.eye(D, dtype=np.float32)[0], "w12 w99")
    print(
        f"CPU to open {(first - cpu) * 1e3:.0f} ms, "
        f"with the first search {(time.process_time() - cpu) * 1e3:.0f} ms"
    )


def feed(kind: str, count: int, folder: Path) -> None:
    """Write what is missing, a commit for each batch, and print how many passages are committed."""
    passages, vectors = made(count)
    store = opened(kind, folder)
    done = store.count()
    for batch in batches(passages, vectors, done):
        store.write(*batch)
        store.flush()
        done += len(batch[0])
        print(done, flush=True)


def fed(kind: str, count: int, folder: Path) -> subprocess.Popen[str]:
    """Return a process that feeds a store, once it has committed something."""
    command = [sys.executable, __file__, "feed", kind, str(count), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def kill(kind: str, count: int, folder: Path) -> None:
    """Kill a writer a dozen times; what it reported as committed must be there."""
    chance = random.Random(1)
    bad = 0
    for _ in range(12):
        process = fed(kind, count, folder)
        time.sleep(chance.random())
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
        reported = max(
            (int(line) for line in said.splitlines(keepends=True) if "\n" in line), default=0
        )
        store = opened(kind, folder)
        if store.count() < reported or store.damage():
            bad += 1
        store.hybrid(np.eye(D, dtype=np.float32)[0], "w12 w99")
        print(f"killed with {reported} reported, {store.count()} stored {store.damage()}")
        store.close()
    print(f"12 kills, {bad} of them with a loss or damage")


def beside(kind: str, count: int, folder: Path) -> None:
    """Search for twelve seconds while another process writes."""
    questions = asked(*made(count))
    process = fed(kind, 10 * count, folder)
    store = opened(kind, folder, read_only=True)
    walls, counts, errors = [], set(), 0
    end = time.monotonic() + 12
    while time.monotonic() < end and process.poll() is None:
        begin = time.perf_counter()
        try:
            store.hybrid(*questions[len(walls) % len(questions)])
            counts.add(store.count())
        except sqlite3.Error as error:
            errors += 1
            print(error)
        walls.append((time.perf_counter() - begin) * 1e3)
    process.kill()
    said, _ = process.communicate()
    print(
        f"{len(walls)} searches beside {len(said.splitlines())} commits: fastest {min(walls):.1f}, "
        f"p50 {np.median(walls):.1f}, slowest {max(walls):.0f} ms; {len(counts)} states seen, "
        f"{errors} errors"
    )


def read_only(kind: str, count: int, folder: Path) -> None:
    """Search a read-only mount, also while a process writes to the folder behind it."""
    seen = folder.with_name(folder.name + "-mounted")
    seen.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", folder, seen], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", seen], check=True)
        for writes in (False, True):
            process = fed(kind, 10 * count, folder) if writes else None
            try:
                store = opened(kind, seen, read_only=True)
                found = len(store.hybrid(np.eye(D, dtype=np.float32)[0], "w12 w99"))
                first = store.count()
                time.sleep(2)
                store.hybrid(np.eye(D, dtype=np.float32)[0], "w12 w99")
                print(f"writer {writes}: {found} hits of {first}, later of {store.count()}")
            except (sqlite3.Error, StoreError, KeyError, ValueError) as error:
                print(f"writer {writes}: {type(error).__name__}: {error}")
            if process is not None:
                process.kill()
                process.communicate()
    finally:
        subprocess.run(["umount", "-l", seen], check=True)


STEPS = {
    "write": write,
    "search": search,
    "open": open_once,
    "feed": feed,
    "kill": kill,
    "beside": beside,
    "read-only": read_only,
}


def main() -> None:
    """Read the arguments and run a step."""
    parser = argparse.ArgumentParser(description="Compare Quaver's store with SQLite.")
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("kind", choices=["quaver", "wal", "delete"])
    parser.add_argument("passages", type=int)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    STEPS[arguments.step](arguments.kind, arguments.passages, arguments.folder)


if __name__ == "__main__":
    main()
