"""Compare Quaver's tokenizer with transformers' on WordPiece, BPE and Unigram vocabularies made in memory.

Needs transformers:

    python tools/tokenizer_parity.py               every paragraph of the sample documents, and awkward ones
    python tools/tokenizer_parity.py --golden      write tests/golden/tokenizers

The vocabularies are trained on the sample documents; classes, special tokens and the other steps
are those of the published models. With other settings in tokenizer_config.json, the same
tokenizers are compared with AutoTokenizer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from quaver.models.files import ConfigFile, TokenizerConfigFile, checked
from quaver.models.tokenizer import TokenBatch, Tokenizer

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "tokenizers"
DOCUMENTS = ROOT / "examples" / "python-docs"
VOCABULARY = 400
SETTINGS = ROOT / "tests" / "golden" / "tokenizer_settings.json"
LENGTHS = (512, 24)  # nothing truncated, nearly everything truncated
AWKWARD = (
    "",
    " ",
    "\n\t  \r\n",
    "Hello, World!",
    "naïve CAFÉ Ångström ﬁne №\uff15",
    "e\u0301 and \u00e9",
    "日本語のテキスト and 한국어, 中文。",
    "emoji 👩‍👩‍👧‍👦 🇫🇷 \u200b\u00ad zero width",
    "[CLS] typed </s> special <mask> tokens [SEP]",
    "don't (stop)... it's 3.14e-10 / 100%",
    "\x00control\x07 \ufffd \u2028 line",
    "word" * 40,
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
)


def paragraphs() -> Iterator[str]:
    """Yield the paragraphs of the sample documents."""
    for path in sorted(DOCUMENTS.rglob("*.rst")):
        yield from path.read_text(encoding="utf-8").split("\n\n")


def _pieces(special: tuple[str, ...]) -> list[tuple[str, float]]:
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, show_progress=False, unk_token="<unk>")
    backend.train_from_iterator(paragraphs(), trainer)
    trained = json.loads(backend.to_str())["model"]["vocab"]
    # Short numbers: long ones change in their last bit when they are written and read, and where two
    # ways to split a text ("----" "-", "-" "----") score the same, that bit decides.
    learned = [(piece, round(score, 4)) for piece, score in trained if piece != "<unk>"]
    return [(token, 0.0) for token in special] + learned


def _word_pieces(special: tuple[str, ...], lower: bool) -> dict[str, int]:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special), show_progress=False
    )
    backend.train_from_iterator(paragraphs(), trainer)
    return dict(sorted(backend.get_vocab().items(), key=lambda item: item[1]))


def _byte_pairs(special: tuple[str, ...]) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(paragraphs(), trainer)
    return backend


_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>")


def _bert(lower: bool) -> Any:
    return transformers.BertTokenizer(vocab=_word_pieces(_BERT, lower), do_lower_case=lower)


def _mpnet() -> Any:
    special = ("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>")
    return transformers.MPNetTokenizer(vocab=_word_pieces(special, lower=True))


def _roberta() -> Any:
    trained = json.loads(_byte_pairs((*_ROBERTA, "<mask>")).to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    return transformers.RobertaTokenizer(vocab=trained["vocab"], merges=merges)


def _modernbert() -> Any:
    backend = _byte_pairs(_BERT)
    backend.normalizer = normalizers.NFC()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokens = dict(zip(names, _BERT, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)


def _xlm_roberta() -> Any:
    return transformers.XLMRobertaTokenizer(vocab=[*_pieces(_ROBERTA), ("<mask>", 0.0)])


def _camembert() -> Any:
    special = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")
    return transformers.CamembertTokenizer(vocab=[*_pieces(special), ("<mask>", 0.0)])


def _deberta() -> Any:
    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    return transformers.DebertaV2Tokenizer(vocab=[*_pieces(special), ("[MASK]", 0.0)])


CASES: dict[str, Callable[[], Any]] = {
    "bert-uncased": lambda: _bert(lower=True),
    "bert-cased": lambda: _bert(lower=False),
    "mpnet": _mpnet,
    "roberta": _roberta,
    "modernbert": _modernbert,
    "xlm-roberta": _xlm_roberta,
    "camembert": _camembert,
    "deberta-v2": _deberta,
}


def pairs_of(texts: list[str]) -> list[tuple[str, str]]:
    """Pair a short query with every text."""
    return [("What is a list?", text) for text in texts]


def theirs(tokenizer: Any, texts: list[str], length: int) -> dict[str, Any]:
    """Return the tokens of texts and pairs by transformers, truncated to a length."""
    common = {"truncation": True, "max_length": length}
    single = tokenizer(texts, **common)
    pairs = pairs_of(texts)
    paired = tokenizer(
        [query for query, _ in pairs],
        [text for _, text in pairs],
        **{**common, "truncation": "only_second"},
        return_token_type_ids=True,
    )
    return {
        "max_length": length,
        "ids": single["input_ids"],
        "pair_ids": paired["input_ids"],
        "pair_types": paired["token_type_ids"],
    }


def ours(folder: Path, texts: list[str], length: int) -> dict[str, Any]:
    """Return the same by Quaver's tokenizer."""
    tokenizer = Tokenizer.from_folder(folder, max_length=length)
    single, paired = tokenizer.encode(texts), tokenizer.encode_pairs(pairs_of(texts))
    types = [0] * paired.tokens if paired.type_ids is None else paired.type_ids.tolist()
    return {
        "max_length": length,
        "ids": _rows(single, single.ids.tolist()),
        "pair_ids": _rows(paired, paired.ids.tolist()),
        "pair_types": _rows(paired, types),
    }


