"""Options that several commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quaver.errors import InputError

if TYPE_CHECKING:
    from quaver.embedder import Embedder
    from quaver.store import Manifest


class Precision(str, Enum):
    """What the engine computes in."""

    int8 = "int8"
    bfloat16 = "bfloat16"
    bfloat16_weights = "bfloat16-weights"
    float32 = "float32"


def read_share(text: str) -> float:
    """Read a share: "0.3%" and "0.003" are the same.

    Args:
        text: from the command line.

    Returns:
        from 0 up to, but not including, 1.

    Raises:
        BadParameter: the text is not such a share.
    """
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*(%?)\s*", text)
    share = float(found[1]) / (100 if found[2] else 1) if found else 1.0
    if share >= 1:
        raise typer.BadParameter(f"must be a share such as 0.3% or 0.003: got {text!r}")
    return share


def read_pooling(text: str) -> str:
    """Read a pooling: one of five kinds, or several joined by "+".

    Args:
        text: from the command line.

    Returns:
        the same text.

    Raises:
        BadParameter: the engine has no such pooling.
    """
    from quaver.engine import check_pooling

    try:
        check_pooling(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error
    return text


def _languages() -> list[str]:
    from quaver.store import LANGUAGES

    return [*LANGUAGES, "none"]


ComparedVectors = Literal["float32", "int8", "binary"]
LanguageOption = Annotated[
    str | None,
    typer.Option(
        help="New store: language of the stop words and stems in word search; default: english.",
        autocompletion=_languages,
    ),
]
StoreArgument = Annotated[
    str, typer.Argument(help="Folder of the store, or qdrant://host:port/name.")
]
StoredModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Embedding model, a folder or hub id; default: the one the store was made with.",
        show_default=False,
    ),
]
PrecisionOption = Annotated[Precision, typer.Option(help="What the engine computes in.")]
PoolingOption = Annotated[
    str | None,
    typer.Option(
        parser=read_pooling,
        metavar="KIND",
        help="For a model folder that does not say how token vectors become one: cls, mean, max, "
        "lasttoken or mean_sqrt_len_tokens; several joined by +, such as cls+mean, are concatenated.",
        show_default=False,
    ),
]
WaitOption = Annotated[
    bool,
    typer.Option("--wait", help="Wait while another process writes to the store."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Threads; default: all cores.", min=1, max=1024)
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--core-price",
        help="What a core costs in an hour, to print the cost of the work.",
        metavar="DOLLARS",
        min=0.0,
        show_default=False,
    ),
]


class ResultKind(str, Enum):
    """What a model makes of a text."""

    dense = "dense"
    sparse = "sparse"
    multi_vector = "multi-vector"


PairColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="QUERY,TEXT",
        help="Two columns of texts of files, which a reranker scores; there are no vectors then.",
        show_default=False,
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output if it exists.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def read_pair_columns(
    given: str | None, *, kind: ResultKind, column: str | None
) -> tuple[str, str] | None:
    """Read --pair-columns.

    Args:
        given: its value, "query,text"; or None.
        kind: the value of --kind, which it replaces.
        column: the value of --column, which it replaces.

    Returns:
        the two columns, or None.

    Raises:
        InputError: it does not name two columns, or another option is given, too.
    """
    if given is None:
        return None
    if kind is not ResultKind.dense or column is not None:
        raise InputError("--pair-columns makes scores: leave out --kind and --column")
    first, comma, second = (part.strip() for part in given.partition(","))
    if not (first and comma and second) or "," in second:
        raise InputError(f"--pair-columns names two columns, such as query,text: got {given!r}")
    return first, second


def require_option(needed: str, given: object, dependent: Mapping[str, object]) -> None:
    """Refuse options that have no effect without another one.

    Args:
        needed: the other option, as the message names it: "--rerank".
        given: its value; None or False if it was not given.
        dependent: option to a value that is true if it was given.

    Raises:
        InputError: one of them was given, but not the other option.
    """
    for option, value in dependent.items():
        if value and given in (None, False, ""):
            raise InputError(f"{option} has no effect without {needed}: give both, or neither")


def require_new(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file without --overwrite.

    Args:
        path: the output.
        overwrite: whether it may be replaced.

    Raises:
        InputError: there is something at the path.
    """
    if path.exists() and not overwrite:
        raise InputError(
            f"the output must not exist yet: there is something at {path}; give another name or --overwrite"
        )


def stored_model(
    store: str,
    model: str | None = None,
    precision: Precision = Precision.int8,
    threads: int | None = None,
    pooling: str | None = None,
) -> Callable[[Manifest], Embedder]:
    """Return a function that loads a store's model, for `Index.open`.

    Args:
        store: the store.
        model: folder or hub id; None loads the model that the store was made with.
        precision: what the engine computes in.
        threads: of the engine.
        pooling: for a model folder that does not say.

    Returns:
        a function from the store's manifest to the loaded model.
    """

    def load(manifest: Manifest) -> Embedder:
        from quaver.index import load_stored_model

        settings = {} if pooling is None else {"pooling": pooling}
        return load_stored_model(
            manifest,
            store,
            model,
            option="-m",
            precision=precision.value,
            threads=threads,
            **settings,
        )

    return load


def wait_seconds(wait: bool) -> float:
    """Return how long to wait for another process that writes: for ever with --wait."""
    return math.inf if wait else 0.0


def cache_folder(name: str) -> Path:
    """Return the folder for files that can be made again, by the rules of the platform.

    Args:
        name: of the command.
    """
    from platformdirs import user_cache_path

    return user_cache_path("quaver") / name
