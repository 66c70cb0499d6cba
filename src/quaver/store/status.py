"""The status of a store: its contents in numbers, and notes of its last updates."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quaver.documents import Failure
from quaver.errors import StoreError
from quaver.store.column import write_whole

FILE_NAME = "updates.json"
MAX_FAILURES = 1000
"""Maximum number of failures stored for one update."""


@dataclass(frozen=True)
class UpdateSource:
    """Where an update read its files, and which ones.

    Attributes:
        folder: the folder's absolute path.
        include: patterns of files, as of `Index.update`.
        exclude: patterns of files and folders left out.
        gitignore: whether .gitignore files were respected.
        follow_links: whether links out of the folder were followed.
    """

    folder: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    gitignore: bool = True
    follow_links: bool = False


@dataclass(frozen=True)
class UpdateNote:
    """The note of a folder's last update.

    Attributes:
        at: when it ended: UTC, ISO 8601.
        failed: files that could not be read, with the reason; the first `MAX_FAILURES`.
        failures: how many there were.
        source: how to update it again: the folder's path, and the arguments of `Index.update`; None
            if an earlier version made the note.
    """

    at: str
    failed: tuple[Failure, ...] = ()
    failures: int = 0
    source: UpdateSource | None = None


@dataclass(frozen=True)
class FolderStatus:
    """The status of one folder in a store.

    Attributes:
        root: the folder's absolute path or its name; empty for passages that belong to none.
        files: files with passages.
        passages: passages.
        updated: when the last update ended: UTC, ISO 8601; None where it is not known.
        failed: files that the last update could not read, with the reason.
        failures: how many there were; more than `failed` names where there were very many.
    """

    root: str
    files: int
    passages: int
    updated: str | None = None
    failed: tuple[Failure, ...] = ()
    failures: int = 0


@dataclass(frozen=True)
class StoreStatus:
    """The status of a store, from `Index.status`.

    Attributes:
        location: where the store is.
        model: the store's model: hub id or folder.
        dimension: length of a vector.
        passage_tokens: maximum number of tokens in a passage with its heading.
        language: language of stop words and stems in keyword search.
        vectors: vectors that a search compares.
        created: time of creation: UTC, ISO 8601.
        passages: all passages, including those without a folder.
        folders: the indexed folders, sorted by name.
        bytes: size on disk; None if unknown (a server, or memory).
        sparse: the model of the sparse vectors; None without.
        multi: the model of the token vectors; None without.
        incomplete: passages that lack sparse or token vectors; an update encodes them.
        late_chunking: whether the vector of a passage is pooled from one pass over its document.
    """

    location: str
    model: str
    dimension: int
    passage_tokens: int
    language: str
    vectors: str
    created: str
    passages: int
    folders: tuple[FolderStatus, ...]
    bytes: int | None
    sparse: str | None = None
    multi: str | None = None
    incomplete: int = 0
    late_chunking: bool = False

    @property
    def files(self) -> int:
        """Files with passages, of all folders."""
        return sum(folder.files for folder in self.folders)

    @property
    def failures(self) -> int:
        """Files that the last updates could not read."""
        return sum(folder.failures for folder in self.folders)

    @property
    def updated(self) -> str | None:
        """When the last update of any folder ended: UTC, ISO 8601; None where it is not known."""
        return max((folder.updated for folder in self.folders if folder.updated), default=None)


def write_notes(store: Path, notes: Mapping[str, UpdateNote]) -> None:
    """Write the notes of a store's updates atomically.

    Args:
        store: the store's folder.
        notes: the notes by root.

    Raises:
        StoreWriteError: writing failed.
    """
    content = json.dumps({root: asdict(note) for root, note in notes.items()})
    written = {"notes": content, "sum": zlib.crc32(content.encode())}
    write_whole(store / FILE_NAME, json.dumps(written).encode())


def read_notes(store: Path) -> dict[str, UpdateNote]:
    """Read the notes of a store's updates.

    Args:
        store: the store's folder.

    Returns:
        the notes by root; empty before the first update.

    Raises:
        StoreError: the file is broken.
    """
    path = store / FILE_NAME
    try:
        written = json.loads(path.read_bytes())
        if zlib.crc32(written["notes"].encode()) != written["sum"]:
            raise ValueError("its checksum does not fit")
        content = json.loads(written["notes"])
        return {
            str(root): UpdateNote(
                str(note["at"]),
                tuple(Failure(str(one["source"]), str(one["reason"])) for one in note["failed"]),
                int(note["failures"]),
                _source(note.get("source")),
            )
            for root, note in content.items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path} is broken; delete it, or `quaver check --repair`: it only tells when folders were updated"
        ) from error


def _source(content: Any) -> UpdateSource | None:
    if content is None:
        return None
    return UpdateSource(
        str(content["folder"]),
        tuple(map(str, content["include"])),
        tuple(map(str, content["exclude"])),
        bool(content["gitignore"]),
        bool(content["follow_links"]),
    )


def folder_size(folder: Path) -> int:
    """Return the size of a folder's files on disk, in bytes.

    Raises:
        StoreError: the folder cannot be read.
    """
    try:
        return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror}") from error
