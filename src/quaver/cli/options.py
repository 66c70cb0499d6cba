"""What commands share: options, loading a model, and how an error ends a command."""

from __future__ import annotations

import math
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
from typing import Annotated

import typer

from quaver.embedder import Embedder
from quaver.errors import QuaverError
from quaver.index import load_stored_model
from quaver.store import Manifest

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
WaitOption = Annotated[
    bool,
    typer.Option("--wait", help="Wait for another process that writes to the store, if one does."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; default: all cores.", min=1)]


def stored_model(
    store: str,
    model: str | None = None,
    precision: Precision = Precision.int8,
    threads: int | None = None,
    pooling: Pooling | None = None,
    *,
    option: str = "-m",
) -> Callable[[Manifest], Embedder]:
    """Returns what ``Index.open`` loads the store's model with, once the store is open.

    Args:
        store: The store.
        model: Folder or hub id; None: the model that the store was made with, as it was loaded then.
        precision: What the engine computes in.
        threads: Of the engine.
        pooling: For a folder that does not say.
        option: The command's option that names the model, for the message.
    """

    def load(manifest: Manifest) -> Embedder:
        settings = {} if pooling is None else {"pooling": pooling.value}
        return load_stored_model(
            manifest,
            store,
            model,
            option=option,
            precision=precision.value,
            threads=threads,
            **settings,
        )

    return load


def wait_seconds(wait: bool) -> float:
    """Returns how long --wait has an open wait for a process that writes."""
    return math.inf if wait else 0.0


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
