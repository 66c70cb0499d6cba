"""mteb: models and whole indexes with mteb's protocols, for its tasks and leaderboards.

import mteb
from quaver.integrations.mteb import MtebEncoder

model = MtebEncoder("BAAI/bge-small-en-v1.5")
mteb.evaluate(model, mteb.get_tasks(["SciFact"]))
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from quaver.embedder import Embedder
from quaver.errors import InputError, needs_extra
from quaver.index import CorpusIndex
from quaver.integrations.shared_models import name_in_results
from quaver.reranker import CrossEncoder
from quaver.store import Mode


class MtebEncoder:
    """An embedding model with mteb's EncoderProtocol.

    Attributes:
        embedder: the model.
    """

    def __init__(
        self,
        model_name: str | Path | Embedder,
        revision: str | None = None,
        *,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        """Wrap a loaded model, or load one.

        Args:
            model_name: a loaded embedder, or a model folder or hub id.
            revision: branch, tag or commit on the hub.
            device: "cpu" or None.
            **settings: further arguments of `Embedder.from_pretrained`.
        """
        _check_device(device)
        self.embedder = (
            model_name
            if isinstance(model_name, Embedder)
            else Embedder.from_pretrained(model_name, revision=revision, **settings)
        )
        self._meta = _model_meta(self.embedder, revision, "dense")

    @property
    def mteb_model_meta(self) -> Any:
        """The model's ModelMeta for mteb."""
        return self._meta

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **options: Any,
    ) -> Any:
        """Encode the texts of all batches at once.

        The most specific prompt of the model is used: for the task and role, the task, the task type
        and role, the task type, or else the role.

        Args:
            inputs: batches with "text".
            task_metadata: the task's metadata.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: query, document or None.
            **options: mteb's; show_progress_bar is used, the batches are the engine's own.

        Returns:
            float32 (N, D).
        """
        texts = _texts(inputs)
        bar = bool(options.get("show_progress_bar"))
        role = getattr(prompt_type, "value", prompt_type)
        known = (task_metadata.name, task_metadata.type)
        names = [name for k in known for name in ([f"{k}-{role}", k] if role else [k])]
        for name in names:
            if name in self.embedder.prompts:
                return self.embedder.encode(texts, prompt_name=name, show_progress_bar=bar)
        encode = {"query": self.embedder.encode_query, "document": self.embedder.encode_document}
        return encode.get(role, self.embedder.encode)(texts, show_progress_bar=bar)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of every pair of vectors as a tensor (N1, N2)."""
        return _tensor(self.embedder.similarity(np.asarray(embeddings1), np.asarray(embeddings2)))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each vector with its counterpart as a tensor (N,)."""
        pairs = zip(np.asarray(embeddings1), np.asarray(embeddings2), strict=True)
        near = [float(self.embedder.similarity(a, b)) for a, b in pairs]
        return _tensor(np.array(near, np.float32))


