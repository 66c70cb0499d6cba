"""QuaverSparseEmbeddings: langchain-qdrant's `SparseEmbeddings` in int8 on the CPU.

from quaver.integrations.langchain.sparse_embeddings import QuaverSparseEmbeddings
"""

from __future__ import annotations

from typing import Any, Literal

from quaver.errors import needs_extra
from quaver.integrations.shared_models import SharedSparseEncoder, shared_sparse_encoder
from quaver.sparse_encoder import SparseVector as SparseRow

with needs_extra("langchain-qdrant"):
    from langchain_qdrant import SparseEmbeddings, SparseVector
    from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr


class QuaverSparseEmbeddings(BaseModel, SparseEmbeddings):
    """Weigh the words of texts (SPLADE) in int8 on the CPU, for `QdrantVectorStore`.

        QdrantVectorStore.from_texts(
            texts,
            embedding=QuaverEmbeddings(model="BAAI/bge-small-en-v1.5"),
            sparse_embedding=QuaverSparseEmbeddings(model="naver/splade-v3"),
            retrieval_mode=RetrievalMode.HYBRID,
            location=":memory:",
        )

    Queries of inference-free models are weighed by a table. Objects with the same model and settings
    share one engine; concurrent async calls are batched.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    model_name: str = Field(alias="model")
    """Model folder or hub id."""
    query_prompt: str | None = None
    """Replaces the model's query prompt; "" for no prompt."""
    document_prompt: str | None = None
    """Replaces the model's document prompt; "" for no prompt."""
    max_active_dims: int | None = None
    """The most words that a vector keeps; None follows the model folder."""
    precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8"
    """Precision of the engine; weights are floats either way."""
    max_seq_length: int | None = None
    """Maximum tokens of a text; longer texts are truncated."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    threads: int | None = None
    """Engine threads; None uses every core available to the process."""
    local_files_only: bool = False
    """Never use the network."""
    token: SecretStr | None = None
    """Hub access token."""
    show_progress: bool = False
    """Show a progress bar on stderr."""

    _shared: SharedSparseEncoder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model unless this process already has it."""
        self._shared = shared_sparse_encoder(
            self.model_name,
            precision=self.precision,
            revision=self.revision,
            max_seq_length=self.max_seq_length,
            max_active_dims=self.max_active_dims,
            threads=self.threads,
            local_files_only=self.local_files_only,
            token=self.token.get_secret_value() if self.token else None,
        )

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Weigh the words of documents.

        Args:
            texts: N texts.

        Returns:
            N vectors.

        Raises:
            InputError: texts is not a list of str, or a text is invalid.
        """
        rows = self._shared.encode(
            texts,
            "document",
            prompt=self.document_prompt,
            show_progress_bar=self.show_progress,
        )
        return [_vector(rows[i]) for i in range(len(rows))]

    def embed_query(self, text: str) -> SparseVector:
        """Weigh the words of a query.

        Args:
            text: the query.

        Returns:
            its vector.

        Raises:
            InputError: text is not a str, or is invalid.
        """
        return _vector(self._shared.encode([text], "query", prompt=self.query_prompt)[0])

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Weigh the words of documents, batched with those of concurrent tasks."""
        rows = await self._shared.aencode(texts, "document", prompt=self.document_prompt)
        return [_vector(row) for row in rows]

    async def aembed_query(self, text: str) -> SparseVector:
        """Weigh the words of a query, batched with those of concurrent tasks."""
        return _vector((await self._shared.aencode([text], "query", prompt=self.query_prompt))[0])


def _vector(row: SparseRow) -> SparseVector:
    return SparseVector(indices=row.indices.tolist(), values=row.values.tolist())
