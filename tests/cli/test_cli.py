"""The command line: what it prints where, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from typer.testing import CliRunner

import quaver
from quaver import CrossEncoder, cli
from quaver.cli import info as info_command
from quaver.cli.app import COMMANDS, load
from quaver.cli.exit_codes import FAILED, REFUSED
from quaver.cli.terminal import (
    TimeLeft,
    duration,
    excerpt,
    progress_display,
    short_heading,
)
from quaver.embedder import Embedder
from quaver.index import QueryWords
from quaver.index.index import Index, UpdateProgress
from quaver.store import And, Compare, read_conditions
from tiny_model import write_tiny_cross_encoder, write_tiny_model

QUAVER = [sys.executable, "-m", "quaver"]
pytestmark = pytest.mark.usefixtures("shared_converter")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("# List\n\nThe list of files.\n\n# Dict\n\nThe dict of strings.\n")
    (folder / "b.txt").write_text("Each function returns an error.")
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, with pipes instead of a terminal."""
    return subprocess.run(
        [*QUAVER, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def call(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
    """Runs a command in this process, which is faster; returns exit code, stdout, stderr."""
    result = CliRunner().invoke(cli.app, list(map(str, arguments)), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_index_and_search_from_the_shell(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "kb"
    first = run("index", folder, "--model", tiny_folder, "--store", store)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines()[:2] == [
        f"2 files from {folder} in {store}",
        "passages: 3 added, 0 unchanged, 0 removed; 0 texts truncated",
    ]
    (folder / "b.txt").unlink()
    second = run("index", folder, "-m", tiny_folder, "-s", store, "--precision", "float32")
    assert "passages: 0 added, 2 unchanged, 1 removed" in second.stdout
    found = run("search", store, "list of files", "-k", "2", "--json")
    assert (found.returncode, found.stderr) == (0, "")
    answer = json.loads(found.stdout)
    assert answer["query"] == "list of files"
    with Index.open(store) as index:
        expected = index.search("list of files", k=2)
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    assert list(answer["hits"][0]) == [
        *("id", "score", "text", "source", "heading", "start", "end", "root", "metadata")
    ]


def test_indexing_lists_the_folder_once(
    tiny_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []
    scandir = os.scandir

    def counted(path: Path) -> object:
        listed.append(Path(path))
        return scandir(path)

    monkeypatch.setattr("quaver.documents.scan.os.scandir", counted)
    assert call("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb")[0] == 0
    assert listed.count(folder) == 1


def test_search_for_people(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    call("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb")
    code, output, errors = call("search", tmp_path / "kb", "list", "--model", tiny_folder)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith("     ")] == ["1", "2", "3"]
    assert "     Dict" in lines
    assert "     The dict of strings." in lines
    assert not any(line.endswith(" ") for line in lines)


def test_search_is_ranked_filtered_and_reranked(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    store, cross = tmp_path / "kb", write_tiny_cross_encoder(tmp_path / "cross")
    call("index", folder, "-m", tiny_folder, "-s", store, "--language", "none")

    def found(*arguments: object) -> list[tuple[str, float]]:
        code, output, errors = call("search", store, "list of files", "--json", *arguments)
        assert (code, errors) == (0, "")
        return [(hit["text"], hit["score"]) for hit in json.loads(output)["hits"]]

    texts = {"The list of files.", "The dict of strings.", "Each function returns an error."}
    assert [text for text, _ in found("--mode", "bm25")] == [
        "The list of files.",
        "The dict of strings.",
    ]
    assert found("-f", "source=b.txt", "-f", "start>=0")[0][0] == "Each function returns an error."
    assert found("-f", "start>1000") == []
    assert found("--filter", "pages<3", "--mode", "dense") == []  # a field that none has
    reranked = found("--rerank", cross)
    assert {text for text, _ in reranked} == texts
    with Index.open(store) as index:
        ranker = CrossEncoder.from_pretrained(cross)
        expected = index.search("list of files", ranker=ranker)
    assert reranked == [(hit.text, hit.score) for hit in expected]
    assert found("--rerank", cross, "-k", 1) == reranked[:1]
    assert found("--rerank", cross, "--candidates", 1, "-k", 1)[0][0] == found("-k", 1)[0][0]
    assert found("--rerank", cross, "--min-score", reranked[1][1]) == reranked[:2]
    dense = dict(found("--mode", "dense"))
    for text, score in found("--rerank", tiny_folder, "--mode", "bm25"):
        assert score == pytest.approx(dense[text], abs=1e-5)
    for wrong, message in (
        (("--filter", "nonsense"), "--filter must be a field, one of"),
        (("--rerank", folder), "config.json"),
    ):
        code, output, errors = call("search", store, "x", *wrong)
        assert (code, output) == (2 if wrong[0] == "--filter" else 1, "")
        assert message in errors


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("page>=3", Compare("page", ">=", 3)),
        (" author.name != Ada ", Compare("author.name", "!=", "Ada")),
        ("draft==true", Compare("draft", "==", True)),
        ('page="3"', Compare("page", "==", "3")),
        ("when<2030-01-01", Compare("when", "<", "2030-01-01")),
        ("formula=a=b", Compare("formula", "==", "a=b")),
        ("list=[1]", Compare("list", "==", "[1]")),
        ("note=", Compare("note", "==", "")),
        ("gone=null", Compare("gone", "==", None)),
    ],
)
def test_filters_of_the_shell(condition: str, expected: Compare) -> None:
    assert read_conditions([condition]) == And(expected)


def test_two_folders_in_one_store(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    store, other = tmp_path / "kb", tmp_path / "other"
    other.mkdir()
    (other / "b.txt").write_text("Each function returns an error.")
    call("index", folder, "-m", tiny_folder, "-s", store, "--passage-tokens", 20)
    output = call("index", other, "-s", store)[1]  # the model is the store's
    assert "passages: 0 added, 1 reused, 0 unchanged, 0 removed" in output
    output = call("search", store, "function")[1]
    assert f"  {folder}/b.txt\n" in output
    assert f"  {other}/b.txt\n" in output
    assert call("remove", store, folder)[1] == f"3 passages removed from {store}\n"
    output = call("search", store, "function")[1]
    assert output.splitlines()[0].endswith("  b.txt")
    code, output, errors = call("remove", store, folder)
    assert (code, output) == (1, "")
    assert f"{store} holds {other}" in errors
    code, output, errors = call("index", other, "-s", store, "--passage-tokens", 21)
    assert (code, output) == (2, "")
    assert "has passages of 20 tokens, which cannot change" in errors
    for option, asked, kept in (
        ("--language", "german", "english"),
        ("--vectors", "binary", "float32"),
    ):
        code, output, errors = call("index", other, "-s", store, option, asked)
        assert (code, output) == (2, "")
        assert f"with {option[2:]} {kept}, which cannot change: got {asked}" in errors
        assert call("index", other, "-s", store, option, kept)[0] == 0


def test_failures_are_listed_and_only_all_of_them_fail(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / "bad.rst").write_bytes(b"\xff")
    code, output, errors = call("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb")
    assert code == 0
    assert "2 files from" in output
    assert errors.splitlines()[0] == "quaver: 1 file could not be read:"
    assert errors.splitlines()[1].startswith("  bad.rst: not valid utf-8 (text must be")
    for good in ("a.md", "b.txt"):
        (folder / good).unlink()
    code, output, errors = call("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb2")
    assert code == 1
    assert "bad.rst" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["index", "no", "-m", "MODEL", "-s", "kb"],
            "documents come from a folder: there is nothing at no",
        ),
        (["index", "empty", "-m", "MODEL", "-s", "kb"], "supported endings: .txt, .md"),
        (["index", "docs", "-m", "./no-model", "-s", "kb"], "no-model"),
        (["index", "docs", "-m", "MODEL", "-s", "docs"], "a new store needs an empty folder"),
        (["search", "no", "x"], "a folder with a quaver.json: there is none at no"),
        (["search", "kb0", "x", "--model", "OTHER"], "was made with"),
        (["import", "kb", "no.parquet"], "there is no file no.parquet to import"),
        (["evaluate", "MODEL", "-t", "taks"], "there is no folder taks; to find a task of mteb"),
        (["embed", "-m", "MODEL", "--file", "no.txt"], "cannot read no.txt: No such file"),
        (["embed", "-m", "MODEL", "--file", "bad.txt"], "bad.txt must be UTF-8: byte 0 is not"),
        (["embed", "-m", "MODEL", "x", "-o", "no/x.npy"], "cannot write no/x.npy"),
        (["embed", "-m", "MODEL", "x", "--prompt-name", "no"], "no prompt is named 'no'"),
        (
            ["embed", "-m", "MODEL", "x", "--prompt-name", "query", "--prompt", "a"],
            "give prompt or prompt_name",
        ),
    ],
)
def test_errors_are_one_line_and_leave_nothing_behind(
    tiny_folder: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    write_tiny_model(tmp_path / "OTHER", seed=1)
    Index.create("kb0", Embedder.from_pretrained(tiny_folder)).close()
    real = [str(tiny_folder) if argument == "MODEL" else argument for argument in arguments]
    code, output, errors = call(*real)
    assert (code in (1, 2), output) == (True, "")
    assert errors.startswith("quaver: error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert not (tmp_path / "kb").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["index"],
        ["search", "kb", "x", "-k", "0"],
        ["index", "docs", "-m", "x", "-s", "kb", "--precision", "int4"],
        ["embed", "-m", "x"],
        ["embed", "-m", "x", "text", "--file", "lines.txt"],
        ["embed", "-m", "x", "text", "-o", "vectors.csv"],
        ["embed", "text"],
        ["nosuch"],
    ],
)
def test_wrong_usage_is_one_line_and_exits_2(arguments: list[str]) -> None:
    code, output, errors = call(*arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("quaver: error: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "options", [["--scheme", "static"], ["--rounding", "gptq"], ["--max-loss", "0.1%"]]
)
def test_quantizing_without_text_speaks_of_the_option(
    tiny_folder: Path, tmp_path: Path, options: list[str]
) -> None:
    code, output, errors = call("quantize", tiny_folder, tmp_path / "int8", *options)
    assert (code, output) == (2, "")
    assert "invalid value for --calibration" in errors
    assert f"{' '.join(options[: 1 if 'loss' in options[0] else 2])} needs calibration" in errors


@pytest.mark.slow
def test_embed_gives_what_the_library_gives(tiny_folder: Path, tmp_path: Path) -> None:
    texts = ["the list", "", "the dict of files"]
    expected = Embedder.from_pretrained(tiny_folder).encode(texts)
    (tmp_path / "lines.txt").write_text("\n".join(texts) + "\n")
    printed = [
        run("embed", "--model", tiny_folder, *texts).stdout,
        call("embed", "--model", tiny_folder, "-", stdin="\n".join(texts))[1],
        call("embed", "--model", tiny_folder, "--file", tmp_path / "lines.txt")[1],
    ]
    for output in printed:
        rows = [json.loads(line) for line in output.splitlines()]
        # seven significant digits are printed
        np.testing.assert_allclose(np.array(rows), expected, rtol=1e-6, atol=1e-9)
    code, output, _ = call("embed", "-m", tiny_folder, *texts, "-o", tmp_path / "vectors.npy")
    assert (code, output) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), expected)


def test_the_version() -> None:
    assert call("--version") == (0, f"quaver {quaver.__version__}\n", "")


def test_the_help_begins_with_what_a_new_user_needs() -> None:
    shown = call("--help")[1]
    places = [shown.index(f"\N{BOX DRAWINGS LIGHT VERTICAL} {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_cuts_no_option_and_no_address_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    code, shown, _ = call(name, "--help")
    assert code == 0
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    for option in load(name).params:
        for long in option.opts:
            assert not long.startswith("--") or f"{long} " in shown


def test_info_prints_what_the_library_says(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "cpu": "a [bold] CPU",
        "instruction_sets": {"scalar": True, "amx": False},
        "threads": 2,
        "instances": [{"cpus": "0-3", "threads": 4, "command": "taskset -c 0-3 quaver serve"}],
    }
    settings = {"governor": None, "numa_nodes": [2]}
    advice = ["one thread on each core"]
    said = {**facts, "advice": advice, "settings": settings}
    monkeypatch.setattr(info_command, "machine_info", lambda: dict(said))
    assert json.loads(call("info", "--json")[1]) == {**facts, **settings, "advice": advice}
    assert call("info")[1].splitlines() == [
        "cpu               a [bold] CPU",
        "instruction sets  scalar",
        "threads           2",
        "instances         4 threads on CPUs 0-3",
        "governor          none",
        "numa nodes        2",
        "advice            one thread on each core",
    ]


@pytest.mark.slow
def test_a_closed_pipe_is_no_traceback(tiny_folder: Path) -> None:
    command = [*QUAVER, "embed", "-m", str(tiny_folder), *(f"text {i}" for i in range(500))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) in (0, 141)


def test_ctrl_c_while_the_command_line_is_loaded_is_no_traceback() -> None:
    code = """if True:
        import sys

        class Interrupt:
            def find_spec(self, name, path=None, target=None):
                if name == "quaver.cli.ask":
                    raise KeyboardInterrupt

        sys.meta_path.insert(0, Interrupt())
        from quaver.__main__ import main

        sys.argv = ["quaver", "ask", "kb", "why"]
        sys.exit(main())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "quaver: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_the_work_and_says_that_it_can_be_finished(
    tiny_folder: Path, folder: Path, tmp_path: Path, number: int, code: int, word: str
) -> None:
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"file {i} of many. " * 200)
    store = tmp_path / "kb"
    command = [*QUAVER, "index", str(folder), "-m", str(tiny_folder), "-s", str(store)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (store / "quaver.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors == f"quaver: {word}: what was stored stays; run it again to finish\n"
    assert output == ""
    code, output, _ = call("index", folder, "-s", store)
    assert (code, output.splitlines()[0]) == (0, f"62 files from {folder} in {store}")


def in_a_terminal(
    *arguments: object, columns: int, stdout: bool = False, **environment: str
) -> tuple[int, str]:
    """Runs a command with a terminal for stderr, or for stdout; returns exit code and what it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*QUAVER, *map(str, arguments)],
        stdout=theirs if stdout else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if stdout else theirs,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal's other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(60), shown.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "pattern"),
    [
        (100, r" \d+ % \|.*\| (.* left, )?[\d,]+ passages, \d+/s"),
        (40, r" \d+ % (.* left, )?[\d,]+ passages"),
    ],
)
def test_a_terminal_gets_a_progress_bar(
    tiny_folder: Path, folder: Path, tmp_path: Path, columns: int, pattern: str
) -> None:
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"file {i} of many. " * 100)
    code, shown = in_a_terminal(
        *("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb"), columns=columns
    )
    assert code == 0
    lines = [line for line in re.split(r"[\r\n]", shown) if line.strip()]
    assert [line for line in lines if re.search(pattern, line)]
    assert max(map(cell_len, lines)) <= columns


@pytest.mark.slow
def test_quiet_shows_nothing_on_a_terminal(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    code, shown = in_a_terminal(
        *("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb", "--quiet"), columns=80
    )
    assert (code, shown) == (0, "")


def test_without_a_terminal_a_line_now_and_then(
    tiny_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"file {i} of many. " * 100)
    monkeypatch.setattr("quaver.cli.terminal.LINE_SECONDS", 0.05)
    _, _, errors = call("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb")
    lines = errors.splitlines()
    assert lines
    assert all(
        re.fullmatch(r"quaver: \d+ %, (reading files|(.* left, )?[\d,]+ passages(, \d+/s)?)", line)
        for line in lines
    )
    _, _, errors = call("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb2", "-q")
    assert errors == ""


def progress(work_done: int, work_total: int) -> UpdateProgress:
    return UpdateProgress(0, 10**9, 0, 0, work_done, work_total)


def test_the_time_left_is_unknown_until_enough_was_seen() -> None:
    left = TimeLeft()
    left.see(progress(0, 10_000), 0.0)
    assert left.seconds(8.0) is None  # 8 bytes of a file that failed are no work
    left.see(progress(100, 10_000), 20.0)
    assert left.seconds(25.0) is None  # how long reading took tells nothing about embedding
    for second in range(21, 27):
        left.see(progress(100 * (second - 19), 10_000), float(second))
    assert left.seconds(26.0) == pytest.approx(9_300 / 100)
    assert left.seconds(27.0) == left.seconds(26.0)  # the next batch is under way
    assert left.seconds(30.0) == pytest.approx(9_300 * 9 / 600)


def test_before_the_first_passage_the_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quaver.cli.terminal.LINE_SECONDS", 0.01)
    with progress_display() as show:
        show(progress(0, 10_000))
        while not (shown := capsys.readouterr().err):
            time.sleep(0.01)
    assert shown.splitlines()[0] == "quaver: 0 %, reading files"


def test_the_time_left_follows_the_pace_of_the_last_minute() -> None:
    left, done = TimeLeft(), 0
    for second in range(200):
        done += 100 if second < 100 else 10
        left.see(progress(done, 20_000), float(second))
    assert left.seconds(199.0) == pytest.approx((20_000 - done) / 10, rel=0.05)
    # Standing still makes it longer.
    assert (left.seconds(230.0) or 0) > (left.seconds(199.0) or 0)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "10 s"),
        (31, "40 s"),
        (58, "1 min"),
        (754, "13 min"),
        (3_590, "1 h"),
        (7_900, "2 h 10 min"),
    ],
)
def test_a_duration_is_as_rough_as_it_is_known(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.slow
def test_a_store_is_searched_while_another_process_writes(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "kb"
    with Index.create(store, Embedder.from_pretrained(tiny_folder)) as index:
        index.add(["The list of files."])
        found = run("search", store, "files")
        assert found.returncode == 0, found.stderr
        assert "The list of files." in found.stdout
        refused = run("index", folder, "--store", store)
        assert refused.returncode == 1
        assert "is open in another; wait for it (--wait" in refused.stderr
        command = [sys.executable, "-m", "quaver.cli", "index", folder, "--store", store, "--wait"]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
    output, _ = waiting.communicate(timeout=100)
    assert waiting.returncode == 0, output


@pytest.mark.parametrize("command", [["index", "{folder}", "-s"], ["remove"], ["import"]])
def test_the_lock_is_tried_before_a_model_is_loaded(
    tiny_folder: Path, folder: Path, tmp_path: Path, command: list[str]
) -> None:
    store, moved = tmp_path / "kb", tmp_path / "model"
    shutil.copytree(tiny_folder, moved)
    given = [part.format(folder=folder) for part in command]
    if command[0] == "import":
        from pyarrow import parquet, table

        parquet.write_table(table({"id": ["a"], "text": ["b"]}), tmp_path / "x")
        given = ["import", "-m", str(moved)]
    with Index.create(store, Embedder.from_pretrained(moved)):
        (moved / "model.safetensors").unlink()  # loading it would be another error
        more = {"remove": [str(folder)], "import": [str(tmp_path / "x")]}.get(command[0], [])
        code, _, errors = call(*given, store, *more)
    assert code == 1
    assert "is open in another" in errors, errors


@pytest.mark.parametrize(
    ("heading", "width", "shown"),
    [
        ("Guide > Lists > Sorting", 23, "Guide > Lists > Sorting"),
        ("Guide > Lists > Sorting", 22, "… > Lists > Sorting"),
        ("Guide > Sorting a list of objects", 30, "… > Sorting a list of objects"),
        ("Guide > Sorting a list of objects", 20, "… > Sorting a list…"),
        ("文書の見出しはとても長いです", 20, "文書の見出しはとて…"),
    ],
)
def test_a_long_heading_keeps_its_end(heading: str, width: int, shown: str) -> None:
    assert short_heading(heading, width) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("a few  words\nnow", "     a few words now"),
        ("one two three four five", "     one two three\n     four five"),
        (
            "one two three four five six seven eight nine ten",
            "     one two three\n     four five six\n     seven eight …",
        ),
        ("a" * 50, f"     {'a' * 15}\n     {'a' * 15}\n     {'a' * 13} …"),
        # Chinese characters take two columns.
        ("馬祖列島是隸屬於", "     馬祖列島是隸屬\n     於"),
    ],
)
def test_a_snippet_fits_its_lines(text: str, shown: str) -> None:
    assert excerpt(text, QueryWords("", "none"), width=20).plain == shown
    assert all(cell_len(line) <= 20 for line in shown.splitlines())


