"""The index: passages of folders in a store, kept up to date and searched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.documents import SMALLEST_BUDGET, Passage, Scan, Selection, passage_id
from quaver.embedder import Embedder, loading_settings
from quaver.engine import check_listable, text_list
from quaver.errors import (
    DocumentError,
    InputError,
    ModelNotFoundError,
    StoreClosedError,
    check_range,
)
from quaver.index import embedding
from quaver.index.embedding import (
    Batch,
    batches,
    embed,
    late_passage_tokens,
    passage_budget,
    tokenize_passages,
    tokenize_whole,
)
from quaver.index.report import UpdateProgress, UpdateReport
from quaver.index.reranking import SupportsRank, rerank
from quaver.index.root import root_of
from quaver.index.token_encoders import (
    TokenEncoders,
    add_models,
    check_kind,
    passage_tokens_read,
    token_model,
)
from quaver.index.update import update
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.sparse_encoder import SparseEncoder
from quaver.store import (
    CANDIDATES,
    RANKINGS,
    Filter,
    Hit,
    Manifest,
    Mode,
    PassageTokens,
    StoreCheck,
    StoreRepair,
    StoreStatus,
    UpdateSource,
    VectorStore,
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
    """Passages in a store and the model that embeds them; use `create` or `open`.

    For each passage, the model reads the heading path, a newline, and the text.

    Attributes:
        location: where the store is.
        store: the passages and their vectors.
        encoders: the models of the sparse and token vectors.
    """

    def __init__(
        self,
        location: str | Path,
        embedder: Embedder | Callable[[], Embedder],
        store: VectorStore,
        *,
        passage_tokens: int,
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
    ) -> None:
        """Combine a store and a model; most callers use `create` or `open`.

        Args:
            location: where the store is.
            embedder: the model, or a function that loads it when it is first needed.
            store: the open store.
            passage_tokens: maximum number of tokens in a passage with its heading.
            sparse: the model of the sparse vectors; None loads the store's own when it is needed.
            multi: the model of the token vectors; None loads the store's own when it is needed.
        """
        self.location = location
        self.store = store
        self._embedder = embedder
        self._passage_tokens = passage_tokens
        self._closed = False
        self.encoders = TokenEncoders(
            location, lambda: self.store.manifest, sparse, multi, threads=self._threads
        )

    def _threads(self) -> int | None:
        """Return the threads of the embedding model, if it is loaded."""
        return self._embedder.threads if isinstance(self._embedder, Embedder) else None

    @property
    def embedder(self) -> Embedder:
        """The model; loaded on first use if the index was opened with `lazy`."""
        if not isinstance(self._embedder, Embedder):
            self._embedder = self._embedder()
        return self._embedder

    @property
    def passage_tokens(self) -> int:
        """Maximum tokens of a passage with its heading, without special tokens."""
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
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
        late_chunking: bool = False,
    ) -> Index:
        """Create an empty index.

        Args:
            location: a folder that does not exist or is empty; `qdrant://host:port/collection` for
                a Qdrant server; or ":memory:" for an index that is lost when the process ends.
            embedder: the model; the index works only with this model from then on.
                `embedder.source` is recorded, so that `open` can load it again.
            passage_tokens: maximum number of tokens in a passage with its heading, from 8 to the model's own
                limit, which is the default. Shorter passages give more precise hits with less
                context. The index records the value. With `late_chunking` the default is a fourth of
                the limit, at most 256.
            language: language of the stop words and stems for keyword search; words in Chinese,
                Japanese, Korean and Thai are found with any setting. "none" uses
                words unchanged; an unknown name raises an error that lists the languages.
            vectors: vectors that a Qdrant server compares: "float32"; or "int8" or "binary", which
                need a quarter or a 32nd of the memory and rescore the best candidates in float32.
                A folder searches the same way with all three.
            sparse: also store the weights that this model gives to words, for the modes with
                "sparse"; `add_models` adds them later.
            multi: also store the vectors of tokens that this model makes, int8, for
                `search(..., maxsim=True)`; `add_models` adds them later.
            late_chunking: the model reads a whole document at once, and the vector of a passage is
                pooled from its tokens, which know the text around them; see
                `Embedder.encode_spans`. Sparse and token vectors are those of the passage alone. A
                change anywhere in a document then embeds all of it again.

        Returns:
            the open index.

        Raises:
            InputError: `passage_tokens` is out of range, or the language or the kind of
                vectors is unknown, or a model is of another class, or it cannot do late chunking
                because it pools one token or is static.
            StoreError: the store cannot be created; the subclass says why.
        """
        most = passage_budget(embedder)
        late = late_passage_tokens(embedder) if late_chunking else most
        for kind, encoder in (("sparse", sparse), ("multi", multi)):
            if encoder is not None:
                check_kind(kind, encoder)
                most = min(most, passage_tokens_read(encoder))
        tokens = min(most, max(late, SMALLEST_BUDGET)) if passage_tokens is None else passage_tokens
        if passage_tokens is not None and not SMALLEST_BUDGET <= passage_tokens <= most:
            raise InputError(
                f"passage_tokens must be from {SMALLEST_BUDGET} to {most}, which is what "
                f"{'the models read' if sparse or multi else f'{embedder.name} reads'}: got {passage_tokens}"
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
            sparse=None if sparse is None else token_model(sparse),
            multi=None if multi is None else token_model(multi),
            late_chunking=late_chunking,
        )
        check_language(language)
        store = create_store(location, manifest)
        return cls(location, embedder, store, passage_tokens=tokens, sparse=sparse, multi=multi)

    @classmethod
    def open(
        cls,
        location: str | Path,
        embedder: Embedder | Callable[[Manifest], Embedder] | None = None,
        *,
        read_only: bool = False,
        wait: float = 0.0,
        lazy: bool = False,
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
    ) -> Index:
        """Open an index. The store is opened and locked before the model is loaded.

        Args:
            location: the store's folder, or `qdrant://host:port/collection`.
            embedder: the model, or a function from the store's manifest to the model; None loads
                the model that the store was created with.
            read_only: open for searching only. Any number of processes can read while one
                writes, and the folder need not be writable. Searches see what was flushed when the
                index was opened; `refresh` moves to the newest state.
            wait: seconds to wait for another process that writes; `math.inf` waits forever.
            lazy: load the model when it is first needed, and raise loading errors then.
                `remove`, `roots`, `status` and searches with mode "bm25" need no model.
            sparse: the model of the sparse vectors; None loads the store's own when it is needed.
            multi: the model of the token vectors; None loads the store's own when it is needed.

        Returns:
            the open index.

        Raises:
            StoreNotFoundError: there is no store there.
            StoreMismatchError: the store was created with another model, dimension or version of
                Quaver.
            StoreLockedError: another process writes to the store, and `read_only` is False.
            ModelError: the model that the store was created with cannot be loaded.
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
            return cls(
                location,
                load if lazy else load(),
                store,
                passage_tokens=store.manifest.passage_tokens,
                sparse=sparse,
                multi=multi,
            )
        except BaseException:
            store.close()
            raise

    @classmethod
    def exists(cls, location: str | Path) -> bool:
        """Return whether an index exists; one whose creation was interrupted does not count."""
        return store_exists(location)

    @staticmethod
    def check(location: str | Path) -> StoreCheck:
        """Read everything in a store and compare it with its checksums.

        This loads no model and needs no lock.

        Args:
            location: the store's folder.

        Returns:
            the problems found; `ok` is True if there are none.

        Raises:
            InputError: the location is not a folder; a server checks its own data.
            StoreNotFoundError: there is no store there.
            StoreError: the store cannot be read at all.
        """
        return check_store(_folder(location))

    @staticmethod
    def repair(
        location: str | Path,
        embedder: Embedder | Callable[[Manifest], Embedder] | None = None,
        *,
        wait: float = 0.0,
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
    ) -> StoreRepair:
        """Repair a damaged store, even one that no longer opens.

        Everything readable is kept. Passages with a damaged vector are embedded again. Passages with
        damaged text are dropped; `update` restores those that come from files.

        Args:
            location: the store's folder.
            embedder: as for `open`; loaded only if something must be embedded.
            wait: as for `open`.
            sparse: as for `open`.
            multi: as for `open`.

        Returns:
            the problems found and the repairs made.

        Raises:
            InputError: the location is not a folder.
            StoreLockedError: another process writes to the store.
            StoreMismatchError: the model is not the one that the store was created with.
            StoreError: the store cannot be repaired.
        """
        path = _folder(location)
        models: list[Embedder] = []
        encoders: list[TokenEncoders] = []

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
            if not made.late_chunking:
                return embed(models[0], tokenize_passages(models[0], passages))
            found: dict[str, NDArray[np.float32]] = {}
            for ready in tokenize_whole(models[0], [passages]):
                rows = embed(models[0], ready)
                found |= {p.id: row for p, row in zip(ready.passages, rows, strict=True)}
            return np.stack([found[passage.id] for passage in passages])

        def tokens(passages: Sequence[Passage], made: Manifest) -> list[PassageTokens]:
            if not encoders:
                encoders.append(TokenEncoders(location, lambda: made, sparse, multi))
            return [
                one
                for batch in batches(passages)
                for one in encoders[0].passages(batch) or [PassageTokens()] * len(batch)
            ]

        return repair_store(path, vectors, tokens, wait=wait)

    def refresh(self) -> bool:
        """Move to the newest state that another process stored; for an index opened `read_only`.

        Returns:
            whether anything changed.

        Raises:
            StoreError: the store cannot be read.
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
            texts: the texts. If one is longer than the model reads, its vector covers only the
                beginning; keyword search covers all of it.
            metadata: a mapping of JSON values for each text, or None; filters can use it and hits
                return it.
            ids: a str for each text; a passage already stored under an id is replaced. None derives
                ids from the texts, so that storing the same texts again replaces them.

        Returns:
            the ids, in the order of the texts.

        Raises:
            InputError: an argument is not a list of the right kind, or the lengths differ.
            StoreError: storing failed.
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
        """Embed and store passages that belong to no folder; `update` leaves them alone.

        With late chunking the passages of a call that have the same root and source are one document, in
        the order given; one without a source is a document of its own.

        Args:
            passages: the passages; one whose id is already stored is replaced. A str becomes a
                passage as with `add_texts`.

        Returns:
            how many were truncated because they are longer than the model reads.

        Raises:
            InputError: an item is neither a Passage nor a str.
            StoreError: storing failed.
        """
        self._require_open()
        passages = _passages(passages)
        self.store.require_space(len(passages), sum(len(passage.text) for passage in passages))
        truncated = 0
        for ready in self._tokenized(passages):
            vectors = embed(self.embedder, ready)
            tokens = self.encoders.passages(ready.passages)
            self.store.upsert(ready.passages, vectors, tokens=tokens)
            truncated += ready.tokens.truncated
        self.store.flush()
        return truncated

    def _tokenized(self, passages: Sequence[Passage]) -> Iterator[Batch]:
        """Tokenize passages for the engine, or with late chunking the documents that they are."""
        if not self.store.manifest.late_chunking:
            for batch in batches(passages):
                yield tokenize_passages(self.embedder, batch)
            return
        documents: dict[object, list[Passage]] = {}
        for passage in passages:
            key = (passage.root, passage.source) if passage.source else passage.id
            documents.setdefault(key, []).append(passage)
        some: list[list[Passage]] = []
        for document in documents.values():
            some.append(document)
            if sum(map(len, some)) >= embedding.PASSAGES_PER_BATCH:
                yield from tokenize_whole(self.embedder, some)
                some = []
        yield from tokenize_whole(self.embedder, some)

    def add_models(
        self,
        *,
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Add sparse or token vectors to an index: its passages are encoded from their stored texts.

        It can be interrupted: the next call continues, and so do `update` and `quaver index`.

        Args:
            sparse: the model of the sparse vectors; None adds none.
            multi: the model of the token vectors; None adds none.
            on_progress: called with the number of passages encoded so far and that of all.

        Returns:
            how many passages were encoded.

        Raises:
            InputError: a model is of another class.
            StoreMismatchError: the store has vectors of another model, or is on a server, where the
                vectors of a store are set when it is created.
            StoreError: storing failed.
        """
        self._require_open()
        return add_models(
            self.store, self.encoders, sparse=sparse, multi=multi, on_progress=on_progress
        )

    def update(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        gitignore: bool = True,
        follow_links: bool = False,
        scan: Scan | None = None,
        on_progress: Callable[[UpdateProgress], None] | None = None,
    ) -> UpdateReport:
        """Update the index from a folder: embed what is new, drop what is gone.

        An index can hold several folders; an update leaves the others unchanged. A folder is known by
        its absolute path, so a moved folder counts as a new one, and the old passages stay until
        `remove`. A folder with a name can move: its passages are stored under the name.

        A file counts as stored only when all its passages are on disk. An update can be interrupted at
        any moment without losing what was stored, and the next call finishes the work. No text is
        embedded twice: text that is unchanged in a changed file, or already stored from any other file,
        reuses its vector. With late chunking that holds for whole files: a change in a file embeds all of it
        again.

        Args:
            folder: the folder.
            name: name to store the folder under instead of its absolute path; `Hit.root` returns
                it.
            include: patterns as in .gitignore, relative to the folder: `["*.pdf", "notes/"]`. If
                given, a file must match one. A matching file with an unknown ending is read as
                text, unless it is binary.
            exclude: patterns of files and folders to leave out; their stored passages are dropped.
            gitignore: whether to respect the folder's .gitignore files.
            follow_links: whether to follow symbolic links that lead out of the folder; if not, the
                report lists them.
            scan: a listing of the folder that the command line has made already with the same
                patterns and options; None lists it now.
            on_progress: called whenever passages have been embedded or stored.

        Returns:
            what was done, including the files that could not be read.

        Raises:
            InputError: the name is empty, or a pattern is invalid.
            DocumentError: the folder does not exist or holds no supported file. Nothing is dropped.
            StoreError: storing failed, for example because the disk is full.
        """
        self._require_open()
        if name is not None and not name.strip():
            raise InputError("a folder's name must not be empty: leave it out to use its path")
        source: UpdateSource | None = None
        with suppress(DocumentError):  # a path that is no text is not stored
            source = UpdateSource(
                root_of(Path(folder)), tuple(include), tuple(exclude), gitignore, follow_links
            )
        add_models(self.store, self.encoders)
        return update(
            self.embedder,
            self.encoders,
            self.store,
            Path(folder),
            root=root_of(Path(folder)) if name is None else name,
            max_tokens=self.passage_tokens,
            selection=Selection.of(
                include, exclude, gitignore=gitignore, follow_links=follow_links
            ),
            scan=scan,
            on_progress=on_progress,
            source=source,
        )

    def update_again(
        self, root: str, *, on_progress: Callable[[UpdateProgress], None] | None = None
    ) -> UpdateReport:
        """Update the index from a folder with the path, patterns and options of the last time.

        Args:
            root: the folder's absolute path, or the name it was indexed under.
            on_progress: as for `update`.

        Returns:
            what was done.

        Raises:
            DocumentError: the store does not know how the folder was updated, or it cannot be read.
            StoreError: storing failed.
        """
        self._require_open()
        note = self.store.notes().get(root)
        if note is None or note.source is None:
            raise DocumentError(
                f"the store does not know how {root!r} was updated: run `quaver index` on it once"
            )
        source = note.source
        return self.update(
            source.folder,
            name=None if root == source.folder else root,
            include=source.include,
            exclude=source.exclude,
            gitignore=source.gitignore,
            follow_links=source.follow_links,
            on_progress=on_progress,
        )

    def roots(self) -> dict[str, int]:
        """Return the number of passages of each folder, by absolute path or name.

        Passages that were added without a folder are counted under the empty name.
        """
        self._require_open()
        return self.store.roots()

    def remove(self, folder: str | Path) -> int:
        """Drop everything indexed from a folder; the folder itself may be gone.

        Args:
            folder: the folder, or the name it was indexed under.

        Returns:
            the number of passages dropped.

        Raises:
            DocumentError: nothing from this folder is stored.
            StoreError: deleting failed.
        """
        self._require_open()
        stored = self.store.roots()
        root = next((r for r in (str(folder), root_of(Path(folder))) if r in stored), None)
        if root is None:
            known = ", ".join(sorted(filter(None, stored))) or "nothing"
            raise DocumentError(
                f"a folder to remove must be indexed: {folder} is not, {self.location} holds {known}"
            )
        for source in self.store.sources(root).values():
            self.store.delete(sorted(i for ids in source.ids.values() for i in ids))
        self.store.flush()
        self.store.note_update(root, None)
        self.store.optimize()
        return stored[root]

    def status(self) -> StoreStatus:
        """Return a summary of the store: folders, files, passages, failures, model, size, times.

        Raises:
            StoreError: the store cannot be read.
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
        maxsim: bool = False,
    ) -> list[Hit]:
        """Find the passages that answer a question best.

        Args:
            query: the question; not empty. If it is longer than the model reads, its vector covers
                only the beginning; keyword search uses all its words.
            k: maximum number of hits, at least 1.
            mode: "dense" compares vectors, "bm25" words, "sparse" the weights of words of a sparse encoder;
                "hybrid" (dense and bm25), "dense+sparse" and "dense+bm25+sparse" fuse the ranks.
            filter: return only passages that match: a `Compare`, or several joined by `And`, `Or` and `Not`.
            ranker: reranks the candidates: a `CrossEncoder`, or a `BiEncoderRanker`, which uses
                the stored vectors if its model is the index's own.
            candidates: number of hits to rerank; at least k are used.
            min_score: leave out hits with a lower score, on the scale of the mode or the ranker.
            maxsim: rerank the candidates by the stored vectors of their tokens, without a model that
                reads passages.

        Returns:
            hits, best first.

        Raises:
            InputError: the query is not a str or is empty, k or candidates is below 1, the mode is
                unknown, the filter is invalid, the ranker has no method `rank`, or both it and `maxsim`
                are given.
            StoreMismatchError: the store has no vectors for the mode or for `maxsim`; the message says
                how to add them.
        """
        self._require_open()
        if not isinstance(query, str):
            raise InputError(f"a query must be a str: got {type(query).__name__}")
        if not query.strip():
            raise InputError("a query must not be empty: got only white space")
        check_range("k", k)
        check_range("candidates", candidates)
        if maxsim and ranker is not None:
            raise InputError("hits are reranked once: give either maxsim or a ranker")
        names = RANKINGS.get(mode, ())
        if "sparse" in names:
            self.store.manifest.token_model("sparse", self.location)
        if maxsim:
            self.store.manifest.token_model("multi", self.location)
        found = k if ranker is None else max(k, candidates)
        hits = self.store.search(
            self.embedder.encode_query(query) if "dense" in names else None,
            text=query,
            k=found,
            mode=mode,
            filter=filter,
            sparse=self.encoders.sparse_query(query) if "sparse" in names else None,
            multi=self.encoders.multi_query(query) if maxsim else None,
            candidates=candidates,
        )
        if ranker is not None:
            space = self.store.manifest.fingerprint
            hits = rerank(query, hits, ranker, k=k, store=self.store, space=space)
        return [hit for hit in hits if min_score is None or hit.score >= min_score]

    def close(self) -> None:
        """Close the store, so that other processes can write; further calls do nothing."""
        self._closed = True
        self.store.close()

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosedError(f"this index is closed: open {self.location} again")

    def __enter__(self) -> Index:
        """Return the index itself."""
        return self

    def __exit__(self, *error: object) -> None:
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
    """Load the model that a store was created with.

    Args:
        manifest: the store's manifest.
        location: the store, for the error message.
        model: where the model is now; None uses the place in the manifest.
        option: the option that names the model, for the error message.
        **settings: further settings for `Embedder.from_pretrained`.

    Returns:
        the model.

    Raises:
        ModelNotFoundError: the model is gone; the message says what to do.
        ModelError: the model cannot be loaded.
    """
    try:
        return Embedder.from_pretrained(
            manifest.model if model is None else model, **{**manifest.settings, **settings}
        )
    except ModelNotFoundError as error:
        if model is not None:
            raise
        raise ModelNotFoundError(
            f"{error}; the store at {location} was created with this model: if it has moved, name "
            f"its new place with {option}"
        ) from error


def _folder(location: str | Path) -> Path:
    if is_folder(location):
        return Path(location)
    raise InputError(
        f"a store to check or repair must be a folder: got {location}, which checks itself"
    )


def _listed(name: str, items: Sequence[str]) -> list[str]:
    """Return a list of str; refuse a single str, whose letters would count as items."""
    if isinstance(items, str):
        raise InputError(f"{name} must be a list of str: got the str {items!r:.40}; write [...]")
    return text_list(items, name=name, rule="a list of str")


def _passages(passages: Sequence[Passage | str]) -> list[Passage]:
    """Return the items as passages, each str as one passage."""
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
