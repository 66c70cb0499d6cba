"""`quaver quantize`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import PoolingOption, read_share, require_option
from quaver.cli.terminal import print_failures
from quaver.errors import InputError
from quaver.quantization import QuantizationReport
from quaver.quantization import quantize as quantize_model

_SAMPLES, _GROUP = 128, 32


class Scheme(str, Enum):
    """Where the range of activations comes from, and the bits of weights."""

    dynamic = "dynamic"
    static = "static"
    int4 = "int4"


class Rounding(str, Enum):
    """How weights are rounded."""

    nearest = "nearest"
    gptq = "gptq"


class Observer(str, Enum):
    """How a static range is chosen."""

    minmax = "minmax"
    percentile = "percentile"
    mse = "mse"


class Words(str, Enum):
    """How the word embeddings are stored."""

    int8 = "int8"
    float16 = "float16"


def quantize(
    model: Annotated[str, typer.Argument(help="Model folder or hub id, in float32 or float16.")],
    target: Annotated[Path, typer.Argument(help="The new folder; it must not exist yet.")],
    scheme: Annotated[
        Scheme,
        typer.Option(
            help="dynamic: a range for each token, found at run time. static: a range for each "
            "layer, from calibration text. int4: as dynamic, with weights in four bits: half the size, a "
            "larger loss."
        ),
    ] = Scheme.dynamic,
    group_size: Annotated[
        int, typer.Option(help="With int4: how many inputs share a scale, 32, 64 or 128.")
    ] = _GROUP,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Calibration text: a .jsonl, .txt, .csv or .parquet file, a folder of documents, or "
            "the id of a data set; FILE:COLUMN and ID:COLUMN name a column.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Number of texts for calibration.", min=1)
    ] = _SAMPLES,
    rounding: Annotated[
        Rounding | None,
        typer.Option(
            help="nearest, or gptq, which minimizes the change in a layer's output on calibration text. "
            "Default: gptq with --calibration.",
            show_default=False,
        ),
    ] = None,
    observer: Annotated[
        Observer, typer.Option(help="How static ranges are chosen.")
    ] = Observer.mse,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="With static: one range for every layer. Without this option, a layer keeps a range "
            "for each token if a single range would make its error more than 4 times as large.",
        ),
    ] = False,
    max_loss: Annotated[
        float | None,
        typer.Option(
            parser=read_share,
            metavar="SHARE",
            help="Largest loss on the calibration text, such as 0.1%: 1 - mean cosine of int8 and "
            "float32 vectors (cross-encoder: 1 - correlation of scores; sparse encoder and multi-vector "
            "model: over weights of words, and over vectors of tokens). The layers that lose "
            "most stay in float32 until the loss is below.",
            show_default=False,
        ),
    ] = None,
    words: Annotated[
        Words | None,
        typer.Option(
            help="How word embeddings are stored. Default: int8; float16 with int4.",
            show_default=False,
        ),
    ] = None,
    pooling: PoolingOption = None,
    is_causal: Annotated[
        bool | None,
        typer.Option(
            "--causal/--no-causal",
            help="For a decoder whose config.json does not say whether a token sees those after it, as "
            "gte-Qwen2. The new folder says it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a model as an int8 or int4 folder: smaller, faster to load, readable by transformers.

    Embedding models, cross-encoders, sparse encoders (SPLADE) and multi-vector models (ColBERT). A masked
    language model without modules.json is a sparse encoder, unless --pooling is given.

    Example: quaver quantize BAAI/bge-small-en-v1.5 ./bge-small-int8 --calibration texts.jsonl
    """
    if calibration is None:
        for option, asked in (
            ("--scheme static", scheme is Scheme.static),
            ("--rounding gptq", rounding is Rounding.gptq),
            ("--max-loss", max_loss is not None),
        ):
            if asked:
                raise typer.BadParameter(
                    f"{option} needs calibration text: a .jsonl, .txt, .csv or .parquet file, a folder of "
                    "documents, or a data set",
                    param_hint="--calibration",
                )
    with reported_errors("interrupted: nothing was written"):
        require_option("--calibration", calibration, {"--samples": samples != _SAMPLES})
        require_option(
            "--scheme static",
            scheme is Scheme.static,
            {"--strict": strict, "--observer": observer is not Observer.mse},
        )
        require_option(
            "--scheme int4", scheme is Scheme.int4, {"--group-size": group_size != _GROUP}
        )
        if target.exists() or target.is_symlink():
            raise InputError(
                f"the target must not exist yet: there is something at {target}; give another name "
                "or remove it"
            )
        report = quantize_model(
            model,
            target,
            scheme=scheme.value,
            calibration=calibration,
            samples=samples,
            rounding=None if rounding is None else rounding.value,
            observer=observer.value,
            strict=strict,
            max_loss=max_loss,
            group_size=group_size,
            words=None if words is None else words.value,
            pooling=pooling,
            is_causal=is_causal,
            show_progress_bar=sys.stderr.isatty(),
        )
    print_failures(report.failed)
    _print(report)


def _print(report: QuantizationReport) -> None:
    """Print the report: with calibration text a table of layers, then the totals."""
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
