"""Damage to a store is found, reported and repaired, and never trusted."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from quaver.cli import app
from quaver.documents import Failure, Passage
from quaver.embedder import Embedder
from quaver.errors import (
    InputError,
    ModelNotFoundError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreWriteError,
)
from quaver.index.index import Index
from quaver.store import Compare, FileVersion, Manifest
from quaver.store import folder as folder_module
from quaver.store import nearest as nearest_module
from quaver.store.check import check_store, repair_store
from quaver.store.folder import FolderStore
from quaver.store.payload import point_id, to_payload
from quaver.store.state import State
from quaver.store.status import UpdateNote

D = 8
N = 40
FLIPS = int(os.environ.get("QUAVER_TEST_FLIPS", "60"))
MANIFEST = Manifest("model", "f" * 64, D, 100, "2030-01-01T00:00:00+00:00")
ROWS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)
PASSAGES = [
    Passage(
        str(i), f"common text{i} of many", f"{i % 4}.txt", "Top", i, i + 9, "/r", {"page": i % 5}
    )
    for i in range(N)
]


def vectors(passages: Sequence[Passage], manifest: Manifest | None = None) -> NDArray[np.float32]:
    return ROWS[[int(passage.id) for passage in passages]]


def fill(path: Path) -> None:
    with FolderStore.create(path, MANIFEST) as store:
        for first in range(0, N, 10):
            batch = PASSAGES[first : first + 10]
            versions = {f"{i}.txt": FileVersion("d", N // 4) for i in range(4)}
            store.upsert(batch, vectors(batch), versions=versions)
            store.flush()
        store.delete(["3", "17"])
        store.upsert(PASSAGES[5:6], vectors(PASSAGES[5:6]), versions=versions)
        store.note_update("/r", UpdateNote("2030-01-01", (Failure("x.pdf", "is broken"),), 1))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "kb"
    fill(path)
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "kb"))


def answers(path: Path, read_only: bool = True) -> dict[str, Any]:
    with FolderStore.open(path, read_only=read_only) as store:
        return {
            "manifest": replace(store.manifest, model=""),  # a user may set it right
            "count": store.count(),
            "roots": store.roots(),
            "sources": store.sources("/r"),
            "dense": [store.search(row, k=7) for row in ROWS[::5]],
            "words": [store.search(text=f"common text{i}", k=60) for i in range(0, N, 5)],
            "both": store.search(ROWS[1], text="text9", k=9, filter=Compare("page", ">", 2)),
            "scan": {row.passage.id: row for row in store.scan()},
            "vectors": {
                row.passage.id: row.vector.tolist()
                for row in store.scan(with_vectors=True)
                if row.vector is not None
            },
            "content": sorted(
                store.vectors_of_content([to_payload(p, None)["content"] for p in PASSAGES])
            ),
            "notes": store.notes(),
        }


def require_sound_or_said(path: Path, whole: dict[str, Any]) -> None:
    """Check the rules of damage: no foreign error, no false "ok", and repair works."""
    for read_only in (True, False):
        try:
            answered = answers(path, read_only)
        except StoreError:
            answered = {}
    found = check_store(path)
    if found.ok:
        if not (path / "updates.json").exists():  # as in a store that no update was finished in
            whole = {**whole, "notes": {}}
        assert answered == whole
        return
    done = repair_store(path, vectors)
    assert done.check.damages == found.damages
    assert check_store(path).ok
    now = answers(path)
    parts = {damage.part for damage in found.damages}
    assert now["count"] == done.passages
    allowed = set(whole["scan"]) | (
        {"3", "17"} if "dropped" in parts or "state" in parts else set()
    )
    assert set(now["scan"]) <= allowed
    assert len(set(whole["scan"]) - set(now["scan"])) == done.lost, (parts, done)
    for identity, row in now["scan"].items():
        assert row.passage == PASSAGES[int(identity)]
    assert now["vectors"] == {i: ROWS[int(i)].tolist() for i in now["scan"]}
    if set(now["scan"]) == set(whole["scan"]):
        kept = {key: value for key, value in now.items() if key not in ("notes",)}
        assert kept == {key: whole[key] for key in kept}


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.name != "lock")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("exact", [True, False])
def test_a_flipped_bit_is_never_believed(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    if not exact:  # so that the sketches are used
        monkeypatch.setattr(nearest_module, "EXACT_ROWS", 2)
        monkeypatch.setattr(folder_module, "EXACT_ROWS", 2)
    whole = answers(sound)
    chance = random.Random(5 + exact)
    names = [file.name for file in files(sound)]
    for turn in range(FLIPS // 2):
        path = tmp_path / "kb"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(sound, path)
        file = path / names[turn % len(names)]
        data = bytearray(file.read_bytes())
        at, bit = chance.randrange(len(data)), chance.randrange(8)
        data[at] ^= 1 << bit
        file.write_bytes(data)
        try:
            require_sound_or_said(path, whole)
        except BaseException as error:
            raise AssertionError(f"bit {bit} of byte {at} of {file.name}") from error


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["gone", "empty", "half", "zeros", "noise", "longer"])
def test_a_damaged_file_is_never_believed(sound: Path, tmp_path: Path, how: str) -> None:
    whole = answers(sound)
    for name in [file.name for file in files(sound)]:
        path = tmp_path / "kb"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(sound, path)
        file = path / name
        data = file.read_bytes()
        noise = random.Random(name).randbytes(len(data))
        contents = {
            "empty": b"",
            "half": data[: len(data) // 2],
            "zeros": bytes(len(data)),
            "noise": noise,
            "longer": data + noise[:50],
        }
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(contents[how])
        if how == "gone" and name == "quaver.json":
            assert not FolderStore.exists(path)
        try:
            require_sound_or_said(path, whole)
        except BaseException as error:
            raise AssertionError(f"{name} {how}") from error


def test_manifest_and_state_lost_is_the_end(path: Path) -> None:
    for name in ("quaver.json", "state.json"):
        (path / name).write_bytes(b"\0" * 50)
    with pytest.raises(StoreError, match="too little is left of the store"):
        check_store(path)
    with pytest.raises(StoreError, match="too little is left of the store"):
        repair_store(path, vectors)
    for name in ("quaver.json", "state.json"):
        (path / name).unlink()
    with pytest.raises(StoreNotFoundError):
        check_store(path)
    with pytest.raises(StoreNotFoundError):
        repair_store(path / "nothing", vectors)


def test_damage_is_said_where_it_is(path: Path) -> None:
    def damaged(name: str, change: Callable[[bytearray], None]) -> None:
        data = bytearray((path / name).read_bytes())
        change(data)
        (path / name).write_bytes(data)

    damaged("vectors.1", lambda data: data.__setitem__(7 * 4 * D, data[7 * 4 * D] ^ 1))
    at = (path / "texts.1").read_bytes().index(b"text9 of")
    damaged("texts.1", lambda data: data.__setitem__(at, data[at] ^ 1))
    found = check_store(path)
    assert [(damage.part, damage.source) for damage in found.damages] == [
        ("text", "1.txt"),
        ("vector", ""),
    ]
    assert found.damages[0].id == "9"
    assert found.damages[1].id == point_id("7")
    assert (found.ok, found.passages) == (False, N - 3)
    with FolderStore.open(path, read_only=True) as store:
        with pytest.raises(StoreError, match=r"vectors\.1 is broken.*quaver check .* --repair"):
            store.vectors(["7"])
        with pytest.raises(StoreError, match=r"texts\.1 is broken"):
            store.search(text="text9", k=50)
        assert store.search(text="text8", k=1)[0].id == "8"
    with pytest.raises(StoreError, match=r"1 passages of .* need new vectors: name the model"):
        repair_store(path)
    done = repair_store(path, vectors)
    assert (done.passages, done.embedded, done.lost) == (N - 3, 1, 1)
    with FolderStore.open(path) as store:
        assert np.array_equal(store.vectors(["7"])["7"], ROWS[7])
        # Its file is not complete any more, so an update reads it again.
        assert not store.sources("/r")["1.txt"].has_digest("d")
        assert store.sources("/r")["2.txt"].ids


def test_checking_needs_no_lock_and_repairing_does(path: Path) -> None:
    with FolderStore.open(path) as store:
        assert check_store(path).ok
        with pytest.raises(StoreLockedError):
            repair_store(path, vectors)
        store.upsert(PASSAGES[3:4], vectors(PASSAGES[3:4]))
        assert check_store(path).passages == N - 2
    assert check_store(path).passages == N - 1
    assert repair_store(path, vectors).check.ok


def test_a_repair_that_stops_leaves_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path / "words.1.1").unlink()
    before = {file.name: file.read_bytes() for file in files(path)}

    class Stopped(BaseException):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Stopped

    for step in ("upsert", "optimize", "close"):
        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, step, stop)
            with pytest.raises(Stopped):
                repair_store(path, vectors)
        assert {name: (path / name).read_bytes() for name in before} == before
    repair_store(path, vectors)
    assert check_store(path).ok
    assert not (path / "repaired.new").exists()


# --- With a model ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def embedder(tiny_folder: Path) -> Embedder:
    return Embedder.from_pretrained(tiny_folder, threads=1)


def spoiled(path: Path) -> None:
    data = bytearray((path / "vectors.1").read_bytes())
    data[1] ^= 1
    (path / "vectors.1").write_bytes(data)


def test_an_index_is_repaired_with_its_model(tmp_path: Path, embedder: Embedder) -> None:
    path = tmp_path / "kb"
    with Index.create(path, embedder) as index:
        ids = index.add_texts(["The list of files.", "The dict of strings."])
        right = index.store.vectors(ids)
    assert Index.check(path).ok
    spoiled(path)
    assert [damage.part for damage in Index.check(path).damages] == ["vector"]
    done = Index.repair(path)
    assert (done.embedded, done.lost, done.passages) == (1, 0, 2)
    assert Index.check(path).ok
    with Index.open(path, embedder) as index:
        again = index.store.vectors(ids)
        assert all(np.array_equal(again[i], right[i]) for i in ids)
    for location in (":memory:", "qdrant://localhost/kb"):
        with pytest.raises(InputError, match="must be a folder"):
            Index.check(location)


def test_the_command_reports_damage_and_repairs_it(tmp_path: Path, embedder: Embedder) -> None:
    path, run = tmp_path / "kb", CliRunner()
    with Index.create(path, embedder) as index:
        index.add(["The list of files."])
    good = run.invoke(app, ["check", str(path)])
    assert (good.exit_code, good.output.split("\n")[0]) == (
        0,
        f"{path} is intact: 1 passage can be read",
    )
    spoiled(path)
    bad = run.invoke(app, ["check", str(path)])
    assert bad.exit_code == 1
    assert "vector: " in bad.output
    assert "its vector is broken" in bad.output
    as_json = run.invoke(app, ["check", str(path), "--json"])
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["damages"][0]["part"] == "vector"
    moved = run.invoke(app, ["check", str(path), "--repair", "-m", str(tmp_path / "no")])
    assert moved.exit_code == 1
    repaired = run.invoke(app, ["check", str(path), "--repair"])
    assert repaired.exit_code == 0
    assert "repaired: 1 passage in" in repaired.output
    assert "1 embedded again, 0 lost" in repaired.output
    assert run.invoke(app, ["check", str(path)]).exit_code == 0


def test_a_model_that_moved_is_named_with_the_option(
    tmp_path: Path, tiny_folder: Path, embedder: Embedder
) -> None:
    moving = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    path, run = tmp_path / "kb", CliRunner()
    with Index.create(path, Embedder.from_pretrained(moving, threads=1)) as index:
        index.add(["The list of files."])
    moving.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFoundError, match="if it has moved, name its new place with -m"):
        Index.open(path)
    failed = run.invoke(app, ["search", str(path), "files"])
    assert failed.exit_code == 1
    assert "with -m" in " ".join(failed.output.split())
    found = run.invoke(app, ["search", str(path), "files", "-m", str(tmp_path / "elsewhere")])
    assert found.exit_code == 0, found.output


# --- What damage must never do ------------------------------------------------------------------
def test_a_store_without_its_manifest_is_not_taken_for_an_empty_folder(path: Path) -> None:
    (path / "quaver.json").unlink()
    for use in (
        lambda: FolderStore.open(path),
        lambda: FolderStore.open(path, read_only=True),
        lambda: FolderStore.create(path, MANIFEST),
    ):
        with pytest.raises(StoreError, match=r"check .* --repair"):
            use()
    (damage,) = check_store(path).damages
    assert damage.part == "manifest"
    assert "quaver index" not in damage.detail
    assert repair_store(path).passages == N - 2


def test_of_two_that_create_a_store_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "kb", folder_module.StoreLock
    created: list[Path] = []

    def late(at: Path, **options: Any) -> Any:
        if not created:
            created.append(at)
            fill(at)
        return lock(at, **options)

    monkeypatch.setattr(folder_module, "StoreLock", late)
    with pytest.raises(StoreExistsError, match="there is a store"):
        FolderStore.create(path, MANIFEST)
    assert FolderStore.open(path, read_only=True).count() == N - 2


@pytest.mark.parametrize("column", ["rows", "texts", "vectors", "sketches", "dropped"])
def test_a_failed_write_leaves_nothing_behind(
    path: Path, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StoreWriteError("cannot write: No space left on device")

    changed = replace(PASSAGES[7], text="something else entirely")
    with FolderStore.open(path) as store:
        with monkeypatch.context() as patched:
            patched.setattr(getattr(store._files, column), "write", full)
            with pytest.raises(StoreWriteError):
                store.upsert([changed], ROWS[7:8])
        assert store.count() == N - 2
        assert [hit.text for hit in store.search(text="entirely", k=3, mode="bm25")] == []
    assert check_store(path).ok
    with FolderStore.open(path) as store:
        assert store.count() == N - 2
        store.upsert([changed], ROWS[7:8])
        assert [hit.text for hit in store.search(text="entirely", k=3, mode="bm25")] == [
            changed.text
        ]
    assert check_store(path).ok


def test_words_are_compared_with_their_checksum_before_a_search(path: Path) -> None:
    words = sorted(path.glob("words.*"))[-1]
    data = bytearray(words.read_bytes())
    data[-1] ^= 0x40  # a weight
    words.write_bytes(data)
    with FolderStore.open(path, read_only=True) as store:
        assert store.search(ROWS[1], k=1)[0].id == "1"
        with pytest.raises(StoreError, match=rf"{words.name} is broken"):
            store.search(text="text5", k=1, mode="bm25")
    with (
        FolderStore.open(path) as store,
        pytest.raises(StoreError, match=rf"{words.name} is broken"),
    ):
        store._write_anew()
    assert [damage.part for damage in check_store(path).damages] == ["words"]


def test_the_vector_of_a_hit_is_compared_with_its_checksum(path: Path) -> None:
    (vectors_file,) = path.glob("vectors.*")
    data = bytearray(vectors_file.read_bytes())
    data[4 * D + 1] ^= 0x01  # of row 1, in the last bits of a component
    vectors_file.write_bytes(data)
    with (
        FolderStore.open(path, read_only=True) as store,
        pytest.raises(StoreError, match="vectors"),
    ):
        store.search(ROWS[1], k=1)


def test_repair_counts_the_removed_passages_that_are_back(path: Path) -> None:
    (dropped,) = path.glob("dropped.*")
    dropped.write_bytes(b"")
    done = repair_store(path)
    # Two were deleted; the third removal belongs to a passage that was stored again.
    assert (done.passages, done.returned) == (N, 2)


def test_passages_that_are_stored_twice_or_have_no_words_are_damage(path: Path) -> None:
    state = State.read(path)
    replace(state, dropped=0, dropped_sum=0, runs=state.runs[:-1], commit=state.commit + 1).write(
        path
    )
    said = {damage.part: damage.detail for damage in check_store(path).damages}
    assert "stored twice" in said["dropped"]
    assert "no words" in said["words"]


def test_a_reader_sees_a_store_that_was_created_again(path: Path) -> None:
    with FolderStore.open(path, read_only=True) as reader:
        shutil.rmtree(path)
        with FolderStore.create(path, MANIFEST) as store:
            store.upsert(PASSAGES[:1], ROWS[:1])
        assert reader.refresh()
        assert reader.count() == 1
        shutil.rmtree(path)
        FolderStore.create(path, replace(MANIFEST, fingerprint="e" * 64)).close()
        with pytest.raises(StoreMismatchError, match="created again"):
            reader.refresh()
