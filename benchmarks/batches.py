"""How much one text's vector, and one pair's score, depend on the batch that they are in.

    python benchmarks/batches.py --model MINILM_FOLDER --pairs CROSS_ENCODER_FOLDER --out FILE [--page docs/results.md]

A text goes through an engine alone, then 1,000 times among one to seven other texts of 4 to 32 tokens, at a random
place. Batches are the same for every engine that is installed here; those that pad get one rectangular batch. Nothing
is timed. Engines that the file has are not measured again, so another environment can add its own.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.evaluate import write_between
from quaver_bench.engines import CannotRunError, Setup
from quaver_bench.engines.registry import ALL, choose_forms
from quaver_bench.inputs import Ids, Request, lognormal_lengths
from quaver_bench.models import open_model, short_name
from quaver_bench.record import describe_run

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = REPOSITORY / "examples" / "python-docs"
START, END = "<!-- batches:start -->", "<!-- batches:end -->"
TOKENS, SHORTEST, LONGEST, MOST_OTHERS, POOL = 24, 4, 32, 7, 256
"""Tokens of the text that is followed, of the shortest and the longest other, most others, and how many there are."""
QUERY = 16
"""Tokens that a pair has more than a text, for its query."""
CALIBRATION_TEXTS = 64
ENGINES = (
    *(
        "quaver-int8",
        "quaver-float32",
        "onnxruntime-int8-dynamic",
        "openvino-int8",
        "torch-float32",
    ),
    *("onnxruntime-int8-static", "onnxruntime-float32", "openvino-float32", "torch-bf16"),
    *("sentence-transformers", "fastembed", "ctranslate2-float32", "ctranslate2-int8"),
    *("llamacpp-float32", "llamacpp-int8"),
)
Encode = Callable[[Sequence[int]], NDArray[np.float32]]
"""From the numbers of inputs in a batch, the followed one 0, to a row for each."""


@dataclass(frozen=True)
class Followed:
    """What the batches did to the outputs of one input.

    Attributes:
        engine: name of the engine's form.
        batches: how many there were.
        different: in how many of them a bit differed from the output alone.
        change: largest difference of a number of the output.
        cosine_loss: largest 1 - cosine; None for a score.
    """

    engine: str
    batches: int
    different: int
    change: float
    cosine_loss: float | None


def follow(engine: str, encode: Encode, batches: Sequence[Sequence[int]]) -> Followed:
    """Encode input 0 alone and in each batch."""
    alone = encode([0])[0]
    different, change, lost = 0, 0.0, 0.0
    for batch in batches:
        row = encode(batch)[list(batch).index(0)]
        different += not np.array_equal(row, alone)
        a, b = row.astype(np.float64), alone.astype(np.float64)
        change = max(change, float(np.abs(a - b).max()))
        lost = max(lost, 1 - float(a @ b / np.sqrt((a @ a) * (b @ b))))
    return Followed(engine, len(batches), different, change, lost if alone.size > 1 else None)


def random_batches(count: int) -> list[list[int]]:
    """Draw batches of numbers of inputs: 0 at a random place among others."""
    chance = random.Random(0)
    batches = []
    for _ in range(count):
        batch = [chance.randint(1, POOL) for _ in range(chance.randint(1, MOST_OTHERS))]
        batch.insert(chance.randint(0, len(batch)), 0)
        batches.append(batch)
    return batches


def followed(folder: Path, options: argparse.Namespace, done: set[str]) -> Iterator[Followed | str]:
    """Follow a text or a pair through every engine that is installed; yield why one cannot run the model."""
    model = open_model(str(folder), options.cache_folder)
    source = model.kind.source(model.folder.transformer, _documents())
    more = QUERY if source.pairs else 0
    chance = random.Random(1)
    lengths = [TOKENS, *(chance.randint(SHORTEST, LONGEST) for _ in range(POOL))]
    made = source.request([n + more for n in lengths], seed=2, batch=len(lengths))
    calibration = [min(512, n + more) for n in lognormal_lengths(CALIBRATION_TEXTS)]
    text = source.request(calibration, seed=3, batch=1)
    assert made.texts is not None
    assert text.texts is not None
    texts = made.texts
    plain = [each for each in text.texts if isinstance(each, str)]
    setup = Setup(model, options.threads, 256, text.ids, plain)
    forms = {form.name: form for form in choose_forms((ALL,), model.kind)}
    for name in ENGINES:
        if name in done or name not in forms or forms[name].missing:
            continue
        try:
            engine = forms[name].load(setup)
        except CannotRunError as error:
            yield f"{name}: {error}"
            continue

        def encode(batch: Sequence[int], engine: Any = engine) -> NDArray[np.float32]:
            ids: tuple[Ids, ...] = tuple(made.ids[i] for i in batch)
            request = Request(ids, tuple(texts[i] for i in batch), len(batch))
            return model.kind.plain(engine.prepare(request)())

        yield follow(name, encode, options.drawn)


def _documents() -> list[str]:
    files = sorted(DOCUMENTS.rglob("*.rst"))
    text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    return [part for part in text.split("\n\n") if len(part.split()) >= SHORTEST]


def table(record: dict[str, Any]) -> str:
    """Return the record as Markdown: a row for each engine."""
    lines = [
        "| engine | batches that changed a bit | largest change of a number | largest 1 - cosine |",
        "| --- | ---: | ---: | ---: |",
    ]
    for kind, what in (("vectors", "vector"), ("scores", "score of a pair")):
        for row in record.get(kind, []):
            changed = f"{row['different']:,} of {row['batches']:,}"
            cosine = "" if row["cosine_loss"] is None else _small(row["cosine_loss"])
            change = _small(row["change"])
            lines.append(f"| {row['engine']}, {what} | {changed} | {change} | {cosine} |")
    run = record["run"]
    models = " and ".join(record["models"].values())
    return (
        "\n".join(lines)
        + f"\n\n{models}; {run['cpu']}, Quaver on {run['quaver_isa']}, {run['threads']} "
        f"thread{'s' if run['threads'] > 1 else ''}. A vector has the length 1; a score is a logit."
    )


def _small(value: float) -> str:
    return "0" if abs(value) < 1e-15 else f"{value:.1e}"


def page_section(place: str) -> str:
    """Return a page's text between the markers.

    Args:
        place: the record, from the root of the repository.
    """
    record = json.loads((REPOSITORY / place).read_text(encoding="utf-8"))
    return f"{table(record)} [The record](../{place})."


def main() -> None:
    """Measure, write the record after each engine, then the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of an embedding model")
    parser.add_argument("--name", default=None, help="its name; default: its folder's")
    parser.add_argument("--pairs", type=Path, help="folder of a cross-encoder")
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache-folder", type=Path, default=Path("build/bench-models"))
    parser.add_argument("--out", type=Path, required=True, help="the record, JSON")
    parser.add_argument("--page", type=Path, help="also write the table between its markers")
    options = parser.parse_args()
    options.drawn = random_batches(options.batches)
    record: dict[str, Any] = {"kind": "batches", "run": describe_run(options.threads, sys.argv)}
    if options.out.is_file():
        record |= json.loads(options.out.read_text(encoding="utf-8"))
    names = record.setdefault("models", {})
    names["vectors"] = options.name or short_name(str(options.model))
    folders = {"vectors": options.model}
    if options.pairs is not None:
        names["scores"] = short_name(str(options.pairs))
        folders["scores"] = options.pairs
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for kind, folder in folders.items():
        rows = record.setdefault(kind, [])
        for row in followed(folder, options, {row["engine"] for row in rows}):
            print(row, file=sys.stderr, flush=True)
            if isinstance(row, str):
                record.setdefault("not_measured", []).append(row)
            else:
                rows.append(vars(row))
            options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))
    if options.page is not None:
        place = options.out.resolve().relative_to(REPOSITORY).as_posix()
        write_between(options.page, page_section(place), start=START, end=END)


if __name__ == "__main__":
    main()
