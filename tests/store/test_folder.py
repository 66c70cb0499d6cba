"""The store: what goes in comes out, and what is wrong is said."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quaver.documents.passage import passage_id
from quaver.errors import (
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreWriteError,
)
from quaver.store import FileVersion, Manifest, StoredSource
from quaver.store.check import check_store
from quaver.store.folder import FolderStore
from quaver.system.switch import POSIX
from sample_passages import D, passages, unit_rows

MANIFEST = Manifest("model", "f" * 64, D, 100, "2030-01-01T00:00:00+00:00")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.create(tmp_path / "kb", MANIFEST)


def in_another_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_everything_survives_closing(store: FolderStore) -> None:
    vectors = unit_rows(5)
    store.upsert(passages(5), vectors, versions={"a.txt": FileVersion("abc", 5)})
    store.close()
    store.close()
    again = FolderStore.open(store.path)
    assert again.manifest == MANIFEST
    assert again.count() == 5
    assert again.sources("")["a.txt"].has_digest("abc")
    ids = [passage.id for passage in passages(5)]
    found = again.vectors([*ids, passage_id("no", "", "", 0)])
    assert set(found) == set(ids)
    np.testing.assert_allclose(np.stack([found[i] for i in ids]), vectors, atol=1e-6)
    again.close()


def test_sources_lists_more_than_one_page(store: FolderStore) -> None:
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


def test_create_requires_an_empty_folder(store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(StoreExistsError, match="there is a store at"):
        FolderStore.create(store.path, MANIFEST)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(StoreExistsError, match=r"holds thesis\.txt"):
        FolderStore.create(tmp_path / "mine", MANIFEST)
    with pytest.raises(StoreExistsError, match="is a file or below one"):
        FolderStore.create(tmp_path / "mine" / "thesis.txt", MANIFEST)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["thesis.txt"]


@pytest.mark.parametrize(
    "rest",
    [
        ["lock/", "rows.1"],
        ["quaver.json.new/"],
        ["state.json/", "rows.1", "vectors.1"],
    ],
)
def test_an_interrupted_creation_starts_over(tmp_path: Path, rest: list[str]) -> None:
    path = tmp_path / "kb"
    for name in rest:
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
            (path / name[:-1]).write_text('{"mod')
        else:
            (path / name).mkdir(parents=True) if "/" in name else (path / name).touch()
    assert not FolderStore.exists(path)
    with pytest.raises(StoreNotFoundError):
        FolderStore.open(path)
    store = FolderStore.create(path, MANIFEST)
    assert store.count() == 0
    store.close()


def test_nothing_is_stored_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no"):
        with pytest.raises(
            StoreNotFoundError, match=r"a folder with a quaver\.json: there is none"
        ):
            FolderStore.open(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{broken", "must be JSON"),
        ("", "must be JSON"),
        ("\xff", "must be JSON"),
        ("[]", "must hold a JSON object: got list"),
        ('{"format_version": 3}', "needs 'model' as str: got None"),
        (
            '{"format_version": 3, "model": "m", "fingerprint": "f", "dimension": true}',
            "needs 'dimension' as int: got True",
        ),
    ],
)
def test_a_corrupt_manifest_is_an_error(store: FolderStore, content: str, message: str) -> None:
    store.close()
    (store.path / "quaver.json").write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=message):
        FolderStore.open(store.path)


def test_another_format_version_is_a_mismatch(store: FolderStore) -> None:
    store.close()
    path = store.path / "quaver.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(
        StoreMismatchError,
        match="has format version 99, this Quaver reads 3, 4, 5; upgrade Quaver, or",
    ):
        FolderStore.open(store.path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(StoreMismatchError, match="reads 3, 4, 5; index again into another place"):
        FolderStore.open(store.path)


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


def test_a_reader_reads_the_manifest_once(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    read = Manifest.read
    reads: list[Path] = []

    def counted(path: Path) -> Manifest:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(Manifest, "read", counted)
    FolderStore.open(store.path, read_only=True).close()
    assert reads == [store.path]


def test_one_process_at_a_time(store: FolderStore) -> None:
    with pytest.raises(StoreLockedError, match="one process at a time"):
        FolderStore.open(store.path)
    result = in_another_process(
        """
        import sys, pathlib, quaver.errors
        from quaver.store.folder import FolderStore
        try:
            FolderStore.open(pathlib.Path(sys.argv[1]))
        except quaver.errors.StoreLockedError as error:
            print(error)
        """,
        store.path,
    )
    assert "is open in another" in result.stdout, result.stderr
    store.close()
    FolderStore.open(store.path).close()


def test_a_process_that_died_leaves_no_lock(tmp_path: Path) -> None:
    result = in_another_process(
        """
        import os, sys, pathlib
        from quaver.store.folder import FolderStore
        from quaver.store import Manifest
        store = FolderStore.create(pathlib.Path(sys.argv[1]), Manifest("m", "f", 8, 100, ""))
        os._exit(7)
        """,
        tmp_path / "kb",
    )
    assert result.returncode == 7, result.stderr
    FolderStore.open(tmp_path / "kb").close()


@pytest.mark.parametrize("call", ["pwrite" if POSIX else "write", "fsync"])
@pytest.mark.parametrize("file", ["rows", "texts", "vectors", "sketches", "words", "state"])
def test_a_failing_disk_is_an_error_and_keeps_what_is_stored(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, call: str, file: str
) -> None:
    store.upsert(passages(3), unit_rows(3))
    store.flush()
    real: Any = getattr(os, call)

    def full(number: int, *more: Any) -> Any:
        if Path(f"/proc/self/fd/{number}").readlink().name.startswith(file):
            raise OSError(28, "No space left on device")
        return real(number, *more)

    monkeypatch.setattr(os, call, full)
    if call != "fsync" and file == "state":  # Python's own files write that one

        def no_room(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", no_room)
    lasting = call == "fsync" and file in ("rows", "texts", "vectors", "sketches")
    store.upsert(passages(9), unit_rows(9)) if call == "fsync" or file in (
        "words",
        "state",
    ) else None
    with pytest.raises(StoreWriteError, match="No space"):
        store.flush() if store.count() == 9 else store.upsert(passages(9), unit_rows(9))
    monkeypatch.undo()
    with FolderStore.open(store.path, read_only=True) as reader:
        assert reader.count() == 3
    if not lasting:  # there is room again, and nothing is forgotten
        store.upsert(passages(9), unit_rows(9))
        store.close()
    else:
        with pytest.raises(
            StoreWriteError, match="open the store again, what was flushed is there"
        ):
            store.upsert(passages(9), unit_rows(9))
        store.close()
    with FolderStore.open(store.path) as again:
        assert again.count() == (3 if lasting else 9)
        assert len(again.search(text="text", k=20)) == again.count()
    assert check_store(store.path).ok


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting needs root")
@pytest.mark.parametrize(
    ("seen_before", "message"), [(True, "MB are needed"), (False, "No space left")]
)
def test_a_really_full_disk_does_not_kill_the_process(
    tmp_path: Path, seen_before: bool, message: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        result = in_another_process(
            """
            import sys, pathlib, shutil, uuid, numpy as np
            from quaver.errors import StoreWriteError
            from quaver.documents import Passage
            from quaver.store import Manifest
            from quaver.store.folder import FolderStore
            path = pathlib.Path(sys.argv[1])
            if sys.argv[2] == "False":  # another process fills the disk after the check
                shutil.disk_usage = lambda _: shutil._ntuple_diskusage(1 << 40, 0, 1 << 40)
            store, written = FolderStore.create(path, Manifest("m", "f", 384, 100, "")), 0
            rows = np.random.default_rng(0).standard_normal((100, 384)).astype(np.float32)
            try:
                while True:
                    ids = [str(uuid.uuid4()) for _ in rows]
                    store.upsert([Passage(i, "x" * 900, "s", "", 0, 1) for i in ids], rows)
                    store.flush()
                    written += len(rows)
            except StoreWriteError as error:
                print(error, written)
            """,
            disk / "kb",
            str(seen_before),
        )
        assert message in result.stdout, (result.returncode, result.stderr)
        written = int(result.stdout.split()[-1])
        with FolderStore.open(disk / "kb", read_only=True) as reader:
            assert reader.count() == written > 500
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_limit_on_file_size_is_a_write_error(tmp_path: Path) -> None:
    result = in_another_process(
        """
        import resource, sys, pathlib, numpy as np
        from quaver.errors import StoreWriteError
        from quaver.documents import Passage
        from quaver.store import Manifest
        from quaver.store.folder import FolderStore
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
        store = FolderStore.create(pathlib.Path(sys.argv[1]), Manifest("m", "f", 8, 100, ""))
        try:
            for i in range(99):
                store.upsert([Passage(str(i), "x" * 5000, "s", "", 0, 1)], None)
                store.flush()
        except StoreWriteError as error:
            print("caught", error, i)
        """,
        tmp_path / "kb",
    )
    assert "caught cannot write" in result.stdout, result.stderr
    with FolderStore.open(tmp_path / "kb") as store:
        assert store.count() == int(result.stdout.split()[-1]) > 5


def test_a_read_only_folder_is_a_write_error(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o555)
    result = in_another_process(
        """
        import os, pathlib, sys
        from quaver.errors import StoreWriteError
        from quaver.store import Manifest
        from quaver.store.folder import FolderStore
        os.chdir(sys.argv[1])
        if os.geteuid() == 0:  # root may write everywhere
            os.seteuid(65534)
        try:
            FolderStore.create(pathlib.Path("kb"), Manifest("m", "f", 8, 100, ""))
        except StoreWriteError as error:
            print(error)
        """,
        folder,
    )
    assert "cannot make the folder" in result.stdout, result.stderr


def test_a_folder_that_may_not_be_entered_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refused)
    for use in (FolderStore.exists, lambda path: FolderStore.create(path, MANIFEST)):
        with pytest.raises(StoreError, match=r"cannot read the store at .*: Permission denied"):
            use(tmp_path / "kb")
