"""Documents, their sections and passages: what the modules of this package exchange."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HEADING_SEPARATOR = " > "
"""Joins the headings above a passage: `Tutorial > Data Structures > More on Lists`."""

_NAMESPACE = uuid.UUID("6c1d4f0e-6d0c-5e43-9a3c-6f2a1f5f0b77")


@dataclass(frozen=True)
class Section:
    """The text between one heading and the next.

    Attributes:
        headings: the headings above the text, outermost first; empty before the first heading.
        start: first character of the section's body in `Document.text`; the heading itself is not
            part of it.
        end: one past its last character.
        metadata: metadata of this section only, for example the fields of a record.
    """

    headings: tuple[str, ...]
    start: int
    end: int
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Document:
    """One file as text, with its sections.

    Attributes:
        source: path relative to the indexed folder, with forward slashes.
        text: for text, light markup and source code, the decoded file, character for character
            (line ends are kept, a byte order mark is removed). For every other format, the text
            extracted from the file.
        sections: in the order of the text, without overlap. Characters outside every section are
            headings and metadata.
        markdown: whether `text` is Markdown; splitting then respects its blocks.
        root: the indexed folder as an absolute path, or its name; empty for a document outside any
            folder.
        pages: offset in `text` of each page (of a PDF) or slide; empty if there are none.
        metadata: metadata of the whole document, for example the sender of an e-mail.
    """

    source: str
    text: str
    sections: tuple[Section, ...]
    markdown: bool = False
    root: str = ""
    pages: tuple[int, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Passage:
    """A piece of a document that fits the model.

    Attributes:
        id: a UUID derived from root, source, heading, text and how often heading and text occurred
            before in the file. It does not depend on the position, so text that only moved keeps
            its id and its vector.
        text: `document.text[start:end]`.
        source: path relative to the indexed folder, with forward slashes.
        heading: the headings above the text, joined by " > "; empty if there are none.
        start: offset of the first character in `Document.text`: for text, light markup and source
            code also the offset in the decoded file.
        end: one past the last character, counted in the same way.
        root: the indexed folder as an absolute path, or its name; empty for a passage outside any
            folder.
        metadata: JSON values: strings, numbers, booleans, None, and lists and objects of them. For
            a PDF or slides it contains `page`, from 1, on which the passage begins. Filters can
            use it; it is not embedded.
    """

    id: str
    text: str
    source: str
    heading: str
    start: int
    end: int
    root: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def embedded_text(self) -> str:
        """What the model reads: the heading, a line break and the text, or only the text."""
        return embedded_text(self.heading, self.text)


@dataclass(frozen=True)
class Failure:
    """A file or folder that could not be read, and why.

    Attributes:
        source: path relative to the indexed folder, with forward slashes.
        reason: a message of one line.
    """

    source: str
    reason: str


def passage_id(source: str, heading: str, text: str, occurrence: int, *, root: str = "") -> str:
    """Return the id of a passage; the same passage gets the same id in every run.

    Args:
        source: path relative to the indexed folder.
        heading: the joined heading path.
        text: the passage's text.
        occurrence: how many passages of the file with the same heading and text came before, from
            0.
        root: the indexed folder or its name: two folders may hold files of the same name and text.

    Returns:
        a UUID (version 5) in its usual text form.
    """
    parts = (root, source, heading, text, str(occurrence))
    return str(uuid.uuid5(_NAMESPACE, "\0".join(parts)))


def embedded_text(heading: str, text: str) -> str:
    r"""Return what the model reads: `heading + "\n" + text`, or only the text.

    Args:
        heading: the joined heading path; may be empty.
        text: the passage's text.

    Returns:
        the text to embed.
    """
    return f"{heading}\n{text}" if heading else text


def content_digest(heading: str, text: str, place: str = "") -> str:
    """Return a digest of what the model reads of a passage, independent of its place.

    Args:
        heading: the joined heading path.
        text: the passage's text.
        place: where the vector depends on the text around it, what identifies document and position.

    Returns:
        32 hex digits.
    """
    read = embedded_text(heading, text) + (f"\0{place}" if place else "")
    return hashlib.blake2b(read.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
