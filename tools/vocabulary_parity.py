"""Compare tokenizers that are built from vocabularies (no tokenizer.json) with those of transformers.

Needs transformers, sentencepiece and protobuf:

    python tools/vocabulary_parity.py              every paragraph of the sample documents
    python tools/vocabulary_parity.py --golden     write tests/golden/vocabularies

Vocabularies are trained on the sample documents; the golden files hold them with texts and ids.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import ByteLevelBPETokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from quaver.models.files import ConfigFile, TokenizerConfigFile, checked
from quaver.models.tokenizer import Tokenizer
from tokenizer_parity import AWKWARD, paragraphs

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "vocabularies"
QUERY = "What is a list?"
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROWS = 10_000


def word_piece(special: list[str], *, lowercase: bool) -> dict[str, bytes]:
    """Train vocab.txt."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    backend.train_from_iterator(paragraphs(), trainer)
    order = sorted(backend.get_vocab().items(), key=lambda entry: entry[1])
    return {"vocab.txt": "".join(f"{token}\n" for token, _ in order).encode()}


def byte_pairs() -> dict[str, bytes]:
    """Train vocab.json and merges.txt."""
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(
        paragraphs(),
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        backend.save_model(folder)
        return {name: (Path(folder) / name).read_bytes() for name in ("vocab.json", "merges.txt")}


def sentence_piece(name: str, *, rules: str = "", **options: Any) -> dict[str, bytes]:
    """Train a SentencePiece model; `rules` are lines of its normalization table."""
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rules.tsv"
        table.write_text(rules, encoding="utf-8")
        options |= {"normalization_rule_tsv": str(table)} if rules else {}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=paragraphs(),
            model_writer=model,
            vocab_size=400,
            model_type="unigram",
            minloglevel=2,
            **({} if rules else {"normalization_rule_name": "identity"}),
            **options,
        )
    return {name: model.getvalue()}


# Full-width digits to digits, a ligature to its letters, an ellipsis to three points.
RULES = "".join(f"FF1{digit}\t3{digit}\n" for digit in range(10)) + "FB01\t66 69\n2026\t2E 2E 2E\n"


def cases() -> dict[str, tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]]:
    """Return files, other JSON files and config.json of each case."""
    uncased, cased = word_piece(BERT, lowercase=True), word_piece(BERT, lowercase=False)
    mpnet = word_piece(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"], lowercase=True)
    xlm = sentence_piece("sentencepiece.bpe.model")
    rules = sentence_piece("sentencepiece.bpe.model", rules=RULES)
    deberta = sentence_piece(
        "spm.model",
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        user_defined_symbols=["user_made"],
    )
    t5 = sentence_piece(
        "spiece.model", rules=RULES, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, eos_piece="</s>"
    )
    albert = sentence_piece(
        "spiece.model",
        rules=RULES,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[CLS]", "[SEP]"],
        user_defined_symbols=["[MASK]"],
    )
    mask = {"content": "<mask>", "lstrip": True, "normalized": False}
    return {
        "bert": (uncased, {}, {"model_type": "bert"}),
        "bert-cased": (
            cased,
            {"tokenizer_config.json": {"do_lower_case": False, "model_max_length": 512}},
            {"model_type": "bert"},
        ),
        "bert-older-files": (
            uncased,
            {
                "special_tokens_map.json": {"mask_token": mask | {"content": "[MASK]"}},
                "added_tokens.json": {"naïve": 400, "[SPECIAL]": 401},
                "tokenizer_config.json": {"additional_special_tokens": ["[SPECIAL]"]},
            },
            {"model_type": "bert"},
        ),
        "distilbert": (uncased, {"tokenizer_config.json": {}}, {"model_type": "distilbert"}),
        "electra": (
            cased,
            {"tokenizer_config.json": {"strip_accents": True}},
            {"model_type": "electra"},
        ),
        "mpnet": (mpnet, {}, {"model_type": "mpnet"}),
        "roberta": (byte_pairs(), {}, {"model_type": "roberta"}),
        "roberta-prefix": (
            byte_pairs(),
            {
                "tokenizer_config.json": {
                    "add_prefix_space": True,
                    "mask_token": {
                        "__type": "AddedToken",
                        **mask,
                        "rstrip": False,
                        "single_word": False,
                    },
                }
            },
            {"model_type": "roberta"},
        ),
        "xlm-roberta": (xlm, {}, {"model_type": "xlm-roberta"}),
        "xlm-roberta-rules": (
            rules,
            {"special_tokens_map.json": {"mask_token": mask}},
            {"model_type": "xlm-roberta"},
        ),
        "camembert": (rules, {}, {"model_type": "camembert"}),
        "deberta": (deberta, {}, {"model_type": "deberta-v2"}),
        "ernie": (uncased, {}, {"model_type": "ernie"}),
        "t5": (t5, {"tokenizer_config.json": {"extra_ids": 3}}, {"model_type": "t5"}),
        "t5-listed": (
            t5,
            {
                "tokenizer_config.json": {
                    "tokenizer_class": "T5Tokenizer",
                    "extra_ids": 2,
                    "additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"],
                }
            },
            {"model_type": "mt5"},
        ),
        "albert": (albert, {}, {"model_type": "albert"}),
        "albert-cased": (
            albert,
            {"tokenizer_config.json": {"do_lower_case": False, "keep_accents": True}},
            {"model_type": "albert"},
        ),
        "deberta-lower": (
            deberta,
            {"tokenizer_config.json": {"do_lower_case": True, "split_by_punct": True}},
            {"model_type": "deberta-v2"},
        ),
    }


