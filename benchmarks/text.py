"""From text to vectors, tokenization included: Quaver against OpenVINO int8 with the same tokenizer.

    python benchmarks/text.py --model MINILM_FOLDER [--corpus FILE.jsonl --count 4000] [--out FILE]

OpenVINO gets its texts tokenized by the `tokenizers` library, sorted by length and padded in
batches of 32. Without --corpus the passages of examples/python-docs are taken.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cases import mean_cosine, say
from engines import Run
from inputs import DOCUMENTS, Case, TextSource, pad, padding_share
from measure import alternate
from models import REAL, get_model
from record import describe_run

REFERENCE_TEXTS = 256


def main() -> None:
    """Measure, print, write."""
    options = _options()
    # Both tokenize with the same library: as many threads as the engines have.
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    from quaver.embedder import Embedder

    model = get_model(REAL, options.model)
    ours = Embedder.from_pretrained(model.folder, threads=options.threads, local_files_only=True)
    texts = read_texts(options.corpus, ours)[: options.count]
    peer = OpenVinoPipeline(options.model, ours.max_seq_length, options.threads)
    say(f"{len(texts)} texts; the first pass of each engine is not timed")
    runs: dict[str, Run] = {
        "quaver-int8": lambda: ours.encode(texts, normalize=True),
        "openvino-int8": lambda: peer.encode(texts),
    }
    timing = alternate(
        {name: [run] for name, run in runs.items()},
        seconds=options.seconds,
        least=options.least_rounds,
    )
    ratio, low, high = timing.ratio("quaver-int8", "openvino-int8")
    step = max(1, len(texts) // REFERENCE_TEXTS)
    truth = peer.reference(texts[::step])
    ids = peer.tokenize(texts)
    tokens = sum(map(len, ids))
    result: dict[str, Any] = {
        "kind": "text",
        "run": describe_run(options.threads),
        "corpus": options.corpus.name if options.corpus else "examples/python-docs",
        "texts": len(texts),
        "tokens": tokens,
        "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 3),
        "peer_padding": round(padding_share(pad(ids, 32)), 4),
        "ratio": round(ratio, 4),
        "ratio_quartiles": [round(low, 4), round(high, 4)],
        "rounds": len(timing.seconds["quaver-int8"]),
        "dropped_rounds": timing.dropped,
        "disturbed": timing.disturbed,
    }
    for name, run in runs.items():
        seconds = timing.median(name)
        result[name] = {
            "seconds": round(seconds, 4),
            "texts_per_second": round(len(texts) / seconds, 1),
            "tokens_per_second": round(tokens / seconds),
            "cosine": round(mean_cosine(run()[::step], truth), 6),
        }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    add("--corpus", type=Path, help='JSON lines, each with a "text"')
    add("--count", type=int, default=4000, help="the first N passages")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="in both engines")
    add("--seconds", type=float, default=120, help="for all rounds")
    add("--least-rounds", type=int, default=5, help="at least 2")
    add("--out", type=Path, help="results, JSON")
    options = parser.parse_args()
    if options.least_rounds < 2:
        parser.error("--least-rounds must be at least 2")
    return options


def read_texts(corpus: Path | None, embedder: Any) -> list[str]:
    """Return different texts in the order of the corpus.

    Each text once: Quaver encodes a repeated text once, which would not be the engine's speed.

    Args:
        corpus: a .jsonl file, or None for the passages of examples/python-docs.
        embedder: tells the splitter how long a passage may be.

    Returns:
        The texts.
    """
    if corpus is None:
        from quaver.passages import embedded_text, read_document, scan_folder, split

        room = embedder.max_seq_length - embedder.tokenizer.special_tokens
        documents = map(read_document, scan_folder(DOCUMENTS).files)
        passages = (p for document in documents for p in split(document, embedder.tokenizer, room))
        texts = [embedded_text(passage.heading, passage.text) for passage in passages]
    else:
        with corpus.open(encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
    return list(dict.fromkeys(texts))


class OpenVinoPipeline:
    """Tokenize all texts, sort, pad, infer."""

    def __init__(self, folder: Path, max_length: int, threads: int) -> None:
        """Load tokenizer and engine.

        Args:
            folder: of all-MiniLM-L6-v2.
            max_length: where texts are cut, as Quaver cuts them.
            threads: of the engine.
        """
        from tokenizers import Tokenizer

        from engines.load import load_engines

        model = get_model(REAL, folder)
        source = TextSource(folder)
        engines, missing = load_engines(model, source, ["openvino-int8"], threads)
        if missing:
            raise SystemExit(f"OpenVINO is needed here: {missing['openvino-int8']}")
        self._engine, self._torch = engines["openvino-int8"], engines["torch-float32"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    def tokenize(self, texts: list[str]) -> tuple[NDArray[np.int64], ...]:
        """Return the ids of texts, special tokens included, cut at the length."""
        return tuple(np.array(e.ids, np.int64) for e in self._tokenizer.encode_batch(texts))

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Return vectors (N, H) of texts; padding is part of the time here."""
        return self._engine.prepare(self._case(texts))[0]()

    def reference(self, texts: list[str]) -> NDArray[np.float32]:
        """Return vectors (N, H) as torch float32 gives them."""
        return self._torch.prepare(self._case(texts))[0]()

    def _case(self, texts: list[str]) -> Case:
        return Case("text", "text", (self.tokenize(texts),), True)


if __name__ == "__main__":
    main()
