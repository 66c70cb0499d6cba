"""Index: a folder's passages in a store, kept in step with it and searched."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.documents import SMALLEST_BUDGET, Passage, Selection, passage_id
from quaver.embedder import Embedder, loading_settings
from quaver.engine import check_listable, check_range, text_list
from quaver.errors import InputError, ModelNotFoundError, StoreClosedError
from quaver.index.embedding import batches, embed, passage_budget, tokenize_passages
from quaver.index.report import UpdateProgress, UpdateReport
from quaver.index.reranking import SupportsRank, rerank
from quaver.index.root import root_of
from quaver.index.update import update
from quaver.store import (
    CANDIDATES,
    Filter,
    Hit,
    Manifest,
    Mode,
    StoreCheck,
    StoreRepair,
    StoreStatus,
    VectorStore,
    check_k,
    check_language,
    check_store,
    create_store,
    is_folder,
    open_store,
    repair_store,
    status_of,
    store_exists,
)

__all__ = ["Index", "UpdateProgress", "UpdateReport"]


class Index:
    """Passages in a store and the model that embeds them; use ``create`` or ``open``.

    What the model reads of a passage is its heading path, a line end, and its text.

    Attributes:
        location: Where the store is.
        store: The passages and their vectors.
    """

    def __init__(
        self,
        location: str | Path,
        embedder: Embedder | Callable[[], Embedder],
        store: VectorStore,
        *,
        passage_tokens: int,
    ) -> None:
        """Join the parts; ``create`` and ``open`` are the usual ways.

        Args:
            location: Where the store is.
            embedder: The model, or a function that loads it when it is first needed.
            store: The open store.
            passage_tokens: Tokens of a passage with its heading, at most.
        """
        self.location = location
        self.store = store
        self._embedder = embedder
        self._passage_tokens = passage_tokens
        self._closed = False

    @property
    def embedder(self) -> Embedder:
        """The model; an index that was opened with ``lazy`` loads it here."""
        if not isinstance(self._embedder, Embedder):
            self._embedder = self._embedder()
        return self._embedder

    @property
    def passage_tokens(self) -> int:
        """Tokens of a passage with its heading, at most, special tokens not counted."""
        return min(self._passage_tokens, passage_budget(self.embedder))

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
        """Make an empty index.

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
            vectors: What a Qdrant server's search compares: "float32"; or "int8" or "binary", a
                quarter or a 32nd of the memory, whose best finds are compared again in float32. In a
                folder all three search alike.

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
            settings=loading_settings(embedder),
            language=language,
            vectors=vectors,
        )
        check_language(language)
        store = create_store(location, manifest)
        return cls(location, embedder, store, passage_tokens=tokens)

    @classmethod
    def open(
        cls,
        location: str | Path,
        embedder: Embedder | Callable[[Manifest], Embedder] | None = None,
        *,
        read_only: bool = False,
        wait: float = 0.0,
        lazy: bool = False,
    ) -> Index:
        """Open an index; the store is opened, and so its lock taken, before a model is loaded.

        Args:
            location: The store's folder, or ``qdrant://host:port/collection``.
            embedder: The model, or what loads it for a store's manifest; None loads the one that the
                store was made with.
            read_only: To search only: any number of processes may, beside one that writes, and the
                folder need not be writable. What is found is what was flushed when the index was
                opened; ``refresh`` takes a newer state.
            wait: How many seconds to wait for another process that writes; ``math.inf`` for ever.
            lazy: Load the model when it is first needed. ``remove``, ``roots``, ``status`` and a
                search with mode "bm25" need none. The errors of loading are raised then.

        Returns:
            The open index.

        Raises:
            StoreNotFoundError: There is no store there.
            StoreMismatchError: The store was made with another model, dimension or version of
                Quaver.
            StoreLockedError: Another process writes to it, and this one is to write too.
            ModelError: The model the store was made with cannot be loaded.
        """
        store = open_store(location, read_only=read_only, wait=wait)

        def load() -> Embedder:
            if embedder is None:
                loaded = load_stored_model(store.manifest, location)
            else:
                loaded = embedder if isinstance(embedder, Embedder) else embedder(store.manifest)
            store.manifest.check(
                location,
                model=loaded.source,
                fingerprint=loaded.fingerprint,
                dimension=loaded.dimension,
            )
            return loaded

        try:
            model = load if lazy else load()
        except BaseException:
            store.close()
            raise
        return cls(location, model, store, passage_tokens=store.manifest.passage_tokens)

    @classmethod
    def exists(cls, location: str | Path) -> bool:
        """Return whether an index is there; one whose creation was interrupted is not."""
        return store_exists(location)

    @staticmethod
    def check(location: str | Path) -> StoreCheck:
        """Read everything that a store holds and compare it with its checksums.

        It loads no model and needs no lock.

        Args:
            location: The store's folder.

        Returns:
            What is wrong; ``ok`` says that nothing is.

        Raises:
            InputError: It is no folder: a server checks what it stores itself.
            StoreNotFoundError: There is no store there.
            StoreError: It cannot be read at all.
        """
        return check_store(_folder(location))

    @staticmethod
    def repair(
        location: str | Path,
        embedder: Embedder | Callable[[Manifest], Embedder] | None = None,
        *,
        wait: float = 0.0,
    ) -> StoreRepair:
        """Make anew what is wrong with a store, also with one that does not open any more.

        What can be read is kept. Passages whose vector is damaged are embedded anew. Passages whose
        text is damaged are dropped; ``update`` brings back those of files. A store of an earlier
        layout gets the present one, and nothing is embedded.

        Args:
            location: The store's folder.
            embedder: As for ``open``; loaded only where there is something to embed.
            wait: As for ``open``.

        Returns:
            What was wrong, and what was done about it.

        Raises:
            InputError: It is no folder.
            StoreLockedError: Another process writes to it.
            StoreMismatchError: The model is not the one that the store was made with.
            StoreError: It cannot be repaired.
        """
        path = _folder(location)
        models: list[Embedder] = []

        def vectors(passages: Sequence[Passage], made: Manifest) -> NDArray[np.float32]:
            if not models:
                if embedder is None:
                    models.append(load_stored_model(made, location))
                else:
                    models.append(embedder if isinstance(embedder, Embedder) else embedder(made))
                model = models[0]
                made.check(
                    location,
                    model=model.source,
                    fingerprint=model.fingerprint,
                    dimension=model.dimension,
                )
            return embed(models[0], tokenize_passages(models[0], passages))

        return repair_store(path, vectors, wait=wait)

    def refresh(self) -> bool:
        """Take what another process stored since, where the index was opened with ``read_only``.

        Returns:
            Whether there was something new.

        Raises:
            StoreError: The store cannot be read.
        """
        self._require_open()
        return self.store.refresh()

    def add_texts(
        self,
        texts: Sequence[str],
        *,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Embed and store texts that belong to no folder; each becomes one passage.

        Args:
            texts: What to store. Of a text longer than the model reads, the vector is of its
                beginning and the words are all that it has.
            metadata: For each text what JSON can hold; filters reach it, hits bring it.
            ids: For each text any str; what is stored under it already is replaced. None makes them
                from the texts: the same texts get the same ids, so that storing them again replaces
                them.

        Returns:
            The ids, in the order of the texts.

        Raises:
            InputError: An argument is no list of its kind, or their lengths differ.
            StoreError: Storing failed.
        """
        self._require_open()
        texts = _listed("texts", texts)
        wanted = None if ids is None else _listed("ids", ids)
        data: Sequence[Mapping[str, Any] | None] = [None] * len(texts)
        if metadata is not None:
            check_listable("metadata", metadata, "a list of one mapping or None for each text")
            data = list(metadata)
        for name, values in (("metadata", data), ("ids", wanted)):
            if values is not None and len(values) != len(texts):
                raise InputError(
                    f"{name} must have one entry for each of the {len(texts)} texts: "
                    f"got {len(values)}"
                )
        passages = _loose_passages(texts, data, wanted)
        self.add(passages)
        return [passage.id for passage in passages]

    def add(self, passages: Sequence[Passage | str]) -> int:
        """Embed and store passages that belong to no folder; ``update`` leaves them alone.

        Args:
            passages: What to store; a passage whose id is stored already is replaced. A str becomes a
                passage as with ``add_texts``.

        Returns:
            How many of them were longer than the model reads and were truncated.

        Raises:
            InputError: One is neither a passage nor a str.
            StoreError: Storing failed.
        """
        self._require_open()
        passages = _passages(passages)
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
        on_progress: Callable[[UpdateProgress], None] | None = None,
    ) -> UpdateReport:
        """Bring the index in step with a folder: embed what is new, drop what is gone.

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
        self._require_open()
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
        """Return the indexed folders, by absolute path or name, with their number of passages.

        Passages that were added without a folder stand under the empty name.
        """
        self._require_open()
        return self.store.roots()

    def remove(self, folder: str | Path) -> int:
        """Drop everything indexed from a folder; the folder itself need not exist any more.

        Args:
            folder: The folder, or the name it was indexed under.

        Returns:
            How many passages were dropped.

        Raises:
            InputError: Nothing from this folder is stored.
            StoreError: Deleting failed.
        """
        self._require_open()
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
        """Return what the store holds: folders, files, passages, failures, model, size, times.

        Raises:
            StoreError: The store cannot be read.
        """
        self._require_open()
        return status_of(self.store, self.location)

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        filter: Filter | None = None,
        ranker: SupportsRank | None = None,
        candidates: int = CANDIDATES,
        min_score: float | None = None,
    ) -> list[Hit]:
        """Find the passages that answer a question best.

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
        self._require_open()
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
        """Close the store, so that other processes can write; closing it again does nothing."""
        self._closed = True
        self.store.close()

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosedError(f"this index is closed: open {self.location} again")

    def __enter__(self) -> Index:
        """Return the index itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()


