"""Requests to a replica over gRPC: a few multiplexed HTTP/2 connections."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from berth.headers import STARTED
from berth.http.errors import ErrorCode
from berth.http.events import (
    ConnectionClosed,
    DataReceived,
    DataSent,
    Event,
    GoingAway,
    InformationalReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http.grpc.status import parse_text
from berth.http.head import Fields, ResponseHead
from berth.http.http2 import header_codec
from berth.http.http2.client import Http2Client
from berth.http.limits import Http2Limits
from router.connection.dialer import Dialer, dialer_for
from router.core.attempts import Failure
from router.core.message import name_fields
from router.core.renaming import Renaming
from router.path.answer import Answer, read_head
from router.path.fields import Door
from router.path.meeting import Carrier, Copy, OpenUpstream
from router.path.upstream.grpc_endings import read_ending
from router.path.upstream.grpc_heads import body_for, head_for, head_to_router

# One connection joins the most writes; beyond so many streams on each, another one is worth it.
_STREAMS: Final = 64
_MOST_CONNECTIONS: Final = 4
# An answer that is held back comes in one go.
_STREAM_WINDOW: Final = 1024 * 1024
# Slow readers of many tenants share a connection: together they must not use up its window for the others.
LIMITS: Final = Http2Limits(
    stream_window=_STREAM_WINDOW, connection_window=256 * _STREAM_WINDOW, max_frame=128 * 1024, memo=64 * 1024
)
_KEEPALIVE, _KEEPALIVE_TIMEOUT = 10.0, 5.0


class GrpcPool:
    """The connections to one process of a replica, or to the routers of another cell."""

    def __init__(self, dialer: Dialer, address: str) -> None:
        self._dialer = dialer
        self._address = address
        self.scheme = dialer.scheme
        self.credential = header_codec.encode(dialer.credential_fields)
        # For requests that are passed on; not used where there are replicas.
        self.door = Door(dialer.scheme, address.encode(), dialer.sender)
        self._connections: list[GrpcConnection] = []
        # Copies that no connection can take now.
        self._waiting: deque[Copy] = deque()
        self._dialing: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._closing = False

    def __repr__(self) -> str:
        return f"<GrpcPool {self._address} connections={len(self._connections)} waiting={len(self._waiting)}>"

    def send(self, copy: Copy) -> None:
        best: GrpcConnection | None = None
        for connection in self._connections:
            if not connection.http.can_open:
                continue
            if len(connection.copies) < _STREAMS:
                connection.begin(copy)
                return
            if best is None or len(connection.copies) < len(best.copies):
                best = connection
        if not self._dialing and len(self._connections) < _MOST_CONNECTIONS:
            self._dial()
        if best is not None:
            best.begin(copy)
        else:
            self._waiting.append(copy)

    def withdraw(self, copy: Copy) -> None:
        """Of a copy that waits; one that is under way is withdrawn from its connection."""
        self._waiting.remove(copy)

    def send_waiting(self) -> None:
        """A connection may take more."""
        while self._waiting:
            able = [connection for connection in self._connections if connection.http.can_open]
            if not able:
                if not self._dialing and len(self._connections) < _MOST_CONNECTIONS:
                    self._dial()
                return
            min(able, key=lambda connection: len(connection.copies)).begin(self._waiting.popleft())

    @property
    def anyone_waits(self) -> bool:
        return bool(self._waiting)

    def connected(self, connection: GrpcConnection) -> None:
        if self._closing:
            connection.abort()
            return
        self._connections.append(connection)
        self.send_waiting()

    def lost(self, connection: GrpcConnection) -> None:
        """It takes no more requests."""
        if connection in self._connections:
            self._connections.remove(connection)
        if self._waiting:
            self.send_waiting()

    def gone(self) -> None:
        if self._closing and not self._connections:
            self._closed.set()

    def tick(self, now: float) -> None:
        for connection in list(self._connections):
            connection.tick(now)

    async def close(self) -> None:
        """No copy is under way."""
        self._closing = True
        for task in self._dialing:
            task.cancel()
        connections = list(self._connections)
        for connection in connections:
            connection.http.shutdown()
            connection.flush()
        for connection in connections:
            await connection.ended.wait()

    def _dial(self) -> None:
        task = self._dialer.dial(self._address, "h2", lambda: GrpcConnection(self._dialer, self), self._not_connected)
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)
        task.add_done_callback(lambda _: self.send_waiting())

    def _not_connected(self, why: str) -> None:
        if not self._connections:
            waiting, self._waiting = self._waiting, deque()
            for copy in waiting:
                copy.failed(Failure.UNREACHED, why)


class GrpcConnection(Carrier):
    """One connection; `copies` are those under way, by stream."""

    __slots__ = ("_pool", "copies", "ended", "http")

    def __init__(self, dialer: Dialer, pool: GrpcPool) -> None:
        super().__init__(dialer.common)
        self._pool = pool
        self.copies: dict[int, Copy] = {}
        self.ended = asyncio.Event()
        self.http = Http2Client(LIMITS, keepalive=_KEEPALIVE, keepalive_timeout=_KEEPALIVE_TIMEOUT)
        self.frame(self.http)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pool.connected(self)
        self.mark()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._pool.lost(self)
        self._pool.gone()
        self.ended.set()

    def begin(self, copy: Copy) -> None:
        request, http = copy.request, self.http
        pool, seconds = self._pool, copy.under_way.seconds_left()
        pieces = body_for(request, copy.servable)
        if copy.servable:
            block = head_for(request, pool.scheme, seconds, pool.credential)
        else:
            block = head_to_router(request, pool.door, seconds)
        if copy.fields:
            block += header_codec.encode(copy.fields)
        copy.carrier = self
        copy.stream_id = stream_id = http.open(block)
        self.copies[stream_id] = copy
        left = 0
        last = len(pieces) - 1
        for at, piece in enumerate(pieces):
            left += len(piece) - http.send_data(stream_id, piece, at == last and request.complete)
        if not request.complete:
            copy.unsent = left
            tail = name_fields(copy.servable) if copy.servable else b""
            copy.renaming = Renaming(tail, request.longest_message)
            request.carried()
        if not self.marked:
            self._writes.mark(self)

    def handle(self, events: list[Event]) -> None:
        copies = self.copies
        for event in events:
            if isinstance(event, DataReceived):
                stream_id, chunk, ended = event
                copy = copies.get(stream_id)
                if copy is not None:
                    self._on_data(copy, chunk, ended)
            elif isinstance(event, ResponseReceived):
                stream_id, head, ended = event
                copy = copies.get(stream_id)
                if copy is not None:
                    copy.head = head
                    if ended:
                        self._complete(copy, head.fields)
                    elif not copy.held_back:
                        copy.under_way.begins(copy, False)
            elif isinstance(event, TrailersReceived):
                copy = copies.get(event.stream_id)
                if copy is not None:
                    self._complete(copy, event.fields)
            else:
                self._on_other(event)
        if self._pool.anyone_waits:
            self._pool.send_waiting()

    def _on_data(self, copy: Copy, chunk: bytes, ended: bool) -> None:
        if copy.begun:
            gone = copy.request.more(chunk, False)
            self.http.consume(copy.stream_id, gone)
        else:
            self.http.consume(copy.stream_id, len(chunk))
            copy.keep(chunk, self.common.ledger)
            if copy.size > copy.held_back:
                copy.let_go(self.common.ledger)
                copy.under_way.begins(copy, False)
        if ended:
            self._complete(copy, ())

    def _complete(self, copy: Copy, fields: Fields) -> None:
        head = copy.head
        assert isinstance(head, ResponseHead)
        del self.copies[copy.stream_id]
        if copy.counted:
            copy.let_go(self.common.ledger)
        if self.http.open_streams > len(self.copies):
            # It was answered before all of it was sent: the rest is not wanted.
            self.http.reset(copy.stream_id, ErrorCode.NO_ERROR)
        ending = read_ending(fields, head.status)
        read = read_head(head)
        pushback = ending.pushback if read.pushback is None else read.pushback
        if ending.not_started or read.not_started:
            copy.failed(Failure.NOT_STARTED, parse_text(ending.message), pushback)
            return
        if ending.lost and not copy.begun:
            copy.failed(Failure.BROKEN, parse_text(ending.message), pushback)
            return
        answer = Answer(head, copy.chunks, copy.size)
        answer.status, answer.faulty, answer.pushback = ending.code, ending.faulty, pushback
        answer.ending, answer.trailers = ending, fields
        if not ending.code and not copy.begun and not copy.size:
            copy.failed(Failure.BROKEN, "the replica answered OK without a message")
            return
        copy.answered(answer)

    def _on_other(self, event: Event) -> None:
        if isinstance(event, DataSent):
            copy = self.copies.get(event.stream_id)
            if copy is not None and not copy.request.complete:
                copy.went(event.size)
        elif isinstance(event, StreamReset):
            copy = self.copies.pop(event.stream_id, None)
            if copy is not None:
                copy.let_go(self.common.ledger)
                copy.failed(Failure.UNREACHED if event.unprocessed else Failure.BROKEN, event.detail)
        elif isinstance(event, InformationalReceived):
            copy = self.copies.get(event.stream_id)
            if copy is not None and event.head.get(STARTED) is not None:
                copy.under_way.begins_to_run(copy)
        elif isinstance(event, GoingAway | ConnectionClosed):
            self._pool.lost(self)

    def push(self, copy: Copy, chunk: bytes, ended: bool) -> None:
        assert copy.renaming is not None
        renamed = copy.renaming.renamed(chunk)
        self.mark()
        copy.unsent += len(renamed) - self.http.send_data(copy.stream_id, renamed, ended)

    def consumed(self, copy: Copy, size: int) -> None:
        self.http.consume(copy.stream_id, size)
        self.mark()

    def withdraw(self, copy: Copy) -> None:
        if self.copies.pop(copy.stream_id, None) is not None:
            copy.let_go(self.common.ledger)
            self.http.reset(copy.stream_id, ErrorCode.CANCEL)
            self.mark()
            if self._pool.anyone_waits:
                self._pool.send_waiting()


def open_grpc(dialer: Dialer, beyond: Dialer | None = None) -> OpenUpstream:
    """Makes pools of connections that carry the dialer's credential; `beyond` dials the routers of other cells."""
    return lambda address: GrpcPool(dialer_for(address, dialer, beyond), address.grpc)