class MtebCrossEncoder:
    """A cross-encoder with mteb's CrossEncoderProtocol.

    Attributes:
        cross_encoder: the model.
    """

    def __init__(
        self,
        model_name: str | Path | CrossEncoder,
        revision: str | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        """Wrap a loaded model, or load one.

        Args:
            model_name: a loaded cross-encoder, or a model folder or hub id.
            revision: branch, tag or commit on the hub.
            device: "cpu" or None.
            **settings: further arguments of `CrossEncoder.from_pretrained`.
        """
        _check_device(device)
        self.cross_encoder = (
            model_name
            if isinstance(model_name, CrossEncoder)
            else CrossEncoder.from_pretrained(model_name, revision=revision, **settings)
        )
        self._meta = _model_meta(self.cross_encoder, revision, "cross-encoder")

    @property
    def mteb_model_meta(self) -> Any:
        """The model's ModelMeta for mteb."""
        return self._meta

    def predict(
        self,
        inputs1: Iterable[dict[str, Any]],
        inputs2: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **options: Any,
    ) -> Any:
        """Score pairs.

        Args:
            inputs1: batches with "text", the queries.
            inputs2: batches with "text", the documents.
            task_metadata: not used.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: not used.
            **options: mteb's options; only show_progress_bar is used.

        Returns:
            float32 (N,).
        """
        pairs = list(zip(_texts(inputs1), _texts(inputs2), strict=True))
        bar = bool(options.get("show_progress_bar"))
        return self.cross_encoder.predict(pairs, show_progress_bar=bar)


class MtebSearch:
    """A whole index with mteb's SearchProtocol: embed, store and search as one model.

    Attributes:
        embedder: the model of the index.
    """

    def __init__(self, embedder: Embedder, *, mode: Mode = "hybrid") -> None:
        """Wrap a search.

        Args:
            embedder: the model of the index.
            mode: mode of `quaver.Index.search`.
        """
        self.embedder = embedder
        self._mode = mode
        self._meta = _model_meta(embedder, None, "dense")
        self._opened: CorpusIndex | None = None

    @property
    def mteb_model_meta(self) -> Any:
        """The model's ModelMeta for mteb."""
        return self._meta

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        encode_kwargs: Any = None,
        num_proc: int | None = None,
        **options: Any,
    ) -> None:
        """Store a corpus, replacing the previous one.

        Args:
            corpus: rows with "id", "text" and, optionally, "title".
            task_metadata: not used.
            hf_split: not used.
            hf_subset: not used.
            encode_kwargs: not used.
            num_proc: not used.
            **options: not used.
        """
        self.close()
        self._opened = CorpusIndex(self.embedder, mode=self._mode)
        rows = ((row, row.get("title") or "") for row in corpus)
        self._opened.add((row["id"], f"{title} {row['text']}".strip()) for row, title in rows)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        top_k: int,
        hf_split: str = "",
        hf_subset: str = "",
        encode_kwargs: Any = None,
        top_ranked: Any = None,
        num_proc: int | None = None,
        **options: Any,
    ) -> dict[str, dict[str, float]]:
        """Search the stored corpus.

        Args:
            queries: rows with "id" and "text".
            task_metadata: not used.
            top_k: number of documents for each query.
            hf_split: not used.
            hf_subset: not used.
            encode_kwargs: not used.
            top_ranked: must be None; an index searches all documents.
            num_proc: not used.
            **options: not used.

        Returns:
            query id to document id to score; scores decrease with rank.

        Raises:
            InputError: no corpus is stored, or top_ranked is given.
        """
        if self._opened is None:
            raise InputError("an index must hold a corpus before it is searched: call index first")
        if top_ranked is not None:
            raise InputError(
                "an index searches all documents: got a task with its own candidates; use MtebCrossEncoder"
            )
        return {row["id"]: self._opened.search(row["text"], top_k) for row in queries}

    def close(self) -> None:
        """Drop the stored corpus."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _texts(batches: Iterable[dict[str, Any]]) -> list[str]:
    """Return the texts of all batches; the engine sorts and batches them itself."""
    return [text for batch in batches for text in batch["text"]]


def _tensor(values: Any) -> Any:
    with needs_extra("mteb"):
        import torch
    return torch.from_numpy(values)


def _check_device(device: str | None) -> None:
    if device not in (None, "cpu"):
        raise InputError(f'device must be "cpu" or None: got {device!r}; Quaver runs on CPUs only')


def _model_meta(model: Embedder | CrossEncoder, revision: str | None, kind: str) -> Any:
    with needs_extra("mteb"):
        from mteb.models.model_meta import ModelMeta
    return ModelMeta.create_empty(
        {
            "name": name_in_results(model.name, model.precision),
            "revision": revision or "local",
            "model_type": [kind],
            "similarity_fn_name": "cosine" if kind == "dense" else None,
        }
    )
