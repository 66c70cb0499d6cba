"""A store that stays open to be searched and read while others write to it."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from quaver.documents import HEADING_SEPARATOR, SUPPORTED_ENDINGS, Passage
from quaver.embedder import Embedder
from quaver.errors import InputError, StoreMismatchError
from quaver.index.index import Index
from quaver.store import And, Compare, Filter, Manifest, Or, StoreStatus, moment

_MOST_VALUES = 30
"""Values of a metadata field that make a facet; a field with more is found by a filter."""

_PLACES = frozenset({"page", "time", "seconds", "record"})
"""Metadata that tells where in its document a passage is."""

_CATALOG_SHARE = 0.05
"""Share of the time that may be spent on listing documents again while a store changes."""

_STATUS_SHARE = 0.5
"""The same for the status, which people watch during an update."""

T = TypeVar("T")


@dataclass(frozen=True)
class StoredDocument:
    """A document as a store holds it.

    Attributes:
        root: the indexed folder, or its name.
        source: path relative to that folder; of a passage without a folder, the passage's id.
        title: the outermost heading of its first passage, or "".
        kind: ending of its name without the dot, in lower case, or "".
        passages: number of its passages.
        characters: end of its last passage.
    """

    root: str
    source: str
    title: str
    kind: str
    passages: int
    characters: int


@dataclass(frozen=True)
class FacetValue:
    """One value of a facet.

    Attributes:
        value: the value, which `Library.narrowed` takes.
        label: the value to show.
        passages: number of passages that have it.
        filter: the passages that have it.
    """

    value: str
    label: str
    passages: int
    filter: Filter = field(repr=False)


@dataclass(frozen=True)
class Facet:
    """A property by which passages can be narrowed down.

    Attributes:
        name: "folder", "kind", or a field of the metadata.
        values: its values, the most frequent first.
    """

    name: str
    values: tuple[FacetValue, ...]


@dataclass(frozen=True)
class Catalog:
    """What a store holds, by document.

    Attributes:
        documents: the documents, by folder and path.
        facets: properties with several values.
    """

    documents: tuple[StoredDocument, ...]
    facets: tuple[Facet, ...]


@dataclass(frozen=True)
class Reading:
    """Consecutive passages of a document.

    Attributes:
        passages: the passages, in the order of the document.
        first: position of the first of them in the document, from 0.
        total: number of passages of the document.
    """

    passages: tuple[Passage, ...]
    first: int
    total: int


class _Kept(Generic[T]):
    """What takes long to find out about a store: found again after a change, but not all the time."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._mutex = threading.Lock()
        self._value: T | None = None
        self._key: object = None
        self._made = 0.0
        self._spent = 0.0

    def value(self, key: object, find: Callable[[], T]) -> T:
        """Return what was found for this key, or for an earlier one if that is too soon to find again."""
        with self._mutex:
            begin = time.monotonic()
            due = key != self._key and begin >= self._made + self._spent / self._share
            if self._value is None or due:
                self._value = find()
                self._key = key
                self._made = time.monotonic()
                self._spent = self._made - begin
            return self._value


