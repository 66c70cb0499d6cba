"""What holds for every command: options, help, exit codes, and what is imported."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest
import typer.rich_utils
from typer.main import get_command
from typer.testing import CliRunner

from quaver import cli
from quaver.cli.app import COMMANDS, load
from quaver.cli.exit_codes import (
    EPILOG,
    FAILED,
    INTERRUPTED,
    LOST_TOO_MUCH,
    PIPE_CLOSED,
    REFUSED,
    TERMINATED,
)
from quaver.embedder import Embedder
from quaver.index import Index
from tiny_model import write_tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
ANY = pytest.mark.parametrize("name", COMMANDS)


def call(*arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code and its error output on one line."""
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.stderr.split())


def options_of(name: str) -> dict[str, list[str]]:
    """Long option to its short ones."""
    found = {}
    for parameter in load(name).params:
        long = [option for option in parameter.opts if option.startswith("--")]
        short = [option for option in parameter.opts if re.fullmatch("-[^-]", option)]
        if parameter.param_type_name == "option":
            found[long[0] if long else short[0]] = short
    return found


# --- Options --------------------------------------------------------------------------------------
def test_a_short_option_means_the_same_in_every_command() -> None:
    meanings: dict[str, set[str]] = defaultdict(set)
    shorts: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for name in COMMANDS:
        for long, short in options_of(name).items():
            shorts[long].add(tuple(short))
            for option in short:
                meanings[option].add(long)
    assert all(len(longs) == 1 for longs in meanings.values()), dict(meanings)
    assert all(len(forms) == 1 for forms in shorts.values()), dict(shorts)
    table = dict(re.findall(r"^\| `(-\w)` \| (?:`(--[\w-]+)`)?", PAGE.read_text(), re.M))
    assert {short: next(iter(longs)) for short, longs in meanings.items()} == {
        short: long or short for short, long in table.items()
    }


@pytest.mark.parametrize("name", ["search", "ask", "status", "check", "remove", "export", "import"])
def test_a_command_about_a_store_names_it_first(name: str) -> None:
    first = load(name).params[0]
    assert (first.name, first.param_type_name, first.required) == ("store", "argument", True)
    assert "--store" not in options_of(name)


def test_the_page_lists_every_command() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `quaver ([\w-]+)", page, re.M) == list(COMMANDS)


# --- Help -----------------------------------------------------------------------------------------
@ANY
def test_every_help_has_an_example_that_parses(name: str) -> None:
    module, _, function = COMMANDS[name].home.partition(":")
    text = inspect.getdoc(getattr(import_module(f"quaver.cli.{module}"), function))
    assert text is not None
    assert " ".join(text.split("\n\n")[0].split()) == COMMANDS[name].summary
    (example,) = re.findall(r"^Example: quaver (.+)$", text, re.M)
    words = [quoted or word for quoted, word in re.findall(r'"(.*?)"|(\S+)', example)]
    assert words[0] == name
    load(name).make_context(name, words[1:])
    shown = CliRunner().invoke(cli.app, [name, "--help"]).stdout
    assert "Example: quaver" in shown


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_shows_every_text_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setattr(typer.rich_utils, "MAX_WIDTH", 2000)  # no text is wrapped
    command = get_command(cli.app) if name is None else load(name)
    shown = CliRunner().invoke(cli.app, [*([name] if name else []), "--help"]).stdout
    shown = " ".join(shown.split())
    for text in (command.help, command.epilog, *(getattr(p, "help", "") for p in command.params)):
        for paragraph in (text or "").split("\n\n"):
            assert " ".join(paragraph.split()) in shown


def test_the_help_imports_no_command() -> None:
    code = "import sys; sys.argv = ['quaver', '--help']\nfrom quaver.__main__ import main\n"
    code += "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert "Exit codes: 0 done" in " ".join(done.stdout.split())
    assert not {"numpy", "quaver_bench", "quaver.evaluate", "quaver.store"} & modules
    assert (
        not {f"quaver.cli.{listed.home.partition(':')[0]}" for listed in COMMANDS.values()}
        & modules
    )


def test_a_command_imports_no_other_room_than_its_own() -> None:
    code = "import sys; from quaver.cli.app import load; [load(name) for name in sys.argv[1:]]; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "info", "search", "quantize"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"quaver.cli.info", "quaver.cli.search", "quaver.cli.quantize"} < set(
        done.stdout.split()
    )
    assert not {"quaver_bench", "quaver.evaluate"} & set(done.stdout.split())


def test_a_misspelled_command_is_suggested() -> None:
    code, errors = call("serach", "kb", "x")
    assert code == REFUSED
    assert "Did you mean 'search'" in errors


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("quaver qu", "quantize"),
        ("quaver search kb x --re", "--rerank"),
        ("quaver index docs --language ge", "german"),
        ("quaver index docs --vectors b", "binary"),
        ("quaver import kb x.parquet --vectors f", "float32"),
    ],
)
def test_completion_knows_commands_and_options(
    line: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_QUAVER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit):
        cli.app(prog_name="quaver")
    assert capsys.readouterr().out.split() == [expected]


# --- Exit codes -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and files that commands take, to be copied."""
    made = tmp_path_factory.mktemp("made")
    (made / "docs").mkdir()
    (made / "docs" / "a.txt").write_text("The list of files.")
    (made / "model").symlink_to(tiny_folder)
    write_tiny_model(made / "other", seed=1)
    with Index.create(made / "kb", Embedder.from_pretrained(tiny_folder)) as index:
        index.update(made / "docs")
    return made


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store named kb in the working directory, beside files that commands take."""
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "kb"


@ANY
def test_an_unknown_option_is_refused(name: str) -> None:
    code, errors = call(name, "--nonsense")
    assert code == REFUSED
    assert errors.startswith("quaver: error: no such option: --nonsense")
    assert f"{name} --help` shows all options" in errors


