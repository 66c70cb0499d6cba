"""One suite for every store: the same calls give the same answers in each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qdrant_client import QdrantClient

from quaver.documents import Passage
from quaver.documents.passage import content_digest
from quaver.errors import InputError
from quaver.store import (
    And,
    Compare,
    FileVersion,
    Filter,
    Manifest,
    Not,
    Or,
    StoredPassage,
    VectorStore,
)
from quaver.store.folder import FolderStore
from quaver.store.memory import MemoryStore
from quaver.store.qdrant_server import QdrantStore
from sample_passages import D, passages, unit_rows

MANIFEST = Manifest("model", "f" * 64, D, 100, "2030-01-01T00:00:00+00:00")
KINDS = ("folder", "memory", "server")


def make(kind: str, folder: Path) -> VectorStore:
    if kind == "folder":
        return FolderStore.create(folder / "kb", MANIFEST)
    if kind == "server":
        with warnings.catch_warnings():
            # The client's in-process mode has no payload indexes, and says so.
            warnings.filterwarnings("ignore", "Payload indexes have no effect")
            return QdrantStore.create("qdrant://localhost/kb", MANIFEST, QdrantClient(":memory:"))
    return MemoryStore(MANIFEST)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    made = make(request.param, tmp_path)
    yield made
    made.close()


def write(store: VectorStore, *texts: str, **metadata: list[Any]) -> NDArray[np.float32]:
    """Stores texts under the ids "0", "1", ... and returns their vectors."""
    rows = unit_rows(len(texts))
    columns = {key: dict(enumerate(values)) for key, values in metadata.items()}
    store.upsert(
        [
            Passage(
                str(i), text, "a.txt", "", 0, len(text), "", {k: v[i] for k, v in columns.items()}
            )
            for i, text in enumerate(texts)
        ],
        rows,
    )
    return rows


def ids(found: Any) -> list[str]:
    return [one.passage.id if isinstance(one, StoredPassage) else one.id for one in found]


# --- In and out -----------------------------------------------------------------------------------
def test_an_empty_store(store: VectorStore) -> None:
    assert store.count() == 0
    assert store.sources("") == {}
    assert store.roots() == {}
    assert store.search(unit_rows(1)[0], k=3) == []
    assert store.search(text="words", k=3) == []
    assert store.search(unit_rows(1)[0], text="words", k=3) == []
    assert list(store.scan()) == []
    assert store.get(["x"]) == []
    assert store.delete_matching({"root": "x"}) == 0
    store.optimize()


def test_what_goes_in_comes_out(store: VectorStore) -> None:
    metadata = {"page": 3, "tags": ["a", "b"], "nested": {"deep": [1, 2.5, None, True]}, "zh": "书"}
    one = Passage("any text is an id", "text", "ä.pdf", "Top", 4, 8, "/root", metadata)
    store.upsert([one], unit_rows(1), versions={"ä.pdf": FileVersion("d", 1)})
    (found,) = store.get(["any text is an id", "no"], with_vectors=True)
    assert found == StoredPassage(one, FileVersion("d", 1))
    assert found.vector is not None
    np.testing.assert_allclose(found.vector, unit_rows(1)[0], atol=1e-6)
    (bare,) = store.scan()
    assert bare == found
    assert bare.vector is None
    (hit,) = store.search(unit_rows(1)[0], k=3)
    assert hit.metadata == metadata
    assert (hit.id, hit.text, hit.source, hit.heading) == (one.id, "text", "ä.pdf", "Top")
    assert (hit.start, hit.end, hit.root) == (4, 8, "/root")


def test_upsert_replaces_and_delete_ignores_what_is_not_there(store: VectorStore) -> None:
    for seed in (0, 1):
        store.upsert(passages(5), unit_rows(5, seed=seed))
    assert store.count() == 5
    names = [passage.id for passage in passages(5)]
    found = store.vectors(names)
    np.testing.assert_allclose(np.stack([found[i] for i in names]), unit_rows(5, seed=1), atol=1e-6)
    for _ in range(2):
        store.delete([*names[:2], "not there"])
    store.delete([])
    assert store.count() == 3
    assert ids(store.get(names)) == names[2:]


def test_a_passage_without_a_vector_is_found_by_its_words(store: VectorStore) -> None:
    store.upsert([Passage("w", "only words", "a", "", 0, 1)], None)
    assert ids(store.search(text="words", k=5)) == ["w"]
    assert store.search(unit_rows(1)[0], k=5) == []
    assert ids(store.search(unit_rows(1)[0], text="words", k=5)) == ["w"]
    assert store.vectors(["w"]) == {}
    assert store.vectors_of_content([content_digest("", "only words")]) == {}
    assert store.get(["w"], with_vectors=True)[0].vector is None


def test_get_keeps_the_order_and_gives_each_once(store: VectorStore) -> None:
    write(store, "a", "b", "c")
    assert ids(store.get(["2", "0", "2", "x"])) == ["2", "0"]


def test_vectors_are_found_by_content(store: VectorStore) -> None:
    store.upsert(passages(3, "old.txt", "/one"), unit_rows(3))
    wanted = [content_digest("Top > Sub", f"text {i}") for i in (2, 0, 7)]
    found = store.vectors_of_content([*wanted, wanted[0]])
    assert set(found) == set(wanted[:2])
    np.testing.assert_allclose(found[wanted[0]], unit_rows(3)[2], atol=1e-6)
    assert store.vectors_of_content([]) == {}


def test_roots_are_kept_apart(store: VectorStore) -> None:
    one, two = passages(3, root="/one"), passages(2, root="/two")
    version = {"a.txt": FileVersion("abc", 3)}
    store.upsert(one, unit_rows(3), versions=version)
    store.upsert(two, unit_rows(2), versions={"a.txt": FileVersion("abc", 2)})
    assert store.count() == 5
    assert store.roots() == {"/one": 3, "/two": 2}
    assert store.sources("/one")["a.txt"].ids == {version["a.txt"]: {p.id for p in one}}
    assert store.sources("") == {}
    hits = store.search(unit_rows(1)[0], k=10, filter={"root": "/two"})
    assert {(hit.root, hit.id) for hit in hits} == {("/two", p.id) for p in two}


# --- Search ---------------------------------------------------------------------------------------
def test_dense_search_is_exact_and_ordered(store: VectorStore) -> None:
    vectors = unit_rows(200)
    store.upsert(passages(200), vectors)
    query = 3 * unit_rows(1, seed=1)[0]
    hits = store.search(query, k=10)
    cosines = vectors @ (query / 3)
    order = np.argsort(-cosines)[:10]
    assert [hit.text for hit in hits] == [f"text {i}" for i in order]
    # float32 sums of 8 products
    np.testing.assert_allclose([hit.score for hit in hits], cosines[order], atol=1e-6)


def test_bm25_is_the_formula(store: VectorStore) -> None:
    write(store, "red fox", "red red dog and a very long tail of words", "blue bird", "fox")
    hits = store.search(text="the red foxes", k=10)
    lengths = {"0": 2, "1": 6, "3": 1}  # without the stop words "and", "a", "very", "of"
    counts = {"0": {"red": 1, "fox": 1}, "1": {"red": 2}, "3": {"fox": 1}}
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    expected = {
        i: sum(idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * lengths[i] / 128)) for f in found.values())
        for i, found in counts.items()
    }
    assert ids(hits) == sorted(expected, key=lambda i: -expected[i])
    np.testing.assert_allclose([hit.score for hit in hits], sorted(expected.values())[::-1], 1e-2)


def test_words_of_languages_without_spaces_are_found(store: VectorStore) -> None:
    write(store, "北京大学的图书馆", "東京タワーへ行きました", "上海的天气", "a library in Beijing")
    assert ids(store.search(text="图书馆", k=5)) == ["0"]
    assert ids(store.search(text="タワー", k=5)) == ["1"]
    assert ids(store.search(text="天气 library", k=5)) in (["2", "3"], ["3", "2"])


def test_hybrid_fuses_ranks(store: VectorStore) -> None:
    rows = write(store, "red fox", "blue bird", "green fish")
    hits = store.search(rows[1], text="red", k=3)
    dense = ids(store.search(rows[1], k=3))
    scores = {i: 1 / (60 + rank) for rank, i in enumerate(dense, start=1)}
    scores["0"] += 1 / 61
    assert ids(hits) == sorted(scores, key=lambda i: (-scores[i], i))
    np.testing.assert_allclose([h.score for h in hits], sorted(scores.values())[::-1], rtol=1e-6)


def test_equal_scores_stand_in_the_order_of_ids(store: VectorStore) -> None:
    store.upsert([Passage(str(i), "same", "a", "", 0, 1) for i in range(9)], np.ones((9, D), "f4"))
    hits = store.search(np.ones(D, np.float32), text="same", k=9)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert ids(store.search(np.ones(D, np.float32), text="same", k=9)) == ids(hits)


@pytest.mark.parametrize(
    "text", ["", " ", "the of and", "?!", "word " * 20_000, "\0", "\U0001f98a"]
)
def test_any_text_is_a_query(store: VectorStore, text: str) -> None:
    rows = write(store, "a word", "another")
    assert ids(store.search(rows[0], text=text, k=1)) == ["0"]
    assert len(store.search(text=text, k=5)) <= 2


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_a_search_is_filtered_before_it_is_cut(store: VectorStore, mode: Any) -> None:
    rows = write(store, *["fox"] * 300, year=list(range(300)))
    hits = store.search(rows[5], text="fox", k=2, mode=mode, filter=Compare("year", ">=", 298))
    assert set(ids(hits)) == {"298", "299"}


# --- Filters --------------------------------------------------------------------------------------
DOCUMENTS: list[dict[str, Any]] = [
    {"year": 2020, "tags": ["x", "y"], "draft": True},
    {"year": 2021.0, "author": {"name": "Ada", "born": "1815-12-10"}, "draft": False},
    {"date": "2020-01-02", "year": None, "tags": []},
    {"date": "2020-01-02T03:04:05+02:00", "author": {"name": "Bob"}, "n": [{"a": 1}, {"a": 2}]},
    {"year": "2020", "tags": "x"},
    {},
]
CASES: list[tuple[Filter, str]] = [
    (Compare("year", "==", 2021), "1"),
    (Compare("year", "==", "2020"), "4"),
    (Compare("year", "!=", 2020), "12345"),
    (Compare("year", ">", 2020), "1"),
    (Compare("year", ">=", 2020), "01"),
    (Compare("year", "<", 2021), "0"),
    (Compare("year", "<=", 2020.5), "0"),
    (Compare("year", "in", [2020, "2020", 7]), "04"),
    (Compare("year", "not in", [2020, 2021]), "2345"),
    (Compare("year", "in", []), ""),
    (Compare("year", "not in", []), "012345"),
    (Compare("year", "==", None), "235"),
    (Compare("year", "!=", None), "014"),
    (Compare("year", "in", [None, 2021]), "1235"),
    (Compare("tags", "==", "x"), "04"),
    (Compare("tags", "==", None), "1235"),
    (Compare("tags", "in", ["y", "z"]), "0"),
    (Compare("draft", "==", True), "0"),
    (Compare("draft", "==", False), "1"),
    (Compare("draft", "==", 1), ""),
    (Compare("draft", "!=", True), "12345"),
    (Compare("author.name", "==", "Ada"), "1"),
    (Compare("metadata.author.name", "in", ["Ada", "Bob"]), "13"),
    (Compare("author.born", "<", "1900-01-01"), "1"),
    (Compare("date", ">=", "2020-01-02"), "23"),
    (Compare("date", ">", "2020-01-02T01:00:00Z"), "3"),
    (Compare("date", ">", 5), ""),
    (Compare("n[].a", "==", 2), "3"),
    (Compare("missing", "==", "x"), ""),
    (Compare("missing", ">", 1), ""),
    (Compare("missing", "!=", "x"), "012345"),
    (Compare("id", "in", ["1", "5"]), "15"),
    (Compare("text", "==", "text 2"), "2"),
    (Compare("start", ">", 3), "45"),
    (And(), "012345"),
    (Or(), ""),
    (Not(And()), ""),
    (And(Compare("year", ">", 2000), Compare("draft", "==", False)), "1"),
    (Or(Compare("year", "==", 2020), Compare("date", "!=", None)), "023"),
    (Not(Or(Compare("year", "==", 2020), Compare("date", "!=", None))), "145"),
    (Not(Compare("year", ">", 2020)), "02345"),
    ({"source": "a.txt", "author.name": "Bob"}, "3"),
    ({}, "012345"),
    (And({"tags": "x"}, Not({"draft": True})), "4"),
]


def write_documents(store: VectorStore) -> None:
    store.upsert(
        [
            Passage(str(i), f"text {i}", "a.txt", "", i, i + 6, "", metadata)
            for i, metadata in enumerate(DOCUMENTS)
        ],
        unit_rows(len(DOCUMENTS)),
    )


@pytest.fixture(scope="module", params=KINDS)
def documents(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VectorStore]:
    store = make(request.param, tmp_path_factory.mktemp("stores"))
    write_documents(store)
    yield store
    store.close()


@pytest.mark.parametrize(("filter", "expected"), CASES, ids=lambda value: str(value)[:60])
def test_filters(documents: VectorStore, filter: Filter, expected: str) -> None:
    assert sorted(ids(documents.scan(filter))) == list(expected)
    assert documents.count(filter) == len(expected)
    for mode in ("dense", "hybrid"):
        found = documents.search(unit_rows(1)[0], text="text", k=10, mode=mode, filter=filter)
        assert sorted(ids(found)) == list(expected)


def test_delete_matching(store: VectorStore) -> None:
    write_documents(store)
    assert store.delete_matching(Compare("year", "!=", None)) == 3
    assert sorted(ids(store.scan())) == ["2", "3", "5"]


_values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "b", "2020-01-01", ""])
)
_metadata = st.dictionaries(
    st.sampled_from("pqr"), st.one_of(_values, st.lists(_values, max_size=3)), max_size=3
)
_leaves = st.one_of(
    st.builds(Compare, st.sampled_from("pqr"), st.sampled_from(["==", "!="]), _values),
    st.builds(
        Compare,
        st.sampled_from("pqr"),
        st.sampled_from(["in", "not in"]),
        st.lists(_values, max_size=3),
    ),
    st.builds(
        Compare,
        st.sampled_from("pqr"),
        st.sampled_from(["<", "<=", ">", ">="]),
        st.one_of(st.integers(-3, 3), st.sampled_from(["2020-01-01", "2019-05-05T00:00:00"])),
    ),
)
_filters = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(lambda parts: And(*parts), st.lists(inner, max_size=3)),
        st.builds(lambda parts: Or(*parts), st.lists(inner, max_size=3)),
        st.builds(Not, inner),
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "memory"])
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(_metadata, min_size=1, max_size=6), st.lists(_filters, min_size=8, max_size=8))
def test_every_store_filters_as_memory_does(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    found: list[dict[str, Any]],
    filters: list[Filter],
) -> None:
    other, memory = make(kind, tmp_path_factory.mktemp("random")), MemoryStore(MANIFEST)
    for store in (other, memory):
        store.upsert(
            [Passage(str(i), "", "a", "", 0, 0, "", m) for i, m in enumerate(found)],
            unit_rows(len(found)),
        )
    for filter in filters:
        assert sorted(ids(other.scan(filter))) == sorted(ids(memory.scan(filter))), filter
    other.close()


# --- Bad input ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (Compare("year", ">", "soon"), "'>' compares with a number or an ISO 8601 date"),
        (Compare("year", ">", True), "'>' compares with a number"),
        (Compare("year", ">", None), "'>' compares with a number"),
        (Compare("year", "in", "abc"), "'in' needs a list of values"),
        (Compare("year", "==", [1]), "values are strings, numbers, booleans or None, not list"),
        (Compare("year", "==", math.nan), "a number must be finite"),
        (Compare("year", "=", 1), "operator must be one of == != < <= > >= in not in: got '='"),
        (Compare("", "==", 1), "must be a name like 'author.name': got ''"),
        (Compare("a..b", "==", 1), r"must be a name like 'author.name': got 'a\.\.b'"),
        (["year"], "must be a Compare, And, Or, Not, or a mapping .* got list"),
    ],
)
def test_a_wrong_filter_is_an_error(store: VectorStore, filter: Any, message: str) -> None:
    for call in (
        lambda: store.search(unit_rows(1)[0], k=1, filter=filter),
        lambda: store.count(filter),
        lambda: list(store.scan(filter)),
        lambda: store.delete_matching(filter),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_wrong_arguments_are_errors(store: VectorStore) -> None:
    with pytest.raises(InputError, match=r"got shape \(2, 8\), expected \(3, 8\)"):
        store.upsert(passages(3), unit_rows(2))
    with pytest.raises(InputError, match=r"got shape \(3, 4\), expected \(3, 8\)"):
        store.upsert(passages(3), unit_rows(3)[:, :4])
    with pytest.raises(InputError, match="must stand once in a call"):
        store.upsert(passages(1) * 2, unit_rows(2))
    with pytest.raises(InputError, match="vectors must be finite"):
        store.upsert(passages(1), np.full((1, D), np.nan, np.float32))
    with pytest.raises(InputError, match=r"must have shape \(8,\): got \(4,\)"):
        store.search(unit_rows(1)[0, :4], k=1)
    with pytest.raises(InputError, match="a query vector must be finite"):
        store.search(np.full(D, np.inf, np.float32), k=1)
    with pytest.raises(InputError, match="k must be a whole number of at least 1: got 0"):
        store.search(unit_rows(1)[0], k=0)
    with pytest.raises(InputError, match="mode 'hybrid' needs a query vector: got none"):
        store.search(text="x", k=1, mode="hybrid")
    with pytest.raises(InputError, match="mode 'bm25' needs the question as text: got None"):
        store.search(unit_rows(1)[0], k=1, mode="bm25")
    with pytest.raises(
        InputError, match=r"mode must be one of dense, bm25, sparse, hybrid, .*: got 'best'"
    ):
        store.search(unit_rows(1)[0], k=1, mode="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="metadata must be what JSON can hold: passage x has"):
        store.upsert([Passage("x", "", "", "", 0, 0, "", {"a": object()})], unit_rows(1))
    with pytest.raises(InputError, match="id must be a str that is not empty"):
        store.upsert([Passage("", "", "", "", 0, 0)], unit_rows(1))
    assert store.count() == 0
