"""A store is brought in step with a folder: what is new is embedded, what is gone is dropped.

The order makes it safe to stop at any moment: new passages are written and flushed, then the stale
ones of the same file are deleted. Each passage carries the version of its file (``FileVersion``),
so what is finished can be read off the store. Each also carries its root, the folder or the name
given to it: an update looks at the passages of its own root and at no others.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quaver.embedder import Embedder, EncodeReport
from quaver.errors import DocumentError
from quaver.passages import Failure, Passage, embedded_text, read_document, scan_folder, split
from quaver.passages.read import read_bytes
from quaver.store.protocol import FileVersion, StoredSource, VectorStore

_SPLIT_VERSION = 1
"""Raise it when reading or splitting changes: every file then counts as changed once."""

_BATCH = 64
"""Passages that are collected over files, embedded in one call and made durable together. Enough
for the engine (some 10,000 tokens), few enough that a slow machine shows progress and a killed run
has something to show after seconds."""


@dataclass(frozen=True)
class Progress:
    """How far an update is.

    Attributes:
        bytes_done: Bytes of files that are stored or were unchanged.
        bytes_total: Bytes of all files of the folder.
        passages: Passages embedded so far.
    """

    bytes_done: int
    bytes_total: int
    passages: int


@dataclass(frozen=True)
class UpdateReport:
    """What an update did.

    Attributes:
        files: Files of the folder that are now stored completely.
        added: Passages that were embedded and stored.
        unchanged: Passages that were stored before and stay.
        removed: Passages that were dropped, because their file or their text is gone.
        failed: Files and folders that could not be read, with the reason; what was stored of them
            before stays.
        empty: Files in which no text was found; they count in ``files``.
        truncated: Embedded texts that were longer than the model reads.
        seconds: Time for everything, reading and splitting included.
    """

    files: int
    added: int
    unchanged: int
    removed: int
    failed: tuple[Failure, ...]
    empty: tuple[str, ...]
    truncated: int
    seconds: float

    @property
    def passages_per_second(self) -> float:
        """Embedded passages per second of the whole update."""
        return self.added / self.seconds if self.seconds > 0 else 0.0


def passage_budget(embedder: Embedder) -> int:
    """Returns how many tokens the model reads beside its special tokens and prompt.

    Args:
        embedder: The model.

    Returns:
        Tokens per passage.
    """
    return (
        embedder.max_seq_length
        - embedder.tokenizer.special_tokens
        - embedder.tokenizer.count(embedder.document_prompt)
    )


def embed_passages(embedder: Embedder, passages: Sequence[Passage]) -> EncodeReport:
    """Embeds passages with their headings as documents.

    Args:
        embedder: The model.
        passages: What to embed.

    Returns:
        The vectors, float32 (N, D), and how many texts were truncated.
    """
    texts = [embedded_text(passage.heading, passage.text) for passage in passages]
    return embedder.encode_with_report(texts, prompt=embedder.document_prompt)


def batches(passages: Sequence[Passage]) -> Iterator[Sequence[Passage]]:
    """Yields the passages in pieces of a size that the engine likes."""
    for first in range(0, len(passages), _BATCH):
        yield passages[first : first + _BATCH]


def update(
    embedder: Embedder,
    store: VectorStore,
    folder: Path,
    *,
    root: str,
    max_tokens: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> UpdateReport:
    """Does what ``Index.update`` says.

    Args:
        embedder: The model.
        store: The store.
        folder: The folder.
        root: What its passages are stored under; not empty.
        max_tokens: Tokens of a passage with its heading, at most.
        on_progress: Called whenever passages were stored.

    Returns:
        What was done.

    Raises:
        DocumentError: The folder does not exist or holds no supported file.
        StoreError: Storing failed.
    """
    report = on_progress or (lambda progress: None)
    return _Update(embedder, store, folder, root, max_tokens, report).run()


def root_of(folder: Path) -> str:
    """Returns the root under which a folder without a name is stored: its absolute path.

    Args:
        folder: The folder; it need not exist.

    Returns:
        The path with links resolved.

    Raises:
        DocumentError: The path cannot be written as text.
    """
    root = str(folder.expanduser().resolve())
    try:
        root.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"a folder's path must be valid UTF-8: got {root!a}; rename it, or give it a name"
        ) from error
    return root


@dataclass(frozen=True)
class _File:
    """A file on its way into the store."""

    version: FileVersion
    source: str
    passages: list[Passage]
    size: int


class _Update:
    """One run."""

    def __init__(
        self,
        embedder: Embedder,
        store: VectorStore,
        folder: Path,
        root: str,
        max_tokens: int,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._embedder, self._store, self._folder = embedder, store, folder
        self._root, self._max_tokens, self._on_progress = root, max_tokens, on_progress
        self._failed: list[Failure] = []
        self._empty: list[str] = []
        self._bytes_done = 0.0
        self._bytes_total = 0
        self._files = self._added = self._unchanged = self._removed = self._truncated = 0

    def run(self) -> UpdateReport:
        begin = time.perf_counter()
        scan = scan_folder(self._folder)
        self._failed.extend(scan.failures)
        self._bytes_total = sum(_size(path) for path in scan.files)
        self._advance(0)
        stored = self._store.sources(self._root)
        pending: list[_File] = []
        for path in scan.files:
            file = self._read(path, stored)
            if file is not None:
                pending.append(file)
            if sum(len(file.passages) for file in pending) >= _BATCH:
                self._put(pending, stored)
                pending.clear()
        self._put(pending, stored)
        self._drop_gone({path.relative_to(self._folder).as_posix() for path in scan.files}, stored)
        self._store.flush()
        if self._added or self._removed:
            self._store.optimize()
        return UpdateReport(
            files=self._files,
            added=self._added,
            unchanged=self._unchanged,
            removed=self._removed,
            failed=tuple(self._failed),
            empty=tuple(self._empty),
            truncated=self._truncated,
            seconds=time.perf_counter() - begin,
        )

    def _read(self, path: Path, stored: dict[str, StoredSource]) -> _File | None:
        """Reads and splits a file; None when it is stored already or cannot be read."""
        source = path.relative_to(self._folder).as_posix()
        try:
            content = read_bytes(path)
            settings = f"{_SPLIT_VERSION} {self._max_tokens}\n".encode()
            digest = hashlib.sha256(settings + content).hexdigest()
            known = stored.get(source)
            if known is not None and known.has_digest(digest):
                self._files += 1
                self._unchanged += sum(map(len, known.ids.values()))
                self._advance(len(content))
                return None
            document = read_document(path, source=source, root=self._root, content=content)
        except DocumentError as error:
            self._failed.append(Failure(source, str(error).removeprefix(f"{path.name}: ")))
            self._advance(_size(path))
            return None
        passages = split(document, self._embedder.tokenizer, self._max_tokens)
        if not passages:
            self._empty.append(source)
        return _File(FileVersion(digest, len(passages)), source, passages, len(content))

    def _put(self, files: list[_File], stored: dict[str, StoredSource]) -> None:
        """Stores the passages of files, and only when they are on disk deletes the stale ones."""
        versions = {file.source: file.version for file in files}
        shares = {file.source: file.size / max(len(file.passages), 1) for file in files}
        passages = [passage for file in files for passage in file.passages]
        known = self._store.vectors(
            [passage.id for passage in passages if passage.source in stored]
        )
        kept = [passage for passage in passages if passage.id in known]
        for batch in batches(kept):
            # The vector stays, the position and the file's version are written anew.
            rows = np.stack([known[passage.id] for passage in batch])
            self._store.upsert(batch, rows, versions=versions)
            self._unchanged += len(batch)
            self._advance(sum(shares[passage.source] for passage in batch))
        for batch in batches([passage for passage in passages if passage.id not in known]):
            report = embed_passages(self._embedder, batch)
            self._store.upsert(batch, report.vectors, versions=versions)
            self._added += len(batch)
            self._truncated += report.truncated
            self._store.flush()
            self._advance(sum(shares[passage.source] for passage in batch))
        self._store.flush()
        for file in files:
            current = {passage.id for passage in file.passages}
            before = stored.get(file.source, StoredSource())
            self._delete({i for ids in before.ids.values() for i in ids} - current)
            self._files += 1

    def _drop_gone(self, present: set[str], stored: dict[str, StoredSource]) -> None:
        """Deletes the passages of files that are no longer in the folder."""
        unread = tuple(f"{failure.source}/" for failure in self._failed)
        for source, before in stored.items():
            if source in present or source.startswith(unread) or "./" in unread:
                continue
            self._delete(
                {i for version, ids in before.ids.items() if version is not None for i in ids}
            )

    def _delete(self, ids: set[str]) -> None:
        self._store.delete(sorted(ids))
        self._removed += len(ids)

    def _advance(self, size: float) -> None:
        self._bytes_done += size
        done = min(round(self._bytes_done), self._bytes_total)
        self._on_progress(Progress(done, self._bytes_total, self._added))


def _size(path: Path) -> int:
    """Returns a file's size in bytes; 0 where it cannot be reached, as reading will report."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
