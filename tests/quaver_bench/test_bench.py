"""quaver bench: timing, inputs, results, tables and the command, without torch."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from enum import Enum
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from typer.testing import CliRunner

from golden_folders import unpacked
from quaver.cli import app
from quaver.embedder import Embedder
from quaver.errors import InputError, TaskError
from quaver.models.folder import ModelFolder
from quaver.models.prompts import document_prompt, query_prompt, with_prompt
from quaver.models.tokenizer import Tokenizer
from quaver_bench import calls, clients, command, environments, start, timing
from quaver_bench.clients import run_clients
from quaver_bench.compare import changes, comparison
from quaver_bench.configuration import warnings
from quaver_bench.corpus import read_corpus
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.engines.quaver import static_folder
from quaver_bench.engines.registry import FORMS, OURS, QUICK, choose_forms
from quaver_bench.environments import measure_elsewhere, part_forms
from quaver_bench.inputs import (
    PaddedBatch,
    TextSource,
    case_lengths,
    get_case,
    pad,
    padding_share,
)
from quaver_bench.instances import share_cpus
from quaver_bench.kinds import KINDS
from quaver_bench.models import Model, open_model, random_model
from quaver_bench.plan import NOT_REACHED, not_reached, steps_of, still_missing
from quaver_bench.quality import DOCUMENT, QUERY, ndcg, prompted, read_judgments
from quaver_bench.record import describe_run
from quaver_bench.report import cpu_title, markdown, number
from quaver_bench.result import Result, Row, read_result, rounded
from quaver_bench.stage import Options, Stage
from quaver_bench.summary import short_caption, short_table, summary
from quaver_bench.timing import Timing, alternate, take_turns
from tiny_model import edit_json, write_json, write_tiny_model

RUNNER = CliRunner()
TEXTS = [f"the file and the list of a class in python {i} error" for i in range(300)]


# --- Timing ---------------------------------------------------------------------------------------
def test_a_ratio_is_the_median_over_rounds_not_the_ratio_of_medians() -> None:
    ours = ((1.0,), (2.0,), (10.0,))
    peer = ((3.0,), (4.0,), (10.0,))
    found = Timing({"ours": ours, "peer": peer}, 0, False)
    assert found.ratio("ours", "peer") == (2.0, 1.5, 2.5)
    assert found.median("ours") == 2.0
    assert found.quartiles("ours") == (1.5, 6.0)


def test_percentiles_are_over_all_calls_of_all_rounds() -> None:
    found = Timing({"ours": (tuple(range(51)), tuple(range(51, 101)))}, 0, False)
    assert [found.percentile("ours", p) for p in (50, 95, 99)] == [50, 95, 99]


def test_engines_take_turns_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.ForeignLoad, "share", lambda self: 0.0)
    order: list[str] = []
    blocks = {name: lambda name=name: order.append(name) for name in "abc"}
    turns = take_turns(blocks, seconds=0, least=2)
    assert order == [*"abc", *"abc"]
    assert (len(turns.rounds), turns.dropped, turns.disturbed) == (2, 0, False)


def test_rounds_with_foreign_load_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([0.5, 0.0, 0.2, 0.0])
    monkeypatch.setattr(timing.ForeignLoad, "share", lambda self: next(loads))
    rounds = iter(range(10))
    turns = take_turns({"a": lambda: next(rounds)}, seconds=0, least=2)
    assert turns.rounds == [{"a": 1}, {"a": 3}]
    assert (turns.dropped, turns.disturbed) == (2, False)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.001, 2), (0, 3)])
def test_rounds_longer_than_the_time_for_all_are_two(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rounds: int
) -> None:
    monkeypatch.setattr(timing.ForeignLoad, "share", lambda self: 0.0)
    turns = take_turns({"a": lambda: time.sleep(0.01)}, seconds=seconds, least=3)
    assert (len(turns.rounds), turns.disturbed) == (rounds, False)


def test_a_call_that_was_long_is_not_made_again_to_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing.ForeignLoad, "share", lambda self: 0.0)
    made = {"long": 0, "short": 0}

    def call(name: str) -> None:
        made[name] += 1

    calls = {name: [partial(call, name)] for name in made}
    took = {"long": timing.SETTLED, "short": 0.1}
    alternate(calls, seconds=0, block=0, least=1, longest=10, took=took)
    assert made == {"long": 1, "short": 4}  # two to see how long it takes, one untimed in the block


def test_where_most_rounds_are_disturbed_all_count_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing.ForeignLoad, "share", lambda self: 0.5)
    turns = take_turns({"a": lambda: None}, seconds=0, least=2)
    assert (len(turns.rounds), turns.dropped, turns.disturbed) == (4, 0, True)


def test_an_engine_whose_call_takes_too_long_is_left_out() -> None:
    found = alternate({"a": [lambda: None]}, seconds=0, block=0, least=1, longest=-1.0)
    assert not found.calls
    assert "longer than the limit" in found.left_out["a"]


def test_the_time_of_processes_that_ended_is_not_foreign() -> None:
    load = timing.ForeignLoad()
    before = load._used()
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert load._used() - before >= 0.29  # of the 0.3 s that it counts itself; ticks are finer


@pytest.mark.parametrize(("loads", "dropped"), [([0.0], 0), ([0.5, 0.0], 1)])
def test_processes_start_in_turns_and_disturbed_rounds_are_made_again(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loads: list[float],
    dropped: int,
) -> None:
    shares = iter(loads)
    monkeypatch.setattr(timing.ForeignLoad, "share", lambda self: next(shares, 0.0))
    monkeypatch.setattr(start, "PROCESSES", 3)
    seconds = {OURS: 1.0, "quaver-float32": 2.0, "torch-bf16": 5.0}
    order: list[str] = []

    def process(form: Any, setup: Any) -> start.Started:
        order.append(form.name)
        # Everything is slower from round to round, which a ratio within a round does not see.
        taken = seconds[form.name] * (1 + order.count(form.name))
        if order.count(form.name) == 1:
            taken = seconds[form.name]
        return start.Started({"first_vector_seconds": taken}, np.array([0.6, 0.8], np.float32))

    monkeypatch.setattr(start, "_process", process)
    options = plan_options([FORMS[name] for name in seconds], [], [])
    setup = calls_setup(open_model(str(tiny_folder), tmp_path))
    stage = Stage(options, setup, None, None, MagicMock(), 0, {})  # type: ignore[arg-type]
    rows = {row.engine: row for row in start.measure_start(stage)}
    engines, fast = list(seconds), [OURS, "quaver-float32"]
    assert order == [*engines, *engines * (1 + dropped), *fast * 2]
    assert {name: row.rounds for name, row in rows.items()} == dict(
        zip(engines, (3, 3, 1), strict=True)
    )
    assert rows["quaver-float32"].ratio == [2.0, 2.0, 2.0]
    assert rows["torch-bf16"].ratio is None
    assert {row.dropped for row in rows.values()} == {dropped}


# --- Inputs ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def source(tiny_folder: Path) -> TextSource:
    return TextSource(tiny_folder / "tokenizer.json", TEXTS)


@pytest.mark.parametrize("name", ["1x3", "1x8", "1x61", "4x17", "ragged9"])
def test_pieces_have_exactly_the_tokens_of_the_case(source: TextSource, name: str) -> None:
    case = get_case(name, source)
    for request in case.requests:
        assert [len(ids) for ids in request.ids] == case_lengths(name)
        assert request.texts is not None
        for text, ids in zip(request.texts, request.ids, strict=True):
            np.testing.assert_array_equal(source.tokenize([text])[0], ids)


def test_random_ids_have_no_texts_and_keep_the_special_tokens(tiny_folder: Path) -> None:
    drawn = TextSource(tiny_folder / "tokenizer.json", TEXTS, random_ids=True)
    request = drawn.request([9, 12], seed=1, batch=2)
    assert request.texts is None
    assert [len(ids) for ids in request.ids] == [9, 12]
    first, last = drawn.tokenize(["the"])[0][[0, -1]]
    assert all(ids[0] == first and ids[-1] == last for ids in request.ids)


@pytest.mark.parametrize("name", ["", "1x", "x16", "0x16", "1x2", "ragged", "ragged0", "1x16x2"])
def test_a_case_has_a_valid_name(name: str) -> None:
    with pytest.raises(InputError, match="a case is TEXTSxTOKENS"):
        case_lengths(name)


def test_padding_sorts_by_length_and_keeps_every_token() -> None:
    texts = [np.arange(1, n + 1) for n in (3, 9, 1, 9, 4)]
    batches = pad(texts, 2)
    assert [batch.ids.shape for batch in batches] == [(2, 9), (2, 4), (1, 1)]
    for batch in batches:
        for ids, mask, row in zip(batch.ids, batch.mask, batch.rows, strict=True):
            np.testing.assert_array_equal(ids[mask == 1], texts[row])
    assert padding_share(batches) == pytest.approx(1 - 26 / 27)
    apart = pad(texts, 2, by_length=False)
    assert [list(batch.rows) for batch in apart] == [
        list(range(first, min(first + 2, len(texts)))) for first in range(0, len(texts), 2)
    ]
    assert padding_share(apart) > padding_share(batches)


def test_a_padded_engine_gives_rows_in_the_order_of_the_texts(tiny_folder: Path) -> None:
    class Counting(PaddedEngine):
        def compute(self, inputs: PaddedBatch) -> Any:
            return np.repeat(inputs.mask.sum(1, keepdims=True), 2, axis=1).astype(np.float32)

    model = open_model(str(tiny_folder), tiny_folder)
    engine = Counting(calls_setup(model))
    texts = [" ".join(["the"] * n) for n in (5, 1, 40, 2)] * 20
    assert engine.encode(texts)[:4, 0].tolist() == [7, 3, 42, 4]


def lowercase_that_is_off(place: Path) -> Path:
    folder = write_tiny_model(place / "tiny")
    edit_json(
        folder / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=False
    )
    return folder


def end_token_that_only_one_file_names(place: Path) -> Path:
    """As e5-mistral has it."""
    folder = unpacked("e5-mistral", place)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["post_processor"]["single"].pop()
    write_json(path, tokenizer)
    edit_json(folder / "tokenizer_config.json", add_eos_token=True, eos_token="</s>")
    return folder


@pytest.mark.parametrize("made", [lowercase_that_is_off, end_token_that_only_one_file_names])
def test_other_engines_read_the_ids_of_quaver(made: Any, tmp_path: Path) -> None:
    folder = made(tmp_path)
    model = Model("model", ModelFolder.open(folder), "random", "", tmp_path / "cache")
    texts = ["The Class of a FILE", "text and data"]
    tokens = Embedder.from_pretrained(folder).tokenizer.encode(texts)
    ids = [ids.tolist() for ids in np.split(tokens.ids, tokens.offsets[1:-1])]
    assert [found.tolist() for found in PaddedEngine(calls_setup(model)).tokenize(texts)] == ids
    plain = Backend.from_file(str(folder / "tokenizer.json"))
    assert [encoding.ids for encoding in plain.encode_batch(texts)] != ids


def calls_setup(model: Any) -> Any:
    from quaver_bench.engines import Setup

    return Setup(model, 1, 64, ())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"txt": 1}', 'line 1: must be a JSON object with a "text"'),
        ("a.jsonl", "[]", "line 1"),
        ("a.txt", "\n \n", "must have text"),
        ("missing.txt", None, "must be UTF-8 text"),
    ],
)
def test_a_bad_corpus_is_told(
    tmp_path: Path, tiny_folder: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_corpus(tmp_path / name, tokenizer_of(tiny_folder), 10)


def tokenizer_of(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder, max_length=64)


def test_a_corpus_gives_each_text_once(tmp_path: Path, tiny_folder: Path) -> None:
    lines = [{"title": "A", "text": "b"}, {"text": "c"}, {"text": "c"}, {"text": "d"}]
    path = tmp_path / "set" / "corpus.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    corpus = read_corpus(path, tokenizer_of(tiny_folder), 2)
    assert corpus.texts == ("A b", "c")
    assert corpus.name == "set"
    assert read_corpus(None, tokenizer_of(tiny_folder), 5).texts


# --- Models and quality ---------------------------------------------------------------------------
def test_a_shape_with_random_weights_opens_like_any_model(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quaver_bench import models

    small = replace(models.SHAPES["small"], hidden=64, layers=2, heads=2)
    monkeypatch.setitem(models.SHAPES, "small", small)
    model = random_model("small", open_model(str(tiny_folder), tmp_path))
    assert (model.weights, model.pooling) == ("random", "cls")
    vectors = Embedder.from_pretrained(model.folder.path).encode(["the file", "a list"])
    assert vectors.shape == (2, 64)
    with pytest.raises(InputError, match="must be one of small, base, large"):
        random_model("tiny", model)


CALIBRATED = ([np.arange(1, 9)], TEXTS[:8]), ([np.arange(1, 10)], TEXTS[8:16])


def test_a_model_calibrated_with_other_texts_is_another(tiny_folder: Path, tmp_path: Path) -> None:
    model = open_model(str(tiny_folder), tmp_path)
    made = set()
    for ids, texts in CALIBRATED:
        setup = replace(calls_setup(model), calibration=ids, calibration_texts=texts)
        path = static_folder(setup)
        assert path.is_dir()
        assert static_folder(replace(setup, threads=2)) == path
        # A process of `start` has the name in place of the texts.
        without = replace(setup, calibration=(), calibration_texts=())
        assert static_folder(replace(without, calibrated=setup.calibration_name)) == path
        made.add(path)
    assert len(made) == 2


@pytest.mark.parametrize(
    ("engine", "make"), [("openvino", "int8_graph"), ("onnxruntime", "static_graph")]
)
def test_graphs_calibrated_with_other_texts_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, make: str
) -> None:
    """The engines themselves need not be here: what was made before is only looked for."""
    for name in ("nncf", "openvino", "onnxruntime", "onnxruntime.quantization"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    shapes = "onnxruntime.quantization.shape_inference"
    monkeypatch.setitem(sys.modules, shapes, MagicMock())
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")

    class Made:
        def built(self, name: str, suffix: str) -> Path:
            path = tmp_path / f"{name}{suffix}"
            path.touch()
            return path

    function = getattr(import_module(f"quaver_bench.engines.{engine}"), make)
    setups = [replace(calls_setup(Made()), calibration=ids) for ids, _ in CALIBRATED]
    assert len({function(setup) for setup in setups}) == 2
    assert function(setups[0]) == function(replace(setups[0], threads=2))


@pytest.mark.parametrize(
    ("flags", "unsigned"),
    [
        (["avx2"], True),
        (["avx2", "avx512f"], True),
        (["avx2", "avx_vnni"], False),
        (["avx2", "avx512f", "avx512_vnni"], False),
        ([], False),  # Arm
    ],
)
@pytest.mark.parametrize("make", ["dynamic", "static"])
def test_onnxruntime_gets_unsigned_weights_where_products_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str, flags: list[str], unsigned: bool
) -> None:
    """ONNX Runtime itself need not be here."""
    quantization, shapes = MagicMock(), MagicMock()
    monkeypatch.setitem(sys.modules, "onnxruntime", MagicMock())
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", quantization)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization.shape_inference", shapes)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    monkeypatch.setattr("quaver_bench.engines.cpu_flags", lambda: flags)
    module = import_module("quaver_bench.engines.onnxruntime")
    monkeypatch.setattr(module, "plain_graph", lambda setup: tmp_path / "plain.onnx")
    given: dict[str, Any] = {}

    def quantized(source: Path, target: Path, *rest: object, **options: Any) -> None:
        given.update(options)
        target.touch()

    shapes.quant_pre_process = quantized
    quantization.QuantType = Enum("QuantType", ["QInt8", "QUInt8"])
    quantization.quantize_dynamic = quantization.quantize_static = quantized

    class Made:
        def built(self, name: str, suffix: str) -> Path:
            return tmp_path / f"{name}{suffix}"

    path = getattr(module, f"{make}_graph")(calls_setup(Made()))
    assert path.is_file()
    kind = "QUInt8" if unsigned else "QInt8"
    assert given["weight_type"].name == kind
    # A file that another machine made must not be taken for this one's.
    assert path.stem.endswith(f"-{kind}")


def judged_folder(path: Path, *, lines: str = "q\td1\t2\nq\td3\t1\nq\td0\t0") -> Path:
    documents = [{"_id": f"d{i}", "text": f"text {i}"} for i in range(4)]
    (path / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", [{"_id": "q", "text": "query"}])):
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, texts)))
    (path / "qrels" / "dev.tsv").write_text(f"query\tdoc\tscore\n{lines}")
    (path / "task.json").write_text('{"kind": "retrieval"}')
    return path


class Ranking:
    """Knows a number for each text, so that the order of documents is known."""

    settings: dict[str, Any] = {}  # noqa: RUF012

    def encode(self, texts: Any) -> Any:
        known = {"query": 1.0, "text 0": 4.0, "text 1": 3.0, "text 2": 2.0, "text 3": 1.0}
        return np.array([[known[text.removeprefix("q: ")]] for text in texts], np.float32)


def test_ndcg_is_what_the_formula_says(tmp_path: Path) -> None:
    """A folder as `quaver evaluate` takes it, judgments under any name."""
    (judged,) = read_judgments(judged_folder(tmp_path / "set"))
    gained = 2 / np.log2(3) + 1 / np.log2(5)
    best = 2 / np.log2(2) + 1 / np.log2(3)
    for prompts in ({}, {"query": "q: "}):
        found = ndcg(Ranking(), [judged, judged], prompts)  # type: ignore[arg-type]
        assert found == pytest.approx(gained / best)
    assert [task.name for task in read_judgments(tmp_path)] == ["set"]
    with pytest.raises(TaskError, match=r"a task is a folder with corpus\.jsonl"):
        read_judgments(tmp_path / "set" / "qrels")


@pytest.mark.parametrize(
    "prompts",
    [{}, {"query": "q: "}, {"passage": "p: "}, {"passage": "p: ", "document": "", "query": "q: "}],
)
def test_texts_get_the_prompts_of_an_embedder(prompts: dict[str, str]) -> None:
    texts = ["one", "q: two", "p: three"]
    for names, prompt in ((QUERY, query_prompt(prompts)), (DOCUMENT, document_prompt(prompts))):
        assert prompted(texts, prompts, names) == [with_prompt(prompt, text) for text in texts]


def test_a_reranking_task_alone_has_no_ndcg(tmp_path: Path) -> None:
    folder = judged_folder(tmp_path)
    (folder / "task.json").write_text('{"kind": "reranking"}')
    with pytest.raises(InputError, match="must be of a retrieval task"):
        read_judgments(folder)


def test_clients_send_one_query_after_another() -> None:
    class Slow:
        settings: dict[str, Any] = {}  # noqa: RUF012
        active = most = 0

        def encode(self, texts: Any) -> Any:
            self.active += 1
            self.most = max(self.most, self.active)
            time.sleep(0.01)
            self.active -= 1
            return np.zeros((1, 2), np.float32)

    engine = Slow()
    block = run_clients(engine, ["a", "b"], 3, 0.2)  # type: ignore[arg-type]
    assert engine.most == 3
    assert block.queries_per_second > 0
    assert min(block.seconds) >= 0.01


def test_an_error_of_a_client_reaches_the_caller() -> None:
    class Broken:
        def encode(self, texts: Any) -> Any:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_clients(Broken(), ["a"], 2, 0.1)  # type: ignore[arg-type]


# --- Results, tables, comparison ------------------------------------------------------------------
RUN = {
    "cpu": "A CPU",
    "cpu_flags": ["avx2"],
    "quaver_isa": "avx2",
    "threads": 2,
    "affinity": [0, 1],
    "settings": {
        "governor": "unknown",
        "allocator": "malloc of libc",
        "transparent_huge_pages": "madvise",
    },
    "environment": {},
    "versions": {"quaver": "0.1.0"},
    "commit": "abc",
    "command": "quaver bench x",
    "python": "3.11",
    "date": "2026-01-01 00:00 UTC",
}


def latency(engine: str, p50: float, ratio: float | None = None, case: str = "1x16") -> Row:
    values = {"median_ms": p50, "p50_ms": p50, "p95_ms": 2 * p50, "p99_ms": 3 * p50}
    values |= {"texts_per_second": 1000 / p50, "tokens_per_second": 16000 / p50}
    ratios = None if ratio is None else [ratio, ratio - 0.25, ratio + 0.25]
    return Row("latency", "mini", case, engine, 0, values, ratios, 0.99, 0.0, 5)


def stored() -> Result:
    rows = [
        latency("torch-bf16", 9.0, 4.5),
        latency(OURS, 2.0),
        latency("openvino-int8", 5.0, 2.5),
        latency("torch-float32", 8.0, 4.0),
    ]
    models = {"mini": {"describe": "384 x 6, real weights", "weights": "real", "pooling": "mean"}}
    quality = {"mini": {OURS: {"ndcg10": 0.5, "difference": -0.002}}}
    return Result([dict(RUN)], models, {"fastembed": "not installed; pip"}, quality, rows)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = stored()
    result.write(tmp_path / "new" / "results.json")
    assert read_result(tmp_path / "new") == result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be JSON"),
        ("[]", "must be written by quaver bench"),
        ('{"kind": "quaver bench", "format": 0}', "must have format 1"),
        ('{"kind": "quaver bench", "format": 1}', "broken"),
        ('{"kind": "quaver bench", "format": 1, "rows": [{"nonsense": 1}]}', "broken"),
    ],
)
def test_a_broken_result_is_told(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_result(tmp_path)


GONE = object()


def damage(content: Any, where: str, value: object) -> None:
    *path, last = (int(key) if key.isdigit() else key for key in where.split("."))
    for key in path:
        content = content[key]
    if value is GONE:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("models", [], "the result, models: expected object: got []"),
        ("models.mini", "x", "model mini: expected object: got 'x'"),
        ("models.mini.describe", GONE, "model mini: object missing required field describe"),
        ("models", {}, "row 0: its model is not among the models: 'mini'"),
        ("missing.fastembed", 1, "missing fastembed: expected str: got 1"),
        (
            "quality.mini.quaver-int8.ndcg10",
            GONE,
            "quality of mini, quaver-int8: object missing required field ndcg10",
        ),
        ("runs.0", [], "run 0: expected object: got []"),
        ("runs.0.settings", GONE, "run 0: object missing required field settings"),
        (
            "runs.0.settings.governor",
            GONE,
            "run 0, settings: object missing required field governor",
        ),
        ("runs.0.threads", 0, "run 0, threads: expected int >= 1: got 0"),
        ("runs.0.affinity", ["x"], "run 0, affinity, 0: expected int: got 'x'"),
        ("rows", {}, "the result, rows: expected array: got {}"),
        ("rows.0", 1, "row 0: expected object: got 1"),
        ("rows.1.run", 7, "row 1: its run is not among the runs: 7"),
        ("rows.1.run", -1, "row 1, run: expected int >= 0: got -1"),
        ("rows.1.part", "nonsense", "row 1, part: invalid enum value 'nonsense'"),
        ("rows.1.part", ["latency"], "row 1, part: expected str: got ['latency']"),
        ("rows.1.case", "1x", "a case is TEXTSxTOKENS"),
        ("rows.1.engine", 3, "row 1, engine: expected str: got 3"),
        ("rows.1.values", [], "row 1, values: expected object: got []"),
        ("rows.1.values.p50_ms", GONE, "row 1, values: object missing required field p50_ms"),
        ("rows.1.values.p50_ms", 0, "row 1, values, p50_ms: expected float > 0.0: got 0"),
        (
            "rows.1.values.p50_ms",
            float("nan"),
            "row 1, values, p50_ms: expected float > 0.0: got nan",
        ),
        ("rows.1.values.other", "x", "row 1, values, other: expected float: got 'x'"),
        ("rows.1.values.other", 10**400, "row 1, values, other: number out of range: got 1000"),
        ("rows.0.ratio", [1.0], "row 0, ratio: expected array of length >= 3: got [1.0]"),
        ("rows.0.ratio", [0, 0, 0], "row 0, ratio, 0: expected float > 0.0: got 0"),
        ("rows.0.cosine", "x", "row 0, cosine: expected float | null: got 'x'"),
        ("rows.0.settings", [], "row 0, settings: expected object: got []"),
        ("rows.0.settings", None, "row 0, settings: expected object: got None"),
        ("rows.0.rounds", None, "row 0, rounds: expected int: got None"),
        ("rows.0.nonsense", 1, "row 0: object contains unknown field nonsense"),
    ],
)
def test_a_damaged_result_is_one_line(
    tmp_path: Path, where: str, value: object, message: str
) -> None:
    file = tmp_path / "results.json"
    stored().write(file)
    assert bench("--report", file).exit_code == 0
    content = json.loads(file.read_text(encoding="utf-8"))
    damage(content, where, value)
    file.write_text(json.dumps(content), encoding="utf-8")
    for arguments in (["--report", file], ["--compare", file, file]):
        done = bench(*arguments)
        assert done.exit_code == 2, done.output
        assert f"results are broken: {file}" in done.output
        assert message in " ".join(done.output.split())
        assert "Traceback" not in done.output


@pytest.mark.parametrize("place", ["amd-epyc-zen3-2cores", "amd-epyc-zen4-2cores"])
def test_results_written_before_are_read(place: str) -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "results" / place
    assert read_result(folder).rows


def test_merging_replaces_what_was_measured_again_and_forgets_unused_runs() -> None:
    result, later = stored(), stored()
    later.runs[0]["commit"] = "def"
    later.rows = [latency(OURS, 1.0)]
    result.merge(later)
    assert [row.run for row in result.rows if row.engine == OURS] == [1]
    assert len(result.rows) == 4
    assert {row.engine: row.values["p50_ms"] for row in result.rows}[OURS] == 1.0
    result.add(replace(row, run=1) for row in list(result.rows))
    result.drop_unused()
    assert [run["commit"] for run in result.runs] == ["def"]
    assert {row.run for row in result.rows} == {0}


def test_the_report_holds_the_numbers_of_the_rows() -> None:
    text = markdown(stored())
    assert "| 1x16 | quaver-int8 | 2.00 | 4.00 | 6.00 | 0.99000 | 0.0020 | - | 5 (0) |" in text
    assert (
        "| 1x16 | openvino-int8 | 5.00 | 10.0 | 15.0 | 0.99000 | - | **2.50** (2.25 to 2.75) |"
        in text
    )
    assert "- fastembed: not installed; pip" in text
    assert "### Quality: ranking of judged texts" in text
    assert "| quaver-int8 | 0.5000 | -0.0020 |" in text
    assert "2 threads on CPUs 0, 1" in text
    assert "`quaver bench x`" in text


def test_the_share_of_the_peak_is_beside_our_rows(tmp_path: Path) -> None:
    result = many_cases()
    for found in result.rows:
        found.values["gmacs_per_second"] = 90.0
        found.settings |= {"isa": "avx2", "threads": 2}
    result.write(tmp_path / "results.json")
    peaks = {"kernels": [{"isa": "avx2", "peak_gmacs": 60.0}]}
    (tmp_path / "kernels.json").write_text(json.dumps(peaks))
    done = bench("--report", tmp_path)
    assert done.exit_code == 0, done.output
    assert "| GMAC/s | of peak |" in done.output
    assert done.output.count("| 90.0 | 75 % |") == 2
    assert "of peak" not in markdown(result)
    (tmp_path / "kernels.json").write_text('{"kernels": [1]}')
    done = bench("--report", tmp_path)
    assert done.exit_code == 2
    assert "must be written by make bench-kernels" in " ".join(done.output.split())


def test_the_summary_shows_the_fastest_form_and_a_dash_for_what_was_not_measured() -> None:
    result = stored()
    result.rows += [latency(OURS, 7.0, case="1x512"), latency("openvino-int8", 14.0, 2.0, "1x512")]
    heading, _, titles, _, *lines = summary(result).splitlines()
    assert heading == "### mini (384 x 6, real weights)"
    assert titles == (
        "| texts x tokens | quaver-int8 | openvino-int8 | openvino, fastest form | torch, fastest form |"
    )
    assert lines == [
        "| 1 x 16 | 2.00 (0.9900) | 5.00 (0.9900) **2.50** | 5.00 (int8, 0.9900) **2.50** | "
        "8.00 (float32, 0.9900) **4.00** |",
        "| 1 x 512 | 7.00 (0.9900) | 14.0 (0.9900) **2.00** | 14.0 (int8, 0.9900) **2.00** | - |",
    ]
    result = stored()
    result.rows += [latency("ipex-int8", 9.0, 1.5), latency("zentorch-int8", 1.0, 3.0)]
    assert summary(result).splitlines()[4].endswith("| 9.00 (ipex-int8, 0.9900) **1.50** |")


def test_a_row_of_the_short_table_is_one_form_with_the_cosine_of_that_form() -> None:
    def batch(engine: str, milliseconds: float, ratio: float | None, cosine: float) -> Row:
        return replace(
            latency(engine, milliseconds, ratio, "ragged256"), part="throughput", cosine=cosine
        )

    result = stored()
    result.runs = [{"cpu": "AMD EPYC", "cpu_model": "family 26 model 2", "threads": 2}]
    result.rows = [
        latency(OURS, 2.0),
        latency("torch-float32", 6.0, 3.0),
        latency("torch-bf16", 8.0, 4.0),
        latency("openvino-int8", 5.0, 2.5),
        latency("sentence-transformers", 3.0, 1.5),
        batch(OURS, 10.0, None, 0.9992),
        batch("torch-float32", 90.0, 9.0, 1.0),
        batch("torch-bf16", 50.0, 5.1, 0.995),
        batch("openvino-int8", 40.0, 4.0, 0.98),
        batch("openvino-int8-tuned", 20.0, 2.0, 0.98),
        batch("sentence-transformers", 12.0, 1.2, 1.0),
    ]
    head, _, *lines = short_table(result).splitlines()
    assert head == "| mini | 1 x 16, ms | 256 x 8 to 512, ms | cosine to float32 |"
    assert lines == [
        "| **Quaver int8** | **2.00** | **10.0** | 0.9992 |",
        "| OpenVINO int8 | 5.00 (2.5x) | 20.0 (2.0x) | 0.9800 |",
        "| PyTorch bf16 | 8.00 (4.0x) | 50.0 (5.1x) | 0.9950 |",
    ]
    caption = short_caption(result)
    assert "OpenVINO's batches are tuned for throughput" in caption
    assert caption.endswith("AMD EPYC (Zen 5), 2 threads.")
    result.rows = [row for row in result.rows if not row.engine.endswith("-tuned")]
    assert "tuned" not in short_caption(result)


@pytest.mark.parametrize(
    ("cpu", "model", "title"),
    [
        ("AMD EPYC", "family 25 model 1", "AMD EPYC (Zen 3)"),
        ("AMD EPYC", "family 25 model 17", "AMD EPYC (Zen 4)"),
        ("AMD EPYC", "family 26 model 2", "AMD EPYC (Zen 5)"),
        ("AMD EPYC", "family 26 model 80", "AMD EPYC, family 26 model 80"),
        ("Intel Xeon", "family 26 model 2", "Intel Xeon, family 26 model 2"),
        ("Neoverse", "", "Neoverse"),
    ],
)
def test_a_cpu_is_named_by_its_generation(cpu: str, model: str, title: str) -> None:
    assert cpu_title({"cpu": cpu, "cpu_model": model}) == title


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "-"), (0.1234, "0.12"), (12.34, "12.3"), (1234.5, "1,234")),
        *((0.0, "0.00"), (0.0123, "0.012"), (0.00045, "0.00045")),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_small_figures_keep_their_digits() -> None:
    """A text that takes minutes: 0.00 texts a second would say nothing."""
    found = Timing({"a": ((250.0,),)}, 0, False)
    values = calls.call_values(found, "a", texts=1, tokens=3)
    assert (values["texts_per_second"], values["tokens_per_second"]) == (0.004, 0.012)
    assert rounded(0.0000123456) == 0.000012346
    assert rounded(123456.7) == 123460.0


def test_a_comparison_says_what_changed_and_what_is_only_in_one() -> None:
    before, after = stored(), stored()
    after.rows = [
        latency(OURS, 1.0),
        latency("openvino-int8", 5.0, 5.0),
        latency(OURS, 9, None, "1x8"),
    ]
    found = {change.after.engine: change for change in changes(before, after)}
    assert found[OURS].speedup == 2.0
    assert found["openvino-int8"].speedup == 1.0
    assert found["openvino-int8"].lead == 2.0
    text = comparison(before, after)
    assert "| mini | latency | 1x16 | quaver-int8 | p50 ms | 2.00 | 1.00 | 2.00 | - |" in text
    assert "2 rows only before: torch-bf16, torch-float32" in text
    assert "1 rows only after: quaver-int8" in text
    assert "no row in common" in comparison(before, Result([dict(RUN)]))


def test_a_change_within_the_quartiles_is_noise() -> None:
    def timed(middle: float, low: float, high: float) -> Row:
        found = latency(OURS, middle)
        found.values |= {"quartile1_ms": low, "quartile3_ms": high}
        return found

    before, after = stored(), stored()
    before.rows = [timed(2.0, 1.9, 2.1), latency("torch-bf16", 9.0, 4.5)]
    before.rows += [latency("openvino-int8", 5.0, 2.5), latency("torch-float32", 8.0, 4.0)]
    after.rows = [timed(1.0, 0.95, 1.05), latency("torch-bf16", 9.0, 4.7)]
    after.rows += [
        replace(latency("openvino-int8", 5.0, 5.0), cosine=0.98),
        latency("torch-float32", 8.0, 3.0),
    ]
    found = {change.after.engine: change.verdict for change in changes(before, after)}
    assert found == {
        OURS: "faster",
        "torch-bf16": "noise",
        "openvino-int8": "more",
        "torch-float32": "less",
    }
    text = comparison(before, after)
    assert "| 5.00 | 5.00 | 1.00 | 2.00 | 10 % | more | 0.9900 to 0.9800 |" in text
    assert "| 2.00 | 1.00 | 2.00 | - | 5 % | faster | 0.9900 |" in text
    before.rows[0].ratio = None
    del before.rows[0].values["quartile1_ms"]
    assert changes(before, after)[0].verdict == "-"


def many_cases() -> Result:
    result = stored()
    result.rows = [latency(OURS, 2.0 * n, None, f"1x{n}") for n in (8, 16)]
    result.rows += [latency("openvino-int8", 5.0 * n, 2.5, f"1x{n}") for n in (8, 16)]
    for n in (4, 8):
        result.rows += [replace(latency(OURS, 2.0 * n, None, f"{n}x256"), part="throughput")]
    return result


def test_plots_are_drawn_from_a_stored_result_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from quaver_bench.plots import write_plots

    first = write_plots(many_cases(), tmp_path)
    assert {path.name for path in first} == {
        f"{name}.{suffix}"
        for name in ("latency", "throughput", "quality")
        for suffix in ("png", "svg")
    }
    drawing = (tmp_path / "latency.svg").read_text(encoding="utf-8")
    assert "NDCG@10" not in (tmp_path / "quality.svg").read_text(encoding="utf-8")
    for said in ("openvino-int8", "milliseconds", "length of the text, tokens", "A CPU", "512 x"):
        assert (said in drawing) == (said != "512 x")
    write_plots(many_cases(), tmp_path)
    assert (tmp_path / "latency.svg").read_text(encoding="utf-8") == drawing


def test_engines_of_another_environment_are_drawn_by_their_ratio() -> None:
    """Quaver took 2 ms here; there, where everything took longer, IPEX took three times as long."""
    from quaver_bench.plots import _matched

    there = latency("ipex-int8", 9.0, 3.0)
    there.settings["environment"] = "ipex"
    rows = [latency(OURS, 2.0), latency("openvino-int8", 5.0, 2.0), there]
    assert list(_matched(rows, "p50_ms").values()) == [2.0, 5.0, 6.0]
    speeds = list(_matched(rows, "texts_per_second").values())
    assert speeds == pytest.approx([500, 200, 500 / 3])


def test_judged_texts_get_a_panel_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from quaver_bench.plots import write_plots

    result = many_cases()
    later = stored()
    result.models["mini"]["judged"] = "set-of-questions"
    result.merge(Result(later.runs, later.models))  # a later run without judgments
    result.rate()
    write_plots(result, tmp_path)
    drawing = (tmp_path / "quality.svg").read_text(encoding="utf-8")
    assert "NDCG@10 lost, points of 100" in drawing
    assert "on set-of-questions (left is better)" in drawing
    assert drawing.count(">quaver-int8<") == 1, "a name at the height of its dots, and no legend"


def test_nothing_is_drawn_of_what_was_not_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from quaver_bench.plots import write_plots

    assert write_plots(stored(), tmp_path) == []


# --- Other environments ---------------------------------------------------------------------------
def test_forms_run_where_their_packages_are(tmp_path: Path) -> None:
    there = replace(FORMS["ipex-int8"], packages=("no_such_package",))
    nowhere = replace(there, name="other", environment="peers", install="pip install other")
    python = tmp_path / "ipex" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    found = part_forms([FORMS[OURS], there, nowhere], tmp_path)
    assert found == (
        [FORMS[OURS]],
        {"ipex": [there]},
        {"other": "no_such_package not installed; pip install other"},
    )


def test_another_environment_measures_and_its_rows_come_back(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    """The environment is this one under another name: Quaver's own rows are not taken twice."""
    python = tmp_path / "ipex" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    given = quick_options(tiny_folder, corpus_file, tmp_path / "unused")[:1]
    options = [
        *map(str, given),
        "--corpus",
        str(corpus_file),
        "--cases",
        "1x8",
        "--parts",
        "latency",
    ]
    options += ["--seconds", "0", "--rounds", "1", "--cache-folder", str(tmp_path / "cache")]
    kept: list[Result] = []
    static = FORMS["quaver-int8-static"]
    measure_elsewhere(tmp_path, "ipex", [static], options, Result(), kept.append)
    assert [row.engine for row in kept[0].rows] == ["quaver-int8-static"]
    assert kept[0].rows[0].settings["environment"] == "ipex"
    measure_elsewhere(tmp_path, "ipex", [static], options, kept[0], kept.append)
    assert kept[1].rows[0].values != kept[0].rows[0].values  # Quaver's own rows were not there
    failing = ["no-such-model/x/y"]
    measure_elsewhere(tmp_path, "ipex", [FORMS["ipex-int8"]], failing, Result(), kept.append)
    assert "ended with 1" in kept[2].missing["ipex-int8"]


