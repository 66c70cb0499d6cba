"""Checks of arguments that several calls share, and advice on keywords of other libraries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import PurePath
from typing import ParamSpec, TypeVar

from quaver.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

SENTENCE_TRANSFORMERS: Mapping[str, str] = {
    "batch_size": "leave it out: a batch costs only its tokens, and max_batch_tokens bounds its memory",
    "chunk_size": "leave it out: one call takes any number of texts",
    "convert_to_numpy": "leave it out: results are NumPy arrays",
    "convert_to_tensor": "results are NumPy arrays: torch.from_numpy(result) makes a tensor",
    "device": "leave it out: the engine runs on the CPU; set threads in from_pretrained",
    "inputs": "give the texts as the first argument",
    "normalize_embeddings": "use normalize; None follows the model folder",
    "output_value": "leave it out: the result is one vector for each text",
    "pool": "leave it out: one call uses every core; set threads in from_pretrained",
    "precision": "use output: 'float32', 'int8' or 'binary'",
    "sentences": "give the texts as the first argument",
    "task": "use prompt_name",
}
"""What to do instead of the arguments of sentence-transformers' calls that Quaver does not have."""

LOADING: Mapping[str, str] = {
    "activation_fn": "predict takes activation",
    "backend": "leave it out: the engine is Quaver's own",
    "cache_folder": "set the environment variable HF_HUB_CACHE",
    "config_kwargs": "leave it out: the configuration comes from the folder",
    "default_prompt_name": "name the prompt in encode(texts, prompt_name=...)",
    "device": "leave it out: the engine runs on the CPU, with as many threads as threads says",
    "dtype": "use precision: 'int8' or 'float32'",
    "max_length": "use max_seq_length",
    "model_kwargs": "leave it out: precision, threads and isa are separate arguments",
    "model_name_or_path": "give the name or folder as the first argument",
    "num_labels": "leave it out: it comes from the model folder",
    "processor_kwargs": "leave it out: max_seq_length is a separate argument",
    "similarity_fn_name": "leave it out: it comes from the model folder",
    "tokenizer_kwargs": "leave it out: max_seq_length is a separate argument",
    "torch_dtype": "use precision: 'int8' or 'float32'",
    "trust_remote_code": "leave it out: no code from a model folder is run",
    "use_auth_token": "use token",
}
"""The same for the arguments that load a model in sentence-transformers."""

MIGRATION = "docs/guide/migration.md"
"""The page that lists all of them."""


def explain_keywords(
    advice: Mapping[str, str],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function explain keywords of other libraries that it does not have.

    The function keeps its signature. Other unknown keywords raise Python's own TypeError.

    Args:
        advice: what to do instead, by keyword.

    Returns:
        a decorator. The decorated function raises TypeError for one of these keywords.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = frozenset(inspect.signature(function).parameters)
        foreign = {name: what for name, what in advice.items() if name not in own}

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            unknown = [name for name in kwargs if name in foreign]
            if unknown:
                listed = "; ".join(f"{name!r} ({foreign[name]})" for name in unknown)
                raise TypeError(
                    f"{function.__qualname__}() does not take {listed}; see {MIGRATION}"
                )
            return function(*args, **kwargs)

        return checked

    return decorate


def check_range(name: str, value: int, largest: int) -> None:
    """Check a whole number.

    Args:
        name: the argument's name.
        value: the value to check.
        largest: the largest allowed value; the smallest is 1.

    Raises:
        InputError: value is not a whole number in 1..largest.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise InputError(f"{name} must be a whole number from 1 to {largest}: got {value!r}")


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


def check_loaded(name: str, model: object, kind: type) -> None:
    """Check that a constructor received a loaded model.

    Args:
        name: the class's name.
        model: the argument to check.
        kind: what it wraps.

    Raises:
        InputError: it is something else, such as a name or a folder.
    """
    if not isinstance(model, kind):
        given = f"{str(model)!r}" if isinstance(model, (str, PurePath)) else "name_or_path"
        raise InputError(
            f"{name}(...) wraps a model that is loaded: got {type(model).__name__}; load one with "
            f"{name}.from_pretrained({given})"
        )


def text_list(
    texts: Iterable[str],
    *,
    name: str = "texts",
    rule: str = "a str or a list of str",
    start: int = 0,
) -> list[str]:
    """Return the caller's texts as a list.

    Args:
        texts: any ordered iterable of str, but not a str.
        name: the argument's name.
        rule: what it must be, for the message.
        start: index of the first text, for the message.

    Returns:
        the texts.

    Raises:
        InputError: texts cannot be read as a list, or an item is not a str; its index is named.
    """
    check_listable(name, texts, rule)
    items = list(texts)
    for i, text in enumerate(items, start):
        if not isinstance(text, str):
            raise InputError(
                f"every text must be a str: {name}[{i}] is {type(text).__name__}; decode or drop it"
            )
    return items


def check_listable(name: str, items: object, rule: str) -> None:
    """Check that an argument can be read as a list, in order and without loss.

    Args:
        name: the argument's name.
        items: the argument to check.
        rule: what it must be, for the message.

    Raises:
        InputError: it is a table, a set, a mapping, bytes, or cannot be iterated over.
    """
    got = f"{name} must be {rule}: got {type(items).__name__}"
    # Tables of pandas, Polars, Arrow and Datasets; iterating over one gives the names of its columns,
    # the columns or the rows.
    if any(hasattr(items, columns) for columns in ("columns", "column_names")):
        raise InputError(f'{got}; give one of its columns, such as table["text"].to_list()')
    if isinstance(items, (set, frozenset)):
        raise InputError(f"{got}, which has no order; give sorted({name})")
    if isinstance(items, Mapping):
        raise InputError(f"{got}; give list({name}.values())")
    if isinstance(items, (bytes, bytearray, memoryview)):
        raise InputError(f"{got}; decode {name}")
    if not isinstance(items, Iterable) or getattr(items, "ndim", 1) == 0:
        raise InputError(got)
