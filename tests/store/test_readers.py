"""Many processes read a store while one writes, also where nothing can be written."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quaver.documents import Passage
from quaver.errors import (
    StoreClosedError,
    StoreError,
    StoreLockedError,
    StoreWriteError,
)
from quaver.store import Compare, Manifest
from quaver.store import folder as folder_module
from quaver.store import nearest as nearest_module
from quaver.store.check import check_store
from quaver.store.folder import FolderStore
from sample_passages import D, unit_rows

MANIFEST = Manifest("model", "f" * 64, D, 100, "2030-01-01T00:00:00+00:00")
BATCH = 20
KILLS = min(int(os.environ.get("QUAVER_TEST_KILLS", "2")), 4)
"""`make test-long` kills the writer four times."""

PAUSE = 0.0 if "QUAVER_TEST_KILLS" in os.environ else 0.02
"""Seconds between two looks of a reader: without them the writer waits for a CPU most of the time."""


def write(store: FolderStore, batch: int) -> None:
    """Stores batch number ``batch``: every passage holds the word of its batch, and a page."""
    store.upsert(
        [
            Passage(
                f"{batch}.{i}", f"common batch{batch}", f"{batch}.txt", "", 0, 1, "/r", {"page": i}
            )
            for i in range(BATCH)
        ],
        unit_rows(BATCH, seed=batch),
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FolderStore]:
    with FolderStore.create(tmp_path / "kb", MANIFEST) as made:
        write(made, 0)
        made.flush()
        yield made


def answers(store: FolderStore) -> dict[str, Any]:
    """Everything that a store tells, in a form that can be compared."""
    return {
        "count": store.count(),
        "roots": store.roots(),
        "sources": store.sources("/r"),
        "dense": store.search(unit_rows(1, seed=9)[0], k=15),
        "words": store.search(text="common batch1", k=1000),
        "filtered": store.search(unit_rows(1)[0], k=50, filter=Compare("page", "<", 3)),
        "scan": sorted(row.passage.id for row in store.scan()),
        "vectors": {i: v.tolist() for i, v in store.vectors(["0.3", "1.3"]).items()},
    }


def test_a_reader_has_what_was_flushed_and_takes_more_when_asked(store: FolderStore) -> None:
    with FolderStore.open(store.path, read_only=True) as reader:
        before = answers(reader)
        assert before["count"] == BATCH
        assert reader.refresh() is False
        write(store, 1)
        assert (store.count(), reader.count()) == (2 * BATCH, BATCH)
        assert reader.refresh() is False  # not flushed yet
        store.flush()
        assert answers(reader) == before
        assert reader.refresh() is True
        assert answers(reader) == answers(store)
        assert reader.count() == 2 * BATCH
        store.delete(["0.1"])
        store.flush()
        assert "0.1" in answers(reader)["scan"]
        assert reader.refresh() is True
        assert answers(reader) == answers(store)
    assert store.refresh() is False


def test_a_reader_keeps_its_state_when_everything_is_written_again(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "MIN_DROPPED", 1)
    write(store, 1)
    store.flush()
    with FolderStore.open(store.path, read_only=True) as reader:
        before, rows = answers(reader), reader.scan()
        first = next(rows)
        store.delete([f"0.{i}" for i in range(BATCH)])
        store.optimize()
        assert not (store.path / "rows.1").exists()
        assert answers(reader) == before
        assert reader.refresh()
        assert answers(reader) == answers(store)
        assert reader.count() == BATCH
        assert first.passage.id not in {row.passage.id for row in rows}
    assert check_store(store.path).ok


def test_a_reader_writes_nothing(store: FolderStore) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {f.name: (f.stat().st_mtime_ns, f.stat().st_size) for f in store.path.iterdir()}

    before = state()
    with FolderStore.open(store.path, read_only=True) as reader:
        answers(reader)
        for call in (
            lambda: reader.upsert([Passage("x", "x", "", "", 0, 1)], None),
            lambda: reader.delete(["0.1"]),
            lambda: reader.delete_matching({"root": "/r"}),
            reader.flush,
            reader.optimize,
            lambda: reader.note_update("/r", None),
        ):
            with pytest.raises(
                StoreWriteError, match="was opened to read: open it without read_only"
            ):
                call()
    assert state() == before


@pytest.mark.parametrize("read_only", [True, False])
def test_a_closed_store_says_so(store: FolderStore, read_only: bool) -> None:
    opened = FolderStore.open(store.path, read_only=True) if read_only else store
    rows = opened.scan()
    next(rows)
    opened.close()
    opened.close()
    for call in (
        opened.count,
        opened.refresh,
        opened.roots,
        lambda: opened.search(text="common", k=1),
        lambda: opened.get(["0.1"]),
        lambda: opened.vectors(["0.1"]),
        lambda: opened.delete(["0.1"]),
        opened.flush,
        lambda: next(opened.scan()),
    ):
        with pytest.raises(StoreClosedError, match="is closed: open"):
            call()


def test_waiting_for_the_writer(store: FolderStore) -> None:
    with pytest.raises(StoreLockedError, match=r"one process at a time can write .*--wait"):
        FolderStore.open(store.path, wait=0.1)
    timer = threading.Timer(0.2, store.close)
    timer.start()
    with FolderStore.open(store.path, wait=60) as opened:
        assert opened.count() == BATCH
    timer.join()


def run(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


READ = """
    import pathlib, sys
    from quaver.store.folder import FolderStore
    with FolderStore.open(pathlib.Path(sys.argv[1]), read_only=True) as store:
        print(store.count(), len(store.search(text="common", k=99)), store.refresh())
    """


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting needs root")
def test_reading_from_a_read_only_file_system_while_it_is_written(
    store: FolderStore, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    if subprocess.run(["mount", "--bind", store.path, seen], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", seen], check=True)
        assert run(READ, seen).split() == ["20", "20", "False"]
        with pytest.raises(StoreWriteError, match="must be writable to write to it"):
            FolderStore.open(seen)
        with FolderStore.open(seen, read_only=True) as reader:
            write(store, 1)
            store.flush()
            assert reader.refresh()
            assert answers(reader) == answers(store)
        store.close()
        assert run(READ, seen).split() == ["40", "40", "False"]
        assert check_store(seen).ok
    finally:
        subprocess.run(["umount", "-l", seen], check=True)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root")
def test_reading_as_a_user_who_may_not_write(store: FolderStore, tmp_path: Path) -> None:
    place = Path("/tmp") / f"quaver-{os.getpid()}"
    try:
        shutil.copytree(store.path, place)
        subprocess.run(["chmod", "-R", "a+rX,a-w", place], check=True)
        prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        able = subprocess.run([*prefix, sys.executable, "-c", "import quaver"], check=False)
        if able.returncode:
            pytest.skip("that user may not read Python or Quaver")
        assert run(READ, place, prefix=prefix).split() == ["20", "20", "False"]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_on(path: Path, said: Connection, waste: int, batch: int) -> None:
    folder_module.MIN_DROPPED, folder_module.MERGE_FAN_IN, folder_module._MANY_RUNS = waste, 3, 1
    with FolderStore.open(path) as store:
        while True:
            write(store, batch)
            if batch > 2:
                store.delete([f"{batch - 2}.{i}" for i in range(BATCH)])
            store.flush()
            said.send(batch)
            if batch % 5 == 0:
                store.optimize()
            batch += 1


def _read_on(path: Path, said: Connection, end: Any) -> None:
    """Read until asked to stop: each state must be that of one flush, and never an older one."""
    seen, newest = 0, -1
    try:
        reader = FolderStore.open(path, read_only=True)
        while not end.wait(PAUSE):
            batches: dict[int, int] = {}
            for row in reader.scan(with_vectors=True):
                batch, i = map(int, row.passage.id.split("."))
                batches[batch] = batches.get(batch, 0) + 1
                assert row.passage.text == f"common batch{batch}"
                assert row.vector is not None
                assert np.array_equal(row.vector, unit_rows(BATCH, seed=batch)[i])
            assert set(batches.values()) == {BATCH}, batches
            last = max(batches)
            # Batch 0, and the two that were written last.
            assert set(batches) == {0, last, last - 1} or last <= 2, batches
            assert last >= newest
            newest = last
            assert reader.count() == BATCH * len(batches)
            hits = reader.search(unit_rows(1, seed=last)[0], k=5)
            assert hits[0].id == f"{last}.0"
            assert len(reader.search(text="common", k=1000)) == reader.count()
            seen += 1
            if seen % 3 == 0:
                reader.close()
                reader = FolderStore.open(path, read_only=True)
            else:
                reader.refresh()
        said.send(("good", seen, newest))
    except BaseException as error:  # noqa: BLE001 - reported to the test
        said.send(("bad", repr(error), newest))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_readers_beside_a_writer_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "kb"
    with FolderStore.create(path, MANIFEST) as store:
        write(store, 0)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["test_readers"])
    end = processes.Event()
    readers = []
    for _ in range(3):
        hear, say = processes.Pipe(duplex=False)
        reader = processes.Process(target=_read_on, args=(path, say, end), daemon=True)
        reader.start()
        say.close()
        readers.append((reader, hear))
    flushed = 0
    for turn in range(KILLS):
        hear, say = processes.Pipe(duplex=False)
        arguments = (path, say, 30, flushed + 1)
        writer = processes.Process(target=_write_on, args=arguments, daemon=True)
        writer.start()
        say.close()
        for _ in range(6 + turn):
            assert hear.poll(60)
            flushed = hear.recv()
        writer.kill()  # the readers go on with what they have, and with what comes
        writer.join(60)
        with suppress(EOFError):  # what it reported before it was killed, and nobody read yet
            while hear.poll():
                flushed = hear.recv()
        with FolderStore.open(path, read_only=True) as store:
            stored = {int(row.passage.id.split(".")[0]) for row in store.scan()}
        assert max(stored) in (flushed, flushed + 1)
        flushed = max(stored)
    end.set()
    reports = [hear.recv() for _, hear in readers if hear.poll(100)]
    for reader, _ in readers:
        reader.join(60)
    assert [kind for kind, *_ in reports] == ["good"] * 3, reports
    assert all(seen > 1 for _, seen, _ in reports), reports
    assert check_store(path).ok


def test_sketches_find_what_comparing_all_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = replace(MANIFEST, dimension=100)  # no multiple of 8 or 64
    rows = np.random.default_rng(0).standard_normal((3000, 100)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = np.random.default_rng(1).standard_normal((20, 100)).astype(np.float32)
    queries += 10 * rows[:20]
    with FolderStore.create(tmp_path / "kb", manifest) as store:
        for first in range(0, 3000, 1000):
            page = range(first, first + 1000)
            store.upsert(
                [Passage(str(i), "text", "", "", 0, 1) for i in page], rows[first : first + 1000]
            )
        exact = [[hit.id for hit in store.search(query, k=10)] for query in queries]
        for module in (nearest_module, folder_module):
            monkeypatch.setattr(module, "EXACT_ROWS", 100)
        monkeypatch.setattr(nearest_module, "MIN_RESCORED", 600)
        monkeypatch.setattr(nearest_module, "RESCORED_SHARE", 5)
        quick = [[hit.id for hit in store.search(query, k=10)] for query in queries]
        found = [len(set(a) & set(b)) for a, b in zip(exact, quick, strict=True)]
        assert [a[0] for a in exact] == [str(i) for i in range(20)] == [a[0] for a in quick]
        assert np.mean(found) > 9  # of 10: random directions are the hardest case
        monkeypatch.delattr(np, "bitwise_count", raising=False)  # NumPy before 2.0
        assert [[hit.id for hit in store.search(query, k=10)] for query in queries] == quick


def test_words_are_found_over_many_merged_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "MERGE_FAN_IN", 3)
    monkeypatch.setattr(folder_module, "MAX_POSTINGS", 60)
    with FolderStore.create(tmp_path / "kb", MANIFEST) as store:
        for i in range(40):
            store.upsert([Passage(str(i), f"common word{i} word{i % 7}", "", "", 0, 1)], None)
            store.flush()
            if i % 9 == 0:
                store.delete([str(i)])
        many = len(list(store.path.glob("words.*")))
        kept = {str(i) for i in range(40) if i % 9}
        for _ in range(2):
            assert {hit.id for hit in store.search(text="common", k=99)} == kept
            for i in range(7, 40):
                hits = store.search(text=f"word{i}", k=9)
                assert [hit.id for hit in hits] == ([str(i)] if i % 9 else [])
            store.optimize()
        assert len(list(store.path.glob("words.*"))) < many < 40
    assert check_store(tmp_path / "kb").ok


def test_ids_that_count_are_looked_up_quickly(store: FolderStore) -> None:
    # All alike in their upper half: 4,000 times 4,000 comparisons took minutes.
    ids = [f"00000000-0000-0000-0000-{i:012}" for i in range(4000)]
    for _ in range(2):
        store.upsert([Passage(i, "x", "", "", 0, 1) for i in ids], None)
    assert store.count() == 4000 + BATCH
    assert [row.passage.id for row in store.get(ids)] == ids
    lookup = store._lookups["id"]
    assert (
        max(
            map(
                len,
                lookup.find(
                    folder_module.mixed(np.array([[0, i] for i in range(4000)], np.uint64)).tolist()
                ),
            )
        )
        <= 2
    )


def test_a_store_that_is_no_store(store: FolderStore) -> None:
    (store.path / "state.json").unlink()
    with pytest.raises(StoreError, match=r"cannot read .*state\.json.*check --repair"):
        FolderStore.open(store.path, read_only=True)
