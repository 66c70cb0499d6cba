"""Load rows into a table of PostgreSQL with pgvector, by COPY in its binary format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np

from quaver.bulk.load import FILE, OUTPUT, Layout, plain, refused
from quaver.bulk.target import to_json
from quaver.errors import BulkError, InputError, needs_extra

with needs_extra("pgvector"):
    import psycopg
    import pyarrow as pa
    from pgvector import Bit, HalfVector, SparseVector
    from pgvector.psycopg import register_vector
    from psycopg import sql
    from psycopg.types.json import Jsonb

_MOST_INDEXED = {"vector": 2000, "halfvec": 4000, "bit": 64_000, "sparsevec": 10**9}
"""The dimension that an HNSW index takes at most."""
_OPERATORS = {
    "vector": "vector_cosine_ops",
    "halfvec": "halfvec_cosine_ops",
    "bit": "bit_hamming_ops",
    "sparsevec": "sparsevec_ip_ops",
}


class PostgresSink:
    """A table with a primary key and, in the end, an HNSW index."""

    def __init__(self, destination: str, layout: Layout, *, index: bool) -> None:
        """Connect, and make the table if it does not exist.

        Args:
            destination: `postgresql://user@host:port/database?table=name`; the name may have a schema.
            layout: of the rows.
            index: make an HNSW index after the load.

        Raises:
            InputError: the destination has another form, or pgvector has no such vectors.
            BulkError: the table has other vectors.
            BulkWriteError: the server cannot be reached, or refuses.
        """
        address = urlsplit(destination)
        options = dict(parse_qsl(address.query))
        table = options.pop("table", "")
        if not table or not all(table.split(".")) or table.count(".") > 1:
            raise InputError(
                f"a table is postgresql://user@host/database?table=name: got {destination!r}"
            )
        if layout.settings.kind in ("multi-vector", "scores"):
            raise InputError(
                f"pgvector has one vector for a row: {layout.settings.kind} is something else"
            )
        self._where, self._layout, self._index = destination, layout, index
        self._names = tuple(table.split("."))
        self._table = sql.Identifier(*self._names)
        self._id = sql.Identifier(layout.id)
        self._type, self._column = _vector_type(layout)
        query = urlencode(options)
        with self._talking():
            self._connection = psycopg.connect(
                urlunsplit(address._replace(query=query)), autocommit=True
            )
        try:
            with self._talking():
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        connection, layout = self._connection, self._layout
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        self._kinds = {
            layout.id: _sql_type(layout.schema.field(layout.id).type),
            **{field.name: _sql_type(field.type) for field in layout.kept},
            self._column: self._type,
            FILE: "text",
            OUTPUT: "text",
        }
        size = layout.settings.dimension
        columns = [
            sql.SQL("{} {}").format(
                sql.Identifier(name),
                sql.SQL(f"{kind}({size})" if name == self._column else kind),
            )
            for name, kind in self._kinds.items()
        ]
        with connection.transaction():
            exists = connection.execute(
                "SELECT to_regclass(%s)", [sql.Identifier(*self._names).as_string(connection)]
            ).fetchone()
            assert exists is not None
            if exists[0] is None:
                connection.execute(
                    sql.SQL("CREATE TABLE {} ({})").format(self._table, sql.SQL(", ").join(columns))
                )
                connection.execute(
                    sql.SQL("COMMENT ON TABLE {} IS {}").format(
                        self._table, sql.Literal(to_json(layout.settings))
                    )
                )
            row = connection.execute(
                "SELECT obj_description(%s::regclass, 'pg_class')",
                [sql.Identifier(*self._names).as_string(connection)],
            ).fetchone()
        try:
            said = json.loads(row[0])["fingerprint"] if row and row[0] else None
        except (ValueError, KeyError, TypeError):
            said = None
        if said is None:
            raise BulkError(
                f"a table is filled by one kind of program: {self._where} was not made by `quaver load`; "
                "give another name"
            )
        layout.check(self._where, said)

    def loaded(self) -> dict[tuple[str, str], int]:
        """Return the rows of each output that is there."""
        with self._talking():
            rows = self._connection.execute(
                sql.SQL("SELECT {0}, {1}, count(*) FROM {2} GROUP BY {0}, {1}").format(
                    sql.Identifier(FILE), sql.Identifier(OUTPUT), self._table
                )
            ).fetchall()
        return {(file, output): count for file, output, count in rows}

    def drop(self, file: str, outputs: list[str]) -> None:
        """Delete the rows of a file that are of one of these outputs."""
        with self._talking(), self._connection.transaction():
            self._connection.execute(
                sql.SQL("DELETE FROM {} WHERE {} = %s AND {} = ANY(%s)").format(
                    self._table, sql.Identifier(FILE), sql.Identifier(OUTPUT)
                ),
                [file, outputs],
            )

    def add(self, batches: Iterator[Any]) -> None:
        """Add the rows of one output in one transaction: all of them are there, or none."""
        command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            self._table, sql.SQL(", ").join(map(sql.Identifier, self._kinds))
        )
        with (
            self._talking(),
            self._connection.transaction(),
            self._connection.cursor() as cursor,
            cursor.copy(command) as copy,
        ):
            copy.set_types(list(self._kinds.values()))
            for batch in batches:
                columns = [self._values(batch, name) for name in self._kinds]
                for row in zip(*columns, strict=True):
                    copy.write_row(row)

    def _values(self, batch: Any, name: str) -> list[Any]:
        settings = self._layout.settings
        if name != self._column:
            values = batch.column(name).to_pylist()
            if self._kinds[name] == "jsonb":
                return [None if value is None else Jsonb(plain(value)) for value in values]
            return list(values)
        if settings.kind == "sparse":
            words, weights = (batch.column(n) for n in self._layout.results)
            return [
                SparseVector(
                    dict(zip(w.values.to_pylist(), v.values.to_pylist(), strict=True)),
                    settings.dimension,
                )
                for w, v in zip(words, weights, strict=True)
            ]
        rows = batch.column(name)
        numbers = rows.flatten().to_numpy().reshape(len(rows), -1)
        if self._type == "bit":
            bits = np.unpackbits(numbers, axis=1, count=settings.dimension).astype(bool)
            return [Bit(row) for row in bits]
        if self._type == "halfvec":  # whole numbers up to 127 are exact in it
            return [HalfVector(row) for row in numbers.astype(np.float16)]
        return list(numbers.astype(np.float32))

    def finish(self) -> None:
        """Make the primary key and the HNSW index, unless they are there."""
        with self._talking():
            self._make_key()
            if self._index and self._can_index():
                with self._connection.transaction():
                    self._connection.execute(
                        sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw ({} {})").format(
                            sql.Identifier(f"{self._names[-1]}_{self._column}_hnsw"),
                            self._table,
                            sql.Identifier(self._column),
                            sql.SQL(_OPERATORS[self._type]),
                        )
                    )

    def _can_index(self) -> bool:
        """Whether HNSW takes vectors of this type and dimension; before pgvector 0.7 the first type alone."""
        row = self._connection.execute(
            "SELECT 1 FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod "
            "WHERE a.amname = 'hnsw' AND o.opcname = %s",
            [_OPERATORS[self._type]],
        ).fetchone()
        return row is not None and self._layout.settings.dimension <= _MOST_INDEXED[self._type]

    def _make_key(self) -> None:
        found = self._connection.execute(
            "SELECT 1 FROM pg_index WHERE indrelid = %s::regclass AND indisprimary",
            [self._table.as_string(self._connection)],
        ).fetchone()
        if found is not None:
            return
        try:
            with self._connection.transaction():
                self._connection.execute(
                    sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(self._table, self._id)
                )
        except psycopg.errors.UniqueViolation as error:
            raise BulkError(
                f"ids must differ in all rows: {' '.join(str(error).split())}; choose another id, or "
                "leave it out, and load into another table"
            ) from error

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn the driver's errors into those of our tree."""
        try:
            yield
        except psycopg.Error as error:
            denied = "password" in str(error) or "authentication" in str(error)
            hint = "; its password goes into PGPASSWORD or ~/.pgpass" if denied else ""
            raise refused(self._where, error, hint) from error


def _vector_type(layout: Layout) -> tuple[str, str]:
    """Return pgvector's type of the vectors, and their column."""
    if layout.settings.kind == "sparse":
        return "sparsevec", "weights"
    types = {"float32": "vector", "float16": "halfvec", "int8": "halfvec", "binary": "bit"}
    return types[layout.settings.output], layout.results[0]


def _sql_type(kind: Any) -> str:
    """Return PostgreSQL's name of an Arrow type; JSON for what has no other."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int8"
    if pa.types.is_floating(kind):
        return "float8"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    return "jsonb"
