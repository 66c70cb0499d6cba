# ruff: noqa: E501 - tables are read across
"""Model folders, each family and layout, with one to three things broken."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutation import (
    LFS,
    Raw,
    dumps,
    loads,
    mutate_bytes,
    mutate_json,
    mutate_safetensors,
    pack_safetensors,
    said,
)
from safetensors.numpy import load as safetensors_of
from target import BrokenPromiseError, Case, Target

import quaver

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_model import write_tiny_cross_encoder, write_tiny_model

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENIZERS = {
    "bert": "bert-uncased",
    "camembert": "camembert",
    "debertav2": "deberta-v2",
    "distilbert": "bert-cased",
    "electra": "bert-uncased",
    "gte": "modernbert",
    "gtev15": "bert-uncased",
    "jinav2": "roberta",
    "modernbert": "modernbert",
    "mpnet": "mpnet",
    "nomicbert": "bert-uncased",
    "roberta": "roberta",
    "xlmroberta": "xlm-roberta",
}
# Folders as other libraries wrote them: modules, tables, checkpoints of torch, vocabularies.
KINDS = {"rerank": "classifier", "labels": "classifier", "splade": "sparse", "colbert": "tokens"}
WRITTEN = tuple(
    f"{path.stem}/{next((kind for part, kind in KINDS.items() if part in path.stem), 'encoder')}"
    for path in sorted((GOLDEN / "folders").glob("*.zip"))
)
VOCABULARIES = ("bert", "mpnet", "roberta", "xlm-roberta-rules", "deberta")
QUANTIZED = ("bert", "modernbert", "roberta")
BASES = (
    *(f"{family}/{layout}" for family in TOKENIZERS for layout in ("encoder", "classifier")),
    *(f"{family}/modules" for family in ("bert", "mpnet", "xlmroberta", "modernbert")),
    *(f"{family}/{layout}" for family in QUANTIZED for layout in ("quantized", "static")),
    *("tiny/encoder", "tiny/classifier", "bert/shards"),
)
TEXTS = (
    "a short query",
    "",
    " \n\t",
    "The quick (brown) fox's file! 😀 ünï \u200d\u0301",
    "a" * 300,
    "word and " * 200,
    "東京は日本の首都です。",
    "\0\ufffd\u202e",
)


# --- Whole folders ---
@cache
def base(name: str) -> dict[str, bytes]:
    """Return the files of a folder that loads."""
    family, layout = name.split("/")
    if family == "tiny":
        write = write_tiny_model if layout == "encoder" else write_tiny_cross_encoder
        with tempfile.TemporaryDirectory() as place:
            return _read(write(Path(place) / "tiny", max_positions=32))
    if layout in ("quantized", "static"):
        return _quantized(family, layout)
    if layout == "vocabulary":
        return _vocabulary(family)
    if name in WRITTEN:
        with zipfile.ZipFile(GOLDEN / "folders" / f"{family}.zip") as packed:
            names = [entry for entry in packed.namelist() if entry != "expected.json"]
            return {entry: packed.read(entry) for entry in names}
    kind = "classifier" if layout == "classifier" else "encoder"
    with np.load(GOLDEN / "families" / f"{family}.npz") as arrays:
        config = json.loads(arrays["configs"].tobytes())[kind]
        tensors = {
            key.removeprefix(f"{kind}/"): arrays[key].astype(np.float32)
            for key in arrays.files
            if key.startswith(f"{kind}/")
        }
    content = json.loads(
        (GOLDEN / "tokenizers" / f"{TOKENIZERS[family]}.json").read_text(encoding="utf-8")
    )
    tokens = 420
    for key, values in tensors.items():
        if len(values) == config["vocab_size"] and "embeddings" in key:
            tensors[key] = np.resize(values, (tokens, *values.shape[1:]))
    config["vocab_size"] = tokens
    files = {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": json.dumps(content["tokenizer"]).encode(),
        "tokenizer_config.json": b'{"model_max_length": 48, "do_lower_case": true, "pad_token": "[PAD]"}',
    }
    if layout == "shards":
        names = sorted(tensors)
        parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
        for part, held in parts.items():
            files[part] = safetensors({key: tensors[key] for key in held})
        places = {key: part for part, held in parts.items() for key in held}
        files["model.safetensors.index.json"] = json.dumps(
            {"metadata": {}, "weight_map": places}
        ).encode()
    else:
        files["model.safetensors"] = safetensors(tensors)
    if kind == "classifier":
        return files
    size = config.get("hidden_size") or config["dim"]
    kinds = [
        "Transformer",
        "Pooling",
        *(["Dense", "LayerNorm"] if layout == "modules" else []),
        "Normalize",
    ]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{name}" if i else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(kinds)
    ]
    files["modules.json"] = json.dumps(modules).encode()
    files["sentence_bert_config.json"] = b'{"max_seq_length": 32, "do_lower_case": false}'
    files["config_sentence_transformers.json"] = (
        b'{"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": null,'
        b' "similarity_fn_name": "cosine"}'
    )
    pooling = {
        "word_embedding_dimension": size,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": False,
    }
    files["1_Pooling/config.json"] = json.dumps(pooling).encode()
    if layout == "modules":
        dense = {"in_features": size, "out_features": 8, "bias": True}
        dense["activation_function"] = "torch.nn.modules.activation.Tanh"
        files["2_Dense/config.json"] = json.dumps(dense).encode()
        rows = np.linspace(-1, 1, 8 * size, dtype=np.float32).reshape(8, size)
        files["2_Dense/model.safetensors"] = safetensors(
            {"linear.weight": rows, "linear.bias": np.zeros(8, np.float32)}
        )
        files["3_LayerNorm/config.json"] = b'{"dimension": 8}'
        files["3_LayerNorm/model.safetensors"] = safetensors(
            {"norm.weight": np.ones(8, np.float32), "norm.bias": np.zeros(8, np.float32)}
        )
    return files


def _vocabulary(name: str) -> dict[str, bytes]:
    """Return the tiny model with a vocabulary instead of tokenizer.json."""
    golden = json.loads((GOLDEN / "vocabularies" / f"{name}.json").read_text(encoding="utf-8"))
    files = dict(base("tiny/encoder"))
    del files["tokenizer.json"]
    files |= {file: base64.b64decode(content) for file, content in golden["files"].items()}
    kind = {"bert": "Bert", "mpnet": "MPNet", "roberta": "Roberta", "deberta": "DebertaV2"}
    named = {"tokenizer_class": f"{kind.get(name, 'XLMRoberta')}Tokenizer"}
    files["tokenizer_config.json"] = json.dumps(named).encode()
    config = json.loads(files["config.json"])
    rows = config["vocab_size"] = 420
    files["config.json"] = json.dumps(config).encode()
    tensors = safetensors_of(files["model.safetensors"])
    table = "embeddings.word_embeddings.weight"
    tensors[table] = np.resize(tensors[table], (rows, tensors[table].shape[1]))
    files["model.safetensors"] = safetensors(tensors)
    return files


def _quantized(family: str, layout: str) -> dict[str, bytes]:
    from quaver.quantization import quantize

    # Made once for all children, as quantizing costs as much as fifty cases.
    kept = Path(os.environ.get("FUZZ_SCRATCH", "/nonexistent")) / f"base-{family}-{layout}"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as place:
            source, made = Path(place) / family, Path(place) / "made"
            Case({**base(f"{family}/encoder")}).write(source)
            if layout == "static":
                texts = [
                    f"the file of {word} and {word}s" for word in ("man", "list", "key", "data")
                ]
                quantize(source, made, scheme="static", calibration=texts, samples=4)
            else:
                quantize(source, made)
            if "FUZZ_SCRATCH" not in os.environ:
                return _read(made)
            shutil.move(made, kept)
    return _read(kept)


def _read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".json", ".safetensors")
    }


def safetensors(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Return a safetensors file of float32 tensors."""
    header, data = {}, b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values, np.float32).tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return pack_safetensors(json.dumps(header), data)