LONG = " ".join(f"Sentence number {i} speaks of nothing that matters." for i in range(30))
ROWS = "\n".join(f"name: Person {i}; born: {1800 + i}; town: Port {i}" for i in range(40))


@pytest.mark.parametrize(
    ("text", "query", "shown"),
    [
        # A sentence in the middle, found by its stem; stop words of the question count for nothing.
        (
            f"{LONG} Two dictionaries are merged with the | operator. {LONG}",
            "how do I merge a dictionary",
            "     … Two dictionaries are merged with the | operator. Sentence number 0",
        ),
        # Nothing of the question is there: the beginning.
        (LONG, "zebra", "     Sentence number 0 speaks of nothing that matters. Sentence number 1"),
        # The row of a table, from its beginning, and the rows behind it as lines of their own.
        (
            ROWS,
            "person 33",
            "     … name: Person 33; born: 1833; town: Port 33\n     name: Person 34; born",
        ),
        (ROWS, "person born in 1839", "     … name: Person 39; born: 1839; town: Port 39"),
        # A cell of a long row.
        (
            "name: Ada; "
            + "; ".join(f"field{i}: {'word ' * 20}" for i in range(9))
            + "; town: Oslo",
            "oslo",
            "     … town: Oslo",
        ),
        # A long sentence without an end: some words before.
        ("word " * 400 + "zebra " + "word " * 400, "zebra", "     … word word word"),
        # Chinese has no spaces.
        (
            "馬祖列島是隸屬於中華民國的一個群島。" * 9 + "如何合併字典。" * 2,
            "字典",
            "     …如何合併字典。",
        ),
    ],
)
def test_an_excerpt_is_where_the_question_is_answered(text: str, query: str, shown: str) -> None:
    words = QueryWords(query, "english")
    found = excerpt(text, words, width=80)
    assert found.plain.startswith(shown)
    assert all(cell_len(line) <= 80 for line in found.plain.splitlines())
    if words.find(text):
        assert [span for span in found.spans if "bold" in str(span.style)]


