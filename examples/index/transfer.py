"""Move an index from one store to another, here with smaller vectors; nothing is embedded again.

python examples/index/transfer.py [MODEL]        needs quaver[parquet]
"""

import sys
import tempfile
from pathlib import Path

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
documents = Path(__file__).parent.parent / "python-docs" / "howto"
with tempfile.TemporaryDirectory() as name:
    place = Path(name)
    with quaver.Index.create(place / "store", model, passage_tokens=128) as index:
        index.update(documents)
        before = index.search("sort by two keys", k=3)
    quaver.export_passages(place / "store", place / "store.parquet")
    quaver.import_passages(place / "store.parquet", place / "small", vectors="int8")
    with quaver.Index.open(place / "small", model) as index:
        after = index.search("sort by two keys", k=3)
        again = index.update(documents)
print(f"{again.unchanged} passages moved; best: {after[0].source}: {after[0].heading}")
assert (again.added, after[0].id) == (0, before[0].id)