def edited(name: str, path: str, change: Callable[[Any], Any]) -> Case:
    """Return a whole folder with one JSON file changed."""
    value = json.loads(base(name)[path])
    done = change(value)
    return Case(
        {**base(name), path: dumps(value if done is None else done).encode("utf-8", "replace")},
        {"base": name},
    )


def with_keys(name: str, path: str, **keys: Any) -> Case:
    """Return a whole folder with keys of one JSON file set."""
    case = edited(name, path, lambda value: value.update(keys))
    case.story = [f"{path}: {key} is {said(value)}" for key, value in keys.items()]
    return case


# --- Tokenizers ---
_CHARSMAPS = tuple(
    base64.b64encode(raw).decode()
    for raw in (
        b"",
        b"\0",
        b"\xff" * 16,
        b"\x04\0\0\0abcdefgh",
        b"\xff\xff\xff\xff" + b"\0" * 64,
        b"\0\0\0\x80" * 9,
    )
)
_PATTERNS: tuple[dict[str, str], ...] = (
    *({"String": text} for text in ("", "a", " ", "\0", "😀")),
    *(
        {"Regex": text}
        for text in (
            "",
            "(",
            "[",
            "a{1000000}",
            "(a+)+$",
            "(a*)*b",
            "((a|aa)+)+$",
            r"(?=(a+))\1",
            r"\p{Nope}",
            ".*",
            "^",
            "(?:a?){30}a{30}",
            r"\s+|(?!\S)",
        )
    ),
)


