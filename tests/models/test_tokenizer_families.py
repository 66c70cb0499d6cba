"""WordPiece, BPE and Unigram against transformers: tokenizers, texts and ids of tests/golden/tokenizers.

The files hold small vocabularies trained on the sample documents, with the classes and special tokens
of the published models (tools/tokenizer_parity.py --golden).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quaver.models.files import ConfigFile, TokenizerConfigFile, checked
from quaver.models.tokenizer import TokenBatch, Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
SETTINGS = json.loads((GOLDEN.parent / "tokenizer_settings.json").read_text(encoding="utf-8"))
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


@pytest.mark.parametrize(
    "case",
    SETTINGS["cases"],
    ids=[f"{case['tokenizer']}-{number}" for number, case in enumerate(SETTINGS["cases"])],
)
def test_settings_are_followed_as_transformers_does(case: Any, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / f"{case['tokenizer']}.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(golden["tokenizer"]), encoding="utf-8")
    tokenizer = Tokenizer.from_folder(
        tmp_path,
        max_length=512,
        settings=checked(TokenizerConfigFile, case["settings"] or {}, "tokenizer_config.json"),
        model=checked(ConfigFile, case["config"], "config.json"),
    )
    batch = tokenizer.encode(SETTINGS["texts"])
    assert rows(batch, batch.ids.tolist()) == case["ids"]


def test_a_token_without_a_row_stays_out(tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / "bert-uncased.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(golden["tokenizer"]), encoding="utf-8")
    size = len(golden["tokenizer"]["model"]["vocab"])
    for rows_of_model, tokens in ((size, size), (size + 1, size + 1), (size + 9, size + 2)):
        tokenizer = Tokenizer.from_folder(
            tmp_path,
            max_length=64,
            settings=TokenizerConfigFile(additional_special_tokens=["<one>", "<two>"]),
            model=ConfigFile(model_type="bert", vocab_size=rows_of_model),
        )
        assert tokenizer.vocab_size == tokens
