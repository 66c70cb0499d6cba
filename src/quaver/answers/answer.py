"""Ask a language model a question with the passages that answer it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quaver.answers.chat import ChatModel
from quaver.answers.prompt import DEFAULT_TEMPLATE, Message, render
from quaver.index import Index, SupportsRank
from quaver.store import CANDIDATES, Filter, Hit, Mode

DEFAULT_PASSAGES = 6
"""Passages that a model gets by default: about 1,500 tokens, which the smallest models can read."""

_CITATION = re.compile(r"\[(\d+(?:\s*[,;\-\N{EN DASH}]\s*\d+)*)\]")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
_LONGEST_RANGE = 100


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        question: the question.
        text: the answer, with citations like [1]; empty if no model was asked.
        passages: the passages the model got, best first; citation n is `passages[n - 1]`. Empty if
            nothing was found; no model is asked then.
        cited: numbers of the passages that the answer cites, in the order of the answer.
        unknown: numbers that the answer cites although no passage has them.
        messages: the prompt.
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
    k: int = DEFAULT_PASSAGES,
    mode: Mode = "hybrid",
    filter: Filter | None = None,
    ranker: SupportsRank | None = None,
    candidates: int = CANDIDATES,
    min_score: float | None = None,
    maxsim: bool = False,
    template: str = DEFAULT_TEMPLATE,
    on_prompt: Callable[[Sequence[Message]], None] | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Answer a question from the passages of an index.

    Args:
        index: the index.
        question: the question; not empty.
        llm: the language model; None makes the prompt and sends nothing.
        k: number of passages the model gets, at least 1.
        mode: how they are found; see `Index.search`.
        filter: only passages that match: a `Compare`, or several joined by `And`, `Or` and `Not`.
        ranker: reranks the passages; see `Index.search`.
        candidates: number of passages the ranker gets.
        min_score: leave out passages with a lower score; see `Index.search`.
        maxsim: rerank by stored token vectors; see `Index.search`.
        template: the prompt, with `{passages}` and `{question}`; docs/guide/ask.md shows the default.
        on_prompt: called with the prompt before it is sent, unless nothing was found.
        on_text: called with each piece of the answer as it arrives.

    Returns:
        the answer, with its citations checked against the passages. Whether a passage supports the
        statement that cites it is not checked.

    Raises:
        InputError: the question, the template or a search option is invalid.
        LanguageModelError: the model cannot be reached, refuses, or its answer breaks off.
    """
    hits = index.search(
        question,
        k=k,
        mode=mode,
        filter=filter,
        ranker=ranker,
        candidates=candidates,
        min_score=min_score,
        maxsim=maxsim,
    )
    return answer_from(
        question, hits, llm=llm, template=template, on_prompt=on_prompt, on_text=on_text
    )


def answer_from(
    question: str,
    hits: Sequence[Hit],
    *,
    llm: ChatModel | None = None,
    template: str = DEFAULT_TEMPLATE,
    on_prompt: Callable[[Sequence[Message]], None] | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Answer a question from passages that were found before.

    Args:
        question: the question.
        hits: the passages, best first.
        llm: as for `ask`.
        template: as for `ask`.
        on_prompt: as for `ask`.
        on_text: as for `ask`.

    Returns:
        the answer, as of `ask`.

    Raises:
        InputError: the template is invalid.
        LanguageModelError: as for `ask`.
    """
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
    """Find the citations in an answer, such as [1], [1, 3] and [2-4], outside code.

    Args:
        text: the answer.

    Returns:
        each number once, in the order of the text.
    """
    found: dict[int, None] = {}
    for match in _CITATION.finditer(_CODE.sub(" ", text)):
        for part in re.split(r"[,;]", match[1]):
            first, *rest = (int(number) for number in re.findall(r"\d+", part))
            last = rest[-1] if rest else first
            # A long range, such as [1-2024], is more likely something else.
            span = range(first, last + 1) if 0 <= last - first < _LONGEST_RANGE else (first, last)
            found |= dict.fromkeys(span)
    return list(found)