def _growing(times: int, pattern: str = "a", content: str = "a" * 10) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": {"String": pattern}, "content": content}
    return {"type": "Sequence", "normalizers": [step] * times}


def _nested(kind: str, inside: str, depth: int) -> Raw:
    start = json.dumps({"type": kind, inside: []})[:-2]
    return Raw(start * depth + "]}" * depth)


def _template(draw: Random) -> dict[str, Any]:
    def special(name: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": draw.choice((0, 1, 2**32 - 1))}}

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": draw.choice((0, 0, 1, 7, 2**32 - 1))}}

    pieces = [text("A"), text("B"), special("[CLS]"), special("[NONE]"), special("")]
    tokens = {
        name: {
            "id": name,
            "ids": draw.choice(([2], [], [2**32 - 1], [10**6], [1] * 1000)),
            "tokens": [name],
        }
        for name in ("[CLS]", "")
    }
    return {
        "type": "TemplateProcessing",
        "single": [draw.choice(pieces) for _ in range(draw.choice((0, 1, 3, 300)))],
        "pair": [draw.choice(pieces) for _ in range(draw.choice((0, 2, 5)))],
        "special_tokens": draw.choice((tokens, {}, {"[CLS]": tokens["[CLS]"]})),
    }


def _component(draw: Random, part: str) -> Any:
    """Draw a component: another tokenizer's, or one made to do harm."""
    if draw.random() < 0.3:
        other = json.loads(base(f"{draw.choice([*TOKENIZERS])}/encoder")["tokenizer.json"])
        return other[
            draw.choice(
                (part, part, "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
            )
        ]
    pattern = draw.choice(_PATTERNS)
    if part == "normalizer":
        return draw.choice(
            (
                _growing(draw.choice((1, 3, 5, 9, 30))),
                _growing(2, "", "aaaa"),
                {
                    "type": "Replace",
                    "pattern": pattern,
                    "content": draw.choice(("", "a", "b" * 1000, "aa")),
                },
                {"type": "Precompiled", "precompiled_charsmap": draw.choice(_CHARSMAPS)},
                {"type": "Prepend", "prepend": draw.choice(("", "x" * 10_000, "▁"))},
                {
                    "type": "Sequence",
                    "normalizers": [{"type": "Prepend", "prepend": "x" * 1000}] * 100,
                },
                {"type": "Sequence", "normalizers": []},
                _nested("Sequence", "normalizers", draw.choice((10, 126, 5000))),
                {
                    "type": draw.choice(
                        ("NFKD", "StripAccents", "ByteLevel", "Nmt", "Lowercase", "Nope")
                    )
                },
                {"type": "Strip", "strip_left": True, "strip_right": True},
            )
        )
    if part == "pre_tokenizer":
        behavior = draw.choice(
            ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous", "Nope")
        )
        return draw.choice(
            (
                {
                    "type": "Split",
                    "pattern": pattern,
                    "behavior": behavior,
                    "invert": draw.random() < 0.5,
                },
                {
                    "type": "Metaspace",
                    "replacement": draw.choice(("", "▁", "ab")),
                    "prepend_scheme": "always",
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": False,
                },
                {"type": "Digits", "individual_digits": True},
                {"type": "CharDelimiterSplit", "delimiter": draw.choice(("a", "", "ab"))},
                {"type": "UnicodeScripts"},
                {"type": "FixedLength", "length": draw.choice((0, 1, 2**63))},
                {"type": "Sequence", "pretokenizers": []},
                _nested("Sequence", "pretokenizers", draw.choice((10, 126, 5000))),
            )
        )
    if part == "post_processor":
        number = draw.choice((0, 1, 10**6, 2**31, 2**32 - 1))
        pair = {"sep": ["[SEP]", number], "cls": ["[CLS]", draw.choice((0, number))]}
        return draw.choice(
            (
                _template(draw),
                _template(draw),
                {"type": "BertProcessing", **pair},
                {
                    "type": "RobertaProcessing",
                    **pair,
                    "trim_offsets": True,
                    "add_prefix_space": True,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": True,
                },
                {"type": "Sequence", "processors": [_template(draw)] * draw.choice((0, 1, 3))},
                _nested("Sequence", "processors", draw.choice((10, 126, 5000))),
            )
        )
    if part == "added_tokens":
        token = {
            "id": draw.choice((0, 3, 419, 420, 10**6, 2**31, 2**32 - 1)),
            "content": draw.choice(("", "a", " ", "[CLS]", "x" * 10_000, "(a+)+", "\0")),
            **{
                flag: draw.random() < 0.5
                for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
            },
        }
        return [token] * draw.choice((1, 1, 2000))
    if part == "model":
        words = {"a": 0, "##a": 1, "[UNK]": 2}
        number = draw.choice((0, 5, 2**31, 2**32 - 1))
        unigram = {
            "type": "Unigram",
            "vocab": [["<unk>", 0.0], ["a", draw.choice((-1.0, Raw("1e400"), Raw("NaN")))]],
        }
        return draw.choice(
            (
                {"type": "WordPiece", "vocab": {**words, "zz": number}, "unk_token": draw.choice(("[UNK]", "none")),
                 "continuing_subword_prefix": draw.choice(("##", "", "a" * 1000)),
                 "max_input_chars_per_word": draw.choice((0, 100, 2**62))},
                {"type": "WordPiece", "vocab": {}, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                 "max_input_chars_per_word": 100},
                {"type": "WordLevel", "vocab": words, "unk_token": draw.choice(("[UNK]", "none"))},
                {"type": "BPE", "vocab": words, "merges": draw.choice(([], ["a a"], [["a", "b"]], ["a"], ["a ##a"] * 100)),
                 "unk_token": draw.choice((None, "[UNK]", "none")), "byte_fallback": True, "fuse_unk": True,
                 "dropout": draw.choice((None, 0.5, 7.0)), "continuing_subword_prefix": None, "end_of_word_suffix": None},
                {**unigram, "unk_id": draw.choice((None, 0, 7, 2**63)), "byte_fallback": draw.random() < 0.5},
                {"type": "Unigram", "vocab": [], "unk_id": None},
            )
        )  # fmt: skip
    if part == "truncation":
        return {
            "direction": "Right",
            "max_length": draw.choice((0, 1, 2**63)),
            "strategy": "LongestFirst",
            "stride": draw.choice((0, 10, 2**63)),
        }
    return {
        "strategy": {"Fixed": draw.choice((0, 2**40))},
        "direction": "Right",
        "pad_to_multiple_of": draw.choice((0, 2**62)),
        "pad_id": 2**32 - 1,
        "pad_type_id": 0,
        "pad_token": "",
    }


_PARTS = (
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "added_tokens",
    "model",
    "truncation",
    "padding",
)


def mutate_tokenizer(draw: Random, content: bytes) -> tuple[bytes, str]:
    """Swap a component, renumber the vocabulary, or change the JSON anywhere."""
    value = loads(content)
    if not isinstance(value, dict):
        return mutate_bytes(draw, content)
    model = value.get("model")
    kind = draw.randrange(8)
    if kind < 4:
        part = draw.choice(_PARTS)
        value[part] = _component(draw, part)
        return dumps(value).encode("utf-8", "replace"), f"{part} is {said(value[part])}"
    if (
        kind == 4
        and isinstance(model, dict)
        and isinstance(model.get("vocab"), (dict, list))
        and model["vocab"]
    ):
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            word = draw.choice([*vocabulary])
            vocabulary[word] = number = draw.choice(
                (0, 1, 420, 10**6, 2**31, 2**32 - 1, 2**32, -1, None, 1.5)
            )
            return dumps(value).encode(), f"token {word!r} is {number}"
        at = draw.randrange(len(vocabulary))
        vocabulary[at] = entry = draw.choice(
            (
                ["", 0.0],
                ["a", Raw("1e400")],
                ["a", -1e308],
                [],
                ["a"],
                ["\0", 1e308],
                None,
                ["a" * 100_000, 0.0],
            )
        )
        return dumps(value).encode(), f"token {at} is {said(entry)}"
    return mutate_json(draw, content)


# --- Folders ---
def mutate_folder(draw: Random, files: dict[str, bytes | str], parts: tuple[str, ...] = ()) -> str:
    """Change one file of a folder in place, one that ends in one of `parts` where given."""
    names = [name for name in files if name.endswith(parts)] if parts else [*files]
    names = names or [*files]
    # config.json and the tokenizer decide most; they come first as often as all others together.
    weighty = [name for name in names if name in ("config.json", "tokenizer.json")]
    name = draw.choice(weighty) if weighty and draw.random() < 0.5 else draw.choice(names)
    content = files[name]
    if draw.random() < 0.05 or isinstance(content, str):
        special: bytes | str | None = draw.choice(
            (None, "fifo", "folder", "-> /dev/zero", "-> /dev/null", f"-> {Path(name).name}", "-> nowhere",
             "-> /proc/self/mem", LFS, b"")
        )  # fmt: skip
        if special is None:
            del files[name]
        else:
            files[name] = special
        return f"{name}: {special if isinstance(special, str) else 'gone' if special is None else 'lfs or empty'}"
    if draw.random() < 0.05:
        other = base(draw.choice(BASES))
        files[name] = other.get(name, draw.choice([*other.values()]))
        return f"{name}: another model's"
    if name.endswith(".safetensors"):
        files[name], story = mutate_safetensors(draw, content)
    elif name == "tokenizer.json":
        files[name], story = mutate_tokenizer(draw, content)
    elif not name.endswith(".json") or draw.random() < 0.06:
        files[name], story = mutate_bytes(draw, content)
    else:
        files[name], story = mutate_json(draw, content)
    return f"{name}: {story}"


class Folders(Target):
    """A model folder, loaded by the class that fits it and used once."""

    name = "folders"
    quick = 900
    share = 4
    bases: tuple[str, ...] = BASES
    parts: tuple[str, ...] = ()

    def draw(self, draw: Random) -> Case:
        name = draw.choice(self.bases)
        case = Case(
            dict(base(name)), {"base": name, "precision": draw.choice(("int8", "int8", "float32"))}
        )
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            if case.files:
                case.story.append(mutate_folder(draw, case.files, self.parts))
        return case

    def run(self, case: Case, folder: Path) -> str:
        case.write(folder)
        precision = case.settings.get("precision", "int8")
        texts = list(case.settings.get("texts", TEXTS))
        if case.settings["base"].endswith("/classifier"):
            ranker = quaver.CrossEncoder.from_pretrained(folder, precision=precision, threads=1)
            scores = ranker.predict([("a query", text) for text in texts])
            return _finite(np.asarray(scores), len(texts))
        if case.settings["base"].endswith(("/sparse", "/tokens")):
            return _run_tokens(case, folder, texts, precision)
        embedder = quaver.Embedder.from_pretrained(folder, precision=precision, threads=1)
        vectors = embedder.encode(texts)
        outcome = _finite(vectors, len(texts))
        again = embedder.encode([texts[0]])
        if not np.array_equal(again[0], vectors[0]):
            raise BrokenPromiseError("a text alone must get the same bits as among others")
        embedder.encode_query("a query")
        embedder.encode_document(["a document"])
        return outcome


class Written(Folders):
    """A folder of another library's kind: modules, a table, a torch checkpoint, a vocabulary."""

    name = "written"
    quick = 300
    share = 2
    bases = (*WRITTEN, *(f"{name}/vocabulary" for name in VOCABULARIES))


class Tokenizers(Folders):
    """A folder whose tokenizer.json is broken."""

    name = "tokenizers"
    quick = 300
    share = 2
    bases = tuple(f"{family}/encoder" for family in TOKENIZERS)
    parts = ("tokenizer.json",)


class Weights(Folders):
    """A folder whose safetensors files are broken."""

    name = "weights"
    quick = 200
    bases = tuple(name for name in BASES if not name.startswith("tiny"))
    parts = (".safetensors", ".index.json")


class Quantized(Folders):
    """A quantized folder with a broken quantization_config."""

    name = "quantization"
    quick = 200
    bases = tuple(
        f"{family}/{layout}" for family in QUANTIZED for layout in ("quantized", "static")
    )

    def draw(self, draw: Random) -> Case:
        name = draw.choice(self.bases)
        files: dict[str, bytes | str] = dict(base(name))
        config = json.loads(base(name)["config.json"])
        described = deepcopy(config["quantization_config"])
        changed, story = mutate_json(draw, json.dumps(described).encode())
        mark = "\0here\0"
        config["quantization_config"] = mark
        text = json.dumps(config).replace(json.dumps(mark), changed.decode("utf-8", "replace"))
        files["config.json"] = text.encode("utf-8", "replace")
        return Case(files, {"base": name}, [f"quantization_config: {story}"])


def _run_tokens(case: Case, folder: Path, texts: list[str], precision: Any) -> str:
    """Encode and compare with a sparse encoder or a multi-vector model."""
    sparse = case.settings["base"].endswith("/sparse")
    opens: Any = quaver.SparseEncoder if sparse else quaver.MultiVectorEncoder
    model = opens.from_pretrained(folder, precision=precision, threads=1)
    documents, queries = model.encode_document(texts), model.encode_query(texts[:2])
    alone = model.encode_document(texts[0])
    if sparse:
        model.decode(queries, top_k=3)
        same = np.array_equal(alone.to_dense(), documents[0].to_dense())
    else:
        same = np.array_equal(alone, documents[0])
    if not same:
        raise BrokenPromiseError("a text alone must get the same bits as among others")
    return _finite(model.similarity(queries, documents), 2)


def _finite(values: np.ndarray[Any, Any], count: int) -> str:
    if len(values) != count or not np.isfinite(values).all():
        raise BrokenPromiseError(
            f"{count} texts must give finite values: got shape {values.shape}, {values.ravel()[:4]}"
        )
    return "loaded"


TARGETS: tuple[type[Target], ...] = (Folders, Written, Tokenizers, Weights, Quantized)
