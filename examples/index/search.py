"""Search by vectors, by words, and by both.

python examples/index/search.py [MODEL]
"""

import sys
from pathlib import Path

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
documents = Path(__file__).parent.parent / "python-docs" / "howto"
with quaver.Index.create(":memory:", model, passage_tokens=128) as index:
    index.update(documents)
    for question in ("put things in order", "RotatingFileHandler"):
        for mode in ("dense", "bm25", "hybrid"):
            best = index.search(question, k=1, mode=mode)
            found = f"{best[0].source}: {best[0].heading}" if best else "nothing"
            print(f"{question:22} {mode:7} {found[:70]}")
    assert index.search("put things in order", k=1)[0].source == "sorting.html"
