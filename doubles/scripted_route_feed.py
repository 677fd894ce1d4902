"""A synchronizer's route feed, a real one on loopback, that sends what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.model import Order, RouteDelta
from berth.wire.convert import delta_to_wire, order_from_wire, version_ref_from_wire
from berth.wire.v1 import routes_pb2, routes_pb2_grpc


class Opened:
    """One router's stream: `first` is what it said it had, `heard` all that it has acknowledged since, `wanted` the
    versions that it has named as wanted, a tuple for each notice."""

    def __init__(self, router: str, first: Order) -> None:
        self.router = router
        self.first = first
        self.heard: list[Order] = []
        self.wanted: list[tuple[VersionKey, ...]] = []
        self._acknowledged = asyncio.Condition()
        self._outgoing: asyncio.Queue[RouteDelta | None] = asyncio.Queue()

    def send(self, delta: RouteDelta) -> None:
        self._outgoing.put_nowait(delta)

    def close(self) -> None:
        """End the stream from the server's side."""
        self._outgoing.put_nowait(None)

    async def acknowledged(self, order: Order) -> None:
        """Return once the router has acknowledged `order` on this stream."""
        async with self._acknowledged:
            await self._acknowledged.wait_for(lambda: order in self.heard)

    async def has_wanted(self, key: VersionKey, times: int = 1) -> None:
        """Return once the router has named `key` as wanted so many times on this stream."""
        async with self._acknowledged:
            await self._acknowledged.wait_for(lambda: sum(key in notice for notice in self.wanted) >= times)

    async def listen(self, acks: AsyncIterator[routes_pb2.RouteAck]) -> None:
        async for ack in acks:
            async with self._acknowledged:
                order = order_from_wire(ack.applied)
                # A notice of wishes repeats what was acknowledged last.
                if order != (self.heard[-1] if self.heard else self.first):
                    self.heard.append(order)
                self.note(ack)
                self._acknowledged.notify_all()

    def note(self, ack: routes_pb2.RouteAck) -> None:
        if ack.wanted:
            self.wanted.append(tuple(map(version_ref_from_wire, ack.wanted)))

    async def outgoing(self) -> AsyncIterator[routes_pb2.RouteDelta]:
        while (delta := await self._outgoing.get()) is not None:
            yield delta_to_wire(delta)


class ScriptedRouteFeed(routes_pb2_grpc.RouteFeedServicer):
    """`opened` yields every stream that a router opens, in order."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[Opened] = asyncio.Queue()
        self.address = ""

    async def WatchRoutes(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[routes_pb2.RouteAck], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[routes_pb2.RouteDelta]:
        hello = await anext(request_iterator)
        stream = Opened(hello.router, order_from_wire(hello.applied))
        stream.note(hello)
        self.opened.put_nowait(stream)
        listener = asyncio.create_task(stream.listen(request_iterator))
        try:
            async for message in stream.outgoing():
                yield message
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    @asynccontextmanager
    async def serve(self, credential: PeerCredential, address: str = "127.0.0.1:0") -> AsyncIterator[ScriptedRouteFeed]:
        """Listen while the context is open; `self.address` says where."""
        server = credential.grpc_server()
        routes_pb2_grpc.add_RouteFeedServicer_to_server(self, server)
        self.address = f"127.0.0.1:{credential.add_port(server, address)}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)
