"""A desired feed that does as it is told: leases, desired states and reports of one cell, without a database.

The same object answers in memory, on a virtual clock, and over real gRPC through `serve_controller`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from berth.auth.peer import PeerCredential
from berth.errors import PreconditionFailed, Unavailable
from berth.model import DesiredState, ObservedCell
from berth.wire import convert
from berth.wire.v1 import desired_pb2, desired_pb2_grpc
from doubles.news import News


class ScriptedController:
    """`away` is whether it can be reached; `observed` is the last report, if any."""

    def __init__(self, desired: DesiredState | None = None) -> None:
        self.desired = desired
        self.observed: ObservedCell | None = None
        self.holder = ""
        self.epoch = 0
        self.lease_until = 0.0
        self.news = News()
        self._away = False

    @property
    def away(self) -> bool:
        return self._away

    @away.setter
    def away(self, value: bool) -> None:
        self._away = value
        self.news.tell()

    def desire(self, desired: DesiredState) -> None:
        self.desired = desired
        self.news.tell()

    async def lease(
        self, cell: str, holder: str, ttl: float, *, release: bool, timeout: float
    ) -> tuple[bool, int, float]:
        self._answer()
        now = asyncio.get_running_loop().time()
        if release:
            if holder == self.holder:
                self.holder, self.lease_until = "", now
            return False, self.epoch, 0.0
        if holder != self.holder and now >= self.lease_until:
            self.holder = holder
            self.epoch += 1
        if holder == self.holder:
            self.lease_until = now + ttl
        self.news.tell()
        return holder == self.holder, self.epoch, self.lease_until - now

    async def watch(self, cell: str, known_generation: int) -> AsyncGenerator[DesiredState, None]:
        """Repeats itself every two seconds."""
        while True:
            self._answer()
            desired = self.desired
            if desired is not None and desired.generation != known_generation:
                yield desired
            known_generation = 0
            try:
                async with asyncio.timeout(2.0):
                    while self.desired is desired and not self._away:
                        await self.news.next()
            except TimeoutError:
                pass

    async def report(self, observations: AsyncIterator[ObservedCell]) -> None:
        async for observed in observations:
            self._answer()
            if observed.epoch < self.epoch:
                raise PreconditionFailed(f"epoch {observed.epoch} is over")
            self.observed = observed
            self.news.tell()

    def _answer(self) -> None:
        if self._away:
            raise Unavailable("the controller is away")


class _Servicer(desired_pb2_grpc.DesiredFeedServicer):
    def __init__(self, controller: ScriptedController) -> None:
        self._controller = controller

    async def Lease(  # noqa: N802
        self, request: desired_pb2.LeaseRequest, context: grpc.aio.ServicerContext
    ) -> desired_pb2.LeaseReply:
        async with _errors_as_status(context):
            granted, epoch, expires_in = await self._controller.lease(
                request.cell, request.holder, request.ttl_seconds, release=request.release, timeout=1.0
            )
            return desired_pb2.LeaseReply(granted=granted, epoch=epoch, expires_in_seconds=expires_in)
        raise AssertionError("abort raises")

    async def WatchDesired(  # noqa: N802
        self, request: desired_pb2.WatchDesiredRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[desired_pb2.DesiredState]:
        async with _errors_as_status(context):
            async for desired in self._controller.watch(request.cell, request.known_generation):
                yield convert.desired_to_wire(desired)

    async def ReportObserved(  # noqa: N802
        self, request_iterator: AsyncIterator[desired_pb2.ObservedCell], context: grpc.aio.ServicerContext
    ) -> desired_pb2.ReportSummary:
        async with _errors_as_status(context):
            await self._controller.report(convert.observed_from_wire(message) async for message in request_iterator)
        return desired_pb2.ReportSummary()


@asynccontextmanager
async def _errors_as_status(context: Any) -> AsyncIterator[None]:
    try:
        yield
    except Unavailable as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, error.detail)
    except PreconditionFailed as error:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.detail)


@asynccontextmanager
async def serve_controller(
    controller: ScriptedController, credential: PeerCredential, address: str = "127.0.0.1:0"
) -> AsyncIterator[str]:
    """Answer over gRPC while the context is open, and yield `host:port`."""
    server = credential.grpc_server()
    desired_pb2_grpc.add_DesiredFeedServicer_to_server(_Servicer(controller), server)
    port = credential.add_port(server, address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)
