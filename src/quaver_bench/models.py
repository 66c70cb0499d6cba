"""The models: a model folder, or a published shape with random weights."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver import InputError, ModelFolder
from quaver_bench.kinds import EMBEDDER, KINDS, Kind

POOLINGS = ("cls", "mean")


@dataclass(frozen=True)
class Shape:
    """The shape of a BERT encoder; the time of a forward pass does not depend on the weights.

    Attributes:
        hidden: H.
        layers: number of layers.
        heads: attention heads.
        like: the published model with this shape, which pools the first token.
    """

    hidden: int
    layers: int
    heads: int
    like: str


SHAPES = {
    "small": Shape(384, 12, 12, "bge-small-en-v1.5"),
    "base": Shape(768, 12, 12, "bge-base-en-v1.5"),
    "large": Shape(1024, 24, 16, "bge-large-en-v1.5"),
}


@dataclass(frozen=True)
class Model:
    """A model to measure.

    Attributes:
        name: for tables and files.
        folder: the opened model folder.
        weights: "real" or "random".
        describe: such as "384 x 12, random weights".
        cache: folder for the files that other engines make from the model.
    """

    name: str
    folder: ModelFolder
    weights: str
    describe: str
    cache: Path

    @property
    def kind(self) -> Kind:
        """The kind of model."""
        return KINDS[self.folder.kind]

    @property
    def pooling(self) -> str:
        """The pooling of an embedding model, "cls" or "mean"; "" for other kinds."""
        return self.folder.pooling or ""

    @property
    def judged(self) -> bool:
        """Whether a ranking by its vectors means anything: a real embedding model."""
        return self.weights == "real" and self.kind is EMBEDDER

    @property
    def longest(self) -> int:
        """Maximum number of tokens in a text, special tokens included."""
        return int(self._spec().max_length)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What transformers' model reads: with token types if it has them and gets pairs."""
        typed = self.kind.source.pairs and int(self.folder.config.get("type_vocab_size", 0)) > 1
        return ("input_ids", "attention_mask", *(["token_type_ids"] if typed else []))

    def multiply_adds(self, lengths: Sequence[int]) -> float:
        """Return the number of multiply-adds of a forward pass over texts of these lengths, without padding.

        Formula:
            for each layer and text of L tokens: L (2 H (Hq + Hkv) D + 2 H I) + 2 Hq D L min(L, W),
            with 3 H I instead of 2 H I if the feed-forward part has a gate, and a window of W tokens;
            and the head that weighs the words of a vocabulary
        """
        spec = self._spec()
        total = self.kind.head_products(self.folder, sum(lengths))
        for layer in spec.layers:
            inner = layer.up_width + layer.intermediate_size
            row = spec.hidden_size * (2 * layer.query_width + 2 * layer.kv_width + inner)
            reach = math.inf if layer.window is None else 2 * layer.window + 1
            total += sum(n * row + 2 * layer.query_width * n * min(n, reach) for n in lengths)
        return total

    def tokenizer_file(self) -> Path:
        """Return a tokenizer.json that gives other engines the ids that Quaver reads, and write it if needed.

        That of the folder may lack what other files of it say, such as lowercase or an end token.
        """
        path = self.built(f"quaver-{metadata.version('quaver')}-tokenizer", ".json")
        if not path.is_file():
            part = path.with_suffix(f".part{os.getpid()}")
            part.write_text(self.folder.tokenizer(self.longest).to_json(), encoding="utf-8")
            part.replace(path)
        return path

    def _spec(self) -> Any:
        """Return the geometry of the encoder; how other kinds use its tokens does not matter."""
        return self.folder.encoder_spec(pooling=self.pooling or "mean")

    def built(self, engine: str, suffix: str) -> Path:
        """Return the path for a file that an engine makes from this model; its folder exists."""
        self.cache.mkdir(parents=True, exist_ok=True)
        return self.cache / f"{self.name}-{self.folder.fingerprint[:12]}-{engine}{suffix}"


def open_model(name_or_path: str, cache: Path) -> Model:
    """Open a model folder, or fetch a model from the hub.

    Args:
        name_or_path: folder or hub id.
        cache: folder for the files that other engines make from it.

    Returns:
        the model.

    Raises:
        ModelError: it cannot be opened.
        InputError: its pooling is not implemented for the other engines.
    """
    return _model(ModelFolder.open_any(name_or_path), short_name(name_or_path), "real", cache)


