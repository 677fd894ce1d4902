"""Requests whose sender wants to know more than the answer: that the run has begun (`berth-twin`), or a trace.

Few requests are watched; the others cost one look at their header fields. What is said early is an interim response
(102), so the answer and its head stay what they are.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from berth.errors import BerthError
from berth.headers import STARTED, TRACEPARENT, TWIN
from berth.http.head import Fields
from berth.http_shell.server import ServerLink
from berth.tracing import Tracing
from worker.serving.asked import Asked

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_STARTED: Fields = ((STARTED, b"1"),)


class Watch:
    """One request. `begun` is called in whichever thread the run begins, `end` once, when it is over."""

    __slots__ = ("_begun_at", "_link", "_loop", "_over", "_span", "_stream_id", "_tied", "_tracing")

    def __init__(
        self, link: ServerLink, stream_id: int, *, tied: bool, tracing: Tracing | None, span: Span | None
    ) -> None:
        self._link = link
        self._stream_id = stream_id
        self._tied = tied
        self._tracing = tracing
        self._span = span
        # In nanoseconds since 1970; 0: it still waits.
        self._begun_at = 0
        self._over = False
        self._loop = asyncio.get_running_loop()

    def begun(self) -> None:
        """The request's turn has come."""
        self._begun_at = time.time_ns()
        if self._tied:
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if not self._over:
            connection = self._link.http
            connection.send_informational(self._stream_id, connection.encode_response(102, _STARTED))
            self._link.mark()

    def end(self, outcome: object) -> None:
        """`outcome`: an answer, an error, or None if the client has gone."""
        if self._over:
            return
        self._over = True
        if self._tracing is None or self._span is None:
            return
        from opentelemetry.trace import SpanKind

        if self._begun_at:
            self._tracing.child(self._span, "run", SpanKind.INTERNAL, self._begun_at).end()
        if isinstance(outcome, BerthError):
            self._span.set_attribute("error.type", type(outcome).__name__)
        self._span.set_attribute("berth.cancelled", outcome is None)
        self._span.end()


def watch(link: ServerLink, stream_id: int, asked: Asked, tracing: Tracing | None, replica: str) -> Watch | None:
    """None for a request of which nobody wants to know more."""
    fields = asked.fields
    tied = TWIN in fields
    span: Span | None = None
    if tracing is not None and TRACEPARENT in fields:
        from opentelemetry.trace import SpanKind

        span = tracing.begin("inference", SpanKind.SERVER, ((TRACEPARENT, fields[TRACEPARENT]),))
        if span is not None:
            span.set_attribute("berth.replica", replica)
    return Watch(link, stream_id, tied=tied, tracing=tracing, span=span) if tied or span is not None else None
