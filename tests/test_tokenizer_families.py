"""WordPiece, BPE and Unigram against transformers: tokenizers, texts and ids of tests/golden/tokenizers.

The files hold small vocabularies trained on the sample documents, with the classes and special tokens
of the published models (scripts/tokenizer_parity.py --golden).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quaver.tokenizer import TokenBatch, Tokenizer

GOLDEN = Path(__file__).parent / "golden" / "tokenizers"
QUERY = "What is a list?"


@pytest.fixture(params=sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Any:
    return json.loads(request.param.read_text(encoding="utf-8"))


def rows(batch: TokenBatch, values: list[int]) -> list[list[int]]:
    return [values[a:b] for a, b in pairwise(batch.offsets.tolist())]


def test_every_model_of_tokens_is_there() -> None:
    kinds = [
        json.loads(path.read_text())["tokenizer"]["model"]["type"] for path in GOLDEN.iterdir()
    ]
    assert {kind: kinds.count(kind) for kind in kinds} == {"WordPiece": 3, "BPE": 2, "Unigram": 3}


@pytest.mark.parametrize("case", [0, 1], ids=["whole", "cut"])
def test_ids_are_those_of_transformers(golden: Any, tmp_path: Path, case: int) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(golden["tokenizer"]), encoding="utf-8")
    expected = golden["expected"][case]
    tokenizer = Tokenizer.from_folder(tmp_path, max_length=expected["max_length"])
    batch = tokenizer.encode(golden["texts"])
    assert rows(batch, batch.ids.tolist()) == expected["ids"]
    paired = tokenizer.encode_pairs([(QUERY, text) for text in golden["texts"]])
    assert rows(paired, paired.ids.tolist()) == expected["pair_ids"]
    types = [0] * paired.tokens if paired.type_ids is None else paired.type_ids.tolist()
    assert rows(paired, types) == expected["pair_types"]
    assert (batch.truncated > 0, paired.truncated > 0) == (case == 1, case == 1)
