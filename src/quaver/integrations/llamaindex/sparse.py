"""QuaverSparseEncoding: the sparse functions of LlamaIndex's `QdrantVectorStore`, in int8 on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quaver.integrations.shared_models import Role, shared_sparse_encoder

SparseRows = tuple[list[list[int]], list[list[float]]]
"""The ids of the words of each text, and their weights."""


class QuaverSparseEncoding:
    """Weigh the words of nodes and queries (SPLADE), for stores that take functions for it.

        sparse = QuaverSparseEncoding("naver/splade-v3")
        QdrantVectorStore(
            "notes",
            client=client,
            enable_hybrid=True,
            sparse_doc_fn=sparse.encode_documents,
            sparse_query_fn=sparse.encode_queries,
        )

    Objects with the same model and settings share one engine. They pickle: another process loads the
    model itself.

    Attributes:
        model_name: model folder or hub id.
    """

    def __init__(self, model_name: str, **settings: Any) -> None:
        """Load the model unless this process already has it.

        Args:
            model_name: model folder or hub id.
            **settings: further arguments of `SparseEncoder.from_pretrained`, such as max_active_dims.

        Raises:
            ModelError: the model cannot be loaded, or is of another kind.
        """
        self.model_name = model_name
        self._shared = shared_sparse_encoder(model_name, **settings)

    def encode_documents(self, texts: Sequence[str]) -> SparseRows:
        """Weigh the words of documents.

        Args:
            texts: N texts.

        Returns:
            N lists of ids, and N lists of weights.

        Raises:
            InputError: texts is not a list of str, or a text is invalid.
        """
        return self._encode(texts, "document")

    def encode_queries(self, texts: Sequence[str]) -> SparseRows:
        """Weigh the words of queries, by the model's table if it has one; see `encode_documents`."""
        return self._encode(texts, "query")

    def _encode(self, texts: Sequence[str], role: Role) -> SparseRows:
        rows = self._shared.encode(texts, role)
        each = [rows[i] for i in range(len(rows))]
        return [row.indices.tolist() for row in each], [row.values.tolist() for row in each]