_STUDY = """
import signal, sys, time
from pathlib import Path

here, polite = Path(sys.argv[1]), {polite}
results = Path(sys.argv[sys.argv.index("--out") + 1]) / "results.json"
results.write_text((here / "first.json").read_text())
if not polite:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    (here / "ready").touch()
    time.sleep(40)
    results.write_text("never told, never ended")
except KeyboardInterrupt:
    results.write_text((here / "last.json").read_text())
    sys.exit(130)
"""


@pytest.mark.parametrize("polite", [True, False])
def test_ctrl_c_ends_another_environment_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, polite: bool
) -> None:
    """The signal reaches this process alone, as `kill` and a supervisor send it."""
    monkeypatch.setattr(environments, "_PATIENCE", 30.0 if polite else 0.2)
    for name, p50 in (("first", 9.0), ("last", 7.0)):
        result = stored()
        result.rows = [latency("ipex-int8", p50), latency(OURS, 2.0)]
        result.write(tmp_path / f"{name}.json")
    study = tmp_path / "study.py"
    study.write_text(_STUDY.format(polite=polite), encoding="utf-8")
    python = tmp_path / "ipex" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {study} {tmp_path} "$@"\n')
    python.chmod(0o755)

    def interrupt() -> None:
        for _ in range(300):
            time.sleep(0.1)
            if (tmp_path / "ready").exists():
                break
        os.kill(os.getpid(), signal.SIGINT)

    # Where the tests run in the background of a shell, the signal is ignored unless one asks for it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    sender = threading.Thread(target=interrupt)
    kept: list[Result] = []
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            measure_elsewhere(tmp_path, "ipex", [FORMS["ipex-int8"]], [], Result(), kept.append)
    finally:
        sender.join()
        signal.signal(signal.SIGINT, handler)
    (row,) = kept[0].rows
    assert (row.engine, row.values["p50_ms"]) == ("ipex-int8", 7.0 if polite else 9.0)
    assert "ipex-int8" not in kept[0].missing