@given(
    st.text(alphabet="ab c.;:|\n字", max_size=400),
    st.text(alphabet="abc 字", max_size=9),
    st.integers(1, 60),
)
def test_an_excerpt_shows_a_word_of_the_question_in_any_text(
    text: str, query: str, width: int
) -> None:
    words = QueryWords(query, "none")
    found = excerpt(text, words, width=width)
    assert len(found.plain.splitlines()) <= 3
    assert all(cell_len(line) <= max(width, 20) for line in found.plain.splitlines())
    short = [end - begin for begin, end, _ in words.find(text) if end - begin <= 10]
    if short and len(short) == len(words.find(text)):
        assert [span for span in found.spans if "bold" in str(span.style)]


@pytest.mark.slow
def test_words_are_bold_on_a_terminal_and_nowhere_else(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "kb"
    call("index", folder, "-m", tiny_folder, "-s", store)
    search = ("search", store, "list of files", "-k", 1)
    _, shown = in_a_terminal(*search, columns=80, stdout=True)
    assert "\x1b[1mlist\x1b[0m" in shown
    _, plain = in_a_terminal(*search, columns=80, stdout=True, NO_COLOR="1")
    assert "\x1b[1mlist\x1b[0m" in plain  # bold is no color
    assert "\x1b[32m" not in plain
    assert "\x1b" not in call(*search)[1]


def test_status_tells_what_a_store_holds(
    tiny_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = tmp_path / "kb", tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    (folder / "bad.rst").write_bytes(b"\xff")
    call("index", folder, "-m", model, "-s", store)
    shutil.rmtree(model)  # it is not needed
    code, output, errors = call("status", store)
    assert (code, errors) == (0, "")
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert f"model {model} (no longer there: name it with -m)" in lines
    assert any(line.startswith("passages 3, at most ") for line in lines)
    assert "files 2; 1 could not be read" in lines
    assert any(re.fullmatch(r"size [\d.]+ [kM]B", line) for line in lines)
    assert any(re.fullmatch(r"2 files, 3 passages, updated \d{4}-.*", line) for line in lines)
    assert "bad.rst: not valid utf-8" in output
    assert str(folder) in lines
    found = json.loads(call("status", store, "--json")[1])
    assert (found["files"], found["failures"], found["passages"]) == (2, 1, 3)
    assert found["folders"][0]["failed"][0]["source"] == "bad.rst"
    assert found["updated"] >= found["created"]
    assert call("status", tmp_path / "no")[0] == 1


def test_a_model_that_moved_is_named_by_an_option(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    store, model = tmp_path / "kb", tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    call("index", folder, "-m", model, "-s", store)
    model.rename(tmp_path / "moved")
    for command in ("search", "ask"):
        code, _, errors = call(command, store, "list")
        assert code == 1
        assert "if it has moved, name its new place with -m" in errors
        assert call(command, store, "list", "-m", tmp_path / "moved")[0] == 0


def test_no_model_is_loaded_where_none_is_used(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    store, model = tmp_path / "kb", tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    cross = write_tiny_cross_encoder(tmp_path / "cross")
    call("index", folder, "-m", model, "-s", store)
    shutil.rmtree(model)
    for more in ([], ["--rerank", cross]):
        code, output, errors = call("search", store, "list", "--mode", "bm25", *more)
        assert (code, errors) == (0, "")
        assert "The list of files." in output
    assert call("ask", store, "list", "--mode", "bm25")[0] == 0
    assert call("remove", store, folder) == (0, f"3 passages removed from {store}\n", "")


def test_whole_passages(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    lines = [f"Line {i} of the list." for i in range(6)]
    (folder / "a.txt").write_text("\n".join(lines))
    call("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb")
    _, output, _ = call("search", tmp_path / "kb", "list", "--full")
    assert output.splitlines()[1:] == [f"     {line}" for line in lines]
    assert len(call("search", tmp_path / "kb", "list")[1].splitlines()) < 6


def test_links_that_lead_outside_are_told(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    command = ("index", folder, "--model", tiny_folder, "--store", tmp_path / "kb")
    _, out, err = call(*command)
    assert "2 files from" in out
    assert "not followed, --follow-links does: 1 link that leads out of the folder: link.txt" in err
    _, out, err = call(*command, "--follow-links")
    assert "3 files from" in out
    assert "--follow-links" not in err


def test_other_files_and_misspelt_fields_are_told(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    for name in ("a.doc", "b.DOC", "photo.jpg", "program"):
        (folder / name).write_bytes(b"\0")
    store = tmp_path / "kb"
    _, _, err = call("index", folder, "--model", tiny_folder, "--store", store)
    assert "skipped files of other kinds: 2 .doc, 1 without ending, 1 .jpg\n" in err
    code, out, err = call("search", store, "list", "--filter", "pgae=1", "--filter", "source=no")
    assert (code, out) == (0, "nothing found\n")
    assert err == f"quaver: no passage in {store} has a field 'pgae'\n"


def test_documents_cannot_steer_the_terminal(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a\x1b[31m\nb.md").write_text("# Title \x1b]0;\x07\n\nThe \x1b[2Jlist.")
    (folder / "c\x1b.txt").write_bytes(b"\xff")
    _, _, errors = call("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb")
    assert errors.splitlines()[1].startswith("  c�.txt: not valid utf-8")
    output = call("search", tmp_path / "kb", "list")[1]
    assert output.splitlines() == [
        f"  1  {output.split()[1]}  a�[31m�b.md",
        "     Title �]0;�",
        "     The �[2Jlist.",
    ]


def test_a_folder_without_pooling_can_be_used_from_the_shell(folder: Path, tmp_path: Path) -> None:
    bare = write_tiny_model(tmp_path / "bare")
    (bare / "modules.json").unlink()
    store = tmp_path / "kb"
    code, _, errors = call("index", folder, "--model", bare, "--store", store)
    assert code == 2
    assert "pooling" in errors
    assert call("index", folder, "--model", bare, "--store", store, "--pooling", "cls")[0] == 0
    assert call("search", store, "list")[0] == 0


def test_poolings_from_the_shell_are_those_of_the_library(tmp_path: Path) -> None:
    bare = write_tiny_model(tmp_path / "bare", pooling=None)
    vectors = tmp_path / "vectors.npy"
    code, _, errors = call("embed", "text", "-m", bare, "--pooling", "cls+max", "-o", vectors)
    assert (code, np.load(vectors).shape) == (0, (1, 128)), errors
    code, _, errors = call("embed", "text", "-m", bare, "--pooling", "middle", "-o", vectors)
    assert code == 2
    assert "lasttoken" in errors


# --- Files ----------------------------------------------------------------------------------------
def test_embed_writes_the_vectors_of_files(tmp_path: Path, tiny_folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "the file"}\n{"id": 2, "text": null}\n')
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really PAR1")
    out = tmp_path / "vectors"
    command = ["embed", tmp_path / "*.jsonl", "-m", tiny_folder, "--output", out, "--keep", "id"]
    code, shown, errors = call(*command, "--core-price", "0.04")
    assert code == 0
    assert f"2 rows of 1 shard in {out}" in shown
    assert "per million tokens" in shown
    assert f"1 row without a result, with reasons in {out}/_quaver/failed" in errors
    (file,) = out.glob("*.parquet")
    assert parquet.read_table(file)["id"].to_pylist() == ["1", "2"]

    code, shown, errors = call(*command, tmp_path / "b.parquet")
    assert code == FAILED
    assert f"2 rows of 1 shard, 1 of them before in {out}" in shown
    assert "1 shard could not be embedded:" in errors
    assert f"{tmp_path}/b.parquet: cannot read {tmp_path}/b.parquet" in errors
    assert call(*command, "--dtype", "int8")[0] == FAILED
    assert call(*command[:-2], "--column", "body")[0] == REFUSED


@pytest.mark.parametrize("name", ["a.jsonl", "s3://bucket/a.parquet"])
def test_embed_says_that_a_name_is_not_what_is_in_the_file(
    name: str, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "the file"}\n')
    code, shown, errors = call("embed", "the file", name, "-m", tiny_folder)
    assert code == 0
    assert len(shown.splitlines()) == 2
    assert f"quaver: embedding the name {name} as a text, not what is in the file" in errors
    assert "--output FOLDER" in errors
    for texts in (["the file", "a", "x" * 5_000, "s3:// is a scheme"], ["-"]):
        assert call("embed", *texts, "-m", tiny_folder, stdin="a.jsonl\n")[2] == ""


@pytest.mark.parametrize(
    "options",
    [
        ["--column", "x"],
        ["--keep", "x"],
        ["--engine", "ray"],
        ["--dtype", "int8"],
        ["--workers", "2"],
    ],
)
def test_embed_refuses_options_of_files_without_output(options: list[str]) -> None:
    code, _, errors = call("embed", "text", "-m", "x", *options)
    assert code == REFUSED
    assert f"{options[0]} has no effect without --output" in errors
    assert call("embed", "-m", "x", "--output", "out", *options)[0] == REFUSED


def test_plan_prints_an_estimate(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "a.txt").write_text("the file\n" * 100)
    command = [
        "plan",
        tmp_path / "a.txt",
        "-m",
        tiny_folder,
        "--cores",
        "64",
        "--core-price",
        "0.04",
    ]
    code, shown, _ = call(*command)
    assert code == 0
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert lines["rows"].endswith("about 100")
    assert lines["time"].endswith("on 64 cores")
    assert "core-hours at $0.04" in lines["cost"]
    assert call("plan", tmp_path / "none.txt", "-m", tiny_folder)[0] == FAILED


def test_commands_of_corpora_are_found_by_bulk(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "a.txt").write_text("the file\n" * 10)
    code, shown, _ = call("bulk", "plan", tmp_path / "a.txt", "-m", tiny_folder)
    assert code == 0
    assert "rows       about 10" in shown
    assert "quaver plan" in call("bulk", "plan", "--help")[1]
    for rest in ([], ["info"], ["--help"]):
        code, _, errors = call("bulk", *rest)
        assert code == REFUSED
        assert "for a corpus there are `quaver plan`, `quaver embed --output` and" in errors
    assert "`quaver plan` estimates" in " ".join(call("embed", "--help")[1].split())
