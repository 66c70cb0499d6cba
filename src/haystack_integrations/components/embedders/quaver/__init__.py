"""Haystack embedders that run in int8 on the CPU."""

from haystack_integrations.components.embedders.quaver.document_embedder import (
    QuaverDocumentEmbedder,
)
from haystack_integrations.components.embedders.quaver.text_embedder import QuaverTextEmbedder

__all__ = ["QuaverDocumentEmbedder", "QuaverTextEmbedder"]
