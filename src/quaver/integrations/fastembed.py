"""fastembed's interfaces on Quaver's engine.

from quaver.integrations.fastembed import TextEmbedding  # instead of: from fastembed import ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from quaver.errors import check_range
from quaver.integrations.shared_models import (
    Role,
    shared_embedder,
    shared_multi_vector_encoder,
    shared_sparse_encoder,
)
from quaver.sparse_encoder import SparseVector

Row = TypeVar("Row")

BATCH_SIZE = 256
MAX_BATCH_SIZE = 1_000_000


class _TextModel(Generic[Row]):
    """A model with fastembed's method names.

    Attributes:
        model_name: model folder or hub id.
    """

    _load: Any
    _bare: str | None = ""  # the prompt of `embed`; None for the model's own

    def __init__(self, model_name: str, *, threads: int | None = None, **settings: Any) -> None:
        """Load the model unless this process already has it.

        Args:
            model_name: model folder or hub id.
            threads: engine threads; None uses every core available to the process.
            **settings: further arguments of `from_pretrained` of the class that opens the model.

        Raises:
            ModelError: the model cannot be loaded, or is of another kind.
        """
        self.model_name = model_name
        self._shared = self._load(model_name, threads=threads, **settings)

    def embed(self, documents: str | Iterable[str], batch_size: int = BATCH_SIZE) -> Iterator[Row]:
        """Embed texts batch by batch, without a prompt.

        Args:
            documents: one text or several; a generator is read batch by batch.
            batch_size: texts per call of the engine.

        Yields:
            what the model makes of each text, as the class says.

        Raises:
            InputError: batch_size is outside 1 to 1,000,000; or a text is not a str or is invalid,
                and the message names its position in its batch.
        """
        return self._embed(documents, batch_size, "document", self._bare)

    def passage_embed(
        self, texts: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[Row]:
        """Embed documents, with the model's document prompt; see `embed`."""
        return self._embed(texts, batch_size, "document", None)

    def query_embed(
        self, query: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[Row]:
        """Embed queries, with the model's query prompt, table or mask tokens; see `embed`."""
        return self._embed(query, batch_size, "query", None)

    def _embed(
        self, texts: str | Iterable[str], batch_size: int, role: Role, prompt: str | None
    ) -> Iterator[Row]:
        for batch in _batches(texts, batch_size):
            rows = self._shared.encode(batch, role, prompt=prompt)
            yield from (self._row(rows[i]) for i in range(len(rows)))

    @staticmethod
    def _row(row: Any) -> Row:
        """Return a text's result as fastembed does."""
        found: Row = row
        return found


class TextEmbedding(_TextModel[NDArray[np.float32]]):
    """Embed texts in int8 on the CPU, with fastembed's method names: a float32 array (D,) for each.

        model = TextEmbedding("BAAI/bge-small-en-v1.5")
        vectors = list(model.embed(["Paris is the capital of France."]))

    fastembed need not be installed. There are two differences: `model_name` has no default, and
    `query_embed` and `passage_embed` add the model's own prompts, most of which fastembed omits.

    Attributes:
        model_name: model folder or hub id.
    """

    _load = staticmethod(shared_embedder)

    @property
    def embedding_size(self) -> int:
        """The dimensions of a vector."""
        return int(self._shared.model.dimension)


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


class SparseTextEmbedding(_TextModel[SparseEmbedding]):
    """Weigh the words of texts (SPLADE) in int8 on the CPU, with fastembed's method names.

        model = SparseTextEmbedding("naver/splade-v3")
        vectors = list(model.embed(["Paris is the capital of France."]))

    fastembed need not be installed. `model_name` is any model that `quaver.SparseEncoder` opens;
    fastembed's BM25 and BM42 are not.

    Attributes:
        model_name: model folder or hub id.
    """

    _load = staticmethod(shared_sparse_encoder)

    @staticmethod
    def _row(row: SparseVector) -> SparseEmbedding:
        return SparseEmbedding(row.values, row.indices)


class LateInteractionTextEmbedding(_TextModel[NDArray[np.float32]]):
    """Embed the tokens of texts (ColBERT) in int8 on the CPU, with fastembed's method names.

        model = LateInteractionTextEmbedding("answerdotai/answerai-colbert-small-v1")
        vectors = list(model.embed(["Paris is the capital of France."]))

    Each text gives a float32 array (T, D). fastembed need not be installed. `embed` is `passage_embed`.

    Attributes:
        model_name: model folder or hub id.
    """

    _load = staticmethod(shared_multi_vector_encoder)
    _bare = None

    @property
    def embedding_size(self) -> int:
        """The dimensions of a token's vector."""
        return int(self._shared.model.dimension)


def _batches(texts: str | Iterable[str], batch_size: int) -> Iterator[list[str]]:
    check_range("batch_size", batch_size, MAX_BATCH_SIZE)
    remaining = iter([texts] if isinstance(texts, str) else texts)
    while batch := list(islice(remaining, batch_size)):
        yield batch
