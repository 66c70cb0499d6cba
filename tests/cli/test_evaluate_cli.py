"""`quaver evaluate`: what it prints and writes, and how it ends."""

from __future__ import annotations

import csv
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from golden_folders import unpacked
from quaver import cli
from quaver.evaluate.model_card import END, START
from task_folder import POOLS, write_task
from tiny_model import write_tiny_cross_encoder, write_tiny_model


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def quantize(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, ["quantize", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    write_task(tmp_path / "tasks" / "search")
    folder = write_task(tmp_path / "tasks" / "pool", qrels=POOLS)
    (folder / "task.json").write_text('{"kind": "reranking"}')
    return tmp_path / "tasks"


def test_tables_on_the_terminal(tiny_folder: Path, tasks: Path) -> None:
    code, out, _ = call(tiny_folder, "--tasks", tasks)
    assert code == 0
    for text in ("search", "pool", "float32", "int8", "NDCG@10", "MAP", "bootstrap"):
        assert text in out


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 80, 200])
def test_figures_are_whole_in_any_terminal(
    tiny_folder: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    for name in ("first-model", "second-model"):
        shutil.copytree(tiny_folder, tmp_path / name)
    monkeypatch.setenv("COLUMNS", str(width))
    folders = (tmp_path / "first-model", tmp_path / "second-model")
    options = ("--baseline", folders[0], "--out", tmp_path / "out", "--no-card")
    code, out, _ = call(*folders, "--tasks", tasks, *options)
    assert code == 0
    tables, _, _ = out.partition("Differences")
    assert max(map(len, tables.splitlines())) <= max(width, 76)
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    for found in report["means"].values():
        for own in found["systems"].values():
            for figure in (
                f"{own['mean']:.4f}",
                f"{100 * own['low']:+.2f} to {100 * own['high']:+.2f}",
            ):
                assert figure in tables
    for near in report["fidelity"].values():
        for value in near["raw"].values():
            assert f"{int(value * 1e5) / 1e5:.5f}" in tables


def test_files_of_a_report(tiny_folder: Path, tasks: Path, tmp_path: Path) -> None:
    code, out, _ = call(
        tiny_folder,
        "--tasks",
        tasks,
        "--out",
        tmp_path / "out",
        "--cache-folder",
        tmp_path / "c",
        "--json",
    )
    assert code == 0
    folder = tmp_path / "out"
    assert sorted(p.name for p in folder.iterdir()) == [
        "queries.csv",
        "results.json",
        "results.md",
        "results.png",
    ]
    report = json.loads((folder / "results.json").read_text())
    assert json.loads(out) == report
    assert [task["task"] for task in report["tasks"]] == ["pool", "search"]
    near = report["fidelity"]["int8"]["raw"]
    assert 0.9 < near["mean"] < 1
    rows = list(csv.DictReader((folder / "queries.csv").read_text().splitlines()))
    assert len(rows) == 6
    of_search = [float(row["float32"]) for row in rows if row["task"] == "search"]
    mean = report["means"]["retrieval"]["systems"]["int8"]["baseline"]
    assert sum(of_search) / 3 == pytest.approx(mean, abs=1e-6)


def test_options_for_single_tasks(tiny_folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "pool-a", qrels=POOLS, name="hard")
    write_task(tmp_path / "pool-a", qrels=POOLS, name="easy")
    code, out, _ = call(
        tiny_folder,
        f"--tasks={tmp_path / 'pool-a'}",
        "--kind=pool-*=reranking",
        "--qrels=pool-a=hard",
        "--relevance=*=2",
        "--json",
    )
    assert code == 0
    (task,) = json.loads(out)["tasks"]
    assert (task["kind"], task["source"], task["relevance"]) == (
        "reranking",
        "pool-a/qrels/hard.tsv",
        2,
    )
    assert task["queries"] == 2


def test_max_loss_is_a_gate(tiny_folder: Path, tasks: Path, tmp_path: Path) -> None:
    code, _, _ = call(tiny_folder, "-t", tasks, "--max-loss", "99%")
    assert code == 0
    worse, better = write_tiny_model(tmp_path / "other", seed=1), tiny_folder
    _, out, _ = call(worse, "-t", tasks / "search", "-b", better, "--json")
    if json.loads(out)["means"]["retrieval"]["systems"]["int8"]["relative"] > 0:
        worse, better = better, worse  # both have random weights: one of them is the worse one
    code, _, err = call(worse, "-t", tasks / "search", "-b", better, "--max-loss", "0")
    assert code == 3
    assert "the loss is above 0.00 %: int8 loses" in err
    assert "of retrieval NDCG@10" in err


def test_several_models_stand_side_by_side(tiny_folder: Path, tasks: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(tiny_folder, tmp_path / name)
    code, out, err = call(tmp_path / "one", tmp_path / "two", "-t", tasks, "--markdown")
    assert code == 2
    assert "name it with --baseline" in err
    code, out, _ = call(
        tmp_path / "one", tmp_path / "two", "-t", tasks, "-b", tiny_folder, "--markdown"
    )
    assert code == 0
    assert out.startswith(
        "| task | metric | queries | float32 | one | difference | 95 % interval |"
    )


def test_the_loss_goes_into_the_card_of_a_quantized_folder(
    tiny_folder: Path, tasks: Path, tmp_path: Path
) -> None:
    from quaver.embedder import Embedder
    from quaver.evaluate import (
        VectorSystem,
        compare,
        is_quantized_folder,
        read_task,
        write_card,
    )

    model = tmp_path / "int8"
    shutil.copytree(tiny_folder, model)
    embedder = Embedder.from_pretrained(tiny_folder)
    system = VectorSystem("int8", embedder)
    report = compare(VectorSystem("float32", embedder), [system], [read_task(tasks / "search")])
    assert not is_quantized_folder(model)  # its card is not written
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {}}))
    (model / "README.md").write_text(f"# int8\n\n{START}\n{END}\n")
    assert is_quantized_folder(model)
    card = write_card(report, "int8", model).read_text()
    assert card.startswith(f"# int8\n\n{START}\n| task |")
    assert card.endswith(f"{END}\n")