def random_model(shape: str, like: Model) -> Model:
    """Return a model of a published shape with random weights, and write it if it does not exist yet.

    Args:
        shape: one of SHAPES.
        like: provides the tokenizer and the cache.

    Returns:
        the model.

    Raises:
        InputError: the shape is unknown.
    """
    if shape not in SHAPES:
        raise InputError(f"a shape must be one of {', '.join(SHAPES)}: got {shape!r}")
    path = like.cache / f"shape-{shape}-{like.folder.fingerprint[:12]}"
    if not (path / "modules.json").is_file():
        _write(path, SHAPES[shape], like.folder.transformer)
    return _model(ModelFolder.open(path), f"{SHAPES[shape].like} shape", "random", like.cache)


def _model(folder: ModelFolder, name: str, weights: str, cache: Path) -> Model:
    if folder.static:
        raise InputError(
            f"a model must have an encoder to be measured: {name} is a static model, a table of vectors"
        )
    if folder.kind == "embedder" and folder.pooling not in POOLINGS:
        raise InputError(
            f"a model must pool by {' or '.join(POOLINGS)} to be measured: {name} has "
            f"{folder.pooling!r} in modules.json; benchmarks/decoders.py measures decoders"
        )
    config = folder.config
    size = f"{config.get('hidden_size')} x {config.get('num_hidden_layers')}"
    return Model(name, folder, weights, f"{size}, {weights} weights", cache)


def short_name(name_or_path: str) -> str:
    """Return the last part of a hub id or folder; the parent's name for a folder called "model"."""
    path = Path(name_or_path)
    return path.resolve().parent.name if path.name == "model" else path.name


def _write(path: Path, shape: Shape, tokenizer: Path) -> None:
    from safetensors.numpy import save_file

    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": len(vocabulary["model"]["vocab"]),
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.hidden,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }
    (path / "1_Pooling").mkdir(parents=True, exist_ok=True)
    save_file(_weights(config), path / "model.safetensors", metadata={"format": "pt"})
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (tokenizer / file).is_file():
            shutil.copy(tokenizer / file, path / file)
    modules = [
        {"idx": i, "name": str(i), "path": part, "type": f"sentence_transformers.models.{kind}"}
        for i, (part, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ]
    pooling = {"word_embedding_dimension": shape.hidden, "pooling_mode_cls_token": True}
    # modules.json is written last: it marks the folder as complete.
    for file, content in (
        ("config.json", config),
        ("1_Pooling/config.json", pooling),
        ("modules.json", modules),
    ):
        (path / file).write_text(json.dumps(content), encoding="utf-8")


def _weights(config: dict[str, object]) -> dict[str, NDArray[np.float32]]:
    """Draw weights as BERT is initialized: normal with standard deviation 0.02, norms of one and zero."""
    chance = np.random.default_rng(0)
    hidden, inner = int(str(config["hidden_size"])), int(str(config["intermediate_size"]))

    def drawn(*shape: int) -> NDArray[np.float32]:
        values: NDArray[np.float32] = chance.standard_normal(shape, np.float32) * np.float32(0.02)
        return values

    def norm(name: str) -> dict[str, NDArray[np.float32]]:
        ones, zeros = np.ones(hidden, np.float32), np.zeros(hidden, np.float32)
        return {f"{name}.weight": ones, f"{name}.bias": zeros}

    def linear(name: str, outputs: int, inputs: int) -> dict[str, NDArray[np.float32]]:
        return {f"{name}.weight": drawn(outputs, inputs), f"{name}.bias": drawn(outputs)}

    tensors = {
        "embeddings.word_embeddings.weight": drawn(int(str(config["vocab_size"])), hidden),
        "embeddings.position_embeddings.weight": drawn(512, hidden),
        "embeddings.token_type_embeddings.weight": drawn(2, hidden),
        **norm("embeddings.LayerNorm"),
    }
    for index in range(int(str(config["num_hidden_layers"]))):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            tensors |= linear(f"{layer}.attention.self.{part}", hidden, hidden)
        tensors |= linear(f"{layer}.attention.output.dense", hidden, hidden)
        tensors |= norm(f"{layer}.attention.output.LayerNorm")
        tensors |= linear(f"{layer}.intermediate.dense", inner, hidden)
        tensors |= linear(f"{layer}.output.dense", hidden, inner)
        tensors |= norm(f"{layer}.output.LayerNorm")
    return tensors
