"""Traces: W3C Trace Context on the wire, and spans for a sample of requests, sent by OTLP over HTTP.

A request that comes with a trace is traced if its sender says so; of the others a share is. For a request that is not,
nothing is made: no span, no context, no header. OpenTelemetry's SDK is an extra (`berth[otel]`) and is imported only
when there is a collector to send to; its own thread does the sending, and drops spans when the collector is slow.

Attributes name tenants and models, since traces are the operator's. Never keys, bodies or tensors.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from berth.headers import TRACEPARENT, TRACESTATE
from berth.http.head import Fields
from berth.settings import ProcessSettings, SettingsError, variable_name

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext, SpanKind

# Version 00, and what later ones must begin with.
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01
# Milliseconds between sendings, and the seconds that one may take: an ending process waits that long for a collector.
_PAUSE_MS = 1000
_TIMEOUT = 2.0


class Parent(NamedTuple):
    """Where a request comes from. Ids are not zero."""

    trace_id: int
    span_id: int
    sampled: bool


def parent_of(fields: Fields) -> Parent | None:
    """The trace that `traceparent` names; None if it is missing, given twice or malformed."""
    given = [value for name, value in fields if name == TRACEPARENT]
    if len(given) != 1 or len(given[0]) > 512:
        return None
    match = _TRACEPARENT.fullmatch(given[0])
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5]):
        return None
    parent = Parent(int(match[2], 16), int(match[3], 16), bool(int(match[4], 16) & _SAMPLED))
    return parent if parent.trace_id and parent.span_id else None


class Tracing:
    """Makes the spans of a process. `share`: of the requests that bring no trace. Close it to send what is left."""

    def __init__(self, endpoint: str, share: float, resource: Mapping[str, str]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        url = endpoint.rstrip("/")
        if not url.endswith("/v1/traces"):
            url += "/v1/traces"
        self._share = share
        # It is decided here what is traced, before there is a span.
        self._provider: TracerProvider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource(dict(resource)), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=url, timeout=_TIMEOUT)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_PAUSE_MS))
        self._tracer = self._provider.get_tracer("berth")

    def begin(self, name: str, kind: SpanKind, fields: Fields) -> Span | None:
        """The span of a request that came with `fields`; None if it is not traced."""
        parent = parent_of(fields) if fields else None
        if not (parent.sampled if parent is not None else random.random() < self._share):
            return None
        return self._span(name, kind, None if parent is None else _context_of(parent))

    def child(self, of: Span, name: str, kind: SpanKind, start: int | None = None) -> Span:
        """A span beneath `of`, begun now or at `start`, in nanoseconds since 1970."""
        return self._span(name, kind, of.get_span_context(), start)

    async def close(self) -> None:
        """Send what is left, if the collector takes it, and end."""
        await asyncio.to_thread(self._provider.shutdown)

    def _span(self, name: str, kind: SpanKind, parent: SpanContext | None, start: int | None = None) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        # A context of its own: what the thread's happens to be is no parent of ours.
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(parent), context)
        return self._tracer.start_span(name, context, kind=kind, start_time=start)


def fields_of(span: Span, given: Fields) -> Fields:
    """The header that makes the next process's spans children of `span`. `given` came with the request."""
    context = span.get_span_context()
    line = b"00-%032x-%016x-01" % (context.trace_id, context.span_id)
    state = tuple(field for field in given if field[0] == TRACESTATE) if parent_of(given) is not None else ()
    return ((TRACEPARENT, line), *state)


def open_tracing(settings: ProcessSettings, component: str) -> Tracing | None:
    """None if there is no collector. Raises `SettingsError` if the extra is not installed."""
    if not settings.otlp_endpoint:
        return None
    resource = {
        "service.name": f"berth-{component}",
        "service.instance.id": settings.instance,
        "berth.cell": settings.cell,
    }
    try:
        return Tracing(settings.otlp_endpoint, settings.trace_sample, resource)
    except ModuleNotFoundError as error:
        name = variable_name("otlp_endpoint")
        raise SettingsError(f"{name}: needs the extra `otel` (pip install 'berth[otel]'): {error}") from None


def _context_of(parent: Parent) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
