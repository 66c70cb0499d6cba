"""The house: who may import whom and what is public."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import quaver
from quaver import errors

SOURCE = Path(__file__).parent.parent / "src" / "quaver"
MODULES = sorted(SOURCE.rglob("*.py"))
# What docs/reference/ describes; the study against other engines uses nothing else.
PUBLIC_MODULES = {"quaver", "quaver.errors", "quaver.evaluate"}
BENCH = sorted((SOURCE.parent / "quaver_bench").rglob("*.py"))
HAYSTACK = sorted((SOURCE.parent / "haystack_integrations").rglob("*.py"))

# The rooms, each allowed to import from the rows above its own. A package is one room; a module at the top is one too.
ORDER = (
    ("errors", "system"),
    ("disk_space",),
    ("models",),
    ("engine",),
    ("reference",),
    ("multi_vector_encoder", "sparse_encoder"),
    ("embedder",),
    ("reranker",),
    ("documents",),
    ("quantization", "store"),
    ("index",),
    ("answers", "bulk"),
    ("evaluate",),
    ("serve", "mcp"),
    ("integrations",),
    ("cli",),
    ("__main__",),
)
ROWS = {room: row for row, rooms in enumerate(ORDER) for room in rooms}
# Rooms that nothing else in the package may import: the oracle of the tests, and what others build on us.
NEVER_IMPORTED = {"reference", "integrations", "cli"}
# The commands that hand a model to a framework; a framework's module is a door of its own.
FRAMEWORK_COMMANDS = {"cli.evaluate", "cli.export_st"}
NATIVE_CALLERS = {
    "engine.engine",
    "engine.instruction_sets",
    "engine.machine",
    "engine.word_pieces",
}
# The one library a module is made around may be imported with it; every other waits for its first
# use. On the model's side that is all but numpy.
MADE_AROUND = {
    "bulk.driver": {"msgspec"},
    "bulk.kinds": {"pyarrow"},
    "bulk.place": {"pyarrow"},
    "bulk.shard": {"msgspec", "pyarrow"},
    "bulk.target": {"msgspec", "pyarrow"},
    "bulk.output": {"pyarrow"},
    "cli.app": {"typer"},
    "cli.ask": {"typer", "rich"},
    "cli.bench": {"typer", "quaver_bench"},
    "cli.check": {"typer"},
    "cli.embed": {"typer"},
    "cli.evaluate": {"typer", "rich"},
    "cli.exit_codes": {"typer"},
    "cli.export_st": {"typer"},
    "cli.index": {"typer"},
    "cli.info": {"rich"},
    "cli.load": {"typer"},
    "cli.mcp": {"typer"},
    "cli.options": {"typer"},
    "cli.plan": {"typer"},
    "cli.quantize": {"typer", "rich"},
    "cli.search": {"typer"},
    "cli.serve": {"typer"},
    "cli.status": {"rich"},
    "cli.terminal": {"rich", "tqdm"},
    "cli.transfer": {"typer"},
    "documents.html": {"bs4"},
    "documents.markdown": {"markdown_it"},
    "documents.split": {"semantic_text_splitter"},
    "mcp.server": {"anyio", "mcp", "pydantic", "starlette"},
    "models.files": {"msgspec"},
    "models.template_sandbox": {"jinja2"},
    "serve.app": {"msgspec", "starlette"},
    "serve.cohere": {"msgspec", "starlette"},
    "serve.http": {"msgspec", "orjson", "starlette"},
    "serve.ollama": {"msgspec", "starlette"},
    "serve.openai": {"msgspec", "starlette"},
    "serve.operations": {"msgspec", "prometheus_client", "starlette"},
    "serve.page": {"jinja2", "markdown_it", "markupsafe", "starlette"},
    "serve.scheduler": {"cachetools"},
    "serve.server": {"httptools", "uvicorn"},
    "serve.search": {"msgspec", "starlette"},
    "serve.settings": {"msgspec"},
    "serve.stores": {"msgspec"},
    "serve.tracing": {"opentelemetry"},
    "serve.tei": {"msgspec", "starlette"},
    "store.terms": {"mmh3", "regex"},
}


def name_of(path: Path) -> str:
    """quaver/store/terms.py is "store.terms", quaver/store/__init__.py is "store"."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    return module.partition(".")[0]


