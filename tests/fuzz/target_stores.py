# ruff: noqa: E501 - tables are read across
"""A store whose files were changed behind its back, and the filters and questions that strangers send."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutation import HOSTILE, LFS, Raw, mutate_bytes, mutate_json
from numpy.typing import NDArray
from target import BrokenPromiseError, Case, Target

from quaver.documents import Passage
from quaver.store import And, Compare, FileVersion, Manifest, Not, Or
from quaver.store.location import create_store, open_store
from quaver.store.memory import MemoryStore
from quaver.store.protocol import VectorStore

DIMENSION = 8
MANIFEST = Manifest(
    model="a/model",
    fingerprint="f" * 64,
    dimension=DIMENSION,
    passage_tokens=62,
    created="2026-01-01T00:00:00+00:00",
)


def passages(first: int, last: int) -> list[Passage]:
    """Return passages with text, headings and metadata."""
    words = ("tea", "water", "leaves", "kettle", "cup")
    return [
        Passage(
            f"{number:08x}-0000-0000-0000-000000000000",
            f"The {words[number % 5]} of number {number}, and {words[number % 3]}.",
            f"{number % 4}.md",
            "Handbook > Tea" if number % 2 else "",
            number,
            number + 9,
            "root",
            {"year": 2000 + number, "tags": ["a", words[number % 5]], "nested": {"x": number % 3}},
        )
        for number in range(first, last)
    ]


def vectors(count: int, seed: int) -> NDArray[np.float32]:
    """Return unit vectors."""
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSION))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def fill(store: VectorStore) -> None:
    """Store in several commits, replace, delete."""
    version = FileVersion("d" * 32, 5)
    store.upsert(passages(0, 20), vectors(20, 1), versions={f"{n}.md": version for n in range(4)})
    store.flush()
    store.upsert(passages(20, 30), vectors(10, 2))
    store.flush()
    store.delete([passage.id for passage in passages(3, 8)])
    store.upsert(passages(28, 34), vectors(6, 3))
    store.flush()


def contents(
    store: VectorStore,
) -> dict[str, tuple[Passage, FileVersion | None, tuple[float, ...]]]:
    """Return everything that is stored, by id."""
    return {
        found.passage.id: (
            found.passage,
            found.version,
            () if found.vector is None else tuple(found.vector.tolist()),
        )
        for found in store.scan(with_vectors=True)
    }


@cache
def base() -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files of a store, and what is in it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "store"
        store = create_store(folder, MANIFEST)
        fill(store)
        truth = contents(store)
        store.close()
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "lock"
        }
    return files, truth


class Stores(Target):
    """A store with changed files gives what was stored, or says that it is broken."""

    name = "stores"
    quick = 300
    share = 2

    def draw(self, draw: Random) -> Case:
        """Draw a store with one or two files changed."""
        case = Case(dict(base()[0]), {"write": draw.random() < 0.3})
        for _ in range(draw.choice((1, 1, 1, 2))):
            name = draw.choice([*case.files])
            content = case.files[name]
            assert isinstance(content, bytes)
            kind = draw.randrange(10)
            if kind == 0:
                del case.files[name]
                story = "removed"
            elif kind == 1:
                other = draw.choice([*case.files])
                case.files[name], story = case.files[other], f"is {other}"
            elif kind == 2:
                case.files[name], story = draw.choice(((b"", "empty"), (LFS, "a pointer")))
            elif kind == 3:
                case.files[name], story = b"\0" * len(content), "zeros"
            elif name.endswith(".json"):
                case.files[name], story = mutate_json(draw, content)
            else:
                case.files[name], story = mutate_bytes(draw, content)
            case.story.append(f"{name}: {story}")
            if not case.files:
                break
        return case

    def run(self, case: Case, folder: Path) -> str:
        """Read everything and search; where a case says so, write as well."""
        case.write(folder)
        _, truth = base()
        with open_store(folder, read_only=not case.settings["write"]) as store:
            found = contents(store)
            if found != truth:
                missing, changed = (
                    len(truth.keys() - found.keys()),
                    len(found.keys() - truth.keys()),
                )
                raise BrokenPromiseError(
                    f"a changed store must say so: {missing} passages are missing, {changed} are new, "
                    f"{sum(found[i] != truth[i] for i in found.keys() & truth.keys())} differ"
                )
            for hit in store.search(vectors(1, 9)[0], k=5, text="the water of tea"):
                if hit.id not in truth or truth[hit.id][0].text != hit.text:
                    raise BrokenPromiseError(f"a hit must be stored: {hit}")
            if case.settings["write"]:
                store.upsert(passages(50, 53), vectors(3, 4))
                store.flush()
                if contents(store).keys() != truth.keys() | {p.id for p in passages(50, 53)}:
                    raise BrokenPromiseError("what was added must be there beside what was")
        return "whole"


class Filters(Target):
    """A filter and a question, as an agent or a server's client may send them."""

    name = "filters"
    quick = 400

    def __init__(self) -> None:
        """Fill a store in memory."""
        self._store = MemoryStore(MANIFEST)
        fill(self._store)

    def draw(self, draw: Random) -> Case:
        """Draw a filter as JSON and a question."""
        texts = (
            "tea",
            "",
            " ",
            "\0",
            "a" * 10_000,
            "tea " * 5000,
            "😀",
            "\ud800",
            "*",
            '"',
            "NOT tea",
        )
        modes = (None, None, "dense", "bm25", "hybrid", draw.choice(("nope", 3)))
        settings = {
            "filter": self._filter(draw, draw.choice((0, 1, 2, 3))),
            "text": draw.choice(texts),
            "mode": draw.choice(modes),
            "k": draw.choice(
                (1, 1, 5, 5, 100, 10**6, 10**12, draw.choice((0, -1, True, 1.5, None, "5")))
            ),
        }
        return Case({}, settings, [json.dumps(settings)[:500]])

    def _filter(self, draw: Random, depth: int) -> Any:
        if depth:
            kind = draw.choice(("and", "or", "not"))
            count = 1 if kind == "not" else draw.choice((0, 1, 2, 30))
            return [kind, *(self._filter(draw, draw.randrange(depth)) for _ in range(count))]
        fields = ("year", "tags", "tags[]", "nested.x", "source", "id", "text", "start", "metadata.source", "", ".", "a..b", "nested", "a" * 10_000, "é", "\0", "a[].b[].c", 3, None)  # fmt: skip
        operators = ("==", "!=", "<", "<=", ">", ">=", "in", "not in", "~", "", None, ["=="])
        plain = [value for value in HOSTILE if not isinstance(value, Raw)]
        value = draw.choice(
            (
                2010,
                "tea",
                "2.md",
                None,
                "2026-01-01",
                "9999-99-99",
                "0001-01-01",
                [2010, "a"],
                *plain,
            )
        )
        if draw.random() < 0.1:
            return {str(draw.choice(fields)): value}
        return [
            "compare",
            draw.choice(fields[:9] if draw.random() < 0.8 else fields),
            draw.choice(operators[:8] if draw.random() < 0.9 else operators),
            value,
        ]

    def run(self, case: Case, folder: Path) -> str:
        """Count, search and scan with it."""
        said = case.settings
        filter = made(said["filter"])
        hits = self._store.search(
            vectors(1, 9)[0], k=said["k"], text=said["text"], mode=said["mode"], filter=filter
        )
        count = self._store.count(filter)
        found = {stored.passage.id for stored in self._store.scan(filter)}
        if len(found) != count or any(hit.id not in found for hit in hits):
            raise BrokenPromiseError(
                f"counting, scanning and searching must agree: {count}, {found}"
            )
        opposite = self._store.count(Not(filter))
        if opposite != self._store.count() - count:
            raise BrokenPromiseError(f"Not must be the complement: {count} and {opposite}")
        return "some" if count else "none"


def made(said: Any) -> Any:
    """Return the filter that a list of JSON says."""
    if isinstance(said, Mapping):
        return said
    kind, *parts = said
    if kind == "compare":
        return Compare(*parts)
    return {"and": And, "or": Or, "not": Not}[kind](*map(made, parts))


TARGETS: tuple[type[Target], ...] = (Stores, Filters)
