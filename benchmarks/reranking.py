"""Rerank 50 candidates with a cross-encoder: Quaver beside what people would use instead.

Needs the peers' environment and FlashRank: make .envs/peers/made; .envs/peers/bin/pip install flashrank

    python benchmarks/reranking.py MODEL                          a folder such as ms-marco-MiniLM-L12-v2
    python benchmarks/reranking.py MODEL --out FILE.json
    python benchmarks/reranking.py MODEL --only quaver-int8,flashrank --seconds 5

One query and 50 passages of examples/tasks/xquad-en, each pair cut at exactly 128 tokens, so that no engine pads.
A call takes texts and returns scores: tokenization counts. All engines have the same threads and take turns in one
process; times are medians over undisturbed rounds. Beside the time stand how far a score moves when the pair is
scored alone instead of in the batch, and how near the scores are to sentence-transformers' in float32.

ONNX Runtime's int8 is dynamic (quantize_dynamic, one scale for each output of a layer), OpenVINO's NNCF's static int8
with the transformer preset, calibrated on other passages. FlashRank downloads its model from a hub; here it runs its
own code on ONNX Runtime's int8 file of the same model, with as many threads as the others.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import quaver
from quaver_bench.record import describe_run
from quaver_bench.timing import take_turns

Pair = tuple[str, str]
Score = Callable[[Sequence[Pair]], NDArray[np.float32]]
TASK = Path(__file__).parent.parent / "examples" / "tasks" / "xquad-en"
CALIBRATION = 100
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FARTHEST = 2.0  # logits, in the mean; beyond it, a graph is not this model's
FLASHRANK = ("ms-marco-MiniLM-L-12-v2", "flashrank-MiniLM-L-12-v2_Q.onnx")


# --- Pairs ----------------------------------------------------------------------------------------
def pairs_of(tokenizer: Any, count: int, tokens: int) -> tuple[list[Pair], list[Pair]]:
    """Return pairs of exactly as many tokens when cut, and other pairs for calibration."""
    rows = [json.loads(line) for line in (TASK / "corpus.jsonl").open(encoding="utf-8")]
    queries = [json.loads(line)["text"] for line in (TASK / "queries.jsonl").open(encoding="utf-8")]
    texts = [row["text"] for row in rows]
    query = queries[0]
    whole = [len(encoding) for encoding in tokenizer.encode_batch([(query, t) for t in texts])]
    long = [text for text, length in zip(texts, whole, strict=True) if length >= tokens]
    if len(long) < count:
        raise SystemExit(
            f"only {len(long)} passages have {tokens} tokens with the query: ask for fewer"
        )
    rest = [text for text in texts if text not in long[:count]]
    calibration = list(zip(queries[1:], rest * 10, strict=False))[:CALIBRATION]
    return [(query, text) for text in long[:count]], calibration


class Padded:
    """Tokenizes as every peer that takes arrays does, cut at a length."""

    def __init__(self, folder: Path, tokens: int) -> None:
        """Read tokenizer.json."""
        from tokenizers import Tokenizer

        self.backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.backend.no_truncation()
        self.backend.no_padding()
        self.whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.whole.no_truncation()
        self.whole.no_padding()
        self.backend.enable_truncation(tokens, strategy="only_second")
        self.backend.enable_padding()

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, NDArray[np.int64]]:
        """Return arrays (N, L) by the names of the model's inputs."""
        found = self.backend.encode_batch(list(pairs))
        columns = zip(*((e.ids, e.attention_mask, e.type_ids) for e in found), strict=True)
        arrays = [np.array(column, np.int64) for column in columns]
        return dict(zip(INPUTS, arrays, strict=True))


