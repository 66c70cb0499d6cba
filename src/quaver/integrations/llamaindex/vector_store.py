"""QuaverVectorStore: LlamaIndex's nodes in Quaver's embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from quaver.documents import Passage
from quaver.errors import InputError, needs_extra
from quaver.integrations.embedded_store import META, EmbeddedStore, StorePlace
from quaver.integrations.llamaindex.filters import SOURCE, of_documents, of_query, to_filter
from quaver.store import CANDIDATES, And, Compare, Filter, Hit, best, fused

with needs_extra("llamaindex"):
    from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
    from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
    from llama_index.core.schema import BaseNode, MetadataMode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

_NODE = ("_node_content", "_node_type")
_WORDS = (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH)
_BOTH = (VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.SEMANTIC_HYBRID)
_MMR_PREFETCH = 4


class QuaverVectorStore(BasePydanticVectorStore):
    """Nodes in a folder, inside this process, found by vector, by words, or by both.

        store = QuaverVectorStore(path="./nodes")
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=...)
        index.as_retriever(vector_store_query_mode="hybrid")

    Later, ``VectorStoreIndex.from_vector_store(QuaverVectorStore(path="./nodes"), embed_model=...)``
    opens it again. One process at a time holds a folder; stores of one process on the same folder
    share it.

    Query modes: default (the similarity is the cosine), sparse and text_search (BM25), hybrid and
    semantic_hybrid (reciprocal ranks of both, ``alpha`` weighs the vectors', 0.5 without), mmr
    (``mmr_threshold``, ``mmr_prefetch_factor``). Filters: all of LlamaIndex's but text_match.
    """

    model_config = ConfigDict(extra="forbid")

    stores_text: bool = True
    flat_metadata: bool = False
    path: str | None = Field(
        default=None, description="The folder, made where there is none; None for memory."
    )

    _place: StorePlace = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Remember the place; the folder is opened when it is first used."""
        super().model_post_init(context)
        self._place = StorePlace(self.path)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex knows this class by."""
        return "QuaverVectorStore"

    @property
    def client(self) -> EmbeddedStore | None:
        """The open store; None before anything is stored."""
        return self._place.existing()

    # --- Writing ----------------------------------------------------------------------------------
    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes; what is stored under an id already is replaced.

        Args:
            nodes: N nodes with embeddings.
            kwargs: not used.

        Returns:
            N ids.

        Raises:
            ValueError: a node has no embedding.
            InputError: metadata is not what JSON can hold.
            StoreError: an embedding has another dimension, or storing failed.
        """
        if nodes:
            vectors = [node.get_embedding() for node in nodes]
            self._place.store(len(vectors[0])).write(
                [node.node_id for node in nodes],
                [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes],
                [_metadata(node) for node in nodes],
                vectors,
            )
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Remove the nodes of a document; one that is not stored is no error."""
        self._delete(of_documents([ref_doc_id]))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Remove nodes.

        Args:
            node_ids: whose; None for those of any id.
            filters: only nodes that match.
            delete_kwargs: not used.

        Raises:
            InputError: neither is given; ``clear`` removes everything.
        """
        if node_ids is None and filters is None:
            raise InputError("delete_nodes needs node_ids or filters; clear() removes every node")
        self._delete(_allowed(node_ids, filters))

    def clear(self) -> None:
        """Remove every node."""
        self._delete(And())

    def optimize(self) -> None:
        """Build the search graph where enough is stored; worth its time after a bulk load."""
        store = self._place.existing()
        if store is not None:
            store.optimize()

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Do nothing: what is stored is on disk already.

        Args:
            persist_path: not used.
            fs: not used.

        Raises:
            InputError: the store is in memory.
        """
        if self.path is None:
            raise InputError(
                "a store in memory is not on disk: make it with QuaverVectorStore(path=...), which "
                "keeps everything without persist"
            )

    def close(self) -> None:
        """Let the folder go; the next use takes it again.

        Other processes can open it when the last store of this process on it has let it go.
        """
        self._place.close()

    # --- Reading ----------------------------------------------------------------------------------
    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return stored nodes without their embeddings.

        Args:
            node_ids: whose; None for those of any id.
            filters: only nodes that match.
        """
        store = self._place.existing()
        if store is None:
            return []
        return [_node(found.passage) for found in store.scan(_allowed(node_ids, filters))]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find nodes.

        Args:
            query: what is asked.
            kwargs: ``mmr_threshold`` and ``mmr_prefetch_factor`` for the mode mmr.

        Returns:
            The nodes with their similarities, the best first.

        Raises:
            InputError: the mode is none of this store's, or lacks query_embedding or query_str.
            StoreError: the vector has another dimension, or searching failed.
        """
        condition, store = of_query(query), self._place.existing()
        if store is None:
            found = []
        elif query.mode == VectorStoreQueryMode.MMR:
            found = _diverse(store, query, condition, kwargs)
        elif query.mode in _BOTH:
            found = _hybrid(store, query, condition)
        else:
            found = _ranked(store, query, condition)
        return VectorStoreQueryResult(
            nodes=[_node(hit) for hit, _ in found],
            similarities=[score for _, score in found],
            ids=[hit.id for hit, _ in found],
        )

    def _delete(self, condition: Filter) -> None:
        store = self._place.existing()
        if store is not None:
            store.delete_matching(condition)

    # --- Without blocking the event loop ----------------------------------------------------------
    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Do what ``add`` does in a thread."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Do what ``delete`` does in a thread."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Do what ``delete_nodes`` does in a thread."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        """Do what ``clear`` does in a thread."""
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Do what ``get_nodes`` does in a thread."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do what ``query`` does in a thread."""
        return await asyncio.to_thread(self.query, query, **kwargs)


# --- Modes ----------------------------------------------------------------------------------------
Scored = list[tuple[Hit, float]]


def _ranked(store: EmbeddedStore, query: VectorStoreQuery, condition: Filter | None) -> Scored:
    k = query.similarity_top_k
    if query.mode == VectorStoreQueryMode.DEFAULT:
        hits = store.search(query.query_embedding, k=k, mode="dense", filter=condition)
    elif query.mode in _WORDS:
        k = query.sparse_top_k or k
        hits = store.search(None, text=query.query_str, k=k, mode="bm25", filter=condition)
    else:
        raise InputError(
            "this store's query modes are default, sparse, text_search, hybrid, semantic_hybrid "
            f"and mmr: got {query.mode.value!r}"
        )
    return [(hit, hit.score) for hit in hits]


def _hybrid(store: EmbeddedStore, query: VectorStoreQuery, condition: Filter | None) -> Scored:
    alpha = 0.5 if query.alpha is None else query.alpha
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be from 0 (words) to 1 (vectors): got {alpha}")
    k = query.hybrid_top_k or query.similarity_top_k
    near = store.search(query.query_embedding, k=max(k, CANDIDATES), mode="dense", filter=condition)
    worded = store.search(
        None,
        text=query.query_str,
        k=query.sparse_top_k or max(k, CANDIDATES),
        mode="bm25",
        filter=condition,
    )
    by_vector, by_words = fused([[hit.id for hit in near]]), fused([[hit.id for hit in worded]])
    hits = {hit.id: hit for hit in [*near, *worded]}
    scores = {
        i: 2 * (alpha * by_vector.get(i, 0.0) + (1 - alpha) * by_words.get(i, 0.0)) for i in hits
    }
    return [(hits[i], score) for i, score in best(scores, k) if score > 0]


def _diverse(
    store: EmbeddedStore,
    query: VectorStoreQuery,
    condition: Filter | None,
    options: dict[str, Any],
) -> Scored:
    k = query.similarity_top_k
    candidates = int(k * options.get("mmr_prefetch_factor", _MMR_PREFETCH))
    hits = store.search(query.query_embedding, k=max(k, candidates), mode="dense", filter=condition)
    threshold = options.get("mmr_threshold", query.mmr_threshold)
    vectors = store.vectors([hit.id for hit in hits])
    found = {hit.id: hit for hit in hits}
    if not found:
        return []
    scores, chosen = get_top_k_mmr_embeddings(
        query.query_embedding or [],
        [vectors[i].tolist() for i in found],
        similarity_top_k=k,
        embedding_ids=list(found),
        mmr_threshold=threshold,
    )
    return [(found[i], float(score)) for i, score in zip(chosen, scores, strict=True)]


def _allowed(node_ids: list[str] | None, filters: MetadataFilters | None) -> Filter:
    parts = [to_filter(filters) or And()]
    return And(*parts) if node_ids is None else And(Compare("id", "in", node_ids), *parts)


# --- Nodes ----------------------------------------------------------------------------------------
def _metadata(node: BaseNode) -> dict[str, Any]:
    data = node_to_metadata_dict(node, remove_text=True)
    return {META: node.metadata, SOURCE: node.ref_doc_id, **{name: data[name] for name in _NODE}}


def _node(found: Passage | Hit) -> BaseNode:
    return metadata_dict_to_node(dict(found.metadata), text=found.text)
