"""The converter: runs the worker process in which untrusted files are converted.

If a file makes a library hang, crash or exhaust memory, only that file is lost: the worker is
killed, the file is reported, and the next file gets a new worker.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from quaver.documents.limits import LIMITS
from quaver.documents.passage import Document, Section
from quaver.errors import DocumentError

# The search path is passed on: `python -m` would put the working directory first, which may contain
# any module.
_START = "import sys; sys.path[:] = sys.argv[3:]; from quaver.documents.worker import main; main()"


class Converter:
    """A worker process, started when it is first needed; a context manager.

    Only one thread at a time may use it.
    """

    def __init__(
        self, *, seconds: float = LIMITS.seconds, memory_bytes: int = LIMITS.memory_bytes
    ) -> None:
        """Set the limits; the process starts later.

        Args:
            seconds: CPU time limit of one conversion, in seconds; ten times as much in elapsed
                time.
            memory_bytes: address space limit of the process, in bytes.
        """
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._process: _Process | None = None

    def convert(self, ending: str, content: bytes) -> Document:
        """Convert a file in the worker process; like `formats.convert`.

        Args:
            ending: the file's ending, in lower case.
            content: its bytes.

        Returns:
            the document, without source and root.

        Raises:
            DocumentError: as for `formats.convert`; or the conversion took too long, needed too
                much memory, or crashed.
            ImportError: an extra is not installed.
        """
        (outcome,) = self.convert_all([(ending, content)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def convert_all(
        self, files: Sequence[tuple[str, bytes]]
    ) -> Iterator[Document | DocumentError | ImportError]:
        """Convert files in one message, which saves a round trip for each small file.

        Args:
            files: ending and content of each.

        Yields:
            for each file in order, as soon as it is ready, what `convert` would return or raise.
        """
        done = 0
        while done < len(files):
            ended = False
            try:
                for outcome, last in self._answers(files[done:]):
                    done += 1
                    ended = last
                    yield outcome
                    if last:
                        break
                else:
                    continue
            finally:
                # Unread answers would be taken for those of the next files.
                if ended or done < len(files):
                    self.close()

    def close(self) -> None:
        """End the process; a later conversion starts a new one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def __enter__(self) -> Converter:
        """Return the converter itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        self.close()

    def _answers(
        self, files: Sequence[tuple[str, bytes]]
    ) -> Iterator[tuple[Document | DocumentError | ImportError, bool]]:
        """Yield the answers of one process, each with whether the process has ended."""
        if self._process is None:
            self._process = _Process(self._seconds, self._memory_bytes)
        process = self._process
        patience = self._seconds * LIMITS.patience
        sizes = [(ending, len(content)) for ending, content in files]
        try:
            process.send([json.dumps(sizes).encode() + b"\n", *(c for _, c in files)], patience)
            for _ in files:
                answer = json.loads(process.line(patience))
                text = process.take(answer.pop("size", 0), patience).decode()
                yield _outcome(answer, text), "last" in answer
        except _LateError:
            yield DocumentError(f"reading it took longer than {self._seconds:g} s: given up"), True
        except EOFError:
            yield DocumentError(self._death(process)), True

    def _death(self, process: _Process) -> str:
        """Return why the process ended, as an error message."""
        code = process.wait()
        if code is not None and -code == getattr(signal, "SIGXCPU", None):
            return f"reading it took longer than {self._seconds:g} s: given up"
        cause = signal.Signals(-code).name if code is not None and code < 0 else f"code {code}"
        return (
            f"reading it ended the converter ({cause}): the file is broken, or needs more than "
            f"{self._memory_bytes >> 20} MiB of memory"
        )


def _outcome(answer: dict[str, Any], text: str) -> Document | DocumentError | ImportError:
    if "missing" in answer:
        return ImportError(answer["missing"])
    if "failure" in answer:
        return DocumentError(answer["failure"])
    sections = tuple(
        Section(tuple(headings), start, end, metadata)
        for headings, start, end, metadata in answer["sections"]
    )
    return Document(
        "",
        text,
        sections,
        markdown=answer["markdown"],
        pages=tuple(answer["pages"]),
        metadata=answer["metadata"],
    )


class _LateError(Exception):
    """The process did not answer in time."""


class _Process:
    """The process and its pipes. Nothing here blocks, because a hanging process neither reads nor writes."""

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        limits = (str(seconds), str(memory_bytes))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *limits, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C goes only to the parent, which then ends this process
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        self._read = bytearray()
        self.pid = self._process.pid

    def send(self, parts: Sequence[bytes], patience: float) -> None:
        """Write a message.

        Raises:
            EOFError: the process has ended.
            _LateError: it did not accept the message within `patience` seconds.
        """
        until = time.monotonic() + patience
        # Small parts are cheaper to write together.
        for part in parts if sum(map(len, parts)) > 1 << 20 else [b"".join(parts)]:
            rest = memoryview(part)
            while rest:
                self._await(self._input, select.POLLOUT, until)
                try:
                    rest = rest[os.write(self._input, rest[: 1 << 20]) :]
                except BrokenPipeError as error:
                    raise EOFError from error

    def line(self, patience: float) -> bytes:
        """Read a line. Raises the same errors as `send`."""
        until = time.monotonic() + patience
        seen = 0
        while (end := self._read.find(b"\n", seen)) < 0:
            seen = len(self._read)
            self._fill(until)
        return self._taken(end + 1)

    def take(self, size: int, patience: float) -> bytes:
        """Read bytes. Raises the same errors as `send`."""
        until = time.monotonic() + patience
        while len(self._read) < size:
            self._fill(until)
        return self._taken(size)

    def wait(self) -> int | None:
        """Return the exit code of the process; None if it is still running."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(10)
        return None

    def end(self) -> None:
        """End the process and close its pipes."""
        self._process.kill()
        with self._process:
            pass

    def _taken(self, size: int) -> bytes:
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken

    def _fill(self, until: float) -> None:
        self._await(self._output, select.POLLIN, until)
        part = os.read(self._output, 1 << 20)
        if not part:
            raise EOFError
        self._read += part

    @staticmethod
    def _await(file: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(file, event)
        if not poll.poll(max(until - time.monotonic(), 0) * 1000):
            raise _LateError
