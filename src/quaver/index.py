"""Index: a folder's passages in a store, kept in step with it and searched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from quaver.arguments import check_range
from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.passages import SMALLEST_BUDGET, Passage, Selection
from quaver.reranking import Ranker, rerank
from quaver.store.filters import Filter
from quaver.store.location import create_store, open_store, status_of, store_exists
from quaver.store.manifest import Manifest
from quaver.store.protocol import Hit, Mode, VectorStore
from quaver.store.query import CANDIDATES, check_k
from quaver.store.status import StoreStatus
from quaver.store.terms import check_language
from quaver.update import (
    Progress,
    UpdateReport,
    batches,
    embed,
    passage_budget,
    root_of,
    tokenize_passages,
    update,
)

__all__ = ["Index", "Progress", "UpdateReport"]


class Index:
    """Passages in a store and the model that embeds them; use ``create`` or ``open``.

    What the model reads of a passage is its heading path, a line end, and its text.

    Attributes:
        location: Where the store is.
        embedder: The model.
        store: The passages and their vectors.
        passage_tokens: Tokens of a passage with its heading, at most, special tokens not counted.
    """

    def __init__(
        self,
        location: str | Path,
        embedder: Embedder,
        store: VectorStore,
        *,
        passage_tokens: int,
    ) -> None:
        """Joins the parts; ``create`` and ``open`` are the usual ways.

        Args:
            location: Where the store is.
            embedder: The model.
            store: The open store.
            passage_tokens: Tokens of a passage with its heading, at most.
        """
        self.location = location
        self.embedder = embedder
        self.store = store
        self.passage_tokens = passage_tokens

    @classmethod
    def create(
        cls,
        location: str | Path,
        embedder: Embedder,
        *,
        passage_tokens: int | None = None,
        language: str = "english",
        vectors: str = "float32",
    ) -> Index:
        """Makes an empty index.

        Args:
            location: A folder that does not exist or is empty; ``qdrant://host:port/collection`` for
                a Qdrant server; or ":memory:" for an index that ends with the process.
            embedder: The model; only it can be used with this index later. ``embedder.source`` is
                kept, so that ``open`` finds it again.
            passage_tokens: Tokens of a passage with its heading, at most; from 8 to what the model
                reads, which is the default. Shorter passages answer more precisely and say less of
                their context. The index keeps it.
            language: Whose stop words and stems the keyword search uses; Chinese, Japanese, Korean
                and Thai words are found beside any. See ``quaver.store.terms.LANGUAGES``.
            vectors: What searching compares: "float32"; or "int8" or "binary", a quarter or a 32nd
                of the memory, whose best finds are compared again in float32.

        Returns:
            The open index.

        Raises:
            InputError: ``passage_tokens`` is out of its range, or the language or the kind of
                vectors is unknown.
            StoreError: The store cannot be made; its sub-classes say why.
        """
        most = passage_budget(embedder)
        tokens = most if passage_tokens is None else passage_tokens
        if passage_tokens is not None and not SMALLEST_BUDGET <= passage_tokens <= most:
            raise InputError(
                f"passage_tokens must be from {SMALLEST_BUDGET} to {most}, which is what "
                f"{embedder.name} reads: got {passage_tokens}"
            )
        manifest = Manifest(
            model=embedder.source,
            fingerprint=embedder.fingerprint,
            dimension=embedder.dimension,
            passage_tokens=tokens,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            settings=embedder.settings,
            language=language,
            vectors=vectors,
        )
        check_language(language)
        store = create_store(location, manifest)
        return cls(location, embedder, store, passage_tokens=tokens)

    @classmethod
    def open(cls, location: str | Path, embedder: Embedder | None = None) -> Index:
        """Opens an index.

        Args:
            location: The store's folder, or ``qdrant://host:port/collection``.
            embedder: The model; if None, the one the store was made with is loaded.

        Returns:
            The open index.

        Raises:
            StoreNotFoundError: There is no store there.
            StoreMismatchError: The store was made with another model, dimension or version of
                Quaver.
            StoreLockedError: Another process has it open.
            ModelError: The model the store was made with cannot be loaded.
        """
        store = open_store(location)
        try:
            if embedder is None:
                made_with = store.manifest
                embedder = Embedder.from_pretrained(made_with.model, **made_with.settings)
            store.manifest.check(
                location,
                model=embedder.source,
                fingerprint=embedder.fingerprint,
                dimension=embedder.dimension,
            )
        except BaseException:
            store.close()
            raise
        tokens = min(store.manifest.passage_tokens, passage_budget(embedder))
        return cls(location, embedder, store, passage_tokens=tokens)

    @classmethod
    def exists(cls, location: str | Path) -> bool:
        """Whether an index is there; one whose creation was interrupted is not."""
        return store_exists(location)

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
            ready = tokenize_passages(self.embedder, batch)
            self.store.upsert(batch, embed(self.embedder, ready))
            truncated += ready.tokens.truncated
        self.store.flush()
        return truncated

    def update(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        gitignore: bool = True,
        follow_links: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> UpdateReport:
        """Brings the index in step with a folder: embeds what is new, drops what is gone.

        An index can hold several folders; passages of the others stay as they are. A folder is
        known by its absolute path. So one that was moved counts as another one, and the old
        passages stay until ``remove``. Give a folder a name, and it can move: the name is what its
        passages are stored under.

        A file counts as stored only when all its passages are on disk. Interrupted at any moment,
        it loses nothing that was stored, and the next call finishes the work. No text is embedded
        twice: what stayed the same in a changed file, or stands already in any file of any folder,
        takes its vector from there.

        Args:
            folder: The folder.
            name: What to know it by instead of its absolute path; ``Hit.root`` says it.
            include: Patterns as in .gitignore, relative to the folder; if there are any, a file must
                match one: ``["*.pdf", "notes/"]``. One with an unknown ending that does is read as
                text, unless it is binary.
            exclude: Patterns of files and folders to leave out. What was stored of them is dropped.
            gitignore: Whether what the folder's .gitignore files leave out is left out.
            follow_links: Whether symbolic links that lead out of the folder are followed; if not,
                the report names them.
            on_progress: Called whenever passages were stored.

        Returns:
            What was done, including the files that could not be read.

        Raises:
            InputError: The name is empty, or a pattern is none.
            DocumentError: The folder does not exist or holds no supported file. Nothing is dropped.
            StoreError: Storing failed, for example because the disk is full.
        """
        if name is not None and not name.strip():
            raise InputError("a folder's name must not be empty: leave it out to use its path")
        return update(
            self.embedder,
            self.store,
            Path(folder),
            root=root_of(Path(folder)) if name is None else name,
            max_tokens=self.passage_tokens,
            selection=Selection.of(
                include, exclude, gitignore=gitignore, follow_links=follow_links
            ),
            on_progress=on_progress,
        )

    def roots(self) -> dict[str, int]:
        """Returns the indexed folders, by absolute path or name, with their number of passages.

        Passages that were added without a folder stand under the empty name.
        """
        return self.store.roots()

    def remove(self, folder: str | Path) -> int:
        """Drops everything indexed from a folder; the folder itself need not exist any more.

        Args:
            folder: The folder, or the name it was indexed under.

        Returns:
            How many passages were dropped.

        Raises:
            InputError: Nothing from this folder is stored.
            StoreError: Deleting failed.
        """
        stored = self.store.roots()
        root = next((r for r in (str(folder), root_of(Path(folder))) if r in stored), None)
        if root is None:
            known = ", ".join(sorted(filter(None, stored))) or "nothing"
            raise InputError(
                f"a folder to remove must be indexed: {folder} is not, {self.location} holds {known}"
            )
        for source in self.store.sources(root).values():
            self.store.delete(sorted(i for ids in source.ids.values() for i in ids))
        self.store.flush()
        self.store.note_update(root, None)
        self.store.optimize()
        return stored[root]

    def status(self) -> StoreStatus:
        """Returns what the store holds: folders, files, passages, failures, model, size, times.

        Raises:
            StoreError: The store cannot be read.
        """
        return status_of(self.store, self.location)

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        filter: Filter | None = None,
        ranker: Ranker | None = None,
        candidates: int = CANDIDATES,
        min_score: float | None = None,
    ) -> list[Hit]:
        """Finds the passages that answer a question best.

        Args:
            query: The question; not empty. The vector is of what the model reads of it, the words
                are all that it has.
            k: How many passages at most, at least 1.
            mode: "dense" compares vectors, "bm25" words, "hybrid" does both and fuses the ranks.
            filter: Only passages that match; see ``quaver.store.filters``.
            ranker: Puts what was found in a better order: a ``CrossEncoder``, or a
                ``BiEncoderRanker``, which embeds nothing anew if its model is the index's own.
            candidates: How many passages the ranker gets; k if that is more.
            min_score: Leave out hits with a lower score, on the scale of the mode or the ranker.

        Returns:
            Hits, best first.

        Raises:
            InputError: The query is no text or is empty, k or candidates is below 1, the mode is
                unknown, the filter breaks its rules, or the ranker is none.
        """
        if not isinstance(query, str):
            raise InputError(f"a query must be a str: got {type(query).__name__}")
        if not query.strip():
            raise InputError("a query must not be empty: got only white space")
        check_k(k)
        check_range("candidates", candidates, sys.maxsize)
        vector = None if mode == "bm25" else self.embedder.encode_query(query)
        found = k if ranker is None else max(k, candidates)
        hits = self.store.search(vector, text=query, k=found, mode=mode, filter=filter)
        if ranker is not None:
            space = self.store.manifest.fingerprint
            hits = rerank(query, hits, ranker, k=k, store=self.store, space=space)
        return [hit for hit in hits if min_score is None or hit.score >= min_score]

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