def test_cross_encoders_are_known_by_their_head(tasks: Path, tmp_path: Path) -> None:
    cross = write_tiny_cross_encoder(tmp_path / "cross")
    code, out, _ = call(cross, "-t", tasks / "pool", "--json", "--cache-folder", tmp_path / "kept")
    assert code == 0
    assert len(list((tmp_path / "kept").iterdir())) == 2  # the scores of the model and its baseline
    report = json.loads(out)
    assert report["tasks"][0]["queries"] == 3
    assert report["fidelity"]["int8"]["raw"] is None
    code, _, err = call(cross, "-t", tasks / "search")
    assert code == 1
    assert "is a cross-encoder, which reranks: got the retrieval task search" in err


def test_through_an_index(tiny_folder: Path, tasks: Path) -> None:
    code, out, _ = call(tiny_folder, "-t", tasks / "search", "--index", "--mode", "dense", "--json")
    assert code == 0
    assert json.loads(out)["fidelity"]["int8"]["overlap_10"] == 1
    code, _, err = call(tiny_folder, "-t", tasks / "search", "--index", "--cache-folder", tasks)
    assert code == 2
    assert "leave out --cache-folder or --index" in err


def test_a_query_without_hits_is_counted(tiny_folder: Path, tasks: Path) -> None:
    queries = tasks / "search" / "queries.jsonl"
    rows = [json.loads(line) for line in queries.read_text().splitlines()]
    rows[0]["text"] = "zzzz"
    queries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = call(tiny_folder, "-t", tasks / "search", "--index", "--mode", "bm25", "--json")
    assert code == 0
    near = json.loads(out)["fidelity"]["int8"]
    assert (near["overlap_10"], near["same_first"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-t", "./nowhere"], "a task is a folder with corpus.jsonl"),
        (["-t", ","], "--tasks is empty"),
        (["--max-loss", "much"], "must be a share such as 0.3%"),
        (["--kind", "reranking"], "--kind must be TASK=VALUE: got 'reranking'"),
        (["--relevance", "a=b"], "--relevance must be TASK=N with a whole number N: got 'b'"),
        (["--json", "--markdown"], "exclude each other"),
        (["--mode", "bm25"], "--mode has no effect without --index"),
        (["--baseline", "./nowhere"], "there is no folder ./nowhere"),
    ],
)
def test_bad_calls(tiny_folder: Path, tasks: Path, options: list[str], message: str) -> None:
    given = [] if "-t" in options else ["-t", str(tasks)]
    code, _, err = call(tiny_folder, *given, *options)
    assert code == (1 if "./nowhere" in options else 2)
    assert message in " ".join(err.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())


