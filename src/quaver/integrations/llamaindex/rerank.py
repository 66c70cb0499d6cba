"""QuaverRerank: a cross-encoder as LlamaIndex's node postprocessor."""

from __future__ import annotations

from typing import Any, Literal

from quaver.errors import needs_extra
from quaver.integrations.shared_models import SharedCrossEncoder, shared_cross_encoder

with needs_extra("llamaindex"):
    from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

    dispatcher = get_dispatcher(__name__)


class QuaverRerank(BaseNodePostprocessor):
    """Ranks nodes with a cross-encoder, in int8 on the CPU.

        rerank = QuaverRerank(model="BAAI/bge-reranker-base", top_n=3)
        index.as_query_engine(similarity_top_k=20, node_postprocessors=[rerank])

    The nodes given stay as they are. Objects with the same model and settings share one engine;
    concurrent async calls are computed together.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="Folder or hub id of a cross-encoder with one label.")
    top_n: int = Field(default=2, ge=1, description="How many nodes to return at most.")
    keep_retrieval_score: bool = Field(
        default=False, description='Keep the score before in metadata["retrieval_score"].'
    )
    score_threshold: float | None = Field(
        default=None, description="The least score of a node that is returned."
    )
    activation: Literal["sigmoid", "identity"] | None = Field(
        default=None, description="What is applied to scores; None takes what the model says."
    )
    precision: Literal["int8", "float32"] = Field(
        default="int8", description="What the engine computes in."
    )
    max_length: int | None = Field(
        default=None, description="Most tokens of query and node together."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    threads: int | None = Field(default=None, description="Threads of the engine.")
    local_files_only: bool = Field(default=False, description="Never use the network.")
    token: str | None = Field(default=None, description="Access token of the hub.", exclude=True)

    _shared: SharedCrossEncoder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model, unless this process has it already."""
        super().model_post_init(context)
        self._shared = shared_cross_encoder(
            self.model,
            precision=self.precision,
            revision=self.revision,
            max_seq_length=self.max_length,
            threads=self.threads,
            local_files_only=self.local_files_only,
            token=self.token,
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex knows this class by."""
        return "QuaverRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        pairs = self._started(nodes, query_bundle)
        return self._ended(nodes, self._shared.score(pairs, self.activation) if pairs else [])

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        pairs = self._started(nodes, query_bundle)
        return self._ended(nodes, await self._shared.ascore(pairs, self.activation))

    def _started(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None
    ) -> list[tuple[str, str]]:
        """Announce the work and return what the model is to read."""
        if query_bundle is None:
            raise ValueError("Missing query bundle in extra info: QuaverRerank ranks for a query")
        dispatcher.event(
            ReRankStartEvent(
                query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model
            )
        )
        query = query_bundle.query_str
        return [(query, node.node.get_content(metadata_mode=MetadataMode.EMBED)) for node in nodes]

    def _ended(self, nodes: list[NodeWithScore], scores: list[float]) -> list[NodeWithScore]:
        """Put nodes in order and announce the end."""
        order = sorted(range(len(nodes)), key=lambda i: -scores[i])
        least = self.score_threshold
        kept = [i for i in order if least is None or scores[i] >= least][: self.top_n]
        ranked = [NodeWithScore(node=self._node(nodes[i]), score=scores[i]) for i in kept]
        dispatcher.event(ReRankEndEvent(nodes=ranked))
        return ranked

    def _node(self, found: NodeWithScore) -> Any:
        if not self.keep_retrieval_score:
            return found.node
        metadata = {**found.node.metadata, "retrieval_score": found.score}
        return found.node.model_copy(update={"metadata": metadata})
