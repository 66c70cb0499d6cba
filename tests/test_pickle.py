"""Models sent to another process: pickled as what loads them again."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quaver.embedder import Embedder
from quaver.errors import ModelFolderError
from quaver.reranker import CrossEncoder
from tiny_model import write_tiny_cross_encoder, write_tiny_model

TEXTS = ["the file", "a list of words"]
PAIRS = [("the file", "a list"), ("a", "b")]


def test_an_embedder_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "m")
    model = Embedder.from_pretrained(
        folder,
        precision="float32",
        max_seq_length=16,
        truncate_dim=32,
        normalize=False,
        prompts={"query": "q: "},
        threads=1,
        isa="scalar",
    )
    data = pickle.dumps(model)
    assert len(data) < 2000  # no weights
    copy = pickle.loads(data)
    assert copy.fingerprint == model.fingerprint
    for name in (
        "precision",
        "max_seq_length",
        "truncate_dim",
        "prompts",
        "threads",
        "isa",
        "normalize",
    ):
        assert getattr(copy, name) == getattr(model, name)
    assert np.array_equal(copy.encode_query(TEXTS), model.encode_query(TEXTS))


def test_pooling_that_the_caller_gave_is_kept(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "m", pooling=None)
    model = Embedder.from_pretrained(folder, pooling="cls", normalize=True)
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.encode(TEXTS), model.encode(TEXTS))


def test_a_cross_encoder_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = write_tiny_cross_encoder(tmp_path / "m", labels=3)
    model = CrossEncoder.from_pretrained(folder, precision="float32", max_seq_length=20, threads=1)
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.max_seq_length, copy.precision, copy.threads) == (20, "float32", 1)
    assert copy.label_names == model.label_names
    assert np.array_equal(copy.predict(PAIRS), model.predict(PAIRS))


def test_another_process_loads_the_model_itself(tmp_path: Path) -> None:
    model = Embedder.from_pretrained(write_tiny_model(tmp_path / "m"), isa="scalar")
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    code = (
        "import pickle, sys, numpy; model = pickle.load(open(sys.argv[1], 'rb')); "
        "numpy.save(sys.argv[2], model.encode(['the file', 'a list of words']))"
    )
    paths = [str(tmp_path / "model.pickle"), str(tmp_path / "vectors.npy")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, timeout=60, cwd="/")
    assert np.array_equal(np.load(paths[1]), model.encode(TEXTS))


def test_the_token_of_the_hub_is_not_pickled(tmp_path: Path) -> None:
    model = Embedder.from_pretrained(write_tiny_model(tmp_path / "m"), token="hf_secret")
    ranker = CrossEncoder.from_pretrained(
        write_tiny_cross_encoder(tmp_path / "c"), token="hf_secret"
    )
    assert b"hf_secret" not in pickle.dumps((model, ranker))


@pytest.mark.parametrize("kind", ["embedder", "cross-encoder"])
def test_a_model_that_changed_meanwhile_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "m"
    if kind == "embedder":
        data = pickle.dumps(Embedder.from_pretrained(write_tiny_model(folder)))
        shutil.rmtree(folder)
        write_tiny_model(folder, seed=1)
    else:
        data = pickle.dumps(CrossEncoder.from_pretrained(write_tiny_cross_encoder(folder)))
        shutil.rmtree(folder)
        write_tiny_cross_encoder(folder, seed=1)
    with pytest.raises(
        ModelFolderError, match=f"a pickled {kind} needs the files that it was made with"
    ):
        pickle.loads(data)
