"""A hook for mkdocs: point links that leave docs/ at the repository, and copy pictures.

Pages link to files of the repository by relative paths, which work in the repository. The site does not have these
files, so a link is replaced by the address in the repository, and a picture is copied.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?!\w+:|#)[^)\s]+)\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pictures of results to the site."""
    for picture in sorted((REPOSITORY / "benchmarks" / "results").rglob("*.svg")):
        place = picture.relative_to(REPOSITORY).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page that leave docs/."""

    def rewritten(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        path, hash_sign, anchor = target.partition("#")
        place = normpath(join("docs", dirname(page.file.src_uri), path))
        if place.startswith("docs/"):
            return found[0]
        if mark:
            return f"![{text}]({relpath(place, dirname(page.file.src_uri) or '.')})"
        kind = "tree" if (REPOSITORY / place).is_dir() else "blob"
        return f"[{text}]({config.repo_url}/{kind}/main/{place}{hash_sign}{anchor})"

    return _LINK.sub(rewritten, markdown)
