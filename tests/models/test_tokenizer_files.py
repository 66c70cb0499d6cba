"""Folders with a vocabulary instead of tokenizer.json: ids of transformers, and vocabularies made to do harm.

tests/golden/vocabularies holds small vocabularies with texts and ids: `tools/vocabulary_parity.py --golden`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quaver import Embedder, ModelError, ModelFolderError, TokenizerError
from quaver.models.files import ConfigFile, TokenizerConfigFile, checked
from quaver.models.tokenizer import TokenBatch, Tokenizer
from tiny_model import tiny_vocabulary, write_json, write_tiny_model

GOLDEN = Path(__file__).parents[1] / "golden" / "vocabularies"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))
QUERY = "What is a list?"


def golden(name: str, folder: Path) -> Any:
    """Write a golden case as a model folder, and return it."""
    case = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    for file, content in case["files"].items():
        (folder / file).write_bytes(base64.b64decode(content))
    for file, value in case["values"].items():
        write_json(folder / file, value)
    return case


def opened(folder: Path) -> Tokenizer:
    settings = folder / "tokenizer_config.json"
    values = json.loads(settings.read_text()) if settings.is_file() else {}
    return Tokenizer.from_folder(
        folder,
        max_length=512,
        settings=checked(TokenizerConfigFile, values, settings),
        model=checked(ConfigFile, json.loads((folder / "config.json").read_text()), "config.json"),
    )


def rows(batch: TokenBatch, values: list[int]) -> list[list[int]]:
    return [values[a:b] for a, b in pairwise(batch.offsets.tolist())]


def test_every_vocabulary_is_there() -> None:
    kinds = {
        "bert",
        "distilbert",
        "electra",
        "mpnet",
        "roberta",
        "xlm-roberta",
        "camembert",
        "deberta",
        "ernie",
        "t5",
        "albert",
    }
    assert kinds <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    case = golden(name, tmp_path)
    tokenizer, expected = opened(tmp_path), case["expected"]
    batch = tokenizer.encode(case["texts"])
    assert rows(batch, batch.ids.tolist()) == expected["ids"]
    pairs = tokenizer.encode_pairs([(QUERY, text) for text in case["texts"]])
    assert rows(pairs, pairs.ids.tolist()) == expected["pair_ids"]
    types = [0] * pairs.tokens if pairs.type_ids is None else pairs.type_ids.tolist()
    assert rows(pairs, types) == expected["pair_types"]


def test_a_folder_with_vocab_txt_alone(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    whole = Embedder.from_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(tiny_vocabulary()) + "\n", encoding="utf-8")
    model = Embedder.from_pretrained(folder)
    texts = ["Which FILE has the class?", "", "naïve data [SEP] 3.14"]
    assert (model.encode(texts) == whole.encode(texts)).all()
    assert model.fingerprint != whole.fingerprint
    (folder / "vocab.txt").write_text("\n".join(tiny_vocabulary()[::-1]), encoding="utf-8")
    assert Embedder.from_pretrained(folder).fingerprint != model.fingerprint


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"needs tokenizer\.json, or the vocabulary of"):
        Embedder.from_pretrained(folder)
    (folder / "spm.model").write_bytes(b"")  # another class's
    with pytest.raises(TokenizerError, match="has neither"):
        Embedder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Missing .UNK. token from the vocabulary"),
        (b"\n\n\n", "Missing .UNK. token from the vocabulary"),
        (b"[CLS]\n[SEP]\n", "Missing .UNK. token from the vocabulary"),
        (b"\xff\xfe\n", "broken"),
        (b"a" * 10_000_000, "Missing .UNK. token from the vocabulary"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    ],
)
def test_a_broken_vocab_txt(content: bytes, message: str, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        Embedder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("roberta", "vocab.json", b"{"),
        ("roberta", "vocab.json", b'{"a": -1}'),
        ("roberta", "vocab.json", b'{"a": "x"}'),
        ("roberta", "vocab.json", b"[" * 100_000),
        ("roberta", "merges.txt", b"a\n"),
        ("roberta", "merges.txt", b"gone gone\n"),
        ("xlm-roberta", "sentencepiece.bpe.model", b""),
        ("xlm-roberta", "sentencepiece.bpe.model", b"\x0a"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"\x0a\xff\xff\xff\xff\x7fabc"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"\xff" * 20),
        ("xlm-roberta", "sentencepiece.bpe.model", b"\x0a\x02\x0a\x05"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"\x0a\x04\x0a\x02\xff\xfe"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"\x0a\x02\x08\x05"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"\x0b"),
        ("deberta", "spm.model", b""),
        ("deberta", "spm.model", b"\x12\x02\x18\x02"),  # a BPE
        ("t5", "spiece.model", b""),
        ("t5", "spiece.model", b"\x0a\x03\x0a\x01a"),  # a piece, and no </s>
        ("albert", "spiece.model", b"\x12\x02\x18\x02"),
        ("albert", "spiece.model", b"\xff" * 20),
        ("bert-older-files", "added_tokens.json", b'{"a": "b"}'),
        ("bert-older-files", "added_tokens.json", b"[1]"),
        ("bert-older-files", "special_tokens_map.json", b'{"mask_token": 1}'),
        ("bert-older-files", "special_tokens_map.json", b'{"sep_token": "gone"}'),
    ],
)
def test_broken_vocabularies(name: str, file: str, content: bytes, tmp_path: Path) -> None:
    golden(name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {**config, "vocab_size": 10})
    (tmp_path / file).write_bytes(content)
    with pytest.raises((TokenizerError, ModelFolderError)):
        opened(tmp_path)


def test_a_score_that_is_not_a_number(tmp_path: Path) -> None:
    golden("deberta", tmp_path)
    content = bytearray((tmp_path / "spm.model").read_bytes())
    at = content.index("▁the".encode()) + len("▁the".encode())
    assert content[at] == 0x15  # the score behind the piece
    content[at + 1 : at + 5] = b"\x00\x00\xc0\x7f"
    (tmp_path / "spm.model").write_bytes(bytes(content))
    with pytest.raises(TokenizerError, match="score"):
        opened(tmp_path)


def test_a_character_map_longer_than_the_file(tmp_path: Path) -> None:
    golden("xlm-roberta-rules", tmp_path)
    path = tmp_path / "sentencepiece.bpe.model"
    # The normalizer: field 3 with the compiled map in its field 2.
    path.write_bytes(path.read_bytes() + b"\x1a\x0a\x12\x08\xfc\xff\xff\x7f\0\0\0\0")
    with pytest.raises(TokenizerError, match="precompiled_charsmap of a tokenizer must hold"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta-rules", "deberta"])
def test_damage_ends_in_an_error_of_our_own(name: str, tmp_path: Path) -> None:
    case = golden(name, tmp_path)
    draw = random.Random(name)
    for number in range(150):
        file = draw.choice(list(case["files"]))
        whole = base64.b64decode(case["files"][file])
        broken = bytearray(whole)
        if number % 3 == 0:
            broken = broken[: draw.randrange(len(broken))]
        else:
            for _ in range(draw.choice((1, 3, 30))):
                broken[draw.randrange(len(broken))] = draw.randrange(256)
        (tmp_path / file).write_bytes(bytes(broken))
        with contextlib.suppress(ModelError):
            opened(tmp_path).encode(["some text", "naïve …"])
        (tmp_path / file).write_bytes(whole)
