"""Files become passages: read (to text and headings), then split (to what fits the model)."""

from __future__ import annotations

from quaver.passages.counting import TokenCounter
from quaver.passages.formats import SUPPORTED_ENDINGS
from quaver.passages.isolation import Converter
from quaver.passages.passage import Document, Failure, Passage, Section, embedded_text
from quaver.passages.patterns import Selection
from quaver.passages.read import read_document
from quaver.passages.scan import Scan, scan_folder
from quaver.passages.split import SMALLEST_BUDGET, split

__all__ = [
    "SMALLEST_BUDGET",
    "SUPPORTED_ENDINGS",
    "Converter",
    "Document",
    "Failure",
    "Passage",
    "Scan",
    "Section",
    "Selection",
    "TokenCounter",
    "embedded_text",
    "read_document",
    "scan_folder",
    "split",
]
