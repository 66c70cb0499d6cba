"""`quaver export-st`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import PoolingOption, Precision, PrecisionOption
from quaver.integrations.sentence_transformers_export import CLASSES, export_sentence_transformers


def export_st(
    model: Annotated[str, typer.Argument(help="Model folder or hub id, quantized or not.")],
    target: Annotated[Path, typer.Argument(help="Folder to write, new or empty.")],
    pooling: PoolingOption = None,
    precision: PrecisionOption = Precision.int8,
) -> None:
    """Write a folder that sentence-transformers, and tools built on it, run on this engine.

    Example: quaver export-st BAAI/bge-small-en-v1.5 ./bge-small-st
    """
    with reported_errors(interrupted="interrupted: nothing was written"):
        task = export_sentence_transformers(
            model, target, pooling=pooling, precision=precision.value
        )
        print(f'{target} written; open it with {CLASSES[task]}("{target}", trust_remote_code=True)')
