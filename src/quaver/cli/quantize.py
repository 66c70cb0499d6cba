"""`quaver quantize`: a model in floats to an int8 folder."""

from __future__ import annotations

import re
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from quaver.cli.app import app
from quaver.cli.options import PoolingOption, choice_value, reported_errors
from quaver.cli.terminal import print_failures
from quaver.quantization import QuantizationReport
from quaver.quantization import quantize as quantize_model


class Scheme(str, Enum):
    """Where the range of activations comes from."""

    dynamic = "dynamic"
    static = "static"


class Rounding(str, Enum):
    """How weights are rounded."""

    nearest = "nearest"
    gptq = "gptq"


class Observer(str, Enum):
    """How a static range is found."""

    minmax = "minmax"
    percentile = "percentile"
    mse = "mse"


class Words(str, Enum):
    """How the word embeddings are stored."""

    int8 = "int8"
    float16 = "float16"


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="Model folder or hub id, in floats.")],
    target: Annotated[Path, typer.Argument(help="The new folder; nothing may be there yet.")],
    scheme: Annotated[
        Scheme,
        typer.Option(
            help="dynamic: a range for each token, found while running. static: a range for each "
            "layer, found on calibration text."
        ),
    ] = Scheme.dynamic,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Text: a .jsonl, .txt, .csv or .parquet file, a folder of documents, or the id of "
            "a data set; FILE:COLUMN and ID:COLUMN name a column.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Texts to take from it.", min=1)] = 128,
    rounding: Annotated[
        Rounding | None,
        typer.Option(
            help="nearest, or gptq: change what a layer gives on the text least. Default: gptq "
            "where there is text.",
            show_default=False,
        ),
    ] = None,
    observer: Annotated[Observer, typer.Option(help="How static ranges are found.")] = Observer.mse,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="static: one range for every layer, also where that multiplies its error by more "
            "than 4; without it such a layer keeps a range for each token.",
        ),
    ] = False,
    max_loss: Annotated[
        str | None,
        typer.Option(
            help="Largest loss on the calibration text, such as 0.1%: 1 - mean cosine of int8 and "
            "float32 vectors (cross-encoder: 1 - correlation of scores). The layers that cost "
            "most stay in float32 until it holds.",
            show_default=False,
        ),
    ] = None,
    words: Annotated[Words, typer.Option(help="How word embeddings are stored.")] = Words.int8,
    pooling: PoolingOption = None,
) -> None:
    """Write an int8 folder of a model: smaller, loaded faster, read by transformers too."""
    bound = None if max_loss is None else _part(max_loss)
    if calibration is None:
        for option, asked in (
            ("--scheme static", scheme is Scheme.static),
            ("--rounding gptq", rounding is Rounding.gptq),
            ("--max-loss", max_loss is not None),
        ):
            if asked:
                raise typer.BadParameter(
                    f"{option} needs text: a .jsonl, .txt, .csv or .parquet file, a folder of "
                    "documents, or a data set",
                    param_hint="--calibration",
                )
    with reported_errors("interrupted; nothing was written"):
        report = quantize_model(
            model,
            target,
            scheme=scheme.value,
            calibration=calibration,
            samples=samples,
            rounding=None if rounding is None else rounding.value,
            observer=observer.value,
            strict=strict,
            max_loss=bound,
            words=words.value,
            pooling=choice_value(pooling),
            show_progress_bar=sys.stderr.isatty(),
        )
    print_failures(report.failed)
    _print(report)


def _part(text: str) -> float:
    """Reads "0.3%" or "0.003"."""
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*(%?)\s*", text)
    value = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < value < 1:
        raise typer.BadParameter(
            f"must be a part such as 0.3% or 0.003: got {text!r}", param_hint="--max-loss"
        )
    return value


def _print(report: QuantizationReport) -> None:
    """Prints the report: a table of layers where there was text, then the sums."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if report.calibration is not None:
        table = Table(box=None, pad_edge=False)
        for column in ("layer", "precision", "error", "smoothing", "share of loss"):
            table.add_column(
                column, justify="left" if column in ("layer", "precision") else "right"
            )
        for layer in report.layers:
            table.add_row(
                layer.name,
                layer.precision,
                "" if layer.error is None else f"{layer.error:.2e}",
                f"{layer.smoothing:g}" if layer.smoothing else "",
                "" if layer.share is None else f"{100 * layer.share:.1f} %",
            )
        console.print(table)
        console.print(f"calibration: {report.calibration}, {report.samples} samples")
    if report.loss is not None:
        console.print(f"loss on the samples: {100 * report.loss:.3f} %")
    if report.slowdown is not None:
        console.print(
            f"kept in float32: {len(report.kept)} of {len(report.layers)} layers; a call takes "
            f"{report.slowdown:.2f} times as long"
        )
    console.print(
        f"{report.source_bytes / 1e6:.1f} MB -> {report.target_bytes / 1e6:.1f} MB in "
        f"{report.seconds:.1f} s: {report.target}"
    )