def test_another_environment_that_takes_too_long_is_stopped_and_its_rows_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, engine in (("first", OURS), ("last", "ipex-int8")):
        result = stored()
        result.rows = [latency(engine, 7.0)]
        result.write(tmp_path / f"{name}.json")
    study = tmp_path / "study.py"
    study.write_text(_STUDY.format(polite=True), encoding="utf-8")
    python = tmp_path / "ipex" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {study} {tmp_path} "$@"\n')
    python.chmod(0o755)
    kept: list[Result] = []
    forms = [FORMS["ipex-int8"], FORMS["ipex-bf16"]]
    measure_elsewhere(tmp_path, "ipex", forms, [], Result(), kept.append, limit=1.0)
    assert [row.engine for row in kept[0].rows] == ["ipex-int8"]
    kept[0].drop_unused()
    assert kept[0].missing == {"ipex-bf16": "quaver bench in ipex was stopped after 0 minutes"}
    assert "was stopped after 0 minutes: ipex-int8,ipex-bf16" in capsys.readouterr().err


# --- The command ----------------------------------------------------------------------------------
def bench(*arguments: object) -> Any:
    return RUNNER.invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets variables for libraries, which the next test shall not see; short blocks."""
    monkeypatch.setattr(clients, "CLIENTS_BLOCK", 0.05)
    monkeypatch.setattr(start, "PROCESSES", 1)
    for name in (
        "OMP_NUM_THREADS",
        "RAYON_NUM_THREADS",
        "TOKENIZERS_PARALLELISM",
        "HF_HUB_OFFLINE",
    ):
        monkeypatch.setenv(name, os.environ.get(name, "1"))


def quick_options(tiny_folder: Path, corpus_file: Path, out: Path) -> list[object]:
    return [
        *(tiny_folder, "--against", "quaver", "--corpus", corpus_file, "--count", 40),
        *("--cases", "1x8,4x16,8x20", "--clients", "1,2", "--seconds", 0, "--rounds", 1),
        *("--out", out, "--cache-folder", out.parent / "cache", "--name", "tiny"),
        *("--environments", out.parent),
    ]


def test_the_command_measures_every_part(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = bench(*quick_options(tiny_folder, corpus_file, out))
    assert done.exit_code == 0, done.output
    result = read_result(out)
    assert result.missing == {}
    cases = (
        *(("latency", "1x8"), ("throughput", "4x16"), ("throughput", "8x20")),
        *(("text", "texts.txt, 40 texts"), ("concurrency", "1 client")),
        *(("concurrency", "2 clients"), ("start", "start")),
    )
    assert {row.key for row in result.rows} == {
        (part, "tiny", case, engine)
        for part, case in cases
        for engine in ("quaver-int8", "quaver-int8-static", "quaver-float32")
    }
    by_engine = {row.engine: row for row in result.rows if row.case == "4x16"}
    assert by_engine["quaver-float32"].cosine == pytest.approx(1.0, abs=1e-5)
    assert by_engine[OURS].ratio is None
    assert by_engine["quaver-float32"].ratio is not None
    assert all(row.padding == 0.0 for row in by_engine.values())
    assert all(row.cosine is not None for row in result.rows)
    assert result.runs[0]["threads"] >= 1
    assert "### Latency" in done.output
    assert "### Start" in (out / "results.md").read_text(encoding="utf-8")


def own_options(tiny_folder: Path, corpus_file: Path) -> list[object]:
    return [
        *(tiny_folder, "--corpus", corpus_file, "--count", 40, "--name", "tiny"),
        *("--cases", "1x8,4x16", "--clients", "2", "--seconds", 0, "--rounds", 1),
        *("--cache-folder", corpus_file.parent / "cache"),
    ]


def test_without_other_engines_a_short_table_is_printed_and_nothing_is_written(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = bench(*own_options(tiny_folder, corpus_file))
    assert done.exit_code == 0, done.output
    head, first, second = done.stdout.splitlines()[2:5]
    assert head.split("  ")[0] == "texts x tokens"
    assert first.split()[:3] == ["1", "x", "8"]
    assert second.split()[:3] == ["4", "x", "16"]
    assert {path.name for path in tmp_path.iterdir()} <= {corpus_file.name, "cache"}
    assert "LD_PRELOAD" not in done.stderr
    assert "quaver-int8" not in done.stderr, "no line for each row"
    assert "--against all" in done.stderr


def test_this_model_alone_is_written_where_a_folder_is_given(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    task, out = judged_folder(tmp_path / "set"), tmp_path / "out"
    options = [*own_options(tiny_folder, corpus_file), "--out", out]
    parts = "latency,throughput,text,concurrency,start"
    done = bench(*options, "--parts", parts, "--judgments", task)
    assert done.exit_code == 0, done.output
    result = read_result(out)
    assert {row.engine for row in result.rows} == {OURS, "quaver-float32"}
    assert {row.part for row in result.rows} == set(parts.split(","))
    for shown in (
        "texts.txt, 40 texts",
        "| 2 clients |",
        "first vector s",
        "NDCG@10 on set: quaver",
    ):
        assert shown in done.stdout
    assert "### Latency" in (out / "results.md").read_text(encoding="utf-8")
    assert "--out must be a folder without results" in bench(*options).output
    assert bench(*options, "--resume").exit_code == 0
    assert read_result(out).rows == result.rows


def test_a_case_that_cannot_be_measured_alone_is_named(
    tiny_folder: Path, corpus_file: Path
) -> None:
    options = own_options(tiny_folder, corpus_file)
    options[options.index("--cases") + 1] = "1x5000"
    done = bench(*options)
    assert done.exit_code == 0, done.output
    assert "- every engine (tiny, 1x5000): the model reads" in done.stdout


def test_ctrl_c_shows_what_was_measured_alone(
    tiny_folder: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = calls.get_case

    def interrupted(name: str, source: TextSource) -> Any:
        if name == "4x16":
            raise KeyboardInterrupt
        return real(name, source)

    monkeypatch.setattr(calls, "get_case", interrupted)
    done = bench(*own_options(tiny_folder, corpus_file))
    assert done.exit_code == 130
    assert "1 x 8" in done.stdout
    assert "interrupted: the table has what was measured" in done.stderr


def test_quick_takes_one_form_of_a_few_engines(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(command, "part_forms", lambda forms, where: taken.extend(forms) or 1 / 0)
    bench(tiny_folder, "--against", "all", "--quick", "--out", tmp_path / "out")
    names = {form.name for form in taken}
    assert names == {OURS, "quaver-float32", *QUICK}


def test_judged_texts_give_every_row_what_its_engine_loses(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    task = judged_folder(tmp_path / "set")
    options = [*quick_options(tiny_folder, corpus_file, tmp_path / "out"), "--parts", "latency"]
    options += ["--judgments", task, "--resume"]
    options[2] = "quaver-float32"
    assert bench(*options).exit_code == 0
    first = read_result(tmp_path / "out")
    figures = first.quality["tiny"]
    assert figures["quaver-float32"]["difference"] == 0.0
    assert 0 < figures[OURS]["ndcg10"] <= 1
    assert first.models["tiny"]["judged"] == "set"
    for row in first.rows:
        assert row.ndcg10_difference == figures[row.engine]["difference"]
    options[2] = "quaver"  # one engine more: it alone is asked to rank
    assert bench(*options).exit_code == 0
    second = read_result(tmp_path / "out").quality["tiny"]
    assert second.items() > figures.items()
    assert second["quaver-int8-static"]["difference"] == pytest.approx(
        second["quaver-int8-static"]["ndcg10"] - figures["quaver-float32"]["ndcg10"], abs=1e-5
    )


def test_adding_keeps_what_was_measured_before(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    assert bench(*options, "--parts", "latency").exit_code == 0
    assert bench(*options, "--parts", "throughput", "--add").exit_code == 0
    result = read_result(tmp_path / "out")
    assert {row.part for row in result.rows} == {"latency", "throughput"}
    assert {row.run for row in result.rows} == {0, 1}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([], (20.0, 256, [1, 2, 4, 8], 15)),
        (["--quick"], (6.0, 100, [1, 4], 5)),
        (["--quick", "--seconds", 30], (30.0, 100, [1, 4], 5)),
        (["--quick", "--count", 500], (6.0, 500, [1, 4], 5)),
        (["--quick", "--clients", "1,16"], (6.0, 100, [1, 16], 5)),
        (["--quick", "--cases", "1x8"], (6.0, 100, [1, 4], 1)),
    ],
)
def test_quick_is_a_set_of_defaults(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[object],
    found: tuple[object, ...],
) -> None:
    taken: list[Any] = []

    def measure(model: Any, options: Any, *others: Any, **more: Any) -> None:
        taken.append(options)

    monkeypatch.setattr(command, "measure", measure)
    options = ["--out", tmp_path / "out", "--cache-folder", tmp_path, "--environments", tmp_path]
    done = bench(tiny_folder, *given, *options, "--against", "quaver")
    assert done.exit_code == 0, done.output
    (found_options,) = taken
    steps = [s for s in steps_of(found_options) if s.part in ("latency", "throughput")]
    assert (
        found_options.seconds,
        found_options.count,
        found_options.clients,
        len(steps),
    ) == found


def test_results_are_not_overwritten_unless_one_says_so(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = [*quick_options(tiny_folder, corpus_file, out), "--parts", "latency"]
    many_cases().write(out / "results.json")
    assert bench("--report", out).exit_code == 0
    written = (out / "results.json").read_bytes()
    done = bench(*options)
    assert done.exit_code == 2, done.output
    assert "--out must be a folder without results" in done.output
    for keeping in ("--add", "--resume"):
        done = bench(*options, "--overwrite", keeping)
        assert done.exit_code == 2, done.output
        assert "--overwrite discards what --add and --resume keep" in done.output
    assert (out / "results.json").read_bytes() == written
    done = bench(*options, "--overwrite")
    assert done.exit_code == 0, done.output
    assert {row.model for row in read_result(out).rows} == {"tiny"}
    assert not list(out.glob("throughput.*")), "drawn of what was overwritten"


def test_plots_of_what_is_no_longer_there_are_removed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from quaver_bench.plots import write_plots

    assert len(write_plots(many_cases(), tmp_path)) == 6
    other = tmp_path / "other.png"
    other.touch()
    assert write_plots(stored(), tmp_path) == []
    assert list(tmp_path.iterdir()) == [other]


def test_a_second_run_goes_on_where_the_first_ended(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    assert bench(*options, "--parts", "latency,text").exit_code == 0
    first = read_result(tmp_path / "out")
    done = bench(*options, "--parts", "latency,text,concurrency", "--resume")
    assert done.exit_code == 0, done.output
    second = read_result(tmp_path / "out")
    assert second.rows[: len(first.rows)] == first.rows
    assert {row.run for row in second.rows if row.part == "concurrency"} == {1}
    assert bench(*options, "--parts", "latency,text", "--resume").exit_code == 0
    assert read_result(tmp_path / "out") == second


@pytest.mark.parametrize(
    ("key", "then", "message"),
    [
        ("threads", 99, "threads: 99 then, {threads} now"),
        ("affinity", [77, 78], "CPUs (--cores): 77,78 then"),
        ("instances", 4, "instances: 4 then, 1 now"),
        ("random_ids", True, "random ids: yes then, no now"),
        ("command", "quaver bench x --random-ids", "random ids: yes then, no now"),
        ("cpu_model", "family 1 model 1", "CPU model: family 1 model 1 then"),
        ("quaver_isa", "other", "Quaver's instruction set: other then"),
        ("environment", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "ONEDNN_MAX_CPU_ISA: AVX2 then, not set"),
    ],
)
def test_rows_of_another_configuration_are_not_gone_on_with(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path, key: str, then: object, message: str
) -> None:
    file = tmp_path / "out" / "results.json"
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    result = stored()
    result.runs = [describe_run(len(os.sched_getaffinity(0)), ["quaver", "bench"])]
    threads = result.runs[0]["threads"]
    if key == "command":
        del result.runs[0]["random_ids"]  # as before it was noted
    result.runs[0][key] = then
    result.write(file)
    written = file.read_text(encoding="utf-8")
    done = bench(*options, "--parts", "latency", "--resume")
    assert done.exit_code == 2, done.output
    assert message.format(threads=threads) in " ".join(done.output.split())
    assert "--overwrite" in done.output
    assert file.read_text(encoding="utf-8") == written


def test_other_versions_and_commits_are_said_and_gone_on_with(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out" / "results.json"
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    result = stored()
    result.runs = [describe_run(len(os.sched_getaffinity(0)), ["quaver", "bench"])]
    result.runs[0]["versions"]["quaver"] = "0.0.1"
    result.runs[0]["commit"] = "abc"
    result.write(file)
    done = bench(*options, "--parts", "latency", "--resume")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "rows kept by --resume: commit: abc then, " in said
    assert "rows kept by --resume: quaver: 0.0.1 then, " in said
    assert {row.model for row in read_result(file).rows} == {"mini", "tiny"}


def test_versions_of_another_environment_are_not_held_against_this_one() -> None:
    result = stored()
    result.runs[0]["versions"] = {"quaver": "1", "torch": "2.8", "openvino": "3"}
    now = {**result.runs[0], "versions": {"quaver": "1", "torch": "2.13", "openvino": "3"}}
    assert warnings(result, now, {OURS, "quaver-float32"}) == []
    assert warnings(result, now, {OURS, "torch-bf16"}) == ["torch: 2.8 then, 2.13 now"]


def test_what_an_engine_could_not_do_is_not_tried_again(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def load(setup: Any) -> Any:
        tried.append(1)
        raise RuntimeError("no")

    monkeypatch.setitem(
        FORMS, "torch-float32", replace(FORMS["torch-float32"], packages=(), load=load)
    )
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    options[2] = "torch-float32"
    for _ in range(2):
        assert bench(*options, "--parts", "latency", "--resume").exit_code == 0
    assert len(tried) == 1


@pytest.mark.parametrize("text", ["0-70000", "70000", "2-1", "-1", "1-", ",", "0-3,", "0-9", "a"])
def test_a_list_of_cores_names_allowed_cpus(text: str) -> None:
    assert command._cpus(text, [0, 1, 2, 3, 8]) == []


def test_a_list_of_cores_is_read_as_linux_writes_it() -> None:
    assert command._cpus("0-3,8", [0, 1, 2, 3, 8]) == [0, 1, 2, 3, 8]
    assert command._cpus("2, 0", [0, 2]) == [0, 2]


# --- Instances ------------------------------------------------------------------------------------
def test_instances_share_the_cpus() -> None:
    single = [[0], [1], [2], [3], [4]]
    assert share_cpus(2, single, {}) == [[0, 1], [2, 3]]
    assert share_cpus(2, single[:4], {"0": [0, 2], "1": [1, 3]}) == [[0, 2], [1, 3]]
    assert share_cpus(1, [[3], [5]], {"0": [3, 5]}) == [[3, 5]]
    assert share_cpus(2, [[0, 2], [1, 3]], {}) == [[0, 2], [1, 3]]
    assert share_cpus(4, [[0, 2], [1, 3]], {}) == [[0], [2], [1], [3]]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_several_instances_work_at_the_same_time(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    done = bench(*options, "--instances", 2, "--parts", "throughput,text,concurrency")
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "out")
    assert result.runs[0]["instances"] == 2
    assert {len(cpus) for cpus in result.runs[0]["instance_cpus"]} == {result.runs[0]["threads"]}
    assert "2 instances with 1 thread" in done.output or result.runs[0]["threads"] > 1
    for row in result.rows:
        assert row.settings["instances"] == 2
        assert row.cosine == pytest.approx(1.0, abs=0.05)
    row = next(row for row in result.rows if row.case == "4x16" and row.engine == OURS)
    assert row.values["texts_per_second"] == pytest.approx(
        2 * 4 / row.values["median_ms"] * 1000, rel=0.01
    )


def test_ctrl_c_keeps_what_was_measured(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = calls.get_case

    def interrupted(name: str, source: TextSource) -> Any:
        if name == "4x16":
            raise KeyboardInterrupt
        return real(name, source)

    monkeypatch.setattr(calls, "get_case", interrupted)
    out = tmp_path / "out"
    done = bench(*quick_options(tiny_folder, corpus_file, out))
    assert done.exit_code == 130
    assert f"interrupted: what was measured is in {out}" in " ".join(done.output.split())
    result = read_result(out)
    assert {row.case for row in result.rows} == {"1x8"}
    report = (out / "results.md").read_text(encoding="utf-8")
    assert "1x8" in report
    left = ("4x16", "8x20", "text", "1 client", "2 clients", "start")
    assert result.missing == {f"every engine (tiny, {c})": "not reached: interrupted" for c in left}
    assert "- every engine (tiny, 2 clients): not reached: interrupted" in report
    # What was not reached is measured, not taken for impossible, and is then missing no more.
    monkeypatch.setattr(calls, "get_case", real)
    options = [*quick_options(tiny_folder, corpus_file, out), "--parts", "throughput", "--resume"]
    assert bench(*options).exit_code == 0
    result = read_result(out)
    assert {row.case for row in result.rows} == {"1x8", "4x16", "8x20"}
    assert set(result.missing) == {f"every engine (tiny, {case})" for case in left[2:]}


def test_ctrl_c_before_the_first_row_says_so_and_leaves_no_result(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str, source: TextSource) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(calls, "get_case", interrupted)
    out = tmp_path / "out"
    done = bench(*quick_options(tiny_folder, corpus_file, out))
    assert done.exit_code == 130
    assert "interrupted: nothing was measured yet" in " ".join(done.output.split())
    assert not (out / "results.json").exists()


def test_what_ctrl_c_came_before_is_listed_by_engine_where_others_got_there() -> None:
    forms = [FORMS[name] for name in (OURS, "openvino-int8", "openvino-int8-tuned", "ipex-int8")]
    options = plan_options(forms, ["1x16", "1x32"], [4])
    result = stored()  # 1x16 of all but IPEX, which is elsewhere
    result.missing["openvino-int8 (mini, 1x32)"] = "no"
    result.rows.append(latency(OURS, 2.0, case="1x32"))
    model: Any = type("Named", (), {"name": "mini", "judged": True})
    assert not_reached(result, [model], options, forms).keys() == {
        "ipex-int8 (mini)",
        "every engine (mini, 4 clients)",
    }
    del result.missing["openvino-int8 (mini, 1x32)"]
    found = not_reached(result, [model], options, forms)
    assert found.keys() >= {"openvino-int8 (mini, 1x32)"}
    kept = {**found, "openvino-int8 (mini, 1x64)": NOT_REACHED, "ipex-int8 (other)": "no"}
    assert still_missing(kept, [model], options).keys() == {
        "openvino-int8 (mini, 1x64)",
        "ipex-int8 (other)",
    }


def test_what_cannot_be_loaded_is_not_called_interrupted() -> None:
    forms = [FORMS[name] for name in (OURS, "openvino-int8", "ipex-int8")]
    options = replace(plan_options(forms, ["1x16"], []), judgments=[None])
    result = stored()  # Quaver ranked the judged texts, OpenVINO did not
    result.missing["ipex-int8 (mini)"] = "cannot load"
    model: Any = type("Named", (), {"name": "mini", "judged": True})
    found = not_reached(result, [model], options, forms)
    assert found == {"openvino-int8 (mini, judged texts)": NOT_REACHED}


def plan_options(forms: Any, cases: Any, many: Any) -> Options:
    parts = ("latency", "concurrency")
    return Options(forms, parts, cases, 1, 0.0, 1, 1.0, None, 10, many, False, ())


def test_a_folder_that_cannot_be_made_is_told_before_measuring(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure", None)  # not called
    (tmp_path / "file").touch()
    done = bench(*quick_options(tiny_folder, corpus_file, tmp_path / "file" / "out"))
    assert done.exit_code == 1, done.output
    assert "--out must be a folder: cannot make" in done.output


def test_an_engine_that_is_not_installed_is_named_with_what_installs_it(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = replace(FORMS["torch-float32"], packages=("no_such_package",))
    monkeypatch.setitem(FORMS, "torch-float32", form)
    out = tmp_path / "out"
    options = quick_options(tiny_folder, corpus_file, out)
    options[2] = "torch-float32"
    done = bench(*options, "--parts", "latency")
    assert done.exit_code == 0, done.output
    why = "no_such_package not installed; pip install torch transformers"
    assert read_result(out).missing == {"torch-float32": why}
    assert why in done.output


@pytest.mark.parametrize("failing", ["load", "prepare"])
def test_a_peer_that_fails_gets_a_reason_and_the_run_goes_on(
    tiny_folder: Path,
    corpus_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    class Peer:
        settings: dict[str, Any] = {}  # noqa: RUF012

        def __init__(self, setup: Any) -> None:
            if failing == "load":
                raise RuntimeError("cannot load\nand more")

        def prepare(self, request: Any) -> Any:
            raise ValueError("cannot prepare")

    form = replace(FORMS["torch-float32"], packages=(), load=Peer)
    monkeypatch.setitem(FORMS, "torch-float32", form)
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    options[2] = "torch-float32"
    done = bench(*options, "--parts", "latency")
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "out")
    assert [row.engine for row in result.rows] == [OURS, "quaver-float32"]
    assert (
        result.missing
        == {
            "load": {"torch-float32 (tiny)": "RuntimeError: cannot load ..."},
            "prepare": {"torch-float32 (tiny, 1x8)": "ValueError: cannot prepare"},
        }[failing]
    )


def test_an_engine_that_computes_something_else_gets_no_ratio(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast and wrong: vectors of random numbers, at once."""

    class Wrong:
        settings: dict[str, Any] = {}  # noqa: RUF012

        def __init__(self, setup: Any) -> None:
            self._width = int(setup.model.folder.config["hidden_size"])

        def encode(self, texts: Any) -> Any:
            vectors = np.random.default_rng(1).standard_normal((len(texts), self._width))
            return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

        def prepare(self, request: Any) -> Any:
            return lambda: self.encode(request.ids)

    form = replace(FORMS["torch-bf16"], packages=(), load=Wrong)
    monkeypatch.setitem(FORMS, "torch-bf16", form)
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    options[2] = "torch-bf16"
    done = bench(*options, "--parts", "latency,throughput,text,concurrency")
    assert done.exit_code == 0, done.output
    rows = [row for row in read_result(tmp_path / "out").rows if row.engine == "torch-bf16"]
    assert {row.part for row in rows} == {"latency", "throughput", "text", "concurrency"}
    for row in rows:
        assert row.ratio is None
        assert not row.sound
    assert done.output.count("computes something else: mean cosine to float32") == len(rows)
    report = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert report.count("| computes something else |") == len(rows)
    assert "Computes something else here: torch-bf16 (mean cosine to float32" in report
    if (drawing := tmp_path / "out" / "throughput.svg").is_file():
        assert "torch-bf16" not in drawing.read_text(encoding="utf-8")


