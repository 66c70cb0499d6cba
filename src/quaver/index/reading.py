"""Read and split the files of a folder, a group at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quaver.documents import (
    LIMITS,
    Converter,
    Document,
    Failure,
    Passage,
    TokenCounter,
    Unread,
    read_bytes,
    read_documents,
    split,
)
from quaver.errors import DocumentError
from quaver.store import FileVersion, StoredSource

_SPLIT_VERSION = 7
"""Increase it when reading or splitting changes: every file then counts as changed once."""


@dataclass(frozen=True)
class ReadFile:
    """A new or changed file, read and split.

    Attributes:
        version: its version.
        source: path relative to the folder.
        passages: its passages; empty for a file without text.
        size: size in bytes.
    """

    version: FileVersion
    source: str
    passages: list[Passage]
    size: int


@dataclass
class Group:
    """Some files, together about one engine batch of passages.

    Attributes:
        files: files that are new or changed.
        unchanged: the number of passages of each unchanged file.
        failures: files that could not be read.
        size: size of the unchanged and failed files, in bytes.
    """

    files: list[ReadFile] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    size: int = 0


class Reader:
    """Reads and splits files that are new or changed."""

    def __init__(
        self,
        folder: Path,
        root: str,
        tokenizer: TokenCounter,
        max_tokens: int,
        stored: Mapping[str, StoredSource],
        *,
        late_chunking: bool = False,
    ) -> None:
        """Set up a reader.

        Args:
            folder: the folder.
            root: the root that its passages are stored under.
            tokenizer: the model's tokenizer.
            max_tokens: maximum number of tokens in a passage with its heading.
            stored: what is stored of each source.
            late_chunking: whether vectors depend on the whole document. Then the ending of a name, which
                may change how the same bytes are read, is part of a version.
        """
        self._folder, self._root, self._tokenizer = folder, root, tokenizer
        self._max_tokens, self._stored, self._late = max_tokens, stored, late_chunking

    def groups(self, paths: Sequence[Path], passages: int) -> Iterator[Group]:
        """Yield the files in groups.

        Args:
            paths: the files.
            passages: a group ends with the file that reaches this number of passages.

        Yields:
            groups; the last may be smaller.
        """
        group, waiting = Group(), 0
        with Converter() as converter:
            for number, (outcome, size) in enumerate(self._outcomes(paths, converter), start=1):
                if isinstance(outcome, ReadFile):
                    group.files.append(outcome)
                    waiting += len(outcome.passages)
                else:
                    group.size += size
                    if isinstance(outcome, Failure):
                        group.failures.append(outcome)
                    else:
                        group.unchanged.append(outcome)
                # Also after many unchanged files, so that progress shows.
                if waiting >= passages or number % 256 == 0:
                    yield group
                    group, waiting = Group(), 0
        yield group

    def _outcomes(
        self, paths: Sequence[Path], converter: Converter
    ) -> Iterator[tuple[ReadFile | Failure | int, int]]:
        """Yield the outcome and the size in bytes of each file, roughly in order.

        The outcome is the file read and split, or why it cannot be read, or the number of passages
        of an unchanged file.
        """
        waiting: list[tuple[str, Unread]] = []
        for path in paths:
            source = path.relative_to(self._folder).as_posix()
            try:
                content = read_bytes(path)
            except DocumentError as error:
                yield self._failure(path, source, error), file_size(path)
                continue
            late = f" late {''.join(path.suffixes[-2:])}" if self._late else ""
            settings = f"{_SPLIT_VERSION} {self._max_tokens}{late}\n"
            digest = hashlib.sha256(settings.encode("utf-8", "replace") + content).hexdigest()
            known = self._stored.get(source)
            if known is not None and known.has_digest(digest):
                yield sum(map(len, known.ids.values())), len(content)
                continue
            waiting.append((digest, Unread(path, source, self._root, content)))
            if (
                len(waiting) == LIMITS.message_files
                or sum(len(file.content) for _, file in waiting) >= LIMITS.message_bytes
            ):
                yield from self._split(waiting, converter)
                waiting.clear()
        yield from self._split(waiting, converter)

    def _split(
        self, files: Sequence[tuple[str, Unread]], converter: Converter
    ) -> Iterator[tuple[ReadFile | Failure, int]]:
        """Yield outcomes as `_outcomes` does; each file comes with the digest of its version."""
        documents = read_documents([file for _, file in files], converter)
        for (digest, file), document in zip(files, documents, strict=True):
            size = len(file.content)
            # A DocumentError, or an ImportError for a missing extra.
            if not isinstance(document, Document):
                yield self._failure(file.path, file.source, document), size
                continue
            passages = split(document, self._tokenizer, self._max_tokens)
            version = FileVersion(digest, len(passages))
            yield ReadFile(version, file.source, passages, size), size

    @staticmethod
    def _failure(path: Path, source: str, error: DocumentError | ImportError) -> Failure:
        return Failure(source, str(error).removeprefix(f"{path.name}: "))


def file_size(path: Path) -> int:
    """Return a file's size in bytes; 0 if it cannot be reached, which reading will report."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
