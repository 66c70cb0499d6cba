"""The models of an index's sparse and token vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage, embedded_text
from quaver.errors import InputError, ModelNotFoundError
from quaver.index.embedding import batches
from quaver.multi_vector_encoder import MultiVectorEncoder, multi_vector_settings
from quaver.sparse_encoder import SparseEncoder, SparseVector, sparse_settings
from quaver.store import Manifest, PassageTokens, TokenModel, VectorStore, pieces


def token_model(encoder: SparseEncoder | MultiVectorEncoder) -> TokenModel:
    """Return what a store records of a model.

    Args:
        encoder: the model.

    Raises:
        InputError: it is something else.
    """
    if isinstance(encoder, SparseEncoder):
        settings = sparse_settings(encoder)
    elif isinstance(encoder, MultiVectorEncoder):
        settings = multi_vector_settings(encoder)
    else:
        raise InputError(
            f"sparse must be a SparseEncoder, and multi a MultiVectorEncoder: got {encoder!r:.80}; load one "
            "with from_pretrained(...)"
        )
    return TokenModel(encoder.source, encoder.fingerprint, encoder.dimension, settings)


def passage_tokens_read(encoder: SparseEncoder | MultiVectorEncoder) -> int:
    """Return how many tokens of a passage a model reads, without special tokens and prefix."""
    prefix = 1 if isinstance(encoder, MultiVectorEncoder) else 0
    return encoder.max_seq_length - encoder.tokenizer.special_tokens - prefix


class TokenEncoders:
    """The models of a store's sparse and token vectors; each is loaded when it is first needed."""

    def __init__(
        self,
        location: str | Path,
        manifest: Callable[[], Manifest],
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
        *,
        threads: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Hold models.

        Args:
            location: the store, for messages.
            manifest: returns the store's manifest.
            sparse: the model of the sparse vectors; None loads that of the manifest.
            multi: the model of the token vectors; None loads that of the manifest.
            threads: returns the threads of models that are loaded here; None for all CPUs.

        Raises:
            InputError: a model is of the wrong class.
            StoreMismatchError: a model is not the one that the store was made with.
        """
        self._location, self._manifest, self._threads = location, manifest, threads
        self._sparse: SparseEncoder | None = None
        self._multi: MultiVectorEncoder | None = None
        self._loading = threading.RLock()
        self.take(sparse, multi)

    def take(self, sparse: SparseEncoder | None, multi: MultiVectorEncoder | None) -> None:
        """Use loaded models.

        Args:
            sparse: the model of the sparse vectors; None keeps what there is.
            multi: the model of the token vectors; None keeps what there is.

        Raises:
            InputError: a model is of the wrong class.
            StoreMismatchError: a model is not the one that the store was made with.
        """
        manifest = self._manifest()
        if sparse is not None:
            check_kind("sparse", sparse)
            made = manifest.token_model("sparse", self._location)
            made.check("sparse", self._location, token_model(sparse))
            self._sparse = sparse
        if multi is not None:
            check_kind("multi", multi)
            made = manifest.token_model("multi", self._location)
            made.check("multi", self._location, token_model(multi))
            self._multi = multi

    def loaded(self) -> tuple[SparseEncoder | None, MultiVectorEncoder | None]:
        """Return the models that are loaded, for another index of the same store."""
        return self._sparse, self._multi

    @property
    def sparse(self) -> SparseEncoder:
        """The model of the sparse vectors."""
        with self._loading:
            if self._sparse is None:
                made = self._manifest().token_model("sparse", self._location)
                try:
                    loaded = SparseEncoder.from_pretrained(
                        made.model, threads=self._threads(), **made.settings
                    )
                except ModelNotFoundError as error:
                    raise _gone(error, "sparse", self._location) from error
                self.take(loaded, None)
            assert self._sparse is not None
            return self._sparse

    @property
    def multi(self) -> MultiVectorEncoder:
        """The model of the token vectors."""
        with self._loading:
            if self._multi is None:
                made = self._manifest().token_model("multi", self._location)
                try:
                    loaded = MultiVectorEncoder.from_pretrained(
                        made.model, threads=self._threads(), **made.settings
                    )
                except ModelNotFoundError as error:
                    raise _gone(error, "multi", self._location) from error
                self.take(None, loaded)
            assert self._multi is not None
            return self._multi

    def passages(
        self, passages: Sequence[Passage], known: Sequence[PassageTokens | None] | None = None
    ) -> list[PassageTokens] | None:
        """Return the sparse and token vectors of passages, of all models in the manifest.

        Args:
            passages: the passages; a model reads heading and text, as the embedding model does.
            known: what is known of each, which is not computed again.

        Returns:
            an entry for each passage; None if the store has no such models.
        """
        manifest = self._manifest()
        if manifest.sparse is None and manifest.multi is None:
            return None
        found = [one or PassageTokens() for one in known or [None] * len(passages)]
        texts = [embedded_text(passage.heading, passage.text) for passage in passages]
        if manifest.sparse is not None:
            lacking = [t for one, t in zip(found, texts, strict=True) if one.sparse is None]
            weights = dict(self._weights(lacking))
            found = [
                one if one.sparse is not None else replace(one, sparse=weights[text])
                for one, text in zip(found, texts, strict=True)
            ]
        if manifest.multi is not None:
            lacking = [t for one, t in zip(found, texts, strict=True) if one.multi is None]
            vectors = dict(self._vectors(lacking))
            found = [
                one if one.multi is not None else replace(one, multi=vectors[text])
                for one, text in zip(found, texts, strict=True)
            ]
        return found

    def _weights(self, texts: Sequence[str]) -> Iterator[tuple[str, SparseVector]]:
        """Yield the weights of different texts."""
        different = list(dict.fromkeys(texts))
        if different:
            rows = self.sparse.encode_document(different)
            yield from ((t, stored_weights(rows[i], self.sparse)) for i, t in enumerate(different))

    def _vectors(self, texts: Sequence[str]) -> Iterator[tuple[str, NDArray[np.int8]]]:
        """Yield the token vectors of different texts."""
        different = list(dict.fromkeys(texts))
        if different:
            rows = self.multi.encode_document(different, output="int8")
            yield from ((t, rows[i].astype(np.int8, copy=False)) for i, t in enumerate(different))

    def sparse_query(self, query: str) -> SparseVector:
        """Return the weights of a question's words."""
        return stored_weights(self.sparse.encode_query(query), self.sparse)

    def multi_query(self, query: str) -> NDArray[np.float32]:
        """Return the vectors of a question's tokens, float32 (T, D), so that MaxSim is the model's score."""
        return stored_query(np.asarray(self.multi.encode_query(query), np.float32), self.multi)


def add_models(
    store: VectorStore,
    encoders: TokenEncoders,
    *,
    sparse: SparseEncoder | None = None,
    multi: MultiVectorEncoder | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Add sparse or token vectors to a store; see `Index.add_models`.

    Args:
        store: the store.
        encoders: its models.
        sparse: the model of the sparse vectors; None adds none.
        multi: the model of the token vectors; None adds none.
        on_progress: called with the number of passages encoded so far and that of all.

    Returns:
        how many passages were encoded.

    Raises:
        InputError: a model is of another class.
        StoreMismatchError: the store has vectors of another model, or cannot get others.
        StoreError: storing failed.
    """
    for kind, encoder in (("sparse", sparse), ("multi", multi)):
        if encoder is not None:
            check_kind(kind, encoder)
    store.add_models(
        sparse=None if sparse is None else token_model(sparse),
        multi=None if multi is None else token_model(multi),
    )
    encoders.take(sparse, multi)
    ids = store.incomplete()
    done = 0
    for page in batches(ids):
        stored = store.get(page, with_vectors=True)
        tokens = encoders.passages([one.passage for one in stored], [one.tokens for one in stored])
        assert tokens is not None
        whole = [replace(one, tokens=t) for one, t in zip(stored, tokens, strict=True)]
        for piece in pieces(iter(whole)):
            store.upsert(
                piece.passages, piece.vectors, versions=piece.versions, tokens=piece.tokens
            )
        store.flush()
        done += len(page)
        if on_progress is not None:
            on_progress(done, len(ids))
    if ids:
        store.optimize()
    return len(ids)


def check_kind(kind: str, encoder: object) -> None:
    """Check that a model is of the class for its kind of vectors.

    Raises:
        InputError: it is not.
    """
    wanted = SparseEncoder if kind == "sparse" else MultiVectorEncoder
    if not isinstance(encoder, wanted):
        raise InputError(
            f"{kind} must be a {wanted.__name__} that is loaded: got {encoder!r:.80}; load it with "
            f"{wanted.__name__}.from_pretrained(...)"
        )


def stored_weights(weights: SparseVector, encoder: SparseEncoder) -> SparseVector:
    """Return a text's weights as a store multiplies them: of length 1 where the model compares by cosine.

    Args:
        weights: from the encoder.
        encoder: the model.
    """
    if encoder.similarity_fn_name != "cosine":
        return weights
    length = float(np.sqrt(np.square(weights.values, dtype=np.float64).sum())) or 1.0
    return replace(weights, values=(weights.values / length).astype(np.float32))


def stored_query(vectors: NDArray[np.float32], encoder: MultiVectorEncoder) -> NDArray[np.float32]:
    """Return a question's token vectors so that a store's MaxSim is the model's score.

    Args:
        vectors: float32 (T, D), from the encoder.
        encoder: the model.

    Returns:
        float32 (T, D).
    """
    if encoder.similarity_fn_name == "meanmaxsim":
        vectors = vectors / np.float32(max(len(vectors), 1))
    return vectors


def _gone(error: ModelNotFoundError, kind: str, location: str | Path) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{error}; the store at {location} was made with this model: if it has moved, give Index.open the "
        f"loaded model with {kind}=, or write its new place into the store's quaver.json"
    )
