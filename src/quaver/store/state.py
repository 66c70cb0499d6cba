"""state.json, the committed state of a store.

It defines the store: how many records of each file count, and which files belong to it. A new state
replaces it by a rename once everything it refers to is on disk. So a reader needs no lock, and a
killed writer leaves the store as of the last rename.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from quaver.errors import StoreError
from quaver.store.column import write_whole

FILE_NAME = "state.json"
_OF_TOKENS = ("weights", "multi", "tokens_sum", "sparse_runs")


@dataclass(frozen=True)
class Run:
    """A file of words, or of sparse vectors; see `postings`.

    Attributes:
        number: it is `words.GENERATION.NUMBER`, or `sparse.GENERATION.NUMBER`.
        level: how often its postings were merged.
        postings: how many it holds.
        size: its bytes.
        sum: CRC-32 of its bytes.
    """

    number: int
    level: int
    postings: int
    size: int
    sum: int


@dataclass(frozen=True)
class State:
    """The committed state.

    Attributes:
        commit: counts the commits.
        generation: of the files; increases when they are rewritten.
        rows: committed records of rows, vectors and sketches.
        texts: committed bytes of texts.
        dropped: committed records of dropped.
        rows_sum: CRC-32 of the committed rows.
        dropped_sum: CRC-32 of the committed dropped.
        runs: the files of words.
        next_run: the number that the next one gets.
        manifest: the manifest as JSON text, a second copy of it.
        weights: committed records of weights.
        multi: committed records of multi.
        tokens_sum: CRC-32 of the committed records of tokens, as many as rows.
        sparse_runs: the files of sparse vectors.
    """

    commit: int = 0
    generation: int = 1
    rows: int = 0
    texts: int = 0
    dropped: int = 0
    rows_sum: int = 0
    dropped_sum: int = 0
    runs: tuple[Run, ...] = field(default=())
    next_run: int = 1
    manifest: str = ""
    weights: int = 0
    multi: int = 0
    tokens_sum: int = 0
    sparse_runs: tuple[Run, ...] = field(default=())

    def write(self, store: Path) -> None:
        """Commit: replace the file by this state.

        Args:
            store: the store's folder.

        Raises:
            StoreWriteError: writing failed; the previous state stays.
        """
        # Without what a store of only one vector for each passage does not have: earlier versions read it.
        fields = {name: v for name, v in asdict(self).items() if v or name not in _OF_TOKENS}
        content = json.dumps(fields, sort_keys=True)
        written = {"state": content, "sum": zlib.crc32(content.encode())}
        write_whole(store / FILE_NAME, json.dumps(written).encode())

    @classmethod
    def read(cls, store: Path) -> State:
        """Read the committed state.

        Args:
            store: the store's folder.

        Returns:
            the state.

        Raises:
            StoreError: the file is missing or broken.
        """
        path = store / FILE_NAME
        try:
            written = json.loads(path.read_bytes())
            content = written["state"]
            if zlib.crc32(content.encode()) != written["sum"]:
                raise ValueError("its sum does not fit")
            fields = json.loads(content)
            runs = tuple(Run(**run) for run in fields.pop("runs"))
            sparse_runs = tuple(Run(**run) for run in fields.pop("sparse_runs", ()))
            return replace(_checked(cls(**fields)), runs=runs, sparse_runs=sparse_runs)
        except OSError as error:
            raise StoreError(
                f"cannot read {path}: {error.strerror}; `quaver check --repair` rebuilds it"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                f"{path} is broken: {error}; `quaver check --repair` rebuilds it"
            ) from error


def _checked(state: State) -> State:
    values: dict[str, Any] = asdict(state)
    for name, value in values.items():
        kind = {"runs": tuple, "sparse_runs": tuple, "manifest": str}.get(name, int)
        if not isinstance(value, kind) or (kind is int and value < 0):
            raise ValueError(f"{name} is {value!r}")
    return state
