"""QuaverEmbedding: LlamaIndex's `BaseEmbedding` in int8 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from quaver.errors import needs_extra
from quaver.integrations.shared_models import SharedEmbedder, shared_embedder

with needs_extra("llamaindex"):
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
    from llama_index.core.instrumentation import DISPATCHER_SPAN_DECORATED_ATTR

BATCH_SIZE = 512
Method = TypeVar("Method", bound=Callable[..., Any])


def _without_own_span(method: Method) -> Method:
    """Keep LlamaIndex from opening a second span around a method.

    Its caller, such as `get_query_embedding`, already has a span and calls nothing else.
    """
    setattr(method, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return method


class QuaverEmbedding(BaseEmbedding):
    """Embed queries and node texts in int8 on the CPU.

        embed_model = QuaverEmbedding(model_name="BAAI/bge-small-en-v1.5")
        VectorStoreIndex.from_documents(documents, embed_model=embed_model)

    Queries and texts get the model's own prompts. `embed_batch_size` is 512 instead of
    LlamaIndex's 10: the engine does not pad, and large batches keep every core busy. Objects with
    the same model and settings share one engine; concurrent async calls are batched.
    """

    model_config = ConfigDict(extra="forbid")

    model_name: str = Field(description="Model folder or hub id.")
    query_instruction: str | None = Field(
        default=None, description="Replaces the model's query prompt."
    )
    text_instruction: str | None = Field(
        default=None, description="Replaces the model's document prompt."
    )
    normalize: bool | None = Field(
        default=None, description="Whether to return unit vectors; None follows the model."
    )
    precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = Field(
        default="int8", description="Precision of the engine."
    )
    truncate_dim: int | None = Field(
        default=None, description="Number of leading components to keep; None keeps all."
    )
    max_length: int | None = Field(default=None, description="Maximum tokens of a text.")
    pooling: str | None = Field(
        default=None,
        description='Such as "mean" or "cls+mean", for a model folder that does not specify it.',
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    threads: int | None = Field(default=None, description="Engine threads.")
    local_files_only: bool = Field(default=False, description="Never use the network.")
    token: str | None = Field(default=None, description="Hub access token.", exclude=True)
    show_progress_bar: bool = Field(default=False, description="Show a progress bar on stderr.")
    embed_batch_size: int = Field(default=BATCH_SIZE, description="Texts per call.", gt=0, le=2048)

    _shared: SharedEmbedder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model unless this process already has it.

        Raises:
            ValueError: Embeddings_cache is set and the model has prompts.
        """
        super().model_post_init(context)
        self._shared = shared_embedder(
            self.model_name,
            precision=self.precision,
            revision=self.revision,
            max_seq_length=self.max_length,
            truncate_dim=self.truncate_dim,
            pooling=self.pooling,
            normalize=self.normalize,
            threads=self.threads,
            local_files_only=self.local_files_only,
            token=self.token,
        )
        embedder = self._shared.model
        query, text = self.query_instruction, self.text_instruction
        before_query = embedder.prompts.get("query", "") if query is None else query
        before_text = embedder.document_prompt if text is None else text
        if self.embeddings_cache is not None and before_query != before_text:
            raise ValueError(
                "embeddings_cache needs a model with one prompt, because its keys do not tell "
                f"queries from texts: {embedder.name} has {before_query!r} for queries and "
                f"{before_text!r} for texts; leave it out, or cache nodes in an IngestionPipeline"
            )

    @classmethod
    def class_name(cls) -> str:
        """Return the class name that LlamaIndex saves."""
        return "QuaverEmbedding"

    @_without_own_span
    def _get_query_embedding(self, query: str) -> list[float]:
        rows = self._shared.encode([query], "query", prompt=self.query_instruction)
        return list(rows[0].tolist())

    @_without_own_span
    async def _aget_query_embedding(self, query: str) -> list[float]:
        rows = await self._shared.aencode([query], "query", prompt=self.query_instruction)
        return list(rows[0].tolist())

    @_without_own_span
    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows = self._shared.encode(
            texts,
            "document",
            prompt=self.text_instruction,
            show_progress_bar=self.show_progress_bar,
        )
        return list(rows.tolist())

    @_without_own_span
    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows = await self._shared.aencode(texts, "document", prompt=self.text_instruction)
        return list(rows.tolist())
