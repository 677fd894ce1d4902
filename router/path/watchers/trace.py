"""The spans of a request: one for the router, and beneath it one for each copy, side by side.

So a hedge is a sibling of the copy that it was to overtake. A trace shows both, which one won, and what each one's
replica did. The copies of an untraced request pass on the client's header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from berth.errors import BerthError
from berth.tracing import Tracing, fields_of
from router.core.routes import Resolved
from router.core.selection import CopyOutcome
from router.path.meeting import Asking, Copy
from router.path.watchers.watcher import Follower

if TYPE_CHECKING:  # an extra: not there for everyone
    from opentelemetry.trace import Span

_OUTCOMES = {
    CopyOutcome.ANSWERED: "won",
    CopyOutcome.FAULTY: "faulty",
    CopyOutcome.LOST: "lost",
    CopyOutcome.UNREACHABLE: "failed",
    CopyOutcome.OTHER: "cancelled",
}


class Traces(Follower):
    """Of all requests under way that are traced, and their copies."""

    def __init__(self, tracing: Tracing) -> None:
        from opentelemetry.trace import SpanKind

        self._tracing = tracing
        self._server, self._client = SpanKind.SERVER, SpanKind.CLIENT
        self._spans: dict[Asking, Span] = {}
        self._copies: dict[Copy, Span] = {}

    def __repr__(self) -> str:
        return f"<Traces requests={len(self._spans)} copies={len(self._copies)}>"

    def starts(self, request: Asking) -> None:
        span = self._tracing.begin("infer", self._server, request.trace)
        if span is None:
            return
        span.set_attributes(
            {
                "berth.request_id": request.request_id.decode("latin-1"),
                "berth.wire": request.wire.value,
                "berth.operation": request.operation.value,
            }
        )
        self._spans[request] = span

    def resolved(self, request: Asking, resolved: Resolved) -> None:
        span = self._spans.get(request)
        if span is not None:
            key = resolved.key
            span.set_attributes({"berth.tenant": key.tenant, "berth.model": key.model, "berth.version": key.version})

    def sends(self, copy: Copy, attempt: str) -> None:
        """Its replica goes on with the trace."""
        parent = self._spans.get(copy.request)
        if parent is None:
            return
        span = self._tracing.child(parent, "attempt", self._client)
        span.set_attributes({"berth.attempt": attempt, "berth.replica": copy.address.replica})
        if not copy.servable:
            span.set_attribute("berth.passed_on", copy.address.cell)
        copy.fields = fields_of(span, copy.request.trace)
        self._copies[copy] = span

    def ended(self, copy: Copy) -> None:
        span = self._copies.pop(copy, None)
        if span is not None and copy.outcome is not None:
            span.set_attribute("berth.outcome", _OUTCOMES[copy.outcome])
            span.end()

    def refused(self, request: Asking, error: BerthError) -> None:
        span = self._spans.get(request)
        if span is not None:
            span.set_attribute("error.type", type(error).__name__)

    def over(self, request: Asking, outcome: str) -> None:
        span = self._spans.pop(request, None)
        if span is not None:
            span.set_attribute("berth.answer", outcome)
            span.end()
