"""All client connections of a process: how many there may be, who looks after them, and how they are drained."""

from __future__ import annotations

import asyncio
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from berth.http.http1.grammar import RequestFraming
from berth.http.limits import Http1Limits, Http2Limits
from berth.http.memo import Memo
from router.connection.connection import Common
from router.path.inbound.inbound import Client, Inbound
from router.path.inbound.terms import Terms
from router.path.wheel import Wheel

_TURNS: Final = 16


class Clients:
    """One per process. What they share beside `terms`: limits and memos of framing, and the wheel for `late` bodies."""

    def __init__(self, common: Common, terms: Terms, registry: CollectorRegistry) -> None:
        self.common = common
        self.terms = terms
        self.late: Wheel[Inbound] = Wheel(common.loop, 0.01, lambda inbound: inbound.body_late())
        self.http1_limits = Http1Limits(body=terms.limits.max_body_bytes, memo=64 * 1024)
        # One connection may be used by many at the client's end: a stream that is not read must not stop the others.
        # What comes is taken at once and counted in the ledger: the windows need not be tight.
        self.http2_limits = Http2Limits(
            stream_window=1024 * 1024, connection_window=16 * 1024 * 1024, max_frame=128 * 1024
        )
        self.http1_memos: dict[bool, Memo[RequestFraming]] = {
            is_tls: Memo(self.http1_limits.memo) for is_tls in (False, True)
        }
        self._connections: set[Client] = set()
        Gauge("berth_router_connections", "Clients connected.", registry=registry).set_function(
            lambda: len(self._connections)
        )
        Gauge("berth_router_buffered_bytes", "Bytes of bodies kept in memory.", registry=registry).set_function(
            lambda: common.ledger.held
        )
        self._refused = Counter(
            "berth_router_connections_refused", "Connections closed at once: one too many.", registry=registry
        )
        self._empty = asyncio.Event()
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None

    def connected(self, connection: Client) -> bool:
        """False if it is one too many."""
        if len(self._connections) >= self.terms.limits.max_connections:
            self._refused.inc()
            return False
        self._connections.add(connection)
        return True

    def disconnected(self, connection: Client) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def start(self) -> None:
        """Begin to watch over connections."""
        self._timer = self.common.loop.call_later(1.0 / _TURNS, self._tick)

    def _tick(self) -> None:
        """A part of the connections each time: all at once would hold up the requests of that moment."""
        self._timer = self.common.loop.call_later(1.0 / _TURNS, self._tick)
        self._turn = (self._turn + 1) % _TURNS
        now = self.common.loop.time()
        for connection in [one for one in self._connections if (id(one) >> 6) % _TURNS == self._turn]:
            connection.tick(now)
        if self._turn == 0:
            self.terms.forwarder.means.upstreams.tick(now)

    async def drain(self, seconds: float) -> None:
        """Finish what is under way, for at most so long; then close every connection."""
        self.terms.draining = True
        for connection in list(self._connections):
            connection.drain()
        idle_at = min(1.0, seconds / 10)
        await self._until_empty(idle_at)
        for connection in list(self._connections):
            connection.close_if_idle()
        await self._until_empty(seconds - idle_at)

    async def _until_empty(self, seconds: float) -> None:
        if self._connections:
            self._empty.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError:
                pass

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            connection.abort()
        self.late.close()
