"""Measure what int8 costs: NDCG@10 in retrieval and MAP in reranking, compared with float32.

python examples/article/evaluate.py [MODEL]

The same from a shell, on your tasks or on mteb's: quaver evaluate MODEL --tasks examples/tasks
"""

from __future__ import annotations

import sys
from pathlib import Path

import quaver

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TASKS = Path(__file__).parent.parent / "tasks"
TWO = (TASKS / "pubmedqa-100", TASKS / "tatqa-100")


def main(model: str = MODEL) -> None:
    """Run the same model in float32 and in int8 over two small tasks."""
    report = quaver.compare_models(
        {
            "float32": quaver.Embedder.from_pretrained(model, precision="float32"),
            "int8": quaver.Embedder.from_pretrained(model),
        },
        TWO,
        baseline="float32",
        on_step=lambda task, system: print(f"  {task}, {system}", file=sys.stderr),
    )
    print("task          metric   float32    int8   difference, 95 % interval")
    for result in report.tasks:
        difference = result.differences["int8"]
        print(
            f"{result.task.name:12}  {result.task.metric:7}  {result.baseline.mean():.4f}  "
            f"{result.scores['int8'].mean():.4f}   {difference.relative:+.2%}, "
            f"{difference.low:+.2%} to {difference.high:+.2%}"
        )
        assert difference.relative > -0.03
    fidelity = report.fidelity("int8")
    assert fidelity is not None
    assert fidelity.raw is not None
    cosines = fidelity.raw
    print(f"\ncosine of int8 and float32: mean {cosines.mean:.4f}, the least {cosines.minimum:.4f}")
    print("On a hundred questions a mean moves by chance: read the interval, not the difference.")


if __name__ == "__main__":
    main(*sys.argv[1:])
