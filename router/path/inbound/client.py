"""A client's connection: its requests, REST or gRPC on either port, and the bytes of answers that wait for it."""

from __future__ import annotations

from berth.headers import CONTENT_TYPE
from berth.http.events import (
    BodyTooLarge,
    DataReceived,
    DataSent,
    Event,
    RequestReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http.grpc.messages import is_grpc
from berth.http.head import RequestHead
from berth.http_shell.server import ServerLink
from router.connection.common import Common
from router.path.inbound import accept_grpc
from router.path.inbound import rest as inbound_rest
from router.path.inbound.inbound import Client, Inbound
from router.path.inbound.terms import ClientTerms
from router.path.wheel import Wheel


class ClientConnection(Client):
    """Answers go through `http`. After sending at any time but while events are handled, call `mark`."""

    __slots__ = ("_debts", "_fresh", "_link")

    def __init__(self, common: Common, terms: ClientTerms, late: Wheel[Inbound], link: ServerLink) -> None:
        super().__init__(common, terms, late, link.http, speaks_http2=link.is_http2)
        self._link = link
        # Requests whose heads came in this batch.
        self._fresh: list[Inbound] = []
        # Bytes of answered requests that wait for the client, by stream.
        self._debts: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<ClientConnection {self._link!r} requests={len(self.inbounds)}>"

    def mark(self) -> None:
        link = self._link
        if not link.marked:
            link.mark()

    def stop_reading(self, stream_id: int) -> None:
        self._link.reset_soon(stream_id)

    def on_lost(self) -> None:
        for stream_id in list(self._debts):
            self._forgive(stream_id)

    def on_events(self, events: list[Event]) -> None:
        inbounds = self.inbounds
        for event in events:
            if isinstance(event, DataReceived):
                stream_id, chunk, ended = event
                inbound = inbounds.get(stream_id)
                # Bytes that come after the answer are not consumed: so at most a window of them comes.
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
        if self.speaks_http2 and is_grpc(head.get(CONTENT_TYPE)):
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
            self._forgive(event.stream_id)
            if inbound is not None:
                inbound.gone()
        elif inbound is None:
            pass
        elif isinstance(event, TrailersReceived):
            inbound.data(b"", True)
        else:
            inbound.too_large()

    # ── What waits for the client ──────────────────────────────────────────────────────────────────────────────

    def owe(self, stream_id: int, size: int) -> None:
        self._debts[stream_id] = self._debts.get(stream_id, 0) + size
        self._link.owed += size
        self.common.ledger.held += size

    def _sent(self, event: DataSent) -> None:
        self._link.progress = True
        stream_id, size = event.stream_id, event.size
        debt = self._debts.get(stream_id)
        if debt is not None:
            # What is owed went into the connection first, and had been consumed before.
            paid = min(debt, size)
            size -= paid
            self._link.owed -= paid
            self.common.ledger.held -= paid
            if debt > paid:
                self._debts[stream_id] = debt - paid
            else:
                del self._debts[stream_id]
        inbound = self.inbounds.get(stream_id)
        if inbound is not None and size:
            inbound.sent(size)

    def _forgive(self, stream_id: int) -> None:
        """It will not be taken any more."""
        debt = self._debts.pop(stream_id, 0)
        self._link.owed -= debt
        self.common.ledger.held -= debt
