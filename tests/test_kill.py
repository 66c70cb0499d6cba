"""Killing ``quaver index`` loses nothing that is stored, and the next run finishes the work."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quaver.embedder import Embedder
from quaver.index import Index

FILES = 40


@pytest.fixture(scope="module")
def embedder(tiny_folder: Path) -> Embedder:
    return Embedder.from_pretrained(tiny_folder, threads=1)


def write_folder(folder: Path) -> None:
    folder.mkdir()
    for i in range(FILES):
        text = "\n\n".join(f"File {i} has paragraph {j} of many words." for j in range(60))
        (folder / f"{i}.txt").write_text(text)


def contents(
    store: Path, folder: Path, embedder: Embedder
) -> tuple[dict[str, str], list[tuple[str, str, int]]]:
    """Returns the digest of each complete file, and (source, text, start) of every passage."""
    with Index.open(store, embedder) as index:
        complete = {
            source: version.digest
            for source, stored in index.store.sources(str(folder)).items()
            for version in stored.ids
            if version is not None and stored.has_digest(version.digest)
        }
        hits = index.search("file", k=100_000)
        assert len(hits) == index.store.count()
    return complete, sorted((hit.source, hit.text, hit.start) for hit in hits)


def kill_after(command: list[str], delay: float) -> bool:
    """Runs a command, kills it after a delay; returns whether it was killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    code = process.wait(60)
    assert code in (0, -9), errors
    return code == -9


def test_killed_at_random_moments(tiny_folder: Path, tmp_path: Path, embedder: Embedder) -> None:
    folder, store = tmp_path / "docs", tmp_path / "kb"
    write_folder(folder)
    with Index.create(tmp_path / "whole", embedder) as index:
        begin = time.perf_counter()
        index.update(folder)
        duration = time.perf_counter() - begin
    _, expected = contents(tmp_path / "whole", folder, embedder)
    # Small batches: many moments between two flushes.
    program = "import quaver.update.embedding as e, quaver.cli; e.BATCH = 32; quaver.cli.main()"
    command = [
        sys.executable,
        "-c",
        program,
        "index",
        str(folder),
        "-m",
        str(tiny_folder),
        "-s",
        str(store),
    ]
    moments = random.Random(7)
    seen: dict[str, str] = {}
    kills = 0
    changed_was_stored = False
    for attempt in range(9):
        if attempt == 6:  # the folder changes between two interrupted runs
            (folder / "0.txt").write_text("Nothing of the old text.")
            (folder / "1.txt").unlink()
            changed_was_stored = "0.txt" in seen
            seen = {k: v for k, v in seen.items() if k not in ("0.txt", "1.txt")}
        kills += kill_after(command, 0.3 + moments.random() * (duration + 1))
        if not Index.exists(store):
            continue
        complete, found = contents(store, folder, embedder)
        assert seen.items() <= complete.items()
        assert not changed_was_stored or any(row[0] == "0.txt" for row in found)
        seen = (
            complete
            if attempt < 6
            else {k: v for k, v in complete.items() if k not in ("0.txt", "1.txt")}
        )
    assert kills >= 3
    subprocess.run(command, check=True, capture_output=True)
    complete, found = contents(store, folder, embedder)
    assert len(complete) == FILES - 1
    unchanged = [row for row in expected if row[0] not in ("0.txt", "1.txt")]
    assert found == sorted([("0.txt", "Nothing of the old text.", 0), *unchanged])


def test_killed_while_the_store_is_made(
    tiny_folder: Path, tmp_path: Path, embedder: Embedder
) -> None:
    program = (
        "import sys, pathlib; from quaver.store.edge import EdgeStore\n"
        "from quaver.store import Manifest\n"
        "print('ready', flush=True)\n"
        "EdgeStore.create(pathlib.Path(sys.argv[1]), Manifest('m', 'f', 8, 100, ''))"
    )
    moments = random.Random(3)
    for attempt in range(8):
        store = tmp_path / f"kb{attempt}"
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(store)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.random() * 0.12)
        process.kill()
        process.wait(60)
        process.stdout.close()
        if not Index.exists(store):
            Index.create(store, embedder).close()
            assert Index.exists(store)
