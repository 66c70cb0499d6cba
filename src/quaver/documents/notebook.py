"""A Jupyter notebook (.ipynb) as Markdown: its text, its code and the printed output.

Why not nbformat: it depends on jsonschema and more, for a file that is plain JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from quaver.documents.markdown import markdown_headings
from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Document
from quaver.errors import DocumentError

_LONGEST_OUTPUT = 2000
"""Characters of a cell's output that are kept, from the beginning."""

_FENCE = re.compile(r"`{3,}")
_COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def notebook_document(text: str) -> Document:
    """Read a notebook.

    Args:
        text: the decoded file.

    Returns:
        the document: Markdown with the headings of its text cells; code and output are fenced.
        Pictures and HTML are left out, and output beyond 2000 characters of a cell.

    Raises:
        DocumentError: it is not a notebook.

    Source:
        nbformat, "The Notebook file format", versions 3 and 4.
    """
    try:
        notebook = json.loads(text)
    except RecursionError as error:
        raise DocumentError("broken: nested too deeply") from error
    except ValueError as error:
        raise DocumentError(f"broken: not JSON: {error}") from error
    parts: list[str] = []
    headings: list[Heading] = []
    length = 0
    language = _language(notebook)
    for cell in _cells(notebook):
        kind = cell.get("cell_type")
        source = _text(cell.get("source", cell.get("input"))).strip("\n")
        if kind == "heading" and source:  # version 3
            level = cell.get("level")
            marks = "#" * level if isinstance(level, int) and 0 < level < 7 else "#"
            source = f"{marks} {' '.join(source.split())}"
        pieces = []
        if kind == "code":
            pieces += [_fenced(source, language)] if source.strip() else []
            printed = _printed(cell.get("outputs"))
            pieces += [_fenced(printed, "")] if printed else []
        elif source.strip():
            pieces.append(source)
        for piece in pieces:
            if kind in ("markdown", "heading"):
                headings += [
                    Heading(found.level, found.title, length + found.start, length + found.end)
                    for found in markdown_headings(piece)
                ]
            parts.append(piece + "\n\n")
            length += len(piece) + 2
    whole = "".join(parts)
    return Document("", whole, sections_between(whole, headings), markdown=True)


def _cells(notebook: Any) -> Iterator[dict[str, Any]]:
    """Yield the cells; in version 3 they are inside worksheets."""
    if isinstance(notebook, dict):
        cells = notebook.get("cells")
        sheets = notebook.get("worksheets")
        if isinstance(cells, list):
            yield from (cell for cell in cells if isinstance(cell, dict))
            return
        if isinstance(sheets, list):
            for sheet in sheets:
                yield from _cells(sheet)
            return
    raise DocumentError("broken: not a notebook, it has no list of cells")


def _language(notebook: Any) -> str:
    metadata = notebook.get("metadata") if isinstance(notebook, dict) else None
    for key in ("kernelspec", "language_info"):
        about = metadata.get(key) if isinstance(metadata, dict) else None
        name = about.get("language", about.get("name")) if isinstance(about, dict) else None
        if isinstance(name, str) and re.fullmatch(r"[\w+#-]{1,20}", name):
            return name
    return ""


def _printed(outputs: Any) -> str:
    """Return the text that a cell printed or displayed, and its error."""
    found = []
    for output in outputs if isinstance(outputs, list) else ():
        if not isinstance(output, dict):
            continue
        data = output.get("data", output)  # version 3 has no "data"
        if output.get("output_type") in ("error", "pyerr"):
            found.append(f"{_text(output.get('ename'))}: {_text(output.get('evalue'))}")
        elif "text" in output:
            found.append(_text(output["text"]))
        elif isinstance(data, dict):
            found.append(_text(data.get("text/plain")))
    text = _COLORS.sub("", "\n".join(filter(None, (part.strip("\n") for part in found))))
    return text if len(text) <= _LONGEST_OUTPUT else text[:_LONGEST_OUTPUT].rstrip() + "\n…"


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, _FENCE.findall(text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _text(value: Any) -> str:
    """Return a text that may be given as a list of lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""
