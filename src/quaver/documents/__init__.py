"""Files to passages: read them to text and headings, then split the text to fit the model."""

from __future__ import annotations

from quaver.documents.converter import Converter
from quaver.documents.folder import folder_documents, read_passages
from quaver.documents.formats import SUPPORTED_ENDINGS
from quaver.documents.limits import LIMITS
from quaver.documents.passage import (
    HEADING_SEPARATOR,
    Document,
    Failure,
    Passage,
    Section,
    content_digest,
    embedded_text,
    passage_id,
)
from quaver.documents.patterns import Selection
from quaver.documents.read import Unread, read_bytes, read_document, read_documents
from quaver.documents.scan import Scan, scan_folder
from quaver.documents.split import SMALLEST_BUDGET, split
from quaver.documents.token_counter import TokenCounter

__all__ = [
    "HEADING_SEPARATOR",
    "LIMITS",
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
    "Unread",
    "content_digest",
    "embedded_text",
    "folder_documents",
    "passage_id",
    "read_bytes",
    "read_document",
    "read_documents",
    "read_passages",
    "scan_folder",
    "split",
]
