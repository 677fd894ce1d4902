"""The streams to workers over gRPC: `workers.links` as it is on the network."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from berth.auth.peer import PeerCredential
from berth.errors import Unavailable
from berth.model import AspiredSet, ReplicaAddress, ReplicaStatus
from berth.wire import convert
from berth.wire.v1 import worker_pb2, worker_pb2_grpc
from synchronizer.workers.links import WorkerStream


class GrpcWorkers:
    """`Workers` over the real network."""

    def __init__(self, credential: PeerCredential) -> None:
        self._credential = credential

    @asynccontextmanager
    async def connect(self, address: ReplicaAddress) -> AsyncIterator[WorkerStream]:
        async with self._credential.grpc_channel(address.control) as channel:
            stub = worker_pb2_grpc.WorkerControlStub(channel)
            call = stub.Sync(metadata=self._credential.metadata())
            try:
                yield _GrpcWorkerStream(call)
            finally:
                call.cancel()


class _GrpcWorkerStream:
    def __init__(self, call: grpc.aio.StreamStreamCall) -> None:
        self._call = call
        self._last: tuple[worker_pb2.SyncReply, ReplicaStatus] | None = None

    async def send(self, aspired: AspiredSet) -> None:
        try:
            await self._call.write(convert.aspired_to_wire(aspired))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise _broken(error) from None

    async def receive(self) -> tuple[ReplicaStatus, bool]:
        try:
            reply = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise _broken(error) from None
        if reply is grpc.aio.EOF:
            raise Unavailable("the worker ended the stream")
        try:
            status = self._decode(reply)
        except ValueError as error:
            raise Unavailable(f"the worker speaks another version of the protocol: {error}") from None
        return status, reply.refused

    def _decode(self, reply: worker_pb2.SyncReply) -> ReplicaStatus:
        """Most reports repeat the last one's servables: they are then the same tuple, and cost no decoding."""
        if self._last is not None and self._last[0].status.servables == reply.status.servables:
            servables = self._last[1].servables
            bare = worker_pb2.SyncReply(status=reply.status)
            del bare.status.servables[:]
            status = dataclasses.replace(convert.replica_status_from_wire(bare.status), servables=servables)
        else:
            status = convert.replica_status_from_wire(reply.status)
        self._last = (reply, status)
        return status


def _broken(error: Exception) -> Unavailable:
    return Unavailable(error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error))
