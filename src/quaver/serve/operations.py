"""What operators ask for: probes, metrics, and the description of the API with a page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from quaver.serve.http import Call, Route, json_response
from quaver.serve.refusal import STATUSES, Refusal

if TYPE_CHECKING:
    from quaver.serve.service import Service
    from quaver.serve.stores import Stores
    from quaver.serve.tracing import Tracing

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 120)


class Metrics:
    """The server's numbers for Prometheus, in a registry of their own.

    Attributes:
        registry: the registry.
    """

    def __init__(self, service: Service) -> None:
        """Count from zero."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "quaver_requests",
            "Requests answered.",
            ("dialect", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "quaver_request_duration_seconds",
            "Seconds from a request's head to its answer.",
            ("dialect", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "quaver_tokens", "Tokens of answered requests.", ("model",), registry=self.registry
        )
        self._inputs = Counter(
            "quaver_inputs", "Inputs of answered requests.", ("model",), registry=self.registry
        )
        self.connections = Gauge("quaver_connections", "Open connections.", registry=self.registry)
        self.registry.register(_Collector(service))

    def count(
        self, route: Route, status: int, seconds: float, model: str, tokens: int, inputs: int
    ) -> None:
        """Count one answered request."""
        self.count_answer(route.dialect, route.path, status)
        self._seconds.labels(route.dialect, route.path).observe(seconds)
        if inputs:
            self._tokens.labels(model).inc(tokens)
            self._inputs.labels(model).inc(inputs)

    def count_answer(self, dialect: str, path: str, status: int) -> None:
        """Count an answer; the path is a route's, or "" where no route has the request's."""
        self._requests.labels(dialect, path, str(status)).inc()

    def text(self) -> bytes:
        """Return the numbers in Prometheus' text format."""
        return generate_latest(self.registry)


class _Collector(Collector):
    """Reads the scheduler's and the models' numbers when Prometheus asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        """Yield the numbers."""
        counts, waiting = self._service.scheduler.counts, self._service.scheduler.waiting
        bodies, answers = self._service.bodies, self._service.answers
        refused = counts.refused + bodies.refused + answers.refused
        bound = self._service.models.memory.bound
        for name, text, value in (
            ("batches", "Batches computed.", counts.batches),
            ("batch_tokens", "Tokens computed in batches.", counts.tokens),
            ("batch_inputs", "Inputs computed in batches.", counts.inputs),
            ("shared_inputs", "Inputs that waited for an equal one in flight.", counts.shared),
            ("cache_hits", "Inputs that came from the cache.", counts.cached),
            ("refused_requests", "Requests refused because the queue was full.", refused),
            ("abandoned_requests", "Requests whose client went away.", counts.abandoned),
        ):
            yield CounterMetricFamily(f"quaver_{name}", text, value)
        for name, text, value in (
            ("queue_requests", "Requests accepted and not yet answered.", waiting.requests),
            ("queue_inputs", "Inputs of those requests.", waiting.inputs),
            ("queue_tokens", "Tokens of those requests, as estimated.", waiting.tokens),
            ("queue_bytes", "Bytes of bodies that arrived and are not yet answered.", bodies.held),
            ("answer_bytes", "Bytes of answers that clients have not read.", answers.held),
            ("last_batch_tokens", "Tokens of the last batch.", counts.last_batch_tokens),
            ("last_batch_inputs", "Inputs of the last batch.", counts.last_batch_inputs),
            ("memory_limit_bytes", "Bytes that all models together may hold; 0 for any.", bound),
            ("cache_bytes", "Bytes of the cache of vectors.", self._service.scheduler.cache_bytes),
        ):
            yield GaugeMetricFamily(f"quaver_{name}", text, value)
        loaded = GaugeMetricFamily(
            "quaver_model_loaded", "Whether a model is in memory.", labels=("model", "status")
        )
        for model in self._service.models.all:
            loaded.add_metric((model.name, model.status), float(model.loaded is not None))
        yield loaded
        held = GaugeMetricFamily(
            "quaver_model_bytes",
            "Bytes that a model holds: packed weights, tables and tokenizer.",
            labels=("model",),
        )
        for model in self._service.models.all:
            held.add_metric((model.name,), float(model.nbytes))
        yield held


class State:
    """What the server is doing.

    Attributes:
        service: its models.
        stores: its stores, or None without any.
        loading: whether the models of the start are not loaded yet.
        listening: set once clients can connect; always set where that is another's work.
        stopping: whether it finishes what it accepted, and nothing else.
        in_flight: requests that are being answered.
        metrics: its numbers.
        describe: describes its API; it is called once somebody asks.
        tracing: makes a span for each request, or None.
        on_failure: called if no model could be loaded at the start.
    """

    def __init__(self, service: Service, stores: Stores | None) -> None:
        """Begin to load."""
        self.service = service
        self.stores = stores
        self.loading = True
        self.listening = asyncio.Event()
        self.listening.set()
        self.stopping = False
        self.in_flight = 0
        self.metrics = Metrics(service)
        self.describe: Callable[[], dict[str, Any]] = dict
        self.tracing: Tracing | None = None
        self.on_failure: Callable[[], None] = lambda: None

    def end_stream(self) -> None:
        """Count a streamed answer as answered."""
        self.in_flight -= 1

    @property
    def ready(self) -> bool:
        """Whether the server answers requests."""
        return not self.loading and not self.stopping and self.service.models.usable


def routes(state: State) -> Iterator[Route]:
    """Yield the routes; none needs a key.

    Args:
        state: what the server is doing.
    """

    async def livez(call: Call[None]) -> Response:
        alive = call.service.scheduler.alive
        return PlainTextResponse("ok\n" if alive else "a thread died\n", 200 if alive else 503)

    async def readyz(call: Call[None]) -> Response:
        models = {model.name: model.status for model in call.service.models.all}
        doing = "ready" if state.ready else "stopping" if state.stopping else "loading"
        return json_response({"status": doing, "models": models}, 200 if state.ready else 503)

    async def health(call: Call[None]) -> Response:
        return Response(status_code=200 if state.ready else 503)

    async def root(call: Call[None]) -> Response:
        return PlainTextResponse("Quaver is running")

    async def metrics(call: Call[None]) -> Response:
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @lru_cache(maxsize=1)
    def description() -> dict[str, Any]:
        return state.describe()

    async def described() -> dict[str, Any]:
        # It takes as long as many requests, and nobody needs it while the server starts.
        return await asyncio.get_running_loop().run_in_executor(None, description)

    async def openapi(call: Call[None]) -> Response:
        return json_response(await described())

    async def docs(call: Call[None]) -> Response:
        return HTMLResponse(page(await described()))

    for path, answer, summary in (
        ("/livez", livez, "Whether the process runs."),
        ("/readyz", readyz, "Whether it answers: not while it loads models or stops."),
        ("/health", health, "The same, without a body."),
        ("/ping", health, "The same."),
        *([] if state.stores else [("/", root, "That this is Quaver.")]),
        ("/metrics", metrics, "Numbers for Prometheus."),
        ("/openapi.json", openapi, "This description."),
        ("/docs", docs, "A page of it."),
    ):
        yield Route("GET", path, "operations", answer, _refuse, summary, statuses=(503,), open=True)


def _refuse(refusal: Refusal) -> Response:
    return PlainTextResponse(f"{refusal.message}\n", STATUSES[refusal.reason])


_PRIORITY = {
    "name": "X-Priority",
    "in": "header",
    "required": False,
    "description": "interactive, bulk, or 0 (first) to 999; left out, the request's size decides.",
    "schema": {"type": "string"},
}


def describe(routes: Sequence[Route], *, keys: bool) -> dict[str, Any]:
    """Return the OpenAPI description of routes.

    Args:
        routes: the routes.
        keys: whether they need an API key.
    """
    from importlib import metadata

    types = [
        t for route in routes for t in (route.body, route.query, route.returns) if t is not None
    ]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    for component in components.values():
        _describe_fields(component)
    found = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "tags": [route.dialect],
            "operationId": f"{route.method.lower()}{re.sub('[^a-z0-9]+', '_', route.path.lower())}",
            "responses": {
                "200": {"description": "The answer."},
                **{str(status): {"description": _MEANINGS[status]} for status in route.statuses},
            },
        }
        if route.returns is not None:
            content = {"application/json": {"schema": found[id(route.returns)]}}
            operation["responses"]["200"]["content"] = content
        if route.body is not None:
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": found[id(route.body)]}},
            }
        names = re.findall(r"{(\w+)(?::\w+)?}", route.path)
        if names:
            operation["parameters"] = [
                {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1},
                }
                for name in names
            ]
        if route.body is not None:
            operation.setdefault("parameters", []).append(_PRIORITY)
        if route.query is not None:
            name = found[id(route.query)]["$ref"].rpartition("/")[2]
            fields = components[name]
            operation.setdefault("parameters", []).extend(
                {
                    "name": field,
                    "in": "query",
                    "required": field in fields.get("required", ()),
                    "schema": schema,
                }
                for field, schema in fields["properties"].items()
            )
        if keys and not route.open:
            operation["security"] = [{"key": []}]
        path = re.sub(r":\w+}", "}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = operation
    described: dict[str, Any] = {"schemas": components}
    if keys:
        described["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Quaver", "version": metadata.version("quaver")},
        "paths": paths,
        "components": described,
    }


def _describe_fields(schema: dict[str, Any]) -> None:
    """Move what a docstring says of each attribute from a schema's description to its fields."""
    text, _, listed = schema.get("description", "").partition("\n\nAttributes:\n")
    if not listed:
        return
    schema["description"] = " ".join(text.split())
    for name, said in re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", listed, re.M):
        if name in schema["properties"]:
            schema["properties"][name]["description"] = " ".join(said.split())


_MEANINGS = {
    400: "The body is not JSON, or outside its rule.",
    401: "The API key is missing or wrong.",
    404: "No model, store, document or passage has this name.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    415: "The body is compressed.",
    422: "The body is outside its rule.",
    424: "The model cannot do this, or failed.",
    429: "The queue is full; Retry-After says when to try again.",
    500: "The engine or the server failed; the log says where.",
    502: "The language model's endpoint failed.",
    503: "The model could not be loaded, or the server stops.",
    504: "The answer took too long.",
}


def page(description: dict[str, Any]) -> str:
    """Return a page of the API, without scripts from elsewhere."""
    from html import escape

    rows = [
        f"<tr><td>{escape(operation['tags'][0])}<td><code>{method.upper()} {escape(path)}</code>"
        f"<td>{escape(operation['summary'])}"
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    bodies = []
    for name, schema in sorted(description["components"]["schemas"].items()):
        needed = schema.get("required", ())
        fields = [
            f"<tr><td><code>{escape(field)}</code><td>{_type_in_words(own)}"
            f"<td>{_default_in_words(own, field in needed)}<td>{escape(own.get('description', ''))}"
            for field, own in schema.get("properties", {}).items()
        ]
        bodies.append(
            f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{escape(schema.get('description', ''))}</p>"
            f"<table>{''.join(fields)}</table>"
        )
    return (
        "<!doctype html><meta charset=utf-8><title>Quaver's API</title>"
        "<style>body{font:16px system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.2rem 1rem .2rem 0;vertical-align:top}</style>"
        f"<h1>Quaver {escape(description['info']['version'])}</h1>"
        "<p><a href=openapi.json>openapi.json</a></p>"
        f"<table>{''.join(rows)}</table><h2>Bodies</h2>{''.join(bodies)}"
    )


def _type_in_words(schema: dict[str, Any]) -> str:
    """Return a field's type as HTML, with links to the bodies that it names."""
    from html import escape

    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type_in_words(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    if schema.get("type") == "array":
        items = _type_in_words(schema.get("items", {"type": "anything"}))
        return f"list of ({items})" if "anyOf" in schema.get("items", ()) else f"list of {items}"
    bounds = [schema[bound] for bound in ("minimum", "maximum") if bound in schema]
    limits = {1: " from {}", 2: " from {} to {}"}.get(len(bounds), "").format(*bounds)
    return f"{schema.get('type', 'any')}{limits}"


def _default_in_words(schema: dict[str, Any], needed: bool) -> str:
    from html import escape

    if needed:
        return "required"
    return f"default <code>{escape(msgspec.json.encode(schema.get('default')).decode())}</code>"