def test_an_embedder_is_not_compared_with_a_cross_encoder(
    tiny_folder: Path, tasks: Path, tmp_path: Path
) -> None:
    cross = write_tiny_cross_encoder(tmp_path / "cross")
    code, _, err = call(tiny_folder, "-t", tasks / "pool", "-b", cross)
    assert code == 2
    assert "an embedding model" in err
    assert "a cross-encoder" in err


@pytest.mark.skipif(find_spec("mteb") is not None, reason="mteb is installed here")
def test_a_name_needs_mteb(tiny_folder: Path) -> None:
    code, _, err = call(tiny_folder, "-t", "SciFact")
    assert code == 1
    assert "mteb is not installed: pip install 'quaver[mteb]'" in err


@pytest.mark.skipif(find_spec("onnxruntime") is not None, reason="onnxruntime is installed here")
def test_other_engines_must_be_known_and_installed(tiny_folder: Path, tasks: Path) -> None:
    for given, expected, message in [
        (["--against", "tensorrt"], 2, "--against takes openvino, onnxruntime: got 'tensorrt'"),
        (["--against", "openvino"], 2, "give --calibration"),
        (["--against", "onnxruntime"], 1, "is not installed: pip install onnx"),
    ]:
        code, _, err = call(tiny_folder, "-t", tasks, *given)
        assert code == expected
        assert message in err


@pytest.mark.parametrize("name", ["splade-bert", "splade-distilbert", "colbert"])
def test_models_of_words_and_tokens(name: str, tasks: Path, tmp_path: Path) -> None:
    folder = unpacked(name, tmp_path)
    code, _, err = quantize(folder, tmp_path / "int8")
    assert (code, err) == (0, "")
    options = ("--tasks", tasks, "--baseline", folder, "--out", tmp_path / "out")
    code, out, err = call(tmp_path / "int8", *options)
    assert code == 0
    for text in ("search", "pool", "float32", "int8", "NDCG@10", "MAP"):
        assert text in out
    report = json.loads((tmp_path / "out/results.json").read_text())
    near = report["fidelity"]["int8"]
    assert near["raw"] is None
    assert 0 < near["overlap_10"] <= 1
    assert START in (tmp_path / "int8/README.md").read_text()
    assert "NDCG@10" in (tmp_path / "int8/README.md").read_text()
    code, _, err = call(tmp_path / "int8", "--tasks", tasks, "--baseline", folder, "--index")
    assert code == 2
    assert "--index is for embedding models" in err


def test_kinds_do_not_mix(tiny_folder: Path, tasks: Path, tmp_path: Path) -> None:
    folder = unpacked("splade-bert", tmp_path)
    code, _, err = call(tiny_folder, "--baseline", folder, "--tasks", tasks)
    assert code == 2
    assert "is an embedding model, splade-bert is a sparse encoder" in err
    code, _, err = call(folder, "--tasks", tasks, "--pooling", "mean")
    assert code == 2
    assert "pooling is for models with one vector for a text" in err
    code, _, err = call(folder, "--tasks", tasks, "--against", "onnxruntime")
    assert code == 2
    assert "--against is for embedding models: got a sparse encoder" in err
