"""A tiny random BERT in the sentence-transformers folder layout, the same on every machine.

Its vectors mean nothing; its files, shapes, tokenizer and prompts are those of a real model, so
everything but the quality of a search can be tested with it. The settings baked into tokenizer.json
(padding and truncation to 16) are wrong on purpose: real models carry such settings too, and Quaver
has to override them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = re.findall(
    r"\w+",
    "the of and to in a is that for it as was with be by on not he his but at are this have from "
    "or had an they which "
    "one you were all her she there would their we him been has when who will no more if out so "
    "up said what its about "
    "than into them can only other time new some could these two may first then do any like my "
    "now over such our man me "
    "even most made after also well many must before back through where much your way down "
    "should because long each "
    "file files list dict string value key function class module python code data text query "
    "passage error return import",
)
ENDINGS = (
    "##ing",
    "##ed",
    "##er",
    "##ly",
    "##ion",
    "##es",
    "##al",
    "##ment",
    "##able",
    "##ness",
)
PROMPTS = {"query": "query: ", "document": "passage: "}


def tiny_vocabulary() -> list[str]:
    """Return about 300 word pieces: special tokens, characters, words, endings."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    symbols = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    pieces = [
        *SPECIALS,
        *letters,
        *symbols,
        *(f"##{c}" for c in letters),
        *WORDS,
        *ENDINGS,
    ]
    return list(dict.fromkeys(pieces))


