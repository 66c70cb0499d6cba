"""Files and folders by path or URI: where they are, and what is in them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from quaver.errors import BulkError, BulkWriteError, InputError, needs_extra

with needs_extra("bulk"):
    import pyarrow as pa
    from pyarrow import fs

_WILDCARD = re.compile(r"[*?\[]")
_OPTIONS = re.compile(r"\?[A-Za-z_]+=[^?&]*(&[A-Za-z_]+=[^?&]*)*$")
"""The options of a filesystem: keys of objects may have "?" and "#", too."""

_READERS = 16
"""Files read at a time, where each is small or only its footer is read."""

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Place:
    """A file or folder of a filesystem.

    Attributes:
        filesystem: of pyarrow.
        path: in the filesystem.
        root: what stands before the path in the name: "s3://", or nothing for a local path.
        query: the filesystem's options, as the URI has them: "?region=eu-west-1", or nothing.
    """

    filesystem: Any
    path: str
    root: str = ""
    query: str = ""

    @property
    def name(self) -> str:
        """The path or URI that `find_place` takes."""
        return f"{self.root}{self.path}{self.query}"

    @property
    def is_local(self) -> bool:
        """Whether the operating system has this file under the same path."""
        return bool(self.filesystem.type_name == "local")

    def __truediv__(self, below: str) -> Place:
        """Return a place below this one."""
        return Place(self.filesystem, f"{self.path.rstrip('/')}/{below}", self.root, self.query)

    def at(self, path: str) -> Place:
        """Return another path of the same filesystem."""
        return Place(self.filesystem, path, self.root, self.query)


@dataclass(frozen=True)
class Listed:
    """A file as it was found.

    Attributes:
        place: where it is.
        size: in bytes.
        modified: nanoseconds since 1970; 0 if the filesystem does not say.
    """

    place: Place
    size: int
    modified: int


def find_place(name: str | os.PathLike[str]) -> Place:
    """Find the filesystem of a path or URI.

    Args:
        name: a local path, or a URI such as "s3://bucket/folder"; options of the filesystem may
            follow, as pyarrow reads them: "?region=eu-west-1&endpoint_override=host:9000".

    Returns:
        the place; nothing needs to be there.

    Raises:
        InputError: the URI is not one, or has a password.
        BulkError: the filesystem cannot be reached.
    """
    name = os.fspath(name)
    if "://" not in name:
        return Place(fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(name)))  # noqa: PTH100, PTH111
    scheme, rest, query = _parts(name)
    host, _, below = rest.partition("/")
    top = f"{scheme}://{host}/"
    if urlsplit(top).password:
        raise InputError(
            "a URI must not contain a password, because the manifest records it: set the "
            "credentials in the environment of every worker"
        )
    filesystem, root = _filesystem(top, query)
    path = f"{root.rstrip('/')}/{below.lstrip('/')}".rstrip("/")
    bucket = root.rstrip("/")
    return Place(
        filesystem, path, top.rstrip("/").removesuffix(bucket) if bucket else top[:-1], query
    )


def identity(name: str) -> str:
    """Return what all names of a file or folder have in common, without looking at a remote one.

    Args:
        name: as `Place.name` has it.

    Returns:
        a local path without symbolic links, or a URI with the endpoint but no other option.
    """
    if "://" not in name:
        return os.path.realpath(name)
    scheme, rest, query = _parts(name)
    if scheme == "file":
        return os.path.realpath("/" + rest.partition("/")[2])
    endpoint = dict(parse_qsl(query[1:])).get("endpoint_override", "")
    return f"{scheme}://{f'{endpoint}/' if endpoint else ''}{rest}"


def _parts(uri: str) -> tuple[str, str, str]:
    """Return the scheme, what follows it, and the options with their "?", if there are any."""
    options = _OPTIONS.search(uri)
    query = options[0] if options else ""
    scheme, _, rest = uri.removesuffix(query).partition("://")
    return scheme, rest, query


@lru_cache(maxsize=64)
def _filesystem(top: str, query: str) -> tuple[Any, str]:
    """Connect to a bucket or host once in a process."""
    try:
        filesystem, path = fs.FileSystem.from_uri(top + query)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, pa.ArrowInvalid):
            known = "; URIs of files begin with s3://, gs://, hdfs:// or file://"
            raise InputError(
                f"cannot open {top}: {error}{known if 'Unrecognized' in str(error) else ''}"
            ) from error
        raise BulkError(f"cannot open {top}: {error}") from error
    return filesystem, str(path)


@contextmanager
def reading(place: Place) -> Iterator[None]:
    """Turn what pyarrow and the system raise while a file is read into a `BulkError`."""
    try:
        yield
    except (OSError, EOFError, pa.ArrowException) as error:
        raise BulkError(f"cannot read {place.name}: {_reason(error)}") from error


@contextmanager
def writing(place: Place) -> Iterator[None]:
    """Turn what pyarrow and the system raise while a file is written into a `BulkWriteError`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise BulkWriteError(
            f"cannot write {place.name}: {_reason(error)}; what is finished stays: once that "
            "is mended, the same command continues"
        ) from error


def _reason(error: BaseException) -> str:
    """Return what an error says on one line, without where in C++ it arose."""
    text = getattr(error, "strerror", None) or str(error).partition(". Detail:")[0]
    return " ".join(text.split())[:500]


