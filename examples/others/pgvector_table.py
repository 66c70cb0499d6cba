"""pgvector on a real PostgreSQL, which pgserver installs and runs on a unix socket.

python examples/others/pgvector_table.py [MODEL]

With a server of your own, only the address changes: psycopg.connect("postgresql://...").
"""

from __future__ import annotations

import sys
import tempfile

import pgserver
import psycopg
from pgvector.psycopg import register_vector

import quaver

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NOTES = [
    "Green tea is steeped at eighty degrees.",
    "A sourdough rises overnight in the fridge.",
    "Oil the chain after every ride in the rain.",
]


def main(model: str = MODEL) -> None:
    """Fill a table, index it, and ask."""
    embedder = quaver.Embedder.from_pretrained(model)
    with (
        tempfile.TemporaryDirectory(prefix="quaver-", ignore_cleanup_errors=True) as folder,
        pgserver.get_server(folder) as server,
        psycopg.connect(server.get_uri(), autocommit=True) as connection,
    ):
        connection.execute("CREATE EXTENSION vector")
        register_vector(connection)
        connection.execute(
            "CREATE TABLE notes (id int PRIMARY KEY, text text NOT NULL, "
            f"embedding vector({embedder.dimension}) NOT NULL)"
        )
        rows = zip(range(len(NOTES)), NOTES, embedder.encode_document(NOTES), strict=True)
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO notes VALUES (%s, %s, %s)", list(rows))
        connection.execute("CREATE INDEX ON notes USING hnsw (embedding vector_cosine_ops)")

        question = embedder.encode_query("How do I keep my bicycle working?")
        found = connection.execute(
            "SELECT text, 1 - (embedding <=> %s) FROM notes ORDER BY embedding <=> %s LIMIT 2",
            (question, question),
        ).fetchall()
        for text, similarity in found:
            print(f"{similarity:.3f}  {text}")
        assert found[0][0] == NOTES[2]


if __name__ == "__main__":
    main(*sys.argv[1:])
