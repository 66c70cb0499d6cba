"""Supported formats: their endings and their readers."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from quaver.documents.decode import decode, storable
from quaver.documents.limits import LIMITS
from quaver.documents.passage import Document, Section
from quaver.errors import DocumentError


@dataclass(frozen=True)
class Format:
    """A document format.

    Attributes:
        reader: `module:function` in this package.
        endings: endings of its files, in lower case.
        binary: whether the reader takes bytes instead of decoded text.
        declared: whether a file may declare its own encoding.
    """

    reader: str
    endings: tuple[str, ...]
    binary: bool = False
    declared: bool = False


_CODE = (
    *(".py", ".pyi", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".java", ".kt", ".scala"),
    *(".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".cs", ".go", ".rs", ".swift", ".m"),
    *(".rb", ".php", ".pl", ".lua", ".r", ".jl", ".hs", ".ml", ".ex", ".erl", ".clj", ".dart"),
    *(".sh", ".bash", ".zsh", ".ps1", ".sql", ".proto", ".graphql", ".cmake", ".tf"),
    *(".css", ".scss", ".vue", ".svelte", ".yaml", ".yml", ".toml", ".ini", ".cfg"),
    *(".csh", ".fish", ".bat", ".cmd", ".awk", ".sed", ".tcl", ".vim", ".el", ".lisp", ".scm"),
    *(".pm", ".t", ".pod", ".groovy", ".gradle", ".mk", ".mak", ".m4", ".am", ".ac", ".nim"),
    *(".zig", ".f90", ".pas", ".cu", ".cuh", ".asm", ".diff", ".patch", ".bib", ".sty", ".cls"),
    *(".conf", ".cnf", ".properties", ".service", ".socket", ".timer", ".target", ".desktop"),
    *(".rules", ".list", ".in", ".example", ".sample", ".po", ".pot", ".nix", ".bzl"),
)
FORMATS = (
    Format("plain:plain_document", (".txt",)),
    Format("plain:markdown_document", (".md", ".markdown")),
    Format("plain:rst_document", (".rst",)),
    Format("plain:html_document", (".html", ".htm", ".xhtml"), declared=True),
    Format("table:csv_document", (".csv", ".tsv")),
    Format("json_records:json_document", (".json",)),
    Format("json_records:json_lines_document", (".jsonl", ".ndjson")),
    Format("pdf:pdf_document", (".pdf",), binary=True),
    Format("word:word_document", (".docx",), binary=True),
    Format("slides:slides_document", (".pptx",), binary=True),
    Format("table:sheets_document", (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), binary=True),
    Format("epub:epub_document", (".epub",), binary=True),
    Format("mail:mail_document", (".eml",), binary=True),
    Format("mail:mailbox_document", (".mbox",), binary=True),
    Format("open_document:open_document", (".odt", ".odp"), binary=True),
    Format("rtf:rtf_document", (".rtf",), binary=True),
    Format("notebook:notebook_document", (".ipynb",)),
    Format("xml:xml_document", (".xml", ".rss", ".atom", ".dbk", ".pom"), declared=True),
    Format("plain:tex_document", (".tex", ".ltx")),
    Format("plain:org_document", (".org",)),
    Format("plain:asciidoc_document", (".adoc", ".asciidoc")),
    Format("subtitles:subtitles_document", (".srt", ".vtt")),
    Format("man_page:manual_document", (".man",)),
    Format("plain:plain_document", (".text", ".log", *_CODE)),
)
_BY_ENDING = {ending: format for format in FORMATS for ending in format.endings}
GZIP_ENDING = ".gz"
"""Follows the ending of a compressed file: `.md.gz`."""

SUPPORTED_ENDINGS = (*_BY_ENDING, GZIP_ENDING)
"""Endings of supported files; case does not matter."""

ENDINGS_SHOWN = ".txt, .md, .html, .pdf, .docx and others (docs/guide/files.md lists them)"
"""The best known of the supported endings, for messages."""


def convert(ending: str, content: bytes) -> Document:
    """Convert a file's bytes to a document.

    Args:
        ending: the file's ending, from `recognize.ending_of`: `.md`, `.man.gz`.
        content: the bytes.

    Returns:
        the document, without source and root.

    Raises:
        DocumentError: the file is encrypted, broken, too large or refused.
        ImportError: an extra is not installed.
    """
    if ending.endswith(GZIP_ENDING):
        return convert(ending[: -len(GZIP_ENDING)], _unpacked(content))
    format = _BY_ENDING[ending]
    module, _, function = format.reader.partition(":")
    reader: Callable[[Any], Document] = getattr(
        import_module(f"quaver.documents.{module}"), function
    )
    document = reader(content if format.binary else decode(content, declared=format.declared))
    if len(document.text) > LIMITS.characters:
        raise DocumentError(
            f"its text has {len(document.text)} characters, the limit is {LIMITS.characters}: "
            "split the file"
        )
    return _storable(document)


def _unpacked(content: bytes) -> bytes:
    """Decompress a .gz, up to the size limit of a file."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(LIMITS.file_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DocumentError(f"broken: cannot be unpacked ({error})") from error
    if len(unpacked) > LIMITS.file_bytes:
        raise DocumentError(f"unpacks to more than {LIMITS.file_bytes / 1e6:.0f} MB: refused")
    return unpacked


def _storable(document: Document) -> Document:
    """Replace characters that no store can hold in all texts of a document."""
    return Document(
        document.source,
        storable(document.text),
        tuple(
            Section(
                tuple(map(storable, section.headings)),
                section.start,
                section.end,
                _storable_fields(section.metadata),
            )
            for section in document.sections
        ),
        markdown=document.markdown,
        pages=document.pages,
        metadata=_storable_fields(document.metadata),
    )


def _storable_fields(fields: Any) -> dict[str, Any]:
    return {storable(key): _storable_value(value) for key, value in fields.items()}


def _storable_value(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return _storable_fields(value)
    return [_storable_value(item) for item in value] if isinstance(value, list) else value
