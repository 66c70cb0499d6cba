"""What benchmarks/ makes of results: the README's figures, and targets beside what was reached."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quaver import Embedder, Index
from quaver.evaluate import Task, VectorSystem
from quaver_bench.engines.registry import OURS
from quaver_bench.record import describe_run
from quaver_bench.result import Result, Row
from task_folder import POOLS, write_task

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README", "HOME_PAGE", "RESULTS_PAGE"])
def test_the_figures_of_a_page_are_those_of_the_results(page: str) -> None:
    readme = script("readme")
    path = getattr(readme, page)
    _, shown, _ = readme.parted(path.read_text(encoding="utf-8"))
    found = re.search(r"\((?:\.\./)?(benchmarks/results/[\w.-]+)/\w+\.(?:svg|md)\)", shown)
    assert found, f"{path.name} must name its folder of results; run make bench"
    section = {
        "README": readme.readme_section,
        "HOME_PAGE": readme.home_section,
        "RESULTS_PAGE": readme.results_section,
    }[page]
    assert shown == section(found[1]), "run benchmarks/readme.py on that folder"


def test_a_readme_without_markers_is_told() -> None:
    with pytest.raises(SystemExit, match="once each"):
        script("readme").parted("no marker")


def test_a_quality_run_continues_where_it_was(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = script("quality")
    measured: list[tuple[str, str]] = []
    plain = VectorSystem.measure

    def counted(system: VectorSystem, task: Task) -> Any:
        measured.append((task.name, system.name))
        return plain(system, task)

    monkeypatch.setattr(VectorSystem, "measure", counted)
    write_task(tmp_path / "tasks" / "found")
    text = tmp_path / "texts.txt"
    text.write_text("".join(f"the list of files has {i} keys and values\n" for i in range(8)))
    given = ["quality.py", str(tiny_folder), "--tasks", str(tmp_path / "tasks")]
    given += ["--calibration", str(text), "--samples", "8", "--against", "", "--restored"]
    given += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--name", "tiny"]
    monkeypatch.setattr(sys, "argv", given)
    quality.main()
    systems = ["float32", "dynamic", "calibrated", "static"]
    assert measured == [("found", system) for system in systems]
    first = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))

    pooled = write_task(tmp_path / "tasks" / "pooled", qrels=POOLS)
    (pooled / "task.json").write_text('{"kind": "reranking"}')
    measured.clear()
    quality.main()
    assert measured == [("pooled", system) for system in systems]
    second = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert first["tasks"][0] in second["tasks"]
    assert (second["run"]["model"], second["run"]["kind"]) == ("tiny", "embedder")
    # What such weights can prove is beside the figures.
    assert quality.RESTORED in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    schemes = json.loads((tmp_path / "out" / "schemes.json").read_text(encoding="utf-8"))
    assert list(schemes["schemes"]) == ["dynamic", "calibrated", "static"]
    assert str(tmp_path) not in json.dumps([second, schemes])


def test_a_quality_run_that_is_cut_leaves_a_whole_record(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = script("quality")
    measured: list[tuple[str, str]] = []
    cut: list[tuple[str, str]] = []
    plain = VectorSystem.measure

    def counted(system: VectorSystem, task: Task) -> Any:
        measured.append((task.name, system.name))
        if measured[-1] in cut:
            raise KeyboardInterrupt
        return plain(system, task)

    monkeypatch.setattr(VectorSystem, "measure", counted)
    for name in ("one", "other"):
        write_task(tmp_path / "tasks" / name)
    text = tmp_path / "texts.txt"
    text.write_text("".join(f"the list of files has {i} keys and values\n" for i in range(8)))

    def run(*schemes: str) -> tuple[list[str], list[str]]:
        """Run until the cut, and return the tasks and the systems of the record."""
        given = ["quality.py", str(tiny_folder), "--tasks", str(tmp_path / "tasks")]
        given += ["--calibration", str(text), "--samples", "8", "--against", ""]
        given += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", [*given, "--schemes", *schemes])
        measured.clear()
        if cut:
            with pytest.raises(KeyboardInterrupt):
                quality.main()
        else:
            quality.main()
        record = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
        assert all(list(task["systems"]) == record["systems"] for task in record["tasks"])
        return [task["task"] for task in record["tasks"]], record["systems"]

    cut[:] = [("other", "static")]
    assert run("dynamic", "static") == (["one", "other"], ["dynamic"])
    assert len(measured) == 6  # both tasks in the default before the next scheme begins
    cut.clear()
    assert run("dynamic", "static") == (["one", "other"], ["dynamic", "static"])
    assert measured == [("other", "static")]
    # While a third task is measured, the record keeps both systems.
    write_task(tmp_path / "tasks" / "third")
    cut[:] = [("third", "static")]
    assert run("dynamic", "static") == (["one", "other"], ["dynamic", "static"])
    assert measured == [("third", "float32"), ("third", "dynamic"), ("third", "static")]
    cut.clear()
    assert run("dynamic") == (["one", "other", "third"], ["dynamic"])
    assert measured == []
    (tmp_path / "out" / "results.json").write_text('{"kind": "eval', encoding="utf-8")
    assert run("dynamic") == (["one", "other", "third"], ["dynamic"])


def test_another_form_of_a_model_has_another_key(tiny_folder: Path) -> None:
    key_of = script("quality").key_of
    exact = Embedder.from_pretrained(tiny_folder, precision="float32")
    keys = {key_of(exact), key_of(Embedder.from_pretrained(tiny_folder))}
    assert len(keys) == 2
    assert key_of(Embedder.from_pretrained(tiny_folder, precision="float32")) in keys


def test_a_batch_that_changes_a_vector_is_counted() -> None:
    batches = script("batches")

    def padded(batch: Sequence[int]) -> NDArray[np.float32]:
        return np.array([[1.0, 0.001 * (len(batch) > 2)] for _ in batch], np.float32)

    drawn = batches.random_batches(200)
    assert all(batch.count(0) == 1 and 2 <= len(batch) <= 8 for batch in drawn)
    followed = batches.follow("padded", padded, drawn)
    assert followed.different == sum(len(batch) > 2 for batch in drawn) < 200
    assert followed.change == pytest.approx(0.001)
    assert followed.cosine_loss == pytest.approx(5e-7, rel=0.01)
    alone = batches.follow("ragged", lambda batch: np.ones((len(batch), 1), np.float32), drawn)
    assert (alone.different, alone.change, alone.cosine_loss) == (0, 0.0, None)


def test_the_table_of_batches_is_that_of_its_record() -> None:
    batches = script("batches")
    text = (BENCHMARKS.parent / "docs" / "results.md").read_text(encoding="utf-8")
    shown = text.partition(batches.START)[2].partition(batches.END)[0].strip()
    found = re.search(r"\[The record\]\(\.\./(benchmarks/results/[\w./-]+\.json)\)", shown)
    assert found, "docs/results.md must name the record of its batches"
    assert shown == batches.page_section(found[1]), "run benchmarks/batches.py with --page"


def row(
    engine: str, case: str, ratio: float | None, part: str = "latency", isa: str = "avx2"
) -> Row:
    values = {"median_ms": 10.0, "p50_ms": 10.0, "p95_ms": 10.0, "p99_ms": 10.0}
    values |= {"texts_per_second": 100.0, "gmacs_per_second": 80.0}
    ratios = None if ratio is None else [ratio, ratio, ratio]
    settings = {"isa": isa, "threads": 2}
    return Row(part, "bge-small-en-v1.5 shape", case, engine, 0, values, ratios, settings=settings)


def test_targets_stand_beside_what_was_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row("openvino-int8", "1x16", 3.0), row("openvino-int8", "1x32", 1.0)]
    rows += [row(OURS, "32x256", None, "throughput")]
    rows += [row("openvino-int8", "32x256", 2.0, "throughput")]
    rows += [row("openvino-int8-tuned", "32x256", 1.2, "throughput")]
    about = {"describe": "384 x 12, random weights", "weights": "random", "pooling": "cls"}
    # A cross-encoder of the same size is not what the targets are about.
    models = {"pairs": {**about, "weights": "real", "kind": "cross-encoder"}}
    models["bge-small-en-v1.5 shape"] = about
    Result([describe_run(2, ["quaver"])], models, rows=rows).write(tmp_path / "results.json")
    forced = [row(OURS, "32x256", None, "throughput", "avxvnni")]
    (tmp_path / "avxvnni").mkdir()
    Result([describe_run(2, ["quaver"])], models, rows=forced).write(
        tmp_path / "avxvnni" / "results.json"
    )
    shape = {"shape": "small qkv", "rows": 96, "inputs": 384, "outputs": 1152}
    shape |= {"sum_of_peak": 0.95, "linear_of_peak": 0.85}
    kernels = {
        "kernels": [
            {"isa": "avx2", "peak_gmacs": 50.0, "shapes": [shape]},
            {"isa": "avxvnni", "peak_gmacs": 80.0, "shapes": []},
        ]
    }
    (tmp_path / "kernels.json").write_text(json.dumps(kernels))
    monkeypatch.setattr(sys, "argv", ["targets.py", str(tmp_path)])
    script("targets").main()
    text = (tmp_path / "targets.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    name = "bge-small-en-v1.5 shape"
    for line in (
        f"| {name} | 1x16 | openvino-int8 | >= 2.6 | 3 | reached |",
        f"| {name} | 1x32 | openvino-int8 | >= 2.2 | 1 | below |",
        f"| {name} | 1x512 | openvino-int8 | >= 1.75 | - | not measured |",
        "OpenVINO at its best (openvino-int8-tuned) | >= 1.5 | 1.2 | below |",
        f"| avx2 | {name}, 32x256, 2 threads | >= 0.75 | 0.8 | reached |",
        f"| avxvnni | {name}, 32x256, 2 threads | >= 0.75 | 0.5 | below |",
        "| avx2 | with epilogue, small qkv, 96 x 384 x 1152 | >= 0.9 | 0.85 | below |",
    ):
        assert line in text


def decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: str, *options: object) -> Path:
    """Run the study of decoders with the tiny shape and Quaver alone; return its record."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    out = tmp_path / "decoders.json"
    given = ["decoders.py", "--shapes", "tiny", "--cases", cases, "--engines", "quaver-int8"]
    given += ["--seconds", "0", "--cache", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*given, *map(str, options)])
    script("decoders").main()
    return out


