"""The start of a long text, cut at a place where the remainder provably changes none of its tokens.

A model reads a few hundred tokens. Tokenizing a book to keep its first page costs seconds, so a long
text is cut before the tokenizer. Not everywhere: in "low er" and "lower" the same letters are other
tokens.

The place: before a single space U+0020, after a letter or digit (c below) of `_LETTERS`.

The proof, step by step through the library's pipeline. "Local" means: what a step makes of the text
up to the place does not depend on what follows.

1. Added tokens are found in the text, longest first from the left. One that contains no space (and no
   U+2581, which a normalizer may make of a space) cannot cross the place; a tokenizer that has one
   which does is not cut. `lstrip` and `rstrip` take only whitespace after the place.
2. Normalizers. Those that map characters one by one are local. Unicode normalization is: a space is a
   starter, which composes with nothing before it. So is SentencePiece's character map, which works by
   grapheme clusters: there is a cluster boundary between c and a space. Replacing a text without a
   space, or an expression that matches whitespace alone, is local: it cannot match across the place.
   `Strip` finds c at the end, not whitespace. A character map or a replacement may still make
   whitespace, or nothing, of c or of the space; so it is tried for each place that the normalizer makes
   of "c x" what it makes of "c", and a space after it.
3. Pre-tokenizers. Each of `_is_local` splits before or at the space, or splits by properties of single
   characters; none of the expressions in `_EXPRESSIONS` can match a space except at its beginning, or
   in a match of whitespace alone. At least one step must split at spaces.
4. Models see the pieces one by one, and the pieces before the place are whole.

A tokenizer with any other step is not cut: its texts are tokenized whole.

The end of a text, from the space on, has the same tokens alone as in the text, with fewer parts. Splitters
match from the left, and none of them looks back over the place, so they are where they would be at
the start of a text. Added tokens and normalizers do not reach over it either. But a part that treats the
start of a text otherwise than the middle would add or remove something there: `Strip`, `Prepend`,
`Metaspace`. `_LOCAL_AT_START` has none of them, and a place must keep its space.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quaver.models.tokenizer_settings import part_state, part_steps

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

# No character of these blocks forms a grapheme cluster with a space that follows it.
_LETTERS = (
    "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0391-\u03a1\u03a3-\u03c9\u0410-\u044f"
    "\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u0905-\u0939\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
)
_PLACE = re.compile(f"[{_LETTERS}](?= )")
_LOOK_BACK = 2000
"""Characters before the requested end in which a place is looked for."""

_LOCAL_NORMALIZERS = {
    "BertNormalizer",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Lowercase",
    "StripAccents",
    "Strip",
    "Prepend",
    "Precompiled",
    "ByteLevel",
}
_LOCAL_SPLITTERS = {
    "BertPreTokenizer",
    "Whitespace",
    "WhitespaceSplit",
    "ByteLevel",
    "Metaspace",
    "Digits",
    "Punctuation",
    "Split",
}
_LOCAL_AT_START = {
    "BertNormalizer",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "StripAccents",
    "BertPreTokenizer",
    "Whitespace",
    "WhitespaceSplit",
    "ByteLevel",
    "Digits",
    "Punctuation",
    "Split",
}
"""Steps that treat the start of a text as they treat its middle after a space."""

_WHITESPACE = {" {2,}", r"\s{2,}", r"\s+", r"\s{2,}|[\n\r\t]", r"[\n\r\t]"}
"""Expressions that match whitespace alone."""

# Of GPT-2, cl100k and Qwen; the last two differ in how many digits stand together.
_EXPRESSIONS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    *(
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        for digits in (r"\p{N}{1,3}", r"\p{N}")
    ),
}


def leading_text(backend: Backend) -> Callable[[str, int], str] | None:
    """Return a function that cuts texts of this tokenizer without changing the tokens before the cut.

    Args:
        backend: the tokenizer, with the normalizer it will have.

    Returns:
        a function of a text and a number of characters, which returns the text's start: about as many
        characters, or the whole text where no place is near. None if the tokenizer has a part of
        which this is not proved.
    """
    # Not backend.to_str(): it makes room for every id up to the largest, and a file may name any.
    normalizers = list(part_steps(part_state(backend.normalizer), "normalizers"))
    splitters = list(part_steps(part_state(backend.pre_tokenizer), "pretokenizers"))
    local = all(map(_normalizes_locally, normalizers)) and all(map(_splits_locally, splitters))
    if not local or not any(map(_splits_at_spaces, splitters)):
        return None
    normalized = _normalized(backend)
    for token in backend.get_added_tokens_decoder().values():
        for content in (token.content, normalized(token.content)):
            if "\u2581" in content or any(character.isspace() for character in content):
                return None

    def cut(text: str, size: int) -> str:
        places = [found.end() for found in _PLACE.finditer(text, max(0, size - _LOOK_BACK), size)]
        if not places or not _behaves(normalized, text[places[-1] - 1]):
            return text
        return text[: places[-1]]

    return cut


def trailing_text(backend: Backend) -> Callable[[str, int], str] | None:
    """Return a function that cuts texts of this tokenizer without changing the tokens after the cut.

    Args:
        backend: the tokenizer, with the normalizer it will have.

    Returns:
        the same as `leading_text` returns, for the end of a text.
    """
    steps = [
        *part_steps(part_state(backend.normalizer), "normalizers"),
        *part_steps(part_state(backend.pre_tokenizer), "pretokenizers"),
    ]
    if any(step["type"] not in _LOCAL_AT_START for step in steps) or leading_text(backend) is None:
        return None
    # Such a token before the place takes the space with it.
    if any(token.rstrip for token in backend.get_added_tokens_decoder().values()):
        return None
    normalized = _normalized(backend)

    def cut(text: str, size: int) -> str:
        first = len(text) - size
        found = _PLACE.search(text, first, min(first + _LOOK_BACK, len(text)))
        if found is None or not _behaves(normalized, text[found.start()]):
            return text
        return text[found.end() :]

    return cut


def _normalized(backend: Backend) -> Callable[[str], str]:
    normalizer = backend.normalizer
    return lambda text: text if normalizer is None else str(normalizer.normalize_str(text))


def _behaves(normalized: Callable[[str], str], letter: str) -> bool:
    """Return whether a letter and the space after it stay what they are, whatever is beside them."""
    alone, followed = normalized(letter), normalized(f"{letter} x")
    return bool(alone) and not alone[-1].isspace() and followed.startswith(f"{alone} ")


def _normalizes_locally(step: dict[str, Any]) -> bool:
    if step["type"] != "Replace":
        return step["type"] in _LOCAL_NORMALIZERS
    pattern = step["pattern"]
    if "String" in pattern:
        text = pattern["String"]
        return len(text) == 1 or not any(character.isspace() for character in text)
    return pattern.get("Regex") in _WHITESPACE


def _splits_locally(step: dict[str, Any]) -> bool:
    if step["type"] == "Split":
        expression = step["pattern"].get("Regex") in _EXPRESSIONS
        return expression and step["behavior"] == "Isolated" and not step["invert"]
    if step["type"] == "Metaspace":
        return bool(step.get("split", True)) and step["replacement"] == "\u2581"
    return step["type"] in _LOCAL_SPLITTERS


def _splits_at_spaces(step: dict[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        return bool(step.get("use_regex", True))
    return step["type"] not in {"Digits", "Punctuation"}
