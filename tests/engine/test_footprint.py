"""How many bytes a model is said to need before it is loaded, beside what it holds once it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import quaver
from golden_folders import GOLDEN, unpacked
from quaver.engine import bytes_of_folder
from quaver.engine.instruction_sets import bfloat16_sets, choose_isa
from quaver.engine.native_model import PRECISIONS
from quaver.models import ModelFolder
from tiny_model import write_tiny_model

FOLDERS = sorted(path.stem for path in GOLDEN.glob("*.zip") if path.stem != "checkpoints")
CLASSES: dict[str, Any] = {
    "embedder": quaver.Embedder,
    "cross-encoder": quaver.CrossEncoder,
    "sparse": quaver.SparseEncoder,
    "multi-vector": quaver.MultiVectorEncoder,
}


def compare(folder: Path, **options: Any) -> None:
    """Compare all but the words that the model knows and a tokenizer does not."""
    opened = ModelFolder.open_any(folder)
    needed = bytes_of_folder(opened, **options)
    loaded = CLASSES[opened.kind].from_pretrained(folder, threads=1, **options)
    tokenizers = [loaded.tokenizer]
    if opened.kind == "sparse" and loaded.queries_without_model:
        tokenizers.append(loaded._queries.tokenizer)
    words = loaded._engine.spec.vocab_size
    missing = sum((words - each.vocab_size) * each.nbytes // each.vocab_size for each in tokenizers)
    assert needed == loaded.nbytes + missing


def test_a_tokenizer_with_a_tree_of_words_counts_more(tmp_path: Path) -> None:
    unigram = quaver.Embedder.from_pretrained(unpacked("model2vec-unigram", tmp_path)).tokenizer
    pieces = quaver.Embedder.from_pretrained(unpacked("model2vec-float32", tmp_path)).tokenizer
    each = [tokenizer.nbytes / tokenizer.vocab_size for tokenizer in (unigram, pieces)]
    assert each == [1250, 210]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_needs_what_its_model_holds(name: str, tmp_path: Path) -> None:
    compare(unpacked(name, tmp_path))


@pytest.mark.parametrize("scheme", ["dynamic", "static", "int4"])
def test_a_quantized_folder_needs_what_its_model_holds(scheme: Any, tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "tiny", hidden=256)
    texts = ["the file has a list of words", "a function and a class"]
    text = {"calibration": texts, "samples": 2} if scheme == "static" else {}
    quaver.quantize(source, tmp_path / "made", scheme=scheme, **text)
    for precision in PRECISIONS:
        if precision != "bfloat16" or choose_isa() in bfloat16_sets():
            compare(tmp_path / "made", precision=precision)


def test_a_length_shortens_the_tables_of_rotary_positions(tmp_path: Path) -> None:
    folder = unpacked("qwen3-embedding", tmp_path)
    compare(folder, max_seq_length=16)
    opened = ModelFolder.open_any(folder)
    assert bytes_of_folder(opened, max_seq_length=16) < bytes_of_folder(opened)
