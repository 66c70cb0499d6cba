"""The ASGI application: all dialects' routes, API keys, the log, and what the server is doing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

import msgspec
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from quaver.serve import cohere, http, ollama, openai, operations, tei
from quaver.serve.http import Call, Route
from quaver.serve.models import Models, ServedModel
from quaver.serve.operations import State
from quaver.serve.refusal import HungUp, Reason, Refusal
from quaver.serve.service import Answer, Answers, Service, Waiter
from quaver.serve.settings import Settings
from quaver.system import give_back_memory

if TYPE_CHECKING:
    from quaver.serve.stores import Stores

_CLOSING = {Reason.TOO_LARGE, Reason.SLOW, Reason.TIMEOUT}
"""Refusals after which the connection is closed: it is of a client that sends or waits too long."""

_GIVE_BACK_SECONDS, _GIVE_BACK_BYTES = 5.0, 32_000_000
"""How often memory is given back to the system, if answers of so many bytes are gone since."""

_CLIENT_WENT_AWAY = 499
"""Nginx's status for it; it is only logged."""


class Log:
    """Writes one JSON object a line; never a text of a user."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to a stream; None for stderr."""
        self._stream = stream

    def write(self, event: str, **fields: Any) -> None:
        """Write one line.

        Args:
            event: what happened.
            fields: facts about it.
        """
        now = time.time()
        stamp = (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        )
        line = msgspec.json.encode({"time": stamp, "event": event, **fields}).decode()
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):  # whoever read the log is gone; the server goes on
            return


class LogHandler(logging.Handler):
    """Writes what libraries log as lines of a `Log`, without messages that may hold a user's text."""

    def __init__(self, log: Log) -> None:
        """Write to a log."""
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord, **facts: Any) -> None:
        """Write a record; of an exception its kind and the lines of code, not its message."""
        fields: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name, **facts}
        kind, error, trace = record.exc_info or (None, None, None)
        if kind is None or error is None:
            self._log.write("message", **fields, message=record.getMessage())
            return
        places = []
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        self._log.write("exception", **fields, kind=kind.__name__, places=places[-12:])


def _log_failure(log: Log, error: Exception, name: str) -> None:
    """Log a failure that nobody expected, with the id of its request."""
    record = logging.LogRecord(
        "quaver.serve", logging.ERROR, "", 0, "", None, (type(error), error, error.__traceback__)
    )
    LogHandler(log).emit(record, id=name)


class Keys:
    """API keys; compared in constant time, and never kept as they are."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Let in whoever sends one of the keys; everybody if there are none."""
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        """Return whether a key is needed."""
        return bool(self._digests)

    def check(self, header: str | None) -> None:
        """Check a request's Authorization header: `Bearer KEY`, the key alone, or the key as a password.

        Raises:
            Refusal: it is missing or wrong.
        """
        if not self._digests:
            return
        scheme, _, rest = (header or "").partition(" ")
        given = rest.strip() if scheme.lower() == "bearer" else header or ""
        if scheme.lower() == "basic":  # a browser asks for a name and a password, which is the key
            given = _password(rest.strip())
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        # No early exit: the time says nothing about which keys there are.
        matches = sum(hmac.compare_digest(digest, each) for each in self._digests)
        if not given or not matches:
            raise Refusal(
                Reason.UNAUTHORIZED,
                "this server needs an API key: send the header Authorization: Bearer KEY",
            )


_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _check_host(request: Request, settings: Settings, *, keys: bool) -> None:
    """Check the name under which a browser asks for documents.

    A page of another site can have its own name lead to this address, and would then read what only this
    machine may read.

    Raises:
        Refusal: the server does not answer to this name.
    """
    allowed = settings.allow_host
    if not allowed and not keys and settings.unix_socket is None and settings.host in _LOOPBACK:
        allowed = _LOOPBACK
    name = request.url.hostname or ""
    if allowed and "*" not in allowed and name not in allowed:
        raise Refusal(
            Reason.INVALID,
            f"stores may be asked for as {', '.join(allowed)}: got {name[:100]!r}; --allow-host adds names",
        )


