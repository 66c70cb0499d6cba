"""The process: listens with uvicorn, bounds slow clients, and stops without losing a request."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quaver.errors import EngineError, InputError
from quaver.serve.app import DRAINED, Log, LogHandler, create_app
from quaver.serve.checks import check_start
from quaver.serve.models import Models
from quaver.serve.operations import State
from quaver.serve.settings import Settings
from quaver.system import allow_files

_MOST_HEAD_BYTES = 64 * 1024
"""Maximum number of bytes in a request's line and headers."""


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a clock for whatever a client does slowly.

    A client may take `header_timeout` for a request's head, and be idle for as long; and `body_timeout`
    to send a body, and to read an answer. A body that goes on after its answer, such as one that is too
    large, is read and dropped for `body_timeout`: to close at once would reset the connection, and the
    client might never see the answer.

    A request that offers another protocol is answered in this one, as RFC 9110, section 7.8, allows: Java's
    HTTP client and `curl --http2` offer h2c with every first request.
    """

    settings: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_late: asyncio.TimerHandle | None = None
        self._read_late: asyncio.TimerHandle | None = None
        self._body_late: asyncio.TimerHandle | None = None
        self._body_slow: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._closes = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request's head."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        super().connection_lost(exc)
        self._have_head()
        self._have_body()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Count the bytes of an unfinished head; see to it that a clock runs unless a request is answered."""
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._head_late is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self.transport.abort()
        elif (
            (self.cycle is None or self.cycle.response_complete)
            and self._body_late is None
            and self.timeout_keep_alive_task is None  # uvicorn stopped it: something arrived
            and not self.transport.is_closing()
        ):
            self._await_head()

    def on_message_begin(self) -> None:
        """Start the clock of a later request's head."""
        super().on_message_begin()
        if self._head_late is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Stop the clock."""
        if self._offers_protocol():  # `_parse` gets to see the head again
            return
        self._have_head()
        super().on_headers_complete()
        self.scope[DRAINED] = self.flow.drain  # type: ignore[literal-required]
        self.cycle.transport = _RequestTransport(self)  # type: ignore[assignment]
        self._await_body()

    def on_response_complete(self) -> None:
        """Start the clock of what is left of the body."""
        super().on_response_complete()
        if self._body_is_left() and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._body_late = self.loop.call_later(self.settings.body_timeout, self.transport.abort)

    def on_message_complete(self) -> None:
        """Stop the clock, and close a connection that waited for the body's end."""
        if self._offers_protocol():
            return
        super().on_message_complete()
        self.cycle.more_body = False
        self._have_body()
        if self._closes:
            self.transport.close()

    def close(self) -> None:
        """Close after an answer, once the body that is still on its way has been dropped."""
        if not self._body_is_left():
            self.transport.close()
            return
        self._closes = True
        if self.transport.can_write_eof():  # the client sees that nothing follows
            self.transport.write_eof()

    def pause_writing(self) -> None:
        """Start the clock of a client that does not read its answer."""
        super().pause_writing()
        if self._read_late is None:
            self._read_late = self.loop.call_later(self.settings.body_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the clock."""
        super().resume_writing()
        if self._read_late is not None:
            self._read_late.cancel()
            self._read_late = None

    def _offers_protocol(self) -> bool:
        return bool(self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT")

    def _parse(self, data: bytes) -> None:
        """Parse what arrived, as if no request offered another protocol.

        The parser ends a message with a head that offers one: its body would be of the other protocol. So
        it gets this head once more, without the offer, and then the body.
        """
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._offers_protocol():
                    raise httptools.HttpParserError("this server is no proxy") from upgrade
                head = [b"%s %s HTTP/1.1\r\n" % (self.parser.get_method(), self.url)]
                head += [
                    b"%s: %s\r\n" % (name, value)
                    for name, value in self.headers
                    if name not in (b"upgrade", b"http2-settings")
                ]
                self.parser.feed_data(b"".join((*head, b"\r\n")))
                rest = rest[upgrade.args[0] :]
            else:
                return

    @property
    def unread(self) -> bool:
        """Whether the client has not read an answer that was written."""
        if self.flow.write_paused:
            return True
        cycle = self.cycle
        if cycle is None or not cycle.response_started or cycle.response_complete:
            return False
        return cycle.chunked_encoding is False  # else its end is not written yet

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_late = self.loop.call_later(self.settings.header_timeout, self.transport.abort)

    def _await_body(self) -> None:
        """Let whoever reads the body look at the clock in a while."""
        if self._body_slow is not None:
            self._body_slow.cancel()
            self.cycle.message_event.set()
        self._body_slow = self.loop.call_later(self.settings.body_timeout, self._await_body)

    def _body_is_left(self) -> bool:
        """Whether the last request was answered before its body had arrived."""
        return bool(self.cycle.response_complete and self.cycle.more_body)

    def _have_body(self) -> None:
        if self._body_slow is not None:
            self._body_slow.cancel()
            self._body_slow = None
        if self._body_late is not None:
            self._body_late.cancel()
            self._body_late = None

    def _have_head(self) -> None:
        if self._head_late is not None:
            self._head_late.cancel()
            self._head_late = None


class _RequestTransport:
    """The part of a transport that one request of uvicorn uses; `close` is the protocol's."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: _Protocol) -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.close


class Server(uvicorn.Server):
    """uvicorn's server; SIGTERM and Ctrl-C first finish what was accepted.

    Attributes:
        state: what the server is doing.
        addresses: where it listens, once it does.
        lost: accepted requests that were not finished.
        unread: answers that were cut off because their clients did not read them.
        forced: whether a second signal ended it before the grace time was over.
        failed: whether it stopped because its models could not be loaded.
    """

    def __init__(self, config: uvicorn.Config, state: State, settings: Settings, log: Log) -> None:
        """Serve an application; see `make_server`."""
        super().__init__(config)
        self._handshake = settings.header_timeout
        self._socket: tuple[int, int] | None = None
        self.state = state
        self.addresses: list[Any] = []
        self.lost = 0
        self.unread = 0
        self.forced = False
        self.failed = False
        self._grace = settings.grace
        self._deadline: float | None = None
        self._log = log
        self._stopping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        state.on_failure = self.fail
        state.listening.clear()

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where."""
        self._loop = asyncio.get_running_loop()
        if self.config.is_ssl:
            # uvicorn sees a connection once its handshake is over, and has no setting for how long it may take.
            limit = {"ssl_handshake_timeout": self._handshake}
            for name in ("create_server", "create_unix_server"):
                if listen := getattr(self._loop, name, None):
                    setattr(self._loop, name, partial(listen, **limit))
        await super().startup(sockets)
        if self.config.uds is not None:
            made = Path(self.config.uds).stat()
            self._socket = made.st_dev, made.st_ino
        for server in self.servers:
            for listening in server.sockets:
                address = listening.getsockname()
                self.addresses.append(address if isinstance(address, str) else list(address[:2]))
                self._log.write("listening", address=self.addresses[-1], tls=self.config.is_ssl)
        self.state.listening.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; the second time at once."""
        if self._loop is None:
            self.force_exit = self.should_exit = True
            return
        again = self._stopping is not None
        self._loop.call_soon_threadsafe(self._stop_at_once if again else self.begin_to_stop)

    def fail(self) -> None:
        """Stop because the models could not be loaded."""
        self.failed = True
        self.begin_to_stop()

    def begin_to_stop(self) -> None:
        """Accept nothing more, finish what was accepted, and end; call it on the event loop."""
        if self._stopping is None:
            self.state.stopping = True
            self._log.write("stopping", in_flight=self.state.in_flight)
            self._stopping = asyncio.ensure_future(self._stop())

    def _stop_at_once(self) -> None:
        assert self._stopping is not None
        self._stopping.cancel()
        self.lost = max(self.lost, self.state.in_flight)
        self._cut_off()
        self.forced = self.force_exit = self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        """Close the connections and the application."""
        late = None
        if self._deadline is not None:
            rest = max(0.0, self._deadline - time.monotonic())
            late = asyncio.get_running_loop().call_later(rest, self._cut_off)
        await super().shutdown(sockets)
        if late is not None:
            late.cancel()
        if self.force_exit:  # uvicorn leaves both to the end of the loop, which logs tracebacks
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()
        self._remove_socket()

    def _remove_socket(self) -> None:
        """Remove the file of the Unix socket, unless another server's is there by now."""
        if self._socket is None or self.config.uds is None:
            return
        path = Path(self.config.uds)
        with suppress(FileNotFoundError):  # the loop may have removed it
            found = path.stat()
            if (found.st_dev, found.st_ino) == self._socket:
                path.unlink()

    async def _stop(self) -> None:
        self._deadline = deadline = time.monotonic() + self._grace
        while self.state.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self.lost = self.state.in_flight
        # What is left are answers on their way to slow readers, which are cut off before tasks are canceled.
        self.config.timeout_graceful_shutdown = max(1, round(deadline - time.monotonic())) + 1
        if self.lost:
            self._cut_off()
            self.config.timeout_graceful_shutdown = 0
        self.should_exit = True

    def _cut_off(self) -> None:
        """Close the connections of clients that have not read an answer."""
        for connection in list(self.server_state.connections):
            assert isinstance(connection, _Protocol)
            if connection.unread:
                self.unread += 1
                connection.transport.abort()


def run(settings: Settings, models: Models | None, *, warnings: Sequence[str]) -> None:
    """Run a server until SIGTERM or Ctrl-C; see `quaver.serve.serve`.

    Args:
        settings: the configuration.
        models: its models, some of which may be loading already; None to offer those of the settings.
        warnings: sentences about it for the log.
    """
    log = Log()
    for warning in warnings:
        log.write("message", level="warning", logger="quaver.serve", message=warning)
    server = make_server(settings, log=log, models=models)
    # As many may be in the middle of a handshake.
    allow_files(settings.max_connections * (1 if settings.tls_key is None else 2) + 512)
    try:
        server.run()
    # uvicorn ends the process if it cannot listen on a port, and raises for a socket's path.
    except (SystemExit, OSError, UnicodeError) as error:
        cause = error.__context__ if isinstance(error, SystemExit) else error
        raise EngineError(_cannot_listen(settings, cause)) from error
    log.write("stopped", lost=server.lost, unread=server.unread)
    if server.failed:
        if server.state.service.models.overfull is not None:
            raise EngineError(server.state.service.models.overfull)
        errors = "; ".join(str(model.error) for model in server.state.service.models.all)
        raise EngineError(f"no model could be loaded: {errors}")
    if server.lost:
        lost = (
            "1 accepted request was"
            if server.lost == 1
            else f"{server.lost} accepted requests were"
        )
        why = f"within {settings.grace:g} s: give --grace more"
        raise EngineError(
            f"{lost} not finished {'before a second signal ended the server at once' if server.forced else why}"
        )


def _cannot_listen(settings: Settings, cause: BaseException | None) -> str:
    place = settings.unix_socket or f"{settings.host}:{settings.port}"
    if isinstance(cause, (socket.gaierror, UnicodeError)):
        return (
            f"cannot listen on {place}: {settings.host} is no address, and no name with one; "
            "give --host an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
        )
    number = cause.errno if isinstance(cause, OSError) else None
    advice = {
        errno.EADDRNOTAVAIL: "no address of this machine: give --host one, or 0.0.0.0 for all of them",
        errno.EACCES: "this user may not: ports below 1024 need a privilege, and a socket a folder to write",
        None: "is another server running there?",
        errno.EADDRINUSE: "is another server running there?",
    }
    why = os.strerror(number) if number else ""
    return f"cannot listen on {place}: {advice.get(number, why)}"


def _check_socket(path: str) -> None:
    """Check that a Unix socket's path is free, or left by a server that is gone.

    Raises:
        InputError: a server answers there, or it is a file of another kind.
        EngineError: it cannot be found out.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise InputError(
            "this system has no Unix sockets: leave out --unix-socket, and give --host and --port"
        )
    try:
        found = Path(path).stat()
        if not stat.S_ISSOCK(found.st_mode):
            raise InputError(
                f"unix_socket must be a free path: {path} is no socket; remove it, or give another path"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except (BlockingIOError, TimeoutError):
        pass  # somebody listens, and has no time
    except OSError as error:
        raise EngineError(f"cannot listen on {path}: {error.strerror or error}") from error
    raise InputError(
        f"another server answers on {path}: end it first, or give --unix-socket another path"
    )


def make_server(settings: Settings, *, log: Log, models: Models | None = None) -> Server:
    """Make a server that does not listen yet.

    Args:
        settings: the configuration.
        log: where to write.
        models: its models; None to offer those of the settings.

    Returns:
        the server; its `run` blocks.

    Raises:
        InputError: the settings are wrong, or another server answers on the Unix socket.
        ImportError: a library of an extra is missing; the message names the extra.
        EngineError: whether the Unix socket is free cannot be found out.
    """
    check_start(settings)
    if settings.unix_socket is not None:
        _check_socket(settings.unix_socket)
    app = create_app(settings, log=log, models=models)
    state: State = app.state.server
    protocol = type("Protocol", (_Protocol,), {"settings": settings})
    handler = LogHandler(log)
    for name in ("uvicorn.error", "asyncio", "opentelemetry", "urllib3"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        uds=settings.unix_socket,
        http=protocol,
        ws="none",
        loop="asyncio" if sys.platform == "win32" else "uvloop",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(settings.header_timeout)),
        backlog=2048,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    server = Server(config, state, settings, log)
    state.metrics.connections.set_function(lambda: len(server.server_state.connections))
    return server