def _rows(batch: TokenBatch, values: list[int]) -> list[list[int]]:
    offsets = batch.offsets.tolist()
    return [values[a:b] for a, b in pairwise(offsets)]


def _added(content: str, **changes: object) -> dict[str, object]:
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {"content": content, **plain, "special": True, **changes}


_FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
_BERT_CLASS = {"tokenizer_class": "BertTokenizer"}
_EXTRA = {"9999": _added("<extra>"), "9998": _added("<two>", special=False, normalized=True)}
# A tokenizer of tests/golden/tokenizers, the model_type, and tokenizer_config.json; None for a folder without it.
SETTING_CASES: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
    ("bert-uncased", "bert", None),
    ("bert-uncased", "bert", {}),
    ("bert-uncased", "bert", {"do_lower_case": False}),
    ("bert-uncased", "bert", {**_BERT_CLASS, "strip_accents": False}),
    ("bert-uncased", "bert", {"do_lower_case": False, "strip_accents": True}),
    (
        "bert-uncased",
        "bert",
        {"tokenizer_class": "BertTokenizerFast", "tokenize_chinese_chars": False},
    ),
    ("bert-uncased", "bert", {**_FAST, "do_lower_case": False, "strip_accents": False}),
    ("bert-uncased", "bert", {"added_tokens_decoder": _EXTRA}),
    ("bert-uncased", "bert", {**_FAST, "added_tokens_decoder": _EXTRA}),
    ("bert-uncased", "bert", {**_BERT_CLASS, "additional_special_tokens": ["<extra>", "[SEP]"]}),
    ("bert-uncased", "bert", {**_FAST, "extra_special_tokens": {"x_token": "<extra>"}}),
    ("bert-uncased", "bert", {**_FAST, "mask_token": "<extra>"}),
    (
        "bert-uncased",
        "bert",
        {**_FAST, "added_tokens_decoder": {"4": _added("[MASK]", lstrip=True)}},
    ),
    ("bert-cased", "bert", None),
    ("bert-cased", "bert", {}),
    ("bert-cased", "bert", {"do_lower_case": False}),
    ("bert-cased", "bert", {**_FAST, "do_lower_case": True}),
    ("bert-cased", "roberta", {**_BERT_CLASS, "do_lower_case": True}),
    ("bert-uncased", "electra", {"tokenizer_class": "ElectraTokenizer", "do_lower_case": False}),
    ("bert-uncased", "electra", {"do_lower_case": False}),
    (
        "bert-uncased",
        "distilbert",
        {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False},
    ),
    ("bert-uncased", "nomic_bert", {**_BERT_CLASS, "do_lower_case": False}),
    ("bert-uncased", "modernbert", {**_BERT_CLASS, "do_lower_case": False}),
    ("mpnet", "mpnet", {"do_lower_case": False}),
    ("mpnet", "mpnet", {"tokenizer_class": "MPNetTokenizer", "strip_accents": False}),
    ("roberta", "roberta", {}),
    ("roberta", "roberta", {"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": True}),
    ("roberta", "roberta", {**_FAST, "add_prefix_space": True}),
    ("roberta", "roberta", {"added_tokens_decoder": _EXTRA}),
    ("xlm-roberta", "xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer"}),
    ("xlm-roberta", "xlm-roberta", {"additional_special_tokens": ["<extra>"]}),
    ("xlm-roberta", "bert", {"tokenizer_class": "XLMRobertaTokenizerFast"}),
    ("camembert", "camembert", {"additional_special_tokens": ["<extra>"]}),
    ("deberta-v2", "deberta-v2", {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": True}),
    ("modernbert", "modernbert", {**_FAST, "additional_special_tokens": ["<extra>"]}),
)
SETTING_TEXTS = [*AWKWARD, "One <extra> and <Extra> or <two> more [MASK] of <mask> them"]


def settings_case(
    folder: Path, saved: dict[str, Any], model_type: str, settings: dict[str, Any] | None
) -> dict[str, Any]:
    """Write a folder, and return its results with AutoTokenizer and Quaver's tokenizer."""
    vocabulary = saved["model"]["vocab"]
    config = {"model_type": model_type, "vocab_size": len(vocabulary) + 16}
    (folder / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    backend = transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    expected = [backend.encode(text).ids for text in SETTING_TEXTS]
    own = Tokenizer.from_folder(
        folder,
        max_length=512,
        settings=checked(TokenizerConfigFile, settings or {}, "tokenizer_config.json"),
        model=checked(ConfigFile, config, "config.json"),
    )
    batch = own.encode(SETTING_TEXTS)
    got = _rows(batch, batch.ids.tolist())
    wrong = sum(a != b for a, b in zip(expected, got, strict=True))
    return {"config": config, "settings": settings, "ids": expected, "wrong": wrong}


def compare_settings(*, golden: bool) -> bool:
    """Compare every case of SETTING_CASES; return whether all agree."""
    print("\n| tokenizer | model_type | tokenizer_config.json | texts whose ids differ |")
    print("| --- | --- | --- | ---: |")
    rows = []
    for name, model_type, settings in SETTING_CASES:
        golden_file = (GOLDEN / f"{name}.json").read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            saved = json.loads(golden_file)["tokenizer"]
            row = settings_case(Path(folder), saved, model_type, settings)
        print(f"| {name} | {model_type} | {json.dumps(settings)} | {row['wrong']} |", flush=True)
        rows.append({"tokenizer": name, **row})
    held = not any(row.pop("wrong") for row in rows)
    if golden:
        text = json.dumps({"texts": SETTING_TEXTS, "cases": rows}, separators=(",", ":"))
        SETTINGS.write_text(text + "\n", encoding="utf-8")
    return held


def main() -> None:
    """Compare, or write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", action="store_true", help="write tests/golden/tokenizers")
    chosen = parser.parse_args()
    texts = list(AWKWARD) if chosen.golden else [*AWKWARD, *paragraphs()]
    held = True
    print("| tokenizer | model | texts | ids that differ |")
    print("| --- | --- | ---: | ---: |")
    for name, make in CASES.items():
        tokenizer = make()
        expected = [theirs(tokenizer, texts, length) for length in LENGTHS]
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            saved = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))
            got = [ours(Path(folder), texts, length) for length in LENGTHS]
        wrong = sum(
            a != b
            for one, other in zip(expected, got, strict=True)
            for key in ("ids", "pair_ids", "pair_types")
            for a, b in zip(one[key], other[key], strict=True)
        )
        held &= wrong == 0
        print(f"| {name} | {saved['model']['type']} | {len(texts)} | {wrong} |", flush=True)
        if chosen.golden:
            GOLDEN.mkdir(exist_ok=True)
            golden = {"tokenizer": saved, "texts": texts, "expected": expected}
            (GOLDEN / f"{name}.json").write_text(
                json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n",
                encoding="utf-8",
            )
    held &= compare_settings(golden=chosen.golden)
    sys.exit(not held)


if __name__ == "__main__":
    main()
