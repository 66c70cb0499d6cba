"""A store in memory: exact search, lost when the process ends."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage, embedded_text
from quaver.errors import InputError, check_range
from quaver.sparse_encoder import SparseVector
from quaver.store.filters import Compare, Filter, plan
from quaver.store.manifest import Manifest, TokenModel
from quaver.store.matching import matches
from quaver.store.payload import to_hit, to_passage, to_payload, to_version
from quaver.store.protocol import (
    CANDIDATES,
    FileVersion,
    Hit,
    Mode,
    PassageTokens,
    StoredPassage,
    StoredSource,
)
from quaver.store.query import (
    best,
    check_upsert,
    checked_rankings,
    fused,
    is_complete,
    maxsim,
    rounded,
    with_models,
)
from quaver.store.status import UpdateNote
from quaver.store.terms import TermAnalyzer, Terms

LOCATION = ":memory:"


class MemoryStore:
    """A `VectorStore` in NumPy and dictionaries.

    Attributes:
        manifest: the store's manifest.
    """

    def __init__(self, manifest: Manifest) -> None:
        """Make an empty store.

        Args:
            manifest: the manifest; its vectors must be "float32".

        Raises:
            InputError: the manifest has other vectors.
        """
        if manifest.vectors != "float32":
            raise InputError(
                f"a store in memory holds float32 vectors: got vectors={manifest.vectors!r}"
            )
        self.manifest = manifest
        self._analyzer = TermAnalyzer(manifest.language)
        self._notes: dict[str, UpdateNote] = {}
        self._payloads: dict[str, dict[str, Any]] = {}
        self._terms: dict[str, Terms] = {}
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._postings: dict[int, dict[str, float]] = defaultdict(dict)
        self._tokens: dict[str, PassageTokens] = {}
        self._matrix: tuple[list[str], NDArray[np.float32]] | None = None

    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32] | None,
        *,
        versions: Mapping[str, FileVersion] | None = None,
        tokens: Sequence[PassageTokens] | None = None,
    ) -> None:
        """Store passages; see `VectorStore.upsert`."""
        ids = [passage.id for passage in passages]
        check_upsert(ids, vectors, tokens, manifest=self.manifest)
        late = self.manifest.late_chunking
        payloads = [to_payload(passage, versions, late_chunking=late) for passage in passages]
        self.delete(ids)
        for row, (passage, payload) in enumerate(zip(passages, payloads, strict=True)):
            self._payloads[passage.id] = payload
            terms = self._analyzer.document(embedded_text(passage.heading, passage.text))
            self._terms[passage.id] = terms
            for term, weight in zip(terms.indices, terms.values, strict=True):
                self._postings[term][passage.id] = weight
            if vectors is not None:
                length = float(np.linalg.norm(vectors[row])) or 1.0
                self._vectors[passage.id] = (vectors[row] / length).astype(np.float32)
            if tokens is not None:
                one = tokens[row]
                sparse = None if one.sparse is None else rounded(one.sparse)
                self._tokens[passage.id] = PassageTokens(sparse, one.multi)

    def add_models(
        self, *, sparse: TokenModel | None = None, multi: TokenModel | None = None
    ) -> None:
        """Record models; see `VectorStore.add_models`."""
        self.manifest = with_models(self.manifest, LOCATION, sparse, multi)

    def incomplete(self) -> list[str]:
        """Return the ids of passages that lack vectors; see `VectorStore.incomplete`."""
        found = self._tokens
        return [i for i in self._payloads if not is_complete(found.get(i), self.manifest)]

    def flush(self) -> None:
        """Do nothing: there is no disk."""

    def search(
        self,
        vector: NDArray[np.float32] | None = None,
        *,
        k: int,
        text: str | None = None,
        mode: Mode | None = None,
        filter: Filter | None = None,
        sparse: SparseVector | None = None,
        multi: NDArray[np.float32] | None = None,
        candidates: int = CANDIDATES,
    ) -> list[Hit]:
        """Find the best passages; see `VectorStore.search`."""
        check_range("k", k)
        names = checked_rankings(
            self.manifest,
            LOCATION,
            mode,
            vector=vector,
            text=text,
            sparse=sparse,
            multi=multi,
            candidates=candidates,
        )
        allowed = None if filter is None else set(self._matching(filter))
        depth = k if multi is None else max(k, candidates)
        rankings = []
        if "dense" in names and vector is not None:
            rankings.append(best(self._cosines(vector, allowed), max(depth, CANDIDATES)))
        if "bm25" in names and text is not None:
            rankings.append(best(self._bm25(text, allowed), max(depth, CANDIDATES)))
        if "sparse" in names and sparse is not None:
            rankings.append(best(self._products(sparse, allowed), max(depth, CANDIDATES)))
        found = rankings[0][:depth]
        if len(rankings) > 1:
            found = best(fused([[i for i, _ in ranking] for ranking in rankings]), depth)
        if multi is not None:
            held = {i: self._tokens.get(i, PassageTokens()).multi for i, _ in found}
            scored = {i: tokens for i, tokens in held.items() if tokens is not None}
            found = best(zip(scored, maxsim(multi, list(scored.values())), strict=True), k)
        return [to_hit(self._payloads[i], score, LOCATION) for i, score in found]

    def get(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPassage]:
        """Return stored passages; see `VectorStore.get`."""
        wanted = [i for i in dict.fromkeys(ids) if i in self._payloads]
        return [self._stored(i, with_vectors) for i in wanted]

    def scan(
        self, filter: Filter | None = None, *, with_vectors: bool = False
    ) -> Iterator[StoredPassage]:
        """Yield stored passages; see `VectorStore.scan`."""
        for identity in list(self._matching(filter)):
            yield self._stored(identity, with_vectors)

    def vectors(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return stored vectors; see `VectorStore.vectors`."""
        return {i: self._vectors[i].copy() for i in ids if i in self._vectors}

    def vectors_of_content(self, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return vectors by content; see `VectorStore.vectors_of_content`."""
        wanted = set(digests)
        return {
            self._payloads[i]["content"]: vector.copy()
            for i, vector in self._vectors.items()
            if self._payloads[i]["content"] in wanted
        }

    def tokens(self, ids: Sequence[str]) -> dict[str, PassageTokens]:
        """Return sparse and token vectors; see `VectorStore.tokens`."""
        found = {i: self._tokens.get(i, PassageTokens()) for i in ids if i in self._payloads}
        return {i: tokens for i, tokens in found.items() if is_complete(tokens, self.manifest)}

    def tokens_of_content(self, digests: Sequence[str]) -> dict[str, PassageTokens]:
        """Return sparse and token vectors by content; see `VectorStore.tokens_of_content`."""
        wanted = set(digests)
        ids = [i for i, payload in self._payloads.items() if payload["content"] in wanted]
        return {self._payloads[i]["content"]: tokens for i, tokens in self.tokens(ids).items()}

    def delete(self, ids: Sequence[str]) -> None:
        """Remove passages; see `VectorStore.delete`."""
        self._matrix = None
        for identity in ids:
            if self._payloads.pop(identity, None) is not None:
                self._vectors.pop(identity, None)
                self._tokens.pop(identity, None)
                for term in self._terms.pop(identity).indices:
                    del self._postings[term][identity]

    def delete_matching(self, filter: Filter) -> int:
        """Remove what matches; see `VectorStore.delete_matching`."""
        ids = list(self._matching(filter))
        self.delete(ids)
        return len(ids)

    def count(self, filter: Filter | None = None) -> int:
        """Return the number of stored passages, or of those that match."""
        return sum(1 for _ in self._matching(filter))

    def roots(self) -> dict[str, int]:
        """Return the number of passages of each root."""
        return dict(Counter(payload["root"] for payload in self._payloads.values()))

    def sources(self, root: str) -> dict[str, StoredSource]:
        """Return what is stored of each source of a root; see `VectorStore.sources`."""
        sources: dict[str, StoredSource] = {}
        for identity in self._matching(Compare("root", "==", root)):
            payload = self._payloads[identity]
            stored = sources.setdefault(payload["source"], StoredSource())
            stored.ids.setdefault(to_version(payload), set()).add(identity)
        return sources

    def note_update(self, root: str, note: UpdateNote | None) -> None:
        """Store the note of an update; see `VectorStore.note_update`."""
        self._notes.pop(root, None)
        if note is not None:
            self._notes[root] = note

    def notes(self) -> dict[str, UpdateNote]:
        """Return the notes of updates, by root."""
        return dict(self._notes)

    def require_space(self, passages: int, text_bytes: int = 0) -> None:
        """Do nothing: there is no disk."""

    def size(self) -> None:
        """Return None: there is no disk."""

    def optimize(self) -> None:
        """Do nothing: a search compares with every passage."""

    def refresh(self) -> bool:
        """Return False: no other process has it."""
        return False

    def close(self) -> None:
        """Do nothing: what is stored stays as long as the object."""

    def _matching(self, filter: Filter | None) -> Iterable[str]:
        if filter is None:
            return self._payloads
        checked = plan(filter)
        return (i for i, payload in self._payloads.items() if matches(payload, checked))

    def _stored(self, identity: str, with_vectors: bool) -> StoredPassage:
        payload = self._payloads[identity]
        found = StoredPassage(to_passage(payload, LOCATION), to_version(payload))
        if not with_vectors:
            return found
        vector = self._vectors.get(identity)
        vector = None if vector is None else vector.copy()
        return replace(found, vector=vector, tokens=self._tokens.get(identity))

    def _cosines(self, vector: NDArray[np.float32], allowed: set[str] | None) -> dict[str, float]:
        if self._matrix is None:
            ids = list(self._vectors)
            rows = [self._vectors[i] for i in ids]
            dimension = self.manifest.dimension
            self._matrix = ids, np.stack(rows) if rows else np.empty((0, dimension), np.float32)
        ids, matrix = self._matrix
        cosines = (matrix @ (vector / (float(np.linalg.norm(vector)) or 1.0))).tolist()
        scores = zip(ids, cosines, strict=True)
        return {i: score for i, score in scores if allowed is None or i in allowed}

    def _products(self, query: SparseVector, allowed: set[str] | None) -> dict[str, float]:
        weights = query.to_dense().astype(np.float64)
        scores: dict[str, float] = {}
        for identity, tokens in self._tokens.items():
            if tokens.sparse is None or (allowed is not None and identity not in allowed):
                continue
            score = float((weights[tokens.sparse.indices] * tokens.sparse.values).sum())
            if score > 0:
                scores[identity] = score
        return scores

    def _bm25(self, text: str, allowed: set[str] | None) -> dict[str, float]:
        scores: dict[str, float] = defaultdict(float)
        for term in self._analyzer.query(text).indices:
            holding = self._postings.get(term, {})
            rest = len(self._payloads) - len(holding)
            idf = math.log(1 + (rest + 0.5) / (len(holding) + 0.5))
            for identity, weight in holding.items():
                if allowed is None or identity in allowed:
                    scores[identity] += idf * weight
        return scores
