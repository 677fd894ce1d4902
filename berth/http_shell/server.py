"""One connection that a server has accepted: its protocol, its limits and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from berth.http.errors import ErrorCode
from berth.http.events import Event
from berth.http.http1.server import Http1Server
from berth.http.http2.frames import speaks_http2
from berth.http.http2.server import Http2Server
from berth.http_shell.links import EndableLink, Links

# Heads, trailers and acknowledgements go to the transport even when it is full. A peer that goes on asking and never
# reads is no longer read from once so many bytes wait for it.
MOST_UNSENT: Final = 1024 * 1024

ServerHttp = Http1Server | Http2Server


class Answerer(Protocol):
    """What a component does with one connection. Called on the loop; must neither block nor raise."""

    def on_events(self, events: list[Event]) -> None:
        """What a batch of bytes brought; answers go through `link.http`."""

    def on_lost(self) -> None:
        """The last call of all: nothing will come or go any more."""


Accept = Callable[["ServerLink"], Answerer]
"""Called once the protocol of a connection is known: `link.http` is there, its first events come next."""


class ServerLink(EndableLink):
    """`owed`: bytes of answers that wait in the connection, as far as the answerer wants them counted. If some wait and
    none goes for `stuck_timeout_s`, the connection is cut, as if the transport were full. `progress` says that some
    went."""

    __slots__ = (
        "_accept", "_answerer", "_begun", "_first", "_limits", "_lingers", "_links", "_newest", "_quiet", "_reset_next",
        "_reset_soon", "_stuck", "http", "is_http2", "owed", "progress",
    )  # fmt: skip

    def __init__(self, links: Links, accept: Accept) -> None:
        super().__init__(links.shared)
        self._links = links
        self._limits = links.limits
        self._accept: Accept | None = accept
        self._answerer: Answerer | None = None
        self.http: ServerHttp
        self.is_http2 = False
        self.owed = 0
        self.progress = True
        self._begun = False
        self._first = b""
        # Streams that were answered before their requests had come: since this tick, and since the one before.
        self._reset_soon: list[int] = []
        self._reset_next: list[int] = []
        # The newest request at the last tick. Seconds without a request, seconds in which waiting bytes did not move,
        # seconds of farewell.
        self._newest = 0
        self._quiet = self._stuck = 0
        self._lingers = 0.0

    def __repr__(self) -> str:
        what = repr(self.http) if self._begun else "says nothing yet"
        return f"<ServerLink {what} owed={self.owed}{' closing' if self.closing else ''}>"

    # ── From the transport ─────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._links.admit(self):
            self.closing = True
            self.transport.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._choose(http2=True)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._links.forget(self)
        answerer = self._answerer
        # It knows us: not to be a circle is not to wait for the collector.
        self._answerer = self._accept = None
        if answerer is not None:
            answerer.on_lost()

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
        events = self.http.receive(data)
        if events and self._links.draining:
            # The answer to this HTTP/1.1 request will say that it is the last. (HTTP/2 was told at once.)
            self.http.shutdown()
        self.attend(events)

    def resume_writing(self) -> None:
        self.progress = True
        super().resume_writing()

    def _choose(self, *, http2: bool) -> None:
        self.is_http2 = http2
        if http2:
            self.http = self._links.http2()
        else:
            self.http = self._links.http1(is_tls=self.transport.get_extra_info("ssl_object") is not None)
        self._begun = True
        self.frame(self.http)
        if http2 and self._links.draining:
            self.http.shutdown()
        accept, self._accept = self._accept, None
        assert accept is not None
        self._answerer = accept(self)

    # ── Events, and what is sent ───────────────────────────────────────────────────────────────────────────────

    def handle(self, events: list[Event]) -> None:
        if events and self._answerer is not None:
            self._answerer.on_events(events)

    def flush(self) -> None:
        if self.closing:
            return
        super().flush()
        # Requests that an HTTP/1.1 client sent ahead are looked at one by one.
        if self._begun and not self.closing and self.http.backlog and not self.http.open_streams:
            events = self.http.receive(b"")
            if events:
                self.attend(events)
                self.mark()

    def overfull(self) -> bool:
        return self.paused and self.transport.get_write_buffer_size() > MOST_UNSENT

    def reset_soon(self, stream_id: int) -> None:
        """A request was answered before all of it came: its client need not send the rest.

        It gets a second to notice that by itself: to some clients, a reset that comes with the answer is a failure.
        HTTP/1.1 skips the rest, or ends with it.
        """
        if self.is_http2:
            self._reset_soon.append(stream_id)

    # ── Time ───────────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self, now: float) -> None:
        if self.closing:
            self._lingers -= 1.0
            if self._lingers <= 0.0:
                self.transport.abort()
            return
        limits = self._limits
        half, used = not self._begun, False
        if self._begun:
            http = self.http
            used = http.open_streams > 0 or http.newest != self._newest
            self._newest = http.newest
            half = not self.is_http2 and not http.open_streams and http.backlog > 0
        self._quiet = 0 if used or self.paused else self._quiet + 1
        waits = self.paused or self.owed > 0
        self._stuck = self._stuck + 1 if waits and not self.progress else 0
        self.progress = False
        if half and self._quiet > limits.head_timeout_s:
            self._links.timed_out += 1
            self.abort()
        elif self._stuck > limits.stuck_timeout_s or self._quiet > limits.idle_timeout_s + limits.linger_s:
            # It takes nothing of what waits for it; or it was asked to end, and says nothing.
            self.abort()
        elif self._begun:
            for stream_id in self._reset_next:
                self.http.reset(stream_id, ErrorCode.NO_ERROR)
            self._reset_next, self._reset_soon = self._reset_soon, []
            if self._quiet > limits.idle_timeout_s:
                self.http.shutdown()
            super().tick(now)

    # ── The end ────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self) -> None:
        """Close in an order that keeps the client's last answer. If the socket were closed with bytes unread, a client
        that is still sending would lose the answer to a TCP reset. TLS does the like by itself."""
        if self.closing:
            return
        if self._begun and self.http.unread and self.transport.can_write_eof():
            self.closing = True
            self._lingers = self._limits.linger_s
            self.transport.resume_reading()
            self.transport.write_eof()
        else:
            super().finish()

    def drain(self) -> None:
        """An idle HTTP/1.1 connection stays, until `close_if_idle`, for one more request: one that is on its way
        already would be lost if the connection were closed now."""
        if not self._begun:
            if not self._first:
                self.finish()
        elif self.is_http2 or self.http.open_streams:
            self.http.shutdown()
            self.mark()

    def close_if_idle(self) -> None:
        if not self._begun or (not self.is_http2 and not self.http.open_streams and not self._anything_waits()):
            self.finish()

    def _anything_waits(self) -> bool:
        """To be looked at, or for the client."""
        return self.http.backlog > 0 or self.owed > 0 or self.paused
