"""Figures of README and docs must be those of the results files that they name; paths must exist."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import pytest

from quaver.cli.app import COMMANDS, OF_CORPORA, load

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")]
)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README", "RESULTS_PAGE", "SCHEMES_PAGE"])
def test_the_quality_tables_are_those_of_the_records(page: str) -> None:
    readme = script("readme_quality")
    text = getattr(readme, page).read_text(encoding="utf-8")
    shown = text.partition(readme.START)[2].partition(readme.END)[0].strip()
    section = {
        "README": readme.readme_section,
        "RESULTS_PAGE": readme.results_section,
        "SCHEMES_PAGE": readme.schemes_section,
    }[page]
    assert shown == section().strip(), "run benchmarks/readme_quality.py"


def test_a_record_of_quality_counts_each_set_once() -> None:
    found = script("readme_quality").records()
    assert found
    for place, results in found.items():
        with (REPOSITORY / place / "queries.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        sets = [[row for row in rows if row["task"] == task["task"]] for task in results["tasks"]]
        assert results["overall"]["tasks"] == len(sets)
        assert results["overall"]["queries"] == len(rows)
        means = {
            system: fmean(fmean(float(row[system]) for row in rows) for rows in sets)
            for system in [results["baseline"], *results["systems"]]
        }
        base = means.pop(results["baseline"])
        for system, mean in means.items():
            own = results["overall"]["systems"][system]
            assert own["relative"] == pytest.approx(mean / base - 1, abs=2e-6)
            assert own["low"] <= own["relative"] <= own["high"]


def test_a_model_is_summarized_by_its_record_with_the_most_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readme = script("readme_quality")
    (place, results), *_ = readme.records().items()
    small = json.loads(json.dumps(results))
    small["overall"]["queries"] = results["overall"]["queries"] - 1
    for found in ({place: results, "other": small}, {"other": small, place: results}):
        monkeypatch.setattr(readme, "records", lambda found=found: found)
        assert readme.largest() == {place: results}
        assert readme.readme_section().count(results["run"]["model"]) == 1
        name = results["run"]["model"]
        headings = re.findall(rf"^### {re.escape(name)}.*$", readme.results_section(), flags=re.M)
        assert [heading.endswith(", on smaller sets") for heading in headings] == [
            key == "other" for key in found
        ]


@pytest.mark.parametrize(
    ("low", "mean", "high", "verdict"),
    [
        (-0.0009, 0.0002, 0.001, "yes"),
        (-0.0011, 0.0002, 0.0005, "the mean"),
        (-0.0003, -0.001, 0.0012, "the mean"),
        (-0.004, -0.002, 0.0, "no"),
    ],
)
def test_a_loss_is_within_the_goal_only_if_its_interval_is(
    low: float, mean: float, high: float, verdict: str
) -> None:
    found = {"low": low, "relative": mean, "high": high}
    assert script("readme_quality")._verdict(found) == verdict


def sections(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the headings of a page and the text below each, without code and the tables that are compared whole."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"<!-- quality:start -->.*?<!-- quality:end -->", "", text, flags=re.S)
    parts = re.split(r"^#+ +(.*)$", text, flags=re.M)
    yield from zip(["", *parts[1::2]], parts[::2], strict=True)


def numbers(found: Any) -> Iterator[float]:
    """Yield the numbers in JSON."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        for each in found:
            yield from numbers(each)
    elif isinstance(found, float):
        yield found


def recorded(page: Path, section: str) -> list[float]:
    """Return the numbers of the results files that a section names; a page stands for the results.json beside it."""
    found: list[float] = []
    links = re.findall(r"\]\(([^)#]*benchmarks/results/[^)#]*)\)", section)
    paths = [(page.parent / target).resolve() for target in links]
    paths += [REPOSITORY / name for name in re.findall(r"`(benchmarks/results/[^`]*)`", section)]
    for path in paths:
        if path.is_dir() or path.suffix in (".svg", ".png", ".md"):
            path = (path if path.is_dir() else path.parent) / "results.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        values = list(numbers(content))
        found += values
        if "sets" in content:  # a page has the mean over the sets
            each = [list(numbers(one)) for one in content["sets"].values()]
            found += [sum(parts) / len(parts) for parts in zip(*each, strict=False)]
        if path.parent.name in ("rounding", "schemes"):  # losses in parts of 10,000
            found += [1 - value / 1e4 for value in values]
    return found


