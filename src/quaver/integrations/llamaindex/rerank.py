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
    """Rank nodes with a cross-encoder, in int8 on the CPU.

        rerank = QuaverRerank(model="BAAI/bge-reranker-base", top_n=3)
        index.as_query_engine(similarity_top_k=20, node_postprocessors=[rerank])

    The input nodes are not changed. Objects with the same model and settings share one engine;
    concurrent async calls are batched.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="Folder or hub id of a cross-encoder with one label.")
    top_n: int = Field(default=2, ge=1, description="Maximum number of nodes to return.")
    keep_retrieval_score: bool = Field(
        default=False, description='Keep the retrieval score in metadata["retrieval_score"].'
    )
    score_threshold: float | None = Field(
        default=None, description="Minimum score of a returned node."
    )
    activation: Literal["sigmoid", "identity"] | None = Field(
        default=None, description="Activation applied to scores; None uses the model's own."
    )
    precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = Field(
        default="int8", description="Precision of the engine."
    )
    max_length: int | None = Field(
        default=None, description="Maximum tokens of query and node together."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    threads: int | None = Field(default=None, description="Engine threads.")
    local_files_only: bool = Field(default=False, description="Never use the network.")
    token: str | None = Field(default=None, description="Hub access token.", exclude=True)

    _shared: SharedCrossEncoder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model unless this process already has it."""
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
        """Return the class name that LlamaIndex saves."""
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
        """Send the start event and return the pairs that the model reads."""
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
        """Sort the nodes and send the end event."""
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
