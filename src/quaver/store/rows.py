"""The record of a passage: offsets and checksums of its parts."""

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

ROW_RECORD = np.dtype(
    [
        ("id", "<u8", 2),  # the UUID of ``payload.point_id``, upper half first
        ("content", "<u8", 2),  # of ``passage.content_digest``, upper half first
        ("root", "<u8"),  # ``name_hash`` of the root
        ("source", "<u8"),  # ``name_hash`` of the source
        ("at", "<u8"),  # offset of its head in texts; its text follows
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

DROPPED_RECORD = np.dtype([("row", "<u4"), ("inverse", "<u4")])
"""A removed row, and the same number inverted to detect damage."""

TOKEN_RECORD = np.dtype(
    [
        ("weights_at", "<u8"),  # number of its first record in weights
        ("multi_at", "<u8"),  # number of its first vector in multi
        ("weights", "<u4"),  # how many weights
        ("multi", "<u4"),  # how many vectors
        ("weights_sum", "<u4"),  # CRC-32 of the weights' bytes
        ("multi_sum", "<u4"),  # CRC-32 of the vectors' bytes
        ("spare", "<u4"),
        ("row_sum", "<u4"),  # CRC-32 of all before
    ]
)
"""Where a passage's sparse and token vectors are; 40 bytes, all zero where it has none."""

WEIGHT_RECORD = np.dtype([("word", "<u4"), ("weight", "<f2")])
"""The weight of a word; 6 bytes."""

HAS_VECTOR = 1
HAS_SPARSE = 2
HAS_MULTI = 4
MAX_ROWS = (1 << 32) - 2
_HALF = (1 << 64) - 1
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)


def id_key(identity: str) -> tuple[int, int]:
    """Return the halves of a passage's UUID."""
    number = UUID(point_id(identity)).int
    return number >> 64, number & _HALF


def mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a lookup number for each key; it mixes both halves, because ids may agree in one.

    Args:
        keys: uint64 (N, 2).
    """
    # Modulo 2 ** 64, by odd numbers whose bits look random.
    found: NDArray[np.uint64] = keys[:, 0] * _MIX[0] + keys[:, 1] * _MIX[1]
    return found


def content_key(digest: str) -> tuple[int, int]:
    """Return the halves of a content digest; for an invalid one, a pair that no passage has."""
    try:
        number = int(digest, 16) if len(digest) == 32 else 0
    except ValueError:
        number = 0
    return number >> 64, number & _HALF


def name_hash(name: str) -> int:
    """Return a 64-bit hash of a root or source, to find its passages without reading them."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def to_head(payload: Mapping[str, Any]) -> bytes:
    """Return a payload without its text and content digest, as JSON."""
    kept = {key: value for key, value in payload.items() if key not in ("text", "content")}
    return json.dumps(kept, separators=(",", ":")).encode()


def to_text(text: str) -> bytes:
    """Return a text's bytes, keeping half a surrogate pair, which Python allows."""
    return text.encode("utf-8", "surrogatepass")


def from_text(data: bytes) -> str:
    """Return the text for the bytes from `to_text`."""
    return data.decode("utf-8", "surrogatepass")


def seal(records: NDArray[np.void]) -> None:
    """Set the checksums of otherwise complete records; `row_sum` is their last field."""
    data = records.tobytes()
    size = records.dtype.itemsize
    records["row_sum"] = [zlib.crc32(data[at : at + size - 4]) for at in range(0, len(data), size)]


def sealed(records: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which records have a valid checksum."""
    again = records.copy()
    seal(again)
    found: NDArray[np.bool_] = again["row_sum"] == records["row_sum"]
    return found
