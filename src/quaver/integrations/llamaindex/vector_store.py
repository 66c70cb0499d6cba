"""QuaverVectorStore: LlamaIndex nodes in Quaver's embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from quaver.documents import Passage
from quaver.errors import InputError, needs_extra
from quaver.integrations.embedded_store import META_FIELD, EmbeddedStore, StorePlace
from quaver.integrations.llamaindex.filters import SOURCE_FIELD, of_documents, of_query, to_filter
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.sparse_encoder import SparseEncoder
from quaver.store import CANDIDATES, And, Compare, Filter, Hit, Mode, best, fused

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
_SPARSE = (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.HYBRID)
_BOTH = (VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.SEMANTIC_HYBRID)
_MMR_PREFETCH = 4


class QuaverVectorStore(BasePydanticVectorStore):
    """Nodes in a local folder or in memory, searched by vectors, by words, or by both.

        store = QuaverVectorStore(path="./nodes")
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=...)
        index.as_retriever(vector_store_query_mode="hybrid")

    Reopen it with
    `VectorStoreIndex.from_vector_store(QuaverVectorStore(path="./nodes"), embed_model=...)`.
    Only one process at a time can open a folder; stores in one process share it.

    Query modes: default (the similarity is the cosine), sparse and text_search (BM25), hybrid and
    semantic_hybrid (reciprocal ranks of both; `alpha` is the weight of the vectors, 0.5 by
    default), mmr (`mmr_threshold`, `mmr_prefetch_factor`). With a sparse encoder, sparse and hybrid
    compare its weights of words in place of BM25. With a multi-vector model, `maxsim=True` among the
    retriever's `vector_store_kwargs` reranks by the vectors of tokens. All of LlamaIndex's filters are
    supported except text_match.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    stores_text: bool = True
    flat_metadata: bool = False
    path: str | None = Field(
        default=None, description="The folder, created if missing; None for memory."
    )

    sparse: SparseEncoder | None = Field(
        default=None,
        exclude=True,
        description="Also store the weights that this model gives to words. The folder records the model, so "
        "later it may be left out.",
    )
    multi: MultiVectorEncoder | None = Field(
        default=None,
        exclude=True,
        description="Also store the vectors of tokens that this model makes, in the same way.",
    )

    _place: StorePlace = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Set the location; the folder is opened when it is first used."""
        super().model_post_init(context)
        self._place = StorePlace(self.path, sparse=self.sparse, multi=self.multi)

    @classmethod
    def class_name(cls) -> str:
        """Return the class name that LlamaIndex saves."""
        return "QuaverVectorStore"

    @property
    def client(self) -> EmbeddedStore | None:
        """The open store; None before anything is stored."""
        return self._place.existing()

    # --- Writing ----------------------------------------------------------------------------------
    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes, replacing what is stored under the same ids.

        Args:
            nodes: N nodes with embeddings.
            kwargs: not used.

        Returns:
            N ids.

        Raises:
            ValueError: a node has no embedding.
            InputError: metadata is not valid JSON.
            StoreError: an embedding has the wrong dimension, or writing failed.
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
        """Remove the nodes of a document; an unknown id is ignored."""
        self._delete(of_documents([ref_doc_id]))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Remove nodes.

        Args:
            node_ids: ids of the nodes; None for any id.
            filters: only matching nodes are removed.
            delete_kwargs: not used.

        Raises:
            InputError: both node_ids and filters are None; `clear` removes everything.
        """
        if node_ids is None and filters is None:
            raise InputError("delete_nodes needs node_ids or filters; clear() removes every node")
        self._delete(_allowed(node_ids, filters))

    def clear(self) -> None:
        """Remove every node."""
        self._delete(And())

    def optimize(self) -> None:
        """Build the search graph if the store is large enough; useful after a bulk load."""
        store = self._place.existing()
        if store is not None:
            store.optimize()

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Do nothing: stored nodes are already on disk.

        Args:
            persist_path: not used.
            fs: not used.

        Raises:
            InputError: the store is in memory.
        """
        if self.path is None:
            raise InputError(
                "a store in memory cannot be persisted: use QuaverVectorStore(path=...), which saves "
                "every write"
            )

    def close(self) -> None:
        """Close the folder; the next use opens it again.

        Other processes can open it once every store of this process on it is closed.
        """
        self._place.close()

    # --- Reading ----------------------------------------------------------------------------------
    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return stored nodes without their embeddings.

        Args:
            node_ids: ids of the nodes; None for any id.
            filters: only matching nodes are returned.
        """
        store = self._place.existing()
        if store is None:
            return []
        return [_node(found.passage) for found in store.scan(_allowed(node_ids, filters))]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find nodes.

        Args:
            query: the query.
            kwargs: `mmr_threshold` and `mmr_prefetch_factor` for the mode mmr; `maxsim` for the others.

        Returns:
            the nodes with their similarities, best first.

        Raises:
            InputError: the mode is not supported, or its query_embedding or query_str is missing.
            StoreError: the vector has the wrong dimension, the store has no vectors of tokens for
                `maxsim`, or the search failed.
        """
        maxsim = bool(kwargs.get("maxsim"))
        if maxsim and query.mode == VectorStoreQueryMode.MMR:
            raise InputError("maxsim reranks what a mode has found: it has no effect with mmr")
        condition, store = of_query(query), self._place.existing()
        if store is None:
            found = []
        elif query.mode == VectorStoreQueryMode.MMR:
            found = _diverse(store, query, condition, kwargs)
        elif query.mode in _BOTH:
            found = _hybrid(store, query, condition, maxsim)
        else:
            found = _ranked(store, query, condition, maxsim)
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
        """Run `add` in a thread."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Run `delete` in a thread."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Run `delete_nodes` in a thread."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        """Run `clear` in a thread."""
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Run `get_nodes` in a thread."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Run `query` in a thread."""
        return await asyncio.to_thread(self.query, query, **kwargs)


