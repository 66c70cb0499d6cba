"""Select the files of a folder by .gitignore and patterns in its syntax, matched in linear time.

Why not pathspec: it compiles patterns to regular expressions that backtrack, so a .gitignore with
forty `a*` in a line never returns, and a range such as `[z-a]` raises an error of `re`. Tests
compare this module with pathspec and with git.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quaver.documents.read import read_bytes
from quaver.errors import DocumentError, InputError

GITIGNORE = ".gitignore"
_LARGEST = 100_000
"""Bytes of a .gitignore. Limited because each file of the folder is matched against all patterns."""

_CLASSES = {
    "alpha": string.ascii_letters,
    "digit": string.digits,
    "alnum": string.ascii_letters + string.digits,
    "upper": string.ascii_uppercase,
    "lower": string.ascii_lowercase,
    "punct": string.punctuation,
    "space": string.whitespace,
    "blank": " \t",
    "xdigit": string.hexdigits,
    "cntrl": "".join(map(chr, (*range(32), 127))),
    "print": "".join(map(chr, range(32, 127))),
    "graph": "".join(map(chr, range(33, 127))),
}


@dataclass(frozen=True)
class Selection:
    """The choice of files in a folder.

    Attributes:
        include: patterns as in .gitignore, relative to the folder: `("*.pdf", "notes/")`. If
            there are any, a file must match one.
        exclude: patterns of files and folders to leave out.
        gitignore: whether to respect the .gitignore files of the folder and its subfolders.
        follow_links: whether to follow symbolic links that lead out of the folder.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    gitignore: bool = True
    follow_links: bool = False

    @classmethod
    def of(
        cls,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        *,
        gitignore: bool = True,
        follow_links: bool = False,
    ) -> Selection:
        """Create a selection from lists and check its patterns.

        Args:
            include: as above.
            exclude: as above.
            gitignore: as above.
            follow_links: as above.

        Returns:
            the selection.

        Raises:
            InputError: a list is a single str, or a pattern is invalid.
        """
        for name, patterns in (("include", include), ("exclude", exclude)):
            if isinstance(patterns, str):
                raise InputError(f"{name} must be a list of patterns: got the str {patterns!r}")
        selection = cls(tuple(include), tuple(exclude), gitignore, follow_links)
        Sieve.of(selection)
        return selection


@dataclass(frozen=True)
class Sieve:
    """The patterns that apply in one folder.

    Attributes:
        selection: the selection that they come from.
        include: patterns of which a file must match one; None accepts all.
        exclude: patterns of files to leave out.
        rules: the .gitignore files, outermost first, each with the folder it applies to.
        trouble: why the folder's own .gitignore could not be used; empty if there is no problem.
    """

    selection: Selection
    include: Patterns | None = None
    exclude: Patterns | None = None
    rules: tuple[tuple[str, Patterns], ...] = ()
    trouble: str = field(default="", compare=False)

    @classmethod
    def of(cls, selection: Selection) -> Sieve:
        """Compile the patterns of a selection.

        Args:
            selection: the selection.

        Returns:
            the patterns for the folder before its .gitignore is read.

        Raises:
            InputError: a pattern is invalid.
        """
        return cls(
            selection,
            _compiled(selection.include, "include") if selection.include else None,
            _compiled(selection.exclude, "exclude") if selection.exclude else None,
        )

    def inside(self, folder: Path, relative: str) -> Sieve:
        """Return the patterns that apply inside a folder with a .gitignore.

        Args:
            folder: the folder.
            relative: its path below the indexed folder, ending in "/"; empty for that folder.

        Returns:
            the patterns.
        """
        if not self.selection.gitignore:
            return self
        rules, trouble = self.rules, ""
        try:
            content = read_bytes(folder / GITIGNORE, _LARGEST)
        except DocumentError as error:
            trouble = f"{str(error).removeprefix(f'{GITIGNORE}: ')}; it is ignored"
        else:
            patterns = Patterns.of(content.decode("utf-8", "surrogateescape").split("\n"))
            rules = (*rules, (relative, patterns))
        return Sieve(self.selection, self.include, self.exclude, rules, trouble)

    def keeps(self, path: str) -> bool:
        """Return whether a file or folder is selected.

        Args:
            path: relative to the indexed folder, with forward slashes; a folder's ends in "/". The
                folders above it must be selected.

        Returns:
            False if a pattern leaves it out. As in git, a deeper .gitignore overrides a higher one,
            and a folder that is left out is not searched.
        """
        if self.exclude is not None and self.exclude.verdict(path):
            return False
        if self.include is not None and not path.endswith("/") and not self.include.covers(path):
            return False
        for folder, patterns in reversed(self.rules):
            ignored = patterns.verdict(path[len(folder) :])
            if ignored is not None:
                return not ignored
        return True


