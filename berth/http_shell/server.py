"""One connection that a server has accepted: which protocol it speaks, what it may take, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from berth.http.errors import ErrorCode
from berth.http.http2.frames import speaks_http2
from berth.http.http2.server import Http2Server
from berth.http_shell.wire import OnEvents, ServerConnection, Wire

if TYPE_CHECKING:
    from berth.http_shell.listening import Listener

Accept = Callable[["ServerLink"], OnEvents]
"""Called once the protocol of a connection is known: `link.connection` is there, its first events come next."""


class ServerLink(Wire[ServerConnection]):
    """`peer` is the client's host as the transport names it; empty where it has none."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener
        self._first = b""
        self._draining = False
        # Since when nothing has happened, as `tick` saw it; and until when a finished connection is read on.
        self._quiet_since: float | None = None
        self._linger_until: float | None = None

    def __repr__(self) -> str:
        what = repr(self.connection) if self._begun else "says nothing yet"
        return f"<ServerLink {self.peer} {what}{' draining' if self._draining else ''}>"

    @property
    def http2(self) -> bool:
        return isinstance(self.connection, Http2Server)

    @property
    def peer(self) -> str:
        name = self.transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def idle(self) -> bool:
        """Whether it is not in the middle of a request."""
        return not self._begun or (not self.connection.open_streams and not self.connection.backlog)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._listener.admit(self):
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._listener.forget(self)

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._first += data
            chosen = speaks_http2(self._first)
            if chosen is None:
                return
            data, self._first = self._first, b""
            connection = self._listener.http2() if chosen else self._listener.http1()
            self.connection = connection
            self.begin(connection, self._listener.accept(self))
            if self._draining:
                self.connection.shutdown()
        connection = self.connection
        events = connection.receive(data)
        if self._draining and events:
            # The answer to this HTTP/1.1 request will say that it is the last. (HTTP/2 was told at once.)
            connection.shutdown()
        self._handle(events)
        self._write()

    def drain(self) -> None:
        """Finish what is under way. An idle HTTP/1.1 connection stays, until `close_idle`, for one more request: one
        that is on its way already would be lost if the connection were closed now."""
        self._draining = True
        if not self._begun:
            if not self._first:
                self.transport.abort()
        elif self.http2 or not self.idle:
            self.connection.shutdown()
            self._write()

    def close_idle(self) -> None:
        """Close it unless a request is under way."""
        if not self._begun:
            self.transport.abort()
        elif self.idle:
            self.connection.shutdown()
            self._write()

    def tick(self, now: float) -> None:
        """About once a second. `now` is the loop's time."""
        limits = self._listener.limits
        if self._linger_until is not None:
            if now >= self._linger_until:
                self.transport.abort()
            return
        if self._begun:
            self._handle(self.connection.tick(now))
        busy = self._begun and self.connection.open_streams > 0
        if self._progress or busy or self._quiet_since is None:
            self._progress = False
            self._quiet_since = now
        else:
            quiet = now - self._quiet_since
            if not self._begun or self.connection.backlog:
                if quiet >= limits.head_timeout_s:
                    self._listener.timed_out += 1
                    self.transport.abort()
                    return
            elif quiet >= limits.idle_timeout_s + limits.linger_s:
                self.transport.abort()  # it was asked to end and says nothing
                return
            elif quiet >= limits.idle_timeout_s:
                self.connection.shutdown()
        if self._begun:
            self._write()

    def close(self, code: int = ErrorCode.NO_ERROR, detail: str = "") -> None:
        """End the connection at once; streams still open are reported as reset."""
        if self._begun:
            self._handle(self.connection.close(code, detail))
            self._write()
        else:
            self.transport.abort()

    def _finish(self) -> None:
        """Close, in an order that does not cost the client its last answer: one that is still sending would lose it to
        a TCP reset if the socket were closed with bytes unread. TLS does the like by itself."""
        if self._linger_until is not None:
            return
        self._linger_until = asyncio.get_running_loop().time() + self._listener.limits.linger_s
        if self.transport.can_write_eof():
            self.transport.write_eof()
            if not self._reading:
                self._reading = True
                self.transport.resume_reading()
        else:
            self.transport.close()

    def _write(self) -> None:
        if self._linger_until is None:
            super()._write()
