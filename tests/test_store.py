"""The store: what goes in comes out, and what is wrong is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quaver.errors import (
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreWriteError,
)
from quaver.passages import Passage
from quaver.passages.passage import passage_id
from quaver.store import FileVersion, Manifest, StoredSource
from quaver.store.edge import EdgeStore

D = 8
MANIFEST = Manifest("model", "f" * 64, D, 100, "2030-01-01T00:00:00+00:00")


def passages(number: int, source: str = "a.txt", root: str = "") -> list[Passage]:
    return [
        Passage(
            id=passage_id(source, "", f"text {i}", 0, root=root),
            text=f"text {i}",
            source=source,
            heading="Top > Sub",
            start=i,
            end=i + 6,
            root=root,
        )
        for i in range(number)
    ]


def unit_rows(number: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((number, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def store(tmp_path: Path) -> EdgeStore:
    return EdgeStore.create(tmp_path / "kb", MANIFEST)


def in_another_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_everything_survives_closing(store: EdgeStore) -> None:
    vectors = unit_rows(5)
    store.upsert(passages(5), vectors, versions={"a.txt": FileVersion("abc", 5)})
    store.close()
    store.close()
    again = EdgeStore.open(store.path)
    assert again.manifest == MANIFEST
    assert again.count() == 5
    assert again.sources("")["a.txt"].has_digest("abc")
    ids = [passage.id for passage in passages(5)]
    found = again.vectors([*ids, passage_id("no", "", "", 0)])
    assert set(found) == set(ids)
    np.testing.assert_allclose(np.stack([found[i] for i in ids]), vectors, atol=1e-6)
    again.close()


def test_sources_lists_more_than_one_page(store: EdgeStore) -> None:
    many = passages(5000)
    store.upsert(many, unit_rows(5000))
    assert store.sources("")["a.txt"].ids == {None: {passage.id for passage in many}}
    assert len(store.vectors([passage.id for passage in many])) == 5000
    store.optimize()
    assert store.count() == 5000


def test_a_source_is_complete_only_with_all_passages_of_one_version() -> None:
    two = FileVersion("abc", 2)
    assert StoredSource({two: {"1", "2"}}).has_digest("abc")
    assert not StoredSource({two: {"1"}}).has_digest("abc")
    assert not StoredSource({two: {"1", "2"}}).has_digest("def")
    assert not StoredSource({two: {"1", "2"}, FileVersion("def", 1): {"3"}}).has_digest("abc")
    assert not StoredSource({two: {"1", "2"}, None: {"3"}}).has_digest("abc")
    assert not StoredSource().has_digest("abc")


def test_create_wants_an_empty_folder(store: EdgeStore, tmp_path: Path) -> None:
    with pytest.raises(StoreExistsError, match="there is a store at"):
        EdgeStore.create(store.path, MANIFEST)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(StoreExistsError, match=r"holds thesis\.txt"):
        EdgeStore.create(tmp_path / "mine", MANIFEST)
    with pytest.raises(StoreExistsError, match="is or lies below a file"):
        EdgeStore.create(tmp_path / "mine" / "thesis.txt", MANIFEST)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["thesis.txt"]


@pytest.mark.parametrize(
    "rest", [["shard.new/segments"], ["shard/wal", "lock"], ["quaver.json.new/"]]
)
def test_an_interrupted_creation_is_made_anew(tmp_path: Path, rest: list[str]) -> None:
    path = tmp_path / "kb"
    for name in rest:
        if name.endswith("/"):
            path.mkdir()
            (path / name[:-1]).write_text('{"mod')
        else:
            (path / name).mkdir(parents=True) if "/" in name else (path / name).touch()
    assert not EdgeStore.exists(path)
    with pytest.raises(StoreNotFoundError):
        EdgeStore.open(path)
    store = EdgeStore.create(path, MANIFEST)
    assert store.count() == 0
    store.close()


def test_nothing_is_stored_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no"):
        with pytest.raises(
            StoreNotFoundError, match=r"a folder with a quaver\.json: there is none"
        ):
            EdgeStore.open(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{broken", "must be JSON"),
        ("", "must be JSON"),
        ("\xff", "must be JSON"),
        ("[]", "must hold a JSON object: got list"),
        ('{"format_version": 2}', "needs 'model' as str: got None"),
        (
            '{"format_version": 2, "model": "m", "fingerprint": "f", "dimension": true}',
            "needs 'dimension' as int: got True",
        ),
    ],
)
def test_a_corrupt_manifest_is_an_error(store: EdgeStore, content: str, message: str) -> None:
    store.close()
    (store.path / "quaver.json").write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=message):
        EdgeStore.open(store.path)


def test_another_format_version_is_a_mismatch(store: EdgeStore) -> None:
    store.close()
    path = store.path / "quaver.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(
        StoreMismatchError, match="has format version 99, this Quaver reads 2; upgrade Quaver, or"
    ):
        EdgeStore.open(store.path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    with pytest.raises(StoreMismatchError, match="reads 2; index again into another place"):
        EdgeStore.open(store.path)


def test_mismatch_names_both_sides(tmp_path: Path) -> None:
    MANIFEST.check(tmp_path, model="m", fingerprint="f" * 64, dimension=D)
    with pytest.raises(
        StoreMismatchError, match=r"made with model .*ffff.*, not with other .*0000"
    ):
        MANIFEST.check(tmp_path, model="other", fingerprint="0" * 64, dimension=D)
    with pytest.raises(
        StoreMismatchError, match=r"dimension 8 \(model model\), but other gives dimension 9"
    ):
        MANIFEST.check(tmp_path, model="other", fingerprint="0" * 64, dimension=9)


def test_a_store_without_its_shard_is_an_error(store: EdgeStore) -> None:
    store.close()
    shutil.rmtree(store.path / "shard")
    with pytest.raises(StoreError, match="cannot open the store at"):
        EdgeStore.open(store.path)


@pytest.mark.parametrize("name", ["segment.json", "bitmask.dat", "chunk_0.mmap", "page_0.dat"])
def test_damaged_files_are_an_error(store: EdgeStore, name: str) -> None:
    store.upsert(passages(50), unit_rows(50))
    store.close()
    for damaged in (store.path / "shard").rglob(name):
        damaged.write_bytes(damaged.read_bytes()[:10])
    with pytest.raises(StoreError, match="index again into another folder"):
        EdgeStore.open(store.path).search(unit_rows(1)[0], k=50)


def test_a_graph_that_was_not_finished_is_deleted(store: EdgeStore) -> None:
    store.upsert(passages(3), unit_rows(3))
    store.close()
    building = store.path / "shard" / "temp_segments"
    (building / "segment_builder_x" / "vectors").mkdir(parents=True)
    (building / "segment_builder_x" / "vectors" / "chunk").write_bytes(b"x" * 999)
    (building / "rest").write_text("")
    opened = EdgeStore.open(store.path)
    assert list(building.iterdir()) == []
    assert opened.count() == 3
    opened.close()


def test_a_panic_is_an_error(store: EdgeStore, capfd: pytest.CaptureFixture[str]) -> None:
    store.upsert(passages(50), unit_rows(50))
    store.close()
    for damaged in (store.path / "shard").rglob("deleted/status.dat"):
        damaged.write_bytes(b"")
    with pytest.raises(StoreError):
        EdgeStore.open(store.path)
    assert "panicked" in capfd.readouterr().err


def test_one_process_at_a_time(store: EdgeStore) -> None:
    with pytest.raises(StoreLockedError, match="one process at a time"):
        EdgeStore.open(store.path)
    result = in_another_process(
        """
        import sys, pathlib, quaver.errors
        from quaver.store.edge import EdgeStore
        try:
            EdgeStore.open(pathlib.Path(sys.argv[1]))
        except quaver.errors.StoreLockedError as error:
            print(error)
        """,
        store.path,
    )
    assert "is open in another" in result.stdout, result.stderr
    store.close()
    EdgeStore.open(store.path).close()


def test_a_process_that_died_leaves_no_lock(tmp_path: Path) -> None:
    result = in_another_process(
        """
        import os, sys, pathlib
        from quaver.store.edge import EdgeStore
        from quaver.store import Manifest
        store = EdgeStore.create(pathlib.Path(sys.argv[1]), Manifest("m", "f", 8, 100, ""))
        os._exit(7)
        """,
        tmp_path / "kb",
    )
    assert result.returncode == 7, result.stderr
    EdgeStore.open(tmp_path / "kb").close()


def test_a_full_disk_is_an_error_and_keeps_what_is_stored(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert(passages(3), unit_rows(3))
    usage = shutil.disk_usage(store.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=16 << 20))
    with pytest.raises(StoreWriteError, match=r"is full: 17 MB are free, .* make room and run it"):
        store.upsert(passages(6), unit_rows(6))
    monkeypatch.undo()
    assert store.count() == 3
    store.close()
    assert EdgeStore.open(store.path).count() == 3


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting needs root")
def test_a_really_full_disk_does_not_kill_the_process(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        result = in_another_process(
            """
            import sys, pathlib, uuid, numpy as np
            from quaver.errors import StoreWriteError
            from quaver.passages import Passage
            from quaver.store import Manifest
            from quaver.store.edge import EdgeStore
            path = pathlib.Path(sys.argv[1])
            store, written = EdgeStore.create(path, Manifest("m", "f", 384, 100, "")), 0
            rows = np.random.default_rng(0).standard_normal((100, 384)).astype(np.float32)
            try:
                while True:
                    ids = [str(uuid.uuid4()) for _ in rows]
                    store.upsert([Passage(i, "x" * 900, "s", "", 0, 1) for i in ids], rows)
                    store.flush()
                    written += len(rows)
            except StoreWriteError as error:
                print(error)
            store.close()
            """,
            disk / "kb",
        )
        assert "is full" in result.stdout, (result.returncode, result.stderr)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("megabytes", [36, 40, 52, 72])
def test_opening_on_a_nearly_full_disk_does_not_kill_the_process(
    tmp_path: Path, megabytes: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = f"size={megabytes}m"
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        for program in (
            """
            import sys, pathlib, numpy as np
            from quaver.passages import Passage
            from quaver.store import Manifest
            from quaver.store.edge import EdgeStore
            store = EdgeStore.create(pathlib.Path(sys.argv[1]), Manifest("m", "f", 384, 100, ""))
            one = Passage("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "text", "s", "", 0, 4)
            store.upsert([one], np.ones((1, 384), np.float32))
            store.close()
            """,
            """
            import sys, pathlib, numpy as np
            from quaver.errors import StoreWriteError
            from quaver.store.edge import EdgeStore
            try:
                store = EdgeStore.open(pathlib.Path(sys.argv[1]))
                store.search(np.ones(384, np.float32), k=1)
                store.close()
                print("opened")
            except StoreWriteError as error:
                print(error)
            """,
        ):
            result = in_another_process(program, disk / "kb")
            assert result.returncode == 0, (result.returncode, result.stderr)
        assert ("opened" if megabytes == 72 else "is full") in result.stdout, result.stdout
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_limit_on_file_size_is_a_write_error(tmp_path: Path) -> None:
    result = in_another_process(
        """
        import resource, sys, pathlib
        from quaver.errors import StoreWriteError
        from quaver.store import Manifest
        from quaver.store.edge import EdgeStore
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        try:
            EdgeStore.create(pathlib.Path(sys.argv[1]), Manifest("m", "f", 8, 100, ""))
        except StoreWriteError as error:
            print("caught", error)
        """,
        tmp_path / "kb",
    )
    assert "caught cannot make a store" in result.stdout, result.stderr
    assert not EdgeStore.exists(tmp_path / "kb")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_write_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreWriteError, match="cannot make the folder"):
        EdgeStore.create(tmp_path / "kb", MANIFEST)


def test_a_large_store_has_several_search_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few and long vectors: from 10 MB on they get a graph.
    dimension, each = 4096, 700
    for module in ("edge", "edge_shard"):
        monkeypatch.setattr(f"quaver.store.{module}.SEGMENT_BYTES", each * dimension * 4)
    store = EdgeStore.create(tmp_path / "kb", replace(MANIFEST, dimension=dimension))
    rows = np.random.default_rng(0).standard_normal((2 * each, dimension)).astype(np.float32)
    for first in (0, each):
        batch = [
            Passage(str(i), f"text {i}", "a.txt", "", i, i + 1) for i in range(first, first + each)
        ]
        store.upsert(batch, rows[first : first + each])
        assert store._shard.info().segments_count == 1 + first // each
        store.flush()
        # Those with a graph, and one for what comes next.
        assert store._shard.info().segments_count == 2 + first // each
    for i in (3, each + 3):
        assert store.search(rows[i], k=1)[0].id == str(i)
        assert store.search(text=f"text {i}", k=1)[0].id == str(i)
    store.close()
    again = EdgeStore.open(store.path)
    assert again.count() == 2 * each
    assert again.search(rows[0], k=1)[0].id == "0"


@pytest.mark.parametrize(("vectors", "memory"), [("float32", "cached"), ("int8", "cold")])
def test_next_to_small_vectors_the_large_ones_stay_on_the_disk(
    tmp_path: Path, vectors: str, memory: str
) -> None:
    store = EdgeStore.create(tmp_path / "kb", replace(MANIFEST, vectors=vectors))
    settings = json.loads((store.path / "shard" / "edge_config.json").read_text())
    assert settings["vectors"]["dense"]["memory"] == memory
    assert settings["sparse_vectors"]["bm25"]["memory"] == "cached"
