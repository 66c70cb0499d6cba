"""The records of a store's passages: where the parts of each lie, and their checksums."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from quaver.store.payload import point_id

ROW = np.dtype(
    [
        ("id", "<u8", 2),  # the UUID of ``payload.point_id``, upper half first
        ("content", "<u8", 2),  # of ``passage.content_digest``, upper half first
        ("root", "<u8"),  # ``name_hash`` of the root
        ("source", "<u8"),  # ``name_hash`` of the source
        ("at", "<u8"),  # where its head begins in texts; its text follows
        ("head", "<u4"),  # bytes of the head: the payload as JSON, without text and content
        ("text", "<u4"),  # bytes of the text, UTF-8
        ("flags", "<u4"),
        ("head_sum", "<u4"),  # CRC-32 of the head
        ("text_sum", "<u4"),  # CRC-32 of the text
        ("vector_sum", "<u4"),  # CRC-32 of the vector's bytes
        ("spare", "<u4"),
        ("row_sum", "<u4"),  # CRC-32 of all before
    ]
)
"""A record; 88 bytes."""

DROPPED = np.dtype([("row", "<u4"), ("inverse", "<u4")])
"""A row that is no longer stored, and the same number inverted, so that damage shows."""

HAS_VECTOR = 1
MOST_ROWS = (1 << 32) - 2
_SUMMED = ROW.itemsize - 4
_HALF = (1 << 64) - 1
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)


def id_key(identity: str) -> tuple[int, int]:
    """Return the halves of the UUID under which a passage is filed."""
    number = UUID(point_id(identity)).int
    return number >> 64, number & _HALF


def mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a number for each key by which it is looked up: ids may be alike in either half.

    Args:
        keys: uint64 (N, 2).
    """
    # Modulo 2 ** 64, by odd numbers whose bits look random.
    found: NDArray[np.uint64] = keys[:, 0] * _MIX[0] + keys[:, 1] * _MIX[1]
    return found


def content_key(digest: str) -> tuple[int, int]:
    """Return the halves of a content digest; of what is none, those that no passage has."""
    try:
        number = int(digest, 16) if len(digest) == 32 else 0
    except ValueError:
        number = 0
    return number >> 64, number & _HALF


def name_hash(name: str) -> int:
    """Return 64 bits of a root or a source, by which its passages are found without reading them."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def to_head(payload: Mapping[str, Any]) -> bytes:
    """Return all of a payload but its text and content digest, as JSON."""
    kept = {key: value for key, value in payload.items() if key not in ("text", "content")}
    return json.dumps(kept, separators=(",", ":")).encode()


def to_text(text: str) -> bytes:
    """Return a text's bytes; half a surrogate pair, which Python allows, survives."""
    return text.encode("utf-8", "surrogatepass")


def from_text(data: bytes) -> str:
    """Return the text of ``to_text``."""
    return data.decode("utf-8", "surrogatepass")


def seal(records: NDArray[np.void]) -> None:
    """Set the sums of records that are otherwise complete."""
    data = records.tobytes()
    size = ROW.itemsize
    records["row_sum"] = [zlib.crc32(data[at : at + _SUMMED]) for at in range(0, len(data), size)]


def sealed(records: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell which records' sums fit."""
    again = records.copy()
    seal(again)
    found: NDArray[np.bool_] = again["row_sum"] == records["row_sum"]
    return found
