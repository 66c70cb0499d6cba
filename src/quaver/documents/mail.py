"""E-mails as text: one (.eml) or a mailbox of them (.mbox), by the standard library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart

from quaver.documents.html import html_sections
from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Document, Section
from quaver.errors import DocumentError

_NAMED = ("From", "To", "Cc", "Date")
_BEGIN = re.compile(rb"(?:^|(?<=\n\n)|(?<=\n\r\n))From [^\n]*\n")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)


def mail_document(content: bytes) -> Document:
    """Read an e-mail: its headers, its text and the names of its attachments.

    Args:
        content: the file.

    Returns:
        the document; the subject is the heading of its text, and sender and date (ISO 8601)
        are metadata.
    """
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    body = message.get_body(("plain", "html"))
    text = _content(body) if body is not None else ""
    if body is not None and body.get_content_subtype() == "html":
        text, _ = html_sections(text)
    attached = [part.get_filename() or "" for part in message.iter_attachments()]
    subject = " ".join(str(message["Subject"] or "").split())
    values = {name: " ".join(str(message[name] or "").split()) for name in _NAMED}
    head = "\n".join(f"{name}: {value}" for name, value in values.items() if value)
    tail = "\n".join(f"Attachment: {name}" for name in attached if name)
    whole = "\n\n".join(filter(None, (subject, head, text.strip(), tail)))
    headings = [Heading(0, subject, 0, len(subject))] if subject else []
    # ISO 8601, as filters expect; an unreadable date stays as it is.
    moment = getattr(message["Date"], "datetime", None)
    date = values["Date"] if moment is None else moment.isoformat()
    metadata = {"from": values["From"], "date": date, "subject": subject}
    kept = {name: value for name, value in metadata.items() if value}
    return Document("", whole, sections_between(whole, headings), metadata=kept)


def mailbox_document(content: bytes) -> Document:
    """Read a mailbox, one message after the other.

    Args:
        content: the file.

    Returns:
        the document; the subject of each message is the heading of its text, and sender, date and
        subject are metadata.

    Raises:
        DocumentError: it is not a mailbox.

    Source:
        RFC 4155, appendix A; ">From " is unquoted as in the variant mboxrd.
    """
    parts: list[str] = []
    sections: list[Section] = []
    length = 0
    for message in _messages(content):
        document = mail_document(message)
        for section in document.sections:
            metadata = {**document.metadata, **section.metadata}
            start, end = length + section.start, length + section.end
            sections.append(Section(section.headings, start, end, metadata))
        parts.append(document.text + "\n\n")
        length += len(document.text) + 2
    return Document("", "".join(parts), tuple(sections))


def _messages(content: bytes) -> Iterator[bytes]:
    """Yield the messages; each begins with a line "From ..." after an empty line."""
    begins = [(found.start(), found.end()) for found in _BEGIN.finditer(content)]
    if content.strip() and (not begins or begins[0][0] > 0):
        raise DocumentError('broken: not a mailbox, which begins with "From "')
    ends = [*(start for start, _ in begins[1:]), len(content)]
    for (_, start), end in zip(begins, ends, strict=True):
        yield _QUOTED.sub(rb"\1", content[start:end])


def _content(body: MIMEPart) -> str:
    """Return a message's text; replace bytes that are invalid in its encoding."""
    try:
        return str(body.get_content())
    except LookupError:  # there is no such encoding
        return bytes(body.get_payload(decode=True) or b"").decode("utf-8", "replace")
