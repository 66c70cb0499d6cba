"""List the documents of a folder; follow or refuse links."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quaver.documents.formats import ENDINGS_SHOWN
from quaver.documents.passage import Failure
from quaver.documents.patterns import GITIGNORE, Selection, Sieve
from quaver.documents.recognize import ending_of
from quaver.errors import DocumentError

_OUTSIDE = "leads out of the folder"


@dataclass(frozen=True)
class Scan:
    """The contents of a folder.

    Attributes:
        files: supported files that are selected, sorted by path.
        failures: folders that could not be listed and names that are not text.
        others: number of other files by ending, in lower case.
        outside: links that lead out of the folder and were not followed.
    """

    files: tuple[Path, ...]
    failures: tuple[Failure, ...]
    others: Mapping[str, int]
    outside: tuple[str, ...] = ()


def scan_folder(folder: Path, selection: Selection | None = None) -> Scan:
    """List the supported files of a folder and its subfolders.

    A file without a supported ending is included if it is text and has no ending or a well-known
    name (README.Debian), if it is a manual page (ls.1), or if it matches an include pattern.

    Hidden files and folders (a leading dot) are skipped. A link that leads out of the folder is
    followed only if the selection says so. A link to a folder inside is never followed, because its
    files are found under their own names; so loops of links end.

    Args:
        folder: the folder to list.
        selection: which files are selected; None takes all that no .gitignore leaves out.

    Returns:
        the files, and what could not be listed.

    Raises:
        InputError: a pattern of the selection is invalid.
        DocumentError: the folder does not exist, is not a folder, or holds no supported file that
            is selected.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DocumentError(
            f"documents come from a folder: there is {found} at {folder}; give an existing folder"
        )
    selection = selection or Selection()
    files: list[Path] = []
    failures: list[Failure] = []
    outside: list[str] = []
    others: Counter[str] = Counter()
    for path, trouble in _walk(folder, Sieve.of(selection)):
        source = path.relative_to(folder).as_posix()
        if not source.isprintable() and not _is_text(source):
            failures.append(Failure(ascii(source)[1:-1], "its name is not valid UTF-8: rename it"))
        elif trouble == _OUTSIDE:
            outside.append(source)
        elif trouble is not None:
            failures.append(Failure(source, trouble))
        elif ending_of(path, forced=bool(selection.include)) is not None:
            files.append(path)
        else:
            others[path.suffix.lower()] += 1
    if not files and not failures:
        patterns = ", ".join((*selection.include, *(f"not {p}" for p in selection.exclude)))
        selected = f" that the patterns select ({patterns})" if patterns else ""
        links = (
            f"; {len(outside)} links that lead out of it were not followed (--follow-links does)"
            if outside
            else ""
        )
        raise DocumentError(
            f"a folder needs at least one document: found none in {folder}{selected}{links}; "
            f"supported endings: {ENDINGS_SHOWN}; text without an ending is read, too"
        )
    return Scan(tuple(sorted(files)), tuple(failures), others, tuple(sorted(outside)))


def _walk(root: Path, sieve: Sieve) -> Iterator[tuple[Path, str | None]]:
    """Yield every selected path with None, or with the reason why it cannot be used."""
    real_root = os.path.realpath(root)
    seen = {real_root}
    folders = [(root, "", sieve)]
    while folders:
        folder, relative, outer = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield folder, f"cannot list the folder: {error.strerror}"
            continue
        inner = outer
        if any(entry.name == GITIGNORE for entry in entries):
            inner = outer.inside(folder, relative)
        if inner is not outer and inner.trouble:
            yield folder / GITIGNORE, inner.trouble
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            is_folder, is_link = _is_folder(entry), entry.is_symlink()
            below = f"{relative}{entry.name}/" if is_folder else relative + entry.name
            if not inner.keeps(below):
                continue
            real = os.path.realpath(path) if is_link or is_folder else ""
            if is_link and not sieve.selection.follow_links and not _contains(real_root, real):
                yield path, _OUTSIDE
            elif not is_folder:
                yield path, None
            elif real not in seen and not (
                is_link and (_contains(real_root, real) or _contains(real, real_root))
            ):
                seen.add(real)
                folders.append((path, below, inner))


def _contains(folder: str, path: str) -> bool:
    """Return whether a path is a folder or inside it; both with links resolved."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; one that cannot be reached counts as a file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_text(name: str) -> bool:
    """Return whether a file name is valid UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
