"""The chat template of a reranker: how a query and a document become one text.

A template is a program of the folder, so it is not run for every pair. It is rendered a few times with
marks in place of the two texts; only what comes before, between and after the marks is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from quaver.errors import InputError, ModelFolderError
from quaver.models.files import TokenizerConfigFile

MAX_TEMPLATE = 1 << 16
_MAX_MESSAGE = 300
# Private characters, which no template contains and no tokenizer sees.
_QUERY, _DOCUMENT = "\ue0f1query\ue0f2", "\ue0f1document\ue0f2"

Format = Literal["flat", "structured"]

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""An instruction for templates that need one, where the caller gives none: when they are loaded and calibrated."""

QWEN3_RERANKER = (
    "{%- set instruct = messages | selectattr('role', 'equalto', 'system') | map(attribute='content')"
    f" | first | default('{INSTRUCTION}') -%}}"
    "{%- set query = messages | selectattr('role', 'equalto', 'query') | map(attribute='content') | first -%}"
    "{%- set text = messages | selectattr('role', 'equalto', 'document') | map(attribute='content') | first -%}"
    "{{ '<|im_start|>system\\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".'
    "<|im_end|>\\n<|im_start|>user\\n<Instruct>: ' + instruct + '\\n<Query>: ' + query + '\\n<Document>: ' + text "
    "+ '<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}"
)
"""The template of Qwen3-Reranker, for folders that have none.

Source:
    The model's card on the hub: https://huggingface.co/Qwen/Qwen3-Reranker-0.6B
"""


@dataclass(frozen=True)
class PairText:
    """What a template puts around a query and a document.

    Attributes:
        before: before the query.
        between: between query and document.
        behind: after the document.
        stripped: whether spaces around both texts are removed.
    """

    before: str
    between: str
    behind: str
    stripped: bool

    def pair(self, query: str, document: str) -> str:
        """Return the whole text."""
        if self.stripped:
            query, document = query.strip(), document.strip()
        return f"{self.before}{query}{self.between}{document}{self.behind}"

    def query(self, query: str) -> str:
        """Return the text up to where the document begins."""
        return f"{self.before}{query.strip() if self.stripped else query}{self.between}"


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template that has messages for the roles "query" and "document".

    Attributes:
        source: the template, in Jinja's language.
        tokens: special tokens that it may name, such as eos_token.
        layout: whether the content of a message is a text or a list of parts.
        options: further variables, such as add_generation_prompt.
    """

    source: str
    tokens: tuple[tuple[str, str], ...] = ()
    layout: Format = "flat"
    options: tuple[tuple[str, Any], ...] = ()

    def around(self, prompt: str) -> PairText:
        """Return what goes around the texts of a pair.

        Args:
            prompt: the instruction, which becomes the message of the role "system"; "" for none.

        Raises:
            ModelFolderError: the template fails, or does not put both texts into it once, the query
                first.
            InputError: there is no instruction, and the template needs one.
        """
        try:
            return _around(self, prompt)
        except ModelFolderError as error:
            if prompt or not self.needs_prompt:
                raise
            raise InputError(
                "the chat template of this reranker needs an instruction: got none; pass prompt=..., such as "
                f"prompt={INSTRUCTION!r}, or set default_prompt_name in config_sentence_transformers.json"
            ) from error

    @property
    def needs_prompt(self) -> bool:
        """Whether it fails without an instruction and works with one."""
        return not _works(self, "") and _works(self, INSTRUCTION)

    def working_prompt(self, default: str) -> str:
        """Return an instruction that it works with.

        Args:
            default: the model's default prompt; "" if it has none.

        Returns:
            the default; an example if there is none and the template needs one.

        Raises:
            ModelFolderError: the template fails with that.
        """
        prompt = INSTRUCTION if not default and self.needs_prompt else default
        self.around(prompt)
        return prompt

    def render(self, prompt: str, query: str, document: str) -> str:
        """Run the template in a sandbox, which bounds its time and memory."""
        from jinja2 import TemplateError

        from quaver.models.template_sandbox import run_template

        def content(text: str) -> str | list[dict[str, str]]:
            return text if self.layout == "flat" else [{"type": "text", "text": text}]

        roles = {"system": prompt, "query": query, "document": document}
        messages = [
            {"role": role, "content": content(text)}
            for role, text in roles.items()
            if text or role != "system"
        ]
        variables: dict[str, Any] = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": False,
            **dict(self.tokens),
            **dict(self.options),
        }
        try:
            return run_template(self.source, variables)
        # A template is a program, and may fail with any of these; Jinja makes Python of it, which may
        # be nested too deeply.
        except (
            TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            MemoryError,
            RecursionError,
            SyntaxError,
            TypeError,
            ValueError,
        ) as error:
            raise ModelFolderError(
                "the chat template of the model fails on a query and a document: "
                f"{_shortened(str(error) or type(error).__name__)}; is it a reranker's?"
            ) from error


def _works(template: ChatTemplate, prompt: str) -> bool:
    try:
        _around(template, prompt)
    except ModelFolderError:
        return False
    return True


@lru_cache(maxsize=64)
def _around(template: ChatTemplate, prompt: str) -> PairText:
    text = template.render(prompt, _QUERY, _DOCUMENT)
    before, found, behind = text.partition(_QUERY)
    between, also, behind = behind.partition(_DOCUMENT)
    if not found or not also or "\ue0f1" in before + between + behind:
        raise ModelFolderError(
            "a reranker's chat template must have the query once and then the document once, in messages "
            "of the roles 'query' and 'document': this one makes something else of them"
        )
    for stripped in (False, True):
        around = PairText(before, between, behind, stripped)
        query, document = f" {_DOCUMENT}\n", f"\n{_QUERY} two "
        if around.pair(query, document) == template.render(prompt, query, document):
            return around
    raise ModelFolderError(
        "a reranker's chat template must leave the texts as they are, or strip spaces around them: this "
        "one changes them"
    )


def _shortened(message: str) -> str:
    """Return an error's message, which may be the template's own, of any length."""
    return message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}..."


def special_tokens(settings: TokenizerConfigFile) -> tuple[tuple[str, str], ...]:
    """Return the special tokens that a template may name, from tokenizer_config.json."""
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
    found = [(name, getattr(settings, name)) for name in names]
    return tuple(
        (name, token if isinstance(token, str) else token.content)
        for name, token in found
        if token is not None
    )
