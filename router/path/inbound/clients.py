"""All clients of a process: how many may connect, who looks after them, and how they are drained."""

from __future__ import annotations

import asyncio
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from berth.http.limits import Http1Limits, Http2Limits
from berth.http_shell.links import Links, ShellLimits
from berth.http_shell.server import ServerLink
from router.connection.common import Common
from router.path.inbound.client import ClientConnection
from router.path.inbound.inbound import Inbound
from router.path.inbound.terms import ClientTerms
from router.path.wheel import Wheel

# One connection may be used by many at the client's end: a stream that is not read must not stop the others. What comes
# is taken at once and counted in the ledger: the windows need not be tight.
_HTTP2: Final = Http2Limits(stream_window=1024 * 1024, connection_window=16 * 1024 * 1024, max_frame=128 * 1024)
_HTTP1_MEMO: Final = 64 * 1024


class Clients:
    """One per process. `late` is the wheel for bodies that do not come in their time."""

    def __init__(self, common: Common, terms: ClientTerms, registry: CollectorRegistry) -> None:
        self.common = common
        self.terms = terms
        self.late: Wheel[Inbound] = Wheel(common.loop, 0.01, lambda inbound: inbound.body_late())
        refused = Counter(
            "berth_router_connections_refused", "Connections closed at once: one too many.", registry=registry
        )
        limits = terms.limits
        self.links = links = Links(
            common,
            ShellLimits(
                connections=limits.max_connections,
                head_timeout_s=limits.head_timeout_s,
                idle_timeout_s=limits.idle_timeout_s,
                stuck_timeout_s=limits.body_timeout_s,
                keepalive_s=limits.keepalive_s,
            ),
            Http1Limits(body=limits.max_body_bytes, memo=_HTTP1_MEMO),
            _HTTP2,
            refused.inc,
        )
        Gauge("berth_router_connections", "Clients connected.", registry=registry).set_function(lambda: len(links))
        Gauge("berth_router_buffered_bytes", "Bytes of bodies kept in memory.", registry=registry).set_function(
            lambda: common.ledger.held
        )
        self._timer: asyncio.TimerHandle | None = None

    def accept(self, link: ServerLink) -> ClientConnection:
        """A client has connected, and its protocol is known."""
        return ClientConnection(self.common, self.terms, self.late, link)

    def start(self) -> None:
        """Begin to watch over connections, of clients and to replicas."""
        self.links.start()
        self._timer = self.common.loop.call_later(1.0, self._tick)

    def _tick(self) -> None:
        self._timer = self.common.loop.call_later(1.0, self._tick)
        self.terms.forwarder.means.upstreams.tick(self.common.loop.time())

    async def drain(self, seconds: float) -> None:
        """Finish what is under way, for at most so long."""
        self.terms.draining = True
        await self.links.drain(seconds, min(1.0, seconds / 10))

    def close(self) -> None:
        """Close every connection."""
        if self._timer is not None:
            self._timer.cancel()
        self.links.close()
        self.late.close()
