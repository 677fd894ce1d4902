"""The shell around one framed connection: moves bytes between a transport and `berth.http`, in both roles alike."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from typing import Final, cast

import structlog

from berth.http.errors import ErrorCode
from berth.http.events import Event
from berth.http.http1.client import Http1Client
from berth.http.http1.server import Http1Server
from berth.http.http2.client import Http2Client
from berth.http.http2.server import Http2Server
from berth.http_shell.writes import Writes

log = structlog.get_logger(__name__)

# Read at once: enough for many small messages, and for a large one in few pieces.
_READ: Final = 128 * 1024
# Bytes that the transport takes before the connection is told to wait.
_WRITE_AHEAD: Final = 256 * 1024

# CPython 3.12.0 to .8, 3.13.0 and .1 do not tell who writes lines that too much of it waits (CVE-2024-12254).
_PYTHON: Final = tuple(sys.version_info[:3])
_IN_LINES: Final = not ((3, 12) <= _PYTHON < (3, 12, 9) or (3, 13) <= _PYTHON < (3, 13, 2))

AnyHttp = Http1Server | Http2Server | Http1Client | Http2Client


class Shared:
    """What all links of one event loop share. `buffer` is where each reads into, one after the other: reading into a
    fresh one costs a system call to map it and another to give it back."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.writes = Writes(loop)
        self.buffer = memoryview(bytearray(_READ))


class Link(ABC):
    """The framing is `frame`d by the subclass, at the latest when the first bytes have come.

    Whoever sends on it `mark`s it, unless the events of this very link are being handled: it is written to when the
    batch is done. `paused`: the transport is full. `closing`: nothing more is to be said.

    Not itself a protocol of asyncio's, so that it can be compiled: `attached` makes it one.
    """

    __slots__ = ("_buffer", "_framing", "_loop", "_reading", "_writes", "closing", "marked", "paused", "transport")

    def __init__(self, shared: Shared) -> None:
        self._loop = shared.loop
        self._buffer = shared.buffer
        self._writes = shared.writes
        self.transport: asyncio.Transport
        self._framing: AnyHttp | None = None
        self.marked = False
        self.paused = False
        self.closing = False
        self._reading = True

    def frame(self, http: AnyHttp) -> None:
        """What comes and goes from now on is framed by `http`."""
        self._framing = http
        if self.paused:
            http.pause()

    # ── From the transport ─────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are none of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_WRITE_AHEAD)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received(bytes(self._buffer[:nbytes]))
        if not self.marked:
            self._writes.mark(self)

    def received(self, data: bytes) -> None:
        """Bytes have come."""
        http = self._framing
        assert http is not None
        self.attend(http.receive(data))

    def pause_writing(self) -> None:
        self.paused = True
        if self._framing is not None:
            self._framing.pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self._framing is not None:
            self.attend(self._framing.resume())
            self.mark()

    def eof_received(self) -> bool:
        if self._framing is not None:
            self.attend(self._framing.eof())
            self.flush()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        if self._framing is not None:
            self.attend(self._framing.eof())

    # ── Events ─────────────────────────────────────────────────────────────────────────────────────────────────

    def attend(self, events: list[Event]) -> None:
        """Have events handled. This is the boundary of a connection: a bug of ours that one peer met must not become
        another's trouble."""
        try:
            self.handle(events)
        except Exception:
            log.exception("the handler of a connection failed", connection=repr(self))
            self._give_up()

    @abstractmethod
    def handle(self, events: list[Event]) -> None:
        """Act on the events; an empty list still says that bytes have come. Must neither block nor raise."""

    def _give_up(self) -> None:
        """End a connection whose state nobody knows any more; tell the handler which streams that ends."""
        self._loop.call_soon(self.transport.abort)
        assert self._framing is not None
        try:
            self.handle(self._framing.close(ErrorCode.INTERNAL_ERROR, "internal error"))
        except Exception:
            log.exception("the handler of a connection failed again", connection=repr(self))

    # ── To the transport ───────────────────────────────────────────────────────────────────────────────────────

    def mark(self) -> None:
        """There is something to be written, or a state to be looked at."""
        if not self.marked:
            self._writes.mark(self)

    def flush(self) -> None:
        """Write what there is; read on or not; close when all is done."""
        http, transport = self._framing, self.transport
        if http is None or transport.is_closing():
            return
        data = http.gather()
        if data:
            if isinstance(data, bytes):
                transport.write(data)
            elif _IN_LINES:
                transport.writelines(data)
            else:
                transport.write(b"".join(data))
        if http.finished:
            self.finish()
        elif (http.wants_data and not self.overfull()) is not self._reading:
            self._reading = not self._reading
            if self._reading:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def overfull(self) -> bool:
        """Whether so much waits for the peer that it is not to ask for more."""
        return False

    # ── The end ────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self) -> None:
        """All is said and done."""
        if not self.closing:
            self.closing = True
            self.transport.close()

    def abort(self) -> None:
        """End it at once."""
        self.closing = True
        if self._framing is not None:
            self.attend(self._framing.close())
            data = self._framing.output()
            if data and not self.transport.is_closing():
                self.transport.write(data)
        self.transport.abort()

    def tick(self, now: float) -> None:
        """About once a second. `now` is the loop's time."""
        if self._framing is not None:
            self.attend(self._framing.tick(now))
            self.mark()
