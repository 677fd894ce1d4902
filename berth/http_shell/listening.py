"""A listening port: accepts connections up to a number, looks at each once a second, and ends them in order.

Shutdown without loss (`Listener.drain`): no new connections; HTTP/2 clients are told by GOAWAY; HTTP/1.1 clients by
`Connection: close` in their next answer, for which idle connections stay open a moment; then what is left is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog

from berth.http.http1.grammar import RequestFraming
from berth.http.http1.server import Http1Server
from berth.http.http2.server import Http2Server
from berth.http.limits import Http1Limits, Http2Limits
from berth.http.memo import Memo
from berth.http_shell.server import Accept, ServerLink
from berth.settings import SettingsError

log = structlog.get_logger(__name__)

_TICK_S = 1.0
ALPN = ("h2", "http/1.1")


@dataclass(frozen=True, slots=True)
class ShellLimits:
    """Of one port. Times are in seconds and are looked at once a second.

    `connections`: more are closed as they come. `head_timeout_s`: from the first byte of a request (or of the
    connection) to the end of its head. `idle_timeout_s`: without any request. `keepalive_s`: silence after which an
    HTTP/2 client is asked whether it is still there. `linger_s`: how long a connection that was ended is read on.
    """

    connections: int = 10_000
    backlog: int = 1024
    head_timeout_s: float = 10.0
    idle_timeout_s: float = 120.0
    keepalive_s: float = 30.0
    linger_s: float = 2.0
    tls_handshake_s: float = 10.0


class Listener:
    """What `listen` yields. `refused` and `timed_out` count connections, for metrics."""

    def __init__(
        self, accept: Accept, limits: ShellLimits, http1: Http1Limits, http2: Http2Limits, scheme: bytes
    ) -> None:
        self.accept = accept
        self.limits = limits
        self.port = 0
        self.refused = 0
        self.timed_out = 0
        self._http1 = http1
        self._http2 = http2
        self._scheme = scheme
        self._memo: Memo[RequestFraming] = Memo(http1.memo)
        self._links: set[ServerLink] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._drained = False

    def __repr__(self) -> str:
        return f"<Listener {self.port} connections={len(self._links)}{' drained' if self._drained else ''}>"

    @property
    def connections(self) -> int:
        return len(self._links)

    @property
    def open_streams(self) -> int:
        """Requests under way on all connections."""
        return sum(link.connection.open_streams for link in self._links if not link.idle)

    async def drain(self, grace_s: float, idle_s: float = 0.0) -> None:
        """Take no more connections and finish what is under way, for at most `grace_s` seconds; then close the rest.

        Idle HTTP/1.1 connections are closed after `idle_s`: a client that has just sent a request on one gets its
        answer, and is told to send no other.
        """
        if self._drained:
            return
        self._drained = True
        if self._server is not None:
            self._server.close()
        for link in tuple(self._links):
            link.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(idle_s):
                        await self._empty.wait()
                for link in tuple(self._links):
                    link.close_idle()
                await self._empty.wait()
        if self._links:
            log.warning("connections are cut off", port=self.port, connections=len(self._links))
        await self._cut_off()

    async def _cut_off(self) -> None:
        for link in tuple(self._links):
            link.close()
            link.transport.abort()
        await self._empty.wait()
        if self._ticking is not None:
            self._ticking.cancel()

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None, *, reuse_port: bool) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ServerLink(self),
            host,
            port,
            ssl=tls,
            backlog=self.limits.backlog,
            reuse_port=reuse_port or None,
            ssl_handshake_timeout=None if tls is None else self.limits.tls_handshake_s,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._ticking = loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticking = loop.call_later(_TICK_S, self._tick)
        now = loop.time()
        for link in tuple(self._links):
            link.tick(now)

    # For `ServerLink`.

    def admit(self, link: ServerLink) -> bool:
        """Whether there is room for one more. It is to be forgotten in either case."""
        self._links.add(link)
        self._empty.clear()
        if len(self._links) <= self.limits.connections and not self._drained:
            return True
        self.refused += 1
        return False

    def forget(self, link: ServerLink) -> None:
        self._links.discard(link)
        if not self._links:
            self._empty.set()

    def http1(self) -> Http1Server:
        return Http1Server(self._http1, scheme=self._scheme, memo=self._memo)

    def http2(self) -> Http2Server:
        return Http2Server(self._http2, keepalive=self.limits.keepalive_s)


@contextlib.asynccontextmanager
async def listen(
    address: str,
    accept: Accept,
    *,
    tls: ssl.SSLContext | None = None,
    limits: ShellLimits | None = None,
    http1: Http1Limits | None = None,
    http2: Http2Limits | None = None,
    reuse_port: bool = False,
) -> AsyncIterator[Listener]:
    """Listen on `host:port` for HTTP/1.1 and HTTP/2, told apart by their first bytes, while the context is open.

    Leaving it cuts off what `Listener.drain` has not ended. `tls` gets the ALPN names of both. `reuse_port` lets
    several processes share the port. Raises `SettingsError` if the address cannot be had.
    """
    host, _, port = address.rpartition(":")
    if tls is not None:
        tls.set_alpn_protocols(list(ALPN))
    listener = Listener(
        accept, limits or ShellLimits(), http1 or Http1Limits(), http2 or Http2Limits(), b"https" if tls else b"http"
    )
    try:
        await listener.start(host.strip("[]"), int(port), tls, reuse_port=reuse_port)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot listen on {address}: {error}") from None
    try:
        yield listener
    finally:
        await listener.drain(0.0)