def find_files(sources: Sequence[str], endings: re.Pattern[str]) -> list[Listed]:
    """Find the files of a source, each once by its shortest name, sorted within each source.

    Args:
        sources: files, folders, and patterns with `*`, `?`, `[...]` and `**`; a file or folder of that
            very name comes first. Of a folder and a pattern, names that begin with "." or "_" are left out.
        endings: matches the names of files that can be read; others in a folder are left out.

    Returns:
        the files, at least one.

    Raises:
        BulkError: a source cannot be listed, or there is no such file.
        InputError: a file has another ending.
    """
    found: dict[str, Listed] = {}
    for source in sources:
        place = find_place(source)
        with reading(place):
            info = place.filesystem.get_file_info(place.path)
            if info.type == fs.FileType.Directory:
                infos = [i for i in _below(place, place.path, deep=True) if endings.search(i.path)]
                if not infos:
                    raise BulkError(f"there is no file to embed in the folder {source}")
            elif info.type != fs.FileType.NotFound:  # its name may have the characters of a pattern
                infos = [info]
            elif _WILDCARD.search(place.path):
                infos = _matching(place)
                if not infos:
                    raise BulkError(f"a pattern must match a file: nothing matches {source}")
            else:
                raise BulkError(f"there is no file or folder {source}")
        for info in sorted(infos, key=lambda info: info.path):
            if not endings.search(info.path):
                raise InputError(
                    f"{info.path} has an ending that does not say its format: use .parquet, .jsonl, "
                    ".csv, .tsv, .arrow, .feather or .txt; the text formats may end in .gz, .bz2, .zst too"
                )
            listed = Listed(place.at(info.path), info.size, info.mtime_ns or 0)
            same = identity(listed.place.name)
            before = found.get(same)
            if before is None or len(listed.place.path) < len(before.place.path):
                found[same] = listed
    return list(found.values())


def list_file(place: Place) -> Listed | None:
    """Return a file's size and time; None if there is no such file."""
    with reading(place):
        info = place.filesystem.get_file_info(place.path)
    return Listed(place, info.size, info.mtime_ns or 0) if info.is_file else None


def list_files(folder: Place) -> list[str]:
    """Return the names of the files in a folder, without those in folders below it; none if there is no folder."""
    selector = fs.FileSelector(folder.path, allow_not_found=True)
    with reading(folder):
        return [i.base_name for i in folder.filesystem.get_file_info(selector) if i.is_file]


def _below(place: Place, folder: str, *, deep: bool) -> list[Any]:
    """List the files of a folder that are not hidden below it."""
    selector = fs.FileSelector(folder, allow_not_found=True, recursive=deep)
    inside = len(PurePosixPath(folder).parts)
    return [
        info
        for info in place.filesystem.get_file_info(selector)
        if info.is_file
        and not any(part[0] in "._" for part in PurePosixPath(info.path).parts[inside:])
    ]


def _matching(place: Place) -> list[Any]:
    """List the files that match a pattern."""
    parts = place.path.split("/")
    first = next(i for i, part in enumerate(parts) if _WILDCARD.search(part))
    pattern = re.compile(_translated(parts))
    deep = first < len(parts) - 1 or "**" in parts
    return [
        i for i in _below(place, "/".join(parts[:first]), deep=deep) if pattern.fullmatch(i.path)
    ]


def _translated(parts: Sequence[str]) -> str:
    """Return the regular expression of a pattern; only `**` crosses folders."""
    out = []
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            out.append(r".*" if last else r"(?:[^/]+/)*")
            continue
        text = re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        text = re.sub(r"\\\[(!?)(.+?)\\\]", lambda m: f"[{'^' if m[1] else ''}{m[2]}]", text)
        out.append(text + ("" if last else "/"))
    return "".join(out)


def read_many(read: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Read a little of many files, several at a time: an object store takes long to answer each request.

    Args:
        read: reads one of them.
        items: what it takes.

    Returns:
        what it returns, in the same order.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, items))


def read_bytes(place: Place) -> bytes:
    """Read a small file."""
    with reading(place), place.filesystem.open_input_stream(place.path, compression=None) as file:
        return bytes(file.read())


def write_bytes(place: Place, content: bytes, aside: Place) -> None:
    """Write a small file; no reader sees a part of it, and a local one survives a power failure.

    Args:
        place: the file; an existing one is replaced.
        content: all of it.
        aside: its name until it is complete, where a file is there before it is.
    """
    with writing(place):
        if not _has_folders(place):  # an object is there once it is complete
            with place.filesystem.open_output_stream(place.path, compression=None) as file:
                file.write(content)
            return
        make_folder(aside.at(aside.path.rpartition("/")[0]))
        make_folder(place.at(place.path.rpartition("/")[0]))
        with ExitStack() as failed:
            failed.callback(remove, aside)
            if place.is_local:
                with open(aside.path, "wb") as file:  # noqa: PTH123
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            else:
                with place.filesystem.open_output_stream(aside.path, compression=None) as file:
                    file.write(content)
            place.filesystem.move(aside.path, place.path)
            failed.pop_all()


def make_folder(place: Place) -> None:
    """Make a folder where folders exist; an object store has only names."""
    if _has_folders(place):
        place.filesystem.create_dir(place.path, recursive=True)


def _has_folders(place: Place) -> bool:
    return place.filesystem.type_name in ("local", "hdfs")


def remove(place: Place) -> None:
    """Delete a file, if there is one."""
    with writing(place):
        if place.filesystem.get_file_info(place.path).is_file:
            place.filesystem.delete_file(place.path)
