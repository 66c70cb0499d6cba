"""Late chunking in an index: vectors of passages that know their document, however they came into the store."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient
from typer.testing import CliRunner

from golden_folders import unpacked
from quaver import (
    Embedder,
    Index,
    MultiVectorEncoder,
    Passage,
    SparseEncoder,
    export_passages,
    import_passages,
)
from quaver.cli import app
from quaver.errors import InputError, StoreError, StoreMismatchError
from quaver.index import update as update_module
from quaver.store import Manifest
from quaver.store.qdrant_server import QdrantStore
from tiny_model import write_tiny_model
from whole_documents import by_document, require_right

TOKENS = 24
"""Each paragraph below is a passage: two are longer together."""

SHORT = (
    "The file of the function has data and strings of text.",
    "It returns an error of the class, and the value is a key.",
)
STORES = ("kb", ":memory:", "qdrant://localhost/kb")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file that fits the model, one that does not, and one with headings."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "short.txt").write_text("\n\n".join(SHORT))
    lines = [f"Text {i} of the long file has python data number {i}." for i in range(40)]
    (folder / "long.txt").write_text("\n\n".join(lines))
    (folder / "notes.md").write_text("# Class\n\nIt has a key.\n\n## Query\n\nIt is one string.\n")
    return folder


@pytest.fixture(params=STORES)
def index(request: pytest.FixtureRequest, tmp_path: Path, embedder: Embedder) -> Iterator[Index]:
    place = tmp_path / "kb" if request.param == "kb" else request.param
    options: dict[str, Any] = {"passage_tokens": TOKENS, "late_chunking": True}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        # The client's in-process mode has no payload indexes, and says so.
        warnings.filterwarnings("ignore", "Payload indexes have no effect")
        client, create = QdrantClient(":memory:"), QdrantStore.create
        patched.setattr(QdrantStore, "create", lambda where, made: create(where, made, client))
        with Index.create(place, embedder, **options) as made:
            yield made
    client.close()


class Counted:
    """How many passages are embedded; stops after some batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Starts to count."""
        self.passages, self.batches_left = 0, 1 << 30
        whole = update_module.embed

        def counting(embedder: Embedder, batch: Any) -> Any:
            self.batches_left -= 1
            if self.batches_left < 0:
                raise InterruptedError
            self.passages += len(batch.passages)
            return whole(embedder, batch)

        monkeypatch.setattr(update_module, "embed", counting)

    def take(self) -> int:
        found, self.passages = self.passages, 0
        return found


def test_vectors_are_those_of_encode_spans(index: Index, folder: Path) -> None:
    report = index.update(folder)
    assert report.added > 40
    assert report.truncated == 0
    require_right(index)
    # And not those of the passages alone.
    (rows,) = (rows for (_, source), rows in by_document(index).items() if source == "short.txt")
    assert len(rows) == 2
    alone = index.embedder.encode_document([one.passage.embedded_text for one in rows])
    for one, vector in zip(rows, alone, strict=True):
        assert float(one.vector @ vector) < 0.99
    assert index.search("python data", mode="dense")
    assert index.status().late_chunking


def test_a_change_embeds_the_document_again_and_no_other(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.update(folder)
    before = {one.passage.id: one.vector for rows in by_document(index).values() for one in rows}
    counted = Counted(monkeypatch)
    text = (folder / "long.txt").read_text()
    (folder / "long.txt").write_text(text.replace("Text 20 of", "The query 20 is of"))
    report = index.update(folder)
    long = next(rows for (_, source), rows in by_document(index).items() if source == "long.txt")
    assert counted.take() == report.added == len(long)
    assert report.removed == 1
    assert report.unchanged == index.store.count() - len(long)
    require_right(index)
    # The neighbors of the paragraph have other vectors than before, though their texts are the same.
    changed = [
        one.passage.text
        for one in long
        if one.passage.id in before
        and not np.allclose(one.vector, before[one.passage.id], atol=1e-6)  # type: ignore[arg-type]
    ]
    assert any("Text 19 " in text for text in changed)
    assert not any("Text 39 " in text for text in changed)  # read in another window
    assert index.update(folder).added == counted.take() == 0


def test_a_moved_or_copied_file_reuses_its_vectors(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = index.update(folder).added
    long = next(rows for (_, source), rows in by_document(index).items() if source == "long.txt")
    counted = Counted(monkeypatch)
    (folder / "sub").mkdir()
    (folder / "long.txt").rename(folder / "sub" / "moved.txt")
    (folder / "copy.txt").write_text((folder / "short.txt").read_text())
    report = index.update(folder)
    assert (report.added, counted.take()) == (0, 0)
    assert (report.reused, report.unchanged) == (len(long) + 2, total - len(long))
    require_right(index)
    # The same bytes, read as another format, are another document.
    (folder / "notes.md").rename(folder / "notes.txt")
    assert index.update(folder).added == counted.take() > 0
    require_right(index)


def test_the_same_paragraph_elsewhere_gets_a_vector_of_its_own(index: Index, folder: Path) -> None:
    others = (
        "A passage of some text that was made for the query.",
        "More of the data is in the list of the files.",
    )
    (folder / "other.txt").write_text("\n\n".join((others[0], SHORT[1], others[1], SHORT[1])))
    index.update(folder)
    require_right(index)
    same = [
        one for rows in by_document(index).values() for one in rows if one.passage.text == SHORT[1]
    ]
    assert len(same) == 3
    assert len({one.vector.tobytes() for one in same if one.vector is not None}) == 3
    (folder / "copy.txt").write_text((folder / "other.txt").read_text())
    assert index.update(folder).added == 0
    require_right(index)


def test_an_interrupted_update_continues(
    tmp_path: Path, folder: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.index.embedding.PASSAGES_PER_BATCH", 4)
    monkeypatch.setattr(update_module, "FLUSH_SECONDS", 0.0)
    counted = Counted(monkeypatch)
    counted.batches_left = 5
    options: dict[str, Any] = {"passage_tokens": TOKENS, "late_chunking": True}
    with (
        Index.create(tmp_path / "kb", embedder, **options) as index,
        pytest.raises(InterruptedError),
    ):
        index.update(folder)
    done = counted.take()
    counted.batches_left = 1 << 30
    with Index.open(tmp_path / "kb", embedder) as index:
        stored = index.store.count()
        assert 0 < stored <= done
        report = index.update(folder)
        assert report.unchanged == stored
        assert report.added == counted.take() == index.store.count() - stored
        require_right(index)
        # Interrupted in the middle of a change, the store holds passages of two versions.
        text = (folder / "long.txt").read_text()
        (folder / "long.txt").write_text(text.replace("Text 20 of", "The query 20 is of"))
        counted.batches_left = 3
        with pytest.raises(InterruptedError):
            index.update(folder)
        counted.batches_left = 1 << 30
        done = counted.take()
    with Index.open(tmp_path / "kb", embedder) as index:
        total = index.update(folder).added
        assert total == counted.take()
        assert 0 < total < 41
        require_right(index)


def test_added_passages_of_a_source_are_a_document(index: Index, embedder: Embedder) -> None:
    texts = ["The file has data.", "It returns an error.", "It is one string."]
    index.add(
        [
            Passage("a0", texts[0], "a", "", 0, 18),
            Passage("b0", texts[0], "b", "", 0, 18),
            Passage("a1", texts[1], "a", "", 20, 40),
            Passage("b1", texts[2], "b", "", 20, 37),
        ]
    )
    (loose,) = index.add_texts([texts[1]])
    require_right(index)
    found = index.store.vectors(["a0", "b0", "a1", loose])
    assert not np.allclose(found["a0"], found["b0"], atol=1e-3)
    assert not np.allclose(found["a1"], found[loose], atol=1e-3)
    alone = embedder.encode_spans(texts[1], [(0, len(texts[1]))])[0]
    np.testing.assert_allclose(found[loose], alone, atol=1e-6)


def test_a_passage_without_a_token(index: Index, embedder: Embedder) -> None:
    assert len(embedder.tokenizer.locate("\u200b").ids) == 0
    index.add(
        [
            Passage("0", "\u200b", "a", "", 0, 1),
            Passage("1", "The file has data.", "a", "", 3, 21),
            Passage("2", "\u200b", "b", "", 0, 1),
        ]
    )
    found = index.store.vectors(["0", "1", "2"])
    empty = embedder.encode_document("\u200b")
    np.testing.assert_allclose(found["0"], empty, atol=1e-6)
    np.testing.assert_allclose(found["2"], empty, atol=1e-6)
    alone = embedder.encode_spans("The file has data.", [(0, 18)])[0]
    np.testing.assert_allclose(found["1"], alone, atol=1e-6)


def test_the_default_length_leaves_room_for_the_document(
    tmp_path: Path, embedder: Embedder, tiny_folder: Path
) -> None:
    with Index.create(":memory:", embedder, late_chunking=True) as index:
        most = 64 - 2 - embedder.tokenizer.count("passage: ")
        assert index.passage_tokens == most // 4
    long = write_tiny_model(tmp_path / "long", max_positions=4096)
    with Index.create(":memory:", Embedder.from_pretrained(long), late_chunking=True) as index:
        assert index.passage_tokens == 256
    short = Embedder.from_pretrained(tiny_folder, max_seq_length=16)
    with Index.create(":memory:", short, late_chunking=True) as index:
        assert index.passage_tokens == 8


def test_models_that_cannot(tmp_path: Path) -> None:
    cls = Embedder.from_pretrained(write_tiny_model(tmp_path / "cls", pooling="cls"))
    with pytest.raises(InputError, match="take a model with mean pooling"):
        Index.create(tmp_path / "kb", cls, late_chunking=True)
    static = Embedder.from_pretrained(unpacked("model2vec-float32", tmp_path))
    with pytest.raises(InputError, match=r"model2vec-float32 is static.*leave late_chunking out"):
        Index.create(tmp_path / "kb", static, late_chunking=True)
    assert not Index.exists(tmp_path / "kb")


@pytest.mark.parametrize("late", [True, False])
def test_a_store_keeps_its_kind(
    tmp_path: Path, folder: Path, embedder: Embedder, tiny_folder: Path, late: bool
) -> None:
    kb, other = tmp_path / "kb", tmp_path / "other"
    run = CliRunner()
    words = ["--model", str(tiny_folder), "--quiet", *(["--late-chunking"] if late else [])]
    made = run.invoke(app, ["index", str(folder), "--store", str(kb), *words])
    assert made.exit_code == 0, made.output
    content = json.loads((kb / "quaver.json").read_text())
    assert content["format_version"] == (5 if late else 3)
    assert content.get("late_chunking") == (True if late else None)
    again = run.invoke(app, ["index", str(folder), "--store", str(kb), "--late-chunking"])
    assert again.exit_code == (0 if late else 2), again.output
    if not late:
        assert "was made without late chunking, which cannot change" in " ".join(
            again.output.split()
        )
    plain = run.invoke(app, ["index", str(folder), "--store", str(kb)])  # as it was made
    assert plain.exit_code == 0, plain.output
    with Index.open(kb, embedder) as index:
        assert index.store.manifest.late_chunking == late
        if late:
            require_right(index)
    assert ("whole documents" in run.invoke(app, ["status", str(kb)]).output) == late
    count = export_passages(kb, tmp_path / "kb.parquet")
    Index.create(other, embedder, late_chunking=not late).close()
    with pytest.raises(InputError, match=r"late chunking, which cannot change.*another store"):
        import_passages(tmp_path / "kb.parquet", other)
    assert import_passages(tmp_path / "kb.parquet", tmp_path / "new") == count
    with Index.open(tmp_path / "new", embedder) as index:
        assert index.update(folder).added == 0
        (folder / "copy.txt").write_text((folder / "short.txt").read_text())
        assert index.update(folder).added == 0  # what was imported is found by content
        if late:
            require_right(index)


def test_manifests() -> None:
    late = Manifest("model", "f" * 64, 8, 100, "2030-01-01", late_chunking=True)
    assert Manifest.parse(late.to_json(), where="here") == late
    content = json.loads(late.to_json())
    with pytest.raises(StoreError, match="needs 'late_chunking' as bool: got 1"):
        Manifest.parse(json.dumps({**content, "late_chunking": 1}), where="here")
    with pytest.raises(StoreMismatchError, match="this Quaver reads 3, 4, 5; upgrade Quaver"):
        Manifest.parse(json.dumps({**content, "format_version": 6}), where="here")


def spoil(path: Path, at: Callable[[int], int]) -> None:
    data = bytearray(path.read_bytes())
    data[at(len(data))] ^= 4
    path.write_bytes(data)


def test_a_damaged_vector_is_pooled_from_its_document_again(
    tmp_path: Path, folder: Path, embedder: Embedder
) -> None:
    kb = tmp_path / "kb"
    options: dict[str, Any] = {"passage_tokens": TOKENS, "late_chunking": True}
    with Index.create(kb, embedder, **options) as index:
        index.update(folder)
        total = index.store.count()
        index.add(
            [
                Passage("a0", "The file has data.", "a", "", 0, 18),
                Passage("a1", "It returns an error.", "a", "", 20, 40),
            ]
        )
    for row in (5, total + 1):
        spoil(kb / "vectors.1", lambda size, row=row: 4 * 64 * row + 1)  # type: ignore[misc]
    assert [damage.part for damage in Index.check(kb).damages] == ["vector", "vector"]
    done = Index.repair(kb)
    assert (done.embedded, done.lost, done.passages) == (2, 0, total + 2)
    with Index.open(kb, embedder) as index:
        require_right(index)


def test_a_damaged_vector_beside_a_damaged_text_waits_for_the_file(
    tmp_path: Path, folder: Path, embedder: Embedder
) -> None:
    kb = tmp_path / "kb"
    options: dict[str, Any] = {"passage_tokens": TOKENS, "late_chunking": True}
    (folder / "short.txt").unlink()
    (folder / "notes.md").unlink()
    with Index.create(kb, embedder, **options) as index:
        total = index.update(folder).added
    spoil(kb / "vectors.1", lambda size: 4 * 64 * 5 + 1)
    spoil(kb / "texts.1", lambda size: size - 2)  # in the last passage
    done = Index.repair(kb)
    assert (done.embedded, done.lost, done.passages) == (0, 2, total - 2)
    with Index.open(kb, embedder) as index:
        report = index.update(folder)
        assert (report.added, report.unchanged) == (2, total - 2)
        require_right(index)


def test_sparse_and_token_vectors_are_those_of_the_passage_alone(
    tmp_path: Path, folder: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    splade = SparseEncoder.from_pretrained(unpacked("splade-bert", tmp_path), threads=1)
    colbert = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path), threads=1)
    options: dict[str, Any] = {"passage_tokens": 21, "late_chunking": True}
    with Index.create(tmp_path / "kb", embedder, sparse=splade, multi=colbert, **options) as index:
        index.update(folder)
        encoded: list[str] = []
        whole = MultiVectorEncoder.encode_document

        def counting(self: MultiVectorEncoder, texts: list[str], **given: Any) -> Any:
            encoded.extend(texts)
            return whole(self, texts, **given)

        monkeypatch.setattr(MultiVectorEncoder, "encode_document", counting)
        text = (folder / "short.txt").read_text()
        (folder / "short.txt").write_text(text.replace("The file", "A list"))
        assert index.update(folder).added == 2
        # The document changes the dense vectors alone.
        assert encoded == [SHORT[0].replace("The file", "A list")]
        require_right(index)
        stored = list(index.store.scan(with_vectors=True))
        vectors = whole(colbert, [one.passage.embedded_text for one in stored], output="int8")
        for i, one in enumerate(stored):
            assert one.tokens is not None
            np.testing.assert_array_equal(one.tokens.multi, vectors[i])
        assert index.search("the list", mode="dense+bm25+sparse", maxsim=True)
    with Index.create(tmp_path / "later", embedder, **options) as index:
        index.update(folder)
        assert index.add_models(sparse=splade) == index.store.count()
        require_right(index)
        (folder / "copy.txt").write_text((folder / "short.txt").read_text())
        assert index.update(folder).added == 0
        require_right(index)
