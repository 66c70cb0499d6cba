"""fastembed's interfaces on Quaver's engine.

from quaver.integrations.fastembed import TextEmbedding  # instead of: from fastembed import ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.errors import check_range
from quaver.integrations.shared_models import (
    Role,
    shared_embedder,
    shared_multi_vector_encoder,
    shared_sparse_encoder,
)

BATCH_SIZE = 256
MAX_BATCH_SIZE = 1_000_000


class TextEmbedding:
    """Embed texts in int8 on the CPU, with fastembed's method names.

        model = TextEmbedding("BAAI/bge-small-en-v1.5")
        vectors = list(model.embed(["Paris is the capital of France."]))

    fastembed need not be installed. There are two differences: `model_name` has no default, and
    `query_embed` and `passage_embed` add the model's own prompts, most of which fastembed omits.

    Attributes:
        model_name: model folder or hub id.
    """

    def __init__(self, model_name: str, *, threads: int | None = None, **settings: Any) -> None:
        """Load the model unless this process already has it.

        Args:
            model_name: model folder or hub id.
            threads: engine threads; None uses every CPU available to the process.
            **settings: further arguments of `Embedder.from_pretrained`.

        Raises:
            ModelError: the model cannot be loaded.
        """
        self.model_name = model_name
        self._shared = shared_embedder(model_name, threads=threads, **settings)

    @property
    def embedding_size(self) -> int:
        """The dimensions of a vector."""
        return self._shared.embedder.dimension

    def embed(
        self, documents: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed texts without a prompt, batch by batch.

        Args:
            documents: one text or several; a generator is read batch by batch.
            batch_size: texts per call of the engine.

        Yields:
            a float32 array (D,) for each text.

        Raises:
            InputError: batch_size is outside 1 to 1,000,000; or a text is not a str or is invalid,
                and the message names its position in its batch.
        """
        return self._embed(documents, batch_size, "document", "")

    def passage_embed(
        self, texts: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed documents, with the model's document prompt; see `embed`."""
        return self._embed(texts, batch_size, "document", None)

    def query_embed(
        self, query: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed queries, with the model's query prompt; see `embed`."""
        return self._embed(query, batch_size, "query", None)

    def _embed(
        self, texts: str | Iterable[str], batch_size: int, role: Role, prompt: str | None
    ) -> Iterator[NDArray[np.float32]]:
        for batch in _batches(texts, batch_size):
            yield from self._shared.encode(batch, role, prompt=prompt)


@dataclass
class SparseEmbedding:
    """The weights of a text's words, as fastembed returns them.

    Attributes:
        values: float32 (n,), the weights.
        indices: int32 (n,), ids of the words in the vocabulary, rising.
    """

    values: NDArray[np.float32]
    indices: NDArray[np.int32]

    def as_object(self) -> dict[str, NDArray[Any]]:
        """Return values and indices by their names, as Qdrant's client takes them."""
        return {"values": self.values, "indices": self.indices}

    def as_dict(self) -> dict[int, float]:
        """Return the weight of each word by its id."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))

    @classmethod
    def from_dict(cls, data: Mapping[int, float]) -> SparseEmbedding:
        """Create an embedding from what `as_dict` returned."""
        return cls(np.array([*data.values()], np.float32), np.array([*data], np.int32))


class SparseTextEmbedding:
    """Weigh the words of texts (SPLADE) in int8 on the CPU, with fastembed's method names.

        model = SparseTextEmbedding("naver/splade-v3")
        vectors = list(model.embed(["Paris is the capital of France."]))

    fastembed need not be installed. `model_name` is any model that `quaver.SparseEncoder` opens;
    fastembed's BM25 and BM42 are not.

    Attributes:
        model_name: model folder or hub id.
    """

    def __init__(self, model_name: str, *, threads: int | None = None, **settings: Any) -> None:
        """Load the model unless this process already has it.

        Args:
            model_name: model folder or hub id.
            threads: engine threads; None uses every CPU available to the process.
            **settings: further arguments of `SparseEncoder.from_pretrained`.

        Raises:
            ModelError: the model cannot be loaded, or is of another kind.
        """
        self.model_name = model_name
        self._shared = shared_sparse_encoder(model_name, threads=threads, **settings)

    def embed(
        self, documents: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[SparseEmbedding]:
        """Weigh the words of texts without a prompt, batch by batch.

        Args:
            documents: one text or several; a generator is read batch by batch.
            batch_size: texts per call of the engine.

        Yields:
            the words of each text.

        Raises:
            InputError: batch_size is outside 1 to 1,000,000; or a text is not a str or is invalid,
                and the message names its position in its batch.
        """
        return self._embed(documents, batch_size, "document", "")

    def passage_embed(
        self, texts: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[SparseEmbedding]:
        """Weigh the words of documents, with the model's document prompt; see `embed`."""
        return self._embed(texts, batch_size, "document", None)

    def query_embed(
        self, query: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[SparseEmbedding]:
        """Weigh the words of queries, by the model's table if it has one; see `embed`."""
        return self._embed(query, batch_size, "query", None)

    def _embed(
        self, texts: str | Iterable[str], batch_size: int, role: Role, prompt: str | None
    ) -> Iterator[SparseEmbedding]:
        for batch in _batches(texts, batch_size):
            rows = self._shared.encode(batch, role, prompt=prompt)
            for row in (rows[i] for i in range(len(rows))):
                yield SparseEmbedding(row.values, row.indices)


class LateInteractionTextEmbedding:
    """Embed the tokens of texts (ColBERT) in int8 on the CPU, with fastembed's method names.

        model = LateInteractionTextEmbedding("answerdotai/answerai-colbert-small-v1")
        vectors = list(model.embed(["Paris is the capital of France."]))

    fastembed need not be installed.

    Attributes:
        model_name: model folder or hub id.
    """

    def __init__(self, model_name: str, *, threads: int | None = None, **settings: Any) -> None:
        """Load the model unless this process already has it.

        Args:
            model_name: model folder or hub id.
            threads: engine threads; None uses every CPU available to the process.
            **settings: further arguments of `MultiVectorEncoder.from_pretrained`.

        Raises:
            ModelError: the model cannot be loaded, or is of another kind.
        """
        self.model_name = model_name
        self._shared = shared_multi_vector_encoder(model_name, threads=threads, **settings)

    @property
    def embedding_size(self) -> int:
        """The dimensions of a token's vector."""
        return self._shared.encoder.dimension

    def embed(
        self, documents: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed the tokens of documents, batch by batch.

        Args:
            documents: one text or several; a generator is read batch by batch.
            batch_size: texts per call of the engine.

        Yields:
            a float32 array (T, D) for each text.

        Raises:
            InputError: batch_size is outside 1 to 1,000,000; or a text is not a str or is invalid,
                and the message names its position in its batch.
        """
        return self._embed(documents, batch_size, "document")

    def passage_embed(
        self, texts: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed the tokens of documents; the same as `embed`."""
        return self._embed(texts, batch_size, "document")

    def query_embed(
        self, query: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed the tokens of queries, mask tokens included; see `embed`."""
        return self._embed(query, batch_size, "query")

    def _embed(
        self, texts: str | Iterable[str], batch_size: int, role: Role
    ) -> Iterator[NDArray[np.float32]]:
        for batch in _batches(texts, batch_size):
            vectors = self._shared.encode(batch, role)
            yield from (vectors[i] for i in range(len(vectors)))


def _batches(texts: str | Iterable[str], batch_size: int) -> Iterator[list[str]]:
    check_range("batch_size", batch_size, MAX_BATCH_SIZE)
    remaining = iter([texts] if isinstance(texts, str) else texts)
    while batch := list(islice(remaining, batch_size)):
        yield batch
