"""The spans of a request: one for the router, and beneath it one for each copy, side by side.

So a hedge is a sibling of the copy that it was to overtake, and a trace shows both, which one won, and what the replica
of each did. A request that is not traced has no `Trace`, and its copies pass on what the client said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from berth.errors import BerthError
from berth.ids import VersionKey
from berth.tracing import Tracing, fields_of
from router.core.selection import Done, Outcome
from router.path.request import Copy, Request

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_OUTCOMES = {
    Outcome.ANSWERED: "won",
    Outcome.FAULTY: "faulty",
    Outcome.LOST: "lost",
    Outcome.UNREACHABLE: "failed",
    Outcome.OTHER: "cancelled",
}


class Traces:
    """Begins the traces of a router."""

    def __init__(self, tracing: Tracing) -> None:
        from opentelemetry.trace import SpanKind

        self._tracing = tracing
        self._server, self._client = SpanKind.SERVER, SpanKind.CLIENT

    def begin(self, request: Request) -> Trace | None:
        """None if this one is not traced."""
        span = self._tracing.begin("infer", self._server, request.trace)
        if span is None:
            return None
        span.set_attributes(
            {
                "berth.request_id": request.request_id.decode("latin-1"),
                "berth.wire": request.wire.value,
                "berth.operation": request.operation.value,
            }
        )
        return Trace(self, span)

    def copy(self, of: Span) -> Span:
        return self._tracing.child(of, "attempt", self._client)


class Trace:
    """Of one request. `end` is called once, after the copies' ends."""

    __slots__ = ("_span", "_traces")

    def __init__(self, traces: Traces, span: Span) -> None:
        self._traces = traces
        self._span = span

    def resolved(self, key: VersionKey) -> None:
        """It is known, and allowed, what is asked."""
        self._span.set_attributes({"berth.tenant": key.tenant, "berth.model": key.model, "berth.version": key.version})

    def attempt(self, copy: Copy, *, first: bool) -> None:
        """`copy` is about to be sent: its replica goes on with the trace, and its end is the end of its span."""
        span = self._traces.copy(self._span)
        kind = "hedge" if copy.twin else "first" if first else "retry"
        span.set_attributes({"berth.attempt": kind, "berth.replica": copy.address.replica})
        if not copy.servable:
            span.set_attribute("berth.passed_on", copy.address.cell)
        copy.fields = fields_of(span, copy.request.trace)
        copy.done = _ending(copy.done, span)

    def refused(self, error: BerthError) -> None:
        self._span.set_attribute("error.type", type(error).__name__)

    def end(self, answer: str) -> None:
        """`answer`: good, bad, none or cached."""
        self._span.set_attribute("berth.answer", answer)
        self._span.end()


def _ending(done: Done, span: Span) -> Done:
    def end(outcome: Outcome, now: float) -> None:
        span.set_attribute("berth.outcome", _OUTCOMES[outcome])
        span.end()
        done(outcome, now)

    return end
