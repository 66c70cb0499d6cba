"""A model, not a measurement: what share of AMX's peak a layer of BERT-base can use.

`make test-amx` counts the instructions of each kernel over one text of 256 tokens, on the real
build in Bochs. This script adds the cycles that the tile unit needs and prints both as a table:

    python benchmarks/amx_model.py build/bochs/result

No CPU with AMX has run it. What it takes for granted:

- `tdpbusd` takes 16 cycles, 1,024 products each; a tile is loaded in 8 cycles (two lines a cycle)
  and stored in 16 (one line a cycle). Everything it reads is in L1 or L2.
- Other instructions run at `--ipc` a cycle. 50 to 80 % of the loops' instructions are vector
  arithmetic, of which two run a cycle, so that 2.5 to 4 is a bound; 3 is in the middle.
- "apart" lets these instructions wait for the tile unit and the tile unit for them; "together"
  hides the shorter one behind the longer one. The truth is between. "Layers together" does so in
  each linear layer, as if the outputs of a tile were computed while the next one multiplies, and
  leaves attention, rounding and norms apart.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

TOKENS, HIDDEN, WIDE, HEADS, HEAD = 256, 768, 3072, 12, 64
PER_CYCLE = 1024
PRODUCT, LOAD, STORE = 16, 8, 16
"""Cycles of an instruction of the tile unit, of a tile that is loaded, and of one that is stored."""
VNNI_PER_CYCLE = 128
TARGET = 0.4


@dataclass
class Tiles:
    """Instructions of tiles: products, loads, stores, and tiles set to zero."""

    products: int = 0
    loads: int = 0
    stores: int = 0
    zeros: int = 0

    def __add__(self, other: Tiles) -> Tiles:
        """Return the sum."""
        return Tiles(
            self.products + other.products,
            self.loads + other.loads,
            self.stores + other.stores,
            self.zeros + other.zeros,
        )

    def times(self, n: int) -> Tiles:
        """Return n times these."""
        return Tiles(self.products * n, self.loads * n, self.stores * n, self.zeros * n)

    @property
    def instructions(self) -> int:
        """All of them."""
        return self.products + self.loads + self.stores + self.zeros

    @property
    def cycles(self) -> int:
        """Cycles of the tile unit: products hide loads, and stores wait for products."""
        return max(PRODUCT * self.products, LOAD * self.loads) + STORE * self.stores


def block(rows: int, strips: int, steps: int) -> Tiles:
    """Return the tiles of up to 32 rows and some strips of 16 outputs, over steps of 64 inputs."""
    if rows > 16:  # two rows of tiles, two strips at a time
        return (
            Tiles(2 * steps, 3 * steps, 2, 2)
            if strips == 1
            else Tiles(4 * steps, 4 * steps, 4, 4).times(strips // 2)
        )
    return Tiles(strips * steps, (strips + 1) * steps, strips, strips)


def linear(inputs: list[int], outputs: int) -> Tiles:
    """Return the tiles of a linear layer: the depths of its groups of inputs, and its outputs."""
    total = Tiles()
    for rows in (96, 80, 80):  # as the engine divides 256 rows
        for first in range(0, rows, 32):
            for depth in inputs:
                one = block(min(32, rows - first), 4, depth // 64)
                total += one.times(outputs // 64)
    return total


def attention() -> Tiles:
    """Return the tiles of one head: scores and values, 16 rows at a time."""
    scores = block(16, 4, 1).times(TOKENS // 64)
    values = block(16, 4, TOKENS // 64)
    return (scores + values).times(TOKENS // 16)


def layer(form: str) -> list[tuple[str, list[tuple[str, int]], Tiles, int]]:
    """Return the parts of a layer: name, counted kernels with how often, tiles, products.

    Args:
        form: "plain" for one scale per row and output; "grouped" for what `quaver quantize` writes
            (64 wide inputs apart, weights with centers, `down` in eight groups).
    """
    grouped = form == "grouped"
    hidden = [64, HIDDEN - 64] if grouped else [HIDDEN]
    down = [WIDE // 8] * 8 if grouped else [WIDE]
    parts = [
        ("qkv", hidden, HIDDEN, 3 * HIDDEN),
        ("out", [HIDDEN], HIDDEN, HIDDEN),
        ("up", hidden, HIDDEN, WIDE),
        ("down", down, WIDE, HIDDEN),
    ]
    rows: list[tuple[str, list[tuple[str, int]], Tiles, int]] = [
        (name, [(f"{form}_{name}", 1)], linear(depths, outputs), TOKENS * inputs * outputs)
        for name, depths, inputs, outputs in parts
    ]
    rows.append(
        (
            "attention",
            [("pack_head", HEADS), ("attend_head", HEADS)],
            attention().times(HEADS),
            2 * HEADS * TOKENS * TOKENS * HEAD,
        )
    )
    rounding = [("round_hidden", 3), ("round_wide", 1)]
    if grouped:
        rounding += [("row_sums_hidden", 3), ("row_sums_wide", 1)]
    rows.append(("rounding inputs", rounding, Tiles(), 0))
    rows.append(("norms", [("norm", 2)], Tiles(), 0))
    return rows


def main() -> None:
    """Print the model's tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("counts", type=Path, help="what `make test-amx` wrote")
    parser.add_argument("--ipc", type=float, default=3.0, help="other instructions a cycle (3)")
    arguments = parser.parse_args()
    counts: dict[tuple[str, str], int] = {}
    for line in arguments.counts.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:1] == ["count"]:
            counts[words[1], words[2]] = int(words[3])
    if not counts:
        parser.error(f"{arguments.counts} has no counts: run make test-amx")
    ipc: float = arguments.ipc
    for form in ("plain", "grouped"):
        print(f"A model of one layer of BERT-base, {TOKENS} tokens, {form} int8; thousands.")
        print("| part | tdpbusd | tile cycles | other instructions | cycles apart | of the peak |")
        print("|---|---:|---:|---:|---:|---:|")
        ideal = tile_cycles = others = layers_together = 0.0
        for name, kernels, tiles, products in layer(form):
            own = sum(
                (counts["amx", kernel] - counts["amx", "nothing"]) * n for kernel, n in kernels
            )
            other = own - tiles.instructions
            cycles = tiles.cycles + other / ipc
            linear_layer = products > 0 and name != "attention"
            layers_together += max(tiles.cycles, other / ipc) if linear_layer else cycles
            share = f"{products / PER_CYCLE / cycles:.0%}" if products else ""
            print(
                f"| {name} | {tiles.products / 1e3:.1f} | {tiles.cycles / 1e3:.0f} | "
                f"{other / 1e3:.0f} | {cycles / 1e3:.0f} | {share} |"
            )
            ideal += products / PER_CYCLE
            tile_cycles += tiles.cycles
            others += other
        apart, together = tile_cycles + others / ipc, max(tile_cycles, others / ipc)
        print(
            f"| layer | | {tile_cycles / 1e3:.0f} | {others / 1e3:.0f} | {apart / 1e3:.0f} | "
            f"{ideal / apart:.0%} |"
        )
        # On VNNI the loads and broadcasts of the tile run beside its products.
        vnni_cycles = ideal * PER_CYCLE / VNNI_PER_CYCLE + others / ipc
        print(
            f"\n{ideal / apart:.0%} of the peak apart, {ideal / layers_together:.0%} with layers "
            f"together, {ideal / together:.0%} together; apart, "
            f"{vnni_cycles / apart:.1f} times AVX512-VNNI at the same clock."
        )
        wanted = (ideal / TARGET - tile_cycles) * ipc
        print(
            f"{TARGET:.0%} apart takes at most {wanted / 1e3:.0f} thousand other instructions: "
            f"{wanted / others:.2f} of what there are.\n"
        )


if __name__ == "__main__":
    main()
