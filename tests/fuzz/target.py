"""What a target is: something of Quaver that reads what strangers wrote, and how cases for it are drawn and tried."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any


class BrokenPromiseError(Exception):
    """What came back without an error is wrong: a vector that is not finite, text that is lost."""


@dataclass
class Case:
    """One hostile input.

    Attributes:
        files: content by path; a ``str`` is a special file: "fifo", "folder", or "-> TARGET", a link.
        settings: what else the target needs; JSON.
        story: what was done to it, for the report.
    """

    files: dict[str, bytes | str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write the files below a folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content == "fifo":
                os.mkfifo(path)
            elif content == "folder":
                path.mkdir()
            else:
                path.symlink_to(content.removeprefix("-> "))

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        files = {
            name: {"special": content}
            if isinstance(content, str)
            else {"base64": base64.b64encode(content).decode()}
            for name, content in self.files.items()
        }
        return json.dumps(
            {"story": self.story, "settings": self.settings, "files": files}, indent=1
        )

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Read a reproducer."""
        said = json.loads(text)
        files = {
            name: entry["special"] if "special" in entry else base64.b64decode(entry["base64"])
            for name, entry in said["files"].items()
        }
        return cls(files, said["settings"], said["story"])


class Target:
    """One kind of input.

    Attributes:
        name: how the command line calls it.
        cpu_seconds: processor time of a case, after which it hangs. Generous: what is hunted grows
            without bound, and a busy machine must not decide.
        memory_bytes: address space that a case may take beside what the process has.
        quick: cases of `make fuzz-quick`.
        share: of the time of `make fuzz`, relative to the others.
    """

    name: str
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    quick: int = 200
    share: int = 1

    def draw(self, draw: Random) -> Case:
        """Draw a case."""
        raise NotImplementedError

    def run(self, case: Case, folder: Path) -> str:
        """Try a case in an empty folder.

        Returns:
            The outcome in a word or two. Errors of Quaver's own tree may be raised.

        Raises:
            BrokenPromiseError: what came back is wrong.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Release what was made for all cases."""
