"""Cosines to float32 of ONNX Runtime's int8 in its own settings: where products saturate, and what helps.

    .envs/peers/bin/python benchmarks/saturation.py MODEL ... --out FILE

On x86 CPUs without VNNI, ONNX Runtime multiplies unsigned by signed bytes in 16 bits, and sums of two products
saturate. Its documentation names two remedies: weights of seven bits (`reduce_range`), and unsigned weights; a session
option computes in more bits. Each is compared with quaver's float32 on the same texts, paragraphs of
examples/python-docs. With VNNI all of them are exact, so the script is of use on older CPUs alone. CPU seconds are of
all texts, one after the other. Models that the record has are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver import Embedder
from quaver_bench.engines import Setup, products_saturate
from quaver_bench.engines.onnxruntime import plain_graph
from quaver_bench.models import open_model, short_name
from quaver_bench.record import describe_run

DOCUMENTS = Path(__file__).resolve().parent.parent / "examples" / "python-docs"
TEXTS = 40
LONGEST = 256
EXACT = {"session.x64quantprecision": "1"}
FORMS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "signed weights by channel": ({"per_channel": True}, {}),
    "the same of 7 bits": ({"per_channel": True, "reduce_range": True}, {}),
    "the same, x64quantprecision": ({"per_channel": True}, EXACT),
    "unsigned weights by channel": ({"per_channel": True, "unsigned": True}, {}),
    "one range for all signed weights": ({}, {}),
    "the same of 7 bits, one range": ({"reduce_range": True}, {}),
    "one range for all unsigned weights": ({"unsigned": True}, {}),
}
"""Arguments of `quantize_dynamic`, and of the session."""


def paragraphs() -> list[str]:
    """Return texts from all documents."""
    found = [
        part
        for file in sorted(DOCUMENTS.rglob("*.rst"))
        for part in file.read_text(encoding="utf-8").split("\n\n")
        if 40 < len(part) < 1500
    ]
    return found[:: len(found) // TEXTS][:TEXTS]


def measured(folder: Path, cache: Path, threads: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the cosines of each form, the least and the mean, and CPU seconds."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact = Embedder.from_pretrained(folder, precision="float32", threads=threads)
    texts = paragraphs()
    wanted = exact.encode(texts)
    setup = Setup(open_model(str(folder), cache), threads, LONGEST, ())
    ids = [exact.tokenizer.encode([text]).ids.astype(np.int64)[:LONGEST] for text in texts]
    own = Embedder.from_pretrained(folder, threads=threads)
    begin = time.process_time()
    yield "quaver-int8", figures(np.concatenate([own.encode([t]) for t in texts]), wanted, begin)
    begin = time.process_time()
    yield "float32", figures(vectors(plain_graph(setup), {}, ids, threads), wanted, begin)
    for name, (options, session) in FORMS.items():
        arguments = dict(options)
        kind = QuantType.QUInt8 if arguments.pop("unsigned", False) else QuantType.QInt8
        path = setup.model.built("-".join(["saturation", kind.name, *sorted(arguments)]), ".onnx")
        if not path.is_file():
            part = path.with_name(f"part-{path.name}")
            quantize_dynamic(plain_graph(setup), part, weight_type=kind, **arguments)
            part.rename(path)
        begin = time.process_time()
        yield name, figures(vectors(path, session, ids, threads), wanted, begin)


def vectors(
    path: Path, entries: dict[str, str], ids: list[NDArray[np.int64]], threads: int
) -> NDArray[np.float32]:
    """Run a graph with one text at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = []
    for text in ids:
        given = {"input_ids": text[None], "attention_mask": np.ones((1, len(text)), np.int64)}
        rows.append(session.run(None, given)[0][0])
    return np.array(rows, np.float32)


def figures(
    found: NDArray[np.float32], wanted: NDArray[np.float32], begin: float
) -> dict[str, float]:
    """Return the cosines of unit vectors, and the CPU seconds since the begin."""
    seconds = time.process_time() - begin
    cosines = (found * wanted).sum(axis=1)
    return {
        "cosine": round(float(cosines.mean()), 5),
        "least": round(float(cosines.min()), 5),
        "cpu_seconds": round(seconds, 2),
    }


def main() -> None:
    """Measure each model, and write the record after each form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", help="folders of embedding models")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache-folder", type=Path, default=Path("build/bench-models"))
    parser.add_argument("--out", type=Path, required=True, help="the record, JSON")
    options = parser.parse_args()
    record: dict[str, Any] = {
        "kind": "saturation",
        "run": describe_run(options.threads, sys.argv),
        "products_saturate": products_saturate(),
        "texts": TEXTS,
        "models": {},
    }
    if options.out.is_file():
        record |= json.loads(options.out.read_text(encoding="utf-8"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for folder in options.models:
        name = short_name(str(folder))
        if name in record["models"]:
            continue
        found: dict[str, Any] = {}
        for form, values in measured(folder, options.cache_folder, options.threads):
            found[form] = values
            print(f"{name}, {form}: {values}", flush=True)
        record["models"][name] = {"forms": found, "load": round(os.getloadavg()[0], 2)}
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
