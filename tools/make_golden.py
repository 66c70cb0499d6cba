"""Write the golden vectors: transformers' vectors in float32 of tests/golden/texts.json.

Needs torch and transformers, which the tests do not:

    python tools/make_golden.py MODEL_FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"


def embed(folder: Path, texts: list[str], *, max_length: int = 256, **options: Any) -> np.ndarray:
    """Embed texts one at a time as on the model card: mean of all tokens, then unit length.

    Args:
        folder: folder of all-MiniLM-L6-v2.
        texts: N texts.
        max_length: most tokens, from sentence_bert_config.json.
        options: for `AutoModel.from_pretrained`.

    Returns:
        float32 (N, 384), unit rows.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, **options).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
            mean = model(**tokens).last_hidden_state[0].mean(dim=0)
            rows.append((mean / mean.norm()).numpy())
    return np.stack(rows).astype(np.float32)


def main() -> None:
    """Read the texts, embed, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of all-MiniLM-L6-v2")
    folder = parser.parse_args().folder
    texts = json.loads((GOLDEN / "texts.json").read_text(encoding="utf-8"))["texts"]
    vectors = embed(folder, [entry["text"] for entry in texts])
    target = GOLDEN / "all-MiniLM-L6-v2.npz"
    np.savez_compressed(target, vectors=vectors)
    print(f"{target}: {len(vectors)} vectors, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