def test_a_call_that_would_take_too_long_is_not_begun(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Slow:
        settings: dict[str, Any] = {}  # noqa: RUF012

        def __init__(self, setup: Any) -> None:
            self._width = int(setup.model.folder.config["hidden_size"])

        def prepare(self, request: Any) -> Any:
            def call() -> Any:
                made.append(len(request.ids))
                time.sleep(0.2)
                return np.ones((len(request.ids), self._width), np.float32)

            return call

    form = replace(FORMS["torch-bf16"], packages=(), load=Slow)
    monkeypatch.setitem(FORMS, "torch-bf16", form)
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    options[2] = "torch-bf16"
    done = bench(*options, "--parts", "throughput", "--longest", 0.4)
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "out")
    assert set(made) == {4}
    assert "would take some" in result.missing["torch-bf16 (tiny, 8x20)"]
    assert {row.engine for row in result.rows if row.case == "8x20"} == {OURS, "quaver-float32"}


@pytest.mark.parametrize(
    ("cosine", "ratio"), [(None, 2.0), (0.88, 2.0), (0.79, None), (-0.03, None), (np.nan, None)]
)
def test_a_ratio_needs_the_vectors_of_the_model(cosine: float | None, ratio: float | None) -> None:
    row = replace(latency("torch-bf16", 5.0), cosine=cosine)
    row.compare(2.0, 1.75, 2.25)
    assert row.ratio == (ratio and [2.0, 1.75, 2.25])


