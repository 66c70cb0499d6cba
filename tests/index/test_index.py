"""Index: what is embedded, kept, dropped and reported, with the real engine on a tiny model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quaver.documents import Passage, embedded_text, read_document, split
from quaver.embedder import Embedder, loading_settings
from quaver.errors import (
    DocumentError,
    InputError,
    StoreClosedError,
    StoreExistsError,
    StoreLockedError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreWriteError,
)
from quaver.index.embedding import batches, passage_budget
from quaver.index.index import Index, UpdateProgress
from quaver.store import Compare
from quaver.store.folder import FolderStore
from tiny_model import write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents, one of them in a sub-folder and in several passages."""
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.md").write_text("# List\n\nThe list of files.\n\n# Dict\n\nThe dict of strings.\n")
    (folder / "b.txt").write_text("Each function returns an error.")
    paragraphs = "\n\n".join(f"Number {i} of the many long texts." for i in range(40))
    (folder / "sub" / "c.rst").write_text(f"Title\n=====\n\n{paragraphs}\n")
    return folder


@pytest.fixture
def index(tmp_path: Path, embedder: Embedder) -> Index:
    return Index.create(tmp_path / "kb", embedder)


def stored_texts(index: Index) -> list[str]:
    query = np.ones(index.embedder.dimension, np.float32)
    return sorted(hit.text for hit in index.store.search(query, k=10_000))


def test_update_stores_every_passage_with_its_vector(index: Index, folder: Path) -> None:
    report = index.update(folder)
    expected = {
        passage.id: passage
        for path in sorted(folder.rglob("*.*"))
        for passage in split(
            read_document(path, source=path.relative_to(folder).as_posix(), root=str(folder)),
            index.embedder.tokenizer,
            passage_budget(index.embedder),
        )
    }
    assert (report.files, report.added, report.unchanged, report.removed) == (
        3,
        len(expected),
        0,
        0,
    )
    assert (report.failed, report.truncated) == ((), 0)
    assert report.seconds > 0
    assert report.passages_per_second == report.added / report.seconds
    assert index.store.count() == len(expected) > 10
    stored = index.store.vectors(list(expected))
    texts = [embedded_text(passage.heading, passage.text) for passage in expected.values()]
    np.testing.assert_allclose(
        np.stack([stored[i] for i in expected]),
        index.embedder.encode_document(texts),
        atol=1e-6,  # the store normalises once more
    )