class Library:
    """A store that is searched and read, and follows what other processes write.

    Threads may share it. It only reads, so it needs no lock.

    Attributes:
        name: what it is called.
        location: where the store is.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        name: str,
        embedder: Embedder | Callable[[Manifest], Embedder] | None = None,
    ) -> None:
        """Open the store; the model is loaded when it is first needed.

        Args:
            location: as for `Index.open`.
            name: what to call it.
            embedder: as for `Index.open`.

        Raises:
            StoreError: the store cannot be opened; the subclass says why.
        """
        self.name = name
        self.location = location
        self._embedder = embedder
        self._mutex = threading.Lock()
        self._index = self._opened()
        self._changes = 0
        self._catalog: _Kept[Catalog] = _Kept(_CATALOG_SHARE)
        self._status: _Kept[StoreStatus] = _Kept(_STATUS_SHARE)

    def _opened(self) -> Index:
        return Index.open(self.location, self._embedder, read_only=True, lazy=True)

    @property
    def index(self) -> Index:
        """The index, in its newest state.

        Raises:
            StoreError: the store cannot be read any more.
        """
        with self._mutex:
            try:
                changed = self._index.refresh()
            except StoreMismatchError:  # made again, maybe with another model
                before, self._index = self._index, self._opened()
                before.close()
                changed = True
            self._changes += changed
            return self._index

    @property
    def manifest(self) -> Manifest:
        """The store's manifest."""
        return self._index.store.manifest

    def status(self) -> StoreStatus:
        """Return a summary of the store; see `Index.status`.

        After a change it is made again; while a large store keeps changing, not each time.

        Raises:
            StoreError: the store cannot be read.
        """
        index = self.index
        return self._status.value((self._changes, index.store.notes()), index.status)

    def catalog(self) -> Catalog:
        """Return the documents and facets.

        They are listed again after a change; while a large store keeps changing, only now and then.

        Raises:
            StoreError: the store cannot be read.
        """
        index = self.index
        return self._catalog.value(self._changes, partial(_cataloged, index))

    def narrowed(self, chosen: Mapping[str, Sequence[str]]) -> Filter | None:
        """Return the filter of chosen facet values.

        Args:
            chosen: values by facet; a passage needs one of the values of each facet.

        Returns:
            the filter; None if nothing is chosen.

        Raises:
            InputError: there is no such facet or value.
        """
        parts: list[Filter] = []
        for name, wanted in chosen.items():
            facet = next((each for each in self.catalog().facets if each.name == name), None)
            known = {} if facet is None else {each.value: each.filter for each in facet.values}
            missing = [value for value in wanted if value not in known]
            if missing:
                raise InputError(f"no passage has {name} {missing[0]!r}: choose another, or none")
            if wanted:
                parts.append(Or(*(known[value] for value in wanted)))
        return And(*parts) if parts else None

    def read(self, identity: str, *, before: int = 0, after: int = 0) -> Reading | None:
        """Read a passage with its neighbors in the document.

        Args:
            identity: the passage's id.
            before: number of passages before it, at least 0.
            after: number of passages after it, at least 0.

        Returns:
            the passages; None if there is none with this id.

        Raises:
            StoreError: the store cannot be read.
        """
        found = self.index.store.get([identity])
        if not found:
            return None
        passage = found[0].passage
        if not passage.source:
            return Reading((passage,), 0, 1)
        whole = self._passages(passage.root, passage.source)
        at = next((i for i, each in enumerate(whole) if each.id == identity), None)
        if at is None:  # removed in between
            return Reading((passage,), 0, 1)
        first = max(0, at - before)
        return Reading(tuple(whole[first : at + after + 1]), first, len(whole))

    def read_document(
        self, source: str, *, root: str | None = None, first: int = 0, count: int | None = None
    ) -> Reading | None:
        """Read passages of a document.

        Args:
            source: the document's path in its folder.
            root: the indexed folder, or its name; None where only one has the document.
            first: position of the first passage to read, from 0.
            count: maximum number of passages; None for all.

        Returns:
            the passages; None if there is no such document.

        Raises:
            InputError: several folders have the document, and `root` is None.
            StoreError: the store cannot be read.
        """
        whole = self._passages(root, source)
        roots = sorted({passage.root for passage in whole})
        if len(roots) > 1:
            raise InputError(
                f"{source!r} is in several folders, give the root of one: {', '.join(roots)}"
            )
        if not whole:
            alone = self.read(source)  # a passage without a folder goes by its id
            return alone if alone is not None and not alone.passages[0].source else None
        last = None if count is None else first + count
        return Reading(tuple(whole[first:last]), first, len(whole))

    def _passages(self, root: str | None, source: str) -> list[Passage]:
        if not source:
            return []
        wanted = And(
            Compare("source", "==", source),
            *(() if root is None else (Compare("root", "==", root),)),
        )
        found = [stored.passage for stored in self.index.store.scan(wanted)]
        return sorted(found, key=lambda each: (each.root, each.start, each.end, each.id))

    def close(self) -> None:
        """Close the store."""
        with self._mutex:
            self._index.close()


class _Counted:
    """What is known of a document while passages are counted."""

    def __init__(self) -> None:
        self.passages = 0
        self.characters = 0
        self.begin: int | None = None
        self.title = ""


