"""Parts of a document as vectors that know the text around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from golden_folders import unpacked
from quaver import Embedder, InputError, ModelFolder, reference
from quaver.embedder import windows_of_texts
from quaver.models import TokenBatch, encoder_weights
from tiny_model import write_tiny_model

TEXT = "the file was read by a function and it returns some text about the query"
SPANS = [(0, 8), (9, 32), (36, len(TEXT)), (0, len(TEXT)), (5, 12)]
LONG = " ".join(f"{word} {i}" for i, word in enumerate(["the", "file", "of", "data", "is"] * 60))


@pytest.fixture(scope="module")
def exact(tiny_folder: Path) -> Embedder:
    return Embedder.from_pretrained(tiny_folder, precision="float32")


def token_vectors(embedder: Embedder, folder: Path, ids: NDArray[np.int32]) -> Any:
    """Return what the encoder makes of each token of a text, from the readable reference."""
    weights = encoder_weights(embedder.spec, ModelFolder.open(folder).tensors())
    offsets = np.array([0, len(ids)], np.int32)
    return reference.hidden_states(embedder.spec, weights, TokenBatch(ids, offsets, None, 0))[-1]


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def test_a_span_is_the_mean_of_its_tokens_in_the_document(
    exact: Embedder, tiny_folder: Path
) -> None:
    prompt = exact.document_prompt
    assert prompt == "passage: "
    batch = exact.tokenizer.encode([prompt + TEXT])
    states = token_vectors(exact, tiny_folder, batch.ids)
    pieces = exact.tokenizer.pieces(prompt + TEXT)
    found = exact.encode_spans(TEXT, SPANS)
    assert found.shape == (len(SPANS), 64)
    for vector, (start, stop) in zip(found, SPANS, strict=True):
        inside = [
            not piece.special
            and piece.start - len(prompt) < stop
            and piece.stop - len(prompt) > start
            for piece in pieces
        ]
        np.testing.assert_allclose(vector, unit(states[inside].mean(axis=0)), atol=2e-5)


def test_options_are_those_of_encode(exact: Embedder) -> None:
    plain = exact.encode_spans(TEXT, SPANS, normalize=False)
    assert np.allclose(np.linalg.norm(exact.encode_spans(TEXT, SPANS), axis=1), 1)
    assert exact.encode_spans(TEXT, SPANS, truncate_dim=8).shape == (len(SPANS), 8)
    assert exact.encode_spans(TEXT, SPANS, output="int8").dtype == np.int8
    assert exact.encode_spans(TEXT, SPANS, output="binary").shape == (len(SPANS), 8)
    assert exact.encode_spans(TEXT, []).shape == (0, 64)
    other = exact.encode_spans(TEXT, SPANS, prompt="", normalize=False)
    assert not np.allclose(plain, other)
    # A document that begins with the prompt does not get it twice; its spans count it.
    moved = [(start + 9, stop + 9) for start, stop in SPANS]
    given = exact.encode_spans("passage: " + TEXT, moved, normalize=False)
    assert np.array_equal(given, plain)


def test_a_span_has_the_same_bits_whatever_else_is_asked_for(tiny_folder: Path) -> None:
    embedder = Embedder.from_pretrained(tiny_folder)
    spans = [(start, start + 40) for start in range(0, len(LONG) - 40, 7)]
    together = embedder.encode_spans(LONG, spans)
    assert np.array_equal(embedder.encode_spans(LONG, spans, max_batch_tokens=64), together)
    for i in (0, 11, len(spans) - 1):
        assert np.array_equal(embedder.encode_spans(LONG, [spans[i]])[0], together[i])
    assert np.array_equal(embedder.encode_spans(LONG, spans[::-1]), together[::-1])


def test_a_long_document_is_read_in_windows(exact: Embedder, tiny_folder: Path) -> None:
    """Each with special tokens and the prompt around it, and the span in its middle."""
    prompt = exact.tokenizer.locate("passage: ").ids
    located = exact.tokenizer.locate(LONG)
    room = 64 - 2 - len(prompt)
    assert len(located.ids) > 5 * room
    start, stop = 700, 740
    first = int(np.searchsorted(located.stops, start, side="right"))
    last = int(np.searchsorted(located.starts, stop))
    begins = [*range(0, len(located.ids) - room, room // 2), len(located.ids) - room]
    begin = min(
        (b for b in begins if b <= first and last <= b + room),
        key=lambda b: abs(2 * b + room - first - last),
    )
    cls, sep = exact.tokenizer.special_ids()
    ids = np.array([*cls, *prompt, *located.ids[begin : begin + room], *sep], np.int32)
    states = token_vectors(exact, tiny_folder, ids)
    shift = 1 + len(prompt) - begin
    expected = unit(states[first + shift : last + shift].mean(axis=0))
    (found,) = exact.encode_spans(LONG, [(start, stop)])
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_texts_that_follow_each_other_keep_their_tokens(exact: Embedder) -> None:
    texts = ["the file", "was", "read by a function"]
    (window,), truncated = windows_of_texts(exact, texts, "passage: ")
    whole = exact.tokenizer.encode(["passage: " + " ".join(texts)]).ids
    assert np.array_equal(window.ids, whole)
    assert truncated == 0
    lengths = [len(exact.tokenizer.locate(text).ids) for text in texts]
    assert np.diff(window.parts).ravel().tolist() == lengths
    _, truncated = windows_of_texts(exact, ["the " * 100, "file"], "")
    assert truncated == 1


def test_spans_of_a_static_model_are_its_texts(tmp_path: Path) -> None:
    embedder = Embedder.from_pretrained(unpacked("model2vec-float32", tmp_path))
    found = embedder.encode_spans(TEXT, SPANS[:3], prompt="")
    expected = embedder.encode([TEXT[start:stop] for start, stop in SPANS[:3]], prompt="")
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 4), (4, 4)], r"spans\[1\]=\(4, 4\)"),
        ([(-1, 4)], r"spans\[0\]=\(-1, 4\)"),
        ([(0, 1000)], r"within 0 to 72"),
        ([(0, 1, 2)], r"got spans\[0\]=\(0, 1, 2\)"),
        ([(3, 4)], r"a span must have a token: spans\[0\]=\(3, 4\) has none"),
    ],
)
def test_spans_that_are_none(exact: Embedder, spans: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        exact.encode_spans(TEXT, spans)


def test_bad_arguments(exact: Embedder) -> None:
    with pytest.raises(InputError, match="text must be one str: got list"):
        exact.encode_spans([TEXT], SPANS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the prompt must leave room for the document"):
        exact.encode_spans(TEXT, SPANS, prompt="word " * 70)
    with pytest.raises(InputError, match="truncate_dim"):
        exact.encode_spans(TEXT, SPANS, truncate_dim=65)
    with pytest.raises(InputError, match="max_batch_tokens"):
        exact.encode_spans(TEXT, SPANS, max_batch_tokens=0)
    with pytest.raises(InputError, match="valid Unicode"):
        exact.encode_spans("x \ud800", [(0, 1)])


@pytest.mark.parametrize("pooling", ["cls", "lasttoken"])
def test_a_model_that_pools_one_token_has_no_spans(tmp_path: Path, pooling: str) -> None:
    folder = write_tiny_model(tmp_path / "model", pooling=pooling)
    with pytest.raises(InputError, match=rf"trained to pool one \({pooling}\)"):
        Embedder.from_pretrained(folder).encode_spans(TEXT, SPANS)
