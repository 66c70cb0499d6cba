"""`quaver embed`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import (
    OverwriteOption,
    PoolingOption,
    Precision,
    PrecisionOption,
    ThreadsOption,
    require_new,
    require_option,
)
from quaver.cli.terminal import plural
from quaver.disk_space import require_disk_space
from quaver.embedder import Embedder
from quaver.errors import DocumentError, InputError


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
    pooling: PoolingOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Embed texts: one JSON array per line on stdout, or a NumPy file.

    Example: quaver embed --model sentence-transformers/all-MiniLM-L6-v2 --file lines.txt --out vectors.npy
    """
    if bool(texts) == (file is not None):
        raise typer.BadParameter("give one of: texts, --file, or - for stdin", param_hint="TEXTS")
    if out is not None and out.suffix != ".npy":
        raise typer.BadParameter(f"must end in .npy: got {out.name}", param_hint="--out")
    with reported_errors():
        require_option("--out", out, {"--overwrite": overwrite})
        if out is not None:
            require_new(out, overwrite=overwrite)
        lines = _texts(texts or [], file)
        embedder = Embedder.from_pretrained(
            model, pooling=pooling, precision=precision.value, threads=threads
        )
        if out is not None:
            require_disk_space(out, 4 * len(lines) * embedder.dimension, InputError)
        vectors = embedder.encode(lines, prompt_name=prompt_name)
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