def _password(credentials: str) -> str:
    """Return the password of a Basic authorization; "" if it cannot be read."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def create_app(
    settings: Settings, *, log: Log | None = None, models: Models | None = None
) -> Starlette:
    """Make the ASGI application of a server.

    Its `state.server` is a `State`. Models are loaded when the application starts.

    Args:
        settings: the configuration.
        log: where to write; None for stderr.
        models: the models; None to offer those of the settings.

    Returns:
        the application.

    Raises:
        InputError: the settings name no model, or their names clash, or a key file cannot be read.
        StoreError: a store cannot be opened; the subclass says why.
    """
    log = log or Log()
    keys = Keys(settings.keys())
    stores: Stores | None = None
    store_routes: Sequence[Route] = ()
    if settings.store:  # importing what searches takes a third of the start
        from quaver.serve import search
        from quaver.serve.page import Page
        from quaver.serve.stores import Stores, with_store_models

        settings = with_store_models(settings)
        stores = Stores(settings)
        store_routes = (*search.ROUTES, *Page(allow_update=settings.allow_update).routes())
    service = Service(settings, models or Models.of(settings))
    state = State(service, stores)
    if settings.otlp_endpoint is not None:
        from quaver.serve.tracing import Tracing

        state.tracing = Tracing(settings.otlp_endpoint)
    # Tried in this order, one after another: what is asked most comes first.
    routes = [
        *openai.ROUTES,
        *tei.ROUTES,
        *cohere.ROUTES,
        *ollama.ROUTES,
        *store_routes,
        *operations.routes(state),
    ]
    patterns = [(compile_path(route.path)[0], route) for route in routes]
    state.describe = lambda: operations.describe(routes, keys=bool(keys))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(_load(state, log)),
            asyncio.create_task(_give_back_memory(service)),
        ]
        if stores is not None:
            tasks.append(asyncio.create_task(stores.warm()))
        if settings.idle_unload:
            tasks.append(asyncio.create_task(_unload_idle(service, settings.idle_unload)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            service.close()
            if state.stores is not None:
                state.stores.close()
            if state.tracing is not None:
                state.tracing.close()

    async def unmatched(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        dialect, path, reason, response = _unmatched(request, patterns)
        name = response.headers["x-request-id"] = http.request_id(request)
        state.metrics.count_answer(dialect, path, response.status_code)
        if settings.access_log:  # the path may be anything, so it is not written
            log.write(
                "request",
                id=name,
                method=request.method[:16],
                route=path,
                status=response.status_code,
                reason=reason.value,
            )
        return response

    endpoints = {(route.method, route.path): _endpoint(route, state, keys, log) for route in routes}
    middleware = []
    if settings.cors:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors,
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
            )
        )
    plain: dict[tuple[str, str], Endpoint] = {
        key: endpoint for key, endpoint in endpoints.items() if "{" not in key[1]
    }
    middleware.append(Middleware(_Direct, endpoints=plain, answers=service.answers))
    app = Starlette(
        routes=[
            StarletteRoute(path, endpoint, methods=[method])
            for (method, path), endpoint in endpoints.items()
        ],
        middleware=middleware,
        exception_handlers={HTTPException: unmatched},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = (
        False  # its answer has no dialect, and leads to whatever host the client names
    )
    app.state.server = state
    return app


_DIALECTS = {
    "/api/": ("ollama", ollama.refuse),
    "/v2/": ("cohere", cohere.refuse),
    "/v1/embed/": ("cohere", cohere.refuse),
    "/v1/rerank/": ("cohere", cohere.refuse),
    "/v1/": ("openai", openai.refuse),
}
"""Whose client asked, by how the path begins; where no dialect has the path, OpenAI's words are the best known."""


def _unmatched(
    request: Request, patterns: Sequence[tuple[re.Pattern[str], Route]]
) -> tuple[str, str, Reason, Response]:
    """Answer a request for a path or a method that no route has, in the words of the path's dialect.

    Returns:
        the dialect, the route's path ("" for none), the reason and the answer.
    """
    path = request.scope["path"]
    here = {route.method: route for pattern, route in patterns if pattern.match(path)}
    if here:
        methods = ", ".join(sorted(here))
        message = f"{path[:128]} takes {methods}: got {request.method[:16]}"
        route = next(iter(here.values()))
        response = route.refuse(Refusal(Reason.NOT_ALLOWED, message))
        response.headers["allow"] = methods
        return route.dialect, route.path, Reason.NOT_ALLOWED, response
    dialect, refuse = next(
        (found for start, found in _DIALECTS.items() if f"{path}/".startswith(start)),
        ("openai", openai.refuse),
    )
    message = f"there is no path {path[:128]}: GET /docs lists all of them"
    return dialect, "", Reason.NO_PATH, refuse(Refusal(Reason.NO_PATH, message))


Endpoint = Callable[[Request], Awaitable[Response]]


_ANSWER = "quaver.answer"
"""Where a request's scope has what holds the bytes of its answer."""

DRAINED = "quaver.drained"
"""Where it has a coroutine function that returns once the client has read, or is gone; if the server has one."""


class _Direct:
    """Calls the endpoint of a path without parameters at once: matching one route after another takes longer.

    The bytes of every answer are held until its client has read them.
    """

    def __init__(
        self, app: ASGIApp, endpoints: Mapping[tuple[str, str], Endpoint], answers: Answers
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = scope[_ANSWER] = Answer(self._answers)
        try:
            await self._respond(scope, receive, send)
            if DRAINED in scope:
                await scope[DRAINED]()
        finally:
            answer.resize(0)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get((scope["method"], scope["path"]))
        if endpoint is None:
            await self._app(scope, receive, send)
        else:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)


