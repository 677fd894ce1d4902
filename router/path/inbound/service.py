"""What all client connections of a process share: who answers, within which limits, and who is connected."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from berth.http.limits import Http1Limits, Http2Limits
from berth.http_shell.links import Links, ShellLimits
from berth.http_shell.server import ServerLink
from berth.oip import metadata
from router.connection.dialer import Dialer
from router.path.inbound.client import ClientConnection
from router.path.inbound.grpc import LOCAL
from router.path.inbound.inbound import Inbound
from router.path.race.forward import Forwarder
from router.path.watchers.record import Recorder
from router.path.wheel import Wheel
from router.settings import RouterSettings
from router.tfserving.answering import TfServing

# One connection may be used by many at the client's end: a stream that is not read must not stop the others. What comes
# is taken at once and counted in the ledger: the windows need not be tight.
_HTTP2: Final = Http2Limits(stream_window=1024 * 1024, connection_window=16 * 1024 * 1024, max_frame=128 * 1024)
_HTTP1_MEMO: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and seconds; `router.settings` says why."""

    max_body_bytes: int
    body_timeout_s: float
    default_timeout_s: float
    max_timeout_s: float
    max_connections: int
    head_timeout_s: float
    idle_timeout_s: float
    keepalive_s: float

    @classmethod
    def of(cls, settings: RouterSettings) -> Limits:
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})


class Service:
    """`tasks` owns the few requests that need a task, those that are translated; it is set before the first."""

    def __init__(
        self,
        dialer: Dialer,
        forwarder: Forwarder,
        tfserving: TfServing,
        recorder: Recorder,
        limits: Limits,
        registry: CollectorRegistry,
    ) -> None:
        self.common = common = dialer.common
        self.forwarder = forwarder
        self.tfserving = tfserving
        self.recorder = recorder
        self.limits = limits
        self.scheme = dialer.scheme
        self.tasks: asyncio.TaskGroup
        self.late: Wheel[Inbound] = Wheel(common.loop, 0.01, lambda inbound: inbound.body_late())
        refused = Counter(
            "berth_router_connections_refused", "Connections closed at once: one too many.", registry=registry
        )
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
        prefix = metadata.GRPC_METHODS
        self.local_grpc: dict[bytes, Callable[[], bytes]] = {
            prefix + b"ServerLive": lambda: metadata.yes_message(True),
            prefix + b"ServerReady": lambda: metadata.yes_message(self.ready),
            prefix + b"ServerMetadata": lambda: metadata.server_metadata_message().SerializeToString(),
        }
        assert self.local_grpc.keys() == LOCAL.keys()
        Gauge("berth_router_connections", "Clients connected.", registry=registry).set_function(lambda: len(links))
        Gauge("berth_router_buffered_bytes", "Bytes of bodies kept in memory.", registry=registry).set_function(
            lambda: common.ledger.held
        )
        # Ids are to be told apart, not to be secret: random once, counted after.
        self._id_prefix = os.urandom(8).hex().encode()
        self._ids = itertools.count(int.from_bytes(os.urandom(4), "big"))
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        return self.forwarder.board.ready and not self.links.draining

    def new_request_id(self) -> bytes:
        return b"%b%016x" % (self._id_prefix, next(self._ids))

    def accept(self, link: ServerLink) -> ClientConnection:
        """A client has connected, and it is known which protocol it speaks."""
        return ClientConnection(self, link)

    def start(self) -> None:
        """Begin to watch over connections, of clients and to replicas."""
        self.links.start()
        self._timer = self.common.loop.call_later(1.0, self._tick)

    def _tick(self) -> None:
        self._timer = self.common.loop.call_later(1.0, self._tick)
        self.forwarder.upstreams.tick(self.common.loop.time())

    async def drain(self, seconds: float) -> None:
        """Finish what is under way, for at most so long."""
        await self.links.drain(seconds, min(1.0, seconds / 10))

    def close(self) -> None:
        """Close every connection."""
        if self._timer is not None:
            self._timer.cancel()
        self.links.close()
        self.late.close()
