"""Which files of a folder are wanted: .gitignore and patterns in its syntax, by pathspec."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from quaver.errors import InputError

_LARGEST = 1_000_000


@dataclass(frozen=True)
class Selection:
    """Which files of a folder are documents.

    Attributes:
        include: Patterns as in .gitignore, relative to the folder; a file must match one, if there
            are any: ``("*.pdf", "notes/")``.
        exclude: Patterns of files and folders to leave out.
        gitignore: Whether the .gitignore files of the folder and its sub-folders are honoured.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    gitignore: bool = True

    @classmethod
    def of(
        cls, include: Sequence[str] = (), exclude: Sequence[str] = (), *, gitignore: bool = True
    ) -> Selection:
        """Makes a selection of lists.

        Args:
            include: As above.
            exclude: As above.
            gitignore: As above.

        Returns:
            The selection.

        Raises:
            InputError: A list is one text, or a pattern is none.
        """
        for name, patterns in (("include", include), ("exclude", exclude)):
            if isinstance(patterns, str):
                raise InputError(f"{name} must be a list of patterns: got the text {patterns!r}")
        selection = cls(tuple(include), tuple(exclude), gitignore)
        Sieve.of(selection)
        return selection


@dataclass(frozen=True)
class Sieve:
    """The patterns that hold in one folder.

    Attributes:
        selection: What they were made from.
        include: What a file must match, if anything.
        exclude: What leaves out.
        rules: The .gitignore files, outermost first, each with the folder that it holds for.
    """

    selection: Selection
    include: GitIgnoreSpec | None = None
    exclude: GitIgnoreSpec | None = None
    rules: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    @classmethod
    def of(cls, selection: Selection) -> Sieve:
        """Compiles the patterns of a selection.

        Args:
            selection: The selection.

        Returns:
            What holds in the folder before its .gitignore is read.

        Raises:
            InputError: A pattern is none.
        """
        return cls(
            selection,
            _compiled(selection.include, "include") if selection.include else None,
            _compiled(selection.exclude, "exclude") if selection.exclude else None,
        )

    def inside(self, folder: Path, relative: str) -> Sieve:
        """Returns what holds inside a folder, its .gitignore included.

        Args:
            folder: The folder.
            relative: Its path below the indexed folder, ending in "/"; empty for that folder.

        Returns:
            The patterns.
        """
        lines = _gitignore(folder) if self.selection.gitignore else []
        if not lines:
            return self
        rules = (*self.rules, (relative, GitIgnoreSpec.from_lines(lines)))
        return Sieve(self.selection, self.include, self.exclude, rules)

    def keeps(self, path: str) -> bool:
        """Whether a file or folder is wanted.

        Args:
            path: Relative to the indexed folder, with forward slashes; a folder's ends in "/".

        Returns:
            False if a pattern leaves it out. As in git, a deeper .gitignore overrides a higher one,
            and in a folder that is left out nothing is looked for.
        """
        if self.exclude is not None and self.exclude.match_file(path):
            return False
        if (
            self.include is not None
            and not path.endswith("/")
            and not self.include.match_file(path)
        ):
            return False
        for folder, spec in reversed(self.rules):
            ignored = spec.check_file(path[len(folder) :]).include
            if ignored is not None:
                return not ignored
        return True


def _gitignore(folder: Path) -> list[str]:
    """Returns the lines of a folder's .gitignore that are patterns; git passes over others too."""
    try:
        with (folder / ".gitignore").open("rb") as file:
            lines = file.read(_LARGEST).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if _is_pattern(line)]


def _is_pattern(line: str) -> bool:
    """Whether a line selects anything: it is no comment, and git would understand it."""
    try:
        spec = GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return any(pattern.include is not None for pattern in spec.patterns)


def _compiled(patterns: Iterable[str], name: str) -> GitIgnoreSpec:
    for pattern in patterns:
        if not _is_pattern(pattern):
            raise InputError(
                f"{name} needs patterns as in .gitignore, for example *.pdf or drafts/: "
                f"got {pattern!r}"
            )
    return GitIgnoreSpec.from_lines(patterns)
