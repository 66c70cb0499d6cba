"""QuaverSparseTextEmbedder: turns a query into weights of words."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quaver.errors import needs_extra
from quaver.integrations.haystack import (
    SparseEmbedderComponent,
    hub_token,
    model_name,
    require_text,
)

with needs_extra("haystack"):
    from haystack import component
    from haystack.dataclasses import SparseEmbedding
    from haystack.utils import Secret


@component
class QuaverSparseTextEmbedder(SparseEmbedderComponent):
    """Weigh the words of a query (SPLADE) in int8 on the CPU, for sparse and hybrid retrievers.

        embedder = QuaverSparseTextEmbedder(model="naver/splade-v3")
        embedder.run("What is the capital of France?")["sparse_embedding"]

    Queries of inference-free models are weighed by a table. Components with the same model and
    settings share one engine; concurrent `run_async` calls are batched.
    """

    def __init__(
        self,
        *,
        model: str | Path,
        token: Secret | None = hub_token(),  # noqa: B008 - immutable, Haystack's own way
        prefix: str | None = None,
        suffix: str = "",
        max_active_dims: int | None = None,
        precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        threads: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Set up; the model is loaded by `warm_up` or the first run.

        Args:
            model: model folder or hub id.
            token: hub access token.
            prefix: replaces the model's query prompt; "" for no prompt.
            suffix: appended to the text.
            max_active_dims: the most words that an embedding keeps; None follows the model folder.
            precision: precision of the engine; weights are floats either way.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a text; longer texts are truncated.
            threads: engine threads; None uses every core available to the process.
            local_files_only: never use the network.
        """
        self.model = model_name(model)
        self.token = token
        self.prefix = prefix
        self.suffix = suffix
        self.max_active_dims = max_active_dims
        self.precision = precision
        self.revision = revision
        self.max_seq_length = max_seq_length
        self.threads = threads
        self.local_files_only = local_files_only

    @component.output_types(sparse_embedding=SparseEmbedding)
    def run(self, text: str) -> dict[str, SparseEmbedding]:
        """Weigh the words of a text.

        Args:
            text: the text.

        Returns:
            "sparse_embedding": ids of words and their weights.

        Raises:
            TypeError: text is not a string.
        """
        require_text(self, "text", text, "QuaverSparseDocumentEmbedder")
        rows = self.shared.encode([text + self.suffix], "query", prompt=self.prefix)
        return {"sparse_embedding": self._sparse_embedding(rows[0])}

    @component.output_types(sparse_embedding=SparseEmbedding)
    async def run_async(self, text: str) -> dict[str, SparseEmbedding]:
        """Weigh the words of a text without blocking the event loop, batched with those of other tasks.

        Args:
            text: the text.

        Returns:
            "sparse_embedding": ids of words and their weights.

        Raises:
            TypeError: text is not a string.
        """
        require_text(self, "text", text, "QuaverSparseDocumentEmbedder")
        shared = await self.shared_async()
        rows = await shared.aencode([text + self.suffix], "query", prompt=self.prefix)
        return {"sparse_embedding": self._sparse_embedding(rows[0])}
