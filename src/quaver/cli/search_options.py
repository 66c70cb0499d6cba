"""What commands that search have in common: how to rank, what to leave out, what to rank again."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from quaver.errors import InputError
from quaver.store import And, Compare, Filter, Mode, Operator, VectorStore

CountOption = Annotated[int, typer.Option("-k", help="How many passages.", min=1)]
ModeOption = Annotated[
    Mode, typer.Option(help="Rank by vectors, by words, or by both with their ranks fused.")
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="FIELD=VALUE",
        help="Only passages that match: source=a.md, page>=3, author.name!=Ada; several must all "
        "match. Operators: = != < <= > >=.",
        show_default=False,
    ),
]
RerankOption = Annotated[
    str | None,
    typer.Option(
        "--rerank",
        help="Order what was found anew with this model: a cross-encoder or an embedding model, "
        "hub id or folder.",
        show_default=False,
    ),
]
CandidatesOption = Annotated[
    int, typer.Option(help="How many passages are found for --rerank to order.", min=1)
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(help="Leave out hits with a lower score, on the scale of the mode or --rerank."),
]

_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(==|=|!=|<=|>=|<|>)\s*(.*?)\s*", re.DOTALL)


def parsed_filter(conditions: list[str] | None) -> Filter | None:
    """Reads conditions as they stand on a command line.

    Args:
        conditions: Such as ``page>=3``. A value that JSON reads as a number, true, false, null or
            a string in quotes is that; any other is text as it stands.

    Returns:
        A filter that all of them make; None for none.

    Raises:
        InputError: One is no condition.
    """
    return And(*map(_parsed, conditions)) if conditions else None


def fields_of_none(wanted: Filter | None, store: VectorStore) -> list[str]:
    """Returns the fields of a filter that no passage has: misspelt ones, most likely.

    Args:
        wanted: Of ``parsed_filter``.
        store: The store.

    Returns:
        Their names, each once.
    """
    parts = wanted.filters if isinstance(wanted, And) else ()
    named = dict.fromkeys(part.field for part in parts if isinstance(part, Compare))
    return [field for field in named if not store.count(Compare(field, "!=", None))]


def _parsed(condition: str) -> Compare:
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise InputError(
            f"--filter must be a field, one of = != < <= > >=, and a value: got {condition!r}"
        )
    field, sign, text = found.groups()
    operator: Operator = "==" if sign == "=" else sign  # type: ignore[assignment]
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return Compare(field, operator, text if isinstance(value, (list, dict)) else value)
