"""The main function of the worker process that converts untrusted files.

It receives files through a pipe and returns JSON, never pickles. Memory is limited, and so is the
CPU time of each file. The process cannot open a connection, start a program, or write a file.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from quaver.documents.formats import convert
from quaver.errors import DocumentError
from quaver.system import limit_seconds, limit_worker, memory_limit

_REFUSED = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.")


def main() -> None:
    """Convert files until there are no more.

    The arguments of the process are its limits: seconds of CPU time for each file, and bytes of
    memory. A message on standard input is a line of JSON with the ending and size of each file,
    followed by their bytes. The answer for each file on standard output is a line of JSON, see
    `answer_for`, followed by the document's text, whose length in bytes is "size".
    """
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # output that a library prints is not an answer
    _confine(memory)
    while header := sys.stdin.buffer.readline():
        # Read the whole message before answering: otherwise both sides might block on writing.
        files = [(ending, sys.stdin.buffer.read(size), size) for ending, size in json.loads(header)]
        for ending, content, size in files:
            if len(content) < size:  # the parent is gone
                return
            limit_seconds(seconds)
            answer = answer_for(ending, content)
            text = answer.pop("text", "").encode()
            answers.write(json.dumps(answer | {"size": len(text)}).encode() + b"\n" + text)
            answers.flush()


def answer_for(ending: str, content: bytes) -> dict[str, Any]:
    """Convert a file and return the answer to send.

    Args:
        ending: the file's ending.
        content: its bytes.

    Returns:
        the fields of the document; or "failure", the reason; or "missing", what to install. "last"
        means that this process must be replaced.
    """
    try:
        document = convert(ending, content)
    except DocumentError as error:
        return {"failure": str(error)}
    except ImportError as error:
        return {"missing": str(error)}
    except MemoryError:
        most = memory_limit()
        needed = f"more than {most >> 20} MiB" if most else "more memory than there is"
        return {"failure": f"reading it needs {needed}: given up", "last": True}
    except RecursionError:
        return {"failure": "broken: nested too deeply"}
    # On broken files the libraries raise anything: KeyError, AttributeError, ...
    except Exception as error:  # noqa: BLE001
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return {"failure": f"broken: {said[:300]}"}
    return {
        "text": document.text,
        "sections": [
            (section.headings, section.start, section.end, dict(section.metadata))
            for section in document.sections
        ],
        "markdown": document.markdown,
        "pages": document.pages,
        "metadata": dict(document.metadata),
    }


def _confine(memory: int) -> None:
    """Remove abilities that converting does not need: limit memory, forbid files, programs and sockets."""
    sys.dont_write_bytecode = True
    limit_worker(memory)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"converting a document does not need {event}")

    sys.addaudithook(refuse)
