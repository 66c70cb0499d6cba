"""Prompts: the words that a model expects before a text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from quaver.errors import InputError

_SEARCH = "Represent this sentence for searching relevant passages: "
_SEARCH_ZH = "为这个句子生成表示以用于检索相关文章："  # noqa: RUF001
_E5 = {"query": "query: ", "document": "passage: "}
_NOMIC = {
    "query": "search_query: ",
    "document": "search_document: ",
    "clustering": "clustering: ",
    "classification": "classification: ",
}
_JINA = {"query": "Query: ", "document": "Document: "}
# What instruction models call the task of a search. Their cards take it as the example, and
# `prompt=` gives another task.
_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_INSTRUCT = {"query": f"Instruct: {_TASK}\nQuery: "}
_INSTRUCT_CLOSE = {"query": f"Instruct: {_TASK}\nQuery:"}
_GEMMA = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "clustering": "task: clustering | query: ",
    "classification": "task: classification | query: ",
}
# Models that document their prompts on their cards on the hub, by name without the owner.
# multilingual-e5-large-instruct is not listed: it expects the user's own task description.
#
# Source of the decoders' prompts: mteb 2.26.24, mteb/models/model_implementations/: qwen3_models.py and
# harrier_models.py (no space behind "Query:"); e5_instruct.py, salesforce_models.py, linq_models.py,
# gte_models.py and codefuse_models.py (with a space); google_embeddinggemma.py; jina_models.py.
_KNOWN: tuple[tuple[str, dict[str, str]], ...] = (
    (r"bge-(small|base|large)-en(-v1\.5)?", {"query": _SEARCH}),
    (r"bge-(small|base|large)-zh(-v1\.5)?", {"query": _SEARCH_ZH}),
    (r"e5-(small|base|large)(-v2|-unsupervised)?", _E5),
    (r"multilingual-e5-(small|base|large)", _E5),
    (r"nomic-embed-text-v1(\.5)?", _NOMIC),
    (r"snowflake-arctic-embed-(xs|s|m|l|m-long)", {"query": _SEARCH}),
    (r"mxbai-embed-(large|xsmall)-v1", {"query": _SEARCH}),
    (r"qwen3-embedding-(0\.6b|4b|8b)", _INSTRUCT_CLOSE),
    (r"harrier-oss-v1-(270m|0\.6b|27b)", _INSTRUCT_CLOSE),
    (r"e5-mistral-7b-instruct|sfr-embedding-(mistral|2_r)|linq-embed-mistral", _INSTRUCT),
    (r"gte-qwen2-(1\.5b|7b)-instruct", _INSTRUCT),
    (r"f2llm(-v2)?-[0-9.]+[mb]", _INSTRUCT),
    (r"embeddinggemma-(300m(-qat-q[48]_0-unquantized)?|2)", _GEMMA),
    (r"jina-embeddings-v5-text-(nano|small)-retrieval", _JINA),
)


def known_prompts(name: str) -> dict[str, str]:
    """Return the prompts of a well-known model whose folder has none.

    Args:
        name: hub id or folder name, with or without its owner.

    Returns:
        prompts by name; empty for a model that is not in the table.
    """
    model = name.rstrip("/").rpartition("/")[2].lower()
    for pattern, prompts in _KNOWN:
        if re.fullmatch(pattern, model):
            return dict(prompts)
    return {}


def with_prompt(prompt: str, text: str) -> str:
    """Put a prompt before a text, unless the text already begins with it."""
    return text if text.startswith(prompt) else prompt + text


def checked_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    """Check and copy the caller's prompts.

    Args:
        prompts: texts by name.

    Returns:
        the same as a dict.

    Raises:
        InputError: a name or a text is not a str.
    """
    if not isinstance(prompts, Mapping):
        raise InputError(f"prompts must map names to texts: got {type(prompts).__name__}")
    for name, text in prompts.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(f"prompts must map names to texts: got {name!r}: {text!r}")
    return dict(prompts)


def choose_prompt(
    prompts: Mapping[str, str],
    *,
    prompt_name: str | None,
    prompt: str | None,
    default: str | None,
    model: str,
) -> str:
    """Return the text to put before every text of a call.

    Args:
        prompts: the model's prompts by name.
        prompt_name: the caller's prompt_name, or None.
        prompt: the caller's prompt, or None; "" turns prompts off.
        default: the name of the model's default prompt, or None.
        model: the model's name, for messages.

    Returns:
        the prompt; "" if neither the caller nor the model names one.

    Raises:
        InputError: both are set, the prompt is not a str, or the model has no prompt of this name.
    """
    if prompt is not None and prompt_name is not None:
        raise InputError(f"give prompt or prompt_name: got {prompt!r} and {prompt_name!r}")
    if prompt is not None:
        if not isinstance(prompt, str):
            raise InputError(f"prompt must be a str: got {type(prompt).__name__}")
        return prompt
    name = default if prompt_name is None else prompt_name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in prompts:
        have = ", ".join(map(repr, prompts)) or "none"
        raise InputError(f"no prompt is named {name!r}: {model} has {have}")
    return prompts[name]


def query_prompt(prompts: Mapping[str, str]) -> str:
    """Return the prompt of queries: the one named "query", else ""."""
    return prompts.get("query", "")


def document_prompt(prompts: Mapping[str, str]) -> str:
    """Return the prompt of documents: the one named "document", else "passage", else ""."""
    return prompts.get("document", prompts.get("passage", ""))
