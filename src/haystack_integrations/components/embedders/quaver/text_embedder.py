"""QuaverTextEmbedder: turns a query into a vector."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quaver.errors import needs_extra
from quaver.integrations.haystack import EmbedderComponent, hub_token, model_name, require_text

with needs_extra("haystack"):
    from haystack import component
    from haystack.utils import Secret


@component
class QuaverTextEmbedder(EmbedderComponent):
    """Embed one text as a query, in int8 on the CPU.

        embedder = QuaverTextEmbedder(model="BAAI/bge-small-en-v1.5")
        embedder.run("What is the capital of France?")["embedding"]

    Components with the same model and settings share one engine. Concurrent `run_async` calls are
    batched.
    """

    def __init__(
        self,
        *,
        model: str | Path,
        token: Secret | None = hub_token(),  # noqa: B008 - immutable, Haystack's own way
        prefix: str | None = None,
        suffix: str = "",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        pooling: str | None = None,
        threads: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Set up; the model is loaded by `warm_up` or the first run.

        Args:
            model: model folder or hub id.
            token: hub access token.
            prefix: replaces the model's query prompt; "" for no prompt.
            suffix: appended to the text.
            normalize_embeddings: return unit vectors even if the model does not normalize.
            truncate_dim: number of leading components to keep; None keeps all.
            precision: precision of the engine; the embedding is a list of floats either way.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a text; longer texts are truncated.
            pooling: such as "mean" or "cls+mean", for a model folder that does not specify it.
            threads: engine threads; None uses every core available to the process.
            local_files_only: never use the network.
        """
        self.model = model_name(model)
        self.token = token
        self.prefix = prefix
        self.suffix = suffix
        self.normalize_embeddings = normalize_embeddings
        self.truncate_dim = truncate_dim
        self.precision = precision
        self.revision = revision
        self.max_seq_length = max_seq_length
        self.pooling = pooling
        self.threads = threads
        self.local_files_only = local_files_only

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Embed a text.

        Args:
            text: the text.

        Returns:
            "embedding": D floats.

        Raises:
            TypeError: text is not a string.
        """
        require_text(self, "text", text)
        return {"embedding": self._query_embedding(text)}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, list[float]]:
        """Embed a text without blocking the event loop, batched with those of other tasks.

        Args:
            text: the text.

        Returns:
            "embedding": D floats.

        Raises:
            TypeError: text is not a string.
        """
        require_text(self, "text", text)
        return {"embedding": await self._query_embedding_async(text)}
