"""What int8 costs: quantize in every scheme, and evaluate against float32 and other engines' int8.

    python benchmarks/quality.py MODEL --calibration TEXTS --out FOLDER [--tasks FOLDER] [-- OPTIONS]

OPTIONS are passed to `quaver evaluate`. The folder gets its files, and schemes.json with sizes, seconds,
the error of each layer, and the time of a call in each scheme. Without --tasks only schemes.json is written.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import quaver
from quaver.cli import main as command_line
from quaver.quantization.calibration import calibration_texts

EVALUATED = ("dynamic", "static")
# Arguments of `quaver.quantize`; "calibration" is replaced by the text.
SCHEMES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "calibrated": {"calibration": True},
    "static": {"scheme": "static", "calibration": True},
    "strict": {"scheme": "static", "calibration": True, "strict": True},
}
ROUNDS = 9
# Name, and tokens of each text: one short query, one passage, a batch.
CASES = {"1 x 16": [16], "1 x 128": [128], "32 x 128": [128] * 32}


def quantize(model: Path, work: Path, calibration: str, samples: int) -> dict[str, Any]:
    """Write a folder for each scheme; return sizes, seconds and errors, without this machine's paths."""
    found = {}
    for scheme, settings in SCHEMES.items():
        shutil.rmtree(work / scheme, ignore_errors=True)
        text = {"calibration": calibration} if "calibration" in settings else {}
        report = quaver.quantize(model, work / scheme, **{**settings, **text}, samples=samples)
        found[scheme] = {k: v for k, v in asdict(report).items() if k not in ("target", "source")}
    return found


def times(work: Path, calibration: str) -> dict[str, dict[str, float]]:
    """Time the schemes in turns on the same texts: milliseconds for a call, and ratios to dynamic."""
    words = " ".join(calibration_texts(calibration, 128).texts).split()
    found: dict[str, dict[str, float]] = {}
    for name, lengths in CASES.items():
        # As many words as tokens, so that every text is truncated to exactly this length.
        texts = [" ".join(words[i * 64 : i * 64 + n]) for i, n in enumerate(lengths)]
        models = {
            scheme: quaver.Embedder.from_pretrained(work / scheme, max_seq_length=max(lengths))
            for scheme in SCHEMES
        }
        taken: dict[str, list[float]] = {scheme: [] for scheme in SCHEMES}
        for _ in range(ROUNDS + 1):
            for scheme, model in models.items():
                begin = time.perf_counter()
                calls = 1 if len(lengths) > 1 else 20
                for _ in range(calls):
                    model.encode(texts)
                taken[scheme].append((time.perf_counter() - begin) / calls)
        found[name] = {f"{s} ms": 1000 * statistics.median(t[1:]) for s, t in taken.items()}
        for scheme, seconds in taken.items():
            pairs = zip(seconds[1:], taken["dynamic"][1:], strict=True)
            found[name][f"{scheme} / dynamic"] = statistics.median(a / b for a, b in pairs)
    return found


def main() -> int:
    """Quantize, time, evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder in floats")
    parser.add_argument("--tasks", help="as `quaver evaluate --tasks` takes it")
    parser.add_argument("--calibration", required=True, help="text that is in no task")
    parser.add_argument("--samples", type=int, default=128, help="calibration texts")
    parser.add_argument("--against", default="openvino,onnxruntime", help="other engines, or ''")
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="for the folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("passed", nargs="*", help="options of `quaver evaluate`, after --")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    schemes = quantize(options.model, options.work, options.calibration, options.samples)
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": {k: quaver.info()[k] for k in ("cpu", "isa", "threads")},
        "schemes": schemes,
        "times": times(options.work, options.calibration),
    }
    text = json.dumps(record, indent=1) + "\n"
    (options.out / "schemes.json").write_text(text, encoding="utf-8")
    if options.tasks is None:
        return 0
    arguments = ["evaluate", *(str(options.work / scheme) for scheme in EVALUATED)]
    arguments += ["--baseline", str(options.model), "--tasks", options.tasks]
    arguments += ["--out", str(options.out), "--overwrite", *options.passed]
    if options.against:
        arguments += ["--against", options.against, "--calibration", options.calibration]
    sys.argv = ["quaver", *arguments]
    return int(command_line() or 0)


if __name__ == "__main__":
    sys.exit(main())
