"""Compare Quaver with sentence-transformers and model2vec on folders that they write.

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
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers as st
import torch
from model2vec import StaticModel
from model2vec.quantization import DType, quantize_embeddings
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import (
    Dropout,
    LayerNorm,
    Pooling,
    StaticEmbedding,
)
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors
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
from tiny_model import WORDS, tiny_tokenizer, tiny_vocabulary  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "folders"
QUERY = "which file has the class"
TEXTS = [
    "the python module has a class",
    "text and data",
    "",
    "a query that returns an error " * 4,
    "import the code, return 3.14 or naïve?",
]
# Relative to the largest value; rounding adds up over 22 layers of random weights.
STATIC_TEXTS = [*TEXTS, "unknown \u4e2d words \u2603 and snow", "\u2603", "a of the and to " * 20]
STATIC_KINDS = ("float32", "float16", "int8", "clusters", "unigram")
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
    """Return the tests' tiny tokenizer as a tokenizer of transformers."""
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
    """Draw the weights of a module, large enough that texts give different results."""
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
    """Make a cross-encoder with three labels and a prompt before the first text."""
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
    """Make an embedder that normalizes before the last Dense, with Dropout around it."""
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
    "checkpoints": (normalized_early, MINILM),
}


def static_tokenizer(kind: str) -> Backend:
    """Return a tokenizer for a table: words of WordPiece, or a Unigram's."""
    if kind == "wordpiece":
        backend = tiny_tokenizer()
        backend.no_padding()
        backend.no_truncation()
        return backend
    pieces = [("<unk>", 0.0), *((f"▁{word}", -3.0) for word in WORDS)]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"] + [("▁", -4.0)]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return backend


def model2vec_folder(kind: str, target: Path, size: int) -> dict[str, Any]:
    """Save a random model of model2vec, and return what it computes."""
    chance = np.random.default_rng(0)
    backend = static_tokenizer("unigram" if kind == "unigram" else "wordpiece")
    tokens = backend.get_vocab_size()
    rows = chance.standard_normal((tokens, size)).astype(np.float32)
    options: dict[str, Any] = {}
    if kind == "int8":
        rows = quantize_embeddings(rows, DType.Int8)
    elif kind == "clusters":
        options["token_mapping"] = chance.integers(0, 40, tokens)
        options["weights"] = chance.random(tokens) + 0.1
        rows = rows[:40]
    else:
        rows = rows.astype(np.float16)  # both sides read the same rows
        rows = rows if kind == "float16" else rows.astype(np.float32)
    model = StaticModel(
        rows,
        backend,
        normalize=kind != "unigram",
        max_length=None if kind == "unigram" else 12,
        **options,
    )
    model.save_pretrained(target)
    texts = STATIC_TEXTS
    return {"texts": texts, "vectors": model.encode(texts).astype(np.float32).tolist()}


def static_folder(target: Path, size: int) -> dict[str, Any]:
    """Save a random StaticEmbedding of sentence-transformers, and return what it computes."""
    backend = static_tokenizer("wordpiece")
    rows = np.random.default_rng(0).standard_normal((backend.get_vocab_size(), size))
    first = StaticEmbedding(backend, embedding_weights=rows.astype(np.float16).astype(np.float32))
    model = st.SentenceTransformer(modules=[first, Normalize()], prompts={"query": "query: "})
    model.save_pretrained(str(target))
    texts = STATIC_TEXTS
    return {
        "texts": texts,
        "vectors": model.encode(texts).tolist(),
        "queries": model.encode_query(texts).tolist(),
        "similarity": model.similarity(*[model.encode(texts)] * 2).tolist(),
    }


