"""What commands share: options, loading a model, and how an error ends a command."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from quaver.embedder import Embedder
from quaver.errors import ModelNotFoundError, QuaverError
from quaver.store.location import read_manifest

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
TERMINATED = 143
"""Exit code after SIGTERM."""


class Pooling(str, Enum):
    """How token vectors become one."""

    cls = "cls"
    mean = "mean"


class Precision(str, Enum):
    """What the engine computes in."""

    int8 = "int8"
    float32 = "float32"


StoreArgument = Annotated[
    str, typer.Argument(help="Folder of the store, or qdrant://host:port/name.")
]
StoredModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Model folder or hub id; default: the one the store was made with.",
        show_default=False,
    ),
]
PrecisionOption = Annotated[Precision, typer.Option(help="What the engine computes in.")]
PoolingOption = Annotated[
    Pooling | None,
    typer.Option(help="For a model folder that does not say how token vectors become one."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; default: all cores.", min=1)]


def load_embedder(
    model: str | None,
    store: str,
    precision: Precision = Precision.int8,
    threads: int | None = None,
    pooling: Pooling | None = None,
    *,
    option: str = "-m",
) -> Embedder:
    """Loads a model; if None, the one a store was made with, as it was loaded then.

    Args:
        model: Folder or hub id.
        store: The store.
        precision: What the engine computes in.
        threads: Of the engine.
        pooling: For a folder that does not say.
        option: The command's option that names the model, for the message.

    Returns:
        The model.

    Raises:
        ModelNotFoundError: There is no such model; of a store's own one the message says what to do.
        QuaverError: The store or the model cannot be used.
    """
    settings: dict[str, Any] = {}
    named = model
    if named is None:
        manifest = read_manifest(store)
        named, settings = manifest.model, manifest.settings
    if pooling is not None:
        settings = {**settings, "pooling": pooling.value}
    try:
        return Embedder.from_pretrained(
            named, precision=precision.value, threads=threads, **settings
        )
    except ModelNotFoundError as error:
        if model is not None:
            raise
        raise ModelNotFoundError(
            f"{error}; the store at {store} was made with this model: if it was moved, name its "
            f"new place with {option}"
        ) from error


def choice_value(choice: Pooling | None) -> str | None:
    """Returns the text behind a choice."""
    return None if choice is None else choice.value


def cache_folder(name: str) -> Path:
    """Returns where XDG has a program keep what it can make again."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "quaver" / name


@contextmanager
def reported_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turns Quaver's errors and missing extras into one line and code 1, Ctrl-C into 130, SIGTERM into 143.

    A KeyboardInterrupt with a message of its own says that one. SIGTERM ends the work as Ctrl-C does.
    """
    terminated = False

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    with _handled(signal.SIGTERM, terminate):
        try:
            yield
        except (QuaverError, ImportError) as error:
            print(f"quaver: error: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            word = str(error) or interrupted
            if terminated:
                word = re.sub("^interrupted", "terminated", word)
            print(f"quaver: {word}", file=sys.stderr)
            raise typer.Exit(TERMINATED if terminated else INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader (head, less) has seen enough; the interpreter must not try to flush the rest.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error


@contextmanager
def _handled(number: int, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has a signal handled, where this is the main thread and nobody else handles it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)
