# ruff: noqa: E501 - stories and tables are read across
"""Mutations that know JSON, XML, safetensors and ZIP: what is broken is one thing, the file around it stays whole.

Everything draws from the ``random.Random`` it is given, so a seed names a case. Every mutation returns what it did in a
few words: a failure then explains itself.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeVar

Item = TypeVar("Item")
SOURCES = Path(__file__).parents[2] / "src" / "quaver"


class Raw(str):
    """Literal JSON text that no Python value produces."""


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 0.5, -0.0, 1e308, -1e308, 1e-320),
    *(
        Raw("NaN"),
        Raw("Infinity"),
        Raw("-Infinity"),
        Raw("1e400"),
        Raw("-0"),
        Raw("1" + "0" * 5000),
    ),
    *(2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**53, 2**63 - 1, 2**63, 2**64, 10**30),
    *(-(2**31), -(2**63), 20_000_000, 200_000_000, 2.5e9),
    *(
        "",
        "x",
        "1",
        "0",
        "null",
        " ",
        "a" * 100_000,
        "\0",
        Raw('"\\ud800"'),
        "../..",
        "/etc/passwd",
        "é😀",
        "$A",
        "[",
    ),
    *(
        [],
        {},
        [[]],
        [{}],
        {"a": {}},
        {"": None},
        [None],
        ["a"],
        [1],
        [0, 1],
        [-1],
        [[[]]],
        [0] * 1000,
        [1.5, "a", None],
    ),
    *(Raw("[" * 100_000), Raw("[" * 900 + "]" * 900), Raw('{"a":' * 500 + "1" + "}" * 500)),
    *(Raw("[" * 100_000 + "]" * 100_000), Raw("{"), Raw("'x'"), Raw("")),
)
LARGE = (10, 1000, 1_000_000, 200_000_000)
INTEGERS = (
    0,
    1,
    -1,
    2,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    10**20,
)
LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 133466304\n"
)


@cache
def known_keys() -> tuple[str, ...]:
    """Return the keys that Quaver's own sources look up: adding one that a folder lacks reaches code that nothing else does."""
    keys: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        keys.update(
            re.findall(
                r"""(?:get\(|\[|pop\(|, |\()"([a-z][a-z0-9_]{3,40})"\W""",
                path.read_text(encoding="utf-8"),
            )
        )
    return tuple(sorted(keys))


