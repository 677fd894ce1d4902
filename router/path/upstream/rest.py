"""Requests to a replica over HTTP/1.1: a pool of connections, each with one exchange at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from berth.headers import CONTENT_TYPE, NOT_STARTED, STARTED
from berth.http.events import (
    ConnectionClosed,
    DataReceived,
    Event,
    InformationalReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http.head import ResponseHead
from berth.http.http1 import encoding
from berth.http.http1.client import Http1Client
from berth.http.http1.grammar import ResponseFraming
from berth.http.limits import Http1Limits
from berth.http.memo import Memo
from router.connection.dialer import Dialer, dialer_for
from router.core.attempts import Failure
from router.path.answer import Answer
from router.path.fields import Door
from router.path.meeting import Carrier, Copy, OpenUpstream
from router.path.said import pushback_of
from router.path.upstream.rest_heads import head_for, head_to_router

# Shorter than a worker's own limit for idle connections, so that our side closes first.
_KEEP_ALIVE: Final = 15.0
_LIMITS: Final = Http1Limits(buffer=512 * 1024, memo=64 * 1024)


class RestPool:
    """The connections to one process of a replica, or to the routers of another cell."""

    def __init__(self, dialer: Dialer, address: str) -> None:
        self._dialer = dialer
        self._address = address
        self.credential = encoding.encode_fields(dialer.credential_fields)
        # For requests that are passed on; not used where there are replicas.
        self.door = Door(dialer.scheme, address.encode(), dialer.sender)
        self.memo: Memo[ResponseFraming] = Memo(_LIMITS.memo)
        # The last used is used next, so that spare ones grow old.
        self._idle: list[RestConnection] = []
        self._all: set[RestConnection] = set()
        self._waiting: deque[Copy] = deque()
        self._dialing: set[asyncio.Task[None]] = set()
        self._closing = False

    def __repr__(self) -> str:
        return f"<RestPool {self._address} connections={len(self._all)} idle={len(self._idle)}>"

    def send(self, copy: Copy) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.http.can_open:
                connection.begin(copy)
                return
        self._waiting.append(copy)
        if len(self._waiting) > len(self._dialing):
            self._dial()

    def withdraw(self, copy: Copy) -> None:
        self._waiting.remove(copy)

    def connected(self, connection: RestConnection) -> None:
        if self._closing:
            connection.abort()
            return
        self._all.add(connection)
        self.free(connection)

    def free(self, connection: RestConnection) -> None:
        """It can take a request."""
        if self._waiting:
            connection.begin(self._waiting.popleft())
        else:
            connection.idle_since = self._dialer.common.loop.time()
            self._idle.append(connection)

    def lost(self, connection: RestConnection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def tick(self, now: float) -> None:
        while self._idle and self._idle[0].idle_since + _KEEP_ALIVE < now:
            self._idle.pop(0).finish()

    async def close(self) -> None:
        """No copy is under way."""
        self._closing = True
        for task in self._dialing:
            task.cancel()
        connections = list(self._all)
        for connection in connections:
            connection.finish()
        for connection in connections:
            await connection.ended.wait()

    def _dial(self) -> None:
        task = self._dialer.dial(
            self._address, "http/1.1", lambda: RestConnection(self._dialer, self), self._not_connected
        )
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)

    def _not_connected(self, why: str) -> None:
        # Each attempt was made for one copy; those that found a connection meanwhile do not wait.
        if self._waiting:
            self._waiting.popleft().failed(Failure.UNREACHED, why)


class RestConnection(Carrier):
    """One connection with at most one copy under way."""

    __slots__ = ("_copy", "_pool", "ended", "http", "idle_since")

    def __init__(self, dialer: Dialer, pool: RestPool) -> None:
        super().__init__(dialer.common)
        self._pool = pool
        self._copy: Copy | None = None
        self.ended = asyncio.Event()
        self.idle_since = 0.0
        self.http = Http1Client(_LIMITS, memo=pool.memo)
        self.frame(self.http)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pool.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self)
        super().connection_lost(exc)
        self.ended.set()

    def begin(self, copy: Copy) -> None:
        request, http = copy.request, self.http
        seconds = copy.under_way.seconds_left()
        if copy.servable:
            block = head_for(request, copy.servable, seconds, self._pool.credential)
        else:
            block = head_to_router(request, self._pool.door, seconds)
        if copy.fields:
            block += encoding.encode_fields(copy.fields)
        self._copy = copy
        copy.carrier = self
        body = request.message()
        if body:
            copy.stream_id = stream_id = http.open(block, length=len(body))
            http.send_data(stream_id, body, True)
        else:
            copy.stream_id = http.open(block, True)
        if not self.marked:
            self._writes.mark(self)

    def handle(self, events: list[Event]) -> None:
        for event in events:
            copy = self._copy
            if copy is not None:
                self._on_event(copy, event)
            if isinstance(event, ConnectionClosed):
                self._pool.lost(self)
        if self.http.closed:
            self._pool.lost(self)

    def _on_event(self, copy: Copy, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._on_data(copy, event.data, event.ended)
        elif isinstance(event, ResponseReceived):
            self._on_head(copy, event.head, event.ended)
        elif isinstance(event, TrailersReceived):
            self._complete(copy)
        elif isinstance(event, StreamReset):
            self._copy = None
            copy.let_go(self.common.ledger)
            copy.failed(Failure.BROKEN, event.detail)
        elif isinstance(event, InformationalReceived) and event.head.get(STARTED) is not None:
            copy.under_way.begins_to_run(copy)

    def _on_head(self, copy: Copy, head: ResponseHead, ended: bool) -> None:
        copy.head = head
        if ended:
            self._complete(copy)
        elif head.status < 500 and (not copy.held_back or _is_streamed(head)):
            copy.under_way.begins(copy, False)

    def _on_data(self, copy: Copy, chunk: bytes, ended: bool) -> None:
        if copy.begun:
            self.http.consume(copy.stream_id, copy.request.more(chunk, ended))
        else:
            self.http.consume(copy.stream_id, len(chunk))
            if chunk:
                copy.keep(chunk, self.common.ledger)
            if copy.size > copy.held_back and not ended:
                copy.let_go(self.common.ledger)
                head = copy.head
                copy.under_way.begins(copy, head is not None and head.status >= 500)
        if ended:
            self._complete(copy)

    def _complete(self, copy: Copy) -> None:
        head = copy.head
        assert isinstance(head, ResponseHead)
        self._copy = None
        if copy.counted:
            copy.let_go(self.common.ledger)
        # Before the copy is told: a repeat may want this connection.
        if self.http.can_open:
            self._pool.free(self)
        else:
            self.mark()
        pushback = pushback_of(head.fields) if head.status >= 400 else None
        if head.get(NOT_STARTED) is not None:
            copy.failed(Failure.NOT_STARTED, f"refused with {head.status}", pushback)
            return
        answer = Answer(head, copy.chunks, copy.size)
        answer.status, answer.faulty, answer.pushback = head.status, head.status >= 500, pushback
        copy.answered(answer)

    def push(self, copy: Copy, chunk: bytes, ended: bool) -> None:
        raise TypeError("requests over REST are complete")

    def consumed(self, copy: Copy, size: int) -> None:
        self.http.consume(copy.stream_id, size)
        self.mark()

    def withdraw(self, copy: Copy) -> None:
        if self._copy is copy:
            self._copy = None
            copy.let_go(self.common.ledger)
            self._pool.lost(self)
            self.http.reset(copy.stream_id)
            # Now, not when the batch is done, and without a farewell: until then the worker works for nothing.
            self.transport.abort()


def _is_streamed(head: ResponseHead) -> bool:
    return (head.get(CONTENT_TYPE) or b"").startswith(b"text/event-stream")


def open_rest(dialer: Dialer, beyond: Dialer | None = None) -> OpenUpstream:
    """Makes pools of connections that carry the dialer's credential; `beyond` dials the routers of other cells."""
    return lambda address: RestPool(dialer_for(address, dialer, beyond), address.http)
