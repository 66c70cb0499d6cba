"""Compare folders that sentence-transformers and model2vec write with what those libraries compute from them.

Needs torch, sentence-transformers and model2vec:

    python tools/module_folders.py              the shapes of published models; prints the largest differences
    python tools/module_folders.py --golden     write tests/golden/folders, at reduced shapes

Weights are random, so only the arithmetic is compared. A golden file is a zip: the folder as the
library saved it, its weights rounded to half precision, and expected.json with texts and results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers as st
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling
from tokenizers import processors
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ModernBertModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from quaver.embedder import Embedder
from quaver.reranker import CrossEncoder

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from tiny_model import tiny_tokenizer, tiny_vocabulary  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "folders"
QUERY = "which file has the class"
TEXTS = [
    "the python module has a class",
    "text and data",
    "",
    "a query that returns an error " * 4,
    "import the code, return 3.14 or naïve?",
]
# Of the largest value; 22 layers of random weights sum up what single operations round.
LARGEST_FLOAT32_ERROR = 2e-5
LENGTH = 64


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder."""

    hidden: int
    layers: int
    heads: int
    inner: int


REDUCED = Shape(24, 2, 2, 32)
ETTIN_32M = Shape(384, 10, 6, 576)
GTE_BASE = Shape(768, 22, 12, 1152)
MINILM = Shape(384, 6, 12, 1536)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tests' tiny tokenizer as transformers has it."""
    backend = tiny_tokenizer()
    backend.no_truncation()
    backend.no_padding()
    ids = tiny_vocabulary()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(piece, ids.index(piece)) for piece in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def modernbert(shape: Shape, **changes: Any) -> ModernBertConfig:
    """Return the config of a ModernBERT."""
    return ModernBertConfig(
        vocab_size=len(tiny_vocabulary()),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=LENGTH,
        local_attention=16,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.1,
        **changes,
    )


def bert(shape: Shape) -> BertModel:
    """Return a random BERT."""
    return BertModel(
        BertConfig(
            vocab_size=len(tiny_vocabulary()),
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            max_position_embeddings=LENGTH,
            initializer_range=0.1,
        )
    )


def transformer(model: Any, folder: Path, **options: Any) -> Transformer:
    """Save a model of transformers with the tokenizer, and open it as a module."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return Transformer(str(folder), **options)


def drawn(module: Any) -> Any:
    """Draw the weights of a module, wide enough that texts come out different."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, weight.shape[1] ** -0.5)
            else:
                weight.normal_(1.0 if "norm.weight" in name else 0.0, 0.3)
    return module


def scorer(first: Transformer, width: int, labels: int) -> list[Any]:
    """Return the modules of the ettin rerankers."""
    return [
        first,
        Pooling(width, "cls"),
        drawn(Dense(width, width, bias=False, activation_function=nn.GELU())),
        drawn(LayerNorm(width)),
        drawn(Dense(width, labels, activation_function=nn.Identity(), module_output_name="scores")),
    ]


def ettin(shape: Shape, scratch: Path) -> st.CrossEncoder:
    """Make a reranker like the ettin ones: ModernBERT, pooling, a head of modules, plain scores."""
    first = transformer(ModernBertModel(modernbert(shape)), scratch)
    return st.CrossEncoder(
        modules=scorer(first, shape.hidden, 1), activation_fn=nn.Identity(), device="cpu"
    )


def labels_with_prompt(shape: Shape, scratch: Path) -> st.CrossEncoder:
    """Make a scorer of three labels, with a prompt before the first text."""
    return st.CrossEncoder(
        modules=scorer(transformer(bert(shape), scratch), shape.hidden, 3),
        activation_fn=nn.Sigmoid(),
        prompts={"query": "query: ", "long": "the text of a query: "},
        default_prompt_name="query",
        device="cpu",
    )


def gte_reranker(shape: Shape, scratch: Path) -> st.CrossEncoder:
    """Make a reranker like gte-reranker-modernbert-base: the head of its own class."""
    config = modernbert(shape, num_labels=1, classifier_pooling="mean")
    first = transformer(
        ModernBertForSequenceClassification(config),
        scratch,
        transformer_task="sequence-classification",
    )
    return st.CrossEncoder(modules=[first], device="cpu")


