"""Routers that only keep the table: for testing who publishes it. In memory, or over gRPC with `follow_routes`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio

from berth.auth.peer import PeerCredential
from berth.errors import Unavailable
from berth.ids import VersionKey
from berth.model import Order, RouteDelta, RouteTable
from berth.route_delta import GapError, StaleDelta, apply_delta
from berth.wire import convert
from berth.wire.v1 import routes_pb2, routes_pb2_grpc
from doubles.news import News

_RECONNECT_S = 0.02


class ScriptedRouter:
    """`acking` is whether it says what it has applied; `wanted` what it says with that over gRPC; `tables` is every
    table that it ever had."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.table = RouteTable()
        self.tables: list[RouteTable] = []
        self.snapshots = 0
        self.acking = True
        self.wanted: tuple[VersionKey, ...] = ()
        self.news = News()

    def replicas(self, key: VersionKey) -> set[str]:
        """Where it sends requests for a version."""
        route = self.table.models.get(key.model_key)
        versions = route.versions if route is not None else ()
        return {name for entry in versions if entry.version == key.version for name in entry.replicas}

    def apply(self, delta: RouteDelta) -> None:
        """Raises `GapError` when it must connect anew; an older delta changes nothing."""
        try:
            self.table = apply_delta(self.table, delta)
        except StaleDelta:
            return
        self.snapshots += delta.base == 0
        self.tables.append(self.table)
        self.news.tell()

    def open(self) -> RouterStream:
        return RouterStream(self)


class RouterStream:
    """One stream of a router, from the publisher's side."""

    def __init__(self, router: ScriptedRouter) -> None:
        self.broken = False
        self._router = router
        self._said: deque[Order] = deque([router.table.order])

    async def send(self, delta: RouteDelta) -> None:
        try:
            self._router.apply(delta)
        except GapError as error:
            self.break_off()
            raise Unavailable("the router missed an update") from error
        self._said.append(self._router.table.order)
        self._router.news.tell()

    async def receive(self) -> tuple[str, Order, tuple[VersionKey, ...]]:
        await self._router.news.until(lambda: self.broken or (bool(self._said) and self._router.acking), 3600.0)
        if self.broken:
            raise Unavailable("the stream is broken")
        return self._router.name, self._said.popleft(), ()

    def break_off(self) -> None:
        self.broken = True
        self._router.news.tell()


async def stay_connected(router: ScriptedRouter, serve: Callable[[RouterStream], Awaitable[None]]) -> None:
    """Be served in memory for ever, connecting again whenever the stream ends."""
    while True:
        await serve(router.open())
        await asyncio.sleep(_RECONNECT_S)


async def follow_routes(router: ScriptedRouter, address: str, credential: PeerCredential) -> None:
    """Follow the feed at `host:port` for ever, connecting again whenever the stream ends."""
    async with credential.grpc_channel(address) as channel:
        stub = routes_pb2_grpc.RouteFeedStub(channel)
        while True:
            try:
                async for message in _deltas(stub, router, credential):
                    router.apply(convert.delta_from_wire(message))
            except (GapError, grpc.aio.AioRpcError):
                await asyncio.sleep(_RECONNECT_S)


async def _deltas(
    stub: routes_pb2_grpc.RouteFeedStub, router: ScriptedRouter, credential: PeerCredential
) -> AsyncIterator[routes_pb2.RouteDelta]:
    call = stub.WatchRoutes(metadata=credential.metadata(), wait_for_ready=True)

    async def acknowledge() -> None:
        applied = convert.order_to_wire(router.table.order)
        wanted = map(convert.version_ref_to_wire, router.wanted)
        await call.write(routes_pb2.RouteAck(router=router.name, applied=applied, wanted=wanted))

    try:
        await acknowledge()
        while (message := await call.read()) is not grpc.aio.EOF:
            yield message
            if router.acking:
                await acknowledge()
    finally:
        call.cancel()
