"""The texts of a caller as a list, from any sequence or column that keeps their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quaver.errors import InputError


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
