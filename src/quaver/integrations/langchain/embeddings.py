"""QuaverEmbeddings: LangChain's ``Embeddings`` in int8 on the CPU."""

from __future__ import annotations

from typing import Any, Literal

from quaver.errors import needs_extra
from quaver.integrations.shared_models import SharedEmbedder, shared_embedder

with needs_extra("langchain"):
    from langchain_core.embeddings import Embeddings
    from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr


class QuaverEmbeddings(BaseModel, Embeddings):
    """Embeds texts in int8 on the CPU.

        embeddings = QuaverEmbeddings(model="BAAI/bge-small-en-v1.5")
        embeddings.embed_query("What is the capital of France?")

    The model's own prompts go before queries and documents. (``HuggingFaceEmbeddings`` puts none
    before them and turns line ends into spaces: vectors of models with prompts differ from its.)
    Objects with the same model and settings share one engine; concurrent calls of the async methods
    are computed together.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    model_name: str = Field(alias="model")
    """Model folder or hub id."""
    query_prompt: str | None = None
    """Goes before queries instead of the model's own; "" for none."""
    document_prompt: str | None = None
    """Goes before documents instead of the model's own; "" for none."""
    normalize: bool | None = None
    """Whether vectors get length 1; None follows the model."""
    precision: Literal["int8", "float32"] = "int8"
    """What the engine computes in; embeddings are lists of floats either way."""
    truncate_dim: int | None = None
    """Leading components to keep."""
    max_seq_length: int | None = None
    """Most tokens of a text."""
    pooling: str | None = None
    """"cls" or "mean", for a model folder that does not say."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    threads: int | None = None
    """Threads of the engine; None takes the CPUs this process may use."""
    local_files_only: bool = False
    """Never use the network."""
    token: SecretStr | None = None
    """Access token of the hub."""
    show_progress: bool = False
    """A bar on stderr."""

    _shared: SharedEmbedder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model, unless this process has it already."""
        self._shared = shared_embedder(
            self.model_name,
            precision=self.precision,
            revision=self.revision,
            max_seq_length=self.max_seq_length,
            truncate_dim=self.truncate_dim,
            pooling=self.pooling,
            normalize=self.normalize,
            threads=self.threads,
            local_files_only=self.local_files_only,
            token=self.token.get_secret_value() if self.token else None,
        )

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: N texts.

        Returns:
            N lists of D floats.

        Raises:
            InputError: texts is no list of str, or a text is invalid.
        """
        rows: list[list[float]] = self._shared.encode(
            texts,
            "document",
            prompt=self.document_prompt,
            show_progress_bar=self.show_progress,
        ).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """Embed a query.

        Args:
            text: the query.

        Returns:
            D floats.

        Raises:
            InputError: text is no str, or invalid.
        """
        row: list[float] = self._shared.encode([text], "query", prompt=self.query_prompt)[
            0
        ].tolist()
        return row

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents together with those of concurrent tasks; see ``embed_documents``."""
        rows = await self._shared.aencode(texts, "document", prompt=self.document_prompt)
        return list(rows.tolist())

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query together with those of concurrent tasks; see ``embed_query``."""
        rows = await self._shared.aencode([text], "query", prompt=self.query_prompt)
        return list(rows[0].tolist())