def write(folder: Path, files: dict[str, bytes], values: dict[str, Any]) -> None:
    """Write a case as a model folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for name, value in values.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


def ours(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Return Quaver's ids of texts and pairs."""
    settings = folder / "tokenizer_config.json"
    tokenizer = Tokenizer.from_folder(
        folder,
        max_length=512,
        settings=checked(
            TokenizerConfigFile, json.loads(settings.read_text()) if settings.is_file() else {}, ""
        ),
        model=checked(ConfigFile, json.loads((folder / "config.json").read_text()), ""),
    )
    single, pairs = (
        tokenizer.encode(texts),
        tokenizer.encode_pairs([(QUERY, text) for text in texts]),
    )
    types = [0] * pairs.tokens if pairs.type_ids is None else pairs.type_ids.tolist()

    def rows(batch: Any, values: list[int]) -> list[list[int]]:
        return [values[a:b] for a, b in pairwise(batch.offsets.tolist())]

    return {
        "ids": rows(single, single.ids.tolist()),
        "pair_ids": rows(pairs, pairs.ids.tolist()),
        "pair_types": rows(pairs, types),
    }


def theirs(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Return transformers' ids of the same."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"truncation": True, "max_length": 512}
    # As lists: an empty second text by itself would not count as one.
    pairs = tokenizer(
        [QUERY] * len(texts),
        texts,
        truncation="only_second",
        max_length=512,
        return_token_type_ids=True,
    )
    return {
        "ids": [tokenizer(text, **options)["input_ids"] for text in texts],
        "pair_ids": pairs["input_ids"],
        "pair_types": pairs["token_type_ids"],
    }


def main() -> None:
    """Compare, or write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", action="store_true", help="write tests/golden/vocabularies")
    chosen = parser.parse_args()
    special = ["[MASK] and <mask> typed", "a [SPECIAL] user_made <s>NOTUSED token", "x…y \ufb01"]
    found = list(paragraphs())
    texts = [*AWKWARD, *special, *(found[::400] if chosen.golden else found)]
    equal = True
    for name, (files, values, config) in cases().items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            values = {**values, "config.json": {**config, "vocab_size": ROWS}}
            write(folder, files, values)
            truth = theirs(folder, texts)
            got = ours(folder, texts)
            for kind, rows in truth.items():
                wrong = [i for i, (a, b) in enumerate(zip(got[kind], rows, strict=True)) if a != b]
                equal &= not wrong
                print(f"{name}: {kind} of {len(rows)} texts, {len(wrong)} differ", flush=True)
                for i in wrong[:2]:
                    print(f"  {texts[i]!r}\n  {got[kind][i]}\n  {rows[i]}")
            if chosen.golden:
                packed = {
                    file: base64.b64encode(content).decode() for file, content in files.items()
                }
                GOLDEN.mkdir(exist_ok=True)
                golden = {"files": packed, "values": values, "texts": texts, "expected": truth}
                text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
                (GOLDEN / f"{name}.json").write_text(text, encoding="utf-8")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
