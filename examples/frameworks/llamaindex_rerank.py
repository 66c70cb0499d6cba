"""Retrieve with a small model and rerank with a better one, in LlamaIndex.

python examples/frameworks/llamaindex_rerank.py [RETRIEVER [CROSS_ENCODER]]

Without a cross-encoder, such as BAAI/bge-reranker-base, the retriever keeps only the first 32
components of its vectors and the ranker reads all of them.
"""

from __future__ import annotations

import sys
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

import quaver
from quaver.integrations.llamaindex import QuaverEmbedding, QuaverRerank

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
QUESTION = "What is the capital of France?"
TEXTS = [
    "Lyon is the third largest city of France.",
    "Paris is the capital of France.",
    "Berlin is the capital of Germany.",
    "The capital of a company is what its owners paid in.",
    "In print, names of countries begin with a capital letter.",
    "Paris, a prince of Troy, gave Aphrodite the apple.",
]
TOP = 2


class BiEncoderRerank(BaseNodePostprocessor):
    """Ranks nodes by the similarity of vectors."""

    ranker: Any

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        assert query_bundle is not None
        texts = [found.node.get_content() for found in nodes]
        best = self.ranker.rank(query_bundle.query_str, texts, top_k=TOP)
        return [NodeWithScore(node=nodes[one.index].node, score=one.score) for one in best]


def main(retriever: str = MODEL, cross_encoder: str | None = None) -> None:
    """Retrieve and rank; with a language model, index.as_query_engine takes the same postprocessor."""
    index = VectorStoreIndex(
        [TextNode(text=text) for text in TEXTS],
        embed_model=QuaverEmbedding(model_name=retriever, truncate_dim=32),
    )
    rerank: BaseNodePostprocessor
    if cross_encoder:
        rerank = QuaverRerank(model=cross_encoder, top_n=TOP)
    else:
        embedder = quaver.Embedder.from_pretrained(retriever)
        rerank = BiEncoderRerank(ranker=quaver.BiEncoderRanker(embedder))
    print(QUESTION)
    retrieved = index.as_retriever(similarity_top_k=4).retrieve(QUESTION)
    best = rerank.postprocess_nodes(retrieved, query_str=QUESTION)
    for found in best:
        print(f"  {found.score:.3f}  {found.text}")
    assert best[0].text == TEXTS[1]
    assert len(best) == TOP


if __name__ == "__main__":
    main(*sys.argv[1:])
