"""What all client connections of a process share: who answers, within which limits, and who is connected."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from berth.http.http1.grammar import RequestFraming
from berth.http.limits import Http1Limits, Http2Limits
from berth.http.memo import Memo
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

_TURNS: Final = 16


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
        self.draining = False
        self.late: Wheel[Inbound] = Wheel(common.loop, 0.01, lambda inbound: inbound.body_late())
        self.http1_limits = Http1Limits(body=limits.max_body_bytes, memo=64 * 1024)
        # One connection may be used by many at the client's end: a stream that is not read must not stop the others.
        # What comes is taken at once and counted in the ledger: the windows need not be tight.
        self.http2_limits = Http2Limits(
            stream_window=1024 * 1024, connection_window=16 * 1024 * 1024, max_frame=128 * 1024
        )
        self.http1_memos: dict[bool, Memo[RequestFraming]] = {
            is_tls: Memo(self.http1_limits.memo) for is_tls in (False, True)
        }
        prefix = "/inference.GRPCInferenceService/"
        self.local_grpc: dict[bytes, Callable[[], bytes]] = {
            f"{prefix}ServerLive".encode(): lambda: metadata.yes_message(True),
            f"{prefix}ServerReady".encode(): lambda: metadata.yes_message(self.ready),
            f"{prefix}ServerMetadata".encode(): lambda: metadata.server_metadata_message().SerializeToString(),
        }
        assert self.local_grpc.keys() == LOCAL.keys()
        self._connections: set[ClientConnection] = set()
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
        # Ids are to be told apart, not to be secret: random once, counted after.
        self._id_prefix = os.urandom(8).hex().encode()
        self._ids = itertools.count(int.from_bytes(os.urandom(4), "big"))
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        return self.forwarder.board.ready and not self.draining

    def new_request_id(self) -> bytes:
        return b"%b%016x" % (self._id_prefix, next(self._ids))

    def connected(self, connection: ClientConnection) -> bool:
        """False if it is one too many."""
        if len(self._connections) >= self.limits.max_connections:
            self._refused.inc()
            return False
        self._connections.add(connection)
        return True

    def disconnected(self, connection: ClientConnection) -> None:
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
            self.forwarder.upstreams.tick(now)

    async def drain(self, seconds: float) -> None:
        """Finish what is under way, for at most so long; then close every connection."""
        self.draining = True
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
