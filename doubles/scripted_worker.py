"""Workers that hold what they are told without loading anything: for testing who tells them.

A worker here obeys `berth/wire/v1/worker.proto` and is otherwise as bad as a worker may be: what a set leaves out is
unloaded in the same instant. The same object answers in memory (`ScriptedFleet`) and over gRPC (`serve_worker`).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from berth.auth.peer import PeerCredential
from berth.errors import Unavailable
from berth.ids import VersionKey
from berth.model import NEVER, AspiredSet, Order, ReplicaAddress, ReplicaStatus, ServableStatus
from berth.states import ServableState
from berth.wire import convert
from berth.wire.v1 import worker_pb2, worker_pb2_grpc
from doubles.news import News


class ScriptedWorker:
    """`before_unload` is called with each key that a set leaves out; `loads` counts the loads of each key."""

    def __init__(self, replica: str, job: str, cell: str = "c", *, load_s: float = 0.0) -> None:
        self.address = ReplicaAddress(replica, job, cell, "1", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
        self.load_s = load_s
        self.failing: frozenset[VersionKey] = frozenset()
        self.accepted: Order = NEVER
        self.draining = False
        self.muted = False
        self.before_unload: Callable[[VersionKey], None] = lambda _: None
        self.states: dict[VersionKey, ServableStatus] = {}
        self.loads: dict[VersionKey, int] = {}
        self.news = News()
        self._streams: set[ScriptedStream] = set()
        self._dead = False

    def held(self) -> set[VersionKey]:
        """The keys that are available."""
        return {key for key, status in self.states.items() if status.state is ServableState.AVAILABLE}

    def status(self) -> ReplicaStatus:
        servables = tuple(self.states[key] for key in sorted(self.states))
        return ReplicaStatus(self.address, self.accepted, servables, 1000, 100, draining=self.draining)

    def aspire(self, aspired: AspiredSet) -> bool:
        """Take a set; False if it is refused for being older than the one held."""
        if aspired.order < self.accepted:
            return False
        self.accepted = aspired.order
        keys = {spec.key for spec in aspired.versions}
        for key in sorted(self.states.keys() - keys):
            self.before_unload(key)
            del self.states[key]
        for key in sorted(keys - self.states.keys()):
            self.states[key] = ServableStatus(key, ServableState.LOADING)
            self.loads[key] = self.loads.get(key, 0) + 1
            asyncio.get_running_loop().call_later(self.load_s, self._loaded, key, self.address.incarnation)
        self.news.tell()
        return True

    def drain(self) -> None:
        self.draining = True
        self.news.tell()

    def sever(self) -> None:
        """Break the streams; the process lives."""
        for stream in list(self._streams):
            stream.broken = True
        self.news.tell()

    def kill(self) -> None:
        self._dead = True
        self.states = {}
        self.sever()

    def restart(self) -> None:
        """A new incarnation that holds nothing."""
        self.kill()
        self.address = dataclasses.replace(self.address, incarnation=self.address.incarnation + "+")
        self.accepted, self.draining, self._dead = NEVER, False, False
        self.news.tell()

    def open(self) -> ScriptedStream:
        """Raises `Unavailable` while it is dead."""
        if self._dead:
            raise Unavailable(f"{self.address.replica} is dead")
        stream = ScriptedStream(self)
        self._streams.add(stream)
        return stream

    def close(self, stream: ScriptedStream) -> None:
        self._streams.discard(stream)

    def _loaded(self, key: VersionKey, incarnation: str) -> None:
        if self.address.incarnation != incarnation or key not in self.states or self._dead:
            return
        state = ServableState.ERROR if key in self.failing else ServableState.AVAILABLE
        self.states[key] = ServableStatus(key, state, "cannot be loaded" if key in self.failing else "")
        self.news.tell()


class ScriptedStream:
    """One stream to a worker, from its client's side."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self.broken = False
        self._worker = worker
        self._reported: tuple[ReplicaStatus, bool] | None = None
        self._refused = False

    async def send(self, aspired: AspiredSet) -> None:
        self._check()
        self._refused = not self._worker.aspire(aspired)
        self._worker.news.tell()

    async def receive(self) -> tuple[ReplicaStatus, bool]:
        """The next report: at once if something changed, else after a second."""
        try:
            async with asyncio.timeout(1.0):
                while not self.broken and self._reported == (self._worker.status(), self._refused):
                    await self._worker.news.next()
        except TimeoutError:
            pass
        while self._worker.muted and not self.broken:
            await self._worker.news.next()
        self._check()
        self._reported = (self._worker.status(), self._refused)
        return self._reported

    def _check(self) -> None:
        if self.broken:
            raise Unavailable("the stream is broken")


class ScriptedFleet:
    """Workers by name, to be connected to in memory."""

    def __init__(self, *workers: ScriptedWorker) -> None:
        self.workers = {worker.address.replica: worker for worker in workers}

    @asynccontextmanager
    async def connect(self, address: ReplicaAddress) -> AsyncIterator[ScriptedStream]:
        worker = self.workers[address.replica]
        stream = worker.open()
        try:
            yield stream
        finally:
            worker.close(stream)


class _Servicer(worker_pb2_grpc.WorkerControlServicer):
    def __init__(self, worker: ScriptedWorker) -> None:
        self._worker = worker

    async def Sync(self, _: Any, context: grpc.aio.ServicerContext) -> None:  # noqa: N802
        stream = self._worker.open()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(stream, context))
                tasks.create_task(self._speak(stream, context))
        except* Unavailable:
            pass
        finally:
            self._worker.close(stream)

    async def _listen(self, stream: ScriptedStream, context: grpc.aio.ServicerContext) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await stream.send(convert.aspired_from_wire(message))
        raise Unavailable("the client ended the stream")

    async def _speak(self, stream: ScriptedStream, context: grpc.aio.ServicerContext) -> None:
        while True:
            status, refused = await stream.receive()
            await context.write(worker_pb2.SyncReply(status=convert.replica_status_to_wire(status), refused=refused))


@asynccontextmanager
async def serve_worker(worker: ScriptedWorker, credential: PeerCredential) -> AsyncIterator[ReplicaAddress]:
    """Answer over gRPC while the context is open; the worker's address then names the port."""
    server = credential.grpc_server()
    worker_pb2_grpc.add_WorkerControlServicer_to_server(_Servicer(worker), server)
    port = credential.add_port(server, "127.0.0.1:0")
    worker.address = dataclasses.replace(worker.address, control=f"127.0.0.1:{port}")
    await server.start()
    try:
        yield worker.address
    finally:
        await server.stop(grace=None)
