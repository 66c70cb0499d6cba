"""Quaver in LangChain 1.x: embeddings, a reranker and a vector store.

from quaver.integrations.langchain import QuaverEmbeddings
"""

from quaver.integrations.langchain.embeddings import QuaverEmbeddings
from quaver.integrations.langchain.reranker import QuaverReranker

__all__ = ["QuaverEmbeddings", "QuaverReranker"]