# --- Engines --------------------------------------------------------------------------------------
class Logits(torch.nn.Module):
    """Returns the logits of a model for sequence classification."""

    def __init__(self, folder: Path) -> None:
        """Load the model with transformers."""
        from transformers import AutoModelForSequenceClassification

        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return float32 (N, labels)."""
        logits: torch.Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).logits
        return logits


def example() -> tuple[torch.Tensor, ...]:
    """Return inputs to trace a model with; one pair is padded, so that the mask is kept."""
    ones = torch.ones((2, 8), dtype=torch.int64)
    mask = ones.clone()
    mask[1, 5:] = 0
    return ones, mask, torch.zeros_like(ones)


def onnx_file(folder: Path, cache: Path) -> Path:
    """Return the model as an ONNX file in float32."""
    path = cache / "float32.onnx"
    if not path.is_file():
        axes = {0: torch.export.Dim("pairs"), 1: torch.export.Dim("length", max=512)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Logits(folder),
                example(),
                path.with_name("part.onnx"),
                input_names=list(INPUTS),
                output_names=["logits"],
                dynamic_shapes=(axes, axes, axes),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        path.with_name("part.onnx").rename(path)
    return path


def int8_file(folder: Path, cache: Path) -> Path:
    """Return ONNX Runtime's int8 of the model, activations quantized while running."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = cache / "int8.onnx"
    if not path.is_file():
        part = path.with_name("part.onnx")
        quantize_dynamic(
            onnx_file(folder, cache), part, weight_type=QuantType.QInt8, per_channel=True
        )
        part.rename(path)
    return path


def session(path: Path, threads: int) -> Any:
    """Open an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnxruntime_int8(chosen: Any) -> Score:
    """Load ONNX Runtime's dynamic int8."""
    opened, padded = session(int8_file(chosen.model, chosen.cache), chosen.threads), chosen.padded
    return lambda pairs: opened.run(None, padded(pairs))[0][:, 0]


