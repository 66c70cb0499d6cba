"""Text to TokenBatch: ids, truncation, pairs, and invalid text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaver.errors import InputError, TokenizerError
from quaver.models.tokenizer import TokenBatch, Tokenizer
from tiny_model import tiny_tokenizer, tiny_vocabulary

PIECES = tiny_vocabulary()


def tokenizer(max_length: int = 64, *, lowercase: bool = False) -> Tokenizer:
    return Tokenizer(tiny_tokenizer(), max_length=max_length, lowercase=lowercase)


def pieces(batch: TokenBatch, text: int) -> list[str]:
    return [PIECES[i] for i in batch.ids[batch.offsets[text] : batch.offsets[text + 1]]]


def test_encode_adds_special_tokens_and_pads_nothing() -> None:
    batch = tokenizer().encode(["the file", "", "the list of files"])
    assert pieces(batch, 0) == ["[CLS]", "the", "file", "[SEP]"]
    assert pieces(batch, 1) == ["[CLS]", "[SEP]"]
    assert pieces(batch, 2) == ["[CLS]", "the", "list", "of", "files", "[SEP]"]
    assert (len(batch), batch.tokens, batch.truncated, batch.type_ids) == (3, 12, 0, None)
    assert batch.ids.dtype == batch.offsets.dtype == np.int32


def test_no_texts_give_an_empty_batch() -> None:
    batch = tokenizer().encode([])
    assert (len(batch), batch.tokens, batch.offsets.tolist()) == (0, 0, [0])


def test_long_texts_keep_their_start_and_the_last_special_token() -> None:
    batch = tokenizer(6).encode(["the file " * 20, "the file the file", "the file the file of"])
    assert pieces(batch, 0) == pieces(batch, 1) == pieces(batch, 2)
    assert pieces(batch, 0) == ["[CLS]", "the", "file", "the", "file", "[SEP]"]
    assert batch.truncated == 2


def test_settings_inside_tokenizer_json_are_overridden(tiny_folder: Path) -> None:
    loaded = Tokenizer.from_folder(tiny_folder, max_length=64)
    assert loaded.encode(["file " * 100]).tokens == 64
    assert loaded.encode(["file"]).tokens == 3
    assert loaded.count("file " * 100) == 100


def test_pairs_cut_only_the_second_text() -> None:
    batch = tokenizer(8).encode_pairs([("the file", "a list of files and more"), ("a", "b")])
    assert pieces(batch, 0) == ["[CLS]", "the", "file", "[SEP]", "a", "list", "of", "[SEP]"]
    assert batch.type_ids is not None
    assert batch.type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1]
    assert batch.truncated == 1


def test_pairs_whose_first_text_fills_the_model_are_refused() -> None:
    with pytest.raises(InputError, match="pair 1 has 20 tokens of 5"):
        tokenizer(8).encode_pairs([("a", "b"), ("file " * 20, "b")])


def test_lowercase_is_applied_before_the_tokenizer() -> None:
    backend = tiny_tokenizer()
    backend.normalizer = None  # type: ignore[assignment]
    plain = Tokenizer(backend, max_length=64)
    assert pieces(plain.encode(["THE"]), 0) == ["[CLS]", "[UNK]", "[SEP]"]
    lowering = Tokenizer(backend, max_length=64, lowercase=True)
    assert pieces(lowering.encode(["THE"]), 0) == ["[CLS]", "the", "[SEP]"]


def test_lowercase_leaves_special_tokens_alone() -> None:
    backend = tiny_tokenizer()
    backend.normalizer = None  # type: ignore[assignment]
    lowering = Tokenizer(backend, max_length=64, lowercase=True)
    batch = lowering.encode(["THE [MASK] [CLS] FILE"])
    assert pieces(batch, 0) == ["[CLS]", "the", "[MASK]", "[CLS]", "file", "[SEP]"]
    assert lowering.token_ends("THE [MASK] FILE") == [3, 10, 15]


def test_count_leaves_out_special_tokens() -> None:
    assert tokenizer(6).count("") == 0
    assert tokenizer(6).count("the file of the list") == 5
    assert tokenizer().special_tokens == 2
    assert tokenizer().vocab_size == len(PIECES)


def test_split_bounds_tokens_and_keeps_every_text() -> None:
    batch = tokenizer().encode(["file " * n for n in (1, 2, 30, 3, 1, 1)])
    parts = list(batch.split(12))
    assert [first for first, _ in parts] == [0, 2, 3]
    assert [part.tokens for _, part in parts] == [7, 32, 11]
    assert np.array_equal(np.concatenate([part.ids for _, part in parts]), batch.ids)
    assert all(part.offsets[0] == 0 and part.offsets[-1] == part.tokens for _, part in parts)


@pytest.mark.slow
@given(st.lists(st.text(max_size=80), max_size=6), st.integers(3, 20))
def test_every_text_alone_has_the_ids_it_has_in_a_batch(texts: list[str], length: int) -> None:
    one = tokenizer(length)
    batch = one.encode(texts)
    alone = [one.encode([text]) for text in texts]
    assert batch.ids.tolist() == [i for single in alone for i in single.ids.tolist()]
    assert batch.truncated == sum(single.truncated for single in alone)
    lengths = np.diff(batch.offsets)
    assert all(2 <= n <= length for n in lengths)
    assert [min(one.count(t) + 2, length) for t in texts] == lengths.tolist()


@pytest.mark.parametrize("wrong", [None, b"bytes", 7, ["nested"]])
def test_an_item_that_is_no_text_is_named(wrong: object) -> None:
    with pytest.raises(InputError, match=f"text 2 is {type(wrong).__name__}"):
        tokenizer().encode(["a", "b", wrong])  # type: ignore[list-item]


def test_one_text_instead_of_a_list_is_refused() -> None:
    with pytest.raises(InputError, match="must be a list of str: got one str"):
        tokenizer().encode("a text")


def test_half_a_surrogate_pair_is_named() -> None:
    with pytest.raises(InputError, match="text 1 has half of a surrogate pair at character 2"):
        tokenizer().encode(["fine", "ab\ud800c"])


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", "b", "c"), None])
def test_an_item_that_is_no_pair_is_named(pair: object) -> None:
    with pytest.raises(InputError, match=r"pairs\[1\] must be \(text, text\)"):
        tokenizer().encode_pairs([("a", "b"), pair])  # type: ignore[list-item]


def test_a_pair_with_something_that_is_no_text_is_named() -> None:
    with pytest.raises(InputError, match="second text of pair 0 is NoneType"):
        tokenizer().encode_pairs([("a", None)])  # type: ignore[list-item]


def test_max_length_must_leave_room() -> None:
    with pytest.raises(InputError, match="2 special tokens: got 2; use 3 or more"):
        tokenizer(2)


def test_a_missing_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"needs tokenizer\.json.*save_pretrained"):
        Tokenizer.from_folder(tmp_path, max_length=64)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": 3}', b"\xff\xfe", b"not json"])
def test_a_broken_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path, max_length=64)


def test_a_vocabulary_larger_than_the_table_is_refused() -> None:
    tokenizer().require_vocabulary(len(PIECES))
    with pytest.raises(TokenizerError, match=rf"up to id {len(PIECES) - 1}, the model has 50 rows"):
        tokenizer().require_vocabulary(50)


def test_a_vocabulary_far_smaller_than_the_table_is_refused() -> None:
    tokenizer().require_vocabulary(len(PIECES) + 64)  # rows that only pad the table
    with pytest.raises(TokenizerError, match=rf"only {len(PIECES)} tokens; .* different models"):
        tokenizer().require_vocabulary(len(PIECES) + 500)
