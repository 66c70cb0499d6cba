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
    """Ranks documents with a cross-encoder, in int8 on the CPU.

        reranker = QuaverReranker(model="BAAI/bge-reranker-base", top_n=3)
        reranker.compress_documents(documents, "What is the capital of France?")

    ``ContextualCompressionRetriever`` of langchain-classic takes it as ``base_compressor``, and
    ``CrossEncoderReranker`` as ``model``. Without either:

        retriever | RunnableLambda(lambda found: reranker.compress_documents(found, question))

    Objects with the same model and settings share one engine; concurrent calls of the async methods
    are computed together.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    model_name: str = Field(alias="model")
    """Folder or hub id of a cross-encoder with one label."""
    top_n: int | None = Field(default=3, ge=1)
    """How many documents ``compress_documents`` returns at most; None for all."""
    score_threshold: float | None = None
    """The least relevance score of a document that is returned."""
    activation: Literal["sigmoid", "identity"] | None = None
    """What is applied to scores; None takes what the model says, mostly the sigmoid."""
    precision: Literal["int8", "float32"] = "int8"
    """What the engine computes in."""
    max_seq_length: int | None = None
    """Most tokens of query and document together."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    threads: int | None = None
    """Threads of the engine; None takes the CPUs this process may use."""
    local_files_only: bool = False
    """Never use the network."""
    token: SecretStr | None = None
    """Access token of the hub."""

    _shared: SharedCrossEncoder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model, unless this process has it already."""
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
            N scores; higher fits better.

        Raises:
            InputError: a pair is outside its rule; its position is named.
        """
        return self._shared.score(text_pairs, self.activation)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Rank documents for a query.

        Args:
            documents: the documents; they stay as they are.
            query: the query.
            callbacks: not used.

        Returns:
            Copies with ``metadata["relevance_score"]``, the best first.

        Raises:
            InputError: the query is no str.
        """
        return self._ranked(documents, self.score(_pairs(documents, query)))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Rank documents without blocking the event loop; see ``compress_documents``."""
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