def normalized_early(shape: Shape, scratch: Path) -> st.SentenceTransformer:
    """Make an embedder whose vector is normalized before the last Dense, with Dropout around it."""
    width = 2 * shape.hidden
    chain = [
        transformer(bert(shape), scratch),
        Pooling(shape.hidden, ("cls", "mean")),
        Normalize(),
        Dropout(0.5),
        drawn(Dense(width, 20, activation_function=nn.Tanh())),
        drawn(LayerNorm(20)),
        Normalize(),
        drawn(Dense(20, 12, bias=False, activation_function=nn.Identity())),
    ]
    return st.SentenceTransformer(
        modules=chain,
        device="cpu",
        prompts={"query": "query: ", "document": "text: "},
        similarity_fn_name="euclidean",
    )


MODULES: dict[str, tuple[Callable[[Shape, Path], Any], Shape]] = {
    "ettin-reranker": (ettin, ETTIN_32M),
    "gte-reranker-modernbert": (gte_reranker, GTE_BASE),
    "labels-with-prompt": (labels_with_prompt, MINILM),
    "normalized-early": (normalized_early, MINILM),
}


def half(folder: Path) -> None:
    """Store the weights of a folder in half precision."""
    for path in folder.rglob("*.safetensors"):
        tensors = {
            name: tensor.half() if tensor.dtype == torch.float32 else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, path, {"format": "pt"})


def what_they_compute(model: Any) -> dict[str, Any]:
    """Return texts and what the library computes from them, in a form for JSON."""
    if isinstance(model, st.CrossEncoder):
        pairs = [(QUERY, text) for text in TEXTS]
        results = {
            "scores": model.predict(pairs),
            "logits": model.predict(pairs, activation_fn=nn.Identity()),
        }
    else:
        results = {
            "vectors": model.encode(TEXTS),
            "queries": model.encode_query(TEXTS),
            "similarity": model.similarity(*[model.encode(TEXTS)] * 2).numpy(),
        }
    rounded = {name: np.asarray(values, np.float32) for name, values in results.items()}
    return {name: json.loads(json.dumps(values.tolist())) for name, values in rounded.items()}


def what_quaver_computes(folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Return the same by Quaver, in float32."""
    if "scores" in expected:
        model = CrossEncoder.from_pretrained(folder, precision="float32")
        pairs = [(QUERY, text) for text in TEXTS]
        return {
            "scores": model.predict(pairs),
            "logits": model.predict(pairs, activation="identity"),
        }
    embedder = Embedder.from_pretrained(folder, precision="float32")
    vectors = embedder.encode(TEXTS)
    return {
        "vectors": vectors,
        "queries": embedder.encode_query(TEXTS),
        "similarity": embedder.similarity(vectors, vectors),
    }


def write_zip(folder: Path, target: Path, expected: dict[str, Any]) -> None:
    """Pack a folder with what is expected of it; the same files give the same bytes."""
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
    target.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if path.name not in ("README.md", ".gitattributes"):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    print(f"{target}: {target.stat().st_size} bytes", flush=True)


def make_modules(name: str, golden: bool, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """Make the folder of one case and what is expected of it."""
    torch.manual_seed(0)
    build, shape = MODULES[name]
    model = build(REDUCED if golden else shape, scratch / "bare")
    folder = scratch / name
    model.save_pretrained(str(folder))
    if golden:
        half(folder)
        model = type(model)(str(folder), device="cpu").float()
    return folder, what_they_compute(model)


def main() -> None:
    """Compare, or write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", action="store_true", help="write tests/golden/folders")
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    worst = 0.0
    for name in MODULES:
        scratch = Path(tempfile.mkdtemp())
        try:
            folder, expected = make_modules(name, chosen.golden, scratch)
            if chosen.golden:
                write_zip(folder, GOLDEN / f"{name}.zip", expected)
            for what, values in what_quaver_computes(folder, expected).items():
                truth = np.asarray(expected[what], np.float32)
                error = float(np.abs(values - truth).max() / max(1.0, np.abs(truth).max()))
                worst = max(worst, error)
                print(f"{name}: {what} {truth.shape} differ by {error:.1e}", flush=True)
        finally:
            shutil.rmtree(scratch)
    sys.exit(worst > LARGEST_FLOAT32_ERROR)


if __name__ == "__main__":
    main()
