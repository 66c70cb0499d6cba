"""A question, the passages that answer it, and what a language model makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quaver.answers.chat import ChatModel
from quaver.answers.prompt import DEFAULT_TEMPLATE, Message, render
from quaver.index import Index, SupportsRank
from quaver.store import CANDIDATES, Filter, Hit, Mode

PASSAGES = 6
"""How many passages a model gets: some 1,500 tokens, which the smallest models can read."""

_CITATION = re.compile(r"\[(\d+(?:\s*[,;\-\N{EN DASH}]\s*\d+)*)\]")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
_LONGEST_RANGE = 100


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        question: The question.
        text: The answer, with citations like [1]; empty if no model was asked.
        passages: What the model got, best first; citation n means ``passages[n - 1]``. Empty if
            nothing was found: then no model is asked.
        cited: The numbers of the passages that the answer cites, in the order of the answer.
        unknown: Numbers that the answer cites and that no passage has: those citations are made up.
        messages: The prompt, as it was or would be sent.
    """

    question: str
    text: str
    passages: tuple[Hit, ...]
    cited: tuple[int, ...]
    unknown: tuple[int, ...]
    messages: tuple[Message, ...]


def ask(
    index: Index,
    question: str,
    *,
    llm: ChatModel | None = None,
    k: int = PASSAGES,
    mode: Mode = "hybrid",
    filter: Filter | None = None,
    ranker: SupportsRank | None = None,
    candidates: int = CANDIDATES,
    template: str = DEFAULT_TEMPLATE,
    on_prompt: Callable[[Sequence[Message]], None] | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Answers a question from the passages of an index.

    Args:
        index: The index.
        question: The question; not empty.
        llm: The language model; None finds the passages and makes the prompt, and sends nothing.
        k: How many passages the model gets, at least 1.
        mode: How they are found; see ``Index.search``.
        filter: Only passages that match; see ``quaver.store.filters``.
        ranker: Puts what was found in a better order; see ``Index.search``.
        candidates: How many passages the ranker gets.
        template: The prompt; see ``quaver.answers.render``.
        on_prompt: Called with the prompt before it is sent; not where nothing was found.
        on_text: Called with each piece of the answer as it arrives.

    Returns:
        The answer, with its citations checked against the passages that were given. Whether a
        passage supports the statement that cites it is not checked.

    Raises:
        InputError: The question, the template or an option of the search breaks its rule.
        LanguageModelError: The model cannot be reached, refuses, or its answer broke off.
    """
    hits = index.search(
        question, k=k, mode=mode, filter=filter, ranker=ranker, candidates=candidates
    )
    messages = render(question, hits, template)
    if hits and on_prompt is not None:
        on_prompt(messages)
    text = llm.complete(messages, on_text=on_text) if hits and llm is not None else ""
    numbers = citations(text)
    known = range(1, len(hits) + 1)
    return Answer(
        question,
        text,
        tuple(hits),
        tuple(number for number in numbers if number in known),
        tuple(number for number in numbers if number not in known),
        tuple(messages),
    )


def citations(text: str) -> list[int]:
    """Finds the citations in an answer: [1], [1, 3], [2-4], but not those in code.

    Args:
        text: The answer.

    Returns:
        Each number once, in the order of the text.
    """
    found: dict[int, None] = {}
    for match in _CITATION.finditer(_CODE.sub(" ", text)):
        for part in re.split(r"[,;]", match[1]):
            first, *rest = (int(number) for number in re.findall(r"\d+", part))
            last = rest[-1] if rest else first
            # What looks like a long range is none, but something like [2020-2024].
            span = range(first, last + 1) if 0 <= last - first < _LONGEST_RANGE else (first, last)
            found |= dict.fromkeys(span)
    return list(found)
