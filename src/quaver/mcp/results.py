"""What tools answer: text for a model, within a budget of tokens, that says what was cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from quaver.answers import quoted
from quaver.documents import Passage
from quaver.index import Reading, StoredDocument
from quaver.store import Hit

BYTES_PER_TOKEN = 4
"""Bytes of UTF-8 that are counted as a token: the model that reads is not known, so neither is its tokenizer."""

_LEAST = 40
"""Tokens of a passage below which the beginning is not worth showing."""


def tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return math.ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)


class Budget:
    """Collects lines of an answer as long as they fit.

    Attributes:
        left: tokens that are left.
    """

    def __init__(self, most: int) -> None:
        """Start empty.

        Args:
            most: maximum number of tokens.
        """
        self.left = most
        self._parts: list[str] = []

    def add(self, part: str) -> bool:
        """Add a part if it fits, and return whether it did."""
        cost = tokens(part) + 1
        if cost > self.left:
            return False
        self.left -= cost
        self._parts.append(part)
        return True

    def note(self, part: str) -> None:
        """Add what must be said, whether it fits or not; one short line."""
        self._parts.append(part)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "\n\n".join(self._parts)


def add_passages(budget: Budget, passages: Sequence[Passage | Hit], *, first: int = 1) -> int:
    """Add passages; the last one may be cut.

    Args:
        budget: where to add them.
        passages: the passages.
        first: number of the first.

    Returns:
        how many were added.
    """
    for at, passage in enumerate(passages):
        fields = _fields(passage, first + at)
        if budget.add(quoted(fields, passage.text)):
            continue
        room = (budget.left - tokens(quoted(fields, "")) - 24) * BYTES_PER_TOKEN
        if room < _LEAST * BYTES_PER_TOKEN:
            return at
        shown = passage.text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
        shown = shown.rpartition(" ")[0] or shown
        note = f" [cut: {len(shown)} of {len(passage.text)} characters]"
        return at + budget.add(quoted(fields, shown + note))
    return len(passages)


def found(hits: Sequence[Hit], *, store: str, total: int, most: int) -> str:
    """Return the answer of a search.

    Args:
        hits: the passages.
        store: the store's name.
        total: number of passages in the store.
        most: maximum number of tokens.
    """
    if not hits:
        return f"Nothing found among the {total} passages of the store {store!r}."
    budget = Budget(most)
    budget.note(f"{len(hits)} of {total} passages of the store {store!r}, best first.")
    added = add_passages(budget, hits)
    if added < len(hits):
        budget.note(
            f"Left out to stay within max_tokens={most}: {_listed(hits[added:])}. "
            "Call read with an id, or search again with a smaller k or more max_tokens."
        )
    return budget.text


def reading(read: Reading, *, most: int) -> str:
    """Return the answer of reading a document.

    Args:
        read: consecutive passages of a document.
        most: maximum number of tokens.
    """
    budget = Budget(most)
    first, last = read.first + 1, read.first + len(read.passages)
    if not read.passages:
        return f"The document has {read.total} passages: none from {read.first} on."
    source = read.passages[0].source or "(no document)"
    budget.note(f"{source}: passages {first} to {last} of {read.total}.")
    added = add_passages(budget, read.passages, first=first)
    if added < len(read.passages):
        budget.note(
            f"Left out to stay within max_tokens={most}: passages {first + added} to {last}. "
            f"Call read with source={source!r} and first={read.first + added} to go on."
        )
    elif last < read.total:
        budget.note(f"To go on, call read with source={source!r} and first={last}.")
    return budget.text


def documents(
    listed: Sequence[StoredDocument], *, store: str, total: int, offset: int, most: int
) -> str:
    """Return the answer of listing documents.

    Args:
        listed: the documents.
        store: the store's name.
        total: how many there are.
        offset: position of the first one.
        most: maximum number of tokens.
    """
    if not listed:
        return f"No document of the store {store!r} matches, or none from offset {offset} on: {total} match."
    several = len({document.root for document in listed}) > 1
    lines: list[str] = []
    left = most - 40
    for document in listed:
        root = f", root {document.root}" if several else ""
        title = f": {' '.join(document.title.split())[:120]}" if document.title else ""
        line = f"{document.source}{title} ({document.passages} passages{root})"
        left -= tokens(line) + 1
        if left < 0:
            break
        lines.append(line)
    last = offset + len(lines)
    head = f"Documents {offset + 1} to {last} of {total} in the store {store!r}:"
    more = [f"More: call list_documents with offset={last}."] if last < total else []
    return "\n".join([head, *lines, *more])


def whole_text(passages: Iterable[Passage], *, most: int) -> str:
    """Return a document's text as its passages cover it, with their headings.

    Args:
        passages: all passages of the document.
        most: maximum number of tokens.
    """
    budget = Budget(most)
    heading = ""
    left_out = 0
    for passage in passages:
        part = passage.text
        if passage.heading and passage.heading != heading:
            part = f"[{passage.heading}]\n\n{part}"
        heading = passage.heading
        if left_out or not budget.add(part):
            left_out += 1
    if left_out:
        budget.note(f"[cut: the last {left_out} passages; the tool read has them]")
    return budget.text


def _fields(passage: Passage | Hit, number: int) -> dict[str, object]:
    fields: dict[str, object] = {"n": number, "id": passage.id, "source": passage.source}
    if "page" in passage.metadata:
        fields["page"] = passage.metadata["page"]
    fields["heading"] = passage.heading
    if isinstance(passage, Hit):
        fields["score"] = f"{passage.score:.4g}"
    return fields


def _listed(hits: Sequence[Hit]) -> str:
    return "; ".join(f"{hit.source or 'passage'} (id {hit.id})" for hit in hits[:20]) + (
        f" and {len(hits) - 20} more" if len(hits) > 20 else ""
    )