# --- JSON ---
def dumps(value: Any) -> str:
    """Return JSON; ``Raw`` is written literally, and NaN is allowed."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key)}: {dumps(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(dumps, value)) + "]"
    return json.dumps(value)


def loads(content: bytes) -> Any:
    """Parse JSON; return None if it is invalid or nested too deeply to mutate."""
    depth = deepest = 0
    for bracket in re.findall(rb"[\[\]{}]", content):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > 100:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return None


def mutate_json(draw: Random, content: bytes) -> tuple[bytes, str]:
    """Change one thing in a JSON file; content that is not JSON is changed as bytes."""
    root = loads(content)
    if root is None:
        return mutate_bytes(draw, content)
    if draw.random() < 0.04:
        value = draw.choice(HOSTILE)
        return dumps(value).encode("utf-8", "replace"), f"all is {said(value)}"
    holder, key, path = _descend(draw, root)
    if holder is None:
        value = draw.choice(HOSTILE)
        return dumps(value).encode("utf-8", "replace"), f"all is {said(value)}"
    old = holder[key]
    kind = draw.randrange(10)
    if kind == 0:
        del holder[key]
        return dumps(root).encode(), f"{path} removed"
    if kind == 1 and isinstance(holder, dict):
        name = draw.choice(known_keys())
        holder[name] = value = draw.choice((old, *HOSTILE)) if draw.random() < 0.9 else old
        return dumps(root).encode(
            "utf-8", "replace"
        ), f"{path.rpartition('.')[0]}.{name} added as {said(value)}"
    if kind == 2 and isinstance(holder, dict):
        # The same key twice: readers disagree about which one counts.
        value, mark = draw.choice(HOSTILE), "\0twice\0"
        holder[mark] = value
        text = dumps(root).replace(json.dumps(mark), json.dumps(key), 1)
        return text.encode("utf-8", "replace"), f"{path} again, as {said(value)}"
    if kind == 3:
        other, name, place = _descend(draw, root)
        holder[key] = Raw(dumps(other[name])) if other is not None else None
        return dumps(root).encode("utf-8", "replace"), f"{path} is what {place} is"
    if kind == 4 and isinstance(holder, list):
        times = draw.choice((2, 10, 1000))
        holder[key:key] = [old] * times
        return dumps(root).encode(), f"{path} {times} times more"
    if kind in (5, 6) and not isinstance(old, (dict, list)):
        holder[key] = value = _near(draw, old)
    elif kind == 7:
        holder[key] = value = draw.choice(([old], {"a": old}, str(old)[:1000], [old] * 3))
    else:
        holder[key] = value = draw.choice(HOSTILE)
    return dumps(root).encode("utf-8", "replace"), f"{path} is {said(value)}"


def _descend(draw: Random, root: Any) -> tuple[Any, Any, str]:
    """Walk down at random, so that a vocabulary with a thousand entries is no likelier than a setting."""
    holder, key, path, node = None, None, "", root
    while isinstance(node, (dict, list)) and node and (holder is None or draw.random() < 0.7):
        holder = node
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
        path, node = f"{path}.{str(key)[:40]}".lstrip("."), node[key]
    return holder, key, path


def _near(draw: Random, old: Any) -> Any:
    if isinstance(old, bool) or old is None:
        return not old
    if isinstance(old, int):
        return draw.choice(
            (
                old + 1,
                old - 1,
                -old,
                old * 2,
                old // 2,
                float(old),
                old + 0.5,
                str(old),
                *(old * n for n in LARGE),
            )
        )
    if isinstance(old, float):
        return draw.choice((-old, old * 1e30, old * 1e-30, int(old), str(old)))
    text = str(old)
    return draw.choice(
        (
            text.upper(),
            text[:-1],
            text + "x",
            text * 50,
            text.encode().hex(),
            f" {text} ",
            text + "\0",
        )
    )


def said(value: Any) -> str:
    """Return a value as a story tells it."""
    text = dumps(value)
    return text if len(text) < 60 else f"{text[:40]}... ({len(text)} characters)"


# --- Bytes ---
def mutate_bytes(draw: Random, content: bytes) -> tuple[bytes, str]:
    """Flip, cut, double or overwrite bytes anywhere."""
    if not content:
        return draw.choice((b"\0", b"{", b"\xff\xfe", LFS)), "something instead of nothing"
    at, size = draw.randrange(len(content)), draw.choice((1, 2, 4, 16, 256, 4096))
    kind = draw.randrange(8)
    if kind == 0:
        return content[:at], f"cut at {at} of {len(content)}"
    if kind == 1:
        flipped = bytearray(content)
        for _ in range(draw.choice((1, 1, 3, 20))):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        return bytes(flipped), "bits flipped"
    if kind == 2:
        return content[:at] + content[at + size :], f"{size} bytes gone at {at}"
    if kind == 3:
        return content[:at] + content[at : at + size] * draw.choice((2, 100)) + content[
            at:
        ], f"{size} bytes doubled at {at}"
    if kind == 4:
        filled = draw.choice((b"\0", b"\xff", b"A", b"\x80")) * size
        return content[:at] + filled + content[at + size :], f"{size} bytes overwritten at {at}"
    if kind == 5:
        number = draw.choice(INTEGERS) % 2**64
        width = draw.choice((1, 2, 4, 8))
        value = (number % 256**width).to_bytes(width, draw.choice(("little", "big")))
        return content[:at] + value + content[at + width :], f"number {number} at {at}"
    if kind == 6:
        return draw.choice(
            (b"", b"\xef\xbb\xbf" + content, LFS, b"\0" * len(content))
        ), "all replaced"
    other = draw.randrange(len(content))
    low, high = sorted((at, other))
    return content[:low] + content[high:] + content[low:high], f"{low} and {high} swapped"


# --- Numbers and names in text ---
def mutate_markup(draw: Random, content: bytes) -> tuple[bytes, str]:
    """Change markup (XML, HTML, PDF objects) by its tokens: numbers, quoted values, tags."""
    kind = draw.randrange(7)
    if kind < 2:
        numbers = list(re.finditer(rb"\d+", content))
        if numbers:
            match = draw.choice(numbers)
            value = str(draw.choice(INTEGERS)).encode()
            return content[: match.start()] + value + content[
                match.end() :
            ], f"{match[0][:20]!r} is {value!r}"
    tags = list(re.finditer(rb"<[^<>]{1,300}>", content))
    if kind == 2 and (values := list(re.finditer(rb'"[^"<>]{0,200}"', content))):
        match = draw.choice(values)
        value = draw.choice(
            (
                b"",
                b"-1",
                b"99999999999",
                b"../../x",
                b"x" * 10_000,
                b"rId1",
                b"true",
                b"&a;",
                b"1e999",
            )
        )
        return content[: match.start() + 1] + value + content[
            match.end() - 1 :
        ], f"{match[0][:30]!r} is {value[:20]!r}"
    if kind in (3, 4) and tags:
        first, second = draw.choice(tags), draw.choice(tags)
        piece = content[min(first.start(), second.start()) : max(first.end(), second.end())]
        times = draw.choice((1, 2, 50, 2000))
        if len(piece) * times > 400_000:
            times = 1
        return content[: first.start()] + piece * times + content[
            first.start() :
        ], f"{piece[:30]!r} {times} times"
    if kind == 5 and tags:
        match = draw.choice(tags)
        times = draw.choice((0, 1, 100, 5000))
        return content[: match.start()] + match[0] * times + content[
            match.end() :
        ], f"tag {match[0][:30]!r} {times} times"
    if kind == 6 and tags:
        first, second = draw.choice(tags), draw.choice(tags)
        return content[: first.start()] + second[0] + content[
            first.end() :
        ], f"{first[0][:30]!r} is {second[0][:30]!r}"
    return mutate_bytes(draw, content)


def mutate_zip(draw: Random, content: bytes) -> tuple[bytes, str]:
    """Change one member and pack anew, or the archive's members, or its bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError):
        return mutate_bytes(draw, content)
    kind = draw.randrange(12)
    if kind == 0 or not members:
        return mutate_bytes(draw, content)
    name = draw.choice([*members])
    if kind == 1:
        del members[name]
        story = f"{name} removed"
    elif kind == 2:
        other = draw.choice([*members])
        members[name], members[other] = members[other], members[name]
        story = f"{name} and {other} swapped"
    elif kind == 3:
        members[draw.choice(("../x.xml", "/x.xml", "", "x" * 300, name.upper(), name + "/"))] = (
            members[name]
        )
        story = f"{name} under another name too"
    else:
        marked = [
            n
            for n in members
            if n.lower().endswith((".xml", ".rels", ".opf", ".xhtml", ".html", ".ncx"))
        ]
        name = draw.choice(marked or [*members])
        members[name], done = mutate_markup(draw, members[name])
        story = f"{name}: {done}"
    return pack_zip(members), story