@dataclass(frozen=True)
class Patterns:
    """The patterns of a list or a .gitignore; the last that matches decides.

    Attributes:
        last_first: the patterns, in reverse order.
    """

    last_first: tuple[_Pattern, ...]

    @classmethod
    def of(cls, lines: Iterable[str]) -> Patterns:
        """Compile lines; like git, skip those that are not patterns."""
        found = (_Pattern.of(line.removesuffix("\r")) for line in lines)
        return cls(tuple(pattern for pattern in found if pattern is not None)[::-1])

    def verdict(self, path: str) -> bool | None:
        """Return whether a file or folder is matched; None if no pattern applies.

        Args:
            path: with forward slashes; a folder's ends in "/".

        Returns:
            False where the last pattern that matches begins with "!".
        """
        names = path.removesuffix("/").split("/")
        folder = path.endswith("/")
        for pattern in self.last_first:
            if (folder or not pattern.folders_only) and pattern.matches(names):
                return not pattern.negated
        return None

    def covers(self, path: str) -> bool:
        """Return whether a file is matched or, if no pattern applies to it, a folder above it.

        Args:
            path: with forward slashes.
        """
        while path:
            verdict = self.verdict(path)
            if verdict is not None:
                return verdict
            path = path.removesuffix("/").rpartition("/")[0]
            path += "/" if path else ""
        return False


_Match = Callable[[str], object]


@dataclass(frozen=True)
class _Pattern:
    """One pattern.

    Attributes:
        parts: a matcher for each name of a path; None matches any number of names.
        negated: whether it begins with "!".
        folders_only: whether it ends in "/".
    """

    parts: tuple[_Match | None, ...]
    negated: bool
    folders_only: bool

    @classmethod
    def of(cls, line: str) -> _Pattern | None:
        """Compile a line; return None for a comment, an empty line or an invalid pattern.

        Source:
            git, "gitignore", section "PATTERN FORMAT"; wildmatch.c.
        """
        text = line.rstrip(" ")
        if text != line and (len(text) - len(text.rstrip("\\"))) % 2:
            text += " "  # an escaped space
        if text.startswith("#"):
            return None
        negated = text.startswith("!")
        text = text.removeprefix("!")
        folders_only = text.endswith("/")
        text = text.removesuffix("/")
        anchored = "/" in text
        names = text.removeprefix("/").split("/")
        if names == [""]:
            return None
        parts: list[_Match | None] = [] if anchored else [None]
        for number, name in enumerate(names):
            if name == "**":
                parts.append(None)
                if number == len(names) - 1:
                    parts.append(_anything)  # "a/**" is what is inside a, not a itself
                continue
            part = _glob(name)
            if part is None:
                return None
            parts.append(part)
        return cls(tuple(parts), negated, folders_only)

    def matches(self, names: Sequence[str]) -> bool:
        """Return whether the names of a path match; compare each part with each name at most once.

        The parts between two None may match as early as possible, which leaves the most names for
        the later parts.
        """
        parts = self.parts
        if len(parts) == 2 and parts[0] is None and parts[1] is not None:  # most patterns
            return bool(parts[1](names[-1]))
        part = name = 0
        any_part, any_name = -1, 0
        while name < len(names):
            match = parts[part] if part < len(parts) else _nothing
            if match is None:
                any_part, any_name = part, name
                part += 1
            elif match(names[name]):
                part += 1
                name += 1
            elif any_part >= 0:
                any_name += 1
                part, name = any_part + 1, any_name
            else:
                return False
        return all(match is None for match in parts[part:])