NAMES = {name_of(path) for path in MODULES}


def exported(path: Path) -> set[str]:
    """What a module lists in __all__."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


EXPORTED = {
    f"quaver.{path.parent.name}.{name}"
    for path in SOURCE.glob("*/__init__.py")
    for name in exported(path)
}


def imports(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[str]:
    """Full names of the modules that import statements name; relative imports are not allowed."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import by full name"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                inside = full.removeprefix("quaver.") in NAMES | {"_native"}
                submodule = inside and full not in EXPORTED
                yield full if submodule else node.module


def inner_imports(path: Path) -> set[str]:
    """The modules of Quaver that a module imports anywhere, without "quaver."."""
    found = set(imports(ast.walk(ast.parse(path.read_text(encoding="utf-8")))))
    return {m.removeprefix("quaver.") for m in found if m == "quaver" or m.startswith("quaver.")}


every_module = pytest.mark.parametrize(
    "path", [path for path in MODULES if name_of(path)], ids=lambda path: name_of(path)
)


# --- Imports --------------------------------------------------------------------------------------
@every_module
def test_imports_go_one_way(path: Path) -> None:
    module = name_of(path)
    room = room_of(module)
    assert room in ROWS, f"{room} has no place yet: give it a row in ORDER, as high as it can be"
    for imported in inner_imports(path) - {"_native"}:
        other = room_of(imported)
        if other == "quaver_bench":
            assert module == "cli.bench", f"{module} may not import {imported}: it is the study's"
            continue
        assert other in ROWS, f"{module} imports {imported}: import from the room that exports it"
        assert other == room or ROWS[other] < ROWS[room], f"{module} may not import {imported}"
        allowed = other not in NEVER_IMPORTED or (
            (other == "integrations" and module in FRAMEWORK_COMMANDS) or module == "__main__"
        )
        assert other == room or allowed, f"{module} may not import {imported}"


@pytest.mark.parametrize("path", HAYSTACK, ids=lambda path: "/".join(path.parts[-4:]))
def test_haystack_components_stand_on_the_integrations(path: Path) -> None:
    for room in map(room_of, inner_imports(path)):
        below = room not in NEVER_IMPORTED and ROWS[room] < ROWS["integrations"]
        assert room == "integrations" or below, f"a component may not import {room}"


@pytest.mark.parametrize(
    "path", [*MODULES, *BENCH, *HAYSTACK], ids=lambda path: "/".join(path.parts[-4:])
)
def test_a_room_is_entered_by_its_door(path: Path) -> None:
    outside = path.relative_to(SOURCE.parent).parts[0]
    room = room_of(name_of(path)) if SOURCE in path.parents else outside
    for imported in inner_imports(path) - {"_native"}:
        other, _, inside = imported.partition(".")
        assert other in {room, "integrations"} or not inside, (
            f"{path.name} imports quaver.{imported}: import the name from quaver.{other}, which "
            "exports what other rooms use"
        )


