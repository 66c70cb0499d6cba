"""QuaverReranker: a cross-encoder as LangChain's document compressor and cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from quaver.errors import needs_extra
from quaver.integrations.shared_models import SharedCrossEncoder, shared_cross_encoder

with needs_extra("langchain"):
    from langchain_core.callbacks import Callbacks
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, Field, PrivateAttr, SecretStr


class QuaverReranker(BaseDocumentCompressor, BaseCrossEncoder):
    """Rank documents with a cross-encoder, in int8 on the CPU.

        reranker = QuaverReranker(model="BAAI/bge-reranker-base", top_n=3)
        reranker.compress_documents(documents, "What is the capital of France?")

    Pass it to langchain-classic's `ContextualCompressionRetriever` as `base_compressor` or to
    its `CrossEncoderReranker` as `model`. Without either:

        retriever | RunnableLambda(lambda found: reranker.compress_documents(found, question))

    Objects with the same model and settings share one engine; concurrent async calls are batched.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    model_name: str = Field(alias="model")
    """Folder or hub id of a cross-encoder with one label."""
    top_n: int | None = Field(default=3, ge=1)
    """Maximum number of documents `compress_documents` returns; None for all."""
    score_threshold: float | None = None
    """Minimum relevance score of a returned document."""
    activation: Literal["sigmoid", "identity"] | None = None
    """Activation applied to scores; None uses the model's own, usually the sigmoid."""
    precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8"
    """Precision of the engine."""
    max_seq_length: int | None = None
    """Maximum tokens of query and document together."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    threads: int | None = None
    """Engine threads; None uses every core available to the process."""
    local_files_only: bool = False
    """Never use the network."""
    token: SecretStr | None = None
    """Hub access token."""

    _shared: SharedCrossEncoder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model unless this process already has it."""
        self._shared = shared_cross_encoder(
            self.model_name,
            precision=self.precision,
            revision=self.revision,
            max_seq_length=self.max_seq_length,
            threads=self.threads,
            local_files_only=self.local_files_only,
            token=self.token.get_secret_value() if self.token else None,
        )

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score pairs of query and document.

        Args:
            text_pairs: N pairs.

        Returns:
            N scores; higher is better.

        Raises:
            InputError: a pair is invalid; the message names its position.
        """
        return self._shared.score(text_pairs, self.activation)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Rank documents for a query.

        Args:
            documents: the documents, which are not changed.
            query: the query.
            callbacks: not used.

        Returns:
            copies with `metadata["relevance_score"]`, best first.

        Raises:
            InputError: the query is not a str.
        """
        return self._ranked(documents, self.score(_pairs(documents, query)))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Rank documents without blocking the event loop; see `compress_documents`."""
        pairs = _pairs(documents, query)
        return self._ranked(documents, await self._shared.ascore(pairs, self.activation))

    def _ranked(self, documents: Sequence[Document], scores: list[float]) -> list[Document]:
        order = sorted(range(len(documents)), key=lambda i: -scores[i])
        least = self.score_threshold
        kept = [i for i in order if least is None or scores[i] >= least]
        return [
            documents[i].model_copy(
                update={"metadata": {**documents[i].metadata, "relevance_score": scores[i]}}
            )
            for i in kept[: self.top_n]
        ]


def _pairs(documents: Sequence[Document], query: str) -> list[tuple[str, str]]:
    return [(query, document.page_content) for document in documents]