# --- Modes ----------------------------------------------------------------------------------------
Scored = list[tuple[Hit, float]]


def _words(store: EmbeddedStore, query: VectorStoreQuery) -> Mode:
    """Return how words are compared: by a sparse encoder where the store has one and the mode is its own."""
    return "sparse" if store.has_sparse and query.mode in _SPARSE else "bm25"


def _ranked(
    store: EmbeddedStore, query: VectorStoreQuery, condition: Filter | None, maxsim: bool
) -> Scored:
    k, text, mode = query.similarity_top_k, query.query_str, query.mode
    vector: list[float] | None = None
    ranking: Mode = "dense"
    if mode == VectorStoreQueryMode.DEFAULT:
        vector = query.query_embedding
    elif mode in _WORDS:
        k = query.sparse_top_k or k
        ranking = _words(store, query)
    else:
        raise InputError(
            "this store's query modes are default, sparse, text_search, hybrid, semantic_hybrid "
            f"and mmr: got {query.mode.value!r}"
        )
    hits = store.search(vector, text=text, k=k, mode=ranking, filter=condition, maxsim=maxsim)
    return [(hit, hit.score) for hit in hits]


def _hybrid(
    store: EmbeddedStore, query: VectorStoreQuery, condition: Filter | None, maxsim: bool
) -> Scored:
    alpha = 0.5 if query.alpha is None else query.alpha
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be from 0 (words only) to 1 (vectors only): got {alpha}")
    k = query.hybrid_top_k or query.similarity_top_k
    by_vector = store.search(
        query.query_embedding, k=max(k, CANDIDATES), mode="dense", filter=condition
    )
    by_words = store.search(
        None,
        text=query.query_str,
        k=query.sparse_top_k or max(k, CANDIDATES),
        mode=_words(store, query),
        filter=condition,
    )
    vector_scores = fused([[hit.id for hit in by_vector]])
    word_scores = fused([[hit.id for hit in by_words]])
    hits = {hit.id: hit for hit in [*by_vector, *by_words]}
    scores = {
        i: 2 * (alpha * vector_scores.get(i, 0.0) + (1 - alpha) * word_scores.get(i, 0.0))
        for i in hits
    }
    if maxsim:
        candidates = [i for i, score in best(scores, max(k, CANDIDATES)) if score > 0]
        scores = store.maxsim(query.query_str, candidates)
        return [(hits[i], score) for i, score in best(scores, k)]
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
    return {
        META_FIELD: node.metadata,
        SOURCE_FIELD: node.ref_doc_id,
        **{name: data[name] for name in _NODE},
    }


def _node(found: Passage | Hit) -> BaseNode:
    return metadata_dict_to_node(dict(found.metadata), text=found.text)