def tiny_tokenizer() -> Tokenizer:
    """Build the WordPiece tokenizer of the tiny model."""
    vocabulary = {piece: i for i, piece in enumerate(tiny_vocabulary())}
    tokenizer = Tokenizer(WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(piece, vocabulary[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    return tokenizer


def tiny_config(
    *, hidden: int = 64, layers: int = 2, heads: int = 4, max_positions: int = 64
) -> dict[str, Any]:
    """Return config.json of the tiny model."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": max_positions,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": len(tiny_vocabulary()),
    }


def tiny_tensors(config: dict[str, Any], *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Draw the weights, wide enough that different texts get clearly different vectors."""
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    tensors: dict[str, NDArray[np.float32]] = {}

    def draw(name: str, *shape: int, std: float) -> None:
        tensors[name] = (rng.standard_normal(shape) * std).astype(np.float32)

    def linear(name: str, rows: int, columns: int) -> None:
        draw(f"{name}.weight", rows, columns, std=columns**-0.5)
        draw(f"{name}.bias", rows, std=0.1)

    def norm(name: str) -> None:
        draw(f"{name}.weight", hidden, std=0.1)
        tensors[f"{name}.weight"] += 1
        draw(f"{name}.bias", hidden, std=0.1)

    draw("embeddings.word_embeddings.weight", config["vocab_size"], hidden, std=1)
    draw(
        "embeddings.position_embeddings.weight",
        config["max_position_embeddings"],
        hidden,
        std=0.3,
    )
    draw(
        "embeddings.token_type_embeddings.weight",
        config["type_vocab_size"],
        hidden,
        std=0.3,
    )
    norm("embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", hidden, hidden)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", inner, hidden)
        linear(f"{layer}.output.dense", hidden, inner)
        norm(f"{layer}.output.LayerNorm")
    return tensors


def write_json(path: Path, value: object) -> None:
    """Write one JSON file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def edit_json(path: Path, **changes: object) -> None:
    """Change entries of a JSON file, or write a new one with them."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**before, **changes})


def write_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    max_positions: int = 64,
    pooling: str | None = "mean",
    normalize: bool = True,
    prompts: dict[str, str] | None = None,
) -> Path:
    """Write the model folder and return it.

    Args:
        folder: where to write; made when missing.
        seed: another seed gives another model with the same tokenizer.
        hidden: hidden size H, a multiple of `heads`.
        layers: encoder layers.
        heads: attention heads.
        max_positions: longest text in tokens, special tokens included.
        pooling: a mode, or several joined by "+"; None leaves out modules.json.
        normalize: whether modules.json ends with Normalize.
        prompts: prompts of the model; None means `PROMPTS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(hidden=hidden, layers=layers, heads=heads, max_positions=max_positions)
    write_json(folder / "config.json", config)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    save_file(tiny_tensors(config, seed=seed), folder / "model.safetensors", {"format": "pt"})
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": PROMPTS if prompts is None else prompts,
            "default_prompt_name": None,
        },
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_positions})
    if pooling is not None:
        flags = {
            "cls": "cls_token",
            "mean": "mean_tokens",
            "max": "max_tokens",
            "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
            "weightedmean": "weightedmean_tokens",
            "lasttoken": "lasttoken",
        }
        modes = pooling.split("+")
        settings = {f"pooling_mode_{flag}": mode in modes for mode, flag in flags.items()}
        write_json(
            folder / "1_Pooling/config.json",
            {"word_embedding_dimension": hidden, **settings},
        )
        names = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
        paths = ["", "1_Pooling", "2_Normalize"]
        modules = [
            {
                "idx": i,
                "name": str(i),
                "path": paths[i],
                "type": f"sentence_transformers.models.{n}",
            }
            for i, n in enumerate(names)
        ]
        write_json(folder / "modules.json", modules)
    return folder


def write_tiny_cross_encoder(
    folder: Path,
    *,
    seed: int = 0,
    labels: int = 1,
    max_positions: int = 64,
    changes: dict[str, Any] | None = None,
) -> Path:
    """Write a tiny random BERT with a classification head, as a bare transformers folder.

    Args:
        folder: where to write; made when missing.
        seed: another seed gives another model with the same tokenizer.
        labels: rows of the classifier.
        max_positions: longest pair in tokens, special tokens included.
        changes: keys of config.json to set otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(max_positions=max_positions)
    config["architectures"] = ["BertForSequenceClassification"]
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
    write_json(folder / "config.json", {**config, **(changes or {})})
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(seed)
    hidden = config["hidden_size"]
    tensors = {f"bert.{name}": t for name, t in tiny_tensors(config, seed=seed).items()}
    for name, rows in (("bert.pooler.dense", hidden), ("classifier", labels)):
        weight = rng.standard_normal((rows, hidden)) * hidden**-0.5
        tensors[f"{name}.weight"] = weight.astype(np.float32)
        tensors[f"{name}.bias"] = rng.standard_normal(rows).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_tiny_decoder(folder: Path, *, hidden: int = 256, layers: int = 2, wide: int = 0) -> Path:
    """Write a tiny random Qwen3 that pools its last token, and return the folder.

    Args:
        folder: where to write; made when missing.
        hidden: hidden size H, a multiple of 32.
        layers: its layers.
        wide: how many channels of the word embeddings are fifty times as wide as the others; what reads
            them has small weights.
    """
    write_tiny_model(folder, hidden=hidden, pooling="lasttoken")
    config = {
        "model_type": "qwen3",
        "vocab_size": len(tiny_vocabulary()),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "dtype": "float32",
        "architectures": ["Qwen3Model"],
    }
    write_json(folder / "config.json", config)
    rng = np.random.default_rng(0)
    tensors = {}

    def draw(name: str, *shape: int) -> None:
        values = rng.standard_normal(shape) * shape[-1] ** -0.5
        tensors[f"{name}.weight"] = values.astype(np.float32)

    draw("embed_tokens", config["vocab_size"], hidden)
    tensors["embed_tokens.weight"] *= np.float32(hidden**0.5)
    tensors["embed_tokens.weight"][:, :wide] *= 50
    for i in range(layers):
        for part, rows in (("q", 128), ("k", 64), ("v", 64)):
            draw(f"layers.{i}.self_attn.{part}_proj", rows, hidden)
        draw(f"layers.{i}.self_attn.o_proj", hidden, 128)
        draw(f"layers.{i}.mlp.gate_proj", 2 * hidden, hidden)
        draw(f"layers.{i}.mlp.up_proj", 2 * hidden, hidden)
        draw(f"layers.{i}.mlp.down_proj", hidden, 2 * hidden)
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.gate", "mlp.up"):
            tensors[f"layers.{i}.{part}_proj.weight"][:, :wide] /= 20
        for part in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"layers.{i}.{part}.weight"] = np.ones(hidden, np.float32)
        for part in ("q_norm", "k_norm"):
            tensors[f"layers.{i}.self_attn.{part}.weight"] = np.ones(32, np.float32)
    tensors["norm.weight"] = np.ones(hidden, np.float32)
    tensors["norm.weight"][:wide] /= 20
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_tiny_embedding_gemma2(folder: Path, *, hidden: int = 256, wide: int = 0) -> Path:
    """Write a tiny random EmbeddingGemma 2, its text model beside a projection of pictures, and return the folder.

    Args:
        folder: where to write; made when missing.
        hidden: hidden size H, a multiple of 64.
        wide: how many channels of the word embeddings are fifty times as wide as the others.
    """
    write_tiny_model(folder, hidden=hidden)
    layers, size, output = 3, hidden // 2, 96
    text = {
        "model_type": "embedding_gemma2_text",
        "vocab_size": len(tiny_vocabulary()),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "per_layer_config": {"2": {"head_dim": 64, "num_key_value_heads": 1}},
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "sliding_window": 8,
        "intermediate_size": 2 * hidden,
        "hidden_size_per_layer_input": size,
        "embedding_dim": output,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
    }
    config = {
        "model_type": "embedding_gemma2",
        "architectures": ["EmbeddingGemma2Model"],
        "text_config": text,
    }
    write_json(folder / "config.json", config)
    rng = np.random.default_rng(0)
    tensors = {"embed_vision.embedding_projection.weight": np.zeros((hidden, 8), np.float32)}

    def draw(name: str, *shape: int) -> None:
        values = rng.standard_normal(shape) * shape[-1] ** -0.5
        tensors[f"language_model.{name}.weight"] = values.astype(np.float32)

    def ones(name: str, size: int) -> None:
        tensors[f"language_model.{name}.weight"] = np.ones(size, np.float32)

    draw("embed_tokens", text["vocab_size"], hidden)
    tensors["language_model.embed_tokens.weight"][:, :wide] *= 50
    draw("ple.per_layer_model_projection", layers * size, hidden)
    ones("ple.per_layer_projection_norm", size)
    draw("embedding_projection", output, hidden)
    ones("norm", hidden)
    for i in range(layers):
        at, head, shared = f"layers.{i}", 64 if i == 2 else 32, 1 if i == 2 else 2
        for part, rows in (("q", 4 * head), ("k", shared * head), ("v", shared * head)):
            draw(f"{at}.self_attn.{part}_proj", rows, hidden)
        draw(f"{at}.self_attn.o_proj", hidden, 4 * head)
        draw(f"{at}.mlp.gate_proj", 2 * hidden, hidden)
        draw(f"{at}.mlp.up_proj", 2 * hidden, hidden)
        draw(f"{at}.mlp.down_proj", hidden, 2 * hidden)
        draw(f"{at}.ple_block.per_layer_input_gate", size, hidden)
        draw(f"{at}.ple_block.per_layer_projection", hidden, size)
        for name in tensors:
            if f".{at}." in name and tensors[name].shape[-1] == hidden:
                tensors[name][..., :wide] /= 20
        for part in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            ones(f"{at}.{part}_layernorm", hidden)
        ones(f"{at}.ple_block.post_per_layer_input_norm", hidden)
        for part in ("q_norm", "k_norm"):
            ones(f"{at}.self_attn.{part}", head)
            # Scores have no other scale: with 1 the softmax would be one key's.
            tensors[f"language_model.{at}.self_attn.{part}.weight"] *= np.float32(head**-0.25)
        tensors[f"language_model.{at}.layer_scalar"] = np.float32([0.75 + 0.125 * i])
    tensors["language_model.norm.weight"][:wide] /= 20
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder
