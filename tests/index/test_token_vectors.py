"""Sparse and token vectors in an index: what is encoded, kept, searched, exported and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_folders import unpacked
from quaver import (
    CrossEncoder,
    Embedder,
    Index,
    MultiVectorEncoder,
    SparseEncoder,
    export_passages,
    import_passages,
)
from quaver.cli import app
from quaver.documents import embedded_text
from quaver.errors import InputError, ModelNotFoundError, StoreMismatchError
from quaver.index import update as update_module
from quaver.store import RANKINGS
from tiny_model import write_tiny_cross_encoder

QUESTION = "who returns the python error"


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> SparseEncoder:
    folder = unpacked("splade-bert", tmp_path_factory.mktemp("sparse"))
    return SparseEncoder.from_pretrained(folder, threads=1, max_active_dims=30)


@pytest.fixture(scope="module")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> MultiVectorEncoder:
    folder = unpacked("colbert", tmp_path_factory.mktemp("multi"))
    return MultiVectorEncoder.from_pretrained(folder, threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(6):
        paragraphs = "\n\n".join(f"File {i} has the python text {j} of data." for j in range(9))
        (folder / f"{i}.md").write_text(f"# Class {i}\n\n{paragraphs}\n")
    return folder


class Counted:
    """How many texts models encode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Starts to count."""
        self.texts = {"dense": 0, "sparse": 0, "multi": 0}
        for kind, owner, name in (
            ("sparse", SparseEncoder, "encode_document"),
            ("multi", MultiVectorEncoder, "encode_document"),
            ("dense", update_module, "embed"),
        ):
            whole = getattr(owner, name)

            def counting(*args: Any, _kind: str = kind, _whole: Any = whole, **options: Any) -> Any:
                texts = args[1]
                self.texts[_kind] += len(texts.passages if _kind == "dense" else texts)
                return _whole(*args, **options)

            monkeypatch.setattr(owner, name, counting)

    def take(self) -> dict[str, int]:
        found, self.texts = self.texts, dict.fromkeys(self.texts, 0)
        return found


def require_right(index: Index, splade: SparseEncoder, colbert: MultiVectorEncoder) -> None:
    """Every stored passage has the vectors that the models make of it."""
    assert index.store.incomplete() == []
    stored = list(index.store.scan(with_vectors=True))
    texts = [embedded_text(one.passage.heading, one.passage.text) for one in stored]
    weights = splade.encode_document(texts)
    vectors = colbert.encode_document(texts, output="int8")
    for i, one in enumerate(stored):
        assert one.tokens is not None
        assert one.tokens.sparse is not None
        assert one.tokens.multi is not None
        assert one.tokens.sparse.indices.tolist() == weights[i].indices.tolist()
        # float16 has 11 bits, and 2 ** -25 is half its smallest number.
        values = weights[i].values
        np.testing.assert_allclose(one.tokens.sparse.values, values, rtol=2**-11, atol=2**-25)
        np.testing.assert_array_equal(one.tokens.multi, vectors[i])


def test_an_update_encodes_what_is_new_and_keeps_the_rest(
    folder: Path,
    tmp_path: Path,
    embedder: Embedder,
    splade: SparseEncoder,
    colbert: MultiVectorEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    with Index.create(
        tmp_path / "kb", embedder, sparse=splade, multi=colbert, passage_tokens=20
    ) as index:
        report = index.update(folder)
        assert counted.take() == dict.fromkeys(("dense", "sparse", "multi"), report.added)
        require_right(index, splade, colbert)
        counted.take()
        (folder / "0.md").rename(folder / "renamed.md")
        (folder / "1.md").write_text((folder / "1.md").read_text() + "\n\nOne new text.\n")
        (folder / "2.md").unlink()
        report = index.update(folder)
        assert report.reused > 0
        assert report.removed > 0
        assert counted.take() == dict.fromkeys(("dense", "sparse", "multi"), report.added)
        require_right(index, splade, colbert)
        counted.take()
        index.add_texts(["A class of data.", "A class of data."])
        assert counted.take() == {"dense": 0, "sparse": 1, "multi": 1}
    with Index.open(tmp_path / "kb") as index:  # loads all models by itself
        require_right(index, splade, colbert)
        assert index.encoders.sparse.max_active_dims == 30
        assert index.update(folder).added == 0


def test_each_mode_ranks_as_its_models_do(
    folder: Path,
    tmp_path: Path,
    embedder: Embedder,
    splade: SparseEncoder,
    colbert: MultiVectorEncoder,
) -> None:
    with Index.create(tmp_path / "kb", embedder, sparse=splade, multi=colbert) as index:
        index.update(folder)
        stored = list(index.store.scan())
        texts = [embedded_text(one.passage.heading, one.passage.text) for one in stored]
        ids = [one.passage.id for one in stored]
        scores = splade.similarity(splade.encode_query(QUESTION), splade.encode_document(texts))
        hits = index.search(QUESTION, mode="sparse", k=len(ids))
        by_id = dict(zip(ids, scores.tolist(), strict=True))
        assert len(hits) == len([score for score in by_id.values() if score > 0])
        # float16 weights.
        np.testing.assert_allclose([h.score for h in hits], [by_id[h.id] for h in hits], rtol=2e-3)
        late = colbert.similarity(
            colbert.encode_query(QUESTION), colbert.encode_document(texts, output="int8")
        )
        hits = index.search(QUESTION, k=len(ids), maxsim=True)
        by_id = dict(zip(ids, late.tolist(), strict=True))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        # float32 sums in another order.
        np.testing.assert_allclose([h.score for h in hits], [by_id[h.id] for h in hits], rtol=1e-4)
        for mode in RANKINGS:
            assert index.search(QUESTION, mode=mode, k=3)
            assert len(index.search(QUESTION, mode=mode, k=2, maxsim=True, candidates=4)) == 2
        ranker = CrossEncoder.from_pretrained(
            write_tiny_cross_encoder(tmp_path / "ranker"), threads=1
        )
        with pytest.raises(InputError, match="either maxsim or a ranker"):
            index.search(QUESTION, maxsim=True, ranker=ranker)


def test_weights_that_are_compared_by_cosine_are_stored_with_length_1(
    tmp_path: Path, embedder: Embedder
) -> None:
    model = SparseEncoder.from_pretrained(unpacked("splade-distilbert", tmp_path), threads=1)
    assert model.similarity_fn_name == "cosine"
    texts = ["A class of data.", "The list of files returns an error."]
    with Index.create(tmp_path / "kb", embedder, sparse=model) as index:
        ids = index.add_texts(texts)
        tokens = index.store.tokens(ids)
    for identity in ids:
        sparse = tokens[identity].sparse
        assert sparse is not None
        assert float(np.linalg.norm(sparse.values)) == pytest.approx(1, abs=2**-11)


def test_models_are_added_later_and_an_interruption_is_made_good(
    folder: Path,
    tmp_path: Path,
    embedder: Embedder,
    splade: SparseEncoder,
    colbert: MultiVectorEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Index.create(tmp_path / "kb", embedder, passage_tokens=9) as index:
        report = index.update(folder)
        assert report.added > 64
        with pytest.raises(StoreMismatchError, match=r"--sparse MODEL.*add_models\(sparse="):
            index.search(QUESTION, mode="dense+sparse")
        with pytest.raises(StoreMismatchError, match="no token vectors"):
            index.search(QUESTION, maxsim=True)
        with pytest.raises(InputError, match="sparse must be a SparseEncoder"):
            index.add_models(sparse=colbert)  # type: ignore[arg-type]

        class Stopped(BaseException):
            pass

        def stop(done: int, total: int) -> None:
            assert total == report.added
            raise Stopped

        with pytest.raises(Stopped):
            index.add_models(sparse=splade, on_progress=stop)
    counted = Counted(monkeypatch)
    with Index.open(tmp_path / "kb", embedder) as index:
        left = len(index.store.incomplete())
        assert 0 < left < report.added
        assert index.update(folder).added == 0
        found = counted.take()  # equal texts of a batch once
        assert (found["dense"], found["multi"]) == (0, 0)
        assert 0 < found["sparse"] <= left
        assert index.add_models(sparse=splade, multi=colbert) == report.added
        found = counted.take()
        assert (found["dense"], found["sparse"]) == (0, 0)
        assert 0 < found["multi"] <= report.added
        require_right(index, splade, colbert)
        other = SparseEncoder.from_pretrained(unpacked("splade-distilbert", tmp_path), threads=1)
        with pytest.raises(StoreMismatchError, match=r"were made with .*splade-bert"):
            index.add_models(sparse=other)
    with pytest.raises(StoreMismatchError, match=r"were made with .*splade-bert"):
        Index.open(tmp_path / "kb", embedder, sparse=other)
    Index.open(tmp_path / "kb", embedder).close()  # the lock was released
    assert Index.check(tmp_path / "kb").ok


def test_a_model_that_is_gone_is_an_error(
    tmp_path: Path, embedder: Embedder, splade: SparseEncoder
) -> None:
    with Index.create(tmp_path / "kb", embedder, sparse=splade) as index:
        index.add_texts(["A class of data."])
    path = tmp_path / "kb" / "quaver.json"
    path.write_text(path.read_text().replace(splade.source, str(tmp_path / "gone")))
    with Index.open(tmp_path / "kb", embedder, read_only=True) as index:
        assert index.search(QUESTION)
        with pytest.raises(
            ModelNotFoundError, match=r"give Index\.open the loaded model with sparse="
        ):
            index.search(QUESTION, mode="sparse")
    with Index.open(tmp_path / "kb", embedder, read_only=True, sparse=splade) as index:
        assert index.search("A class of data.", mode="sparse")


def test_tokens_are_exported_imported_and_repaired(
    folder: Path,
    tmp_path: Path,
    embedder: Embedder,
    splade: SparseEncoder,
    colbert: MultiVectorEncoder,
) -> None:
    with Index.create(tmp_path / "kb", embedder, sparse=splade, multi=colbert) as index:
        index.update(folder)
        expected = index.search(QUESTION, mode="dense+sparse", maxsim=True)
        index.store.upsert([one.passage for one in index.store.get([expected[0].id])], None)
    count = export_passages(tmp_path / "kb", tmp_path / "kb.parquet")
    assert import_passages(tmp_path / "kb.parquet", tmp_path / "new") == count
    with Index.open(tmp_path / "new", embedder) as index:
        assert index.store.incomplete() == [expected[0].id]
        (bare,) = index.store.get([expected[0].id], with_vectors=True)
        assert bare.tokens is not None
        assert bare.tokens.sparse is None
        assert index.add_models() == 1
        require_right(index, splade, colbert)
    with Index.create(tmp_path / "plain", embedder):
        pass
    with pytest.raises(StoreMismatchError, match="no sparse vectors"):
        import_passages(tmp_path / "kb.parquet", tmp_path / "plain")
    for name in ("weights.1", "multi.1"):
        path = tmp_path / "new" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    assert {damage.part for damage in Index.check(tmp_path / "new").damages} == {"sparse", "multi"}
    assert Index.repair(tmp_path / "new").embedded in (1, 2)
    with Index.open(tmp_path / "new", embedder) as index:
        require_right(index, splade, colbert)


def test_the_commands(
    folder: Path,
    tmp_path: Path,
    tiny_folder: Path,
    splade: SparseEncoder,
    colbert: MultiVectorEncoder,
) -> None:
    def run(*arguments: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments)])
        assert done.exit_code == code, done.output
        return done.output

    kb = tmp_path / "kb"
    run("index", folder, "--model", tiny_folder, "--store", kb, "--quiet")
    wrong = run("search", kb, QUESTION, "--mode", "sparse", code=1)
    assert f"quaver index FOLDER --store {kb} --sparse MODEL" in " ".join(wrong.split())
    run("index", folder, "--store", kb, "--sparse", splade.source, "--quiet")
    added = run("index", folder, "--store", kb, "--multi", colbert.source, "--quiet")
    assert "encoded for sparse or token vectors" in added
    for mode in RANKINGS:
        found = json.loads(run("search", kb, QUESTION, "--mode", mode, "--maxsim", "--json"))
        assert found["hits"]
        assert found["hits"] == sorted(found["hits"], key=lambda hit: -hit["score"])
    asked = json.loads(run("ask", kb, QUESTION, "--mode", "dense+sparse", "--maxsim", "--json"))
    assert asked["passages"]
    status = json.loads(run("status", kb, "--json"))
    assert status["sparse"] == splade.source
    assert status["multi"] == colbert.source
    assert status["incomplete"] == 0
    text = run("status", kb)
    assert splade.source in text.replace("\n", "")
    wrong = run("index", folder, "--store", kb, "--sparse", colbert.source, code=1)
    assert "MultiVectorEncoder" in wrong
    run("search", kb, QUESTION, "--candidates", "7", code=2)
