"""An e-mail (.eml) as text, by the standard library."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage

from quaver.passages.html import html_sections
from quaver.passages.outline import Heading, sections_between
from quaver.passages.passage import Document

_NAMED = ("From", "To", "Cc", "Date")


def mail_document(content: bytes) -> Document:
    """Reads an e-mail: who wrote what to whom; attachments by their names only.

    Args:
        content: The file.

    Returns:
        The document; the subject is the heading of its text, and sender and date (ISO 8601)
        are metadata.
    """
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    body = message.get_body(("plain", "html"))
    text = str(body.get_content()) if body is not None else ""
    if body is not None and body.get_content_subtype() == "html":
        text, _ = html_sections(text)
    attached = [part.get_filename() or "" for part in message.iter_attachments()]
    subject = " ".join(str(message["Subject"] or "").split())
    values = {name: " ".join(str(message[name] or "").split()) for name in _NAMED}
    head = "\n".join(f"{name}: {value}" for name, value in values.items() if value)
    tail = "\n".join(f"Attachment: {name}" for name in attached if name)
    whole = "\n\n".join(filter(None, (subject, head, text.strip(), tail)))
    headings = [Heading(0, subject, 0, len(subject))] if subject else []
    # As filters compare it; a date that cannot be read stays as it is.
    moment = getattr(message["Date"], "datetime", None)
    date = values["Date"] if moment is None else moment.isoformat()
    metadata = {"from": values["From"], "date": date, "subject": subject}
    kept = {name: value for name, value in metadata.items() if value}
    return Document("", whole, sections_between(whole, headings), metadata=kept)
