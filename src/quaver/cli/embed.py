"""`quaver embed`."""

from __future__ import annotations

import json
import re
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from quaver.cli.exit_codes import FAILED, reported_errors
from quaver.cli.options import (
    OverwriteOption,
    PairColumnsOption,
    PoolingOption,
    Precision,
    PrecisionOption,
    PriceOption,
    QuietOption,
    ResultKind,
    ThreadsOption,
    read_pair_columns,
    require_new,
    require_option,
)
from quaver.cli.terminal import harmless, plural, progress_display
from quaver.disk_space import require_disk_space
from quaver.embedder import Embedder
from quaver.errors import DocumentError, InputError
from quaver.index import UpdateProgress

if TYPE_CHECKING:
    from quaver.bulk import BulkProgress, BulkReport


SHARD_MB = 64.0
"""The default of --shard-mb."""


class BulkEngine(str, Enum):
    """Where files are embedded."""

    local = "local"
    ray = "ray"
    spark = "spark"


class Activation(str, Enum):
    """What scores go through."""

    sigmoid = "sigmoid"
    identity = "identity"


class VectorFiles(str, Enum):
    """What the vectors of files are written as."""

    parquet = "parquet"
    npy = "npy"


class VectorType(str, Enum):
    """What a vector of a file is stored as."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    binary = "binary"


def embed(
    model: Annotated[
        str, typer.Option("--model", "-m", help="Embedding model, a folder or hub id.")
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(help='Texts; a single "-" reads lines from stdin.')
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read one text per line.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a .npy file instead of JSON lines.")
    ] = None,
    overwrite: OverwriteOption = False,
    prompt_name: Annotated[
        str | None, typer.Option(help="Name of one of the model's prompts.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Put this before every text instead; with --pair-columns before every query, or the instruction "
            "of a reranker with a chat template.",
            show_default=False,
        ),
    ] = None,
    pooling: PoolingOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="Embed files instead: TEXTS are files, folders, patterns or URIs, and this is the folder or "
            "URI for their vectors. Run it again to continue.",
            show_default=False,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="With --output: the column of the texts; default: text.", show_default=False
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="With --output: a column to carry along; may be repeated."),
    ] = None,
    kind: Annotated[
        ResultKind,
        typer.Option(
            metavar="KIND",
            help="With --output: what the model makes of a text: dense, a vector; sparse, weights of words; or "
            "multi-vector, a vector for each token.",
        ),
    ] = ResultKind.dense,
    pair_columns: PairColumnsOption = None,
    activation: Annotated[
        Activation | None,
        typer.Option(
            help="With --pair-columns: sigmoid, or identity for the plain scores; default: as the model says.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        BulkEngine, typer.Option(help="With --output: where to work.")
    ] = BulkEngine.local,
    files: Annotated[
        VectorFiles, typer.Option("--format", help="With --output: the files to write.")
    ] = VectorFiles.parquet,
    dtype: Annotated[
        VectorType,
        typer.Option(
            metavar="TYPE",
            help="With --output: what a vector is stored as: float32, float16, int8 or binary.",
        ),
    ] = VectorType.float32,
    workers: Annotated[
        int | None,
        typer.Option(
            help="With --output: processes or actors, each with a model; default: one for each NUMA node, or "
            "as many as the cluster has room for.",
            min=1,
            show_default=False,
        ),
    ] = None,
    shard_mb: Annotated[
        float,
        typer.Option(
            help="With --output: megabytes of a file in a shard, the unit of work.", min=0.001
        ),
    ] = SHARD_MB,
    price: PriceOption = None,
    quiet: QuietOption = False,
) -> None:
    """Embed texts, or files of any size: JSON lines on stdout, a NumPy file, or a folder of vectors or scores.

    `quaver plan` estimates time and cost of a corpus first; `quaver load` takes its vectors into a database.

    Example: quaver embed "corpus/*.parquet" --model sentence-transformers/all-MiniLM-L6-v2 --output vectors/
    """
    if output is not None:
        if not texts or file is not None or out is not None or overwrite:
            raise typer.BadParameter(
                "needs files as TEXTS, and does not go with --file, --out or --overwrite",
                param_hint="--output",
            )
        with reported_errors(
            interrupted="interrupted: what is finished stays; run it again to continue"
        ):
            from quaver.bulk import embed as embed_files

            pair = read_pair_columns(pair_columns, kind=kind, column=column)
            require_option("--pair-columns", pair, {"--activation": activation})

            with progress_display(quiet=quiet, noun="texts") as show:
                report = embed_files(
                    texts,
                    output,
                    model=model,
                    column=column,
                    keep=keep or (),
                    kind="scores" if pair else kind.value,
                    pair_columns=pair,
                    activation=None if activation is None else activation.value,
                    engine=engine.value,
                    format=files.value,
                    output=dtype.value,
                    prompt=prompt,
                    prompt_name=prompt_name,
                    precision=precision.value,
                    pooling=pooling,
                    workers=workers,
                    threads=threads,
                    shard_bytes=round(shard_mb * 1e6),
                    on_progress=lambda progress: show(_as_update(progress)),
                )
            _print_report(report, price)
            if report.failed:
                raise typer.Exit(FAILED)
        return
    if bool(texts) == (file is not None):
        raise typer.BadParameter("give one of: texts, --file, or - for stdin", param_hint="TEXTS")
    if out is not None and out.suffix != ".npy":
        raise typer.BadParameter(f"must end in .npy: got {out.name}", param_hint="--out")
    with reported_errors():
        require_option(
            "--output",
            output,
            {
                "--column": column,
                "--keep": keep,
                "--engine": engine is not BulkEngine.local,
                "--kind": kind is not ResultKind.dense,
                "--pair-columns": pair_columns,
                "--activation": activation,
                "--format": files is not VectorFiles.parquet,
                "--dtype": dtype is not VectorType.float32,
                "--workers": workers,
                "--shard-mb": shard_mb != SHARD_MB,
                "--core-price": price,
                "--quiet": quiet,
            },
        )
        require_option("--out", out, {"--overwrite": overwrite})
        if out is not None:
            require_new(out, overwrite=overwrite)
        _warn_of_names(texts or [])
        lines = _texts(texts or [], file)
        embedder = Embedder.from_pretrained(
            model, pooling=pooling, precision=precision.value, threads=threads
        )
        if out is not None:
            require_disk_space(out, 4 * len(lines) * embedder.dimension, InputError)
        vectors = embedder.encode(lines, prompt=prompt, prompt_name=prompt_name)
        if out is None:
            for row in vectors:
                print(json.dumps([float(f"{value:.7g}") for value in row]))
        else:
            try:
                np.save(out, vectors)
            except OSError as error:
                raise InputError(f"cannot write {out}: {error.strerror}") from error
            print(
                f"{plural(vectors.shape[0], 'vector')} of dimension {vectors.shape[1]} in {out}",
                file=sys.stderr,
            )


def _as_update(progress: BulkProgress) -> UpdateProgress:
    """Return progress as the display takes it."""
    return UpdateProgress(
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        passages=progress.rows,
        embedded=progress.rows,
        work_done=progress.bytes_done - progress.bytes_before,
        work_total=progress.bytes_total - progress.bytes_before,
    )


def _print_report(report: BulkReport, price: float | None) -> None:
    """Print what a run did; what failed goes to stderr."""
    before = f", {report.before} of them before" if report.before else ""
    print(
        f"{plural(report.total_rows, 'row')} of {plural(len(report.records), 'shard')}{before} in {report.target}"
    )
    if report.rows:
        rate = report.tokens / max(report.seconds, 1e-9)
        print(
            f"this run: {plural(report.rows, 'row')}, {report.tokens:,} tokens in {report.seconds:.1f} s, "
            f"{report.rows / max(report.seconds, 1e-9):.0f} rows/s, {rate:.0f} tokens/s"
        )
    if report.truncated:
        print(f"{plural(report.truncated, 'text')} truncated")
    if price is not None and report.tokens:
        cost = report.core_seconds / 3600 * price
        print(
            f"${cost:.4f} for {report.core_seconds / 3600:.4f} core-hours, "
            f"${cost / report.tokens * 1e6:.5f} per million tokens"
        )
    if len(report.instruction_sets) > 1:
        print(
            f"quaver: computed with {' and '.join(report.instruction_sets)}: the last bits of equal texts "
            "may differ between them",
            file=sys.stderr,
        )
    if report.failed_rows:
        print(
            f"quaver: {plural(report.failed_rows, 'row')} without a result, with reasons in "
            f"{report.target}/_quaver/failed",
            file=sys.stderr,
        )
    if report.failed:
        print(
            f"quaver: {plural(len(report.failed), 'shard')} could not be embedded:", file=sys.stderr
        )
    for shard, reason in report.failed:
        print(f"  {harmless(shard)}: {harmless(reason)}", file=sys.stderr)


def _warn_of_names(texts: list[str]) -> None:
    """Say so if a text is the name of a file, whose content is probably meant."""
    named = [text for text in texts if _names_files(text)]
    if named:
        print(
            f"quaver: embedding the name {harmless(named[0])} as a text, not what is in the file: give --output "
            "FOLDER for the rows of files, or --file for the lines of one",
            file=sys.stderr,
        )


def _names_files(text: str) -> bool:
    if re.match(r"(s3|gs|hdfs|file)://\S+$", text):
        return True
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a null character
        return False


def _texts(texts: list[str], file: Path | None) -> list[str]:
    """Read the texts from arguments, a file, or stdin; an empty line is an empty text."""
    if file is None and texts != ["-"]:
        return texts
    try:
        content = sys.stdin.buffer.read() if file is None else file.read_bytes()
        return content.decode("utf-8").splitlines()
    except OSError as error:
        raise DocumentError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{file or 'stdin'} must be UTF-8: byte {error.start} is not"
        ) from error