def _anything(name: str) -> bool:
    return True


def _nothing(name: str) -> bool:
    return False


def _compiled(patterns: Iterable[str], name: str) -> Patterns:
    for pattern in patterns:
        if _Pattern.of(pattern) is None:
            raise InputError(
                f"{name} needs patterns as in .gitignore, for example *.pdf or drafts/: "
                f"got {pattern!r}"
            )
    return Patterns.of(patterns)


def _glob(text: str) -> _Match | None:
    r"""Compile the pattern of one name; return None if it is invalid.

    The text between two stars matches as early as possible and is never retried: the group in
    `(?=(?P<g>.*?text))(?P=g)` does not backtrack. So matching takes at most the length of the
    name times that of the pattern.
    """
    pieces: list[list[str]] = [[]]
    at = 0
    while at < len(text):
        sign = text[at]
        at += 1
        if sign == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append([])
        elif sign == "?":
            pieces[-1].append(".")
        elif sign == "[":
            found = _bracket(text, at)
            if found is None:
                return None
            expression, at = found
            pieces[-1].append(expression)
        else:
            if sign == "\\":
                if at == len(text):
                    return None
                sign = text[at]
                at += 1
            pieces[-1].append(re.escape(sign))
    if not any(sign in text for sign in "*?[\\"):
        return text.__eq__
    first, *others = ("".join(piece) for piece in pieces)
    expression = first
    for number, piece in enumerate(others[:-1], start=1):
        # By name: a number above 99 would be read as a character in octal.
        expression += f"(?=(?P<g{number}>.*?{piece}))(?P=g{number})"
    if others:
        expression += f".*{others[-1]}"
    return re.compile(expression, re.DOTALL).fullmatch


def _bracket(text: str, at: int) -> tuple[str, int] | None:
    """Compile a bracket expression.

    Args:
        text: the pattern.
        at: the place after its "[".

    Returns:
        a regular expression and the place after the "]"; None if it is invalid.
    """
    negated = text[at : at + 1] in ("!", "^")
    at += negated
    begin = at
    parts: list[str] = []
    while True:
        sign = text[at : at + 1]
        if not sign:
            return None
        if sign == "]" and at > begin:
            break
        if sign == "[" and text[at + 1 : at + 2] == ":":
            end = text.find("]", at + 2)
            if end > 0 and text[end - 1] == ":" and end - 1 > at + 1:
                members = _CLASSES.get(text[at + 2 : end - 1])
                if members is None:
                    return None
                parts.append(re.escape(members))
                at = end + 1
                continue
        first, at = _member(text, at)
        if not first:
            return None
        if text[at : at + 1] == "-" and text[at + 1 : at + 2] not in ("", "]"):
            last, at = _member(text, at + 1)
            if not last:
                return None
            last = max(
                first, last
            )  # of a range that ends before it begins, git takes the beginning
            parts.append(f"{re.escape(first)}-{re.escape(last)}")
        else:
            parts.append(re.escape(first))
    return f"[{'^' if negated else ''}{''.join(parts)}]", at + 1


def _member(text: str, at: int) -> tuple[str, int]:
    r"""Return one character of a bracket expression, without a "\" before it; "" at the end."""
    at += text[at : at + 1] == "\\"
    return text[at : at + 1], at + 1