def test_search_finds_a_passage_by_its_own_text(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.update(folder)
    prompts = index.embedder.prompts
    monkeypatch.setitem(prompts, "query", prompts["document"])
    hits = index.search("Dict\nThe dict of strings.", k=2, mode="dense")
    assert len(hits) == 2
    assert (hits[0].source, hits[0].heading, hits[0].text) == (
        "a.md",
        "Dict",
        "The dict of strings.",
    )
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    content = (folder / "a.md").read_text()
    assert content[hits[0].start : hits[0].end] == hits[0].text


def test_the_second_update_embeds_nothing(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index.update(folder)
    monkeypatch.setattr("quaver.index.embedding.encode_tokenized", None)
    second = index.update(folder)
    assert (second.files, second.added, second.removed) == (3, 0, 0)
    assert second.unchanged == first.added


def test_only_what_changed_is_embedded(index: Index, folder: Path) -> None:
    first = index.update(folder)
    (folder / "a.md").write_text(
        "new beginning\n\n# List\n\nThe list of files.\n\n# Dict\n\nOther.\n"
    )
    second = index.update(folder)
    assert (second.added, second.removed) == (2, 1)
    assert second.unchanged == first.added - 1
    assert index.store.count() == first.added + 1
    # The unchanged text moved: its offsets are new, its vector is not.
    hit = next(h for h in index.search("list", k=1000) if h.heading == "List")
    assert (folder / "a.md").read_text()[hit.start : hit.end] == hit.text == "The list of files."


def test_what_is_gone_is_dropped(index: Index, folder: Path) -> None:
    first = index.update(folder)
    (folder / "sub" / "c.rst").unlink()
    (folder / "b.txt").write_text(" ")
    second = index.update(folder)
    assert (second.files, second.added, second.unchanged) == (2, 0, 2)
    assert second.removed == first.added - 2
    assert stored_texts(index) == ["The dict of strings.", "The list of files."]


def test_a_renamed_file_moves(index: Index, folder: Path) -> None:
    index.update(folder)
    (folder / "b.txt").rename(folder / "d.txt")
    report = index.update(folder)
    assert (report.added, report.reused, report.removed) == (0, 1, 1)
    assert "b.txt" not in index.store.sources(str(folder))
    (hit,) = index.search("function", k=1, mode="bm25")
    assert (hit.source, hit.text) == ("d.txt", "Each function returns an error.")


def test_broken_files_are_reported_and_do_not_stop_the_rest(index: Index, folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "gone.md").symlink_to(folder / "nowhere")
    report = index.update(folder)
    assert report.files == 3
    reasons = {failure.source: failure.reason for failure in report.failed}
    assert set(reasons) == {"bad.txt", "gone.md"}
    assert "not valid utf-16-le" in reasons["bad.txt"]
    assert "No such file" in reasons["gone.md"]


def test_links_that_lead_outside_are_named_or_followed(index: Index, folder: Path) -> None:
    outside = folder.parent / "outside.txt"
    outside.write_text("The secret of the list.")
    (folder / "link.txt").symlink_to(outside)
    report = index.update(folder)
    assert report.outside == ("link.txt",)
    assert report.failed == ()
    assert "The secret of the list." not in stored_texts(index)
    report = index.update(folder, follow_links=True)
    assert report.outside == ()
    assert "The secret of the list." in stored_texts(index)
    assert index.update(folder).removed == 1


def test_files_without_text_are_named(index: Index, folder: Path) -> None:
    (folder / "blank.txt").write_text(" \n")
    (folder / "frame.html").write_text("<body><script>draw()</script></body>")
    report = index.update(folder)
    assert report.empty == ("blank.txt", "frame.html")
    assert report.failed == ()


def test_a_file_that_became_unreadable_keeps_its_passages(index: Index, folder: Path) -> None:
    first = index.update(folder)
    (folder / "b.txt").write_bytes(b"\xff")
    second = index.update(folder)
    assert (second.removed, len(second.failed)) == (0, 1)
    assert index.store.count() == first.added


def test_nothing_is_dropped_for_an_empty_or_missing_folder(
    index: Index, folder: Path, tmp_path: Path
) -> None:
    first = index.update(folder)
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "no"):
        with pytest.raises(DocumentError):
            index.update(wrong)
    assert index.store.count() == first.added


def test_added_passages_are_left_alone_by_update(index: Index, folder: Path) -> None:
    (folder.parent / "extra.txt").write_text("Extra text. " * 100)
    extra = read_document(folder.parent / "extra.txt")
    passages = split(extra, index.embedder.tokenizer, 30)
    assert index.add(passages) == 0
    index.update(folder)
    index.update(folder)
    assert index.store.sources("")["extra.txt"].ids == {None: {passage.id for passage in passages}}


def test_add_counts_truncated_texts(index: Index, folder: Path) -> None:
    extra = read_document(folder / "sub" / "c.rst")
    assert index.add(split(extra, index.embedder.tokenizer, 500)) == 2


def test_a_file_of_many_batches_is_stored_whole(index: Index, folder: Path) -> None:
    words = "\n\n".join(f"word{i} " * 12 for i in range(1200))
    (folder / "long.txt").write_text(words)
    report = index.update(folder)
    assert report.added > 1000
    assert index.store.sources(str(folder))["long.txt"].has_digest(
        next(v.digest for v in index.store.sources(str(folder))["long.txt"].ids if v)
    )


def test_progress_grows_to_the_end(index: Index, folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"\xff" * 100)
    seen: list[UpdateProgress] = []
    report = index.update(folder, on_progress=seen.append)
    total = sum(path.stat().st_size for path in folder.rglob("*.*"))
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    assert {p.bytes_total for p in seen} == {total}
    assert (seen[-1].bytes_done, seen[-1].passages) == (total, report.added)


def test_the_work_is_what_will_be_embedded(index: Index, folder: Path) -> None:
    """Neither what cannot be read nor what has no text is work, nor what is unchanged."""
    (folder / "0-bad.txt").write_bytes(b"\xff" * 100)
    (folder / "0-empty.txt").write_text(" " * 100)
    seen: list[UpdateProgress] = []
    index.update(folder, on_progress=seen.append)
    readable = sum(p.stat().st_size for p in folder.rglob("*.*") if not p.name.startswith("0-"))
    assert (seen[0].work_done, seen[0].work_total) == (0, readable + 200)
    assert (seen[-1].work_done, seen[-1].work_total) == (readable, readable)
    assert seen[-1].bytes_done == readable + 200
    assert all(p.work_done <= p.bytes_done for p in seen)
    seen.clear()
    (folder / "a.md").write_text("# New\n\nText of the list.")
    index.update(folder, on_progress=seen.append)
    changed = (folder / "a.md").stat().st_size
    assert seen[0].work_total == 200  # both may have changed
    assert (seen[-1].work_done, seen[-1].work_total) == (changed, changed)


def test_progress_shows_before_anything_is_stored(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.index.update.FLUSH_SECONDS", 1000.0)
    seen: list[UpdateProgress] = []
    index.update(folder, on_progress=seen.append)
    first = next(p for p in seen if p.embedded)
    assert first.passages == 0 < first.work_done <= first.bytes_done
    assert seen[-1].passages == seen[-1].embedded


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_progress_counts_what_is_flushed(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr("quaver.index.update.FLUSH_SECONDS", seconds)
    monkeypatch.setattr("quaver.index.embedding.PASSAGES_PER_BATCH", 4)
    for i in range(10):
        (folder / f"{i}.txt").write_text(f"Text {i} of the list of files.")
    written, flushed = [0], [0]
    upsert, flush = index.store.upsert, index.store.flush

    def counted_upsert(passages: list[Passage], *args: Any, **options: Any) -> None:
        upsert(passages, *args, **options)
        written.append(written[-1] + len(passages))

    def counted_flush() -> None:
        now = written[-1]
        flush()
        flushed.append(now)

    monkeypatch.setattr(index.store, "upsert", counted_upsert)
    monkeypatch.setattr(index.store, "flush", counted_flush)
    ahead: list[int] = []
    report = index.update(folder, on_progress=lambda p: ahead.append(p.passages - flushed[-1]))
    assert max(ahead) <= 0
    assert flushed[-1] == report.added
    # One flush for each batch, or one for all of them and one at the end.
    batches = len(written) - 1
    assert len(flushed) - 1 == (batches + 2 if seconds == 0 else 2)


@pytest.mark.parametrize("query", [None, b"text", "", " \n", 7])
def test_a_query_must_be_text(index: Index, query: object) -> None:
    with pytest.raises(InputError, match="a query must"):
        index.search(query)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_a_query_may_be_long(index: Index, folder: Path, mode: str) -> None:
    index.update(folder)
    words = " ".join(f"word{i}" for i in range(12_000))
    long = f"{words} the dict of strings"
    assert len(long) > 100_000
    hits = index.search(long, k=1, mode=mode)  # type: ignore[arg-type]
    assert len(hits) == 1
    if mode == "bm25":  # all words count
        assert hits[0].text == "The dict of strings."


def test_other_arguments_of_search(index: Index) -> None:
    assert index.search("anything") == []
    with pytest.raises(InputError, match="k must be a whole number of at least 1: got 0"):
        index.search("x", k=0)
    with pytest.raises(
        InputError, match=r"mode must be one of dense, bm25, sparse, hybrid, .*: got 'best'"
    ):
        index.search("x", mode="best")  # type: ignore[arg-type]


def test_open_finds_the_model_again(
    tmp_path: Path, tiny_folder: Path, embedder: Embedder, folder: Path
) -> None:
    with Index.create(tmp_path / "kb", embedder) as index:
        index.update(folder)
    with Index.open(tmp_path / "kb") as again:
        assert again.search("list", k=1)


def test_open_loads_the_model_as_it_was_loaded(tmp_path: Path) -> None:
    bare = write_tiny_model(tmp_path / "bare")
    (bare / "modules.json").unlink()
    embedder = Embedder.from_pretrained(
        bare, pooling="cls", normalize=True, max_seq_length=32, truncate_dim=16, threads=1
    )
    Index.create(tmp_path / "kb", embedder).close()
    with Index.open(tmp_path / "kb") as opened:
        assert loading_settings(opened.embedder) == loading_settings(embedder)
        assert opened.embedder.fingerprint == embedder.fingerprint


def test_open_refuses_another_model(tmp_path: Path, embedder: Embedder) -> None:
    Index.create(tmp_path / "kb", embedder).close()
    other = Embedder.from_pretrained(write_tiny_model(tmp_path / "other", seed=1), threads=1)
    with pytest.raises(StoreMismatchError, match=r"made with /.*/tiny \(fing.*not with /.*/other"):
        Index.open(tmp_path / "kb", other)
    wide = Embedder.from_pretrained(write_tiny_model(tmp_path / "wide", hidden=128), threads=1)
    with pytest.raises(StoreMismatchError, match=r"dimension 64 .*wide gives dimension 128"):
        Index.open(tmp_path / "kb", wide)
    Index.open(tmp_path / "kb", embedder).close()


def test_both_precisions_share_a_store(
    tmp_path: Path, tiny_folder: Path, embedder: Embedder, folder: Path
) -> None:
    with Index.create(tmp_path / "kb", embedder) as index:
        index.update(folder)
    plain = Embedder.from_pretrained(tiny_folder, precision="float32", threads=1)
    with Index.open(tmp_path / "kb", plain) as index:
        assert index.update(folder).added == 0


def test_the_state_of_the_path(tmp_path: Path, embedder: Embedder) -> None:
    path = tmp_path / "kb"
    assert not Index.exists(path)
    with pytest.raises(StoreNotFoundError):
        Index.open(path, embedder)
    index = Index.create(path, embedder)
    assert Index.exists(path)
    with pytest.raises(StoreLockedError):
        Index.open(path, embedder)
    index.close()
    with pytest.raises(StoreExistsError):
        Index.create(path, embedder)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A second folder with a file of the same name and text as in the first, and one of its own."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.txt").write_text("Each function returns an error.")
    (other / "d.txt").write_text("Only here.")
    return other


def test_another_folder_leaves_the_first_alone(index: Index, folder: Path, other: Path) -> None:
    first = index.update(folder)
    second = index.update(other)
    assert (second.files, second.unchanged, second.removed) == (2, 0, 0)
    assert (second.added, second.reused) == (1, 1)  # one text is in both
    assert index.roots() == {str(folder): first.added, str(other): 2}
    same = [h for h in index.search("each function", k=1000) if h.source == "b.txt"]
    assert {hit.root for hit in same} == {str(folder), str(other)}
    assert len({hit.id for hit in same}) == 2

    (folder / "a.md").unlink()
    again = index.update(folder)
    assert (again.added, again.removed) == (0, 2)
    assert index.roots() == {str(folder): first.added - 2, str(other): 2}
    assert index.update(other).unchanged == 2


def test_a_folder_is_the_same_by_any_path(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index.update(folder)
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for path in (".", "../link", folder / "sub" / ".."):
        assert index.update(path).unchanged == first.added
    assert index.roots() == {str(folder): first.added}


def test_a_moved_folder_is_another_unless_it_has_a_name(
    index: Index, folder: Path, other: Path
) -> None:
    first = index.update(folder)
    index.update(other, name="notes")
    moved = folder.rename(folder.parent / "moved"), other.rename(other.parent / "elsewhere")
    report = index.update(moved[0])
    assert (report.added, report.reused) == (0, first.added)
    report = index.update(moved[1], name="notes")
    assert (report.added, report.reused, report.unchanged) == (0, 0, 2)
    assert index.roots() == {str(folder): first.added, str(moved[0]): first.added, "notes": 2}
    assert index.remove(folder) == first.added
    assert index.remove("notes") == 2
    assert index.roots() == {str(moved[0]): first.added}
    assert index.update(moved[0]).unchanged == first.added
    with pytest.raises(
        DocumentError, match=r"to remove must be indexed: notes is not, .* holds .*mov"
    ):
        index.remove("notes")
    with pytest.raises(InputError, match="name must not be empty"):
        index.update(moved[0], name=" ")


def test_a_folder_whose_path_is_no_text_needs_a_name(index: Index, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    (odd / "a.txt").write_text("Something.")
    with pytest.raises(DocumentError, match=r"must be valid UTF-8: got .*caf.*, or give it a name"):
        index.update(odd)
    assert index.update(odd, name="cafe").added == 1


def test_passage_tokens_bound_the_passages_and_are_kept(
    tmp_path: Path, embedder: Embedder, folder: Path
) -> None:
    def longest(index: Index) -> int:
        count = index.embedder.tokenizer.count
        return max(count(embedded_text(h.heading, h.text)) for h in index.search("x", k=1000))

    with Index.create(tmp_path / "kb", embedder, passage_tokens=12) as index:
        first = index.update(folder)
        assert longest(index) <= 12
    with Index.open(tmp_path / "kb", embedder) as index:
        assert index.passage_tokens == 12
        assert index.update(folder).unchanged == first.added
    with Index.create(tmp_path / "kb2", embedder) as index:
        assert index.passage_tokens == passage_budget(embedder)
        assert index.update(folder).added < first.added
        assert longest(index) > 12
    for wrong in (7, passage_budget(embedder) + 1):
        with pytest.raises(InputError, match=rf"from 8 to {passage_budget(embedder)}, .* {wrong}"):
            Index.create(tmp_path / "kb3", embedder, passage_tokens=wrong)
    assert not (tmp_path / "kb3").exists()


class _Stopped(BaseException):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("step", ["upsert", "flush", "delete", "optimize"])
@pytest.mark.parametrize("call", [1, 2])
def test_an_update_that_stops_anywhere_is_finished_by_the_next(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    monkeypatch.setattr("quaver.index.embedding.PASSAGES_PER_BATCH", 4)
    index.update(folder)
    (folder / "a.md").write_text("# Dict\n\nThe dict of strings.\n\nAll new.")
    (folder / "sub" / "c.rst").unlink()
    calls = 0
    real = getattr(FolderStore, step)

    def stop(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise _Stopped
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, step, stop)
        try:
            index.update(folder)
        except _Stopped:
            texts = stored_texts(index)
            assert "Each function returns an error." in texts
            # The changed file's old passages go when its new ones are there, never before.
            assert any(text.startswith("The dict of strings.") for text in texts)
    index.update(folder)
    assert stored_texts(index) == [
        "Each function returns an error.",
        "The dict of strings.\n\nAll new.",
    ]
    assert index.update(folder).added == 0


def test_a_full_disk_keeps_what_is_stored(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index.update(folder)
    (folder / "new.txt").write_text("Something new.")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("quaver.store.column.write_at", full)
        with pytest.raises(StoreWriteError, match="No space left on device; what is stored stays"):
            index.update(folder)
        assert index.search("text", k=3)
    assert index.store.count() == first.added
    assert index.update(folder).added == 1


@pytest.mark.parametrize("number", [0, 1, 64, 66, 95, 97, 128, 1000])
def test_batches_are_even_and_lose_nothing(number: int) -> None:
    passages = [Passage(str(i), "a", "", "", 0, 1) for i in range(number)]
    pieces = list(batches(passages))
    assert [passage for piece in pieces for passage in piece] == passages
    sizes = [len(piece) for piece in pieces]
    assert not sizes or (max(sizes) - min(sizes) <= 1 and max(sizes) <= 96)


# --- Status ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["kb", ":memory:"])
def test_status_says_what_is_stored(
    tmp_path: Path, folder: Path, embedder: Embedder, where: str
) -> None:
    location = where if where == ":memory:" else str(tmp_path / where)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 no")
    with Index.create(location, embedder) as index:
        empty = index.status()
        assert (empty.passages, empty.folders, empty.files, empty.updated) == (0, (), 0, None)
        report = index.update(folder)
        index.add([Passage("loose", "text", "", "", 0, 4)])
        status = index.status()
        (one,) = status.folders
        assert (one.root, one.files, one.passages) == (str(folder), 3, report.added)
        assert [failure.source for failure in one.failed] == ["broken.pdf"]
        assert (status.failures, status.files, status.passages) == (1, 3, report.added + 1)
        assert status.updated == one.updated is not None
        assert status.updated >= status.created
        assert (status.location, status.model) == (location, embedder.source)
        assert status.dimension == embedder.dimension
        assert status.bytes is None if where == ":memory:" else status.bytes > 1000
        index.remove(folder)
        assert index.status().folders == ()


# --- Texts, and a closed index --------------------------------------------------------------------
def test_texts_are_added_with_ids_of_their_own(index: Index) -> None:
    texts = ["The list of files.", "The dict of strings.", "The list of files."]
    metadata = [{"page": 1}, None, {"page": 3}]
    ids = index.add_texts(texts, metadata=metadata)
    assert len(set(ids)) == 3
    assert index.add_texts(texts, metadata=metadata) == ids  # the same again
    assert index.store.count() == 3
    assert index.roots() == {"": 3}
    (hit,) = index.search("list files", filter=Compare("page", "==", 3))
    assert (hit.id, hit.text, hit.metadata) == (ids[2], texts[2], {"page": 3})
    assert index.add_texts(["Mine."], ids=["my id"]) == ["my id"]
    assert index.add_texts([]) == []
    assert index.store.get(["my id"])[0].passage.text == "Mine."


def test_add_takes_texts_beside_passages(index: Index) -> None:
    assert index.add(["The list.", Passage("p", "The dict.", "", "", 0, 9)]) == 0
    assert index.add(["word " * 5000]) == 1  # truncated
    assert index.store.count() == 3
    assert index.add_texts(["The list."])[0] in {row.passage.id for row in index.store.scan()}
    assert index.store.count() == 3


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("text",), {}, r"texts must be a list of str: got the str 'text'"),
        ((["a", 5],), {}, r"every text must be a str: texts\[1\] is int"),
        (({"a"},), {}, "set"),
        ((["a"],), {"ids": "x"}, "ids must be a list of str: got the str 'x'"),
        ((["a"],), {"ids": []}, "ids must have one entry for each of the 1 texts: got 0"),
        ((["a"],), {"metadata": [{}, {}]}, "metadata must have one entry .* 1 texts: got 2"),
        ((["a"],), {"metadata": {"page": 1}}, "metadata must be a list of one mapping"),
        ((["a"],), {"metadata": [{"page": {1}}]}, "metadata must be what JSON can hold"),
        ((["a", "b"],), {"ids": ["x", "x"]}, "must stand once in a call"),
    ],
)
def test_texts_that_are_none(
    index: Index, arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        index.add_texts(*arguments, **options)
    assert index.store.count() == 0


def test_passages_that_are_none(index: Index) -> None:
    for wrong in ("text", Passage("p", "text", "", "", 0, 4)):
        with pytest.raises(
            InputError, match=r"passages must be a list: got one .*; write \[passage\]"
        ):
            index.add(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Passage or a str: passages\[1\] is int"):
        index.add(["a", 1])  # type: ignore[list-item]


@pytest.mark.parametrize("where", ["kb", ":memory:"])
def test_a_closed_index_says_that_it_is_closed(
    tmp_path: Path, folder: Path, embedder: Embedder, where: str
) -> None:
    index = Index.create(where if where == ":memory:" else tmp_path / where, embedder)
    index.add(["text"])
    index.close()
    index.close()
    for call in (
        lambda: index.search("text"),
        lambda: index.add(["text"]),
        lambda: index.add_texts(["text"]),
        lambda: index.update(folder),
        lambda: index.remove(folder),
        index.roots,
        index.status,
        index.refresh,
    ):
        with pytest.raises(StoreClosedError, match=r"this index is closed: open .* again"):
            call()


def test_an_index_opened_to_read_follows_the_one_that_writes(
    tmp_path: Path, folder: Path, embedder: Embedder
) -> None:
    with Index.create(tmp_path / "kb", embedder) as writer:
        with Index.open(tmp_path / "kb", embedder, read_only=True) as reader:
            assert reader.search("list") == []
            writer.update(folder)
            assert reader.search("list") == []
            assert reader.refresh()
            assert reader.search("list") == writer.search("list") != []
            assert reader.status().passages == writer.status().passages
            with pytest.raises(StoreWriteError, match="was opened to read"):
                reader.add(["text"])
        with pytest.raises(StoreLockedError):
            Index.open(tmp_path / "kb", lambda manifest: pytest.fail("the model comes last"))
