"""The process in which hostile files are taken apart, seen from outside.

A file that makes a library hang, crash or eat memory costs its own conversion and nothing else: the
process is ended, the file is reported, and the next file gets a new process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from quaver.errors import DocumentError
from quaver.passages.limits import LIMITS
from quaver.passages.passage import Document, Section

# The search path is handed over: `python -m` would put the working directory first, where anything
# may lie.
_START = "import sys; sys.path[:] = sys.argv[3:]; from quaver.passages.worker import main; main()"


class Converter:
    """A worker process, started when it is first needed; a context manager.

    One thread at a time may use it.
    """

    def __init__(
        self, *, seconds: float = LIMITS.seconds, memory_bytes: int = LIMITS.memory_bytes
    ) -> None:
        """Starts nothing yet.

        Args:
            seconds: CPU time that one conversion may take; by the clock it may take ten times as
                long.
            memory_bytes: Address space of the process.
        """
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._process: subprocess.Popen[bytes] | None = None

    def convert(self, ending: str, content: bytes) -> Document:
        """Converts a file in the worker process; like ``formats.convert``.

        Args:
            ending: The file's ending, in small letters.
            content: Its bytes.

        Returns:
            The document, without source and root.

        Raises:
            DocumentError: As ``formats.convert``; or the conversion took too long, needed too much
                memory, or crashed.
            ImportError: An extra is not installed.
        """
        answer = self._ask(ending, content)
        if "missing" in answer:
            raise ImportError(answer["missing"])
        if "failure" in answer:
            raise DocumentError(answer["failure"])
        sections = tuple(
            Section(tuple(headings), start, end, metadata)
            for headings, start, end, metadata in answer["sections"]
        )
        return Document(
            "",
            answer["text"],
            sections,
            markdown=answer["markdown"],
            pages=tuple(answer["pages"]),
            metadata=answer["metadata"],
        )

    def close(self) -> None:
        """Ends the process; a later conversion starts another."""
        if self._process is not None:
            self._process.kill()
            with self._process:  # closes the pipes and waits
                self._process = None

    def __enter__(self) -> Converter:
        """Returns the converter itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process."""
        self.close()

    def _ask(self, ending: str, content: bytes) -> Mapping[str, Any]:
        """Sends a file to the process and returns its answer."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        # A process that hangs may neither read nor write: ending it frees this thread from both.
        timer = threading.Timer(self._seconds * LIMITS.patience, end)
        timer.start()
        try:
            header = json.dumps({"ending": ending, "size": len(content)}).encode()
            process.stdin.write(header + b"\n" + content)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            raise DocumentError(self._death(late.is_set()))
        answer: Mapping[str, Any] = json.loads(line)
        if answer.get("last"):
            self.close()
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            limits = (str(self._seconds), str(self._memory_bytes))
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, *limits, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent, which then ends this one
            )
        return self._process

    def _death(self, late: bool) -> str:
        """Ends the process and returns what it died of."""
        assert self._process is not None
        process = self._process
        with suppress(subprocess.TimeoutExpired):
            process.wait(0 if late else 10)
        code = process.poll()
        self.close()
        if late or code == -signal.SIGXCPU:
            return f"reading it took longer than {self._seconds:g} s: given up"
        cause = signal.Signals(-code).name if code is not None and code < 0 else f"code {code}"
        return (
            f"reading it ended the converter ({cause}): the file is broken, or needs more than "
            f"{self._memory_bytes >> 20} MiB of memory"
        )
