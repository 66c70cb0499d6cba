"""A long text is cut before the tokenizer, and keeps its ids: for every kind of tokenizer."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from quaver.models.leading_text import _LETTERS, leading_text, trailing_text
from quaver.models.tokenizer import Tokenizer
from tiny_model import tiny_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
NAMES = [path.stem for path in sorted(GOLDEN.glob("*.json"))]


def golden(name: str) -> Backend:
    state = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["tokenizer"]
    return Backend.from_str(json.dumps(state))


def character_map(name: str) -> normalizers.Normalizer:
    """One of SentencePiece's character maps: XLM-R and T5 have nmt_nfkc, ALBERT nmt_nfkc_cf or nfkc."""
    package = pytest.importorskip("sentencepiece")
    content = Path(package.__file__).with_name("package_data") / f"{name}.bin"
    return normalizers.Precompiled(content.read_bytes())


def normalized(kind: str, *steps: normalizers.Normalizer) -> Backend:
    """A golden tokenizer with other normalizers, and double spaces made one after them."""
    backend = golden(kind)
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    backend.normalizer = normalizers.Sequence([*steps, spaces])
    return backend


def changed(name: str, change: Callable[[Backend], Any]) -> Backend:
    backend = golden(name)
    change(backend)
    return backend


def set_qwen(backend: Backend) -> None:
    expression = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def set_sentencepiece_bpe(backend: Backend) -> None:
    """Byte pairs behind SentencePiece's normalizer and its sign for a space, as Gemma's tokenizer has them."""
    backend.normalizer = character_map("nfkc_cf")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()


def add_words(backend: Backend) -> None:
    """Added tokens that take whitespace, stand alone, or are found after normalization."""
    backend.add_tokens(
        [
            AddedToken("list", lstrip=True, rstrip=True),
            AddedToken("Value", normalized=True),
            AddedToken("key", single_word=True),
            AddedToken("\u00e9t\u00e9", normalized=True, rstrip=True),
        ]
    )


KINDS: dict[str, Callable[[], Backend]] = {
    **{name: (lambda name=name: golden(name)) for name in NAMES},
    "tiny": tiny_tokenizer,
    "qwen": lambda: changed("modernbert", set_qwen),
    "nfkc": lambda: normalized("xlm-roberta", normalizers.NFKC()),
    "unigram of nmt_nfkc": lambda: normalized("xlm-roberta", character_map("nmt_nfkc")),
    "unigram of nmt_nfkc_cf": lambda: normalized("camembert", character_map("nmt_nfkc_cf")),
    "unigram of nfkc": lambda: normalized("deberta-v2", character_map("nfkc"), normalizers.Nmt()),
    "bpe of nfkc_cf": lambda: changed("modernbert", set_sentencepiece_bpe),
    "bert with words": lambda: changed("bert-uncased", add_words),
    "roberta with words": lambda: changed("roberta", add_words),
    "deberta with words": lambda: changed("deberta-v2", add_words),
}

FRAGMENTS = (
    " ", "  ", "\n", "\t", "\u00a0", "\u3000", "\u200b", "\u200d", "\u2581", "\u0301", "\u0345", "\u0600",
    "\u0d4e", "\ufdfa", "\ufb01", "\u037a", "\u00ad", "\x00", "\x1c", "a", "A", "9", "list", "Value", "key",
    "\u00e9t\u00e9", "e\u0301t", "na\u00efve", "\u4e2d\u6587", "\u3053\u308c", "\ud55c\uad6d", "\u0434\u0430",
    "\u0645\u0631",
    "\u0939\u093f", "\U0001f642", "'s", "'", "don't", "[MASK]", "<mask>", "<s>", "[SEP]", "``", "...", "-", "_",
    "the", "of", "code", "\r\n", "x" * 150, "\u0e01\u0e34", "\u1100\u1161", "\u11a8",
)  # fmt: skip
TEXTS = st.builds(
    lambda parts, times: "".join(parts) * times,
    st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=60),
    st.integers(1, 40),
)


@cache
def assigned_characters() -> tuple[list[str], list[str]]:
    """Return all characters of Unicode, and the letters among them."""
    every = "".join(map(chr, range(0x110000)))
    assigned = [c for c in every if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    return assigned, re.findall(f"[{_LETTERS}]", every)


@cache
def cutter_of(kind: str) -> tuple[Backend, Callable[[str, int], str]]:
    """Return a tokenizer, and what cuts its texts."""
    backend = KINDS[kind]()
    backend.no_padding()
    backend.no_truncation()
    cut = leading_text(backend)
    assert cut is not None
    return backend, cut


@cache
def tokenizers_of(kind: str, length: int) -> tuple[Tokenizer, Tokenizer]:
    """Return a tokenizer that cuts its texts first, and one that does not."""
    tokenizer, whole = (Tokenizer(KINDS[kind](), max_length=length) for _ in range(2))
    whole._leading = whole._trailing = None
    return tokenizer, whole


def ids(backend: Backend, text: str) -> list[int]:
    return list(backend.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", KINDS)
@given(
    text=TEXTS.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)), data=st.data()
)
def test_tokens_of_a_start_are_the_first_of_the_text(kind: str, text: str, data: Any) -> None:
    backend, cut = cutter_of(kind)
    start = cut(text, data.draw(st.integers(0, len(text)), label="size"))
    assert text.startswith(start)
    first = ids(backend, start)
    assert ids(backend, text)[: len(first)] == first


