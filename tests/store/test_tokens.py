"""Sparse and token vectors in every store, and what damage, kills and compaction do to them in a folder."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qdrant_client import QdrantClient

from quaver import SparseVector
from quaver.documents import Passage
from quaver.documents.passage import content_digest
from quaver.errors import InputError, StoreError, StoreMismatchError
from quaver.store import (
    Compare,
    FileVersion,
    Manifest,
    PassageTokens,
    TokenModel,
    VectorStore,
)
from quaver.store import folder as folder_module
from quaver.store.check import check_store, repair_store
from quaver.store.folder import FolderStore
from quaver.store.memory import MemoryStore
from quaver.store.qdrant_server import QdrantStore
from quaver.store.state import State
from sample_passages import D, unit_rows

WORDS = 50
LENGTH = 16
N = 40
PLAIN = Manifest("model", "f" * 64, D, 100, "2030-01-01T00:00:00+00:00")
SPARSE = TokenModel("splade", "a" * 64, WORDS, {"max_active_dims": 9})
MULTI = TokenModel("colbert", "b" * 64, LENGTH)
BOTH = Manifest("model", "f" * 64, D, 100, "2030-01-01T00:00:00+00:00", sparse=SPARSE, multi=MULTI)
PASSAGES = [
    Passage(str(i), f"common text{i}", f"{i % 4}.txt", "", 0, 9, "/r", {"page": i % 5})
    for i in range(N)
]
ROWS = unit_rows(N)
VERSIONS = {f"{i}.txt": FileVersion("d", N // 4) for i in range(4)}


def weights(seed: int, most: int = 12) -> SparseVector:
    rng = np.random.default_rng(seed)
    words = np.sort(rng.choice(WORDS, rng.integers(1, most), replace=False)).astype(np.int32)
    values = rng.integers(1, 200, len(words)) / 64  # float16 holds them exactly
    return SparseVector(words, values.astype(np.float32), WORDS)


def token_rows(seed: int) -> NDArray[np.int8]:
    rng = np.random.default_rng(1000 + seed)
    return rng.integers(-127, 128, (rng.integers(2, 9), LENGTH)).astype(np.int8)


TOKENS = [PassageTokens(weights(i), token_rows(i)) for i in range(N)]
QUERY = weights(99)
QUESTION = unit_rows(5 * 2, seed=3).reshape(5, LENGTH)


def products(query: SparseVector = QUERY) -> NDArray[np.float32]:
    dense = query.to_dense()
    return np.array([one.sparse.to_dense() @ dense for one in TOKENS if one.sparse is not None])


def maxsims() -> NDArray[np.float32]:
    return np.array(
        [
            (QUESTION @ (one.multi.T / 127)).max(axis=1).sum()
            for one in TOKENS
            if one.multi is not None
        ]
    )


def make(kind: str, folder: Path, manifest: Manifest = BOTH) -> VectorStore:
    if kind == "folder":
        return FolderStore.create(folder / "kb", manifest)
    if kind == "server":
        with warnings.catch_warnings():
            # The client's in-process mode has no payload indexes, and says so.
            warnings.filterwarnings("ignore", "Payload indexes have no effect")
            return QdrantStore.create("qdrant://localhost/kb", manifest, QdrantClient(":memory:"))
    return MemoryStore(manifest)


@pytest.fixture(params=["folder", "memory", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    made = make(request.param, tmp_path)
    yield made
    made.close()


def fill(store: VectorStore) -> None:
    for first in range(0, N, 8):
        part = slice(first, first + 8)
        store.upsert(PASSAGES[part], ROWS[part], versions=VERSIONS, tokens=TOKENS[part])
        store.flush()


def require_equal(found: PassageTokens | None, expected: PassageTokens) -> None:
    assert found is not None
    assert found.sparse is not None
    assert found.multi is not None
    assert expected.sparse is not None
    assert found.sparse.size == WORDS
    assert found.sparse.indices.tolist() == expected.sparse.indices.tolist()
    assert found.sparse.values.tolist() == expected.sparse.values.tolist()
    np.testing.assert_array_equal(found.multi, expected.multi)
    assert found.multi.dtype == np.int8


# --- Every store ----------------------------------------------------------------------------------
def test_tokens_come_back(store: VectorStore) -> None:
    fill(store)
    assert store.incomplete() == []
    for row in store.get(["7", "31"], with_vectors=True):
        require_equal(row.tokens, TOKENS[int(row.passage.id)])
    assert all(row.tokens is None for row in store.get(["7"]))
    assert {row.passage.id for row in store.scan(with_vectors=True) if row.tokens} == set(
        map(str, range(N))
    )
    found = store.tokens(["3", "none", "12"])
    assert set(found) == {"3", "12"}
    require_equal(found["12"], TOKENS[12])
    digest = content_digest("", "common text9")
    require_equal(store.tokens_of_content([digest, "0" * 32])[digest], TOKENS[9])


def test_a_sparse_search_is_exact(store: VectorStore) -> None:
    fill(store)
    expected = products()
    hits = store.search(sparse=QUERY, k=N)
    assert [hit.id for hit in hits] == sorted(
        (str(i) for i in np.flatnonzero(expected)),
        key=lambda i: -expected[int(i)],
    )
    # Sums of products that float32 holds, in another order.
    np.testing.assert_allclose(
        [hit.score for hit in hits], [expected[int(hit.id)] for hit in hits], rtol=1e-6
    )
    only = store.search(sparse=QUERY, k=N, filter=Compare("page", "==", 2))
    assert [hit.id for hit in only] == [hit.id for hit in hits if hit.metadata["page"] == 2]
    store.delete([hits[0].id])
    store.upsert([PASSAGES[int(hits[1].id)]], ROWS[:1], versions=VERSIONS, tokens=[TOKENS[0]])
    after = store.search(sparse=TOKENS[0].sparse, k=2)
    assert {hit.id for hit in after} == {"0", hits[1].id}
    assert hits[0].id not in {hit.id for hit in store.search(sparse=QUERY, k=N)}


def test_an_empty_query_of_weights_finds_nothing(store: VectorStore) -> None:
    fill(store)
    nothing = SparseVector(np.zeros(0, np.int32), np.zeros(0, np.float32), WORDS)
    assert store.search(sparse=nothing, k=3) == []
    dense = store.search(ROWS[0], sparse=nothing, k=3, mode="dense+sparse")
    assert dense[0].id == "0"


@pytest.mark.parametrize("mode", ["dense+sparse", "dense+bm25+sparse"])
def test_ranks_are_fused(store: VectorStore, mode: Any) -> None:
    fill(store)
    ranks: dict[str, float] = {}
    parts = [store.search(ROWS[4], k=100), store.search(sparse=QUERY, k=100)]
    if mode == "dense+bm25+sparse":
        parts.append(store.search(text="text7 common", k=100))
    for part in parts:
        for rank, hit in enumerate(part, start=1):
            ranks[hit.id] = ranks.get(hit.id, 0.0) + 1 / (60 + rank)
    hits = store.search(ROWS[4], text="text7 common", sparse=QUERY, k=7, mode=mode)
    best = sorted(ranks.values(), reverse=True)[:7]
    np.testing.assert_allclose([hit.score for hit in hits], best, rtol=1e-9)
    assert all(abs(ranks[hit.id] - hit.score) < 1e-9 for hit in hits)
    if mode == "dense+bm25+sparse":
        assert store.search(ROWS[4], text="text7 common", sparse=QUERY, k=7) == hits


def test_candidates_are_reranked_by_maxsim(store: VectorStore) -> None:
    fill(store)
    expected = maxsims()
    hits = store.search(ROWS[0], k=5, multi=QUESTION, candidates=N)
    order = np.argsort(-expected)[:5].tolist()
    assert [hit.id for hit in hits] == list(map(str, order))
    # float32 sums; a server holds the vectors in float16.
    np.testing.assert_allclose([hit.score for hit in hits], expected[order], rtol=2e-3)
    few = [hit.id for hit in store.search(ROWS[0], k=6)]
    again = store.search(ROWS[0], k=2, multi=QUESTION, candidates=6)
    assert [hit.id for hit in again] == sorted(few, key=lambda i: -expected[int(i)])[:2]


def test_a_passage_without_tokens_is_named_and_not_found(store: VectorStore) -> None:
    fill(store)
    bare = Passage("bare", "common text", "", "", 0, 11)
    store.upsert([bare], ROWS[:1])
    half = Passage("half", "common half", "", "", 0, 11)
    store.upsert([half], ROWS[1:2], tokens=[PassageTokens(sparse=weights(3))])
    assert sorted(store.incomplete()) == ["bare", "half"]
    assert store.tokens(["bare", "half"]) == {}
    assert "bare" not in {hit.id for hit in store.search(sparse=QUERY, k=N + 2)}
    reranked = store.search(ROWS[0], k=N + 2, multi=QUESTION)
    assert {hit.id for hit in reranked} == set(map(str, range(N)))
    store.upsert([bare, half], ROWS[:2], tokens=TOKENS[:2])
    assert store.incomplete() == []
    # A passage that is replaced without tokens loses them.
    store.upsert([bare], ROWS[:1])
    assert store.incomplete() == ["bare"]


def test_a_passage_without_any_word_or_token(store: VectorStore) -> None:
    empty = PassageTokens(
        SparseVector(np.zeros(0, np.int32), np.zeros(0, np.float32), WORDS),
        np.zeros((0, LENGTH), np.int8),
    )
    store.upsert(PASSAGES[:2], ROWS[:2], tokens=[empty, TOKENS[1]])
    assert store.incomplete() == []
    require_equal(store.tokens(["0"])["0"], empty)
    assert [hit.id for hit in store.search(ROWS[0], k=2, multi=QUESTION)][-1] in "01"


def test_wrong_tokens_are_errors(store: VectorStore) -> None:
    def bad(words: Sequence[int], values: Sequence[float], size: int = WORDS) -> PassageTokens:
        return PassageTokens(
            SparseVector(np.array(words, np.int32), np.array(values, np.float32), size),
            TOKENS[0].multi,
        )

    for tokens, message in (
        ([], "one entry per passage"),
        ([bad([1], [1.0], 40)], "of the store's 50 words"),
        ([bad([-1, 2], [1.0, 1.0])], "of the store's 50 words"),
        ([bad([2, 1], [1.0, 1.0])], "must rise"),
        ([bad([1, 50], [1.0, 1.0])], "must rise"),
        ([bad([1], [np.nan])], "finite"),
        ([bad([1], [1e6])], "finite and at most 65504"),
        ([PassageTokens(multi=np.zeros((2, 3), np.int8))], r"int8 of shape \(T, 16\)"),
        ([PassageTokens(multi=np.zeros((2, LENGTH), np.float32))], "int8 of shape"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=message):
            store.upsert(PASSAGES[:1], ROWS[:1], tokens=tokens)
    assert store.count() == 0
    wrong = SparseVector(QUERY.indices, QUERY.values, 51)
    for arguments, message in (
        ({"sparse": wrong}, "of the store's 50 words: got 51"),
        ({"mode": "sparse"}, "needs the question's weights"),
        ({"vector": ROWS[0], "multi": QUESTION[:, :3]}, r"shape \(T, 16\)"),
        ({"vector": ROWS[0], "multi": QUESTION * np.nan}, "finite"),
        ({"vector": ROWS[0], "multi": QUESTION, "candidates": 0}, "candidates"),
    ):
        with pytest.raises(InputError, match=message):
            store.search(k=3, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["folder", "memory", "server"])
def test_a_store_without_them_says_how_to_add_them(kind: str, tmp_path: Path) -> None:
    store = make(kind, tmp_path, PLAIN)
    store.upsert(PASSAGES[:2], ROWS[:2])
    assert store.incomplete() == []
    with pytest.raises(StoreMismatchError, match=r"no sparse vectors: add them .* --sparse MODEL"):
        store.search(sparse=QUERY, k=3)
    with pytest.raises(StoreMismatchError, match=r"no token vectors: add them .* --multi MODEL"):
        store.search(ROWS[0], k=3, multi=QUESTION)
    with pytest.raises(InputError, match="of the store's None words"):
        store.upsert(PASSAGES[:1], ROWS[:1], tokens=TOKENS[:1])
    if kind == "server":
        with pytest.raises(StoreMismatchError, match="set when it is created"):
            store.add_models(sparse=SPARSE)
    else:
        store.add_models(sparse=SPARSE)
        assert store.manifest.sparse == SPARSE
        assert sorted(store.incomplete()) == ["0", "1"]
    store.close()


def test_another_model_is_refused(store: VectorStore) -> None:
    other = TokenModel("other", "c" * 64, WORDS)
    with pytest.raises(StoreMismatchError, match=r"sparse vectors .* were made with splade"):
        store.add_models(sparse=other)
    with pytest.raises(StoreMismatchError, match=r"token vectors .* were made with colbert"):
        store.add_models(multi=TokenModel("colbert", "b" * 64, 8))
    store.add_models(sparse=SPARSE, multi=MULTI)  # the same ones change nothing
    assert store.manifest == BOTH


# --- A folder -------------------------------------------------------------------------------------
def answers(path: Path, *, read_only: bool = True) -> dict[str, Any]:
    with FolderStore.open(path, read_only=read_only) as store:
        return {
            "manifest": store.manifest,
            "sparse": store.search(sparse=QUERY, k=N),
            "maxsim": store.search(ROWS[0], k=9, multi=QUESTION),
            "dense": store.search(ROWS[3], k=9),
            "words": store.search(text="text5", k=9),
            "tokens": {
                row.passage.id: (
                    row.tokens.sparse.indices.tolist(),
                    row.tokens.sparse.values.tolist(),
                    row.tokens.multi.tolist(),
                )
                for row in store.scan(with_vectors=True)
                if row.tokens is not None
                and row.tokens.sparse is not None
                and row.tokens.multi is not None
            },
        }


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound")
    store = make("folder", path)
    fill(store)
    store.delete(["11", "30"])
    store.close()
    return path / "kb"


def test_a_folder_survives_reopening_and_compaction(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(sound, tmp_path / "kb"))
    before = answers(path)
    assert len(before["tokens"]) == N - 2
    monkeypatch.setattr(folder_module, "MIN_DROPPED", 1)
    monkeypatch.setattr(folder_module, "MAX_DROPPED_SHARE", 0.01)
    with FolderStore.open(path) as store:
        reader = FolderStore.open(path, read_only=True)
        store.optimize()
        assert State.read(path).generation == 2
        assert reader.search(sparse=QUERY, k=N) == before["sparse"]
        assert reader.refresh()
        assert reader.search(sparse=QUERY, k=N) == before["sparse"]
        reader.close()
    assert answers(path) == before
    assert check_store(path).ok
    names = [file.name for file in path.iterdir() if file.suffix != ".json"]
    assert {name.split(".")[1] for name in names if "." in name} == {"2"}


def test_files_of_sparse_vectors_are_merged(tmp_path: Path) -> None:
    store = make("folder", tmp_path)
    for i in range(N):
        store.upsert(
            PASSAGES[i : i + 1], ROWS[i : i + 1], versions=VERSIONS, tokens=TOKENS[i : i + 1]
        )
        if i % 3 == 0:  # some are found before they are on disk
            store.flush()
        assert str(i) in {hit.id for hit in store.search(sparse=TOKENS[i].sparse, k=N)}
    expected = store.search(sparse=QUERY, k=N)
    store.close()
    assert len(list((tmp_path / "kb").glob("sparse.1.*"))) < 10
    assert answers(tmp_path / "kb")["sparse"] == expected


def test_models_are_added_to_a_folder(tmp_path: Path) -> None:
    store = make("folder", tmp_path, PLAIN)
    store.upsert(PASSAGES, ROWS, versions=VERSIONS)
    store.flush()
    path = tmp_path / "kb"
    # Earlier versions read a store without: nothing in its files is new.
    assert '"format_version": 3' in (path / "quaver.json").read_text()
    assert "sparse" not in (path / "quaver.json").read_text() + (path / "state.json").read_text()
    reader = FolderStore.open(path, read_only=True)
    store.add_models(sparse=SPARSE)
    assert store.manifest.format_version == 4
    assert len(store.incomplete()) == N
    assert reader.refresh()
    assert reader.manifest == store.manifest
    store.upsert(
        PASSAGES, ROWS, versions=VERSIONS, tokens=[PassageTokens(t.sparse) for t in TOKENS]
    )
    store.add_models(multi=MULTI)
    assert len(store.incomplete()) == N
    for row in store.get([str(i) for i in range(N)], with_vectors=True):
        assert row.tokens is not None
        assert row.tokens.sparse is not None
        assert row.tokens.multi is None
    store.upsert(PASSAGES, ROWS, versions=VERSIONS, tokens=TOKENS)
    assert store.incomplete() == []
    store.close()
    reader.close()
    fresh = make("folder", tmp_path / "fresh")
    fill(fresh)
    fresh.close()
    assert answers(path) == answers(tmp_path / "fresh" / "kb")
    assert check_store(path).ok


def test_a_writer_that_dies_while_models_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    path = tmp_path / "kb"
    store = make("folder", tmp_path, PLAIN)
    store.upsert(PASSAGES, ROWS, versions=VERSIONS)
    store.close()
    # Before the commit: the store is as it was, and its stray files go.
    with FolderStore.open(path) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(State, "write", die)
            with pytest.raises(Died):
                opened.add_models(sparse=SPARSE, multi=MULTI)
        assert (path / "tokens.1").exists()
    FolderStore.open(path).close()
    assert not (path / "tokens.1").exists()
    assert FolderStore.open(path, read_only=True).manifest == PLAIN
    # After the commit, before its copy: the models are there, and the next writer copies them.
    with FolderStore.open(path) as opened, monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", die)
        with pytest.raises(Died):
            opened.add_models(sparse=SPARSE, multi=MULTI)
    assert Manifest.read(path) == PLAIN
    assert check_store(path).ok
    with FolderStore.open(path, read_only=True) as opened:
        assert opened.manifest == BOTH
    with FolderStore.open(path) as opened:
        assert len(opened.incomplete()) == N
    assert Manifest.read(path) == BOTH


def test_the_place_of_a_model_may_be_corrected(sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(sound, tmp_path / "kb"))
    text = (path / "quaver.json").read_text()
    (path / "quaver.json").write_text(text.replace('"splade"', '"/new/place"'))
    with FolderStore.open(path) as store:
        assert store.manifest.sparse is not None
        assert store.manifest.sparse.model == "/new/place"
    assert check_store(path).ok
    (path / "quaver.json").write_text(text.replace("a" * 64, "e" * 64))
    with FolderStore.open(path) as store:
        assert store.manifest == BOTH  # which models there are is what was committed
    for content in (
        '{"model": 3}',
        '"x"',
        '{"model": "m", "fingerprint": "f", "dimension": 0, "settings": {}}',
    ):
        start, end = text.index('"sparse": ') + 10, text.index(',\n  "multi"')
        (path / "quaver.json").write_text(text[:start] + content + text[end:])
        with pytest.raises(StoreError, match="needs 'sparse' with model"):
            FolderStore.open(path)


def encode(passages: Sequence[Passage], manifest: Manifest) -> list[PassageTokens]:
    assert manifest == BOTH
    return [TOKENS[int(passage.id)] for passage in passages]


def embed(passages: Sequence[Passage], manifest: Manifest) -> NDArray[np.float32]:
    return ROWS[[int(passage.id) for passage in passages]]


def require_sound_or_said(path: Path, whole: dict[str, Any]) -> None:
    """No foreign error, no false "ok", and a repair that restores what can be."""
    for read_only in (True, False):
        try:
            answered = answers(path, read_only=read_only)
        except StoreError:
            answered = {}
    found = check_store(path)
    if found.ok:
        assert answered == whole
        return
    done = repair_store(path, embed, encode)
    assert done.check.damages == found.damages
    assert check_store(path).ok
    now = answers(path)
    assert set(whole["tokens"]) - set(now["tokens"]) == set() or done.lost
    for identity, tokens in now["tokens"].items():
        one = TOKENS[int(identity)]
        assert one.sparse is not None
        assert one.multi is not None
        expected = one.sparse.indices.tolist(), one.sparse.values.tolist(), one.multi.tolist()
        assert tokens == expected
    if set(now["tokens"]) == set(whole["tokens"]):
        assert now == whole


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["flipped", "gone", "half", "zeros"])
def test_damage_is_never_believed(sound: Path, tmp_path: Path, how: str) -> None:
    whole = answers(sound)
    chance = random.Random(how)
    names = sorted(
        file.name
        for file in sound.iterdir()
        if file.name.partition(".")[0] in ("tokens", "weights", "multi", "sparse", "state")
    )
    assert len(names) > 8
    for turn in range(3 * len(names) if how == "flipped" else len(names)):
        path = tmp_path / "kb"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(sound, path)
        file = path / names[turn % len(names)]
        data = bytearray(file.read_bytes())
        if how == "flipped":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        contents = {"flipped": bytes(data), "half": bytes(data[: len(data) // 2])}
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(contents.get(how, bytes(len(data))))
        try:
            require_sound_or_said(path, whole)
        except BaseException as error:
            raise AssertionError(f"{file.name} {how}, turn {turn}") from error


def test_damaged_tokens_are_named_and_repaired(sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(sound, tmp_path / "kb"))
    for name in ("weights.1", "multi.1"):
        data = bytearray((path / name).read_bytes())
        data[1] ^= 1
        (path / name).write_bytes(data)
    found = check_store(path)
    assert [damage.part for damage in found.damages] == ["sparse", "multi"]
    with FolderStore.open(path, read_only=True) as store:
        with pytest.raises(StoreError, match=r"token vectors in .* are broken.*--repair"):
            store.search(ROWS[0], k=N, multi=QUESTION)
        assert store.search(ROWS[0], k=1)[0].id == "0"
    with pytest.raises(StoreError, match=r"1 passages of .* need new sparse or token vectors"):
        repair_store(path)
    assert repair_store(path, None, encode).embedded == 1
    assert answers(path) == answers(sound)