@pytest.mark.parametrize("path", BENCH, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_study_uses_public_names_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert not f"{alias.name}.".startswith("quaver."), (
                    f"line {node.lineno}: import names from quaver, not a module"
                )
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("quaver."):
            assert node.module in PUBLIC_MODULES, f"{node.module} is private to quaver"
            module = import_module(node.module)
            public = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
            private = {alias.name for alias in node.names} - set(public)
            assert not private, f"{node.module} has {private}, but not among its public names"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        name_of(path): inner_imports(path) - {"_native"}
        for path in MODULES
        if path.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_row_of_the_order_exists() -> None:
    assert set(ROWS) == {room_of(name) for name in NAMES if name}


def test_the_engine_room_alone_knows_the_native_module() -> None:
    callers = {name_of(path) for path in MODULES if "_native" in inner_imports(path)}
    assert callers == NATIVE_CALLERS


@every_module
def test_modules_import_little_when_they_are_imported(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    roots = {name.partition(".")[0] for name in imports(tree.body)}
    others = roots - sys.stdlib_module_names - {"quaver", "numpy"}
    allowed = MADE_AROUND.get(name_of(path), set())
    assert others <= allowed, "import it inside the function that needs it"


@pytest.mark.parametrize(
    ("names", "heavy"),
    [
        (
            ("Embedder", "info"),
            {"tokenizers", "safetensors", "regex", "bs4", "tqdm", "typer"},
        ),
        (quaver.__all__, {"torch", "transformers", "huggingface_hub", "tokenizers", "typer"}),
    ],
)
def test_public_names_load_no_heavy_library(names: Sequence[str], heavy: set[str]) -> None:
    code = f"import sys, quaver; [getattr(quaver, n) for n in {names!r}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & {name.partition(".")[0] for name in done.stdout.split()}


# --- Public names ---------------------------------------------------------------------------------
def error_classes() -> dict[str, type[Exception]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in found if kind.__module__ == errors.__name__}


def test_the_public_names_are_these() -> None:
    assert set(quaver.__all__) == {
        *error_classes(),
        "And",
        "Answer",
        "BiEncoderRanker",
        "CalibrationTexts",
        "ChatModel",
        "Compare",
        "CrossEncoder",
        "Embedder",
        "EncodeReport",
        "EncodedTexts",
        "EvaluationReport",
        "Hit",
        "Index",
        "ModelFolder",
        "MultiVectorEncoder",
        "Not",
        "Or",
        "Passage",
        "QuantizationReport",
        "Ranked",
        "Ranker",
        "SparseEncoder",
        "SparseVector",
        "SparseVectors",
        "TokenVectors",
        "Tokenizer",
        "UpdateReport",
        "ask",
        "calibration_texts",
        "compare_models",
        "export_passages",
        "import_passages",
        "info",
        "quantize",
        "read_passages",
        "watch",
    }


def test_public_names_are_sorted_and_resolve() -> None:
    assert quaver.__all__ == sorted(set(quaver.__all__))
    assert dir(quaver) == quaver.__all__
    for name in quaver.__all__:
        assert getattr(quaver, name).__name__ == name
        assert inspect.getdoc(getattr(quaver, name))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        quaver.nonsense  # noqa: B018


def test_type_checkers_see_the_same_homes() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == quaver._HOMES


@every_module
def test_all_of_a_module_resolves(path: Path) -> None:
    module = f"quaver.{name_of(path)}"
    code = f"from {module} import *"
    try:
        exec(compile(code, module, "exec"), {})
    except ImportError as error:  # a framework that is not installed here; see tests/integrations
        if "pip install 'quaver[" not in str(error):
            raise


SCRIPTS = sorted(
    path
    for folder in ("benchmarks", "examples", "tools")
    for path in (SOURCE.parents[1] / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_imports_names_that_exist(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("quaver"):
            continue
        try:
            exec(compile(ast.unparse(node), str(path), "exec"), {})
        except ImportError as error:
            if "pip install 'quaver[" not in str(error):
                raise


# --- Modules --------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", MODULES, ids=lambda path: name_of(path) or "quaver")
def test_a_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "a module starts with a docstring"
    assert path.stem not in {"utils", "util", "common", "helpers", "base", "misc"}


# Words that keep their capital at the start of an entry.
PROPER = {
    "Ctrl",
    "False",
    "Haystack",
    "Hkv",
    "Hq",
    "Jina",
    "Markdown",
    "None",
    "Qdrant",
    "Quaver",
    "True",
    "Unix",
}
ENTRY = {"Args", "Attributes", "Raises"}


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the strings that stand alone, those below an attribute too, each with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            yield from [(node.lineno, inspect.cleandoc(text))] if isinstance(text, str) else []


def descriptions(docstring: str) -> Iterator[str]:
    """Yield the descriptions of a docstring's entries; of Returns and Yields the first line."""
    section = ""
    for line in docstring.splitlines():
        if line and not line.startswith(" "):
            section = line[:-1] if line.endswith(":") else ""
        elif re.match(r" {4}\S", line):
            if section in ENTRY:
                yield line.partition(": ")[2]
            elif section in {"Returns", "Yields"}:
                yield line.strip()
                section = ""


@pytest.mark.parametrize(
    "path", sorted(SOURCE.parent.rglob("*.py")), ids=lambda path: "/".join(path.parts[-2:])
)
def test_docstrings_are_of_one_dialect(path: Path) -> None:
    for line, text in docstrings(path):
        assert "``" not in text, f"{path.name}, line {line}: code is in single backticks"
        for description in descriptions(text):
            # An ordinary word: not a name with digits or capitals, not the letter of a shape.
            word = re.match(r"(?:A|[A-Z][a-z]+)(?![\w.(\[]\w|[\w(\[])", description)
            assert word is None or word[0] in PROPER, (
                f"{path.name}, line {line}: {description!r} starts in lower case"
            )


def public_docstrings() -> Iterator[tuple[str, str]]:
    """Yield the docstrings of public functions, classes, methods and properties, with their names."""
    for module in sorted(PUBLIC_MODULES | {"quaver.store"}):
        for name in import_module(module).__dict__.get("__all__", error_classes()):
            value = getattr(import_module(module), name)
            members = vars(value) if inspect.isclass(value) else {}
            yield f"{module}.{name}", inspect.getdoc(value) or ""
            for inner, member in members.items():
                if inner == "__init__" or not inner.startswith("_"):
                    yield f"{module}.{name}.{inner}", inspect.getdoc(member) or ""


def top_level_names(module: str) -> set[str]:
    path = SOURCE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    assigned = {ast.unparse(n.targets[0]) for n in tree.body if isinstance(n, ast.Assign)}
    defined = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return assigned | defined


def test_public_docstrings_name_no_private_module() -> None:
    modules = defaultdict(list)
    for name in NAMES:
        modules[name.rpartition(".")[2]].append(f"quaver.{name}")
    for place, text in public_docstrings():
        for name in re.findall(r"quaver(?:\.\w+)+", text):
            home = max(
                m for m in PUBLIC_MODULES | {"quaver.store"} if f"{name}.".startswith(f"{m}.")
            )
            value = import_module(home)
            for part in name.removeprefix(home).split(".")[1:]:
                assert part in getattr(value, "__all__", dir(value)), f"{place}: {name} is private"
                value = getattr(value, part)
        for stem, name in re.findall(r"`(\w+)\.(\w+)[\w.]*`", text):
            homes = [home for home in modules[stem] if name in top_level_names(home)]
            assert not homes, f"{place} names a private module: {stem}.{name}"


# --- Errors ---------------------------------------------------------------------------------------
def drawn_tree() -> dict[str, tuple[str, ...]]:
    """Each class of the drawing in errors.py with its bases, as the drawing says."""
    assert errors.__doc__ is not None
    tree: dict[str, tuple[str, ...]] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        found = re.match(
            r"    ((?:[│ ] {3})*)([├└]── )?(\w+Error)(?: \((\w+)\))?(?:\s{2,}|$)", line
        )
        if found is None:
            continue
        bars, branch, name, second = found.groups()
        depth = len(bars) // 4 + (branch is not None)
        path[depth:] = [name]
        parent = path[depth - 1] if depth else "Exception"
        tree[name] = (parent, second) if second else (parent,)
    return tree


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    actual = {
        name: tuple(b.__name__ for b in kind.__bases__) for name, kind in error_classes().items()
    }
    assert drawn_tree() == actual


def test_the_drawing_has_no_loose_branches() -> None:
    assert errors.__doc__ is not None
    rows = [line for line in errors.__doc__.splitlines() if re.match(r"    [│├└]", line)]
    for row, below in pairwise([*rows, ""]):
        at = row.index("── ") - 1
        goes_on = len(below) > at and below[at] in "│├└"
        assert goes_on == (row[at] == "├"), row


def test_every_error_says_what_it_is() -> None:
    for kind in error_classes().values():
        assert kind.__doc__
        assert issubclass(kind, quaver.QuaverError)
