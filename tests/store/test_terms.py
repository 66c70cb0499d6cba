"""Terms of keyword search: those of Qdrant, on which stores were built."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quaver.errors import InputError
from quaver.store.check import check_store
from quaver.store.folder import FolderStore
from quaver.store.terms import LANGUAGES, TermAnalyzer

TESTS = Path(__file__).parents[1]
CORPUS = TESTS.parent / "examples/python-docs"
GOLDEN = json.loads((TESTS / "golden/terms.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GOLDEN["files"])
def test_the_sample_corpus_has_the_terms_of_qdrant(name: str) -> None:
    terms = TermAnalyzer("english").document((CORPUS / name).read_text(encoding="utf-8"))
    assert zlib.crc32(np.array(terms.indices, np.uint32)) == GOLDEN["files"][name]


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_have_the_stems_and_stop_words_of_qdrant(language: str) -> None:
    words: dict[str, int | None] = GOLDEN["words"][language]
    assert None in words.values()
    analyzer = TermAnalyzer(language)
    for word, term in words.items():
        expected = [] if term is None else [term]
        for form in (word, word.capitalize()) if language != "turkish" else (word,):
            assert analyzer.query(form).indices == expected, form
            assert analyzer.document(f"({form})").indices == expected, form


def test_a_passage_weighs_words_by_how_often_it_has_them() -> None:
    analyzer = TermAnalyzer("english")
    terms = analyzer.document("The cat sat. Cats: 1 mat_mat!")
    weights = dict(zip(terms.indices, terms.values, strict=True))
    assert terms.indices == sorted(weights)
    norm = 1.2 * (0.25 + 0.75 * 6 / 128)  # cat, sat, cats, 1, mat, mat
    for word, often in (("cat", 2), ("sat", 1), ("1", 1), ("mat", 2)):
        (term,) = analyzer.query(word).indices
        assert math.isclose(weights.pop(term), often * 2.2 / (often + norm))
    assert not weights


@pytest.mark.parametrize("text", ["", " ", "...", "the of", "\N{COMBINING ACUTE ACCENT}"])
def test_text_without_words_has_no_terms(text: str) -> None:
    analyzer = TermAnalyzer("english")
    assert analyzer.document(text).indices == analyzer.query(text).indices == []


def test_no_language_keeps_words() -> None:
    analyzer = TermAnalyzer("none")
    assert analyzer.query("The").indices == analyzer.query("the").indices != []
    assert analyzer.query("lists").indices != analyzer.query("list").indices


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"language must be one of arabic, .* or none: got 'latin'"
    ):
        TermAnalyzer("latin")


@pytest.mark.parametrize(
    ("passage", "finds", "misses"),
    [
        ("東京は日本の首都です。", ["日本", "首都", "東", "東京 首都"], ["京都", "本日", "大"]),
        ("我们学习机器学习。", ["机器", "学习", "机"], ["习学", "器械"]),
        ("서울은 대한민국의 수도이다", ["대한", "수도", "서울"], ["국대", "부산"]),
        ("กรุงเทพเป็นเมืองหลวง", ["กรุงเทพ", "เมือง"], ["ไทย"]),
        ("𠮷野家で牛丼を", ["𠮷野", "牛丼"], ["家野"]),
    ],
)
def test_scripts_without_spaces_are_found_by_pairs_of_characters(
    passage: str, finds: list[str], misses: list[str]
) -> None:
    analyzer = TermAnalyzer("english")
    held = set(analyzer.document(passage).indices)
    for question in finds:
        asked = analyzer.query(question).indices
        assert asked, question
        assert held.issuperset(asked), question
    for question in misses:
        assert not held.intersection(analyzer.query(question).indices), question


def test_words_beside_a_script_without_spaces_are_words() -> None:
    analyzer = TermAnalyzer("english")
    mixed = set(analyzer.document("Qdrantのlists").indices)
    assert mixed.issuperset(analyzer.query("qdrant list").indices)
    assert mixed.issuperset(analyzer.query("の").indices)
    assert len(mixed) == 3


def test_threads_share_an_analyzer() -> None:
    words = sorted({f"{a}{b}" for a in GOLDEN["words"]["english"] for b in ("ing", "ed", "s")})
    texts = [" ".join(words[i::8]) for i in range(8)] * 4
    alone = [TermAnalyzer("english").query(text).indices for text in texts]
    shared = TermAnalyzer("english")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: shared.query(text).indices, texts)) == alone


def test_a_store_made_with_qdrants_terms_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kb"
    shutil.copytree(TESTS / "golden/store-3", path)
    assert check_store(path).ok
    with FolderStore.open(path) as store:
        assert store.count() == 5
        for text, found in (("list", "02"), ("university", "3"), ("keys", "1"), ("the", "")):
            assert {hit.id for hit in store.search(text=text, k=5)} == set(found), text
        nearest = store.search(np.eye(5, 8, dtype=np.float32)[4], k=1)[0]
        assert (nearest.id, nearest.text) == ("4", "Sets have no order.")
