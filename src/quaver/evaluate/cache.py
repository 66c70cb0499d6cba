"""Vectors kept between runs, under a key of everything they depend on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder
from quaver.errors import InputError

# Rooms whose code changes no vector.
_NO_VECTORS = {
    *("answers", "cli", "documents", "evaluate"),
    *("index", "integrations", "reference", "store"),
}


class VectorCache:
    """A folder of .npy files, one for each list of texts and each system.

    Attributes:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder if it does not exist.

        Args:
            folder: where vectors are kept.

        Raises:
            InputError: the folder cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the cache {folder}: {error.strerror}") from error
        self.folder = folder

    def get(
        self,
        key: tuple[str, ...],
        texts: list[str],
        encode: Callable[[], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Return the vectors of texts, from the folder if they are kept there.

        Args:
            key: what the vectors depend on besides the texts.
            texts: the texts.
            encode: computes the vectors.

        Returns:
            float32 (N, D).
        """
        path = self.folder / f"{_digest((*key, *texts))}.npy"
        if path.is_file():
            kept: NDArray[np.float32] = np.load(path, allow_pickle=False)
            return kept
        vectors = encode()
        part = path.with_name(f"{path.stem}.{os.getpid()}.part")
        with part.open("wb") as file:
            np.save(file, vectors)
        part.rename(path)
        return vectors


def quaver_key(embedder: Embedder) -> str:
    """Return what the vectors of an embedder depend on besides the texts.

    That is the model's files and settings, the instruction set, and the code: Quaver's Python
    sources and its native module. Another build of Quaver never gets the vectors of this one.

    Args:
        embedder: the model.

    Returns:
        64 hex digits.
    """
    return _digest(
        (
            embedder.fingerprint,
            embedder.source,
            embedder.precision,
            embedder.isa,
            str(embedder.max_seq_length),
            repr(sorted(embedder.prompts.items())),
            metadata.version("tokenizers"),
            code_digest(),
        )
    )


def code_digest() -> str:
    """Return a digest of the sources and the native module that can change a vector."""
    root = Path(__file__).parent.parent
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix in (".py", ".so") and path.relative_to(root).parts[0] not in _NO_VECTORS
    )
    return _digest(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
