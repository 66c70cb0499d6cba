"""The text of an e-book: XHTML chapters in a ZIP archive, in the order of an XML package file.

Why not EbookLib: its license (AGPL) is incompatible with Quaver's.
"""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import unquote

from quaver.documents.archive import open_archive, read_member
from quaver.documents.decode import decode
from quaver.documents.html import html_sections
from quaver.documents.passage import Document, Section
from quaver.errors import DocumentError, needs_extra

_CONTAINER = "META-INF/container.xml"
_PAGES = frozenset({"application/xhtml+xml", "text/html"})


def epub_document(content: bytes) -> Document:
    """Read an .epub file (version 2 or 3).

    Args:
        content: the file.

    Returns:
        the chapters in reading order; the book's title is the outermost heading.

    Raises:
        DocumentError: the file is protected, broken or refused.
        ImportError: the extra "files" is not installed.

    Source:
        W3C, "EPUB 3.3", 4.2.6.3.1 (container.xml) and 5 (package document).
    """
    with open_archive(content) as archive:
        if "META-INF/rights.xml" in archive.namelist():
            raise DocumentError("protected (DRM): its text is encrypted")
        root = parse_xml(read_member(archive, _CONTAINER), _CONTAINER)
        place = next(iter(root.xpath("//*[local-name()='rootfile']/@full-path")), None)
        if place is None:
            raise DocumentError(f"broken: {_CONTAINER} names no package")
        package = parse_xml(read_member(archive, place), place)
        title = " ".join("".join(package.xpath("(//*[local-name()='title'])[1]//text()")).split())
        files = {
            item.get("id"): unquote(item.get("href", ""))
            for item in package.xpath("//*[local-name()='manifest']/*")
            if item.get("media-type") in _PAGES
        }
        text, sections = "", list[Section]()
        for reference in package.xpath("//*[local-name()='spine']/*/@idref"):
            if reference not in files:
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(place), files[reference]))
            page, found = html_sections(decode(read_member(archive, name), declared=True))
            for section in found:
                headings = tuple(dict.fromkeys(filter(None, (title, *section.headings))))
                start, end = len(text) + section.start, len(text) + section.end
                sections.append(Section(headings, start, end))
            text += page
    return Document("", text, tuple(sections))


def parse_xml(content: bytes, name: str) -> Any:
    """Parse XML without entities, document types or the network.

    Args:
        content: the XML.
        name: its name in error messages.

    Returns:
        its root element.

    Raises:
        DocumentError: the XML is broken.
            ImportError: The extra "files" is not installed.
    """
    with needs_extra("files"):
        from lxml import etree
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise DocumentError(f"broken: {name!a}: {error}") from error
