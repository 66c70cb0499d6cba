"""Measure your own index: how often is the right document among the first five?

python examples/index/evaluate.py [MODEL]
"""

import sys
from pathlib import Path

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
judged = {
    "sort by several keys": "howto/sorting.html",
    "write log messages to a file": "howto/logging.rst",
    "leave the interpreter": "tutorial/interpreter.rst",
    "what is wrong with 0.1 + 0.2": "tutorial/floatingpoint.rst",
    "turn an object into a JSON string": "library/json.rst",
}
documents = Path(__file__).parent.parent / "python-docs"
with quaver.Index.create(":memory:", model, passage_tokens=128) as index:
    index.update(documents, include=["howto/", "library/", "tutorial/[fi]*.rst"])
    for mode in ("dense", "bm25", "hybrid"):
        found = {q: {hit.source for hit in index.search(q, k=5, mode=mode)} for q in judged}
        recall = sum(judged[q] in found[q] for q in judged) / len(judged)
        print(f"{mode:7} recall@5 {recall:.0%} of {len(judged)} questions")
assert recall >= 0.8
