"""Between Starlette and the dialects: bodies in, bodies out, refusals in the dialect's own words."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from quaver.models import mismatch_in_words
from quaver.serve.refusal import HungUp, Reason, Refusal
from quaver.serve.service import Service, Waiter

if TYPE_CHECKING:
    from quaver.serve.stores import Stores

Body = TypeVar("Body")

_NUMBERS_AT_ONCE = 2**14
"""Numbers of vectors written as JSON without letting others in between: they take about a millisecond.

A thread of its own would not help: what writes JSON keeps the other threads waiting until it is done.
"""

_BYTES_AT_ONCE = 2**18
"""About how many bytes of an answer are joined."""

_MOST_SHOWN_BYTES = 64 * 1024
"""Bytes of a body that is read a second time to show what does not fit."""

_MOST_NAMED = 2**16
"""Most lists, objects and keys of a body, where `--max-inputs` does not call for more."""

_MOST_VALUES = 2**19 + 2**10
"""Most values of a body, such as token ids, where `--max-inputs` does not call for more."""

_DIGITS = 256
"""Digits of a number that a large body may have; from twice as many it is sure to be noticed.

To read an integer takes the square of its digits.
"""

_BACKSLASHES = re.compile(rb"\\+")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


@dataclass(frozen=True)
class Call(Generic[Body]):
    """One request of a route.

    Attributes:
        service: the server's models.
        stores: its stores; only the routes of a server that has some read them.
        waiter: waits for the request's jobs, and counts.
        body: the decoded body or query string, or None for a route without one.
        request: the HTTP request.
    """

    service: Service
    stores: Stores
    waiter: Waiter
    body: Body
    request: Request


@dataclass(frozen=True)
class Route:
    """One route of a dialect.

    Attributes:
        method: "GET" or "POST".
        path: the path.
        dialect: the dialect's name.
        answer: answers a call.
        refuse: turns a refusal into the dialect's response.
        body: what the request's body is decoded to, or None.
        summary: one sentence for the page of the API.
        returns: type of the response's JSON, or None for text.
        statuses: statuses of refusals.
        open: whether it answers without an API key, and while the server stops.
        query: what the request's query string is decoded to, or None.
    """

    method: Literal["GET", "POST", "HEAD"]
    path: str
    dialect: str
    answer: Callable[[Call[Any]], Awaitable[Response]]
    refuse: Callable[[Refusal], Response]
    summary: str
    body: Any = None
    returns: Any = None
    statuses: tuple[int, ...] = ()
    open: bool = False
    query: Any = None
    decoder: msgspec.json.Decoder[Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Prepare the decoder."""
        if self.body is not None:
            object.__setattr__(self, "decoder", msgspec.json.Decoder(self.body))