def test_a_study_of_decoders_is_a_record_and_a_table_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = decoders(tmp_path, monkeypatch, "1x32")
    first = json.loads(out.read_text(encoding="utf-8"))["rows"]
    out = decoders(tmp_path, monkeypatch, "1x32,rerank50", "--limit", 0)
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert rows[:1] == first
    assert [row["case"] for row in rows] == ["1x32", "rerank50"]
    assert rows[0]["engines"]["quaver-int8"]["tokens_per_second"] > 0
    assert "longer than the limit" in rows[1]["left_out"]["quaver-int8"]
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert page.startswith("# Decoders\n\nRandom weights")
    assert "| tiny | 1x32 | quaver-int8 |" in page


def test_no_case_of_decoders_begins_after_the_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tokenizer.json").touch()  # a model that is not written again
    out = decoders(tmp_path, monkeypatch, "1x32,8x256", "--minutes", 0)
    assert not out.exists()
    said = capsys.readouterr().err
    for case in ("1x32", "8x256"):
        assert f"tiny {case} was not reached: --minutes are over" in said


def test_a_folder_that_was_kept_is_only_loaded_and_its_row_gets_the_new_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    out, keep = tmp_path / "memory.json", tmp_path / "int4"
    given = ["model_memory.py", "--shape", "tiny", "--scheme", "int4", "--keep", str(keep)]
    given += ["--folder", str(tmp_path), "--out", str(out)]
    rows = []
    for tokens in ("0", "16"):
        monkeypatch.setattr(sys, "argv", [*given, "--tokens", tokens])
        script("model_memory").main()
        (row,) = json.loads(out.read_text(encoding="utf-8"))
        rows.append(row)
    assert sorted(tmp_path.iterdir()) == [keep, out]
    first, second = rows
    assert "milliseconds_per_token" not in first
    assert second["milliseconds_per_token"] > 0
    quantized = {key for key in first if key.startswith(("quantize", "source", "target"))}
    assert len(quantized) == 4
    assert {key: second[key] for key in quantized} == {key: first[key] for key in quantized}


