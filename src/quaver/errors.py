"""Every error Quaver raises on purpose, as one tree.

    QuaverError
    ├── ModelError                         the model cannot be used
    │   ├── ModelNotFoundError             no such folder, or the hub does not have (or reach) it
    │   ├── ModelFolderError               a file of the folder is missing, broken or contradicts another
    │   ├── WeightsError                   a tensor is missing, has a wrong shape or dtype, or is not finite
    │   ├── UnsupportedArchitectureError   an architecture, or one of its options, that Quaver does not run
    │   ├── PoolingError                   the folder does not say how to pool, and no argument does
    │   └── TokenizerError                 the tokenizer is missing, broken or does not fit the vocabulary
    ├── InputError (ValueError)            an argument of a call is invalid
    │   └── TokenRangeError                a token, token type or position id is outside its table
    ├── EngineError                        the native engine cannot run as asked, or returns NaN
    │   └── InstructionSetError            the instruction set is unknown, or this machine lacks it
    ├── QuantizationError                  a model cannot be quantized as asked, or the result not written
    │   └── CalibrationError               the calibration text is missing, unreadable or too little
    ├── DocumentError                      a document, or a folder of documents, cannot be read
    ├── LanguageModelError                 a language model cannot be reached, refuses, or breaks off
    ├── BulkError                          a corpus cannot be read, or does not fit the target that it is embedded into
    │   └── BulkWriteError                 the target cannot be written: disk full, read-only, access refused
    ├── TaskError                          a task to evaluate on cannot be read, or a model not measured on it
    └── StoreError                         a store cannot be used
        ├── StoreNotFoundError             nothing is stored at this path
        ├── StoreExistsError               something is already stored at this path
        ├── StoreLockedError               another process holds the store
        ├── StoreMismatchError             the store was made with another model, dimension or version
        ├── StoreClosedError               the store or index was closed
        ├── StoreWriteError                writing failed: disk full, read-only folder
        └── StoreUnavailableError          the store's server cannot be reached, or went away

A message states the rule, what was found, and what to do. `except quaver.QuaverError` catches all
of them; nothing is half written when one is raised. A missing extra is an ordinary `ImportError`
that names the extra to install; `needs_extra` raises it. `check_range` and `check_choice` raise
InputError for arguments of every room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class QuaverError(Exception):
    """The root of every error that Quaver raises on purpose."""


class ModelError(QuaverError):
    """The model cannot be used."""


class ModelNotFoundError(ModelError):
    """There is no such folder, or the hub does not have the model or cannot be reached."""


class ModelFolderError(ModelError):
    """A file of the model folder is missing, broken, or contradicts another."""


class WeightsError(ModelError):
    """A tensor is missing, has the wrong shape or dtype, or holds NaN or infinity."""


class UnsupportedArchitectureError(ModelError):
    """The model's architecture, or one of its options, is one that Quaver does not run."""


class PoolingError(ModelError):
    """The folder does not say how token vectors become one vector, and no argument did."""


class TokenizerError(ModelError):
    """The tokenizer is missing, broken, or does not fit the model's vocabulary."""


class InputError(QuaverError, ValueError):
    """An argument of a call is invalid."""


class TokenRangeError(InputError):
    """A token, token type or position id is outside its embedding table."""


class EngineError(QuaverError):
    """The native engine cannot run as asked, or a result is NaN or infinite."""


class InstructionSetError(EngineError):
    """The instruction set is unknown, or this CPU or operating system lacks it."""


class QuantizationError(QuaverError):
    """A model cannot be quantized as asked, or the result cannot be written."""


class CalibrationError(QuantizationError):
    """The calibration text is missing, unreadable, too little, or does not reach a layer."""


class DocumentError(QuaverError):
    """A document, or a folder of documents, cannot be read."""


class LanguageModelError(QuaverError):
    """A language model cannot be reached, refuses to answer, or its answer breaks off."""


class BulkError(QuaverError):
    """A corpus cannot be read, or does not fit the target that it is embedded into."""


class BulkWriteError(BulkError):
    """The target of a corpus cannot be written: the disk is full, or access is refused."""


class TaskError(QuaverError):
    """A task to evaluate on cannot be read, or a model cannot be measured on it."""


class StoreError(QuaverError):
    """A store of passages cannot be used."""


class StoreNotFoundError(StoreError):
    """Nothing is stored at this path."""


class StoreExistsError(StoreError):
    """Something is already stored at this path."""


class StoreLockedError(StoreError):
    """Another process holds the store."""


class StoreMismatchError(StoreError):
    """The store was made with another model, another dimension, or another version."""


class StoreClosedError(StoreError):
    """The store, or the index over it, was closed."""


class StoreWriteError(StoreError):
    """Writing to the store failed: the disk is full, or the folder is read-only."""


class StoreUnavailableError(StoreError):
    """The store's server cannot be reached, or went away and did not come back."""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Name the extra to install if a library that this block imports is missing.

        with needs_extra("haystack"):
            from haystack import component

    Args:
        extra: the extra's name in pyproject.toml.

    Raises:
        ImportError: a library is not installed; the message names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = error.name or "a library"
        raise ImportError(
            f"{library} is not installed: pip install 'quaver[{extra}]'", name=error.name
        ) from error


def check_range(name: str, value: int, largest: int | None = None) -> None:
    """Check a whole number.

    Args:
        name: the argument's name.
        value: the value to check.
        largest: the largest allowed value, or None for any; the smallest is 1.

    Raises:
        InputError: value is not a whole number in 1..largest.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 1 <= value <= (value if largest is None else largest):
        bounds = "of at least 1" if largest is None else f"from 1 to {largest}"
        raise InputError(f"{name} must be a whole number {bounds}: got {value!r}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check that a value is one of a few.

    Args:
        name: the argument's name.
        value: the value to check.
        choices: the values allowed.

    Raises:
        InputError: value is not one of them.
    """
    allowed = list(choices)
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}: got {value!r}")
