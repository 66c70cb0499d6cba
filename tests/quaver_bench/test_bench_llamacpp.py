"""llama.cpp as an engine of quaver bench: what needs no peer, and the rest where its package is."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest

from quaver_bench.engines import CannotRunError, Setup
from quaver_bench.engines.llamacpp import Batch, LlamaEngine, _write, pack
from quaver_bench.engines.quaver import QuaverEngine
from quaver_bench.inputs import TextSource
from quaver_bench.models import open_model
from tiny_model import write_tiny_model

TEXTS = [f"the file and the list of a class in python {i} error" for i in range(300)]


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([], []),
        ([3], [range(1)]),
        ([9], [range(1)]),
        ([4, 4, 1], [range(2), range(2, 3)]),
        ([9, 1, 9], [range(1), range(1, 2), range(2, 3)]),
        ([1, 1, 1, 1], [range(3), range(3, 4)]),
    ],
)
def test_texts_are_packed_in_their_order(lengths: list[int], parts: list[range]) -> None:
    assert pack(lengths, tokens=8, texts=3) == parts


def test_a_batch_is_laid_out_as_llama_cpp_reads_it() -> None:
    batch = Batch.of([np.array([7, 8, 9]), np.array([5])])
    assert batch.tokens.tolist() == [7, 8, 9, 5]
    assert batch.positions.tolist() == [0, 1, 2, 0]
    assert batch.counts.tolist() == batch.outputs.tolist() == [1] * 4
    pointers = batch.places.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
    assert [pointers[token][0] for token in range(4)] == [0, 0, 0, 1]


def setup_of(folder: Path, cache: Path) -> Setup:
    return Setup(open_model(str(folder), cache), 1, 64, ())


def test_a_model_that_is_not_bert_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(
        CannotRunError, match="BERT with GELU and absolute positions: got bert, relu"
    ):
        _write(setup_of(folder, tmp_path), "int8", tmp_path / "model.gguf")


@pytest.mark.parametrize(("kind", "least"), [("float32", 0.9999), ("int8", 0.999)])
def test_it_computes_the_model(tiny_folder: Path, tmp_path: Path, kind: str, least: float) -> None:
    """llama.cpp's GELU is by tanh from a table of half precision: not quite 1 in float32."""
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    setup = setup_of(tiny_folder, tmp_path)
    source = TextSource(tiny_folder / "tokenizer.json", TEXTS)
    request = source.request([*range(3, 65), 64, 64, 3] * 2, seed=1, batch=8)
    theirs = LlamaEngine(setup, kind).prepare(request)()
    ours = QuaverEngine(setup, "float32").prepare(request)()
    assert (theirs * ours).sum(1).min() > least
