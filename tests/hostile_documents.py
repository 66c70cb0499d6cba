"""Documents that try to run something in a reader's browser."""

from __future__ import annotations

from pathlib import Path

SCRIPT = "<script>window.hacked = 1</script>"
IMAGE = '<img src=x onerror="window.hacked = 1">'
SVG = '<svg xmlns="http://www.w3.org/2000/svg" onload="window.hacked = 1"><script>window.hacked = 1</script></svg>'
NAME = "evil<img src=x onerror=window.hacked=1>.md"


def write_hostile_documents(folder: Path) -> None:
    """Write documents with scripts in title, text, metadata and file name; every text has the word "list"."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(
        f"# Title {SCRIPT} {IMAGE}\n\nA list of files {SCRIPT} {IMAGE} {SVG}\n\n"
        "[list](javascript:window.hacked=1) [list](JaVaScRiPt:window.hacked=1) "
        "[list](data:text/html,<script>1</script>) <javascript:window.hacked=1> [list](/update?x=1) "
        '[good](https://example.org/a?b=1&c=2) ![list](x" onerror="window.hacked=1)\n\n'
        "| list | <b>x</b> |\n|---|---|\n| 1 | <i onclick=window.hacked=1>2</i> |\n\n"
        "<div hx-get='/status' hx-trigger='load'>list</div>\n\n"
        "`<script>window.hacked = 1</script>`\n"
    )
    (folder / "text.txt").write_text(
        f"A list. {SCRIPT} {IMAGE} {SVG} {{{{ 7 * 7 }}}} </pre></article>{SCRIPT}"
    )
    (folder / "page.html").write_text(
        f"<title>list</title><h1>List {SVG}</h1><p onclick='window.hacked=1'>A list of files.</p>{SCRIPT}"
        "<p>&lt;script&gt;window.hacked = 1&lt;/script&gt; list</p>"
    )
    (folder / "mail.eml").write_text(
        f'From: "{IMAGE}" <a@example.org>\nSubject: list {SCRIPT}\nDate: Mon, 3 Mar 2025 10:00:00 +0000\n\n'
        f"A list. {IMAGE}\n"
    )
    (folder / "picture.svg.txt").write_text(f"{SVG} list")