class Stream(StreamingResponse):
    """An answer in pieces; who waits for its end is called then, whatever the client did meanwhile."""

    on_end: Callable[[], None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self.on_end is not None:
                self.on_end()


def json_of(value: Any) -> bytes:
    """Write JSON; NumPy arrays are written as they are, float32 with the digits that tell it apart.

    Raises:
        Refusal: what a client sent, and gets back, is nested too deeply.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:
        # orjson writes no integer above 64 bits, and 254 levels; msgspec read them, and writes them.
        try:
            return msgspec.json.encode(value, enc_hook=_plain)
        except RecursionError as error:
            raise Refusal(
                Reason.INVALID, "what the answer repeats of the request is nested too deeply"
            ) from error


def _plain(value: Any) -> Any:
    """Return what msgspec can write of a NumPy array or number."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise NotImplementedError(f"an answer cannot have a {type(value).__name__}")


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return JSON; see `json_of`."""
    return Response(json_of(value), status, headers, media_type="application/json")


async def rows_of(
    rows: Sequence[Any] | NDArray[Any], width: int, *, form: Callable[[Any], Any] | None = None
) -> list[bytes]:
    """Write a JSON list; other requests go on in between.

    Args:
        rows: the rows; may hold NumPy arrays.
        width: about how many numbers a row has.
        form: turns a row into what is written of it, when its turn comes.

    Returns:
        pieces of the JSON, not joined: that would copy megabytes.
    """
    parts = [b"["]
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, width))
    for start in range(0, len(rows), at_once):
        if start:
            parts.append(b",")
            await asyncio.sleep(0)
        some: Any = rows[start : start + at_once]
        if form is not None:
            some = [form(row) for row in some]
        elif isinstance(some, np.ndarray):
            some = np.ascontiguousarray(some)  # vectors may be the start of longer ones
        parts.append(json_of(some)[1:-1])
    return [*parts, b"]"]


def list_of(written: Sequence[list[bytes]]) -> list[bytes]:
    """Write a JSON list of values that are written already."""
    parts = [b"["]
    for i, value in enumerate(written):
        parts += [b",", *value] if i else value
    return [*parts, b"]"]


def object_of(written: Mapping[str, list[bytes]], fields: Mapping[str, Any]) -> list[bytes]:
    """Write a JSON object of fields that are written already, one at least, and others."""
    parts: list[bytes] = []
    for name, value in written.items():
        parts += [b"," if parts else b"{", json_of(name), b":", *value]
    return [*parts, b"," if fields else b"", json_of(fields)[1:]]


class Pieces(Response):
    """JSON in pieces, sent one after another; each is forgotten then.

    Attributes:
        size: bytes of all of them.
        on_read: called with the bytes that the client has read, or None.
    """

    def __init__(self, parts: Sequence[bytes], headers: Mapping[str, str]) -> None:
        """Answer with the pieces."""
        self.size = sum(map(len, parts))
        length = {"content-length": str(self.size)}
        super().__init__(None, 200, {**headers, **length}, media_type="application/json")
        self.parts = deque(parts)
        self.on_read: Callable[[int], None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        body: dict[str, Any] = {"type": "http.response.body"}
        held: list[bytes] = []
        size, before = 0, 0
        while self.parts:
            held.append(self.parts.popleft())
            size += len(held[-1])
            if size >= _BYTES_AT_ONCE:
                # This waits until the client has read what was sent before.
                await send({**body, "body": b"".join(held), "more_body": True})
                if self.on_read is not None:
                    self.on_read(before)
                held, size, before = [], 0, size
        await send({**body, "body": b"".join(held), "more_body": False})
        if self.background is not None:
            await self.background()


def size_of(response: Response) -> int:
    """Return the bytes of an answer that are in memory until they are sent."""
    if isinstance(response, Pieces):
        return response.size
    # Of a file only a piece at a time is in memory.
    return 0 if isinstance(response, (Stream, FileResponse)) else len(response.body)


def written_response(parts: list[bytes], headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON that is written already; a large one is not joined."""
    if sum(map(len, parts)) > _BYTES_AT_ONCE:
        return Pieces(parts, headers or {})
    return Response(b"".join(parts), 200, headers, media_type="application/json")


def _too_large(most: int) -> Refusal:
    return Refusal(
        Reason.TOO_LARGE, f"a request may have at most {most} bytes; send several requests"
    )


async def read_body(
    request: Request, most: int, seconds: float, hold: Callable[[int], None]
) -> bytes:
    """Read a request's body.

    No timer runs here, for most bodies arrive with their head: the protocol of `quaver.serve.server` sees
    to it that `receive` returns once `seconds` are over.

    Args:
        request: the request.
        most: maximum number of bytes.
        seconds: how long it may take.
        hold: called with the bytes of each part before it is kept; see `Bodies.held`.

    Returns:
        the body.

    Raises:
        Refusal: it is compressed or too large, took too long, or there is no room for it.
        HungUp: the client went away.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise Refusal(
            Reason.ENCODED,
            f"the body must come as it is: got Content-Encoding {encoding[:64]!r}; send it uncompressed",
        )
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    # The protocol's clock began a moment ago, with the end of the head.
    deadline = time.monotonic() + 0.9 * seconds
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise HungUp
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        hold(len(part))
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if time.monotonic() >= deadline:
            raise Refusal(
                Reason.SLOW,
                f"a request's body may take {seconds:g} s to arrive: this one took longer",
            )


async def check_values(body: bytes, max_inputs: int) -> None:
    """Check that a body has not so many values that reading them would hold up others.

    A decoder makes an object of each value before anything can count them, in one step that nobody
    interrupts: 30 MB of empty lists take seconds, 30 MB of text a few milliseconds. Bodies are looked
    at in pieces, in time that does not depend on what they hold.

    Args:
        body: the body.
        max_inputs: maximum number of inputs in a request.

    Raises:
        Refusal: it has too many values.
    """
    most_named, most_values = max(_MOST_NAMED, 32 * max_inputs), max(_MOST_VALUES, 256 * max_inputs)
    if len(body) <= most_named:
        return
    # For most bodies it is enough to count as if texts were values, too.
    for plain in (False, True):
        named, values, long_number = 0, 0, False
        async for found in _in_pieces(body, without_texts=plain):
            named += sum(int(np.count_nonzero(found == ord(each))) for each in "[{:")
            values += int(np.count_nonzero(found == ord(",")))
            rows = found[: len(found) // _DIGITS * _DIGITS].reshape(-1, _DIGITS)
            long_number |= bool(((rows - ord("0")) < 10).all(axis=1).any())
            if named > most_named or values > most_values or long_number:
                break
        else:
            return
    if long_number:
        raise Refusal(Reason.INVALID, f"a number may have at most {_DIGITS} digits")
    raise Refusal(
        Reason.TOO_LARGE,
        f"a request may have at most {most_values} values, and {most_named} lists, objects and their "
        "fields; send several requests",
    )


async def _in_pieces(body: bytes, *, without_texts: bool) -> AsyncIterator[NDArray[np.uint8]]:
    """Yield the bytes of JSON; other requests go on in between.

    Args:
        body: the JSON; what follows a mistake in it may be wrong.
        without_texts: whether to put a letter in the place of each character of a text.
    """
    start, within = 0, np.uint8(0)
    while start < len(body):
        if start:
            await asyncio.sleep(0)
        end = start + _BYTES_AT_ONCE
        if not without_texts:
            yield np.frombuffer(body[start:end], np.uint8)
        else:
            if escape := _BACKSLASHES.match(body, end - 1):  # with the character behind it
                end = escape.end() + 1
            piece = body[start:end].replace(b"\\\\", b"").replace(b'\\"', b"")
            found = np.frombuffer(piece, np.uint8)
            inside = np.bitwise_xor.accumulate((found == ord('"')).view(np.uint8)) ^ within
            within = inside[-1] if len(inside) else within
            yield np.where(inside, np.uint8(ord("x")), found)
        start = end


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Decode a body.

    Raises:
        Refusal: it is not JSON, not UTF-8, or does not fit the type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        value = None
        if len(body) <= _MOST_SHOWN_BYTES:
            # What comes after the wrong place may be no JSON.
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                value = msgspec.json.decode(body)
        raise misfit("the body", error, value, decoder.type) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(Reason.MALFORMED, f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise Refusal(Reason.MALFORMED, "the body is nested too deeply") from error


def decode_query(kind: Any, request: Request) -> Any:
    """Decode a query string.

    Raises:
        Refusal: it does not fit the type.
    """
    given = dict(request.query_params)
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise misfit("the query string", error, given, kind) from error


def misfit(what: str, error: msgspec.ValidationError, value: Any, kind: Any) -> Refusal:
    """Return the refusal of values that do not fit their type.

    Args:
        what: what they are, for the message.
        error: why they do not fit.
        value: the values; None shows none of them.
        kind: their type.
    """
    field = _field(error)
    words = str(error)
    listed: list[str] = []
    if "enum" in words:
        hint = get_type_hints(kind).get(field or "") if isinstance(kind, type) else None
        parts = (hint, *get_args(hint))
        listed = [each for part in parts if get_origin(part) is Literal for each in get_args(part)]
    if value is not None and (listed or "enum" not in words):
        words = mismatch_in_words(error, value, listed, whole=what)
        if words.startswith(what):
            return Refusal(Reason.INVALID, words, field=field)
    return Refusal(Reason.INVALID, f"{what} does not fit: {words}", field=field)


def _field(error: msgspec.ValidationError) -> str | None:
    """Return the first field of the place that msgspec names, such as `$.input[0]`."""
    found = re.search(r"`\$\.(\w+)", str(error)) or re.search(r"required field `(\w+)`", str(error))
    return found[1] if found else None


def interactive(value: str | int | None) -> bool | None:
    """Read a priority: 0 or "interactive" goes first, "bulk" or a larger number does not.

    Args:
        value: of Cohere's field or of the header X-Priority; None lets the request's size decide.

    Returns:
        whether the request is interactive, or None.

    Raises:
        Refusal: it is something else.
    """
    if value is None:
        return None
    text = str(value).strip().lower()
    if text == "interactive":
        return True
    if text == "bulk":
        return False
    if re.fullmatch("[0-9]{1,3}", text):  # other digits, such as a superscript, are no numbers
        return int(text) == 0
    raise Refusal(
        Reason.INVALID,
        f"a priority is interactive, bulk, or 0 (first) to 999: got {text[:20]!r}",
        field="priority",
    )


def request_id(request: Request) -> str:
    """Return the client's X-Request-ID if it is a plain one, else a new one."""
    given = request.headers.get("x-request-id")
    return given if given and _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


async def hung_up(request: Request) -> None:
    """Return when the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
