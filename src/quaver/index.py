"""Index: a folder's passages in a store, kept in step with it and searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Literal

from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.passages import Passage
from quaver.store.edge import EdgeStore
from quaver.store.manifest import Manifest
from quaver.store.protocol import Hit, VectorStore
from quaver.update import Progress, UpdateReport, batches, embed_passages, update

__all__ = ["Index", "Progress", "UpdateReport"]


class Index:
    """Passages in a store and the model that embeds them; use ``create`` or ``open``.

    What the model reads of a passage is its heading path, a line end, and its text.

    Attributes:
        path: The store's folder.
        embedder: The model.
        store: The passages and their vectors.
    """

    def __init__(self, path: Path, embedder: Embedder, store: VectorStore) -> None:
        """Joins the parts; ``create`` and ``open`` are the usual ways.

        Args:
            path: The store's folder.
            embedder: The model.
            store: The open store.
        """
        self.path = path
        self.embedder = embedder
        self.store = store

    @classmethod
    def create(cls, path: str | Path, embedder: Embedder, *, model: str | None = None) -> Index:
        """Makes an empty index.

        Args:
            path: A folder that does not exist or is empty.
            embedder: The model; only it can be used with this index later.
            model: Hub id or folder under which ``open`` finds the model again; None takes the
                embedder's name, which for a local folder is not its path.

        Returns:
            The open index.

        Raises:
            StoreError: The store cannot be made; its sub-classes say why.
        """
        manifest = Manifest(
            model=_findable(model or embedder.name),
            fingerprint=embedder.fingerprint,
            dimension=embedder.dimension,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        return cls(Path(path), embedder, EdgeStore.create(Path(path), manifest))

    @classmethod
    def open(cls, path: str | Path, embedder: Embedder | None = None) -> Index:
        """Opens an index.

        Args:
            path: The store's folder.
            embedder: The model; if None, the one the store was made with is loaded.

        Returns:
            The open index.

        Raises:
            StoreNotFoundError: There is no store at this path.
            StoreMismatchError: The store was made with another model, dimension or version of
                Quaver.
            StoreLockedError: Another process has it open.
            ModelError: The model the store was made with cannot be loaded.
        """
        store = EdgeStore.open(Path(path))
        try:
            embedder = embedder or Embedder.from_pretrained(store.manifest.model)
            store.manifest.check(
                Path(path),
                model=embedder.name,
                fingerprint=embedder.fingerprint,
                dimension=embedder.dimension,
            )
        except BaseException:
            store.close()
            raise
        return cls(Path(path), embedder, store)

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether an index is at this path; one whose creation was interrupted is not."""
        return EdgeStore.exists(Path(path))

    def add(self, passages: Sequence[Passage]) -> int:
        """Embeds and stores passages that belong to no folder; ``update`` leaves them alone.

        Args:
            passages: What to store; a passage whose id is stored already is replaced.

        Returns:
            How many of them were longer than the model reads and were truncated.

        Raises:
            StoreError: Storing failed.
        """
        truncated = 0
        for batch in batches(passages):
            report = embed_passages(self.embedder, batch)
            self.store.upsert(batch, report.vectors)
            truncated += report.truncated
        self.store.flush()
        return truncated

    def update(
        self, folder: str | Path, *, on_progress: Callable[[Progress], None] | None = None
    ) -> UpdateReport:
        """Brings the index in step with a folder: embeds what is new, drops what is gone.

        A file counts as stored only when all its passages are on disk. Interrupted at any moment,
        it loses nothing that was stored, and the next call finishes the work. Passages of a changed
        file whose text stayed the same keep their vectors.

        Args:
            folder: The folder; all files indexed before come from it.
            on_progress: Called whenever passages were stored.

        Returns:
            What was done, including the files that could not be read.

        Raises:
            DocumentError: The folder does not exist or holds no supported file. Nothing is dropped.
            StoreError: Storing failed, for example because the disk is full.
        """
        return update(self.embedder, self.store, Path(folder), on_progress)

    def search(self, query: str, *, k: int = 10, mode: Literal["dense"] = "dense") -> list[Hit]:
        """Finds the passages nearest to a question.

        Args:
            query: The question; not empty. What is longer than the model reads is cut off.
            k: How many passages at most, at least 1.
            mode: "dense" compares vectors; other modes will follow.

        Returns:
            Hits, best first.

        Raises:
            InputError: The query is no text or is empty, k is below 1, or the mode is unknown.
        """
        if not isinstance(query, str):
            raise InputError(f"a query must be a str: got {type(query).__name__}")
        if not query.strip():
            raise InputError("a query must not be empty: got only white space")
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k must be a whole number of at least 1: got {k!r}")
        if mode != "dense":
            raise InputError(f"mode must be 'dense': got {mode!r}")
        return self.store.search(self.embedder.encode_query(query), k=k)

    def close(self) -> None:
        """Closes the store, so that other processes can open it; further calls do nothing."""
        self.store.close()

    def __enter__(self) -> Index:
        """Returns the index itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the store."""
        self.close()


def _findable(model: str) -> str:
    """Makes a model's folder an absolute path, since a store is opened from anywhere."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model
