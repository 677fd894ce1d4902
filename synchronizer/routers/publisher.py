"""The route feed: every connected router has the newest table a moment after it exists.

Each router pulls from one bounded history at its own pace and is sent a snapshot when its place is no longer in it.
While this synchronizer does not lead it accepts routers, listens, and says nothing; when it is deposed it closes their
streams, so that they look for the new leader.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Protocol

import structlog

from berth.errors import Unavailable
from berth.ids import VersionKey
from berth.model import NEVER, Order, RouteDelta, RouteTable
from berth.race import first_of
from berth.route_delta import snapshot
from berth.wake import Wake
from synchronizer.core.delta_history import DeltaHistory
from synchronizer.core.events import CellEvent, RouterGone, RouterSeen
from synchronizer.metrics import Metrics
from synchronizer.routers.wishes import OnWanted

log = structlog.get_logger(__name__)

_HELLO_TIMEOUT_S = 5.0  # a router says what it has as soon as it connects
_WRITE_TIMEOUT_S = 5.0  # a router that does not read for this long is told to come again


class RouterStream(Protocol):
    """Both methods raise `Unavailable` when the stream is broken."""

    async def send(self, delta: RouteDelta) -> None: ...

    async def receive(self) -> tuple[str, Order, tuple[VersionKey, ...]]:
        """The router's name, the order of the table it routes by, and the versions it wants to be loaded."""


class RoutePublisher:
    """`table` gives the table last published, for snapshots; `on_wanted` is told what routers want to be loaded."""

    def __init__(
        self, post: Callable[[CellEvent], None], table: Callable[[], RouteTable], metrics: Metrics, on_wanted: OnWanted
    ) -> None:
        self._post = post
        self._on_wanted = on_wanted
        self._table = table
        self._metrics = metrics
        self._history = DeltaHistory()
        self._snapshot: RouteDelta | None = None
        self._news = Wake()
        self._term = 0
        self._sessions = itertools.count(1)

    def __repr__(self) -> str:
        return f"<RoutePublisher latest={tuple(self._history.latest)} term={self._term}>"

    def publish(self, delta: RouteDelta) -> None:
        self._history.append(delta)
        self._snapshot = None
        self._metrics.route_updates.inc()
        self._news.up()

    def stand_by(self) -> None:
        """Forget what was published, and end every stream."""
        self._history = DeltaHistory()
        self._snapshot = None
        self._term += 1
        self._news.up()

    async def serve(self, stream: RouterStream) -> None:
        """Feed one router until its stream breaks, or this synchronizer stands down."""
        session, term = next(self._sessions), self._term
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                router, applied, wanted = await stream.receive()
            self._hear(wanted)
            self._post(RouterSeen(session, router, applied))
            log.info("router connected", router=router, applied=tuple(applied))
            receiving = asyncio.create_task(self._receive(session, stream))
            sending = asyncio.create_task(self._send(stream, applied, term))
            await first_of(receiving, sending)
        except (Unavailable, TimeoutError) as error:
            log.info("router gone", session=session, reason=str(error) or "silent for too long")
        finally:
            self._post(RouterGone(session))

    async def _receive(self, session: int, stream: RouterStream) -> None:
        while True:
            router, applied, wanted = await stream.receive()
            self._hear(wanted)
            self._post(RouterSeen(session, router, applied))

    def _hear(self, wanted: tuple[VersionKey, ...]) -> None:
        if wanted:
            self._on_wanted(wanted)

    async def _send(self, stream: RouterStream, position: Order, term: int) -> None:
        news = self._news.waiter()
        while term == self._term:
            latest = self._history.latest
            deltas = () if latest == NEVER else self._history.since(position)
            if deltas is None:
                deltas = (self._current_snapshot(),)
                self._metrics.snapshots.inc()
            for delta in deltas:
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    await stream.send(delta)
                position = delta.order
                if term != self._term:
                    return
            if not deltas:
                await news.wait()

    def _current_snapshot(self) -> RouteDelta:
        if self._snapshot is None:
            self._snapshot = snapshot(self._table())
        return self._snapshot
