"""Count the instructions in the inner loops of the tiles: a model of speed, not a measurement.

The object code is that of `make test-arm` or of `make bench-kernels`; its architecture decides:

    python benchmarks/inner_loops.py build/arm
    python benchmarks/inner_loops.py build/bench

Products per instruction say what the front end of a CPU has to do for the same work. For Arm,
KleidiAI's kernels of the same scheme are beside (inputs with a zero point and scale per row,
weights with a scale per output); no Arm CPU has run Quaver. For x86 without VNNI, cycles are those
of Skylake's ports: multiplications and shifts of ymm registers have two and additions a third one;
zmm registers have two for everything, and shifts one of them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import Counter
from pathlib import Path

KERNELS = "CMakeFiles/quaver_core.dir/native/kernels"
# Name, the instruction that multiplies, its products.
ARM = (
    ("neon_i8mm", "usmmla", 32),
    ("neon_dotprod", "udot", 16),
    ("neon", "mul", 8),
    ("neon_bf16", "bfmmla", 16),
)
X86 = (
    ("amx", "tdpbusd", 16384),
    ("avx512vnni", "vpdpbusd", 64),
    ("avxvnni", "vpdpbusd", 32),
    ("avx512", "vpmaddwd", 32),
    ("avx2", "vpmaddwd", 16),
    ("avx512bf16", "vdpbf16ps", 32),
    ("avx512vnni", "vfmadd231ps", 16),
)
# The tile of float32 has 24 sums; another loop of that object, over weights in bfloat16, has two products for each.
FLOAT_SUMS = 24
# KleidiAI at 495f6524d981, matmul_clamp_f32_qai8dxp_qsi8cxp: 16 rows x 4 outputs x 32 inputs, packed beforehand.
# Name, instructions of the loop, those that multiply, products.
KLEIDIAI = (("KleidiAI 16x4 i8mm", 111, 64, 2048), ("KleidiAI 16x4 dotprod", 175, 128, 2048))


def loops(listing: str) -> list[list[str]]:
    """Return the innermost loops of a disassembly, as mnemonics."""
    lines = [
        (int(match[1], 16), match[2], match[3])
        for match in re.finditer(r"^ +([0-9a-f]+):\t(?:\{\w+\} )?(\S+)(.*)$", listing, re.MULTILINE)
    ]
    at = {address: i for i, (address, _, _) in enumerate(lines)}
    spans = []
    for i, (address, name, operands) in enumerate(lines):
        target = re.search(r"\b([0-9a-f]+) <", operands)
        branch = name.startswith(("b.", "j")) or name in ("cbnz", "cbz", "tbnz")
        if branch and target is not None and int(target[1], 16) < address:
            spans.append((at.get(int(target[1], 16), i), i))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [[name for _, name, _ in lines[first : last + 1]] for first, last in inner]


def tile_loop(objdump: str, kernel: Path, multiply: str) -> list[str]:
    """Return the loop with the most multiplications; of several the shortest, without prefetches."""
    command = [objdump, "-d", "--no-show-raw-insn", str(kernel)]
    found = loops(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    most = max(loop.count(multiply) for loop in found)
    if multiply == "vfmadd231ps":
        most = FLOAT_SUMS
    return min((loop for loop in found if loop.count(multiply) == most), key=len)


def skylake_cycles(isa: str, loop: list[str]) -> float | None:
    """Return the cycles of a loop of the sets without VNNI on the vector ports of Skylake."""
    names = Counter(loop)
    shifts = names["vpsraw"] + names["vpsllw"]
    products, sums = names["vpmaddwd"], names["vpaddd"]
    if isa == "avx2":
        return max((products + shifts) / 2, (products + shifts + sums) / 3)
    if isa == "avx512":
        return max(shifts, (products + shifts + sums) / 2)
    return None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("build", type=Path, help="folder of a build without emulation")
    folder: Path = parser.parse_args().build / KERNELS
    arm = (folder / "arm").is_dir()
    if not arm and not (folder / "x86").is_dir():
        parser.error(f"{folder} has no kernels: run make test-arm or make bench-kernels")
    objdump = "aarch64-linux-gnu-objdump" if arm else "objdump"
    print("| loop | instructions | multiply | products | per instruction | per cycle of Skylake |")
    print("|---|---:|---:|---:|---:|---:|")
    rows: list[tuple[str, int, int, int, float | None]] = []
    for isa, multiply, products in ARM if arm else X86:
        kernel = folder / ("arm" if arm else "x86") / f"{isa}.cpp.o"
        loop = tile_loop(objdump, kernel, multiply)
        multiplies = loop.count(multiply)
        name = f"`{isa}`" + (", float32" if multiply == "vfmadd231ps" else "")
        rows.append((name, len(loop), multiplies, multiplies * products, skylake_cycles(isa, loop)))
    if arm:
        rows += [(*peer, None) for peer in KLEIDIAI]
    for name, size, multiplies, total, cycles in rows:
        per_cycle = f"{total / cycles:.1f}" if cycles else ""
        print(f"| {name} | {size} | {multiplies} | {total} | {total / size:.1f} | {per_cycle} |")


if __name__ == "__main__":
    main()
