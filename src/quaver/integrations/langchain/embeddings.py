"""QuaverEmbeddings: LangChain's `Embeddings` in int8 on the CPU."""

from __future__ import annotations

from typing import Any, Literal

from quaver.errors import needs_extra
from quaver.integrations.shared_models import SharedEmbedder, shared_embedder

with needs_extra("langchain"):
    from langchain_core.embeddings import Embeddings
    from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr


class QuaverEmbeddings(BaseModel, Embeddings):
    """Embed texts in int8 on the CPU.

        embeddings = QuaverEmbeddings(model="BAAI/bge-small-en-v1.5")
        embeddings.embed_query("What is the capital of France?")

    Queries and documents get the model's own prompts. (`HuggingFaceEmbeddings` adds none and
    replaces line ends with spaces, so its vectors differ for models with prompts.) Objects with the
    same model and settings share one engine; concurrent async calls are batched.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    model_name: str = Field(alias="model")
    """Model folder or hub id."""
    query_prompt: str | None = None
    """Replaces the model's query prompt; "" for no prompt."""
    document_prompt: str | None = None
    """Replaces the model's document prompt; "" for no prompt."""
    normalize: bool | None = None
    """Whether to return unit vectors; None follows the model."""
    precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8"
    """Precision of the engine; embeddings are lists of floats either way."""
    truncate_dim: int | None = None
    """Number of leading components to keep; None keeps all."""
    max_seq_length: int | None = None
    """Maximum tokens of a text; longer texts are truncated."""
    pooling: str | None = None
    """Such as "mean" or "cls+mean", for a model folder that does not specify it."""
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

    _shared: SharedEmbedder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model unless this process already has it."""
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
            InputError: texts is not a list of str, or a text is invalid.
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
            InputError: text is not a str, or is invalid.
        """
        row: list[float] = self._shared.encode([text], "query", prompt=self.query_prompt)[
            0
        ].tolist()
        return row

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, batched with those of concurrent tasks; see `embed_documents`."""
        rows = await self._shared.aencode(texts, "document", prompt=self.document_prompt)
        return list(rows.tolist())

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query, batched with those of concurrent tasks; see `embed_query`."""
        rows = await self._shared.aencode([text], "query", prompt=self.query_prompt)
        return list(rows[0].tolist())
