"""QuaverEmbeddingRetriever: finds the documents nearest to a vector."""

from __future__ import annotations

from typing import Any

from haystack_integrations.document_stores.quaver import QuaverDocumentStore
from quaver.errors import needs_extra
from quaver.integrations.haystack import SavedByParameters, require_query

with needs_extra("haystack"):
    from haystack import Document, component
    from haystack.document_stores.types import FilterPolicy, apply_filter_policy


@component
class QuaverEmbeddingRetriever(SavedByParameters):
    """Find the documents nearest to a vector in a `QuaverDocumentStore`."""

    def __init__(
        self,
        document_store: QuaverDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        return_embedding: bool = False,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        """Set up.

        Args:
            document_store: the store.
            filters: Haystack's filters.
            top_k: maximum number of documents to return.
            return_embedding: whether returned documents carry their embeddings.
            filter_policy: whether filters passed to `run` replace these or are merged with them.

        Raises:
            ValueError: the store is not a QuaverDocumentStore, or top_k is below 1.
        """
        if not isinstance(document_store, QuaverDocumentStore):
            raise ValueError(
                f"document_store must be a QuaverDocumentStore: got {type(document_store).__name__}"
            )
        require_query(self, "", top_k)
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.return_embedding = return_embedding
        self.filter_policy = str(FilterPolicy.from_str(str(filter_policy)))

    @component.output_types(documents=list[Document])
    def run(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Find documents.

        Args:
            query_embedding: the vector.
            filters: Haystack's filters; see filter_policy.
            top_k: overrides the component's.

        Returns:
            "documents": the nearest documents with their cosine as score, best first.
        """
        options = self._options(filters, top_k)
        return {"documents": self.document_store.embedding_retrieval(query_embedding, **options)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Find documents without blocking the event loop; see `run`.

        Args:
            query_embedding: the vector.
            filters: Haystack's filters; see filter_policy.
            top_k: overrides the component's.

        Returns:
            "documents": the nearest documents with their cosine as score, best first.
        """
        options = self._options(filters, top_k)
        found = await self.document_store.embedding_retrieval_async(query_embedding, **options)
        return {"documents": found}

    def _options(self, filters: dict[str, Any] | None, top_k: int | None) -> dict[str, Any]:
        policy = FilterPolicy.from_str(self.filter_policy)
        return {
            "filters": apply_filter_policy(policy, self.filters, filters),
            "top_k": self.top_k if top_k is None else top_k,
            "return_embedding": self.return_embedding,
        }