@ANY
def test_required_arguments_are_required(name: str) -> None:
    needed = [parameter for parameter in load(name).params if parameter.required]
    assert call(name)[0] == (REFUSED if needed or name in {"bench", "embed", "serve"} else 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "docs", "-s", "new", "-m", "./nowhere"],
        ["search", "kb", "list", "-m", "./nowhere"],
        ["search", "kb", "list", "--rerank", "./nowhere"],
        ["ask", "kb", "list", "-m", "./nowhere"],
        ["embed", "-m", "./nowhere", "text"],
        ["quantize", "./nowhere", "int8"],
        ["evaluate", "./nowhere", "-t", "tasks"],
        ["bench", "./nowhere"],
        ["export-st", "./nowhere", "st"],
        ["index", "nowhere", "-s", "kb"],
        ["import", "kb", "nowhere.parquet"],
        ["import", "kb", "model/config.json"],
        ["embed", "-m", "model", "--file", "nowhere.txt"],
        ["ask", "kb", "list", "--prompt", "nowhere.txt"],
        ["evaluate", "model", "-t", "./nowhere"],
        ["evaluate", "model", "-t", "nowhere"],
        ["bench", "model", "--corpus", "nowhere.txt"],
        ["quantize", "model", "int8", "--calibration", "nowhere.txt"],
        ["search", "nowhere", "list"],
        ["ask", "nowhere", "list"],
        ["status", "nowhere"],
        ["check", "nowhere"],
        ["remove", "nowhere", "docs"],
        ["remove", "kb", "elsewhere"],
        ["export", "nowhere", "kb.parquet"],
        ["search", "kb", "list", "-m", "other"],
        ["embed", "-m", "model", "text", "-o", "no/vectors.npy"],
    ],
    ids=" ".join,
)
def test_what_is_missing_or_does_not_fit_fails(
    store: Path, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "tasks").mkdir()
    code, errors = call(*arguments)
    assert errors.startswith("quaver: error: ")
    assert code == FAILED


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "docs", "-s", "new"],
        ["index", "docs", "-s", "kb", "--language", "klingon"],
        ["index", "docs", "-s", "new", "-m", "model", "--vectors", "int4"],
        ["index", "docs", "-s", "new", "-m", "model", "--passage-tokens", "1"],
        ["index", "docs", "-s", "docs", "-m", "model"],
        ["search", "kb", " "],
        ["search", "kb", "list", "-k", "0"],
        ["search", "kb", "list", "-f", "nonsense"],
        ["search", "kb", "list", "--mode", "guess"],
        ["search", "kb", "list", "--candidates", "7"],
        ["search", "kb", "list", "--threads", "2000"],
        ["ask", "kb", "list", "-f", "nonsense"],
        ["ask", "kb", "list", "--llm", "nonsense"],
        ["ask", "kb", "list", "--llm-model", "m"],
        ["ask", "kb", "list", "--timeout", "7"],
        ["check", "kb", "--threads", "1"],
        ["export", "kb", "kb.txt"],
        ["export", "kb", "old.parquet"],
        ["import", "kb", "old.parquet", "--threads", "1"],
        ["embed", "-m", "model"],
        ["embed", "-m", "model", "text", "-o", "old.npy"],
        ["embed", "-m", "model", "text", "--pooling", "cls+max"],
        ["embed", "-m", "model", "text", "--overwrite"],
        ["embed", "-m", "model", "text", "--prompt-name", "nonsense"],
        ["quantize", "model", "docs"],
        ["quantize", "model", "int8", "--max-loss", "much"],
        ["quantize", "model", "int8", "--strict"],
        ["quantize", "model", "int8", "--samples", "7"],
        ["quantize", "model", "int8", "--calibration", "old.npy"],
        ["evaluate", "model", "-t", "docs", "--calibration", "docs"],
        ["evaluate", "model", "-t", "docs", "--max-loss", "much"],
        ["evaluate", "model", "-t", "docs", "--json", "--markdown"],
        ["evaluate", "model", "-t", "docs", "--overwrite"],
        ["evaluate", "model", "-t", "docs", "-o", "measured"],
        ["evaluate", "model", "-t", "docs", "--max-seq-length", "2"],
        ["evaluate", "model", "-t", "docs", "--kind", "nonsense"],
        ["bench"],
        ["bench", "model", "--quick"],
        ["bench", "model", "--report", "docs"],
        ["bench", "model", "--parts", "nonsense"],
        ["bench", "model", "--resume"],
        ["export-st", "model", "docs"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_refused(store: Path, arguments: list[str]) -> None:
    (store.parent / "measured").mkdir()
    kept = ("old.npy", "old.parquet", "measured/results.json")
    for old in kept:
        (store.parent / old).write_text("old")
    code, errors = call(*arguments)
    assert errors.startswith("quaver: error: ")
    assert code == REFUSED
    assert all((store.parent / old).read_text() == "old" for old in kept)
    assert not (store.parent / "new").exists()


def test_every_command_reports_errors_and_signals_in_the_same_way() -> None:
    for listed in COMMANDS.values():
        module, _, function = listed.home.partition(":")
        source = inspect.getsource(getattr(import_module(f"quaver.cli.{module}"), function))
        called = {
            ast.unparse(n.func) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)
        }
        assert "reported_errors" in called, listed.home


@pytest.mark.parametrize("name", ["status", "embed", "info"])
def test_ctrl_c_and_sigterm_have_codes(
    name: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"quaver.cli.{name}")
    target, arguments = {
        "status": ("read_status", ["status", "kb"]),
        "embed": ("_texts", ["embed", "-m", "model", "text"]),
        "info": ("machine_info", ["info"]),
    }[name]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, target, interrupt)
    assert call(*arguments) == (INTERRUPTED, "quaver: interrupted")
    monkeypatch.setattr(module, target, lambda *_: os.kill(os.getpid(), 15))
    assert call(*arguments) == (TERMINATED, "quaver: terminated")


def test_the_exit_codes_are_documented() -> None:
    codes = [FAILED, REFUSED, LOST_TOO_MUCH, INTERRUPTED, PIPE_CLOSED, TERMINATED]
    page = PAGE.read_text(encoding="utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)] == [0, *codes]
    assert all(re.search(rf"\b{code} ", EPILOG) for code in codes)
