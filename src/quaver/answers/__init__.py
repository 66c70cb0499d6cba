"""Answer questions from an index with a language model, and check the citations."""

from __future__ import annotations

from quaver.answers.answer import DEFAULT_PASSAGES, Answer, answer_from, ask
from quaver.answers.chat import ChatModel
from quaver.answers.prompt import DEFAULT_TEMPLATE, Message, quoted, render

__all__ = [
    "DEFAULT_PASSAGES",
    "DEFAULT_TEMPLATE",
    "Answer",
    "ChatModel",
    "Message",
    "answer_from",
    "ask",
    "quoted",
    "render",
]
