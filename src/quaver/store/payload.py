"""A passage as a store keeps it: one flat record, the same in every store."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from quaver.documents import Passage, content_digest
from quaver.errors import InputError, StoreError
from quaver.store.protocol import FileVersion, Hit

VERSION_FIELDS = ("file_digest", "file_passages")
_NAMESPACE = uuid.UUID("2b1f3b0e-58a5-5d5e-9d1f-0d1f6a5d7c11")
_REQUIRED = ("text", "source", "heading", "start", "end", "root")


def point_id(identity: str) -> str:
    """Return the UUID under which a store files a passage.

    Args:
        identity: the passage's id, any text.

    Returns:
        the id itself if it is a UUID in its usual form, else a UUID (version 5) made from it.
    """
    try:
        if str(uuid.UUID(identity)) == identity:
            return identity
    except ValueError:
        pass
    return str(uuid.uuid5(_NAMESPACE, identity))


def to_payload(
    passage: Passage, versions: Mapping[str, FileVersion] | None, *, late_chunking: bool = False
) -> dict[str, Any]:
    """Return what is stored of a passage.

    Args:
        passage: the passage.
        versions: the file version of each source, or None.
        late_chunking: whether its vector depends on the rest of the file.

    Returns:
        a record that JSON can hold.

    Raises:
        InputError: the metadata holds something that JSON cannot, or text that is not valid Unicode.
    """
    version = None if versions is None else versions[passage.source]
    place = version.place(passage.start) if late_chunking and version is not None else ""
    payload: dict[str, Any] = {
        "id": passage.id,
        "text": passage.text,
        "source": passage.source,
        "heading": passage.heading,
        "start": passage.start,
        "end": passage.end,
        "root": passage.root,
        "content": content_digest(passage.heading, passage.text, place),
    }
    if passage.metadata:
        payload["metadata"] = _plain(passage)
    if version is not None:
        payload |= dict(zip(VERSION_FIELDS, (version.digest, version.passages), strict=True))
    return payload


def to_passage(payload: Mapping[str, Any], where: object) -> Passage:
    """Read a passage back.

    Args:
        payload: what `to_payload` gave.
        where: the store, for messages.

    Returns:
        the passage.

    Raises:
        StoreError: a field is missing.
    """
    try:
        return Passage(
            id=payload["id"],
            metadata=payload.get("metadata", {}),
            **{name: payload[name] for name in _REQUIRED},
        )
    except KeyError as error:
        raise _broken(payload, where, error) from error


def to_hit(payload: Mapping[str, Any], score: float, where: object) -> Hit:
    """Read a hit; like `to_passage`."""
    try:
        return Hit(
            id=payload["id"],
            score=score,
            metadata=payload.get("metadata", {}),
            **{name: payload[name] for name in _REQUIRED},
        )
    except KeyError as error:
        raise _broken(payload, where, error) from error


def to_version(payload: Mapping[str, Any]) -> FileVersion | None:
    """Read the file version; None for a passage without a file."""
    digest = payload.get("file_digest")
    return FileVersion(digest, payload["file_passages"]) if digest else None


def _plain(passage: Passage) -> dict[str, Any]:
    """Return the metadata as JSON would give it back: lists for tuples, text for keys."""
    try:
        plain = json.loads(json.dumps(dict(passage.metadata), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"metadata must be what JSON can hold: passage {passage.id} has {error}"
        ) from error
    assert isinstance(plain, dict)
    return plain


def _broken(payload: Mapping[str, Any], where: object, error: KeyError) -> StoreError:
    return StoreError(
        f"passage {payload.get('id', '?')} in {where} lacks {error.args[0]!r}: the store is "
        "broken; index again into another place"
    )
