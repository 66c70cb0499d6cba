"""Speed of decoders: Quaver int8 beside torch bfloat16, OpenVINO int8 and llama.cpp Q8_0, in turns.

    python benchmarks/decoders.py --out FILE.json                     both shapes, all cases: hours
    python benchmarks/decoders.py --shapes tiny,tiny-gemma --seconds 5         whether it works here
    python benchmarks/decoders.py --shapes qwen3-0.6b --cases rerank50 --engines quaver-int8

Every engine is a process of its own, with the Python that --python names for it, since not all can be installed side by
side: `make .envs/peers/made .envs/llamacpp/made`. They take turns: one call of each, then again. An engine whose first
call takes longer than --limit seconds is stopped and left out of that case; the record says so, and why an engine
does not run at all. With --out, rows that the file has are not measured again, so an interrupted run continues, and a
table is written beside the file. --minutes bounds the whole run: no case begins after them, and an engine that
loads or computes longer is stopped.

Shapes are those of random_decoder.py: random weights, the words of a random text are ids. `1x32` is one text of 32
tokens, `8x256` eight of 256, `ragged64` sixty-four of 8 to 512, `rerank50` fifty documents of 128 tokens behind 100
that all share, which Quaver computes once, beside Quaver without that (`quaver-int8-whole`; causal shapes alone). torch
and OpenVINO get ragged texts sorted by length, eight in a batch, padded; llama.cpp gets them without padding. Cosines
are those of the vectors to torch's: they would show that an engine computes another model.

OpenVINO has two forms of int8: `openvino-int8` by NNCF with inputs in eight bits and fixed ranges, and
`openvino-int8-weights`, what OpenVINO recommends for decoders: compressed weights, inputs quantized while running.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ids = list[list[int]]
CASES: dict[str, list[int]] = {
    "1x32": [32],
    "1x512": [512],
    "8x256": [256] * 8,
    "ragged64": [int(n) for n in np.random.default_rng(0).integers(8, 513, 64)],
    "rerank50": [228] * 50,
}
SHARED = 100  # tokens of a pair before its document
PADDED = 8  # texts in a batch of an engine that pads
LOADING = 3600.0  # seconds: conversion of a model takes minutes
# Threads that wait for work must not disturb the engine whose turn it is.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


# --- Engines: each in a process of its own, whose Python may lack what the others need ------------------
class QuaverEngine:
    """Quaver, with or without computing once what texts share."""

    def __init__(self, folder: Path, cache: Path, threads: int) -> None:
        """Quantize the folder if needed, and load it."""
        import quaver
        from quaver.engine import load_model

        target = cache / "quaver-int8"
        if not target.is_dir():
            quaver.quantize(folder, target)
        self.engine: Any = load_model(target, threads=threads).engine
        self.settings = {"isa": self.engine.isa}

    def prepare(self, ids: Ids, split: int) -> Callable[[], Vectors]:
        """Lay out the texts."""
        from quaver.models import TokenBatch

        offsets = np.cumsum([0, *map(len, ids)]).astype(np.int32)
        splits = np.full(len(ids), split, np.int32) if split else None
        batch = TokenBatch(np.concatenate(ids).astype(np.int32), offsets, None, 0, splits=splits)
        return lambda: self.engine.encode(batch)


class Padded:
    """Texts sorted by length, eight in a batch."""

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        """Return float32 (N, H)."""
        raise NotImplementedError

    def prepare(self, ids: Ids, split: int) -> Callable[[], Vectors]:
        """Pad the texts."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        batches = []
        for first in range(0, len(ids), PADDED):
            rows = [ids[i] for i in order[first : first + PADDED]]
            width = max(map(len, rows))
            padded = np.array([row + [0] * (width - len(row)) for row in rows], np.int64)
            mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64)
            batches.append((padded, mask))

        def call() -> Vectors:
            found = np.concatenate([self.run(*batch) for batch in batches])
            natural = np.empty_like(found)
            natural[order] = found
            return natural

        return call


