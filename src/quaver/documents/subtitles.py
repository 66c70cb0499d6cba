"""Subtitles (.srt, .vtt) as running text, with the time at which each part is spoken."""

from __future__ import annotations

import html
import re

from quaver.documents.passage import Document, Section
from quaver.errors import DocumentError

_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_CUE = re.compile(rf"[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}")
_TAG = re.compile(r"<v(?:\.[^\s>]*)?[ \t]+([^<>]{1,100})>|</?[^<>]{0,200}>|\{\\[^{}]{0,200}\}")
_SENTENCE_END = (".", "!", "?", "…", "。", "！", "？")  # noqa: RUF001
_SHORT, _LONG = 60.0, 120.0
"""Seconds. A part ends with the first sentence after `_SHORT`, or in any case after `_LONG`."""

_SILENCE = 10.0
"""Seconds of silence that end a part, unless it is tiny."""

_TINY = 200


def subtitles_document(text: str) -> Document:
    """Read SubRip or WebVTT.

    Args:
        text: the decoded file.

    Returns:
        the document: the spoken text in parts of one to two minutes, each a section with the time
        of its beginning as metadata: `time` to read and `seconds` to compare. Speakers are
        kept; markup and repeated lines of rolling captions are removed.

    Raises:
        DocumentError: the file contains no times.

    Source:
        W3C, "WebVTT: The Web Video Text Tracks Format", 4.1.
    """
    parts: list[str] = []
    sections: list[Section] = []
    length = 0
    lines: list[str] = []
    began = ended = 0.0

    def close() -> None:
        nonlocal length
        if lines:
            said = " ".join(lines)
            whole = int(began)
            shown = f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
            metadata = {"time": shown, "seconds": round(began, 3)}
            sections.append(Section((), length, length + len(said), metadata))
            parts.append(said + "\n\n")
            length += len(said) + 2
            lines.clear()

    cues = 0
    last = ""
    for block in re.split(r"\n[ \t]*(?:\n[ \t]*)+", text.replace("\r\n", "\n").replace("\r", "\n")):
        rows = block.strip("\n").split("\n")
        at = next((row for row in range(min(len(rows), 2)) if _CUE.match(rows[row])), None)
        if at is None:  # the header, a note, a style
            continue
        cues += 1
        times = _CUE.match(rows[at])
        assert times is not None
        start, end = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
        size = sum(map(len, lines))
        if lines and (
            start - began >= _LONG
            or (start - began >= _SHORT and lines[-1].endswith(_SENTENCE_END))
            or (start - ended >= _SILENCE and size >= _TINY)
        ):
            close()
        for row in rows[at + 1 :]:
            said = " ".join(html.unescape(_TAG.sub(_speaker, row)).split())
            if said and said != last:
                if not lines:
                    began = start
                lines.append(said)
                last = said
        ended = end
    close()
    if text.strip() and not cues:
        raise DocumentError("broken: not subtitles, no line has times (00:01:02,500 --> ...)")
    return Document("", "".join(parts), tuple(sections))


def _speaker(tag: re.Match[str]) -> str:
    return f"{tag[1].strip()}: " if tag[1] else ""


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    assert minutes is not None
    assert seconds is not None
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(f"{fraction:0<3}") / 1000
