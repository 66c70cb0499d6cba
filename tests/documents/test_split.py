"""Splitting: every passage fits the model, is an exact range of the text, and has a stable id."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
from semantic_text_splitter import TextSplitter

from quaver.documents import Document, Section, embedded_text, read_document, split
from quaver.documents.split import CHARACTERS_PER_TOKEN, _blocks
from quaver.errors import InputError
from quaver.models.tokenizer import Tokenizer

SAMPLES = Path(__file__).parents[2] / "examples" / "python-docs"


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_folder, max_length=64)


def document(text: str, *headings: str) -> Document:
    return Document("a.txt", text, (Section(headings, 0, len(text)),))


@pytest.mark.parametrize(
    "source",
    ["tutorial/modules.rst", "tutorial/appetite.rst", "howto/sorting.html", "idlelib/README.txt"],
)
@pytest.mark.parametrize("budget", [16, 62, 200])
def test_real_documents_fit_and_offsets_are_exact(
    tokenizer: Tokenizer, source: str, budget: int
) -> None:
    read = read_document(SAMPLES / source, source=source)
    passages = split(read, tokenizer, budget)
    assert passages
    for passage in passages:
        assert tokenizer.count(embedded_text(passage.heading, passage.text)) <= budget
        assert read.text[passage.start : passage.end] == passage.text == passage.text.strip()
    assert len({passage.id for passage in passages}) == len(passages)
    assert all(a.end <= b.start for a, b in pairwise(passages))


def test_nothing_but_white_space_is_lost(tokenizer: Tokenizer) -> None:
    read = read_document(SAMPLES / "tutorial" / "modules.rst")
    passages = split(read, tokenizer, 40)
    kept = "".join("".join(passage.text.split()) for passage in passages)
    sections = (read.text[section.start : section.end] for section in read.sections)
    assert kept == "".join("".join(section.split()) for section in sections)


def test_offsets_are_characters_not_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Größe 😀 naïve. " * 60, encoding="utf-8")
    decoded = path.read_bytes().decode()
    for passage in split(read_document(path), tokenizer, 20):
        assert decoded[passage.start : passage.end] == passage.text


def test_sentences_stay_whole_where_they_fit(tokenizer: Tokenizer) -> None:
    passages = split(document("The man said it. " * 20), tokenizer, 16)
    assert all(passage.text.endswith("it.") for passage in passages)


def test_a_word_longer_than_the_model_is_cut(tokenizer: Tokenizer) -> None:
    passages = split(document("(" * 100), tokenizer, 8)
    assert "".join(passage.text for passage in passages) == "(" * 100
    assert all(tokenizer.count(passage.text) <= 8 for passage in passages)


UNBROKEN = {
    "base64": "iVBORw0KGgoAAAANSUhEUgAA",
    "a letter": "A",
    "Chinese": "東京都新宿区",
    "Thai": "ภาษาไทยเป็นภาษาที่",
    "minified": "function a(b,c){return b+c};",
    "data URI": "url(data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA),",
    "dots": ".",
    "spaces": "                                        x",
    "lines": "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\nx",
    "combining marks": "e\u0301\u0327",
    "joiners": "\u200d",
    "flags": "🇩🇪",
    "a table row": "| the list ",
    "sentences": "The man said it. ",
    "nested": "> > > - - 1. ",
}


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("unit", UNBROKEN.values(), ids=UNBROKEN)
def test_a_passage_has_an_end(tokenizer: Tokenizer, unit: str, markdown: bool) -> None:
    text = "Before it. " + (unit * (40_000 // len(unit))) + " and behind it."
    whole = Document("a", text, (Section(("A heading",), 0, len(text)),), markdown=markdown)
    passages = split(whole, tokenizer, 62)
    assert all(len(p.text) <= 62 * CHARACTERS_PER_TOKEN for p in passages)
    assert all(tokenizer.count(embedded_text(p.heading, p.text)) <= 62 for p in passages)
    assert "".join("".join(p.text.split()) for p in passages) == "".join(text.split())
    assert all(text[passage.start : passage.end] == passage.text for passage in passages)
    assert all(a.end <= b.start for a, b in pairwise(passages))


def test_a_long_heading_has_an_end(tokenizer: Tokenizer) -> None:
    (passage,) = split(document("text", "A" * 100_000), tokenizer, 62)
    assert 0 < len(passage.heading) <= 15 * CHARACTERS_PER_TOKEN
    (passage,) = split(document("text", "A" * 100_000, "list"), tokenizer, 62)
    assert passage.heading == "list"


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["東京都新宿区", "a,", "the list ", "x(){}", "the list\n", "the\n\n"]
)
def test_splitting_looks_at_a_long_text_a_few_times_only(
    unit: str, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    given: list[int] = []

    class Splitter:
        """The real one looks through all that it is given for each piece of it."""

        def __init__(self, count: Callable[[str], int], room: int) -> None:
            self._real = TextSplitter.from_callback(count, room)

        from_callback = classmethod(lambda cls, count, room: cls(count, room))

        def chunk_indices(self, text: str) -> list[tuple[int, str]]:
            pieces = self._real.chunk_indices(text)
            given.append(len(text) * len(pieces))
            return pieces

    monkeypatch.setattr(import_module("quaver.documents.split"), "TextSplitter", Splitter)
    work = []
    for size in (50_000, 200_000):
        given.clear()
        split(document(unit * (size // len(unit))), tokenizer, 62)
        work.append(sum(given))
    assert work[1] <= 6 * work[0]


def test_an_ordinary_text_is_split_as_one_block() -> None:
    lines = "The man said it. He went home.\n" * 500  # less than 256 characters for each token
    assert list(_blocks(lines, 62)) == [(0, len(lines))]
    sentences = "The man said it. " * 230 + "\n"  # less than 64 characters for each token
    assert list(_blocks(sentences * 3, 62)) == [(0, len(sentences) * 3)]
    paragraphs = "The man said it.\r\nHe went home.\r\n\r\n" * 2_000
    assert all(paragraphs[:end].endswith("\r\n\r\n") for _, end in _blocks(paragraphs, 62))
    assert all(end - begin < 257 * 62 for begin, end in _blocks(paragraphs, 62))
    lines *= 10
    assert all(lines[:end].endswith("\n") for _, end in _blocks(lines, 62))
    assert all(end - begin < 513 * 62 for begin, end in _blocks(lines, 62))
    line = "The man said it. " * 1_000
    blocks = list(_blocks(line, 62))
    assert all(line[:end].endswith("it. ") for _, end in blocks)
    assert [begin for begin, _ in blocks] == [0, *(end for _, end in blocks[:-1])]


def test_a_long_heading_path_keeps_its_innermost_part(tokenizer: Tokenizer) -> None:
    inner = split(document("text", "the file " * 30, "list"), tokenizer, 32)
    assert [passage.heading for passage in inner] == ["list"]
    cut = split(document("text", "the file " * 30), tokenizer, 32)
    assert cut[0].heading
    assert tokenizer.count(cut[0].heading) <= 8


def test_equal_passages_get_different_ids_and_every_run_the_same(tokenizer: Tokenizer) -> None:
    text = "the same words again here.\n\n" * 6
    first = split(document(text), tokenizer, 8)
    assert len({passage.id for passage in first}) == len(first) > 1
    assert first == split(document(text), tokenizer, 8)


def test_ids_do_not_depend_on_the_position(tokenizer: Tokenizer) -> None:
    def ids(start: int) -> list[str]:
        text = " " * start + "the man said it"
        return [passage.id for passage in split(document(text), tokenizer, 20)]

    assert ids(0) == ids(7)


def test_a_document_without_text_has_no_passages(tokenizer: Tokenizer) -> None:
    assert split(document("  \n "), tokenizer, 20) == []
    assert split(Document("a.txt", "", ()), tokenizer, 20) == []


def test_too_small_a_budget_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="max_tokens must be at least 8: got 7"):
        split(document("text"), tokenizer, 7)