def test_a_case_longer_than_the_model_is_left_out(
    tiny_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    options = quick_options(tiny_folder, corpus_file, tmp_path / "out")
    options[options.index("--cases") + 1] = "1x8,1x5000"
    assert bench(*options, "--parts", "latency").exit_code == 0
    assert "tokens at most" in read_result(tmp_path / "out").missing["every engine (tiny, 1x5000)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bench takes one of: a model"),
        (["MODEL", "--threads", 5000], "--threads must be at most the CPUs"),
        (["MODEL", "--instances", 5000], "--instances must be at most the CPUs"),
        (["MODEL", "--cores", "0-99999"], "--cores must name CPUs"),
        (["MODEL", "--cores", "x"], "--cores must name CPUs"),
        (["MODEL", "--cores", "0-99999999999999"], "--cores must name CPUs"),
        (["MODEL", "--cores", "0,1-0"], "--cores must name CPUs"),
        (["MODEL", "--against", "nonsense"], "an engine must be one of quaver, openvino"),
        (["MODEL", "--parts", "nonsense"], "a part must be one of latency"),
        (["MODEL", "--cases", "nonsense"], "a case is TEXTSxTOKENS"),
        (["MODEL", "--shapes", "nonsense"], "a shape must be one of small"),
        (["MODEL", "--clients", "0"], "--clients must be numbers"),
        (["MODEL", "--only-shapes"], "--only-shapes needs --shapes"),
        (["MODEL", "--seconds", "inf"], "--seconds must be a finite number"),
        (["MODEL", "--longest", "inf"], "--longest must be a finite number"),
        (["MODEL", "--corpus", "missing.txt"], "--corpus must be a file or a folder"),
        (["MODEL", "--judgments", "missing"], "missing"),
        (["no-such-folder/x/y"], "no-such-folder"),
        (["--compare", "missing.json", "missing.json"], "cannot read results"),
        (["--report", "missing.json"], "cannot read results"),
    ],
)
def test_bad_input_is_one_line(
    tiny_folder: Path, tmp_path: Path, arguments: list[object], message: str
) -> None:
    given = [str(tiny_folder) if argument == "MODEL" else argument for argument in arguments]
    for more in ([], ["--out", tmp_path / "out"] if given else []):
        done = bench(*given, *more)
        assert done.exit_code in (1, 2), done.output
        assert message in done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_the_command_compares_and_reports_from_files(tmp_path: Path) -> None:
    stored().write(tmp_path / "a" / "results.json")
    done = bench("--compare", tmp_path / "a", tmp_path / "a" / "results.json")
    assert done.exit_code == 0, done.output
    assert "| mini | latency | 1x16 | openvino-int8 | p50 ms | 5.00 | 5.00 | 1.00 | 1.00 |" in (
        done.output
    )
    assert bench("--report", tmp_path / "a").exit_code == 0
    assert (tmp_path / "a" / "results.md").is_file()


