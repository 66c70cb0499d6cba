"""Checks of ZIP-based files before any library unpacks them."""

from __future__ import annotations

import io
import zipfile
import zlib

from quaver.documents.limits import LIMITS
from quaver.errors import DocumentError

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = 0x1
_DECLARATIONS = tuple(
    declaration.encode(encoding)
    for declaration in ("<!DOCTYPE", "<!ENTITY")
    for encoding in ("utf-8", "utf-16-le", "utf-16-be")
)


def open_archive(content: bytes) -> zipfile.ZipFile:
    """Open an archive and check that it is safe to unpack.

    `zipfile` never returns more of a member than its directory entry states, so the sum of these
    sizes bounds the memory.

    Args:
        content: the file.

    Returns:
        the archive.

    Raises:
        DocumentError: it is not a ZIP archive, is encrypted, or is too large when unpacked.
    """
    if content.startswith(_OLE):
        raise DocumentError(
            "encrypted, or in the format before 2007: save it without a password in the new format"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise DocumentError(f"broken: not a ZIP archive inside ({error})") from error
    members = archive.infolist()
    if any(member.flag_bits & _ENCRYPTED for member in members):
        raise DocumentError("encrypted: save it without a password")
    size = sum(member.file_size for member in members)
    if size > LIMITS.unpacked_bytes or len(members) > LIMITS.members:
        raise DocumentError(
            f"unpacks to {size / 1e6:.0f} MB in {len(members)} parts: the limit is "
            f"{LIMITS.unpacked_bytes / 1e6:.0f} MB in {LIMITS.members} parts"
        )
    return archive


def check_office(content: bytes) -> None:
    """Check the archive of an Office document before a library reads it.

    Args:
        content: the file.

    Raises:
        DocumentError: as for `open_archive`; or a part is damaged; or it declares a document type
            or entities, which the standard forbids because their expansion is an attack.

    Source:
        ECMA-376, part 2, "Open Packaging Conventions", 8.1.4: no DTD declarations in a part.
    """
    with open_archive(content) as archive:
        for member in archive.infolist():
            if not member.filename.lower().endswith((".xml", ".rels")):
                continue
            part = read_member(archive, member.filename)
            if any(declaration in part for declaration in _DECLARATIONS):
                raise DocumentError(f"declares XML entities, in {member.filename!a}: refused")


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Unpack one member.

    Args:
        archive: from `open_archive`.
        name: the member's name.

    Returns:
        its bytes.

    Raises:
        DocumentError: there is no such member, or it is damaged.
    """
    try:
        return archive.read(name)
    except KeyError as error:
        raise DocumentError(f"broken: {name!a} is missing") from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
        raise DocumentError(f"broken: {name!a} cannot be unpacked ({error})") from error
