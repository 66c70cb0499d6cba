"""Compare multi-vector models with PyLate, which writes their folders.

Needs PyLate, in an environment of its own because it pins the version of sentence-transformers:

    python tools/pylate_parity.py                    random BERTs in four settings
    python tools/pylate_parity.py --backbone FOLDER  an encoder with published weights and a random projection
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pylate.models import ColBERT
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from quaver.multi_vector_encoder import MultiVectorEncoder, TokenVectors

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from tiny_model import WORDS, tiny_tokenizer, tiny_vocabulary  # noqa: E402

TEXTS = [
    "the python module has a class",
    "text and data",
    "a query that returns an error " * 4,
    "import the code, return 3.14 or more?",
    "who? the file. what, the list!",
    " ".join(WORDS[:70]),
]
QUERIES = ["which file has the class", "who, what? " * 12]
LARGEST_FLOAT32_ERROR = 2e-5
CASES: dict[str, dict[str, Any]] = {
    "as by default": {},
    "mask tokens that all tokens read": {"attend_to_expansion_tokens": True, "query_length": 20},
    "no mask tokens": {"do_query_expansion": False, "document_length": 24},
    "other prefixes and skipped words": {
        "query_prefix": "[UNK]",
        "document_prefix": "the",
        "skiplist_words": ["a", "the", "?"],
        "embedding_size": 48,
    },
}


def bare(folder: Path) -> Path:
    """Write a random BERT at MiniLM's shape with the tests' tokenizer, and return its folder."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tiny_vocabulary()),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=256,
    )
    model = BertModel(config).eval()
    with torch.no_grad():  # wide enough that texts differ
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
    model.save_pretrained(folder)
    backend = tiny_tokenizer()
    backend.no_truncation()
    backend.no_padding()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=256,
    ).save_pretrained(folder)
    return folder


def difference(found: TokenVectors, wanted: list[np.ndarray]) -> float:
    """Return the largest difference of a component; infinity where the numbers of vectors differ."""
    if [len(found[i]) for i in range(len(found))] != [len(rows) for rows in wanted]:
        return float("inf")
    return max(float(np.abs(found[i] - rows).max()) for i, rows in enumerate(wanted))


def compare(name: str, backbone: Path, options: dict[str, Any], folder: Path) -> float:
    """Print a row for one case; return the largest difference."""
    torch.manual_seed(1)
    made = ColBERT(model_name_or_path=str(backbone), device="cpu", **options)
    made.save_pretrained(str(folder))
    theirs = ColBERT(model_name_or_path=str(folder), device="cpu")
    ours = MultiVectorEncoder.from_pretrained(folder, precision="float32")
    small = MultiVectorEncoder.from_pretrained(folder)
    queries, documents = (
        theirs.encode(texts, is_query=is_query, batch_size=1, show_progress_bar=False)
        for texts, is_query in ((QUERIES, True), (TEXTS, False))
    )
    errors = (
        difference(ours.encode_query(QUERIES), queries),
        difference(ours.encode_document(TEXTS), documents),
    )
    truth = np.array([[(q @ d.T).max(axis=1).sum() for d in documents] for q in queries])
    scores = small.similarity(small.encode_query(QUERIES), small.encode_document(TEXTS))
    off = float(np.abs(scores / truth - 1).max())
    print(
        f"| {name} | {sum(map(len, documents))} | {errors[0]:.1e} | {errors[1]:.1e} | {100 * off:.2f} % |",
        flush=True,
    )
    return max(errors)


def main() -> None:
    """Compare, print, and check the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", type=Path, help="folder of an encoder")
    chosen = parser.parse_args()
    print("| case | vectors of documents | queries, float32 | documents, float32 | int8 scores |")
    print("| --- | ---: | ---: | ---: | ---: |")
    worst = 0.0
    with tempfile.TemporaryDirectory() as place:
        backbone = chosen.backbone or bare(Path(place) / "bare")
        cases = CASES if chosen.backbone is None else {backbone.name: {}}
        for number, (name, options) in enumerate(cases.items()):
            worst = max(worst, compare(name, backbone, options, Path(place) / str(number)))
    sys.exit(worst > LARGEST_FLOAT32_ERROR)


if __name__ == "__main__":
    main()
