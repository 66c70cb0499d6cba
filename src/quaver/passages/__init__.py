"""Files become passages: read (to text and headings), then split (to what fits the model)."""

from __future__ import annotations

from quaver.passages.passage import Document, Failure, Passage, Section, embedded_text
from quaver.passages.read import SUPPORTED_ENDINGS, Scan, read_document, scan_folder
from quaver.passages.split import SMALLEST_BUDGET, TokenCounter, split

__all__ = [
    "SMALLEST_BUDGET",
    "SUPPORTED_ENDINGS",
    "Document",
    "Failure",
    "Passage",
    "Scan",
    "Section",
    "TokenCounter",
    "embedded_text",
    "read_document",
    "scan_folder",
    "split",
]