def pooled(folder: Path, dtype: Any) -> Any:
    """Return a torch module from ids and mask to pooled vectors (N, H)."""
    import torch
    from transformers import AutoModel

    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    mean = pooling["pooling_mode"] == "mean"

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
            self.both_ways = bool(getattr(self.model.config, "use_bidirectional_attention", False))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.model(
                input_ids=input_ids,
                attention_mask=self.seen(attention_mask) if self.both_ways else attention_mask,
                use_cache=False,
            ).last_hidden_state
            counts = attention_mask.sum(1)
            if mean:
                weights = attention_mask[..., None].to(states.dtype)
                return (states * weights).sum(1).float() / counts[:, None]
            rows = torch.arange(states.shape[0], device=states.device)
            return states[rows, counts - 1].float()

        def seen(self, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            """Return which tokens each token sees: OpenVINO cannot trace how transformers finds it."""
            places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
            near = (places[:, None] - places).abs() < self.model.config.sliding_window
            everything = attention_mask[:, None, None, :].bool() & torch.ones_like(near)
            return {"full_attention": everything, "sliding_attention": everything & near}

    return Pooled().eval()


class TorchEngine(Padded):
    """transformers in bfloat16."""

    def __init__(self, folder: Path, cache: Path, threads: int) -> None:
        """Load the folder."""
        import torch

        torch.set_num_threads(threads)
        self.model = pooled(folder, torch.bfloat16)
        self.settings: dict[str, Any] = {}

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        """Run a batch."""
        import torch

        with torch.inference_mode():
            found: Vectors = self.model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return found


class OpenVinoEngine(Padded):
    """OpenVINO on a graph that NNCF has made int8."""

    def __init__(self, folder: Path, cache: Path, threads: int, *, weights: bool) -> None:
        """Convert and quantize the folder if needed, and compile the graph."""
        import openvino as ov

        path = cache / f"openvino-int8{'-weights' if weights else ''}.xml"
        if not path.is_file():
            self._convert(folder, cache, path, weights=weights)
        self.settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self.model = ov.Core().compile_model(path, "CPU", self.settings)

    def _convert(self, folder: Path, cache: Path, path: Path, *, weights: bool) -> None:
        import nncf
        import openvino as ov
        import torch

        model = pooled(folder, torch.float32)
        ids = torch.randint(5, 1000, (2, 64), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[1, 40:] = 0
        with torch.inference_mode():
            graph = ov.convert_model(model, example_input=(ids, mask))
        del model
        graph.reshape({0: [-1, -1], 1: [-1, -1]})
        if weights:
            graph = nncf.compress_weights(graph)
        else:
            samples = [{0: ids[i : i + 1].numpy(), 1: mask[i : i + 1].numpy()} for i in range(2)]
            graph = nncf.quantize(
                graph,
                nncf.Dataset(samples),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(samples),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    disable_bias_correction=True
                ),
            )
        ov.save_model(graph, path, compress_to_fp16=False)

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        """Run a batch."""
        found: Vectors = self.model((ids, mask))[0].copy()
        return found


class LlamaEngine:
    """llama.cpp with weights in Q8_0, ragged batches."""

    def __init__(self, folder: Path, cache: Path, threads: int) -> None:
        """Write the folder as GGUF if needed, and load it."""
        import llama_cpp

        path = cache / "q8_0.gguf"
        if not path.is_file():
            write_gguf(folder, path)
        self.library: Any = llama_cpp
        self.silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silence, None)
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            bytes(path), llama_cpp.llama_model_default_params()
        )
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = 4096
        wanted.n_seq_max, wanted.kv_unified = 64, True
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.embeddings = True
        self.context: Any = model and llama_cpp.llama_init_from_model(model, wanted)
        if not self.context:
            raise RuntimeError("llama.cpp does not load the converted file")
        self.width = llama_cpp.llama_model_n_embd(model)
        self.settings = {"batch_tokens": 4096}

    def prepare(self, ids: Ids, split: int) -> Callable[[], Vectors]:
        """Lay out the texts in computations of at most 4096 tokens."""
        parts: list[Ids] = [[]]
        for text in ids:
            if parts[-1] and sum(map(len, parts[-1])) + len(text) > 4096:
                parts.append([])
            parts[-1].append(text)
        return lambda: np.concatenate([self._encode(part) for part in parts])

    def _encode(self, part: Ids) -> Vectors:
        llama = self.library
        tokens = np.concatenate(part).astype(np.int32)
        places = np.concatenate([np.arange(len(text), dtype=np.int32) for text in part])
        sequences = np.repeat(np.arange(len(part), dtype=np.int32), [len(text) for text in part])
        counts, outputs = np.ones(len(tokens), np.int32), np.ones(len(tokens), np.int8)
        at = (sequences.ctypes.data + 4 * np.arange(len(tokens))).astype(np.uintp)
        int32 = ctypes.POINTER(ctypes.c_int32)
        layout = llama.llama_batch(
            n_tokens=len(tokens),
            token=tokens.ctypes.data_as(int32),
            pos=places.ctypes.data_as(int32),
            n_seq_id=counts.ctypes.data_as(int32),
            seq_id=at.ctypes.data_as(ctypes.POINTER(int32)),
            logits=outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        memory = llama.llama_get_memory(self.context)
        if memory:
            llama.llama_memory_clear(memory, True)
        if code := llama.llama_decode(self.context, layout):
            raise RuntimeError(f"llama_decode returned {code}")
        vectors = np.empty((len(part), self.width), np.float32)
        for text in range(len(part)):
            found = llama.llama_get_embeddings_seq(self.context, text)
            vectors[text] = np.ctypeslib.as_array(found, (self.width,))
        return vectors


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
GGUF_NORMS = {
    "qwen3": {"post_attention_layernorm": "ffn_norm"},
    "gemma3_text": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}


def write_gguf(folder: Path, path: Path) -> None:
    """Write a folder of random_decoder.py as llama.cpp reads it, linear layers and words in Q8_0."""
    import gguf
    from gguf.quants import quantize

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    gemma = config["model_type"] == "gemma3_text"
    name = "gemma-embedding" if gemma else "qwen3"
    writer = gguf.GGUFWriter(path, name)
    writer.add_name(folder.name)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta", 1e6))
    writer.add_pooling_type(gguf.PoolingType.MEAN if gemma else gguf.PoolingType.LAST)
    writer.add_tokenizer_model("none")
    if gemma:
        writer.add_sliding_window(config["sliding_window"])
        writer.add_causal_attention(False)
    norms = GGUF_NORMS[config["model_type"]]
    for tensor, values in stored(folder):
        found = values + np.float32(gemma and values.ndim == 1)
        if tensor in ("embed_tokens.weight", "norm.weight"):
            title = "token_embd.weight" if tensor.startswith("embed") else "output_norm.weight"
        else:
            _, number, part = tensor.removesuffix(".weight").split(".", 2)
            title = f"blk.{number}.{norms.get(part) or GGUF_NAMES[part]}.weight"
        if found.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(title, quantize(found, kind), raw_dtype=kind)
        else:
            writer.add_tensor(title, found)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored(folder: Path) -> Any:
    """Yield names and tensors in float32; the environment of llama.cpp has no safetensors."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                first, last = entry["data_offsets"]
                file.seek(8 + size + first)
                bits = np.frombuffer(file.read(last - first), "<u2").astype(np.uint32) << np.uint32(
                    16
                )
                yield name, bits.view(np.float32).reshape(entry["shape"])


ENGINES: dict[str, Callable[[Path, Path, int], Any]] = {
    "quaver-int8": QuaverEngine,
    "torch-bfloat16": TorchEngine,
    "openvino-int8": partial(OpenVinoEngine, weights=False),
    "openvino-int8-weights": partial(OpenVinoEngine, weights=True),
    "llamacpp-q8_0": LlamaEngine,
}
WHOLE = "quaver-int8-whole"
OURS = "quaver-int8"
TRUTH = "torch-bfloat16"


def serve(name: str, folder: Path, cache: Path, threads: int) -> None:
    """Load an engine, then answer lines of texts with lines of seconds."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    begin = time.perf_counter()
    try:
        engine = ENGINES[name](folder, cache, threads)
    except Exception as error:  # noqa: BLE001 - whatever a library raises is why its engine is left out
        answer({"error": f"{type(error).__name__}: {error}"[:300]})
        return
    answer({"loading_seconds": round(time.perf_counter() - begin, 1), "settings": engine.settings})
    kept: dict[str, Callable[[], Vectors]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["ids"]:
                kept[asked["case"]] = engine.prepare(asked["ids"], asked["split"])
            begin = time.perf_counter()
            vectors = kept[asked["case"]]()
            found: dict[str, Any] = {"seconds": time.perf_counter() - begin}
        except Exception as error:  # noqa: BLE001 - as above
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        else:
            if asked["ids"]:
                unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
                found["vectors"] = unit.astype(float).round(6).tolist()
        answer(found)


# --- The study ------------------------------------------------------------------------------------------
class LeftOutError(RuntimeError):
    """An engine does not answer, or not in time."""


class Worker:
    """A process that runs one engine."""

    def __init__(self, name: str, folder: Path, chosen: argparse.Namespace) -> None:
        """Start it; `load` waits."""
        self.name, self.folder, self.chosen = name, folder, chosen
        self.loaded: dict[str, Any] | None = None
        self.prepared: set[str] = set()
        self.process: subprocess.Popen[str] | None = None

    def load(self) -> dict[str, Any]:
        """Start the process if there is none, and return what it says about itself."""
        if self.process is None:
            python = self.chosen.pythons.get(self.name.partition("-")[0], sys.executable)
            cache = self.chosen.cache / f"{self.folder.name}-built"
            command = [
                python,
                __file__,
                "--worker",
                self.name,
                "--threads",
                str(self.chosen.threads),
            ]
            command += ["--folder", str(self.folder), "--cache", str(cache)]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **PASSIVE},
            )
            self.prepared = set()
            self.loaded = self._answer(min(LOADING, self._left()))
        assert self.loaded is not None
        return self.loaded

    def ask(self, case: str, ids: Ids, split: int, limit: float) -> dict[str, Any]:
        """Run a case once; its texts are sent the first time."""
        self.load()
        assert self.process is not None
        assert self.process.stdin is not None
        known = case in self.prepared
        line = {"case": case, "ids": [] if known else ids, "split": split}
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        self.prepared.add(case)
        return self._answer(min(limit, self._left()))

    def _left(self) -> float:
        """Return the seconds until the end of the run, at least one."""
        return max(1.0, self.chosen.end - time.monotonic())

    def _answer(self, limit: float) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], limit)
        if not ready:
            self.stop()
            what = "a call" if self.loaded else "loading"
            raise LeftOutError(f"{what} takes longer than the limit of {limit:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            raise LeftOutError("its process ended")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            self.stop()
            raise LeftOutError(found["error"])
        return found

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            with self.process:  # waits, and closes its pipes
                self.process.kill()
        self.process = None


def macs(config: dict[str, Any]) -> int:
    """Return multiply-adds of the linear layers for a token."""
    h, d = config["hidden_size"], config["head_dim"]
    q, kv = d * config["num_attention_heads"], d * config["num_key_value_heads"]
    each: int = h * (2 * q + 2 * kv + 3 * config["intermediate_size"])
    return each * config["num_hidden_layers"]


def texts_of(case: str, vocabulary: int) -> Ids:
    """Draw the ids of a case."""
    rng = np.random.default_rng(1)
    ids = [rng.integers(5, vocabulary, n).tolist() for n in CASES[case]]
    if case == "rerank50":
        ids = [ids[0][:SHARED] + text[SHARED:] for text in ids]
    return ids


def measured(shape: str, case: str, workers: dict[str, Worker], limits: Any) -> dict[str, Any]:
    """Measure one case of one shape."""
    from quaver_bench.timing import take_turns
    from random_decoder import SHAPES

    ids = texts_of(case, SHAPES[shape]["vocab_size"])
    asked: dict[str, tuple[Worker, str, int]] = {name: (w, case, 0) for name, w in workers.items()}
    if case == "rerank50":
        asked = {}
        if OURS in workers:
            ours = workers[OURS]
            asked = {OURS: (ours, case, SHARED), WHOLE: (ours, f"{case}-whole", 0)}
    left_out: dict[str, str] = {}
    vectors: dict[str, Vectors] = {}
    settings: dict[str, Any] = {}
    for name, (worker, key, split) in list(asked.items()):
        try:
            settings[name] = worker.load()
            first = worker.ask(key, ids, split, limits.limit)
            vectors[name] = np.array(first["vectors"], np.float64)
        except LeftOutError as error:
            left_out[name] = str(error)
            del asked[name]

    def once(name: str) -> float:
        worker, key, split = asked[name]
        return float(worker.ask(key, ids, split, 4 * limits.limit)["seconds"])

    rounds: list[dict[str, float]] = []
    dropped, disturbed = 0, False
    if asked:
        own = [w.process.pid for w, _, _ in asked.values() if w.process is not None]
        turns = take_turns(
            {name: partial(once, name) for name in asked},
            seconds=min(limits.seconds, max(0.0, limits.end - time.monotonic())),
            own=own,
        )
        rounds, dropped, disturbed = turns.rounds, turns.dropped, turns.disturbed
    tokens = sum(map(len, ids))
    rows = {}
    for name in asked:
        times = [given[name] for given in rounds]
        median = statistics.median(times)
        ratios = [given[name] / given[OURS] for given in rounds] if OURS in asked else []
        rows[name] = {
            "median_ms": round(median * 1e3, 2),
            "least_ms": round(min(times) * 1e3, 2),
            "tokens_per_second": round(tokens / median),
            "gmacs_per_second": round(tokens / median * macs(SHAPES[shape]) / 1e9, 1),
            "as_long_as_quaver": round(statistics.median(ratios), 3) if ratios else None,
            **settings[name],
        }
        if TRUTH in vectors:
            close = (vectors[name] * vectors[TRUTH]).sum(axis=1)
            rows[name]["cosine"] = round(float(close.mean()), 4)
    return {
        "shape": shape,
        "case": case,
        "tokens": tokens,
        "engines": rows,
        "left_out": left_out,
        "rounds": len(rounds),
        "dropped": dropped,
        "disturbed": disturbed,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| shape | case | engine | ms | tokens/s | GMAC/s | times as long as Quaver | cosine |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        for name, found in row["engines"].items():
            lines.append(
                f"| {row['shape']} | {row['case']} | {name} | {found['median_ms']} | "
                f"{found['tokens_per_second']:,} | {found['gmacs_per_second']} | "
                f"{found['as_long_as_quaver'] or '-'} | {found.get('cosine', '-')} |"
            )
        lines += [
            f"| {row['shape']} | {row['case']} | {name} | {why.splitlines()[0]} | | | | |"
            for name, why in row["left_out"].items()
        ]
    return "\n".join(lines)


def about(run: dict[str, Any]) -> str:
    """Return the machine and the date of a run."""
    from quaver_bench.report import machine_line

    return (
        f"Random weights in the shapes of published decoders. {machine_line(run)}; "
        f"commit {run['commit'] or 'unknown'}; {run['date']}."
    )


def study(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what the record does not have yet."""
    from quaver_bench.record import describe_run
    from random_decoder import SHAPES, write_folder

    rows: list[dict[str, Any]] = []
    if chosen.out and chosen.out.is_file():
        rows = json.loads(chosen.out.read_text(encoding="utf-8"))["rows"]
    for shape in chosen.shapes.split(","):
        have = {row["case"] for row in rows if row["shape"] == shape}
        cases = [case for case in chosen.cases.split(",") if case not in have]
        if SHAPES[shape].get("use_bidirectional_attention"):  # every token sees what follows it
            cases = [case for case in cases if case != "rerank50"]
        folder = chosen.cache / shape
        if cases and not (folder / "tokenizer.json").is_file():
            write_folder(folder, shape)
        workers = {name: Worker(name, folder, chosen) for name in chosen.engines.split(",")}
        try:
            for case in cases:
                if time.monotonic() >= chosen.end:
                    print(f"{shape} {case} was not reached: --minutes are over", file=sys.stderr)
                    continue
                print(f"{shape} {case}", file=sys.stderr, flush=True)
                try:
                    rows.append(measured(shape, case, workers, chosen))
                except LeftOutError as error:  # in the middle of its turns
                    print(f"{shape} {case} was not measured: {error}", file=sys.stderr)
                    continue
                if chosen.out:
                    run = describe_run(chosen.threads, sys.argv)
                    result = {"kind": "decoders", "run": run, "rows": rows}
                    chosen.out.parent.mkdir(parents=True, exist_ok=True)
                    text = json.dumps(result, indent=1) + "\n"
                    chosen.out.write_text(text, encoding="utf-8")
                    page = f"# Decoders\n\n{about(run)}\n\n{table(rows)}\n"
                    chosen.out.with_suffix(".md").write_text(page, encoding="utf-8")
        finally:
            for worker in workers.values():
                worker.stop()
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", default="qwen3-0.6b,embeddinggemma-300m", help="with commas")
    parser.add_argument("--cases", default="1x32,1x512,8x256,ragged64,rerank50", help="with commas")
    parser.add_argument("--engines", default=",".join(ENGINES), help="with commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each case")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of a call")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for everything")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="ENGINE=PROGRAM",
        help="as llamacpp=.envs/llamacpp/bin/python",
    )
    parser.add_argument("--cache", type=Path, default=Path("build/decoders"), help="models")
    parser.add_argument("--out", type=Path, help="JSON of the rows; those that it has are kept")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        chosen.cache.mkdir(parents=True, exist_ok=True)
        serve(chosen.worker, chosen.folder, chosen.cache, chosen.threads)
        return
    chosen.pythons = dict(pair.split("=", 1) for pair in chosen.python)
    chosen.cache = chosen.cache.resolve()
    chosen.end = time.monotonic() + 60 * chosen.minutes
    rows = study(chosen)
    print(table(rows))


if __name__ == "__main__":
    main()
