"""The router's end of the route feed: updates in, tables swapped, acknowledgements out.

It listens to every synchronizer of the cell at once. Only the leader speaks, and the order of its messages (epoch
first) settles any doubt. Every table that is swapped in is acknowledged on every stream, so that the next leader knows
what this router has. When all of them are gone, the table stays.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import NamedTuple

import grpc
import grpc.aio
import structlog

from berth.auth.peer import PeerCredential
from berth.model import NEVER, Order
from berth.reconcile import Backoff, Outcome, Repeater, Retry
from berth.route_delta import GapError, apply_delta
from berth.wake import Waiter
from berth.wire.convert import delta_from_wire, order_to_wire, version_ref_to_wire
from berth.wire.v1 import routes_pb2, routes_pb2_grpc
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.control.wishes import Wishes

log = structlog.get_logger(__name__)

# Converting more entries than this takes long enough for requests to notice.
_LARGE = 2_000

_WISH_PAUSE = 0.02


class _End(NamedTuple):
    """Why a stream ended, and whether it had brought anything."""

    reason: str
    heard: bool
    gap: bool = False


class RouteFeed:
    """Keeps `board` up to date from the route feeds at `addresses`, as the router named `name`."""

    def __init__(
        self,
        addresses: tuple[str, ...],
        board: RouteBoard,
        credential: PeerCredential,
        *,
        name: str,
        metrics: RouterMetrics,
        wishes: Wishes,
        backoff: Backoff | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._addresses = addresses
        self._board = board
        self._credential = credential
        self._name = name
        self._metrics = metrics
        self._wishes = wishes
        self._backoff = backoff or Backoff(first=0.1, most=1.0)
        self._rng = rng or random.Random()
        # Feeds with a missing update: they are asked for a snapshot.
        self._behind: set[str] = set()

    async def run(self) -> None:
        """Follow all feeds until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for address in self._addresses:
                tasks.create_task(self._follow(address), name=f"route feed {address}")

    async def _follow(self, address: str) -> None:
        async with self._credential.grpc_channel(address) as channel:
            visit = partial(self._visit, address, routes_pb2_grpc.RouteFeedStub(channel))
            await Repeater(visit, backoff=self._backoff, rng=self._rng).run()

    async def _visit(self, address: str, stub: routes_pb2_grpc.RouteFeedStub) -> Outcome:
        end = await self._listen(stub, address in self._behind)
        self._behind.discard(address)
        if end.gap:
            self._behind.add(address)
            self._metrics.gaps.inc()
        log.info("route feed lost", feed=address, reason=end.reason)
        return Retry(end.reason, anew=end.heard)

    async def _listen(self, stub: routes_pb2_grpc.RouteFeedStub, ask_for_snapshot: bool) -> _End:
        """Take updates from one stream until it ends."""
        call = stub.WatchRoutes(metadata=self._credential.metadata())
        # Claiming to have nothing is how to ask for a snapshot.
        known = NEVER if ask_for_snapshot else self._board.order
        heard = False
        async with asyncio.TaskGroup() as tasks:
            speaker = tasks.create_task(self._acknowledge(call, known))
            try:
                async for message in call:
                    heard = True
                    await self._take(message)
            except GapError as gap:
                return _End(str(gap), heard, gap=True)
            except grpc.aio.AioRpcError as error:
                return _End(f"{error.code().name}: {error.details()}", heard)
            finally:
                speaker.cancel()
                call.cancel()
        return _End("closed by the synchronizer", heard)

    async def _acknowledge(self, call: grpc.aio.StreamStreamCall, known: Order) -> None:
        """Say what this router has: first when the stream opens, then after every swap, whichever stream caused it.
        With it, and now and then in between, say which versions are wanted."""
        loop = asyncio.get_running_loop()
        notices = self._wishes.notices()
        order = known
        changes, wishes = self._board.changes.waiter(), self._wishes.news.waiter()
        while True:
            swaps = self._board.changes.times
            wanted = notices.take(loop.time())
            message = routes_pb2.RouteAck(
                router=self._name, applied=order_to_wire(order), wanted=map(version_ref_to_wire, wanted)
            )
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # The stream has ended; its reader knows why.
                return
            self._metrics.wanted.inc(len(wanted))
            await _first_of(changes, wishes, until=notices.next_at(loop.time()))
            if self._board.changes.times == swaps:
                # Wishes come in bursts: one message for each burst. Acknowledgements do not wait.
                await changes.wait(_WISH_PAUSE)
            if self._board.changes.times != swaps:
                order = self._board.order

    async def _take(self, message: routes_pb2.RouteDelta) -> None:
        """Apply an update. One that is no news is left alone. Raises `GapError` when one before it is missing."""
        size = len(message.models) + len(message.keys) + len(message.limits)
        delta = await asyncio.to_thread(delta_from_wire, message) if size > _LARGE else delta_from_wire(message)
        # No await from here on: another stream may be taking an update too.
        if delta.order <= self._board.order:
            return
        self._board.swap(apply_delta(self._board.table, delta))
        self._metrics.applied("delta" if delta.base else "snapshot", delta.order)


async def _first_of(*waiters: Waiter, until: float | None) -> None:
    """Wait until there is something for one of them to look at, or until a time of the event loop."""
    waits = [asyncio.ensure_future(waiter.wait()) for waiter in waiters]
    timeout = None if until is None else max(0.0, until - asyncio.get_running_loop().time())
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
