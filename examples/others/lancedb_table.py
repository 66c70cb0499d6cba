"""LanceDB: a table whose text column is embedded in int8 when rows are added.

python examples/others/lancedb_table.py [MODEL]
"""

from __future__ import annotations

import sys
import tempfile

import lancedb
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

import quaver.integrations.lancedb  # noqa: F401 - registers "quaver"

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ROWS = [
    {"text": "Green tea is steeped at eighty degrees."},
    {"text": "A sourdough rises overnight in the fridge."},
    {"text": "Oil the chain after every ride in the rain."},
]


def main(model: str = MODEL) -> None:
    """Add three rows, open the table again, and ask."""
    embed = get_registry().get("quaver").create(name=model)

    class Note(LanceModel):
        text: str = embed.SourceField()
        vector: Vector(embed.ndims()) = embed.VectorField()  # type: ignore[valid-type]

    with tempfile.TemporaryDirectory(prefix="quaver-") as folder:
        lancedb.connect(folder).create_table("notes", schema=Note).add(ROWS)

        again = lancedb.connect(folder).open_table("notes")  # LanceDB saves the model's name
        found = (
            again.search("How do I keep my bicycle working?").metric("cosine").limit(2).to_list()
        )
        for row in found:
            print(f"{1 - row['_distance']:.3f}  {row['text']}")
        assert found[0]["text"] == ROWS[2]["text"]


if __name__ == "__main__":
    main(*sys.argv[1:])