def make_static(name: str, golden: bool, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """Make the folder of a static model and what is expected of it."""
    size, folder = 16 if golden else 256, scratch / name
    if name == "static-embedding":
        expected = static_folder(folder, size)
    else:
        expected = model2vec_folder(name.removeprefix("model2vec-"), folder, size)
    if golden and name in ("static-embedding", "model2vec-float32", "model2vec-unigram"):
        half(folder)
    return folder, expected


STATIC = ("static-embedding", *(f"model2vec-{kind}" for kind in STATIC_KINDS))


def half(folder: Path) -> None:
    """Store the weights of a folder in half precision."""
    for path in folder.rglob("*.safetensors"):
        tensors = {
            name: tensor.half() if tensor.dtype == torch.float32 else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, path, {"format": "pt"})


def what_they_compute(model: Any) -> dict[str, Any]:
    """Return texts and the library's results for them, as JSON values."""
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
    """Return Quaver's results, in float32."""
    if "scores" in expected:
        model = CrossEncoder.from_pretrained(folder, precision="float32")
        pairs = [(QUERY, text) for text in TEXTS]
        return {
            "scores": model.predict(pairs),
            "logits": model.predict(pairs, activation="identity"),
        }
    embedder = Embedder.from_pretrained(folder, precision="float32")
    texts = expected.get("texts", TEXTS)
    vectors = embedder.encode(texts)
    results = {
        "vectors": vectors,
        "queries": embedder.encode_query(texts),
        "similarity": embedder.similarity(vectors, vectors),
    }
    return {what: values for what, values in results.items() if what in expected}


def write_zip(folder: Path, target: Path, expected: dict[str, Any]) -> None:
    """Pack a folder with the expected results; the same files give the same bytes."""
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
    target.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if path.name not in ("README.md", ".gitattributes"):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    print(f"{target}: {target.stat().st_size} bytes", flush=True)


def make_modules(name: str, golden: bool, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """Make the folder of one case and its expected results."""
    torch.manual_seed(0)
    build, shape = MODULES[name]
    model = build(REDUCED if golden else shape, scratch / "bare")
    folder = scratch / name
    model.save_pretrained(str(folder))
    if golden:
        half(folder)
        if name == "checkpoints":
            as_checkpoint(folder)
        model = type(model)(str(folder), device="cpu").float()
    return folder, what_they_compute(model)


def write_checkpoints(target: Path) -> None:
    """Write checkpoints of torch, in both layouts, with the same tensors in safetensors."""
    torch.manual_seed(0)
    table = torch.randn(6, 4)
    state = OrderedDict(
        plain=table.clone(),
        transposed=table.t(),
        part=table[2:5, 1:3],
        tied=table,
        half=table.half(),
        bfloat16=table.bfloat16(),
        double=table.double(),
        positions=torch.arange(7).expand((1, -1)),
        flags=torch.tensor([True, False]),
        bytes=torch.tensor([1, 2, 255], dtype=torch.uint8),
        int8=torch.tensor([[-128], [127]], dtype=torch.int8),
        one=torch.tensor(3.5),
        empty=torch.zeros(0, 4),
        parameter=nn.Parameter(table * 2),
    )
    model = Dense(4, 3)  # a state dict with its versions
    state.update(model.state_dict())
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch.save(state, folder / "zip.bin")
        torch.save(state, folder / "legacy.bin", _use_new_zipfile_serialization=False)
        torch.save(dict(state), folder / "protocol4.bin", pickle_protocol=4)
        torch.save(model, folder / "object.bin")
        torch.save({"state_dict": state, "epoch": 3}, folder / "training.bin")
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "expected.safetensors")
        write_zip(folder, target, {})


def as_checkpoint(folder: Path) -> None:
    """Store a folder's weights as torch did before safetensors, the modules in the older layout."""
    for path in folder.rglob("*.safetensors"):
        new = path.parent == folder
        torch.save(
            OrderedDict(load_file(path)),
            path.with_name("pytorch_model.bin"),
            _use_new_zipfile_serialization=new,
        )
        path.unlink()


def main() -> None:
    """Compare, or write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", action="store_true", help="write tests/golden/folders")
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    if chosen.golden:
        write_checkpoints(GOLDEN.parent / "checkpoints.zip")
    worst = 0.0
    for name in (*MODULES, *STATIC):
        scratch = Path(tempfile.mkdtemp())
        try:
            make = make_modules if name in MODULES else make_static
            folder, expected = make(name, chosen.golden, scratch)
            if chosen.golden:
                write_zip(folder, GOLDEN / f"{name}.zip", expected)
            for what, values in what_quaver_computes(folder, expected).items():
                truth = np.asarray(expected[what], np.float32)
                # model2vec rounds its vectors to half precision if its table has it.
                allowed = 5e-4 if name == "model2vec-float16" else LARGEST_FLOAT32_ERROR
                error = float(np.abs(values - truth).max() / max(1.0, np.abs(truth).max()))
                worst = max(worst, error / allowed)
                print(f"{name}: {what} {truth.shape} differ by {error:.1e}", flush=True)
        finally:
            shutil.rmtree(scratch)
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
