"""Write the folder of a decoder with random weights in the shape of a published one, without a hub.

    python benchmarks/random_decoder.py qwen3-0.6b FOLDER
    python benchmarks/random_decoder.py mistral-7b FOLDER            14 GB in four minutes

Weights are bfloat16 in several files, written one tensor after the other, so that a model of any size needs a few
hundred megabytes of memory. They are parts of one pool of normal values: time and memory do not depend on them. The
tokenizer has a word `w0`, `w1`, ... for each row of the word embeddings. Time and memory can be measured with such a
folder; quality cannot.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SHARD = 2 << 30
# Values of the pool, in bfloat16; a prime, so that rows of no width begin at the same value.
POOL = 16_777_213
MODULES = "sentence_transformers.models."
_QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3Model"],
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
}
_GEMMA = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3TextModel"],
    "use_bidirectional_attention": True,
    "max_position_embeddings": 2048,
    "sliding_window": 512,
    "query_pre_attn_scalar": 256,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": _QWEN3
    | {
        "vocab_size": 2000,
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 768,
    },
    "tiny-gemma": _GEMMA
    | {
        "vocab_size": 2000,
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "intermediate_size": 512,
    },
    "qwen3-0.6b": _QWEN3
    | {
        "vocab_size": 151669,
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 3072,
    },
    "embeddinggemma-300m": _GEMMA
    | {
        "vocab_size": 262144,
        "hidden_size": 768,
        "num_hidden_layers": 24,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "intermediate_size": 1152,
    },
    "mistral-7b": {
        "model_type": "mistral",
        "architectures": ["MistralModel"],
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
    },
}


def shapes_of(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of the tensors, in the order of the layers."""
    h, inner = config["hidden_size"], config["intermediate_size"]
    d = config.get("head_dim", h // config["num_attention_heads"])
    q, kv = d * config["num_attention_heads"], d * config["num_key_value_heads"]
    gemma = config["model_type"] == "gemma3_text"
    yield "embed_tokens.weight", (config["vocab_size"], h)
    for i in range(config["num_hidden_layers"]):
        at = f"layers.{i}"
        for part, shape in (
            ("self_attn.q_proj", (q, h)),
            ("self_attn.k_proj", (kv, h)),
            ("self_attn.v_proj", (kv, h)),
            ("self_attn.o_proj", (h, q)),
            ("mlp.gate_proj", (inner, h)),
            ("mlp.up_proj", (inner, h)),
            ("mlp.down_proj", (h, inner)),
        ):
            yield f"{at}.{part}.weight", shape
        norms = ["input_layernorm", "post_attention_layernorm"]
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if gemma else []
        for part in norms:
            yield f"{at}.{part}.weight", (h,)
        if config["model_type"] != "mistral":
            yield f"{at}.self_attn.q_norm.weight", (d,)
            yield f"{at}.self_attn.k_norm.weight", (d,)
    yield "norm.weight", (h,)


def as_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Cut float32 to bfloat16."""
    bits: NDArray[np.uint16] = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return bits


class Shards:
    """Safetensors files, written one tensor after the other."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        """Draw the pool.

        Args:
            folder: where they go.
            config: see SHAPES.
        """
        self.folder, self.config = folder, config
        self.pool = np.random.default_rng(0).standard_normal(POOL, np.float32)
        self.scaled: dict[float, NDArray[np.uint16]] = {}
        self.at = 0

    def write(self) -> None:
        """Write all files, and the index of several."""
        parts: list[list[tuple[str, tuple[int, ...]]]] = [[]]
        used = 0
        for name, shape in shapes_of(self.config):
            if used and used + 2 * math.prod(shape) > SHARD:
                parts.append([])
                used = 0
            parts[-1].append((name, shape))
            used += 2 * math.prod(shape)
        names = {}
        for number, part in enumerate(parts, start=1):
            file = f"model-{number:05}-of-{len(parts):05}.safetensors"
            file = file if len(parts) > 1 else "model.safetensors"
            self._write_one(self.folder / file, part)
            names.update((name, file) for name, _ in part)
        if len(parts) > 1:
            index = {"metadata": {}, "weight_map": names}
            text = json.dumps(index)
            (self.folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")

    def _write_one(self, path: Path, part: list[tuple[str, tuple[int, ...]]]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in part:
            first, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [first, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for name, shape in part:
                self._write_tensor(file, name, shape)

    def _write_tensor(self, file: BinaryIO, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) == 1:
            one = np.float32(self.config["model_type"] != "gemma3_text")
            file.write(as_bfloat16(np.full(shape, one, np.float32)).tobytes())
            return
        std = 1.0 if name == "embed_tokens.weight" else shape[1] ** -0.5
        if std not in self.scaled:
            self.scaled = {std: as_bfloat16(self.pool * np.float32(std))}
        values, left = self.scaled[std], math.prod(shape)
        while left:
            taken = values[self.at : self.at + left]
            file.write(taken.tobytes())
            left -= len(taken)
            self.at = (self.at + len(taken)) % POOL


def write_folder(folder: Path, shape: str) -> Path:
    """Write a folder of SHAPES in sentence-transformers' layout, and return it."""
    config = SHAPES[shape]
    folder.mkdir(parents=True, exist_ok=True)
    Shards(folder, config).write()
    files = {
        "config.json": {**config, "dtype": "bfloat16"},
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{MODULES}Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{MODULES}Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{MODULES}Normalize"},
        ],
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "1_Pooling/config.json": {
            "pooling_mode": "mean" if config["model_type"] == "gemma3_text" else "lasttoken"
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    words = {f"w{i}": i for i in range(config["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A w1", pair="$A $B w1", special_tokens=[("w1", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def main() -> None:
    """Write a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    write_folder(chosen.folder, chosen.shape)


if __name__ == "__main__":
    main()