def load_stored_model(
    manifest: Manifest,
    location: str | Path,
    model: str | None = None,
    *,
    option: str = "-m, or give Index.open the loaded model",
    **settings: Any,
) -> Embedder:
    """Load the model that a store was made with.

    Args:
        manifest: The store's manifest.
        location: The store, for the message.
        model: Where the model is now; None: where it was.
        option: What names it, for the message.
        **settings: Of ``Embedder.from_pretrained``; what the manifest does not say.

    Returns:
        The model.

    Raises:
        ModelNotFoundError: It is not there any more; the message says what to do.
        ModelError: It cannot be loaded.
    """
    try:
        return Embedder.from_pretrained(
            manifest.model if model is None else model, **{**manifest.settings, **settings}
        )
    except ModelNotFoundError as error:
        if model is not None:
            raise
        raise ModelNotFoundError(
            f"{error}; the store at {location} was made with this model: if it was moved, name its "
            f"new place with {option}"
        ) from error


def _folder(location: str | Path) -> Path:
    if is_folder(location):
        return Path(location)
    raise InputError(
        f"a store to check or repair must be a folder: got {location}, which checks itself"
    )


def _listed(name: str, items: Sequence[str]) -> list[str]:
    """Make a list of str, and refuse a str, whose letters would be taken for its items."""
    if isinstance(items, str):
        raise InputError(f"{name} must be a list of str: got the str {items!r:.40}; write [...]")
    return text_list(items, name=name, rule="a list of str")


def _passages(passages: Sequence[Passage | str]) -> list[Passage]:
    """Make passages of those that are str."""
    if isinstance(passages, (str, Passage)):
        raise InputError(
            f"passages must be a list: got one {type(passages).__name__}; write [passage]"
        )
    check_listable("passages", passages, "a list of Passage or str")
    given = list(passages)
    for at, passage in enumerate(given):
        if not isinstance(passage, (Passage, str)):
            raise InputError(
                f"a passage must be a Passage or a str: passages[{at}] is {type(passage).__name__}"
            )
    texts = [passage for passage in given if isinstance(passage, str)]
    made = iter(_loose_passages(texts, [None] * len(texts), None))
    return [next(made) if isinstance(passage, str) else passage for passage in given]


def _loose_passages(
    texts: Sequence[str], metadata: Sequence[Mapping[str, Any] | None], ids: Sequence[str] | None
) -> list[Passage]:
    seen: Counter[str] = Counter()
    passages = []
    for at, (text, data) in enumerate(zip(texts, metadata, strict=True)):
        identity = passage_id("", "", text, seen[text]) if ids is None else ids[at]
        seen[text] += 1
        passages.append(
            Passage(identity, text, "", "", 0, len(text), metadata={} if data is None else data)
        )
    return passages
