"""Real text: from a file, a folder of documents, or the documentation that comes with Python."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quaver import InputError, Tokenizer, read_passages

PYTHON_TOPICS = "pydoc_data.topics"


@dataclass(frozen=True)
class Corpus:
    """Texts with their own lengths.

    Attributes:
        name: for the tables; not a path.
        texts: distinct texts in their order. Quaver encodes a repeated text only once, which would hide
            its speed.
    """

    name: str
    texts: tuple[str, ...]

    @property
    def megabytes(self) -> float:
        """UTF-8 bytes of all texts / 1e6."""
        return sum(len(text.encode()) for text in self.texts) / 1e6


def read_corpus(path: Path | None, tokenizer: Tokenizer, count: int) -> Corpus:
    """Read texts.

    Args:
        path: a .jsonl file with a "text" (and maybe a "title") in each line, a .txt file with a
            text in each line, a folder of documents, which are split into passages as `quaver
            index` does; None for the paragraphs of Python's own documentation, which comes with
            CPython.
        tokenizer: limits the length of a passage.
        count: maximum number of texts.

    Returns:
        the corpus.

    Raises:
        InputError: the file cannot be read, or has no text.
        DocumentError: the folder cannot be read.
    """
    if path is None:
        name, texts = "Python's documentation", _topics()
    elif path.is_dir():
        name, texts = path.name, _passages(path, tokenizer)
    else:
        name, texts = path.name if path.stem != "corpus" else path.parent.name, _lines(path)
    kept = tuple(list(dict.fromkeys(text for text in texts if text.strip()))[:count])
    if not kept:
        raise InputError(f"a corpus must have text: {path} has none")
    return Corpus(name, kept)


def _topics() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            f"this Python comes without {PYTHON_TOPICS}, the default text; give a --corpus"
        ) from error
    paragraphs = [part for text in topics.values() for part in re.split(r"\n\s*\n", text)]
    return [" ".join(part.split()) for part in paragraphs if len(part) > 40]


def _passages(folder: Path, tokenizer: Tokenizer) -> list[str]:
    room = tokenizer.max_length - tokenizer.special_tokens
    passages, failed = read_passages(folder, tokenizer, room)
    for failure in failed:
        print(
            f"quaver: left out of the corpus: {failure.source}: {failure.reason}", file=sys.stderr
        )
    return [passage.embedded_text for passage in passages]


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"a corpus must be UTF-8 text: {path}: {error}") from error
    if path.suffix != ".jsonl":
        return lines
    return [_document_text(path, at, line) for at, line in enumerate(lines, 1) if line.strip()]


def _document_text(path: Path, at: int, line: str) -> str:
    try:
        document: Any = json.loads(line)
        return f"{document.get('title') or ''} {document['text']}".strip()
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f'{path}, line {at}: must be a JSON object with a "text": got {line[:60]!r}'
        ) from error
