"""How a command ends: the exit codes, and which error leads to which."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from quaver.errors import InputError, PoolingError, QuaverError, StoreExistsError

FAILED = 1
"""The command could not do its work, or `quaver check` found damage."""
REFUSED = 2
"""The command line is wrong; Typer uses the same code."""
LOST_TOO_MUCH = 3
"""`quaver evaluate`: a model loses more than --max-loss."""
INTERRUPTED = 130
"""Ctrl-C."""
PIPE_CLOSED = 141
"""The reader of stdout, such as `head`, ended first."""
TERMINATED = 143
"""SIGTERM."""

EPILOG = (
    f"Exit codes: 0 done; {FAILED} failed, such as a missing file, model or store; {REFUSED} wrong command line; "
    f"{LOST_TOO_MUCH} evaluate: more loss than --max-loss; {INTERRUPTED} Ctrl-C; "
    f"{PIPE_CLOSED} the reader of the output ended; {TERMINATED} SIGTERM."
)

_ARGUMENTS = re.compile(r"^(passage_tokens|max_seq_length|min_score)(?= must )")
"""Arguments of the library that an option passes on, where a message begins with one."""


@contextmanager
def reported_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn Quaver's errors, missing extras, Ctrl-C and SIGTERM into one line on stderr and an exit code.

    SIGTERM stops the work as Ctrl-C does. A KeyboardInterrupt with a message prints that message.

    Args:
        interrupted: what to print after Ctrl-C.
    """
    terminated = False

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    with _handled(signal.SIGTERM, terminate):
        try:
            yield
            sys.stdout.flush()
        except (QuaverError, ImportError) as error:
            message = _in_options(" ".join(str(error).split()))
            print(f"quaver: error: {message}", file=sys.stderr)
            raise typer.Exit(_code_of(error)) from error
        except KeyboardInterrupt as error:
            message = str(error) or interrupted
            if terminated:
                message = re.sub("^interrupted", "terminated", message)
            print(f"quaver: {message}", file=sys.stderr)
            raise typer.Exit(TERMINATED if terminated else INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader (head, less) closed the pipe; flushing at exit would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(PIPE_CLOSED) from error


def print_usage_error(error: typer.TyperException) -> None:
    """Print what is wrong with a command line, in one line on stderr.

    Args:
        error: from Typer; its message is empty if the help has been printed already.
    """
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message.replace("Value error, ", "")  # of a choice
    if message:
        context = getattr(error, "ctx", None)
        advice = f"; `{context.command_path} --help` shows all options" if context else ""
        print(f"quaver: error: {message[:1].lower()}{message[1:]}{advice}", file=sys.stderr)


def _in_options(message: str) -> str:
    """Replace the names of the library's arguments by those of the options."""
    return _ARGUMENTS.sub(lambda name: "--" + name[0].replace("_", "-"), message)


def _code_of(error: QuaverError | ImportError) -> int:
    # A file that the system could not read or write is not a mistake in the command line.
    system = isinstance(error.__cause__, OSError)
    refused = isinstance(error, (InputError, PoolingError, StoreExistsError)) and not system
    return REFUSED if refused else FAILED


@contextmanager
def _handled(number: int, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a signal handler on the main thread, unless another one is installed."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)
