"""The route feed over gRPC: `routers.publisher` as it is on the network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from berth.auth.peer import PeerCredential
from berth.errors import Unavailable
from berth.ids import VersionKey
from berth.model import Order, RouteDelta
from berth.wire import convert
from berth.wire.v1 import routes_pb2, routes_pb2_grpc
from synchronizer.routers.publisher import RoutePublisher


class RouteFeedServicer(routes_pb2_grpc.RouteFeedServicer):
    """`RoutePublisher` over gRPC. A message is encoded once, for however many routers."""

    def __init__(self, publisher: RoutePublisher) -> None:
        self._publisher = publisher
        self._encoded: dict[tuple[int, Order], routes_pb2.RouteDelta] = {}

    async def WatchRoutes(self, _: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:  # noqa: N802
        await self._publisher.serve(_GrpcRouterStream(context, self.encode))

    def encode(self, delta: RouteDelta) -> routes_pb2.RouteDelta:
        place = (delta.base, delta.order)
        message = self._encoded.get(place)
        if message is None:
            message = convert.delta_to_wire(delta)
            while len(self._encoded) >= 16:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[place] = message
        return message


class _GrpcRouterStream:
    def __init__(
        self, context: grpc.aio.ServicerContext, encode: Callable[[RouteDelta], routes_pb2.RouteDelta]
    ) -> None:
        self._context = context
        self._encode = encode

    async def send(self, delta: RouteDelta) -> None:
        try:
            await self._context.write(self._encode(delta))
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise Unavailable(f"the router's stream is closed: {error}") from None

    async def receive(self) -> tuple[str, Order, tuple[VersionKey, ...]]:
        try:
            message = await self._context.read()
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise Unavailable(f"the router's stream is closed: {error}") from None
        if message is grpc.aio.EOF:
            raise Unavailable("the router ended its stream")
        wanted = tuple(map(convert.version_ref_from_wire, message.wanted))
        return message.router, convert.order_from_wire(message.applied), wanted


@asynccontextmanager
async def serve_routes(publisher: RoutePublisher, address: str, credential: PeerCredential) -> AsyncIterator[int]:
    """Listen for routers on `host:port` while the context is open, and yield the port."""
    server = credential.grpc_server()
    routes_pb2_grpc.add_RouteFeedServicer_to_server(RouteFeedServicer(publisher), server)
    port = credential.add_port(server, address)
    await server.start()
    try:
        yield port
    finally:
        publisher.stand_by()
        await server.stop(grace=0.5)
