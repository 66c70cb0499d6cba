"""The process in which hostile files are taken apart, seen from inside.

It gets files through a pipe and gives back JSON, never pickles. It has a limit of memory, and for
each file one of time; it may neither open a connection, start a program, nor write a file.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from typing import Any

from quaver.documents.formats import convert
from quaver.errors import DocumentError

_REFUSED = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.")


def main() -> None:
    """Convert files until there are no more.

    The arguments of the process are its limits: seconds for each file, and bytes of memory. Standard
    input has for some files together a line of JSON with the ending and size of each, then their
    bytes; standard output gets for each file a line of JSON, as ``answer_for`` says, and behind it
    the document's text, whose bytes the line counts as "size".
    """
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    _confine(memory)
    while header := sys.stdin.buffer.readline():
        # All of a message is read before anything is answered: else both ends might wait to write.
        files = [(ending, sys.stdin.buffer.read(size), size) for ending, size in json.loads(header)]
        for ending, content, size in files:
            if len(content) < size:  # the parent is gone
                return
            used = resource.getrusage(resource.RUSAGE_SELF)
            _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds))
            answer = answer_for(ending, content)
            text = answer.pop("text", "").encode()
            answers.write(json.dumps(answer | {"size": len(text)}).encode() + b"\n" + text)
            answers.flush()


def answer_for(ending: str, content: bytes) -> dict[str, Any]:
    """Convert a file and say what came of it.

    Args:
        ending: The file's ending.
        content: Its bytes.

    Returns:
        The fields of the document; or "failure", a reason; or "missing", what to install. "last"
        asks for a new process.
    """
    try:
        document = convert(ending, content)
    except DocumentError as error:
        return {"failure": str(error)}
    except ImportError as error:
        return {"missing": str(error)}
    except MemoryError:
        memory, _ = resource.getrlimit(resource.RLIMIT_AS)
        return {"failure": f"reading it needs more than {memory >> 20} MiB: given up", "last": True}
    except RecursionError:
        return {"failure": "broken: nested too deeply"}
    # The libraries raise whatever a broken file makes them run into: KeyError, AttributeError, ...
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
    """Take from this process what converting does not need."""
    sys.dont_write_bytecode = True
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"converting a document does not need {event}")

    sys.addaudithook(refuse)


def _limit(resource_id: int, soft: int) -> None:
    _, hard = resource.getrlimit(resource_id)
    resource.setrlimit(resource_id, (soft if hard < 0 else min(soft, hard), hard))