# The rows of docs/guide/models.md and the random models that stand for them.
FAMILY_ROWS = {
    "`bert`": "Bert",
    "`roberta`": "Roberta",
    "`xlm-roberta`": "XLMRoberta",
    "`camembert`": "Camembert",
    "`electra`": "Electra",
    "`distilbert`": "DistilBert",
    "`mpnet`": "MPNet",
    "`modernbert`": "ModernBert",
    "`new`, `gte`": "Gte",
    "`new` with NTK scaling": "GteV15",
    "`nomic_bert`": "NomicBert",
    "`deberta-v2`": "DebertaV2",
    "`jina_bert`": "JinaV2",
}


def test_the_speeds_of_the_families_are_those_of_their_file() -> None:
    page = (BENCHMARKS.parent / "docs" / "guide" / "models.md").read_text(encoding="utf-8")
    named = re.search(r"\(\.\./\.\./(benchmarks/results/[\w.-]+/families\.json)\)", page)
    assert named, "docs/guide/models.md must name the file of its speeds"
    rows = json.loads((BENCHMARKS.parent / named[1]).read_text(encoding="utf-8"))["rows"]
    found = {row["family"]: row for row in rows}
    table = page.split("| family (`model_type`)")[1].split("\n\n")[0]
    shown = {cells[1].strip(): cells for cells in (row.split("|") for row in table.splitlines())}
    for title, family in FAMILY_ROWS.items():
        cells = shown[title]
        if family not in found:  # not measured on that machine
            assert [cell.strip() for cell in cells[-3:-1]] == ["-", "-"], title
            continue
        row = found[family]
        ours, peer = row["median_ms"]["quaver"], row["peer"]
        beside = "-" if not peer else f"{row['median_ms'][peer] / ours:.2f} x"
        assert cells[-3].strip() == beside, title
        assert cells[-2].strip() == f"{row['median_ms']['torch'] / ours:.1f} x", title


