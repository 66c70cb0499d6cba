"""Parquet: what goes out comes back, into every kind of store, and foreign files come in."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from quaver import Embedder, Index, Passage, cli
from quaver.errors import DocumentError, InputError, StoreMismatchError
from quaver.index.transfer import export_passages, import_passages
from quaver.store import StoredPassage
from quaver.store.location import open_store
from tiny_model import write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(9):
        paragraphs = "\n\n".join(f"File {i} has the text {j} of many words." for j in range(9))
        (folder / f"{i}.md").write_text(f"# Top {i}\n\n{paragraphs}\n")
    return folder


@pytest.fixture
def store(tmp_path: Path, embedder: Embedder, folder: Path) -> Path:
    """An index of a folder and of passages that belong to none, one of them without a vector."""
    with Index.create(tmp_path / "kb", embedder) as index:
        index.update(folder)
        metadata = {"page": 3, "tags": ["ä", None], "nested": {"x": 1.5}}
        index.add([Passage("loose", "the list of files", "x.pdf", "", 4, 21, "", metadata)])
        index.store.upsert([Passage("bare", "the dict of strings", "", "", 0, 19)], None)
    return tmp_path / "kb"


def content(location: Path) -> list[tuple[StoredPassage, Any]]:
    opened = open_store(location)
    rows = sorted(opened.scan(with_vectors=True), key=lambda row: row.passage.id)
    opened.close()
    return [(row, None if row.vector is None else row.vector.tolist()) for row in rows]


@pytest.mark.parametrize("vectors", [None, "int8"])
def test_what_goes_out_comes_back(
    store: Path, tmp_path: Path, folder: Path, embedder: Embedder, vectors: str | None
) -> None:
    file = tmp_path / "kb.parquet"
    count = export_passages(store, file)
    assert count == len(content(store)) > 20
    assert import_passages(file, tmp_path / "new", vectors=vectors) == count
    assert content(tmp_path / "new") == content(store)
    with Index.open(tmp_path / "new", embedder) as index:
        assert index.store.manifest.vectors == vectors or vectors is None
        report = index.update(folder)  # the file versions came along
        assert (report.added, report.reused, report.removed) == (0, 0, 0)
    # Once more into the same store: nothing is stored twice.
    assert import_passages(file, tmp_path / "new") == count
    assert content(tmp_path / "new") == content(store)
    with pytest.raises(InputError, match=r"with vectors \w+, which cannot change: got binary"):
        import_passages(file, tmp_path / "new", vectors="binary")


def test_an_export_is_plain_parquet(store: Path, tmp_path: Path, embedder: Embedder) -> None:
    export_passages(store, tmp_path / "kb.parquet")
    table = parquet.read_table(tmp_path / "kb.parquet")
    (row,) = [row for row in table.to_pylist() if row["id"] == "loose"]
    assert (row["text"], row["source"], row["start"]) == ("the list of files", "x.pdf", 4)
    assert row["metadata"] == '{"page": 3, "tags": ["ä", null], "nested": {"x": 1.5}}'
    expected = embedder.encode_document("the list of files")
    np.testing.assert_allclose(row["vector"], expected, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "kb", "kb.parquet"]


def test_a_foreign_file_is_embedded(tmp_path: Path, embedder: Embedder) -> None:
    file = tmp_path / "foreign.parquet"
    columns = {
        "id": [7, 8],
        "text": ["the list of files", "the dict of strings"],
        "year": [2020, 2021],
        "seen": [datetime(2030, 1, 2), None],
        "vector": [[1.0, 0.0], [0.0, 1.0]],
    }
    parquet.write_table(pa.table(columns), file)
    with pytest.raises(InputError, match="was not exported from a store: name a model"):
        import_passages(file, tmp_path / "kb")
    assert not (tmp_path / "kb").exists()
    seen: list[tuple[int, int]] = []
    count = import_passages(
        file, tmp_path / "kb", embedder=embedder, on_progress=lambda *now: seen.append(now)
    )
    assert (count, seen) == (2, [(2, 2)])
    with Index.open(tmp_path / "kb", embedder) as index:
        (hit,) = index.search("list", filter={"year": 2020})
        assert (hit.id, hit.metadata) == ("7", {"year": 2020, "seen": "2030-01-02T00:00:00"})
        found = index.store.vectors(["7"])["7"]
    np.testing.assert_allclose(found, embedder.encode_document(hit.text), atol=1e-6)
    with pytest.raises(InputError, match="with vectors float32, which cannot change: got int8"):
        import_passages(file, tmp_path / "kb", embedder=embedder, vectors="int8")


def test_files_that_are_none(store: Path, tmp_path: Path, embedder: Embedder) -> None:
    file = tmp_path / "x.parquet"
    with pytest.raises(DocumentError, match=r"cannot read .*x.parquet as Parquet"):
        import_passages(file, tmp_path / "new")
    file.write_bytes(b"PAR1 but no more")
    with pytest.raises(DocumentError, match=r"cannot read .*x.parquet as Parquet"):
        import_passages(file, tmp_path / "new")
    parquet.write_table(pa.table({"id": ["a"], "body": ["b"]}), file)
    with pytest.raises(DocumentError, match=r"needs the columns id and text: .* has id, body"):
        import_passages(file, tmp_path / "new")
    parquet.write_table(pa.table({"id": ["a", "b"], "text": ["c", None]}), file)
    with pytest.raises(DocumentError, match=r"row 2 of .* has 'b', None"):
        import_passages(file, tmp_path / "new", embedder=embedder)
    export_passages(store, file)
    other = Embedder.from_pretrained(write_tiny_model(tmp_path / "other", seed=1), threads=1)
    Index.create(tmp_path / "elsewhere", other).close()
    with pytest.raises(StoreMismatchError, match="was made with"):
        import_passages(file, tmp_path / "elsewhere")
    table = parquet.read_table(file)
    newer = table.schema.metadata[b"quaver"].replace(
        b'"format_version": 3', b'"format_version": 99'
    )
    parquet.write_table(table.replace_schema_metadata({b"quaver": newer}), file)
    with pytest.raises(StoreMismatchError, match=r"has format version 99.*upgrade Quaver"):
        import_passages(file, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_from_the_shell(store: Path, tmp_path: Path) -> None:
    def call(*arguments: object) -> str:
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    file, new = tmp_path / "kb.parquet", tmp_path / "new"
    count = len(content(store))
    assert call("export", store, file) == f"{count} passages from {store} in {file}\n"
    assert call("import", new, file) == f"{count} passages from {file} in {new}\n"
    assert "x.pdf" in call("search", new, "list of files", "--filter", "page=3")
    result = CliRunner().invoke(cli.app, ["export", str(new), str(tmp_path / "no" / "x.parquet")])
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
