"""Write the terms that Qdrant extracts from texts; keyword search must extract the same.

    pip install qdrant-edge-py==0.9.0
    python tools/golden_terms.py examples/python-docs

It writes tests/golden/terms.json: for each file of the folder a checksum of its terms in English, and for
each language words with their terms, or null for a stop word.
"""

from __future__ import annotations

import argparse
import json
import random
import zlib
from pathlib import Path

import numpy as np
import qdrant_edge as edge

from quaver.store.terms import LANGUAGES, UNSPACED

GOLDEN = Path(__file__).parents[1] / "tests/golden/terms.json"
STOP_WORDS = Path(__file__).parents[1] / "src/quaver/store/stop_words.json"


def analyzer(language: str) -> edge.Bm25:
    """Return Qdrant's analyzer of texts with spaces between words."""
    return edge.Bm25(
        edge.Bm25Config(avg_len=128.0, tokenizer=edge.TokenizerType.Word, language=language)
    )


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    english = analyzer("english")
    files = {}
    for path in sorted(path for path in folder.rglob("*.*") if path.is_file()):
        text = path.read_text(encoding="utf-8")
        if UNSPACED.search(text):  # Qdrant uses a dictionary for it
            continue
        terms = english.embed_document(text).indices
        files[path.relative_to(folder).as_posix()] = zlib.crc32(np.array(terms, np.uint32))
    words = {}
    for language in LANGUAGES:
        draw = random.Random(language)
        listed = json.loads(STOP_WORDS.read_text(encoding="utf-8"))[language].split()
        # Two stop words, joined, make a word with endings of the language.
        made = [draw.choice(listed) + draw.choice(listed) for _ in range(40)]
        asked = analyzer(language)
        words[language] = {
            word: (asked.embed_query(word).indices or [None])[0]
            for word in sorted({*draw.sample(listed, 20), *made})
        }
    GOLDEN.write_text(
        json.dumps({"files": files, "words": words}, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