def pack_zip(members: Mapping[str, bytes]) -> bytes:
    """Return an archive, the same bytes every time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name or "empty"), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


# --- safetensors ---
def unpack_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the bytes behind it."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def pack_safetensors(header: str, data: bytes) -> bytes:
    """Return a file with this header, padded with spaces as the library pads."""
    encoded = header.encode("utf-8", "replace")
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data


def _is_entry(entry: Any) -> bool:
    """Tell whether a tensor's entry has the form that it should have."""
    if not isinstance(entry, dict):
        return False
    offsets, shape = entry.get("data_offsets"), entry.get("shape")
    whole = [offsets, shape] if isinstance(offsets, list) and isinstance(shape, list) else [[None]]
    return len(whole[0]) == 2 and all(
        isinstance(n, int) and 0 <= n < 2**40 for part in whole for n in part
    )


def mutate_safetensors(draw: Random, content: bytes) -> tuple[bytes, str]:
    """Change the header's length, its JSON, one tensor's entry, or the numbers themselves."""
    length = int.from_bytes(content[:8], "little")
    header, data = loads(content[8 : 8 + length]), content[8 + length :]
    if not isinstance(header, dict):
        return mutate_bytes(draw, content)
    names = [name for name in header if name != "__metadata__"]
    kind = draw.randrange(9)
    if kind == 0:
        length = (
            draw.choice((*INTEGERS, len(content), len(content) - 8, len(content) - 7, 100_000_001))
            % 2**64
        )
        return length.to_bytes(8, "little") + content[8:], f"header length {length}"
    if kind == 1:
        return mutate_bytes(draw, content)
    if kind == 2 or not names:
        changed, story = mutate_json(draw, json.dumps(header).encode())
        return pack_safetensors(changed.decode("utf-8", "replace"), data), f"header: {story}"
    name = draw.choice(names)
    entry = header[name]
    if not all(map(_is_entry, (header[name] for name in names))):  # changed before
        return mutate_bytes(draw, content)
    begin, end = entry["data_offsets"]
    if kind == 3:
        entry["dtype"] = draw.choice(
            (
                "F64",
                "F16",
                "BF16",
                "I64",
                "I32",
                "I8",
                "U8",
                "BOOL",
                "F8_E4M3",
                "F8_E5M2",
                "F4",
                "C64",
                "U64",
                "X",
                "",
            )
        )
        story = f"dtype of {name} is {entry['dtype']}"
    elif kind == 4:
        shape = entry["shape"]
        entry["shape"] = draw.choice(
            (shape[::-1], [], [0], [*shape, 1], [1, *shape], shape[1:], [2**62, 4, *shape], [-1], [0, 2**63], shape * 8,
             [end - begin], [(end - begin) // 4], [n + 1 for n in shape])
        )  # fmt: skip
        story = f"shape of {name} is {said(entry['shape'])}"
    elif kind == 5:
        entry["data_offsets"] = draw.choice(
            ([begin, begin], [end, begin], [begin + 1, end + 1], [0, len(data)], [begin, len(data) + 1], [-1, end],
             [begin, 2**63], [2**64 - 1, 2**64 - 1], [begin], [begin, end, end], header[draw.choice(names)]["data_offsets"])
        )  # fmt: skip
        story = f"offsets of {name} are {said(entry['data_offsets'])}"
    elif kind == 6:
        other = draw.choice(names)
        header[name], header[other] = header[other], header[name]
        story = f"{name} and {other} swapped"
    elif kind == 7:
        new = draw.choice(
            (
                name + "x",
                "x." + name,
                "bert." + name,
                "",
                "a" * 10_000,
                name.upper(),
                "__metadata__",
            )
        )
        header[new] = header.pop(name)
        story = f"{name} is called {new[:60]!r}"
    else:
        values = bytearray(data)
        number = draw.choice(_NUMBERS)
        count = draw.choice((1, 1, (end - begin) // 4))
        at = begin if count > 1 else begin + 4 * draw.randrange(max(1, (end - begin) // 4))
        values[at : at + 4 * count] = number * count
        return pack_safetensors(
            json.dumps(header), bytes(values[: len(data)])
        ), f"{name}: {count} times {number.hex()}"
    return pack_safetensors(dumps(header), data), story


# Little-endian float32: NaN, infinities, the largest, nearly that, a large one, a subnormal, zero.
_NUMBERS = tuple(
    bytes.fromhex(text)
    for text in (
        "0000c07f",
        "0000807f",
        "000080ff",
        "ffff7f7f",
        "99769676",
        "ffff7fff",
        "00007f7f",
        "0000807e",
        "00007f5f",
        "01000000",
        "00000000",
    )
)


# --- Repetition ---
def pumped(draw: Random, fragments: Sequence[str], *, largest: int = 100_000) -> tuple[str, str]:
    """Return a text that repeats a few fragments many times, to find quadratic work."""
    unit = "".join(draw.choice(fragments) for _ in range(draw.choice((1, 1, 1, 2, 3))))
    before = "".join(draw.choice(fragments) for _ in range(draw.randrange(4)))
    after = "".join(draw.choice(fragments) for _ in range(draw.randrange(4)))
    size = draw.choice((500, 500, 2000, 5000, 20_000, largest))
    times = max(1, size // max(1, len(unit)))
    return (
        before + unit * times + after,
        f"{before[:60]!r} + {unit[:60]!r} * {times} + {after[:60]!r}",
    )


def scattered(draw: Random, fragments: Sequence[str], *, count: int = 200) -> tuple[str, str]:
    """Return fragments in any order."""
    chosen = [draw.choice(fragments) for _ in range(draw.randrange(1, count))]
    return "".join(chosen), f"{len(chosen)} fragments"


Mutation = Callable[[Random, bytes], tuple[bytes, str]]