@pytest.mark.parametrize(
    ("starts", "verdict"),
    [
        ([0.99, 1.0, 1.015], "same"),
        ([1.01, 1.03, 1.05], "faster"),
        ([0.93, 0.94, 0.99], "slower"),
        ([0.97, 1.0, 1.01], "undecided"),
        ([0.985, 1.01, 1.03], "undecided"),
    ],
)
def test_a_verdict_needs_every_start(starts: list[float], verdict: str) -> None:
    builds = script("builds")
    # An outlier among the quads of a start changes nothing.
    quads = [[ratio, 0.5, ratio, 2.0, ratio] for ratio in starts]
    case = builds.Case(Path("model"), "model", 1, 16, starts=quads)
    assert case.range() == (starts[0], starts[1], starts[2])
    assert case.verdict(0.02) == verdict


def test_the_tables_of_scale_are_those_of_their_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS / "index")
    scale = script("index/scale")
    page = BENCHMARKS.parent / "docs" / "guide" / "scale.md"
    shown = page.read_text(encoding="utf-8").partition(scale.START)[2].partition(scale.END)[0]
    found = re.search(r"\[The record\]\(\.\./\.\./(benchmarks/results/[\w./-]+\.json)\)", shown)
    assert found, "docs/guide/scale.md must name its record"
    assert shown.strip() == scale.page_section(found[1]), "run benchmarks/index/scale.py --page"


def scale_content(sizes: Sequence[int]) -> dict[str, Any]:
    """Return a record in which everything grows along a line."""
    rows = [
        {"passages": n, "seconds": n, "cpu_seconds": {"model": 1 + n / 2, "storing": n / 2}}
        | {"anonymous_mb": 50 + n, "mapped_mb": 9.0, "peak_mb": 60 + n, "disk_mb": 2 * n, "load": 1}
        for n in sizes
    ]
    times = {"p50_ms": 9.0, "p99_ms": 9.0}
    searches = [
        {
            "passages": n,
            "open_seconds": 0.1,
            "first_seconds": n,
            "questions": 3,
            "recall_at_10": 1.0,
        }
        | {mode: {**times, "cpu_p50_ms": 1 + n} for mode in ("dense", "bm25", "hybrid")}
        | {"memory": {"anonymous_mb": 5.0, "mapped_mb": 1.0}}
        for n in sizes[-3:]
    ]
    timed = {"rows": 1, "signs_ms": 1.0, "vectors_ms": 1.0}
    again = {"unchanged": 1, "cpu_seconds": 1.0, "private_mb": 1.0, "peak_mb": 1.0}
    steps = {"texts": {}, "index": {"passages": sizes[-1]}, "again": again, "search": {}}
    steps["parts"] = {"dimension": 8, "measured": timed, "simulated": timed}
    settings = {"model": "m", "table": False, "threads": 1, "passage_tokens": 64}
    return {
        "run": {"cpu": "a CPU", "cpus": 2},
        "settings": {**settings, "passages": sizes[-1]},
        **{"rows": rows, "searches": searches, "steps": steps, "runs": [{}]},
    }


