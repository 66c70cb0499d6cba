"""One run of an update: files are read ahead of the engine, and results are stored in the background.

The order makes it safe to stop at any moment: new passages are written and flushed before the stale
ones of the same file are deleted, and only flushed passages are reported as stored. Each passage carries the
version of its file (`FileVersion`), so the store itself shows which files are complete. Each also
carries its root, the folder or its name: an update touches only passages of its own root, except to
reuse the vector of a text that is already stored.

With late chunking a vector depends on the whole document. So a passage keeps or reuses one only if it comes
from the same version of a file and the same place in it: the content digests that the store computes say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Failure, Passage, Scan, Selection, content_digest, scan_folder
from quaver.embedder import Embedder
from quaver.index import embedding
from quaver.index.background import BackgroundJobs, read_ahead
from quaver.index.embedding import Batch, batches, embed, tokenize_passages, tokenize_whole
from quaver.index.reading import Group, Reader, ReadFile, file_size
from quaver.index.report import UpdateProgress, UpdateReport
from quaver.index.token_encoders import TokenEncoders
from quaver.store import (
    MAX_FAILURES,
    PassageTokens,
    StoredSource,
    UpdateNote,
    UpdateSource,
    VectorStore,
)

_AHEAD = 4
"""Maximum number of groups read ahead, and of batches that wait for the store. Bounds the memory for
folders of any size."""

FLUSH_SECONDS = 1.0
"""Seconds between two flushes, at most. Not after each batch: a flush waits for the disk, and over a
million passages that would add up to hours."""


def update(
    embedder: Embedder,
    encoders: TokenEncoders,
    store: VectorStore,
    folder: Path,
    *,
    root: str,
    max_tokens: int,
    selection: Selection | None = None,
    scan: Scan | None = None,
    on_progress: Callable[[UpdateProgress], None] | None = None,
    source: UpdateSource | None = None,
) -> UpdateReport:
    """Update a store from a folder; see `Index.update`.

    Args:
        embedder: the model.
        encoders: the models of sparse and token vectors.
        store: the store.
        folder: the folder.
        root: the root that its passages are stored under; not empty.
        max_tokens: maximum number of tokens in a passage with its heading.
        selection: which files of the folder to index; see `scan_folder`.
        scan: what `scan_folder` found with this selection; None lists the folder now.
        on_progress: called in the caller's thread whenever passages have been embedded or stored.
        source: recorded, so that the update can be repeated.

    Returns:
        what was done.

    Raises:
        DocumentError: the folder does not exist or holds no supported file.
        StoreError: storing failed.
    """
    report = on_progress or (lambda progress: None)
    return _Update(embedder, encoders, store, folder, root, max_tokens, report, source).run(
        scan or scan_folder(folder, selection)
    )


Known = tuple[NDArray[np.float32], PassageTokens]
"""The vectors that are stored of a text: its own, and sparse and token vectors if the store has models for them."""


@dataclass(frozen=True)
class _Work:
    """A group of files with their passages, sorted by the work they need.

    Attributes:
        group: the files.
        kept: passages that keep their vectors.
        reused: passages that reuse the vectors of the same text elsewhere.
        new: passages to embed.
        tokens: sparse and token vectors that are known of new passages, by id: these do not depend on the
            document, so with late chunking they stay when it changes.
    """

    group: Group
    kept: dict[Passage, Known]
    reused: dict[Passage, Known]
    new: list[Batch]
    tokens: dict[str, PassageTokens]


class _Update:
    """The state of one run."""

    def __init__(
        self,
        embedder: Embedder,
        encoders: TokenEncoders,
        store: VectorStore,
        folder: Path,
        root: str,
        max_tokens: int,
        on_progress: Callable[[UpdateProgress], None],
        source: UpdateSource | None,
    ) -> None:
        self._source = source
        self._embedder, self._encoders, self._store = embedder, encoders, store
        self._late = store.manifest.late_chunking
        made = store.manifest
        self._has_tokens = made.sparse is not None or made.multi is not None
        self._folder = folder
        self._root, self._max_tokens, self._on_progress = root, max_tokens, on_progress
        self._failed: list[Failure] = []
        self._empty: list[str] = []
        self._bytes_done = self._work_done = 0.0
        self._bytes_total = self._work_total = 0
        self._expected: dict[str, int] = {}
        self._embedded = 0
        self._files = self._added = self._reused = self._unchanged = 0
        self._removed = self._truncated = 0
        self._jobs = BackgroundJobs(_AHEAD)
        self._written: list[Callable[[], None]] = []
        self._flushed = time.perf_counter()

    def run(self, scan: Scan) -> UpdateReport:
        begin = time.perf_counter()
        self._failed.extend(scan.failures)
        sizes = {path.relative_to(self._folder).as_posix(): file_size(path) for path in scan.files}
        self._bytes_total = sum(sizes.values())
        stored = self._store.sources(self._root)
        # Until it has been read, a file that is already stored is assumed to be unchanged.
        self._expected = {source: size for source, size in sizes.items() if source not in stored}
        self._work_total = sum(self._expected.values())
        self._advance(0)
        anything = self._store.count() > 0
        reader = Reader(
            self._folder,
            self._root,
            self._embedder.tokenizer,
            self._max_tokens,
            stored,
            late_chunking=self._late,
        )
        try:
            read = (
                self._prepared(group, stored, anything)
                for group in reader.groups(scan.files, embedding.PASSAGES_PER_BATCH)
            )
            with read_ahead(read, _AHEAD) as works:
                for work in works:
                    self._note(work.group)
                    self._put(work, stored)
            self._flush()
            self._jobs.finish()
        finally:
            self._jobs.close()
        self._drop_gone(set(sizes), stored)
        self._store.flush()
        self._note_update()
        # Even if nothing changed: an earlier run may have been stopped before this step.
        self._store.optimize()
        return UpdateReport(
            files=self._files,
            added=self._added,
            reused=self._reused,
            unchanged=self._unchanged,
            removed=self._removed,
            failed=tuple(self._failed),
            empty=tuple(self._empty),
            others=scan.others,
            truncated=self._truncated,
            seconds=time.perf_counter() - begin,
            outside=scan.outside,
        )

    def _note_update(self) -> None:
        """Record in the store when this update ended and which files it could not read."""
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        failed = tuple(self._failed[:MAX_FAILURES])
        self._store.note_update(self._root, UpdateNote(at, failed, len(self._failed), self._source))

    def _note(self, group: Group) -> None:
        """Count the files of a group that need no storing."""
        self._failed.extend(group.failures)
        self._files += len(group.unchanged)
        self._unchanged += sum(group.unchanged)
        empty = [file for file in group.files if not file.passages]
        self._empty.extend(file.source for file in empty)
        for file in group.files:
            if file.source not in self._expected:
                self._work_total += file.size
        for file in empty:
            self._work_total -= self._expected.get(file.source, file.size)
        for failure in group.failures:
            self._work_total -= self._expected.get(failure.source, 0)
        done = group.size + sum(file.size for file in empty)
        if done:
            self._advance(done)

    def _prepared(self, group: Group, stored: dict[str, StoredSource], anything: bool) -> _Work:
        """Find the passages that have a vector and tokenize the others; runs in the reading thread."""
        kept, reused, new = self._sorted(group.files, stored, anything)
        if not self._late:
            tokenized = [tokenize_passages(self._embedder, b) for b in batches(new)]
            return _Work(group, kept, reused, tokenized, {})
        wanted = {passage.id for passage in new}
        documents = [
            file.passages
            for file in group.files
            if any(passage.id in wanted for passage in file.passages)
        ]
        known = {}
        if self._has_tokens and anything:
            known = self._store.tokens([p.id for p in new if p.source in stored])
        tokenized = list(tokenize_whole(self._embedder, documents, wanted=wanted))
        return _Work(group, kept, reused, tokenized, known)

    def _put(self, work: _Work, stored: dict[str, StoredSource]) -> None:
        """Store the passages of files; delete the stale ones once the new ones are on disk."""
        files = work.group.files
        versions = {file.source: file.version for file in files}
        shares = {file.source: file.size / max(len(file.passages), 1) for file in files}

        def store(
            batch: Sequence[Passage],
            vectors: NDArray[np.float32],
            tokens: Sequence[PassageTokens] | None,
            count: str,
        ) -> None:
            def job() -> None:
                self._store.upsert(batch, vectors, versions=versions, tokens=tokens)

            def durable() -> None:
                setattr(self, count, getattr(self, count) + len(batch))
                self._advance(0)

            share = sum(shares[passage.source] for passage in batch)
            self._work_done += share
            self._advance(share)
            self._jobs.submit(job, lambda: self._written.append(durable))
            if time.perf_counter() - self._flushed >= FLUSH_SECONDS:
                self._flush()

        for known, count in ((work.kept, "_unchanged"), (work.reused, "_reused")):
            for batch in batches(list(known)):
                # The vectors stay; the position and the file's version are rewritten.
                vectors = np.stack([known[passage][0] for passage in batch])
                store(batch, vectors, [known[passage][1] for passage in batch], count)
        for ready in work.new:
            self._truncated += ready.tokens.truncated
            vectors = embed(self._embedder, ready)
            self._embedded += len(vectors)
            given = [work.tokens.get(passage.id) for passage in ready.passages]
            tokens = self._encoders.passages(ready.passages, given)
            store(ready.passages, vectors, tokens, "_added")
        self._files += len(files)
        stale = [i for file in files for i in self._stale(file, stored)]
        if not stale:
            return

        def deleted() -> None:
            self._removed += len(stale)

        self._flush()
        self._jobs.submit(lambda: self._store.delete(stale), deleted)

    def _flush(self) -> None:
        """Flush everything written so far, and count it once it is on disk."""

        def flushed() -> None:
            for durable in self._written:
                durable()
            self._written.clear()

        self._flushed = time.perf_counter()
        self._jobs.submit(self._store.flush, flushed)

    def _sorted(
        self, files: Sequence[ReadFile], stored: dict[str, StoredSource], anything: bool
    ) -> tuple[dict[Passage, Known], dict[Passage, Known], list[Passage]]:
        """Sort passages into those that keep their vectors, those that reuse some, and new ones."""
        passages = [passage for file in files for passage in file.passages]
        if not anything:
            return {}, {}, passages
        own: dict[str, Known] = {}
        if not self._late:
            ids = [p.id for p in passages if p.source in stored]
            own = _both(
                self._store.vectors(ids), self._store.tokens(ids) if self._has_tokens else None
            )
        digests = {
            p: content_digest(p.heading, p.text, file.version.place(p.start) if self._late else "")
            for file in files
            for p in file.passages
            if p.id not in own
        }
        contents = list(digests.values())
        others = _both(
            self._store.vectors_of_content(contents),
            self._store.tokens_of_content(contents) if self._has_tokens else None,
        )
        kept = {p: own[p.id] for p in passages if p.id in own}
        reused = {p: others[digest] for p, digest in digests.items() if digest in others}
        if self._late:  # an interrupted update has stored some already
            kept = {p: found for p, found in reused.items() if _is_stored(p, stored)}
            reused = {p: found for p, found in reused.items() if p not in kept}
        return kept, reused, [p for p, digest in digests.items() if digest not in others]

    @staticmethod
    def _stale(file: ReadFile, stored: dict[str, StoredSource]) -> list[str]:
        current = {passage.id for passage in file.passages}
        before = stored.get(file.source, StoredSource())
        return sorted({i for ids in before.ids.values() for i in ids} - current)

    def _drop_gone(self, present: set[str], stored: dict[str, StoredSource]) -> None:
        """Delete the passages of files that have left the folder."""
        unread = tuple(f"{failure.source}/" for failure in self._failed)
        for source, before in stored.items():
            if source in present or source.startswith(unread) or "./" in unread:
                continue
            ids = {i for version, ids in before.ids.items() if version is not None for i in ids}
            self._store.delete(sorted(ids))
            self._removed += len(ids)

    def _advance(self, size: float) -> None:
        self._bytes_done += size
        done = min(round(self._bytes_done), self._bytes_total)
        worked = min(round(self._work_done), self._work_total)
        self._on_progress(
            UpdateProgress(
                bytes_done=done,
                bytes_total=self._bytes_total,
                passages=self._added,
                embedded=self._embedded,
                work_done=worked,
                work_total=self._work_total,
            )
        )


def _is_stored(passage: Passage, stored: dict[str, StoredSource]) -> bool:
    """Return whether a passage was stored before, of any version of its file."""
    before = stored.get(passage.source, StoredSource())
    return any(passage.id in ids for ids in before.ids.values())


def _both(
    vectors: dict[str, NDArray[np.float32]], tokens: dict[str, PassageTokens] | None
) -> dict[str, Known]:
    """Return what is known completely; a store without models for tokens has none."""
    if tokens is None:
        return {key: (vector, PassageTokens()) for key, vector in vectors.items()}
    return {key: (vector, tokens[key]) for key, vector in vectors.items() if key in tokens}
