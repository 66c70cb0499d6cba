"""Haystack retrievers that embed queries in int8 on the CPU."""

from haystack_integrations.components.retrievers.quaver.bi_encoder_retriever import (
    QuantizedBiEncoderRetriever,
)
from haystack_integrations.components.retrievers.quaver.embedding_retriever import (
    QuaverEmbeddingRetriever,
)

__all__ = ["QuantizedBiEncoderRetriever", "QuaverEmbeddingRetriever"]
