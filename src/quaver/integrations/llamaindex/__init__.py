"""Quaver in LlamaIndex 0.14: an embedding, sparse functions, a node postprocessor that reranks, and a vector store.

from quaver.integrations.llamaindex import QuaverEmbedding
"""

from quaver.integrations.llamaindex.embedding import QuaverEmbedding
from quaver.integrations.llamaindex.rerank import QuaverRerank
from quaver.integrations.llamaindex.sparse import QuaverSparseEncoding
from quaver.integrations.llamaindex.vector_store import QuaverVectorStore

__all__ = ["QuaverEmbedding", "QuaverRerank", "QuaverSparseEncoding", "QuaverVectorStore"]
