"""Cases that failed once, made by code: the corpus. Each must hold for ever, whatever a seed draws."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from mutation import Raw, unpack_safetensors
from target import Case
from target_folders import base, edited, safetensors, with_keys

DEEP = b"[" * 100_000
BERT, MODERN, STATIC = "bert/encoder", "modernbert/encoder", "bert/static"
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
SETTINGS, LENGTHS = "config_sentence_transformers.json", "sentence_bert_config.json"


# --- Model folders --------------------------------------------------------------------------------
def replaced(name: str, path: str, content: bytes | str) -> Case:
    """Return a folder with one file replaced."""
    return Case({**base(name), path: content}, {"base": name}, [f"{path} replaced"])


def with_part(part: str, value: Any, name: str = BERT) -> Case:
    """Return a folder with one part of its tokenizer replaced."""
    return with_keys(name, TOKENIZER, **{part: value})


def _template(tokens: dict[str, Any]) -> dict[str, Any]:
    single = [
        {"SpecialToken": {"id": "[NONE]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single,
        "special_tokens": tokens,
    }


def _split(pattern: str) -> dict[str, Any]:
    regex = {"Regex": pattern}
    return {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}


def _charsmap(raw: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


def _group(**changes: Any) -> Case:
    def change(config: Any) -> None:
        config["quantization_config"]["config_groups"]["group_0"].update(changes)

    return edited(STATIC, CONFIG, change)


def _large_token() -> Case:
    def change(tokenizer: Any) -> None:
        tokenizer["model"]["vocab"]["zzz"] = 2**32 - 1

    return edited(BERT, TOKENIZER, change)


def _filled(value: float) -> Case:
    header, data = unpack_safetensors(base(BERT)["model.safetensors"])
    tensors = {
        key: np.frombuffer(data[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for key, entry in header.items()
    }
    for key, tensor in tensors.items():
        if tensor.ndim == 2:
            tensors[key] = np.full_like(tensor, value)
    case = replaced(BERT, "model.safetensors", safetensors(tensors))
    case.settings["precision"] = "float32"
    return case


FOLDERS: dict[str, Callable[[], Case]] = {
    **{
        f"deep JSON in {path}": lambda path=path, name=name: replaced(name, path, DEEP)
        for name, path in (
            (BERT, CONFIG),
            (BERT, TOKENIZER),
            (BERT, "tokenizer_config.json"),
            (BERT, "modules.json"),
            (BERT, "1_Pooling/config.json"),
            (BERT, SETTINGS),
            (BERT, LENGTHS),
            ("bert/modules", "2_Dense/config.json"),
            ("bert/shards", "model.safetensors.index.json"),
        )
    },
    "hidden_act is a list": lambda: with_keys(BERT, CONFIG, hidden_act=[]),
    "similarity_fn_name is a list": lambda: with_keys(BERT, SETTINGS, similarity_fn_name=["a"]),
    "default_prompt_name is a list": lambda: with_keys(BERT, SETTINGS, default_prompt_name=[]),
    "prompts is a list": lambda: with_keys(BERT, SETTINGS, prompts=[[]]),
    "layer_types holds a list": lambda: with_keys(MODERN, CONFIG, layer_types=[[]]),
    "architectures is a number": lambda: with_keys(BERT, CONFIG, architectures=1),
    "targets is a number": lambda: _group(targets=1, input_activations=None),
    "2**33 positions": lambda: with_keys(BERT, CONFIG, max_position_embeddings=2**33),
    "2**33 positions, rotary": lambda: with_keys(MODERN, CONFIG, max_position_embeddings=2**33),
    "20 million positions": lambda: with_keys(MODERN, CONFIG, max_position_embeddings=20_000_000),
    "200 million layers": lambda: with_keys(BERT, CONFIG, num_hidden_layers=200_000_000),
    "200 million layers, rotary": lambda: with_keys(MODERN, CONFIG, num_hidden_layers=200_000_000),
    "2**63 layers": lambda: with_keys(BERT, CONFIG, num_hidden_layers=2**63),
    "max_seq_length is NaN": lambda: with_keys(BERT, LENGTHS, max_seq_length=Raw("NaN")),
    "max_seq_length is infinite": lambda: with_keys(BERT, LENGTHS, max_seq_length=Raw("Infinity")),
    "rope_theta is text": lambda: with_keys("nomicbert/encoder", CONFIG, rotary_emb_base="x"),
    "global_rope_theta is text": lambda: with_keys(MODERN, CONFIG, global_rope_theta="x"),
    "a number of 5000 digits": lambda: with_keys(BERT, CONFIG, hidden_size=Raw("1" + "0" * 5000)),
    "token id 2**32 - 1": _large_token,
    "template without its token": lambda: with_part("post_processor", _template({})),
    "special token id 2**32 - 1": lambda: with_part(
        "post_processor",
        _template({"[NONE]": {"id": "[NONE]", "ids": [2**32 - 1], "tokens": ["[NONE]"]}}),
    ),
    "BertProcessing with id 2**32 - 1": lambda: with_part(
        "post_processor",
        {"type": "BertProcessing", "sep": ["[SEP]", 2**32 - 1], "cls": ["[CLS]", 2**32 - 1]},
    ),
    "empty charsmap": lambda: with_part("normalizer", _charsmap(b"")),
    "garbage charsmap": lambda: with_part("normalizer", _charsmap(b"\x08\0\0\0abcdefgh" + b"\xff" * 9)),
    "an exploding pattern": lambda: with_part("pre_tokenizer", _split("((a|aa)+)+$")),
    "a broken pattern": lambda: with_part("pre_tokenizer", _split("a{1000000}{1000000}")),
    "nine Replace": lambda: with_part(
        "normalizer",
        {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
            ]
            * 9,
        },
    ),
    "nested normalizers": lambda: with_part(
        "normalizer", Raw('{"type": "Sequence", "normalizers": [' * 5000 + "]}" * 5000)
    ),
    "huge weights": lambda: _filled(3e38),
    "large weights": lambda: _filled(1e30),
    "weights of NaN": lambda: _filled(float("nan")),
    "a named pipe": lambda: replaced(BERT, LENGTHS, "fifo"),
    "a pipe for a tokenizer": lambda: replaced(BERT, TOKENIZER, "fifo"),
    "a pipe for weights": lambda: replaced(BERT, "model.safetensors", "fifo"),
    "a file without end": lambda: replaced(BERT, CONFIG, "-> /dev/zero"),
    "a tokenizer without end": lambda: replaced(BERT, TOKENIZER, "-> /dev/zero"),
    "shards that are no text": lambda: replaced(
        "bert/shards", "model.safetensors.index.json", json.dumps({"weight_map": {"a": [[]]}}).encode()
    ),
}  # fmt: skip


# --- Documents ------------------------------------------------------------------------------------
def document(ending: str, text: str | bytes, budget: int = 62) -> Case:
    """Return a document."""
    content = text.encode() if isinstance(text, str) else text
    return Case({f"a{ending}": content}, {"budget": budget}, [f"{ending}, {len(content)} bytes"])


def _long_name() -> Case:
    name = "a" * 200 + ".txt"
    return Case({name: b"x", ".gitignore": b"a*" * 40 + b"b\n"}, {"include": [], "exclude": []})


DOCUMENTS: dict[str, Callable[[], Case]] = {
    ".rst of empty lines": lambda: document(".rst", "a\n" + "\n" * 60_000 + "b\n"),
    ".rst of lines with blanks": lambda: document(".rst", "a\n" + " \n" * 40_000 + "b\n"),
    ".rst, many fields over a line": lambda: document(".rst", ":a" * 60_000 + "\n====\n"),
    ".rst of targets": lambda: document(".rst", ".. _a:\n" * 5000),
    ".txt of empty lines": lambda: document(".txt", "a\n" + "\n" * 40_000 + "b\n"),
    ".md of empty lines": lambda: document(".md", "a\n" + "\n" * 40_000 + "b\n"),
    ".csv of open quotes": lambda: document(".csv", '\n"x' * 50_000),
    ".csv of one quote": lambda: document(".csv", '"' + "x,\n" * 20_000),
    ".html of comments": lambda: document(".html", "<!--" * 100_000),
    ".html of open attributes": lambda: document(".html", "<a b='" * 16_000),
    ".html of open tags": lambda: document(".html", "<div>" * 40_000),
    ".html of declarations": lambda: document(".html", "<![<li>"),
    ".html of nested tables": lambda: document(".html", "<table><tr><td>" * 4000 + "x"),
    ".eml of parts": lambda: document(".eml", "Content-Type: multipart/mixed; boundary=a\n\n--a\n" * 300),
    ".json of brackets": lambda: document(".json", "[" * 100_000),
    "words without spaces": lambda: document(".txt", "東京" * 50_000),
    "a word of 100,000 letters": lambda: document(".txt", "A" * 100_000),
    "a pipe": lambda: Case({"a.txt": "fifo"}),
    "a file without end": lambda: Case({"a.txt": "-> /dev/zero"}),
}  # fmt: skip
PATTERNS: dict[str, Callable[[], Case]] = {
    "forty stars": _long_name,
    "three hundred stars": lambda: Case(
        {"a" * 200 + ".txt": b"x", ".gitignore": b"a*" * 300 + b"b\n"},
        {"include": [], "exclude": []},
    ),
    "a range backwards": lambda: Case(
        {"a.txt": b"x", ".gitignore": b"[z-a]\n"}, {"include": [], "exclude": ["[z-a]"]}
    ),
}
FILTERS: dict[str, Callable[[], Case]] = {
    "half of a surrogate pair": lambda: Case(
        {}, {"filter": ["and"], "text": "\ud800", "mode": "bm25", "k": 5}
    ),
}


# --- Stores ---
def changed_store(part: str, change: Callable[[bytes], bytes | None]) -> Case:
    """Return a store in which one file is changed, or gone."""
    from target_stores import base as stored

    files: dict[str, bytes | str] = dict(stored()[0])
    (name,) = (name for name in files if name.partition(".")[0] == part)
    content = files.pop(name)
    assert isinstance(content, bytes)
    if (new := change(content)) is not None:
        files[name] = new
    return Case(files, {"write": False}, [f"{name} changed"])


def _flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


STORES: dict[str, Callable[[], Case]] = {
    f"{part}: {name}": lambda part=part, change=change: changed_store(part, change)
    for part in ("rows", "texts", "vectors", "sketches", "dropped", "state", "quaver")
    for name, change in {
        "a bit": _flipped,
        "gone": lambda content: None,
        "zeros": lambda content: bytes(len(content)),
        "half": lambda content: content[: len(content) // 2],
    }.items()
}
STORES["quaver: deep JSON"] = lambda: changed_store("quaver", lambda content: DEEP)
KNOWN_CASES = {
    "stores": STORES,
    "folders": FOLDERS,
    "documents": DOCUMENTS,
    "patterns": PATTERNS,
    "filters": FILTERS,
}
PENDING: set[str] = set()
"""Names of cases that are not fixed yet."""