# A cosine, or a difference in percent with its interval.
COSINE = re.compile(r"(?<![\d.])0\.9\d{3,5}(?![\d.]*\d)")
DIFFERENCE = re.compile(r"([+-]?\d+\.\d\d) % \(([+-]\d+\.\d\d) to ([+-]\d+\.\d\d)\)")
WITHOUT_RECORD = {
    # Random models, by `make parity-families`, which compares and writes no file.
    ("docs/guide/models.md", "Models"),
    ("docs/guide/models.md", "Parity at real shapes"),
}
# All of its tables are compared with their records, by the test above and in tests/quaver_bench.
COMPARED = REPOSITORY / "docs" / "results.md"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != COMPARED],
    ids=lambda page: page.relative_to(REPOSITORY).as_posix(),
)
def test_a_figure_of_quality_is_in_a_record_that_its_section_names(page: Path) -> None:
    unknown = []
    for heading, text in sections(page):
        if (page.relative_to(REPOSITORY).as_posix(), heading) in WITHOUT_RECORD:
            continue
        cosines = COSINE.findall(text)
        shares = [part for parts in DIFFERENCE.findall(text) for part in parts]
        if not cosines and not shares:
            continue
        known = recorded(page, text)
        for figure in cosines:
            digits = len(figure) - 2
            scaled = [value * 10**digits for value in known if 0.8 < value <= 1]
            # Rounded, or rounded down.
            rounded = {f"{f(v) / 10**digits:.{digits}f}" for v in scaled for f in (int, round)}
            if figure not in rounded:
                unknown.append(f"{heading}: {figure}")
        percents = {f"{abs(100 * value):.2f}" for value in known}
        unknown += [f"{heading}: {s} %" for s in shares if s.lstrip("+-") not in percents]
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_the_paths_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(
        r"(?<![\w./-])(?:src|native|tests|tools|benchmarks|docs|examples)/[\w./-]*\w/?", text
    )
    missing = [path for path in named if not (REPOSITORY / path).exists()]
    assert not missing


COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ +)*(?:\.\S*/)?(?:python3? +(?:benchmarks|tools)/|make |quaver )"
)
VALUES = {"store_true": 0, "store_false": 0, "help": 0}
"""Actions of argparse that take no value."""


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of the commands that a page shows, in code spans, indented lines and blocks of code."""
    text = re.sub(r" *\\\n *", " ", page.read_text(encoding="utf-8"))
    lines = [line.strip() for line in re.findall(r"^    .+$", text, re.M)]
    lines += [
        line
        for block in re.findall(
            r"^```(?:sh|bash|shell|console|text)?\n(.*?)^```", text, re.M | re.S
        )
        for line in block.splitlines()
    ]
    for shown in [*lines, *re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]:
        if COMMAND.match(shown):
            words = shlex.split(" ".join(shown.split()), comments=True)
            yield [word for word in words if word not in ("...", "[FOLDER") and word != "...]"]


def arguments_of(script: Path) -> tuple[dict[str, tuple[Any, bool]], int]:
    """Return the options of a script with their number of values, and whether each is required.

    Returns:
        the options, and how many positional arguments are required.
    """
    options: dict[str, tuple[Any, bool]] = {}
    positional = 0
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        names = [a.value for a in node.args if isinstance(a, ast.Constant)]
        if name not in ("add", "add_argument") or not all(isinstance(n, str) for n in names):
            continue
        given = {
            word.arg: word.value.value
            for word in node.keywords
            if isinstance(word.value, ast.Constant)
        }
        values = given.get("nargs", VALUES.get(str(given.get("action")), 1))
        for option in (n for n in names if isinstance(n, str) and n.startswith("-")):
            options[option] = values, bool(given.get("required"))
        positional += bool(names) and not str(names[0]).startswith("-") and values not in ("*", "?")
    return options, positional


def wrong_with_script(words: list[str]) -> Iterator[str]:
    """Yield what a script would not understand, or lacks."""
    options, positional = arguments_of(REPOSITORY / words[0])
    waiting: Any = 0
    given = set()
    for word in words[1:]:
        option, equals, _ = word.partition("=")
        if word.startswith("--"):
            given.add(option)
            if option not in options and option != "--help":
                yield f"no option {option}"
            waiting = 0 if equals else options.get(option, (0, False))[0]
        elif waiting in ("*", "+"):
            continue
        elif waiting:
            waiting = 0
        else:
            positional -= 1
    if words[1:] and "--help" not in given:  # a name alone is no call
        yield from (f"lacks {o}" for o, (_, needed) in options.items() if needed and o not in given)
        if positional > 0:
            yield f"lacks {positional} arguments"


def wrong_with(words: list[str]) -> Iterator[str]:
    """Yield what is wrong with a command."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, *words = words
    if program.endswith("make"):
        makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
        known = set(re.findall(r"^([a-z][\w.-]*(?: [a-z][\w.-]*)*):", makefile, re.M))
        verbs = {verb for names in known for verb in names.split()}
        asked = [word for word in words if "=" not in word and "/" not in word]
        yield from (f"no verb {word}" for word in asked if word not in verbs)
        named = {word.partition("=")[0] for word in words if "=" in word}
        yield from (f"no variable {name}" for name in named if name not in makefile)
    elif program.endswith("quaver"):
        if words[:1] == ["bulk"]:  # it may stand before the commands of corpora
            yield from () if words[1:2] and words[1] in OF_CORPORA else ("no command bulk",)
            words = words[1:]
        if words and words[0] in COMMANDS:
            parameters = load(words[0]).params
            known = {"--help", *(o for p in parameters for o in (*p.opts, *p.secondary_opts))}
            asked = [word.partition("=")[0] for word in words if re.match(r"--\w", word)]
            yield from (f"no option {option}" for option in asked if option not in known)
        elif words and not (words[0].startswith("-") or words[0].isupper()):
            yield f"no command {words[0]}"
    elif words:
        yield from wrong_with_script(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_the_commands_that_a_page_shows_exist_with_their_options(page: Path) -> None:
    wrong = {" ".join(words): found for words in commands(page) if (found := [*wrong_with(words)])}
    assert not wrong


PUBLIC = ("quaver", "quaver.bulk", "quaver.errors", "quaver.evaluate", "quaver.store")
"""Modules on the reference pages; those of frameworks are in `quaver.integrations`."""


@pytest.mark.parametrize(
    "script",
    sorted((REPOSITORY / "examples").rglob("*.py")),
    ids=lambda path: path.relative_to(REPOSITORY).as_posix(),
)
def test_an_example_imports_only_public_modules(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    named = {
        name
        for node in ast.walk(tree)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if name.partition(".")[0] == "quaver"
    }
    private = {name for name in named if name not in PUBLIC}
    assert not {name for name in private if not name.startswith("quaver.integrations.")}


def test_a_filter_that_a_page_shows_finds_a_sample_document() -> None:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    shown = {
        source
        for page in pages
        for line in re.findall(r"^    .+$", page.read_text(encoding="utf-8"), re.M)
        for source in re.findall(r'"source=([^"]+)"', line)
    }
    assert shown
    for source in shown:
        assert (REPOSITORY / "examples" / "python-docs" / source).is_file(), source


def test_the_simulated_machines_are_those_of_the_record() -> None:
    many = script("many_cores")
    shown = many.PAGE.read_text(encoding="utf-8").partition(many.START)[2].partition(many.END)[0]
    record = json.loads(many.RECORD.read_text(encoding="utf-8"))
    assert shown.strip() == many.section(record), "run benchmarks/many_cores.py --page"
