"""OpenTelemetry: one span for each request, sent to a collector over OTLP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quaver.errors import needs_extra

with needs_extra("tracing"):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from starlette.requests import Request

    from quaver.serve.http import Route
    from quaver.serve.service import Waiter


class Tracing:
    """Makes spans, and sends them from a thread of its own; they hold no text of a user."""

    def __init__(self, endpoint: str, *, exporter: SpanExporter | None = None) -> None:
        """Send spans to a collector.

        Args:
            endpoint: URL of its traces, such as http://localhost:4318/v1/traces.
            exporter: sends the spans instead.
        """
        self._provider = TracerProvider(resource=Resource.create({"service.name": "quaver"}))
        sender = exporter or OTLPSpanExporter(endpoint=endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(sender))
        self._tracer = self._provider.get_tracer("quaver.serve")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, route: Route, request: Request) -> Any:
        """Begin a request's span, in the trace that the client's `traceparent` names.

        Args:
            route: the route.
            request: the request.

        Returns:
            the span, for `end`.
        """
        return self._tracer.start_span(
            f"{route.method} {route.path}",
            context=self._propagator.extract(dict(request.headers)),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": route.method, "http.route": route.path},
        )

    def end(self, span: Any, status: int, waiter: Waiter, name: str) -> None:
        """End a request's span.

        Args:
            span: from `begin`.
            status: of the answer.
            waiter: what the request took.
            name: the request's id.
        """
        span.set_attributes(
            {
                "http.response.status_code": status,
                "quaver.request_id": name,
                "quaver.model": waiter.model,
                "quaver.inputs": waiter.inputs,
                "quaver.tokens": waiter.tokens,
                "quaver.queue_seconds": waiter.queue_seconds,
                "quaver.tokenize_seconds": waiter.tokenize_seconds,
                "quaver.compute_seconds": waiter.compute_seconds,
            }
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
