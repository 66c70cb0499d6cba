"""Haystack embedders that run in int8 on the CPU."""

from haystack_integrations.components.embedders.quaver.document_embedder import (
    QuaverDocumentEmbedder,
)
from haystack_integrations.components.embedders.quaver.sparse_document_embedder import (
    QuaverSparseDocumentEmbedder,
)
from haystack_integrations.components.embedders.quaver.sparse_text_embedder import (
    QuaverSparseTextEmbedder,
)
from haystack_integrations.components.embedders.quaver.text_embedder import QuaverTextEmbedder

__all__ = [
    "QuaverDocumentEmbedder",
    "QuaverSparseDocumentEmbedder",
    "QuaverSparseTextEmbedder",
    "QuaverTextEmbedder",
]