def _endpoint(route: Route, state: State, keys: Keys, log: Log) -> Endpoint:
    settings = state.service.settings
    listed = settings.access_log and route.dialect != "operations"

    async def endpoint(request: Request) -> Response:
        begin = time.perf_counter()
        name = http.request_id(request)
        answer: Answer = request.scope[_ANSWER]
        waiter = Waiter(
            timeout=settings.timeout, hung_up=lambda: http.hung_up(request), answer=answer
        )
        reason = None
        tracing = state.tracing if route.dialect != "operations" else None
        span = None if tracing is None else tracing.begin(route, request)
        counted = not route.open
        state.in_flight += counted
        try:
            response = await _answer(route, request, state, keys, waiter)
            if counted:
                answer.hold(http.size_of(response))
        except Refusal as refusal:
            response, reason = route.refuse(refusal), refusal.reason.value
            waiter.detail = waiter.detail or refusal.detail
            if refusal.reason is Reason.UNAUTHORIZED:
                response.headers.setdefault("www-authenticate", 'Bearer realm="Quaver"')
            if refusal.retry_after is not None:
                response.headers["retry-after"] = str(refusal.retry_after)
            # A client that waits for "100 Continue" may now send its body or leave it out.
            if state.stopping or refusal.reason in _CLOSING or "expect" in request.headers:
                response.headers["connection"] = "close"
        except HungUp:
            response, reason = Response(status_code=_CLIENT_WENT_AWAY), "client went away"
        except asyncio.CancelledError:
            if not state.stopping:
                raise
            stopped = Refusal(Reason.UNAVAILABLE, "the server stopped before it had an answer")
            response, reason = route.refuse(stopped), stopped.reason.value
            response.headers["connection"] = "close"
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets its dialect's answer
            _log_failure(log, error, name)
            failed = Refusal(
                Reason.FAILED, f"the server failed; its log says where, by the request's id {name}"
            )
            response, reason = route.refuse(failed), failed.reason.value
        finally:
            state.in_flight -= counted
        if waiter.detail is not None:
            log.write("refusal", level="error", id=name, message=waiter.detail)
        if counted and isinstance(response, http.Stream):  # in flight until its last piece
            state.in_flight += 1
            response.on_end = state.end_stream
        answer.resize(http.size_of(response))
        if isinstance(response, http.Pieces):
            response.on_read = answer.free
        response.headers["x-request-id"] = name
        seconds = time.perf_counter() - begin

        async def note() -> None:
            if tracing is not None:
                tracing.end(span, response.status_code, waiter, name)
            state.metrics.count(
                route, response.status_code, seconds, waiter.model, waiter.tokens, waiter.inputs
            )
            if listed:
                log.write(
                    "request",
                    id=name,
                    method=route.method,
                    route=route.path,
                    status=response.status_code,
                    ms=round(seconds * 1000, 3),
                    queue_ms=round(waiter.queue_seconds * 1000, 3),
                    model=waiter.model,
                    inputs=waiter.inputs,
                    tokens=waiter.tokens,
                    reason=reason,
                )

        if isinstance(response, http.Stream):
            await note()
        else:
            response.background = BackgroundTask(note)  # the client need not wait for it
        return response

    return endpoint


async def _answer(
    route: Route, request: Request, state: State, keys: Keys, waiter: Waiter
) -> Response:
    settings = state.service.settings
    stores = cast("Stores", state.stores)  # what there are no stores for has no routes
    if route.dialect in ("search", "page"):
        _check_host(request, settings, keys=bool(keys))
    if not route.open:
        if keys:
            keys.check(request.headers.get("authorization"))
        if state.stopping:
            raise Refusal(Reason.UNAVAILABLE, "the server is stopping", retry_after=1)
    if route.decoder is None:
        query = None if route.query is None else http.decode_query(route.query, request)
        return await route.answer(Call(state.service, stores, waiter, query, request))
    waiter.interactive = http.interactive(request.headers.get("x-priority"))
    with state.service.bodies.holding() as hold:
        content = await http.read_body(request, settings.max_body, settings.body_timeout, hold)
        await http.check_values(content, settings.max_inputs)
        body = http.decode(route.decoder, content)
        return await route.answer(Call(state.service, stores, waiter, body, request))


async def _load(state: State, log: Log) -> None:
    def report(model: ServedModel) -> None:
        log.write(
            "model",
            model=model.name,
            status=model.status,
            error=model.error,
            seconds=round(model.load_seconds, 3),
            bytes=model.nbytes,
        )

    models = state.service.models
    await models.load_all(report)
    await state.listening.wait()  # models may be there before
    state.loading = False
    if models.usable and models.overfull is None:
        log.write("ready")
    else:
        state.on_failure()


async def _give_back_memory(service: Service) -> None:
    """Give the memory of answers back to the system once they are gone."""
    given_back = 0
    while True:
        await asyncio.sleep(_GIVE_BACK_SECONDS)
        freed = service.answers.freed
        if freed - given_back >= _GIVE_BACK_BYTES and not service.answers.busy:
            given_back = freed
            await asyncio.get_running_loop().run_in_executor(None, give_back_memory)


async def _unload_idle(service: Service, seconds: float) -> None:
    while True:
        await asyncio.sleep(min(seconds / 4, 10.0))
        for model in service.models.all:
            if model.idle and time.monotonic() - model.used >= seconds:
                model.unload()
