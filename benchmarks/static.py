"""Tokens a second of a static model, beside the library that wrote its folder.

    python benchmarks/static.py MODEL                   a folder of model2vec, such as potion-base-8M
    python benchmarks/static.py --random FOLDER         write a random table with a model's tokenizer first
    python benchmarks/static.py MODEL --against model2vec

Texts are the paragraphs of examples/python-docs, each once with its number before it, so no text repeats. Beside
the time by the clock stands processor time, which other programs disturb less. Words that were seen before
are remembered between calls; the first call has not seen any.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import quaver

DOCUMENTS = Path(__file__).parent.parent / "examples" / "python-docs"


def paragraphs(count: int) -> list[str]:
    """Return paragraphs of at least a hundred characters, all different."""
    found = [
        text
        for path in sorted(DOCUMENTS.rglob("*.rst"))
        for text in path.read_text(encoding="utf-8").split("\n\n")
        if len(text) > 100
    ]
    return [f"{i} {found[i % len(found)]}" for i in range(count)]


def random_model(folder: Path, target: Path, size: int = 256) -> None:
    """Write a model2vec folder of random rows, with another model's tokenizer."""
    import numpy as np
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), size))
    StaticModel(rows.astype(np.float32), tokenizer, normalize=True).save_pretrained(target)


def measured(call: Callable[[Sequence[str]], Any], texts: Sequence[str], tokens: int) -> str:
    """Return tokens a second by the clock and by processor time, of the first call and of the third."""
    cells = []
    for number in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        call(texts)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if number != 1:
            cells.append(f"{tokens / wall:,.0f} | {tokens / cpu:,.0f}")
    return " | ".join(cells)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a static model")
    parser.add_argument(
        "--random", type=Path, help="folder whose tokenizer a new random MODEL gets"
    )
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--against", choices=["model2vec"], help="measure this library, too")
    chosen = parser.parse_args()
    if chosen.random:
        random_model(chosen.random, chosen.model)
    texts = paragraphs(chosen.texts)
    model = quaver.Embedder.from_pretrained(chosen.model)
    tokens = quaver.Embedder.from_pretrained(chosen.model).encode_with_report(texts).tokens
    print("| | first call, tokens/s | of a core | third call | of a core |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| quaver | {measured(model.encode, texts, tokens)} |", flush=True)
    if chosen.against:
        from model2vec import StaticModel

        other = StaticModel.from_pretrained(chosen.model)
        print(f"| model2vec | {measured(other.encode, list(texts), tokens)} |")
    print(f"\n{len(texts):,} texts, {tokens:,} tokens, {model.dimension} features")


if __name__ == "__main__":
    main()
