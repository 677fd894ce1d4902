"""The controllers, as the synchronizer needs them, and the same over gRPC.

Any controller answers for the whole deployment, so when one fails, the next one is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

import grpc
import grpc.aio

from berth.auth.peer import PeerCredential
from berth.errors import PreconditionFailed, Unavailable
from berth.model import DesiredState, ObservedCell
from berth.wire import convert
from berth.wire.v1 import desired_pb2, desired_pb2_grpc
from synchronizer.controllers.encoding import ObservedEncoder
from synchronizer.surroundings.ports import Lease, Leases

_WRITE_TIMEOUT_S = 5.0  # a controller that does not read its reports is as good as away


class Controllers(Leases, Protocol):
    """Every method raises `Unavailable` when the controller that was asked is away; the next call asks another."""

    def watch(self, cell: str, known_generation: int) -> AsyncGenerator[DesiredState, None]:
        """The desired state now (left out if of `known_generation`), and after each change."""

    async def report(self, observations: AsyncIterator[ObservedCell]) -> None:
        """Send observations until they end. Raises `PreconditionFailed` if their epoch is over."""


class GrpcControllers:
    """One channel per controller. Lease, watch and report each have their own turn."""

    def __init__(self, addresses: Sequence[str], credential: PeerCredential) -> None:
        self._metadata = credential.metadata()
        self._channels = [credential.grpc_channel(address) for address in addresses]
        self._stubs = [desired_pb2_grpc.DesiredFeedStub(channel) for channel in self._channels]
        self._turn = dict.fromkeys(("lease", "watch", "report"), 0)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def lease(self, cell: str, holder: str, ttl: float, *, release: bool, timeout: float) -> Lease:
        request = desired_pb2.LeaseRequest(cell=cell, holder=holder, ttl_seconds=ttl, release=release)
        try:
            reply = await self._stub("lease").Lease(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self._away("lease", error) from None
        return Lease(reply.granted, reply.epoch, reply.expires_in_seconds)

    async def watch(self, cell: str, known_generation: int) -> AsyncGenerator[DesiredState, None]:
        request = desired_pb2.WatchDesiredRequest(cell=cell, known_generation=known_generation)
        call = self._stub("watch").WatchDesired(request, metadata=self._metadata)
        try:
            async for message in call:
                yield convert.desired_from_wire(message)
        except grpc.aio.AioRpcError as error:
            raise self._away("watch", error) from None
        finally:
            call.cancel()
        self._turn["watch"] += 1
        raise Unavailable("the controller ended the desired feed")

    async def report(self, observations: AsyncIterator[ObservedCell]) -> None:
        call = self._stub("report").ReportObserved(metadata=self._metadata)
        writing = asyncio.create_task(_write(call, observations))
        try:
            # The call may end between two observations: a refusal is acted on when it comes.
            code = await call.code()
            details = await call.details()
        finally:
            call.cancel()
            writing.cancel()
            await asyncio.wait([writing])
        if not writing.cancelled():
            writing.result()  # a fault of ours in the observations, not the controller's
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            raise PreconditionFailed(details)
        if code is not grpc.StatusCode.OK:
            # Also INTERNAL, behind which a status hides that comes during a write: the next attempt shows it.
            self._turn["report"] += 1
            raise Unavailable(f"report: {code.name}")

    def _stub(self, use: str) -> desired_pb2_grpc.DesiredFeedStub:
        return self._stubs[self._turn[use] % len(self._stubs)]

    def _away(self, use: str, error: Exception) -> Unavailable:
        self._turn[use] += 1
        code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
        return Unavailable(f"{use}: {code}")


async def _write(call: grpc.aio.StreamUnaryCall, observations: AsyncIterator[ObservedCell]) -> None:
    """Write all observations; whatever goes wrong ends the call, and its status says what."""
    encoder = ObservedEncoder()
    try:
        async for observed in observations:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await call.write(encoder.encode(observed))
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            await call.done_writing()
            await call.code()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
        pass
    finally:
        call.cancel()
