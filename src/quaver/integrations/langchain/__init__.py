"""Quaver in LangChain 1.x: embeddings, a reranker and a vector store.

from quaver.integrations.langchain import QuaverEmbeddings
"""

from quaver.integrations.langchain.embeddings import QuaverEmbeddings
from quaver.integrations.langchain.reranker import QuaverReranker
from quaver.integrations.langchain.vector_store import QuaverVectorStore

__all__ = ["QuaverEmbeddings", "QuaverReranker", "QuaverVectorStore"]
