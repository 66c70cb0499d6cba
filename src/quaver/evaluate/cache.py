"""Vectors and scores kept between runs, under a key of everything they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.reranker import CrossEncoder
from quaver.sparse_encoder import SparseEncoder
from quaver.system import written_whole

Model: TypeAlias = Embedder | CrossEncoder | SparseEncoder | MultiVectorEncoder

# Rooms whose code changes no vector.
_NO_VECTORS = {
    *("answers", "cli", "documents", "evaluate"),
    *("index", "integrations", "reference", "store"),
}


class VectorCache:
    """A folder of .npz files, one for each list of texts and each system.

    Attributes:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder if it does not exist.

        Args:
            folder: where vectors and scores are kept.

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
        texts: Iterable[str],
        compute: Callable[[], Sequence[NDArray[Any]]],
    ) -> list[NDArray[Any]]:
        """Return what a model makes of texts, from the folder if it is kept there.

        Args:
            key: what it depends on besides the texts.
            texts: the texts.
            compute: computes it.

        Returns:
            the arrays of `compute`.

        Raises:
            InputError: the folder cannot be written.
        """
        path = self.folder / f"{_digest((*key, *texts))}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                return [kept[name] for name in kept.files]
        arrays = list(compute())
        try:
            with written_whole(path) as partial, partial.open("wb") as file:
                np.savez(file, *arrays)
        except OSError as error:
            raise InputError(
                f"cannot write to the cache {self.folder}: {error.strerror or error}"
            ) from error
        return arrays


def quaver_key(model: Model) -> str:
    """Return what the vectors or scores of a model depend on besides the texts.

    That is the model's files and settings, the instruction set, and the code: Quaver's Python
    sources and its native module. Another build of Quaver never gets the vectors of this one.

    Args:
        model: the model.

    Returns:
        64 hex digits.
    """
    most = model.max_active_dims if isinstance(model, SparseEncoder) else None
    return _digest(
        (
            type(model).__name__,
            model.fingerprint,
            model.source,
            model.precision,
            model.isa,
            str(model.max_seq_length),
            str(most),
            repr(sorted(model.prompts.items())),
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
