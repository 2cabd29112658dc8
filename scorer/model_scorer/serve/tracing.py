"""OpenTelemetry traces: a span for each scoring request, when `OTEL_EXPORTER_OTLP_ENDPOINT` is set; else nothing.

W3C trace context in and out (https://www.w3.org/TR/trace-context/). The SDK comes with the extra `tracing` and is only
imported when it is asked for; all its own variables (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, …) work.
https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model_scorer.dialects.protocol import HttpRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def build_tracer(environ: Mapping[str, str], *, model: str, revision: str) -> Tracer | None:
    """The tracer that the environment asks for; None without an endpoint, or without the SDK.

    Called in the process that will make the spans: the exporter's thread does not survive a fork.
    """
    if not any(environ.get(name, "").strip() for name in _ENDPOINTS):
        return None
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as err:
        log.warning("traces are off: %s is not installed (the extra `tracing` has it)", err.name)
        return None
    attributes: dict[str, str] = {"service.version": revision}
    if not environ.get("OTEL_SERVICE_NAME"):
        attributes[SERVICE_NAME] = model
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider, model)


class Tracer:
    """Makes spans.

    Args:
        provider: of the SDK.
        model: the ScoringModel's name.
    """

    def __init__(self, provider: TracerProvider, model: str) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("model_scorer")
        self._propagator = TraceContextTextMapPropagator()
        self._model = model

    def begin(self, dialect: str, request: HttpRequest) -> RequestSpan:
        """Begin the span of a request; its parent is the client's, if it sent a valid traceparent."""
        from opentelemetry.trace import SpanKind

        carrier = {
            name: request.header(name.encode())
            for name in ("traceparent", "tracestate")
            if name.encode() in request.headers
        }
        span = self._tracer.start_span(
            f"{request.method} {request.path}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": request.method,
                "url.path": request.path,
                "http.request.body.size": len(request.buffer),
                "mlscoring.model": self._model,
                "mlscoring.dialect": dialect,
            },
        )
        return RequestSpan(span, self._propagator)

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()


class RequestSpan:
    """The span of one request.

    Args:
        span: begun.
        propagator: writes the context into headers.
    """

    __slots__ = ("_propagator", "_span")

    def __init__(self, span: Span, propagator: Any) -> None:
        self._span = span
        self._propagator = propagator

    def end(self, status: int, seconds: float, exec_seconds: float, rows: int, reason: str) -> str:
        """End the span.

        Args:
            status: of the answer.
            seconds: since the request's last byte.
            exec_seconds: in the model.
            rows: of the request.
            reason: of a failure, or empty.

        Returns:
            The header lines that tell the client the context.
        """
        from opentelemetry import trace

        span = self._span
        span.set_attributes(
            {
                "http.response.status_code": status,
                "mlscoring.rows": rows,
                "mlscoring.queue_ms": round(max(0.0, seconds - exec_seconds) * 1000, 3),
                "mlscoring.compute_ms": round(exec_seconds * 1000, 3),
            }
        )
        if reason:
            span.set_attribute("error.type", reason)
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR, reason)
        span.end(time.time_ns())
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        return "".join(f"{name}: {value}\r\n" for name, value in carrier.items())
