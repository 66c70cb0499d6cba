"""Model folders of the shapes that are measured, written once."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parent
BUILT = REPOSITORY / "build" / "bench-models"
REAL = "minilm-l6"


@dataclass(frozen=True)
class Shape:
    """A BERT encoder with random weights; the time of a forward pass does not depend on them.

    Attributes:
        hidden: H.
        layers: number of layers.
        heads: attention heads.
        like: a published model of this shape.
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
NAMES = (REAL, *SHAPES)


@dataclass(frozen=True)
class Model:
    """A model to measure.

    Attributes:
        name: one of NAMES.
        folder: its model folder.
        weights: "real" or "random".
        describe: for the table, such as "384 x 12, random weights".
    """

    name: str
    folder: Path
    weights: str
    describe: str


def get_model(name: str, real: Path) -> Model:
    """Return a model; one with random weights is written when it is not there yet.

    Args:
        name: one of NAMES.
        real: folder of all-MiniLM-L6-v2; also gives the tokenizer to the others.

    Returns:
        The model.
    """
    if name == REAL:
        config = json.loads((real / "config.json").read_text(encoding="utf-8"))
        size = f"{config['hidden_size']} x {config['num_hidden_layers']}"
        return Model(name, real, "real", f"{size}, real weights")
    folder, shape = BUILT / name, SHAPES[name]
    if not (folder / "modules.json").is_file():
        _write(folder, shape, real)
    return Model(name, folder, "random", f"{shape.hidden} x {shape.layers}, random weights")


def _write(folder: Path, shape: Shape, real: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = json.loads((real / "tokenizer.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer["model"]["vocab"]),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
    )
    folder.mkdir(parents=True, exist_ok=True)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (real / file).is_file():
            shutil.copy(real / file, folder / file)
    pooling = {"word_embedding_dimension": shape.hidden, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ]
    # Last, because it says that the folder is complete.
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
