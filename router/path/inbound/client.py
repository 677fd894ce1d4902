"""A connection of a client: HTTP/1.1 or HTTP/2, told apart by first bytes or ALPN; REST or gRPC on either port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from berth.headers import CONTENT_TYPE
from berth.http.errors import ErrorCode
from berth.http.events import (
    BodyTooLarge,
    DataReceived,
    DataSent,
    Event,
    RequestReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http.head import RequestHead
from berth.http.http1.server import Http1Server
from berth.http.http2.frames import speaks_http2
from berth.http.http2.server import Http2Server
from router.path.inbound import accept_grpc
from router.path.inbound import rest as inbound_rest
from router.path.inbound.clients import Clients
from router.path.inbound.inbound import Client, Inbound

_GRPC: Final = b"application/grpc"


class ClientConnection(Client):
    """`unread`: some of a request was left unread (HTTP/1.1)."""

    __slots__ = (
        "_answered_early", "_begun", "_debts", "_first", "_fresh", "_lingers", "_progress", "_quiet", "_reset_next",
        "_stuck", "_used", "clients", "is_tls", "unread",
    )  # fmt: skip

    def __init__(self, clients: Clients, *, is_tls: bool) -> None:
        super().__init__(clients.common, clients.terms, clients.late)
        self.clients = clients
        self.is_tls = is_tls
        self.unread = False
        self._begun = False
        self._first = b""
        # Requests whose heads came in this batch.
        self._fresh: list[Inbound] = []
        # Bytes of answered requests that wait for the client, by stream.
        self._debts: dict[int, int] = {}
        # Streams that were answered before their requests had come: since this tick, and since the one before.
        self._answered_early: list[int] = []
        self._reset_next: list[int] = []
        # For the tick: seconds without a request, seconds in which nothing that waits has gone, seconds of farewell.
        self._used = True
        self._progress = True
        self._quiet = self._stuck = self._lingers = 0

    def __repr__(self) -> str:
        return f"<ClientConnection {self._framing!r} requests={len(self.inbounds)}>"

    # ── Life ───────────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.clients.connected(self):
            transport.close()
            return
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._choose(http2=True)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.clients.disconnected(self)
        self.common.ledger.held -= sum(self._debts.values())
        self._debts.clear()

    def received(self, data: bytes) -> None:
        if self.closing:
            return
        if not self._begun:
            self._first += data
            chosen = speaks_http2(self._first)
            if chosen is None:
                return
            self._choose(http2=chosen)
            data, self._first = self._first, b""
        self.handle(self.http.receive(data))

    def _choose(self, *, http2: bool) -> None:
        clients = self.clients
        if http2:
            self.speaks_http2 = True
            self.http = Http2Server(clients.http2_limits, keepalive=self.terms.limits.keepalive_s)
        else:
            scheme = b"https" if self.is_tls else b"http"
            self.http = Http1Server(clients.http1_limits, scheme=scheme, memo=clients.http1_memos[self.is_tls])
        self._begun = True
        self.frame(self.http)
        if self.paused:
            self.http.pause()
        if self.terms.draining:
            self.http.shutdown()

    def flush(self) -> None:
        super().flush()
        # Requests that the client sent ahead are looked at one by one.
        if self._begun and not self.closing and self.http.backlog and not self.http.open_streams:
            self.handle(self.http.receive(b""))
            self.mark()

    def finish(self) -> None:
        if self.closing:
            return
        if self.unread and self.transport.can_write_eof():
            # A client that still sends would lose the answer to a TCP reset: let it see the end first.
            self.closing = True
            self._lingers = 2
            self.transport.resume_reading()
            self.transport.write_eof()
            return
        super().finish()

    def drain(self) -> None:
        """Take no more requests than those that are on their way."""
        if not self._begun:
            self.finish()
        elif self.speaks_http2 or self.inbounds:
            self.http.shutdown()
            self.mark()
        # An idle HTTP/1.1 connection is told with its next answer, or closed when none is asked for.

    def close_if_idle(self) -> None:
        if not self.speaks_http2 and not self.inbounds and not self._debts:
            self.finish()

    def tick(self, now: float) -> None:
        """Once a second."""
        if self.closing:
            self._lingers -= 1
            if self._lingers <= 0:
                self.transport.abort()
            return
        limits = self.terms.limits
        busy = bool(self.inbounds)
        self._quiet = 0 if busy or self._used else self._quiet + 1
        self._used = False
        stuck = bool(self._debts) or self.paused
        self._stuck = self._stuck + 1 if stuck and not self._progress else 0
        self._progress = False
        half = not self._begun or (not self.speaks_http2 and not busy and self.http.backlog > 0)
        if self._stuck > limits.body_timeout_s or (half and self._quiet > limits.head_timeout_s):
            self.abort()
            return
        if not self._begun:
            return
        for stream_id in self._reset_next:
            self.http.reset(stream_id, ErrorCode.NO_ERROR)
        self._reset_next, self._answered_early = self._answered_early, []
        if self._quiet > limits.idle_timeout_s:
            self.http.shutdown()
        self.handle(self.http.tick(now))
        self.mark()

    def stop_reading(self, stream_id: int) -> None:
        """A request was answered before all of it came: its client need not send the rest.

        It gets a second to see that for itself: some clients take a reset that comes with the answer for a failure.
        """
        if self.speaks_http2:
            self._answered_early.append(stream_id)
        else:
            self.unread = True

    # ── Events ─────────────────────────────────────────────────────────────────────────────────────────────────

    def handle(self, events: Sequence[Event]) -> None:
        inbounds = self.inbounds
        for event in events:
            if isinstance(event, DataReceived):
                stream_id, chunk, ended = event
                inbound = inbounds.get(stream_id)
                # What comes after the answer is not consumed: more than a window of it does not come.
                if inbound is not None:
                    inbound.data(chunk, ended)
            elif isinstance(event, RequestReceived):
                stream_id, head, ended = event
                self._begin(stream_id, head, ended)
            else:
                self._on_other(event)
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            for inbound in fresh:
                if not inbound.whole and not inbound.over:
                    inbound.check()

    def _begin(self, stream_id: int, head: RequestHead, ended: bool) -> None:
        self._used = True
        if self.terms.draining:
            self.http.shutdown()
        if self.speaks_http2 and (head.get(CONTENT_TYPE) or b"").startswith(_GRPC):
            inbound = accept_grpc.accept(self, stream_id, head)
        else:
            inbound = inbound_rest.accept(self, stream_id, head)
        if inbound.over:
            return
        self.inbounds[stream_id] = inbound
        if ended:
            inbound.data(b"", True)
        else:
            self._fresh.append(inbound)

    def _on_other(self, event: Event) -> None:
        if isinstance(event, DataSent):
            self._sent(event)
            return
        if not isinstance(event, StreamReset | TrailersReceived | BodyTooLarge):
            return
        inbound = self.inbounds.get(event.stream_id)
        if isinstance(event, StreamReset):
            self.common.ledger.held -= self._debts.pop(event.stream_id, 0)
            if inbound is not None:
                inbound.gone()
        elif inbound is None:
            pass
        elif isinstance(event, TrailersReceived):
            inbound.data(b"", True)
        else:
            inbound.too_large()

    def _sent(self, event: DataSent) -> None:
        self._progress = True
        stream_id, size = event.stream_id, event.size
        debt = self._debts.get(stream_id)
        if debt is not None:
            # What is owed went into the connection first, and had been consumed before.
            paid = min(debt, size)
            self.common.ledger.held -= paid
            size -= paid
            if debt > paid:
                self._debts[stream_id] = debt - paid
            else:
                del self._debts[stream_id]
        inbound = self.inbounds.get(stream_id)
        if inbound is not None and size:
            inbound.sent(size)

    def owe(self, stream_id: int, size: int) -> None:
        """So many bytes of an answer wait in the connection for the client to take them."""
        self._debts[stream_id] = self._debts.get(stream_id, 0) + size
        self.common.ledger.held += size

    def resume_writing(self) -> None:
        self._progress = True
        super().resume_writing()
