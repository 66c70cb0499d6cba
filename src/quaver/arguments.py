"""Rules that several calls hold their arguments to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quaver.errors import InputError


def check_range(name: str, value: int, largest: int) -> None:
    """Check a whole number.

    Args:
        name: the argument's name.
        value: what was given.
        largest: the largest allowed value; the smallest is 1.

    Raises:
        InputError: value is no whole number in 1..largest.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise InputError(f"{name} must be a whole number from 1 to {largest}: got {value!r}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check that a value is one of a few.

    Args:
        name: the argument's name.
        value: what was given.
        choices: the values allowed.

    Raises:
        InputError: value is none of them.
    """
    allowed = list(choices)
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}: got {value!r}")


def text_list(texts: Iterable[str]) -> list[str]:
    """Make a list of texts of what the caller gave.

    Args:
        texts: any iterable of str, but no str itself.

    Returns:
        The texts.

    Raises:
        InputError: texts is no list of texts, or an item is no str; its position is named.
    """
    if isinstance(texts, (bytes, bytearray, Mapping)) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be a str or a list of str: got {type(texts).__name__}")
    items = list(texts)
    for i, text in enumerate(items):
        if not isinstance(text, str):
            raise InputError(
                f"every text must be a str: texts[{i}] is {type(text).__name__}; decode or drop it"
            )
    return items