def test_ten_times_as_many_passages_are_forecast_along_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS / "index")
    scale = script("index/scale")
    content = scale_content([10, 20, 100, 200, 400, 800])
    found = scale.forecast(content)
    assert found["CPU seconds of indexing"] == pytest.approx(
        {"measured": 801, "forecast": 8001, "tested": 1}
    )
    assert found["disk, MB"] == pytest.approx({"measured": 1600, "forecast": 16_000, "tested": 1})
    assert found["bm25 search, CPU ms"]["forecast"] == pytest.approx(8001)
    # Two thirds of what the smaller sizes let expect: the test of the method says so.
    for row in content["rows"][2:]:
        row["disk_mb"] = 40 + 4 / 3 * (row["passages"] - 20)
    assert scale.forecast(content)["disk, MB"]["tested"] == pytest.approx(1600 / 1080)


def test_a_record_of_scale_says_whether_its_limit_was_met_and_the_machine_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS / "index")
    scale = script("index/scale")
    content = scale_content([10, 20, 100, 200, 400, 800])
    shown = scale.section(content)
    assert "at most 860 MB: the limit of 1,500 MB was met" in shown
    assert "the model 50 %, storing 50 %" in shown
    assert "busy" not in shown
    content["rows"][-1] |= {"peak_mb": 1501.0, "load": 9}
    shown = scale.section(content)
    assert "the limit of 1,500 MB was missed" in shown
    assert "| passages | CPU seconds | seconds, busy machine |" in shown
    del content["steps"]["index"]
    assert scale.section(content).endswith("the same command continues.")


@pytest.mark.slow
def test_indexing_many_passages_continues_after_it_was_killed(
    tiny_folder: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    lines = (
        "the list of files has keys and values. " * (5 + i % 3) + f"{i} " * 9 for i in range(90)
    )
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    place, out = tmp_path / "place", tmp_path / "record.json"
    command = [sys.executable, str(BENCHMARKS / "index" / "scale.py"), str(tiny_folder)]
    command += [str(corpus), "--place", str(place), "--out", str(out), "--table"]
    command += ["--passages", "1500", "--passage-tokens", "16", "--every", "0.02"]
    command += ["--questions", "5"]

    def content() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found

    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=BENCHMARKS.parent)
    while not out.is_file() or not any(row["passages"] for row in content()["rows"]):
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    before = content()
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=BENCHMARKS.parent
    )
    after = content()
    assert after["rows"][: len(before["rows"])] == before["rows"]
    assert list(after["steps"]) == ["texts", "index", "again", "search", "parts"]
    assert len(after["runs"]) >= len(before["runs"])
    with Index.open(place / "kb", read_only=True) as index:
        stored = index.store.count()
    assert stored == after["steps"]["index"]["passages"] == after["rows"][-1]["passages"]
    assert stored == pytest.approx(1500, rel=0.2)
    assert after["steps"]["again"] | {"added": 0, "unchanged": stored} == after["steps"]["again"]
    times = [row["seconds"] for row in after["rows"]]
    assert times == sorted(times)
    sizes = [found["passages"] for found in after["searches"]]
    assert sizes == sorted(sizes)
    assert sizes[-1] == stored
    assert after["searches"][-1]["recall_at_10"] > 0.99  # so few are compared exactly
    assert "was met" in done.stdout
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"body": 1}\n')
    fresh = [
        *command[:3],
        str(broken),
        "--place",
        str(tmp_path / "p"),
        "--out",
        str(tmp_path / "r"),
    ]
    other = subprocess.run(fresh, capture_output=True, text=True, cwd=BENCHMARKS.parent)
    assert other.stderr.splitlines()[-1].startswith("scale: ")
    assert other.returncode == 1
    other = subprocess.run(
        [*command, "--passages", "9"], capture_output=True, text=True, cwd=BENCHMARKS.parent
    )
    assert "has other settings" in other.stderr
    assert other.returncode == 1