@pytest.mark.parametrize("kind", KINDS)
@given(
    text=TEXTS.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)), data=st.data()
)
def test_tokens_of_an_end_are_the_last_of_the_text(kind: str, text: str, data: Any) -> None:
    backend, _ = cutter_of(kind)
    cut = trailing_text(backend)
    if cut is None:
        return
    end = cut(text, data.draw(st.integers(0, len(text)), label="size"))
    assert text.endswith(end)
    last = ids(backend, end)
    assert ids(backend, text)[-len(last) or sys.maxsize :] == last


def test_which_tokenizers_cut_the_start_off() -> None:
    assert {kind for kind in KINDS if trailing_text(KINDS[kind]()) is not None} >= {
        "tiny",
        "bert-uncased",
        "qwen",
    }
    # Its added tokens take the whitespace that follows them.
    assert trailing_text(KINDS["bert with words"]()) is None


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_a_cut_text_has_the_ids_of_the_whole(kind: str, text: str) -> None:
    tokenizer, whole = tokenizers_of(kind, 8)
    for found, expected in (
        (tokenizer.encode([text, "a"]), whole.encode([text, "a"])),
        (tokenizer.encode_pairs([("a", text)]), whole.encode_pairs([("a", text)])),
        (tokenizer.encode([text, "a"], keep="end"), whole.encode([text, "a"], keep="end")),
        (
            tokenizer.encode_pairs([("a", text)], keep="end"),
            whole.encode_pairs([("a", text)], keep="end"),
        ),
    ):
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.offsets.tolist() == expected.offsets.tolist()
        assert found.truncated == expected.truncated


@pytest.mark.parametrize("name", ["nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf"])
def test_character_maps_are_local_at_the_place(name: str) -> None:
    """Whatever character follows the space, and whatever letter is before it."""
    normalize = character_map(name).normalize_str
    characters, letters = assigned_characters()
    for character in characters:
        assert normalize(f"a {character}").startswith("a "), hex(ord(character))
    assert len(letters) > 30_000
    for letter in letters:
        assert normalize(f"{letter} \u0301").startswith(f"{normalize(letter)} "), hex(ord(letter))


@pytest.mark.parametrize("kind", KINDS)
@given(
    parts=st.lists(
        st.text("abxyz", min_size=1, max_size=300) | st.text(min_size=1, max_size=40), max_size=8
    ),
    glue=st.sampled_from(["", "-", "\u200d", "\u3000", "\n", " ", "  "]),
    length=st.integers(3, 40),
)
def test_long_runs_without_spaces_keep_their_ids(
    kind: str, parts: list[str], glue: str, length: int
) -> None:
    text = glue.join(parts) * 40
    tokenizer, whole = tokenizers_of(kind, length)
    found, expected = tokenizer.encode([text]), whole.encode([text])
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.truncated == expected.truncated


def test_a_long_text_is_cut_and_one_without_spaces_is_not() -> None:
    cut = leading_text(golden("bert-uncased"))
    assert cut is not None
    text = "some words " * 10_000
    assert 900 < len(cut(text, 1000)) <= 1000
    assert cut("x" * 10_000, 1000) == "x" * 10_000
    # A place that is too far back is not looked for.
    assert cut("a b" + "x" * 10_000, 5000) == "a b" + "x" * 10_000


def test_only_the_needed_start_reaches_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(golden("bert-uncased"), max_length=512)
    sizes: list[int] = []
    leading = tokenizer._leading
    assert leading is not None

    def noted(text: str, size: int) -> str:
        sizes.append(size)
        return leading(text, size)

    monkeypatch.setattr(tokenizer, "_leading", noted)
    text = "some words of a book " * 100_000
    assert tokenizer.encode([text]).truncated == 1
    assert len(sizes) == 1
    assert sizes[0] <= 512 * 6
    sizes.clear()
    tokenizer.encode(["a short text"])
    assert sizes == []


@pytest.mark.parametrize(
    "change",
    [
        lambda b: setattr(b, "pre_tokenizer", None),
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.Digits()),
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.Metaspace(split=False)),
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.ByteLevel(use_regex=False)),
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.Split("e", "isolated")),
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.UnicodeScripts()),
        lambda b: setattr(b, "normalizer", normalizers.Replace("a b", "c")),
        lambda b: setattr(b, "normalizer", normalizers.Replace(Regex(". ."), "c")),
        lambda b: b.add_tokens([AddedToken("two words")]),
        lambda b: b.add_tokens([AddedToken("two\u2581words")]),
    ],
)
def test_what_is_not_proved_is_tokenized_whole(change: Callable[[Backend], Any]) -> None:
    assert leading_text(changed("bert-uncased", change)) is None


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Replace(" ", ""),
        normalizers.Replace(" ", "\u2581"),
        normalizers.Replace("d", " "),
        normalizers.Replace("d", ""),
    ],
)
def test_a_normalizer_that_makes_or_takes_spaces_is_noticed(normalizer: Any) -> None:
    backend = golden("bert-cased")
    backend.normalizer = normalizer
    cut = leading_text(backend)
    assert cut is not None
    text = "word word word word"
    assert cut(text, 10) == text


def test_words_longer_than_the_model_takes_are_unknown_as_before() -> None:
    backend = Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(backend, max_length=4)
    assert tokenizer.encode(["a " * 5000]).ids.tolist() == [1, 1, 1, 1]
