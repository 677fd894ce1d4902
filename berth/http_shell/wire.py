"""Between one transport and one sans-IO connection, either role: read → receive → events → output, and back-pressure.

Nothing here is per request: no task, no future, no timer. Writes are joined per batch of events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from berth.http.errors import ErrorCode
from berth.http.events import Event
from berth.http.http1.client import Http1Client
from berth.http.http1.server import Http1Server
from berth.http.http2.client import Http2Client
from berth.http.http2.server import Http2Server

log = structlog.get_logger(__name__)

ServerConnection = Http1Server | Http2Server
ClientConnection = Http1Client | Http2Client
Connection = TypeVar("Connection", bound=ServerConnection | ClientConnection)

OnEvents = Callable[[list[Event]], None]
"""What a component does with the events of one connection. Called on the loop; must neither block nor raise."""

# Above this the transport counts as full: body then waits in the connection, where windows bound it.
WRITE_HIGH_WATER = 256 * 1024
# Heads, trailers and acknowledgements go out even then. A peer that goes on asking and never reads is no longer read
# from once so many bytes wait for it.
MOST_UNSENT = 1024 * 1024


class Wire(asyncio.Protocol, Generic[Connection]):
    """A transport and its connection; the latter is there from `begin` on."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.connection: Connection
        self.lost = False
        self._on_events: OnEvents
        self._begun = False
        # While events are handled nothing is written: the end of the batch does that.
        self._handling = False
        self._flush_due = False
        self._full = False
        self._reading = True
        # Whether there were events since whoever looks at it set it to false.
        self._progress = True

    # ── For the component ──────────────────────────────────────────────────────────────────────────────────────

    def begin(self, connection: Connection, on_events: OnEvents) -> None:
        """Speak on the transport from now on."""
        self.connection = connection
        self._on_events = on_events
        self._begun = True

    def flush(self) -> None:
        """Write what was sent. While events are being handled this does nothing: the end of the batch will."""
        self._flush_due = False
        if self._handling or self.lost:
            return
        if self.connection.backlog and not self.connection.open_streams:
            # An HTTP/1.1 exchange ended outside a read, and the next request is here already.
            self._handle(self.connection.receive(b""))
        self._write()

    def flush_soon(self) -> None:
        """Write at the end of this turn of the loop, joined with what else is sent until then."""
        if not self._flush_due and not self._handling:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    # ── From the transport ─────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        self._handle(self.connection.receive(data))
        self._write()

    def eof_received(self) -> None:
        """The peer has stopped sending. The transport closes itself when everything is written."""
        if self._begun:
            self._handle(self.connection.eof())
            self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._begun:
            self._handle(self.connection.eof())

    def pause_writing(self) -> None:
        self._full = True
        if self._begun:
            self.connection.pause()

    def resume_writing(self) -> None:
        self._full = False
        if self._begun:
            self._handle(self.connection.resume())
            self.flush()

    # ── Inside ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _handle(self, events: list[Event]) -> None:
        if not events:
            return
        self._progress = True
        outer, self._handling = self._handling, True
        try:
            while events:
                self._on_events(events)
                # Requests that an HTTP/1.1 client sent ahead wait in the backlog until the one before is answered.
                events = self.connection.receive(b"") if self.connection.backlog else []
        except Exception:
            # The boundary of a connection: a bug of ours that one peer met must not become another's trouble.
            log.exception("the handler of a connection failed", connection=repr(self.connection))
            self._give_up()
        finally:
            self._handling = outer

    def _give_up(self) -> None:
        """End a connection of which nobody knows any more how far it is; tell the component what that takes away."""
        asyncio.get_running_loop().call_soon(self.transport.abort)
        try:
            self._on_events(self.connection.close(ErrorCode.INTERNAL_ERROR, "internal error"))
        except Exception:
            log.exception("the handler of a connection failed again", connection=repr(self.connection))

    def _write(self) -> None:
        if self._handling or self.lost:
            return
        connection = self.connection
        data = connection.output()
        if data:
            self.transport.write(data)
        if connection.finished:
            self._finish()
            return
        wanted = connection.wants_data
        if self._full and self.transport.get_write_buffer_size() > MOST_UNSENT:
            wanted = False
        if wanted is not self._reading:
            self._reading = wanted
            (self.transport.resume_reading if wanted else self.transport.pause_reading)()

    def _finish(self) -> None:
        """Nothing is left to be said on this connection."""
        self.transport.close()
