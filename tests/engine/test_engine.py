"""Engine: it agrees with the reference, gives the same bits every time, and refuses wrong input."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quaver import _native
from quaver.engine.engine import Engine
from quaver.engine.instruction_sets import bfloat16_sets, instruction_sets
from quaver.engine.native_model import PRECISIONS, Precision, native_model
from quaver.errors import (
    EngineError,
    InputError,
    InstructionSetError,
    TokenRangeError,
    UnsupportedArchitectureError,
)
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.geometry import EncoderSpec
from quaver.models.head import DenseStep
from quaver.models.linear import LinearWeights
from quaver.models.tokenizer import TokenBatch
from quaver.reference import encode as reference_encode
from tiny_model import tiny_config, tiny_tensors

ISAS = [name for name, available in instruction_sets().items() if available]
# Every edge of the kernels and of the encoder's blocks (96) and chunks (256) of rows.
LENGTHS = (1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 95, 96, 97, 127, 129, 255, 256, 257, 300)

every_isa = pytest.mark.parametrize("isa", ISAS)
KINDS = [
    (isa, precision)
    for isa in ISAS
    for precision in PRECISIONS
    if precision != "bfloat16" or isa in bfloat16_sets()
]
every_kind = pytest.mark.parametrize(("isa", "precision"), KINDS)


def tiny_encoder(
    *, hidden: int = 64, heads: int = 4, positions: int = 300, **changes: Any
) -> tuple[EncoderSpec, EncoderWeights]:
    """A random BERT of two layers; `changes` are fields of its EncoderSpec, or of all its LayerSpecs."""
    config = tiny_config(hidden=hidden, heads=heads, max_positions=positions)
    spec = encoder_spec(config, pooling="mean", normalize=True)
    in_layers = {name: changes.pop(name) for name in set(changes) & set(vars(spec.layers[0]))}
    spec = replace(spec, **changes).with_layers(**in_layers)
    return spec, encoder_weights(spec, tiny_tensors(config))


SPEC, WEIGHTS = tiny_encoder()


@cache
def engine(isa: str, precision: Precision, threads: int = 2) -> Engine:
    return Engine(SPEC, WEIGHTS, precision=precision, threads=threads, isa=isa)


def texts_of(lengths: Sequence[int], *, seed: int = 0) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SPEC.vocab_size, n, dtype=np.int32) for n in lengths]


def batch_of(texts: Sequence[NDArray[np.int32]]) -> TokenBatch:
    ids = np.concatenate([np.zeros(0, np.int32), *texts])
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return TokenBatch(ids, offsets, None, 0)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


# --- Agreement with the reference -----------------------------------------------------------------
@every_isa
def test_float32_is_the_reference(isa: str) -> None:
    batch = batch_of(texts_of(LENGTHS))
    got = engine(isa, "float32").encode(batch)
    # Sums of 64 to 256 float32 products in another order, through two layers.
    np.testing.assert_allclose(got, reference_encode(SPEC, WEIGHTS, batch), rtol=0, atol=1e-5)


@every_isa
def test_int8_is_near_the_reference(isa: str) -> None:
    batch = batch_of(texts_of(LENGTHS))
    got = engine(isa, "int8").encode(batch)
    # Random weights lose more than trained ones; a wrong scale or zero point loses far more.
    assert cosines(got, reference_encode(SPEC, WEIGHTS, batch)).min() >= 0.99


@every_isa
@pytest.mark.parametrize(
    ("hidden", "heads"), [(40, 2), (36, 4), (72, 3), (65, 1), (128, 1), (130, 2), (192, 3)]
)
def test_sizes_that_fill_no_panel(isa: str, hidden: int, heads: int) -> None:
    spec, weights = tiny_encoder(hidden=hidden, heads=heads, positions=70)
    batch = batch_of(texts_of((1, 2, 17, 64, 65, 70)))
    expected = reference_encode(spec, weights, batch)
    exact = Engine(spec, weights, precision="float32", threads=2, isa=isa).encode(batch)
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5)
    near = Engine(spec, weights, precision="int8", threads=2, isa=isa).encode(batch)
    assert cosines(near, expected).min() >= 0.99


@every_isa
@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "gelu_tanh"},
        {"activation": "relu"},
        {"activation": "silu"},
        {"pooling": "cls"},
        {"normalize": False},
        {"position_offset": 2, "pooling": "cls", "normalize": False},
        {"norm_eps": 1e-5},
    ],
)
def test_options_of_the_encoder(isa: str, changes: dict[str, Any]) -> None:
    spec, weights = tiny_encoder(positions=70, **changes)
    batch = batch_of(texts_of((1, 2, 17, 64, 68)))
    expected = reference_encode(spec, weights, batch)
    exact = Engine(spec, weights, precision="float32", threads=2, isa=isa).encode(batch)
    # Rows of 64 values around 1 where the vectors keep their length.
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5 if spec.normalize else 2e-5)
    near = Engine(spec, weights, precision="int8", threads=2, isa=isa).encode(batch)
    assert cosines(near, expected).min() >= 0.99


@every_kind
def test_token_types(isa: str, precision: Precision) -> None:
    batch = batch_of(texts_of((5, 64, 33)))
    plain = engine(isa, precision).encode(batch)
    zeros = replace(batch, type_ids=np.zeros_like(batch.ids))
    assert np.array_equal(engine(isa, precision).encode(zeros), plain)
    types = (np.arange(len(batch.ids)) % 3 == 0).astype(np.int32)
    pairs = replace(batch, type_ids=types)
    expected = reference_encode(SPEC, WEIGHTS, pairs)
    got = engine(isa, precision).encode(pairs)
    assert not np.array_equal(got, plain)
    least = {
        "int8": 0.99,
        "bfloat16": 1 - 1e-4,
        "bfloat16-weights": 1 - 1e-5,
        "float32": 1 - 1e-6,
    }[precision]
    assert cosines(got, expected).min() >= least


@every_kind
def test_an_empty_batch(isa: str, precision: Precision) -> None:
    vectors = engine(isa, precision).encode(batch_of([]))
    assert (vectors.shape, vectors.dtype) == ((0, 64), np.float32)


# --- The same bits --------------------------------------------------------------------------------
def texts_for(isa: str) -> list[NDArray[np.int32]]:
    """Texts of LENGTHS; only the short ones for the slow instruction set that is made for reading."""
    return texts_of([n for n in LENGTHS if isa != "scalar" or n < 100])


@cache
def alone(isa: str, precision: Precision) -> NDArray[np.float32]:
    """Vectors of those texts, each encoded alone on one thread."""
    one = engine(isa, precision, 1)
    return np.concatenate([one.encode(batch_of([text])) for text in texts_for(isa)])


@every_kind
@given(data=st.data())
def test_the_same_bits_in_any_batch_order_and_number_of_threads(
    isa: str, precision: Precision, data: st.DataObject
) -> None:
    texts = texts_for(isa)
    order = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=16))
    threads = data.draw(st.sampled_from([1, 2, 3]))
    got = engine(isa, precision, threads).encode(batch_of([texts[i] for i in order]))
    assert np.array_equal(got, alone(isa, precision)[order])


@every_kind
def test_the_same_bits_on_the_hundredth_call(isa: str, precision: Precision) -> None:
    texts = texts_for(isa)
    for call in range(100):
        i = call * 7 % len(texts)
        got = engine(isa, precision, 1 + call % 3).encode(batch_of([texts[i], texts[-1 - i]]))
        assert np.array_equal(got, alone(isa, precision)[[i, -1 - i]])


@every_kind
def test_several_python_threads_call_one_engine_at_once(isa: str, precision: Precision) -> None:
    texts = texts_for(isa)
    expected = alone(isa, precision)

    def work(seed: int) -> bool:
        order = np.random.default_rng(seed).integers(0, len(texts), 6)
        got = engine(isa, precision).encode(batch_of([texts[i] for i in order]))
        return np.array_equal(got, expected[order])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(24)))


def test_engines_of_all_kinds_share_the_pool() -> None:
    texts = texts_of(LENGTHS[:12])

    def work(call: int) -> bool:
        isa, precision = KINDS[call % len(KINDS)]
        got = engine(isa, precision, 1 + call % 3).encode(batch_of(texts))
        return np.array_equal(got, alone(isa, precision)[:12])

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(48)))


# --- Wrong input ----------------------------------------------------------------------------------
def int32(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": int32(0, 1, SPEC.vocab_size)}, rf"token id must be in 0\.\.{SPEC.vocab_size - 1}"),
        ({"ids": int32(0, -1, 2)}, "got -1 at position 1; does the tokenizer belong"),
        ({"ids": int32(0, 1, 2**31 - 1)}, "got 2147483647 at position 2"),
        ({"type_ids": int32(0, 0, 2)}, r"token type must be in 0\.\.1 .*got 2 at position 2"),
        ({"type_ids": int32(-5, 0, 0)}, "got -5 at position 0"),
    ],
)
def test_ids_outside_their_tables(changes: dict[str, Any], message: str) -> None:
    batch = TokenBatch(int32(0, 1, 2), int32(0, 1, 3), None, 0)
    with pytest.raises(TokenRangeError, match=message):
        engine(ISAS[0], "int8").encode(replace(batch, **changes))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (int32(), r"offsets must start with 0 and end with the number of tokens, 3: got \[\]"),
        (int32(1, 3), r"got \[1\] ... \[3\]"),
        (int32(-1, 3), r"got \[-1\] ... \[3\]"),
        (int32(0), r"got \[0\] ... \[0\]"),
        (int32(0, 2), r"got \[0\] ... \[2\]"),
        (int32(0, 4), r"got \[0\] ... \[4\]"),
        (int32(0, 2, 1, 3), r"offsets must increase: got offsets\[2\]=1 after 2"),
        (int32(0, 2, 2, 3), r"offsets\[2\]=2 after 2; every text has at least one token"),
        # The difference of the middle two overflows int32.
        (int32(0, 2_000_000_000, -2_000_000_000, 3), r"offsets\[2\]=-2000000000 after 2000000000"),
        (np.array([0, 3]), r"offsets must be int32, .*got int64 \(2,\)"),
        (int32(0, 9, 3, 9)[::2], "must be int32, one-dimensional and contiguous"),
        ([0, 3], "offsets must be an int32 array: got list"),
    ],
)
def test_offsets_that_do_not_rise_from_0_to_the_end(offsets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine(ISAS[0], "int8").encode(TokenBatch(int32(0, 1, 2), offsets, None, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.zeros(3, np.int64)}, r"ids must be int32.*np.ascontiguousarray\(ids, np.int32"),
        ({"ids": np.zeros((3, 1), np.int32)}, r"got int32 \(3, 1\)"),
        ({"ids": None}, "ids must be an int32 array: got NoneType"),
        ({"type_ids": np.zeros(3, bool)}, "type_ids must be int32"),
        ({"type_ids": int32(0, 0)}, "one value for each of 3 tokens: got 2"),
    ],
)
def test_arrays_of_another_kind(changes: dict[str, Any], message: str) -> None:
    batch = TokenBatch(int32(0, 1, 2), int32(0, 3), None, 0)
    with pytest.raises(InputError, match=message):
        engine(ISAS[0], "int8").encode(replace(batch, **changes))


@pytest.mark.parametrize("offset", [0, 2])
def test_a_text_longer_than_the_position_table(offset: int) -> None:
    spec, weights = tiny_encoder(positions=20, position_offset=offset)
    short = Engine(spec, weights, threads=1)
    fitting = batch_of(texts_of((3, 20 - offset)))
    assert short.encode(fitting).shape == (2, 64)
    longer = batch_of(texts_of((3, 21 - offset)))
    rule = f"at most {20 - offset} tokens: text 1 has {21 - offset}; truncate it"
    with pytest.raises(TokenRangeError, match=rule):
        short.encode(longer)


def test_a_refused_batch_leaves_the_engine_as_it_was() -> None:
    texts = texts_of((5, 17))
    isa = ISAS[0]
    before = engine(isa, "int8").encode(batch_of(texts))
    with pytest.raises(TokenRangeError):
        engine(isa, "int8").encode(replace(batch_of(texts), ids=np.full(22, -1, np.int32)))
    assert np.array_equal(engine(isa, "int8").encode(batch_of(texts)), before)


# --- What is not finite ---------------------------------------------------------------------------
def with_huge(weights: EncoderWeights, part: str) -> EncoderWeights:
    """Make weights of the first layer so large that float32 overflows behind them."""
    layer = weights.layers[0]
    h, qkv = len(weights.word[0]), layer.qkv
    assert isinstance(qkv, LinearWeights)
    if part == "value":
        factor = np.ones((3 * h, 1), np.float32)
        factor[2 * h :] = 1e38
        layer = replace(layer, qkv=replace(qkv, weight=qkv.weight * factor))
    else:
        linear = getattr(layer, part)
        layer = replace(layer, **{part: replace(linear, weight=linear.weight * np.float32(1e38))})
    return replace(weights, layers=(layer, *weights.layers[1:]))


@every_kind
@pytest.mark.parametrize(
    ("part", "activation"),
    [
        ("value", "gelu"),
        ("out", "gelu"),
        ("up", "gelu"),
        ("up", "gelu_tanh"),
        ("up", "relu"),
        ("up", "silu"),
        ("down", "gelu"),
    ],
)
@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "lasttoken", "mean_sqrt_len_tokens"])
def test_huge_weights_are_an_error_and_no_vector(
    isa: str, precision: Precision, part: str, pooling: Any, activation: Any
) -> None:
    spec, weights = tiny_encoder(pooling=pooling, activation=activation, normalize=False)
    broken = Engine(spec, with_huge(weights, part), precision=precision, threads=1, isa=isa)
    with pytest.raises(EngineError, match="must be finite: text 0 came out with NaN or infinity"):
        broken.encode(batch_of(texts_of((9, 33))))


@every_kind
@pytest.mark.parametrize("normalize", [True, False])
def test_the_text_that_is_not_finite_is_named(
    isa: str, precision: Precision, normalize: bool
) -> None:
    spec, weights = tiny_encoder(normalize=normalize)
    word = weights.word.copy()
    word[7] = np.where(np.arange(64) % 2, 3e38, -3e38)
    texts = [np.where(text == 7, 8, text).astype(np.int32) for text in texts_of((9, 33, 2, 64))]
    broken = Engine(spec, replace(weights, word=word), precision=precision, threads=2, isa=isa)
    assert np.isfinite(broken.encode(batch_of(texts))).all()
    texts[2][1] = 7
    with pytest.raises(EngineError, match="text 2 came"):
        broken.encode(batch_of(texts))
    with pytest.raises(EngineError, match="text 20 came"):
        broken.encode(batch_of(texts), position=lambda row: 10 * row)


@every_isa
def test_a_head_that_is_not_finite(isa: str) -> None:
    both_signs = np.array([[3e38], [-3e38]], np.float32)  # minus infinity is 0 for relu
    first = np.where(np.arange(64) < 8, both_signs, 0).astype(np.float32)
    dense = LinearWeights(first, np.zeros(2, np.float32))
    for activation in ("none", "relu"):
        spec = replace(SPEC, normalize=False, head=(DenseStep("score", 2, activation),))
        broken = Engine(spec, replace(WEIGHTS, head=(dense,)), threads=1, isa=isa)
        texts = batch_of(texts_of((5, 9, 17, 33, 40, 50)))
        with pytest.raises(EngineError, match="must be finite"):
            broken.encode(texts)


def test_tables_can_be_copied() -> None:
    spec, weights = tiny_encoder()
    weights = replace(weights, word=weights.word.copy())
    batch = batch_of(texts_of((5, 17)))
    here, apart = Engine(spec, weights), Engine(spec, weights, copy_tables=True)
    expected = apart.encode(batch)
    assert np.array_equal(here.encode(batch), expected)
    weights.word[:] *= -1
    assert np.array_equal(apart.encode(batch), expected)
    assert not np.array_equal(here.encode(batch), expected)


def test_more_positions_than_sums_of_attention_hold() -> None:
    with pytest.raises(UnsupportedArchitectureError, match=r"at most 65536 tokens.*65537"):
        Engine(replace(SPEC, max_positions=65537), WEIGHTS)


@pytest.mark.parametrize("precision", ["int4", "INT8", "", 8])
def test_a_precision_that_there_is_not(precision: Any) -> None:
    with pytest.raises(
        InputError,
        match=f"must be one of int8, bfloat16, bfloat16-weights, float32: got {precision!r}",
    ):
        Engine(SPEC, WEIGHTS, precision=precision)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa not in bfloat16_sets()])
def test_products_of_bfloat16_need_their_instructions(isa: str) -> None:
    with pytest.raises(
        InstructionSetError, match=r"^precision='bfloat16' needs .*'float32', 'int8'"
    ):
        Engine(SPEC, WEIGHTS, precision="bfloat16", isa=isa)
    # Nothing goes on in another precision behind the check in Python either.
    described = native_model(SPEC, WEIGHTS, "bfloat16")
    with pytest.raises(ValueError, match="this instruction set has products of bfloat16 here"):
        _native.Encoder(isa, described)


def test_arguments_that_the_machine_refuses() -> None:
    with pytest.raises(InputError, match="threads must be a whole number of at least 1"):
        Engine(SPEC, WEIGHTS, threads=0)
    with pytest.raises(InstructionSetError, match="isa must be one of"):
        Engine(SPEC, WEIGHTS, isa="sse9")


@every_isa
def test_the_environment_forces_an_instruction_set(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUAVER_ISA", isa)
    assert Engine(SPEC, WEIGHTS, threads=1).isa == isa
    monkeypatch.setenv("QUAVER_ISA", "nonsense")
    assert Engine(SPEC, WEIGHTS, threads=1, isa=isa).isa == isa
    with pytest.raises(InstructionSetError, match=r"QUAVER_ISA must be one of .*: got 'nonsense'"):
        Engine(SPEC, WEIGHTS)
