"""A Haystack document store inside the process."""

from haystack_integrations.document_stores.quaver.document_store import QuaverDocumentStore

__all__ = ["QuaverDocumentStore"]
