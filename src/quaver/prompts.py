"""Prompts: what a model wants to read before a text."""

from __future__ import annotations

from collections.abc import Mapping

from quaver.errors import InputError


def checked_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    """Copy prompts that a caller gave.

    Args:
        prompts: texts by name.

    Returns:
        The same as a dict.

    Raises:
        InputError: a name or a text is no str.
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
        prompt_name: the name the caller gave, or None.
        prompt: the prompt the caller wrote, or None; "" for none at all.
        default: the name of the model's default prompt, or None.
        model: the model's name, for messages.

    Returns:
        The prompt; "" when neither the caller nor the model names one.

    Raises:
        InputError: both were given, the prompt is no str, or the model has none of this name.
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
    """Return what goes before a query: the prompt "query", else ""."""
    return prompts.get("query", "")


def document_prompt(prompts: Mapping[str, str]) -> str:
    """Return what goes before a document: the prompt "document", else "passage", else ""."""
    return prompts.get("document", prompts.get("passage", ""))
