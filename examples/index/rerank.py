"""Search by words, then rerank by vectors; stored vectors are reused.

python examples/index/rerank.py [MODEL]
"""

import sys
from pathlib import Path

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
# Any reranking or embedding model works here: quaver.Ranker.from_pretrained("BAAI/bge-reranker-base")
ranker = quaver.BiEncoderRanker(model)
question = "How do I sort by two keys, one of them descending?"
documents = Path(__file__).parent.parent / "python-docs" / "howto"
with quaver.Index.create(":memory:", model, passage_tokens=128) as index:
    index.update(documents)
    words = index.search(question, k=3, mode="bm25")
    ranked = index.search(question, k=3, mode="bm25", ranker=ranker, candidates=50)
for name, hits in (("words", words), ("reranked", ranked)):
    for hit in hits:
        print(f"{name:9} {hit.score:6.3f}  {hit.source}: {hit.heading[-60:]}")
assert ranked[0].source == "sorting.html"
