"""Kernel objects: one global symbol each, nothing weak, nothing that runs before main.

A kernel file is compiled for its instruction set. A weak symbol in it (an inline function, a
template, a std::vector) can be the copy that the linker keeps for the whole program, which then
dies on a CPU without those instructions.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from quaver import _native

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "native/kernels"
OBJECTS = ROOT / "build/native/CMakeFiles/quaver_core.dir/native/kernels"
SOURCES = {path.stem: path for path in KERNELS.rglob("*.cpp")}
ISAS = sorted(SOURCES)

pytestmark = pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not on PATH")


def kernel_object(isa: str) -> Path:
    found = OBJECTS / f"{SOURCES[isa].relative_to(KERNELS)}.o"
    if not found.is_file():
        pytest.skip(f"{found.relative_to(ROOT)} is not built: `make test-cpp` builds it")
    newest = max(path.stat().st_mtime for path in (*KERNELS.rglob("*.h"), SOURCES[isa]))
    if found.stat().st_mtime < newest:
        pytest.skip(f"{found.relative_to(ROOT)} is older than its source: `make test-cpp`")
    return found


def symbols(isa: str) -> list[tuple[str, str]]:
    """Kind (one letter of nm) and demangled name of each symbol."""
    command = ["nm", "--demangle", str(kernel_object(isa))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # Each row is an address (blank for what is needed from elsewhere), a kind and a name.
    return re.findall(r"^(?:[0-9a-f]+)? +(\w) (.+)$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("isa", ISAS)
def test_a_kernel_object_has_one_global_symbol_its_table(isa: str) -> None:
    defined = [name for kind, name in symbols(isa) if kind.isupper() and kind != "U"]
    assert defined == [f"quaver::{isa}_kernels"]


@pytest.mark.parametrize("isa", ISAS)
def test_a_kernel_object_has_no_weak_symbol(isa: str) -> None:
    assert [name for kind, name in symbols(isa) if kind in "wWvVu"] == []


@pytest.mark.parametrize("isa", ISAS)
def test_a_kernel_object_needs_nothing_but_plain_functions(isa: str) -> None:
    needed = {name for kind, name in symbols(isa) if kind == "U"}
    assert not {name for name in needed if "std::" in name or "operator" in name}
    assert not needed & {"malloc", "free", "calloc", "realloc", "__cxa_throw", "__errno_location"}


@pytest.mark.parametrize("isa", ISAS)
def test_a_table_is_made_at_compile_time(isa: str) -> None:
    assert [name for _, name in symbols(isa) if "_GLOBAL__sub_I" in name] == []
    tables = [kind for kind, name in symbols(isa) if name == f"quaver::{isa}_kernels"]
    assert tables in (["D"], ["R"])  # initialised data, never zeroed and filled before main


def test_every_kernel_file_has_an_object() -> None:
    for isa in ISAS:
        kernel_object(isa)
    assert {path.name for path in OBJECTS.rglob("*.o")} == {f"{isa}.cpp.o" for isa in ISAS}


@pytest.mark.skipif(
    platform.machine() != "x86_64" or _native.emulated or shutil.which("objdump") is None,
    reason="needs objdump, and a build of real x86-64 instructions",
)
def test_the_tiles_multiply_unsigned_by_signed_bytes_and_pairs() -> None:
    """Three other products of bytes differ in the sign alone, which the emulated tests cannot see."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(_native.__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    products = re.findall(r"\t(tdp\w+) +(\S+)", done.stdout)
    assert {name for name, _ in products} == {"tdpbusd", "tdpbf16ps"}
    # Weights, bytes, sums: tiles 4 to 7 are loaded, 0 to 3 added to.
    assert all(re.fullmatch(r"%tmm[4-7],%tmm[45],%tmm[0-3]", tiles) for _, tiles in products)
    for product in ("tdpbusd", "tdpbf16ps"):
        assert sum(name == product for name, _ in products) >= 8
    for name in ("ldtilecfg", "tilerelease", "tileloadd", "tilestored", "tilezero"):
        assert re.search(rf"\t{name}\b", done.stdout), name
    for name in ("vdpbf16ps", "vcvtneps2bf16"):
        assert re.search(rf"\t{name}[xy]? ", done.stdout), name
