"""Use the index on a Qdrant server, for many processes and machines; without a server, in a folder.

python examples/index/server.py [MODEL [qdrant://localhost:6333/example]]        needs quaver[qdrant]
"""

import sys
import tempfile
from pathlib import Path

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
documents = Path(__file__).parent.parent / "python-docs" / "howto"
with tempfile.TemporaryDirectory() as place:
    location = sys.argv[2] if len(sys.argv) > 2 else f"{place}/store"
    there = quaver.Index.exists(location)
    with (
        quaver.Index.open(location, model)
        if there
        else quaver.Index.create(location, model) as index
    ):
        report = index.update(documents, name="howto")
        hits = index.search("How do I sort by two keys?", k=3)
print(f"{report.added} added, {report.unchanged} unchanged; best: {hits[0].heading}")
assert hits[0].source == "sorting.html"