def _cataloged(index: Index) -> Catalog:
    """List the documents of a store, and the values of its metadata."""
    documents: defaultdict[tuple[str, str], _Counted] = defaultdict(_Counted)
    fields: defaultdict[str, Counter[str | bool | int]] = defaultdict(Counter)
    dropped = set(_PLACES)
    for stored in index.store.scan():
        passage = stored.passage
        document = documents[passage.root, passage.source or passage.id]
        document.passages += 1
        document.characters = max(document.characters, passage.end)
        if document.begin is None or passage.start < document.begin:
            document.begin = passage.start
            document.title = passage.heading.partition(HEADING_SEPARATOR)[0]
        for name, value in passage.metadata.items():
            if name in dropped:
                continue
            if not isinstance(value, (str, bool, int)) or "." in name:
                dropped.add(name)
                fields.pop(name, None)
                continue
            fields[name][_year(value) or value] += 1
            if len(fields[name]) > _MOST_VALUES:
                dropped.add(name)
                del fields[name]
    listed = tuple(
        StoredDocument(
            root, source, found.title, _kind(source, root), found.passages, found.characters
        )
        for (root, source), found in sorted(documents.items())
    )
    facets = [_folders(listed), _kinds(listed)]
    facets += [Facet(name, _values(name, counts)) for name, counts in sorted(fields.items())]
    return Catalog(listed, tuple(facet for facet in facets if len(facet.values) > 1))


def _year(value: str | bool | int) -> str | None:
    """Return the year of an ISO 8601 date; one with a day, for a number may be anything."""
    if not isinstance(value, str) or len(value) < 10:
        return None
    date = moment(value)
    return None if date is None else f"{date.year:04}"


def _kind(source: str, root: str) -> str:
    endings = [ending for ending in PurePosixPath(source).suffixes if ending] if root else []
    return endings[-1][1:].lower() if endings and endings[-1].lower() in SUPPORTED_ENDINGS else ""


def _folder(document: StoredDocument) -> tuple[str, str]:
    """Return the root of a document and the first folder below it that it is in, or ""."""
    top, slash, _ = document.source.partition("/")
    return document.root, top if slash and document.root else ""


def _folders(documents: Sequence[StoredDocument]) -> Facet:
    groups: defaultdict[tuple[str, str], list[StoredDocument]] = defaultdict(list)
    for document in documents:
        groups[_folder(document)].append(document)
    totals = Counter(document.root for document in documents)
    several = len(totals) > 1
    values = []
    for (root, top), members in groups.items():
        base = PurePosixPath(root).name or root or "(no folder)"
        label = (f"{base}/{top}" if several else top) if top else base
        of_root = Compare("root", "==", root)
        whole = of_root if len(members) == totals[root] else And(of_root, _sources(members))
        values.append(_value(f"{root}\n{top}", label, members, whole))
    return Facet("folder", _ordered(values))


def _kinds(documents: Sequence[StoredDocument]) -> Facet:
    groups: defaultdict[str, list[StoredDocument]] = defaultdict(list)
    for document in documents:
        groups[document.kind].append(document)
    return Facet(
        "kind",
        _ordered(
            _value(kind, kind or "(other)", members, _sources(members))
            for kind, members in groups.items()
        ),
    )


def _sources(documents: Sequence[StoredDocument]) -> Filter:
    named = [document.source for document in documents if document.root]
    alone = [document.source for document in documents if not document.root]
    within = Compare("source", "in", named)
    return within if not alone else Or(within, Compare("id", "in", alone))


def _value(
    value: str, label: str, documents: Sequence[StoredDocument], filter: Filter
) -> FacetValue:
    return FacetValue(value, label, sum(each.passages for each in documents), filter)


def _values(name: str, counts: Mapping[Any, int]) -> tuple[FacetValue, ...]:
    key = f"metadata.{name}"
    values = []
    for value, count in counts.items():
        wanted: Filter = Compare(key, "==", value)
        if isinstance(value, str) and len(value) == 4 and value.isdigit():
            after = f"{int(value) + 1:04}"
            year = And(Compare(key, ">=", f"{value}-01-01"), Compare(key, "<", f"{after}-01-01"))
            wanted = Or(wanted, year)
        shown = str(value) if isinstance(value, str) else repr(value)
        values.append(FacetValue(shown, shown, count, wanted))
    return _ordered(values)


def _ordered(values: Any) -> tuple[FacetValue, ...]:
    return tuple(sorted(values, key=lambda each: (-each.passages, each.label)))