def test_names_of_engines_and_of_their_forms_choose() -> None:
    assert [form.name for form in choose_forms(["torch-bf16"])] == [
        OURS,
        "quaver-float32",
        "torch-bf16",
    ]
    chosen = {form.name for form in choose_forms(["openvino", "quaver"])}
    assert {"openvino-int8-tuned", "quaver-float32", OURS} <= chosen
    everything = [form for form in FORMS.values() if "embedder" in form.kinds]
    assert choose_forms(()) == everything
    pairs = [form.name for form in choose_forms(["all"], KINDS["cross-encoder"])]
    assert pairs[:2] == [OURS, "quaver-float32"]
    assert {"flashrank", "sentence-transformers", "onnxruntime-int8-dynamic"} < set(pairs)
    assert "fastembed" not in pairs
    with pytest.raises(InputError, match=r"a sparse encoder is measured with .*: got 'flashrank'"):
        choose_forms(["flashrank"], KINDS["sparse"])


def test_choosing_engines_imports_none(tiny_folder: Path) -> None:
    code = "import sys, quaver.cli.bench; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "openvino", "onnxruntime", "matplotlib"} & set(done.stdout.split())


def test_forms_load_in_processes_of_their_own() -> None:
    """`--instances` sends the function that loads a form to new processes."""
    for form in FORMS.values():
        assert pickle.loads(pickle.dumps(form.load)), form.name
