"""QuantizedBiEncoderRetriever: finds documents by a query's text, in any vector store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

from quaver.errors import needs_extra
from quaver.integrations.haystack import EmbedderComponent, hub_token, model_name, require_query

with needs_extra("haystack"):
    from haystack import Document, component
    from haystack.core.serialization import component_to_dict
    from haystack.utils import Secret


@component
class QuantizedBiEncoderRetriever(EmbedderComponent):
    """Embed a query in int8 on the CPU and find the nearest documents.

        retriever = QuantizedBiEncoderRetriever(document_store=store, model="BAAI/bge-small-en-v1.5")
        retriever.run("What is the capital of France?")["documents"]

    It works with any document store that has `embedding_retrieval` (`QuaverDocumentStore`,
    `InMemoryDocumentStore`) and with any embedding retriever. The documents must have been
    embedded by the same model, for example with `QuaverDocumentEmbedder`.
    """

    def __init__(
        self,
        *,
        model: str | Path,
        document_store: Any = None,
        retriever: Any = None,
        token: Secret | None = hub_token(),  # noqa: B008 - immutable, Haystack's own way
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        return_embedding: bool = False,
        prefix: str | None = None,
        suffix: str = "",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        pooling: str | None = None,
        threads: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Set up; the model is loaded by `warm_up` or the first run.

        Args:
            model: model folder or hub id.
            document_store: a store with `embedding_retrieval`; or pass a retriever.
            retriever: an embedding retriever; its `run` takes query_embedding, filters and top_k.
            token: hub access token.
            filters: Haystack filters; filters passed to `run` replace them.
            top_k: maximum number of documents to return.
            return_embedding: return embeddings for `QuantizedBiEncoderRanker` to reuse; ignored
                with a retriever, which decides for itself.
            prefix: replaces the model's query prompt; "" for no prompt.
            suffix: appended to the query.
            normalize_embeddings: return unit vectors even if the model does not normalize.
            truncate_dim: number of leading components to keep; None keeps all.
            precision: precision of the engine.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in the query.
            pooling: such as "mean" or "cls+mean", for a model folder that does not specify it.
            threads: engine threads; None uses every core available to the process.
            local_files_only: never use the network.

        Raises:
            ValueError: exactly one of document_store and retriever is required, it must search by
                vector, and top_k must be at least 1.
        """
        if (document_store is None) == (retriever is None):
            raise ValueError(
                "pass exactly one of document_store and retriever: got "
                f"{'neither' if retriever is None else 'both'}"
            )
        if document_store is not None and not hasattr(document_store, "embedding_retrieval"):
            raise ValueError(
                "document_store must have embedding_retrieval(query_embedding, ...): "
                f"got {type(document_store).__name__}; pass its embedding retriever as retriever="
            )
        if retriever is not None and not hasattr(retriever, "run"):
            raise ValueError(
                "retriever must be an embedding retriever with run(query_embedding, ...): "
                f"got {type(retriever).__name__}"
            )
        require_query(self, "", top_k)
        self.model = model_name(model)
        self.document_store = document_store
        self.retriever = retriever
        self.token = token
        self.filters = filters
        self.top_k = top_k
        self.return_embedding = return_embedding
        self.prefix = prefix
        self.suffix = suffix
        self.normalize_embeddings = normalize_embeddings
        self.truncate_dim = truncate_dim
        self.precision = precision
        self.revision = revision
        self.max_seq_length = max_seq_length
        self.pooling = pooling
        self.threads = threads
        self.local_files_only = local_files_only

    def to_dict(self) -> dict[str, Any]:
        """Return the component as a dictionary, for YAML."""
        data = EmbedderComponent.to_dict(self)
        if self.retriever is not None:
            data["init_parameters"]["retriever"] = component_to_dict(self.retriever, "retriever")
        return data

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Find the documents nearest to a query.

        Args:
            query: the query.
            filters: overrides the component's.
            top_k: overrides the component's.

        Returns:
            "documents": the nearest documents with their scores, best first.

        Raises:
            TypeError: query is not a string.
            ValueError: top_k is below 1.
        """
        options = self._search_options(query, filters, top_k)
        return self._found(self._search(), query_embedding=self._query_embedding(query), **options)

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Find documents without blocking the event loop; the query is batched with other tasks'.

        Args:
            query: the query.
            filters: overrides the component's.
            top_k: overrides the component's.

        Returns:
            "documents": the nearest documents with their scores, best first.
        """
        options = self._search_options(query, filters, top_k)
        options["query_embedding"] = await self._query_embedding_async(query)
        search = self._search(asynchronous=True)
        if search is None:
            return await asyncio.to_thread(self._found, self._search(), **options)
        found = await search(**options)
        return found if isinstance(found, dict) else {"documents": found}

    def _search_options(
        self, query: str, filters: dict[str, Any] | None, top_k: int | None
    ) -> dict[str, Any]:
        limit = self.top_k if top_k is None else top_k
        require_query(self, query, limit)
        options: dict[str, Any] = {"filters": filters or self.filters, "top_k": limit}
        if self.document_store is not None:
            options["return_embedding"] = self.return_embedding
        return options

    def _search(self, *, asynchronous: bool = False) -> Any:
        if self.document_store is not None:
            owner, name = self.document_store, "embedding_retrieval"
        else:
            owner, name = self.retriever, "run"
        return getattr(owner, f"{name}_async", None) if asynchronous else getattr(owner, name)

    def _found(self, search: Any, **options: Any) -> dict[str, list[Document]]:
        found = search(**options)
        return found if isinstance(found, dict) else {"documents": found}