def openvino_int8(chosen: Any) -> Score:
    """Load OpenVINO with NNCF's int8."""
    import nncf
    import openvino as ov

    logging.getLogger("nncf").setLevel(logging.ERROR)
    path = chosen.cache / "openvino-int8.xml"
    if not path.is_file():
        with torch.inference_mode():
            graph = ov.convert_model(
                Logits(chosen.model), example_input=dict(zip(INPUTS, example(), strict=True))
            )
        for tensor, name in zip(graph.inputs, INPUTS, strict=True):
            tensor.get_tensor().set_names({name})
        graph.reshape({name: [-1, -1] for name in INPUTS})
        samples = [chosen.padded([pair]) for pair in chosen.calibration]
        quantized = nncf.quantize(
            graph,
            nncf.Dataset(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(samples),
        )
        ov.save_model(quantized, path, compress_to_fp16=False)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": chosen.threads}
    compiled, padded = ov.Core().compile_model(path, "CPU", options), chosen.padded
    return lambda pairs: compiled(padded(pairs))[0][:, 0].copy()


def sentence_transformers(chosen: Any) -> Score:
    """Load sentence-transformers' CrossEncoder, torch in float32."""
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(chosen.threads)
    model = CrossEncoder(str(chosen.model), device="cpu", max_length=chosen.tokens)
    plain = torch.nn.Identity()

    def score(pairs: Sequence[Pair]) -> NDArray[np.float32]:
        return np.asarray(
            model.predict(list(pairs), activation_fn=plain, batch_size=64, show_progress_bar=False)
        )

    return score


def flashrank(chosen: Any) -> Score:
    """Load FlashRank's Ranker on ONNX Runtime's int8 file; its scores are turned back into logits."""
    from flashrank import Ranker, RerankRequest

    name, file = FLASHRANK
    folder = chosen.cache / name
    folder.mkdir(exist_ok=True)
    for path in chosen.model.glob("*.json"):
        shutil.copy(path, folder / path.name)
    shutil.copy(int8_file(chosen.model, chosen.cache), folder / file)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    ranker = Ranker(name, cache_dir=str(chosen.cache), max_length=chosen.tokens, log_level="ERROR")
    assert settings["pad_token"]
    ranker.session = session(folder / file, chosen.threads)

    def score(pairs: Sequence[Pair]) -> NDArray[np.float32]:
        passages = [{"id": i, "text": text} for i, (_, text) in enumerate(pairs)]
        found = ranker.rerank(RerankRequest(query=pairs[0][0], passages=passages))
        scores = np.empty(len(pairs))
        for passage in found:
            scores[passage["id"]] = passage["score"]
        return np.log(scores / (1 - scores)).astype(np.float32)

    return score


def quaver_engine(chosen: Any, precision: Any) -> Score:
    """Load Quaver."""
    model = quaver.CrossEncoder.from_pretrained(
        chosen.model, precision=precision, threads=chosen.threads, max_seq_length=chosen.tokens
    )
    return partial(model.predict, activation="identity")


REFERENCE = "sentence-transformers"
ENGINES: dict[str, Callable[[Any], Score]] = {
    "quaver-int8": partial(quaver_engine, precision="int8"),
    "quaver-float32": partial(quaver_engine, precision="float32"),
    REFERENCE: sentence_transformers,
    "onnxruntime-int8": onnxruntime_int8,
    "openvino-int8": openvino_int8,
    "flashrank": flashrank,
}


# --- Measuring ------------------------------------------------------------------------------------
def timed(score: Score, pairs: Sequence[Pair]) -> float:
    """Return the seconds of a call."""
    begin = time.perf_counter()
    score(pairs)
    return time.perf_counter() - begin


def quality(score: Score, pairs: Sequence[Pair], truth: NDArray[np.float32]) -> dict[str, float]:
    """Compare the scores of a batch with those of the pairs alone, and with float32."""
    whole = np.asarray(score(pairs), np.float64)
    alone = np.array([score([pair])[0] for pair in pairs], np.float64)
    top = min(10, len(pairs))
    best = [set(np.argsort(-values, kind="stable")[:top]) for values in (whole, truth)]
    return {
        "alone_largest": float(np.abs(alone - whole).max()),
        "alone_mean": float(np.abs(alone - whole).mean()),
        "float32_largest": float(np.abs(whole - truth).max()),
        "float32_mean": float(np.abs(whole - truth).mean()),
        "same_top_10": len(best[0] & best[1]) / top,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows in Markdown, the fastest first."""
    ours = rows.get("quaver-int8", {}).get("median_ms")
    lines = [
        "| engine | ms for a query | as slow as Quaver int8 | alone or in the batch | from float32 | same top 10 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in sorted(rows.items(), key=lambda item: item[1]["median_ms"]):
        ratio = f"{row['median_ms'] / ours:.2f} x" if ours else "-"
        lines.append(
            f"| {name} | {row['median_ms']:.0f} | {ratio} | {row['alone_largest']:.4f} | "
            f"{row['float32_mean']:.3f} | {row['same_top_10']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a cross-encoder with one label")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=128, help="of each pair")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=60.0, help="for all engines together")
    parser.add_argument("--only", help="engines, with commas")
    parser.add_argument(
        "--cache", type=Path, default=Path("build/reranking"), help="the peers' files"
    )
    parser.add_argument("--out", type=Path, help="JSON of the result")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    chosen.cache = chosen.cache / chosen.model.resolve().name
    chosen.cache.mkdir(parents=True, exist_ok=True)
    chosen.padded = Padded(chosen.model, chosen.tokens)
    pairs, chosen.calibration = pairs_of(chosen.padded.whole, chosen.candidates, chosen.tokens)
    shape = chosen.padded(pairs)["input_ids"].shape
    assert shape == (chosen.candidates, chosen.tokens), shape
    names = chosen.only.split(",") if chosen.only else list(ENGINES)
    scores = {name: ENGINES[name](chosen) for name in names}
    truth = np.asarray(sentence_transformers(chosen)(pairs), np.float64)
    with torch.inference_mode():
        rows = {name: quality(score, pairs, truth) for name, score in scores.items()}
        for name, row in rows.items():
            if row["float32_mean"] > FARTHEST:
                raise SystemExit(f"{name} computes another model: {row}; remove {chosen.cache}")
        blocks = {name: partial(timed, score, pairs) for name, score in scores.items()}
        turns = take_turns(blocks, seconds=chosen.seconds, least=3)
    for name in names:
        times = [given[name] * 1e3 for given in turns.rounds]
        rows[name] |= {"median_ms": statistics.median(times), "least_ms": min(times)}
    print(table(rows))
    print(
        f"\n{chosen.candidates} pairs of {chosen.tokens} tokens, {chosen.threads} threads, "
        f"{len(turns.rounds)} rounds{', disturbed' if turns.disturbed else ''}"
    )
    if chosen.out:
        result = {
            "kind": "reranking",
            "run": describe_run(chosen.threads, sys.argv),
            "model": chosen.model.resolve().name,
            "pairs": list(shape),
            "rounds": len(turns.rounds),
            "dropped": turns.dropped,
            "disturbed": turns.disturbed,
            "engines": rows,
        }
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
