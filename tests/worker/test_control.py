"""The control channel over real gRPC: who may speak, whose order counts, and what is reported when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.model import (
    NEVER,
    Artifact,
    AspiredSet,
    Order,
    ReplicaAddress,
    ReplicaLoad,
    ReplicaStatus,
    ServableLoad,
    VersionSpec,
)
from berth.resources import Resources
from berth.states import ServableState as S
from berth.wire.convert import aspired_to_wire, replica_status_from_wire
from berth.wire.v1 import worker_pb2, worker_pb2_grpc
from doubles.scripted_runtime import Script, ScriptedArtifacts, ScriptedRuntime
from worker.control.channel import WorkerControl, serve_control
from worker.core.capacity import MemoryLimits
from worker.core.loads import Loads
from worker.keeping.keeper import Keeper
from worker.metrics import WorkerMetrics

TOKEN = "t" * 40
ADDRESS = ReplicaAddress("w1", "job", "cell", "abc", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")


def spec(version: int) -> VersionSpec:
    return VersionSpec(VersionKey("acme", "m", version), Artifact("a" * 64, 10), Resources.host(1000))


class Synchronizer:
    """The other end: one stream."""

    def __init__(self, port: int, token: str = TOKEN) -> None:
        credential = PeerCredential.from_token(token)
        self._channel = credential.grpc_channel(f"127.0.0.1:{port}")
        stub = worker_pb2_grpc.WorkerControlStub(self._channel)
        self._stream: Any = stub.Sync(metadata=credential.metadata())

    async def send(self, order: Order, *versions: int) -> None:
        await self._stream.write(aspired_to_wire(AspiredSet(order, tuple(map(spec, versions)))))

    async def send_raw(self, message: worker_pb2.AspiredSet) -> None:
        await self._stream.write(message)

    async def reply(self) -> tuple[ReplicaStatus, bool]:
        reply = await asyncio.wait_for(self._stream.read(), 10)
        assert reply is not grpc.aio.EOF
        return replica_status_from_wire(reply.status), reply.refused

    async def until(self, condition: Callable[[ReplicaStatus, bool], bool]) -> ReplicaStatus:
        async with asyncio.timeout(10):
            while True:
                status, refused = await self.reply()
                if condition(status, refused):
                    return status

    async def until_states(self, states: dict[int, S]) -> ReplicaStatus:
        return await self.until(
            lambda status, _: {servable.key.version: servable.state for servable in status.servables} == states
        )

    async def code(self) -> grpc.StatusCode:
        """How the stream ends. (gRPC tells it only to those who have read what came before.)"""
        async with asyncio.timeout(10):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await self._stream.read() is not grpc.aio.EOF:
                    pass
            code: grpc.StatusCode = await self._stream.code()
        return code

    async def close(self) -> None:
        self._stream.cancel()
        await self._channel.close()


class Worker:
    def __init__(
        self, keeper: Keeper, control: WorkerControl, runtime: ScriptedRuntime, port: int, loads: Loads
    ) -> None:
        self.loads = loads
        self.keeper = keeper
        self.control = control
        self.runtime = runtime
        self.port = port
        self.connections: list[Synchronizer] = []

    def connect(self, token: str = TOKEN) -> Synchronizer:
        self.connections.append(Synchronizer(self.port, token))
        return self.connections[-1]


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    runtime = ScriptedRuntime(default=Script(measured_bytes=70))
    keeper = Keeper(
        runtime, ScriptedArtifacts(), MemoryLimits(Resources.host(2500)), metrics=WorkerMetrics(CollectorRegistry())
    )
    loads = Loads()
    control = WorkerControl(keeper, lambda: 3, loads)
    async with (
        asyncio.TaskGroup() as tasks,
        serve_control(control, PeerCredential.from_token(TOKEN), "127.0.0.1:0") as port,
    ):
        tasks.create_task(keeper.run())
        control.announce(ADDRESS)
        worker = Worker(keeper, control, runtime, port, loads)
        yield worker
        for connection in worker.connections:
            await connection.close()
        keeper.close()


async def test_it_reports_at_once_and_after_each_change(worker: Worker) -> None:
    synchronizer = worker.connect()
    status, refused = await synchronizer.reply()
    assert status == ReplicaStatus(ADDRESS, NEVER, (), 2500, 0, 3, False)
    assert not refused
    await synchronizer.send(Order(1, 1), 1)
    status = await synchronizer.until_states({1: S.AVAILABLE})
    assert status.accepted == Order(1, 1)
    assert status.memory_used == 70
    assert status.servables[0].measured_bytes == 70
    await synchronizer.send(Order(1, 2))
    status = await synchronizer.until_states({})
    assert status.accepted == Order(1, 2)
    assert status.memory_used == 0


async def test_it_gives_a_sign_of_life_each_second(worker: Worker) -> None:
    synchronizer = worker.connect()
    loop = asyncio.get_running_loop()
    await synchronizer.reply()
    started = loop.time()
    await synchronizer.reply()
    assert loop.time() - started < 2.0


async def test_a_repetition_is_acknowledged_and_means_nothing(worker: Worker) -> None:
    synchronizer = worker.connect()
    for _ in range(3):
        await synchronizer.send(Order(1, 1), 1)
    await synchronizer.until_states({1: S.AVAILABLE})
    await synchronizer.send(Order(1, 1), 1)
    status, refused = await synchronizer.reply()
    assert (status.accepted, refused) == (Order(1, 1), False)
    assert worker.runtime.loads == {spec(1).key: 1}


async def test_the_newest_order_wins_and_a_deposed_sender_is_told(worker: Worker) -> None:
    deposed, active = worker.connect(), worker.connect()
    await deposed.send(Order(1, 9), 1)
    await deposed.until_states({1: S.AVAILABLE})
    await active.send(Order(2, 1), 1, 2)
    await active.until_states({1: S.AVAILABLE, 2: S.AVAILABLE})
    await deposed.until_states({1: S.AVAILABLE, 2: S.AVAILABLE})
    await deposed.send(Order(1, 10))
    status = await deposed.until(lambda _, refused: refused)
    assert status.accepted == Order(2, 1)
    assert worker.keeper.lending.held() == {spec(1).key, spec(2).key}
    await active.send(Order(2, 2), 2)
    status = await active.until(lambda status, refused: status.accepted == Order(2, 2) and not refused)
    await active.until_states({2: S.AVAILABLE})


async def test_without_a_synchronizer_it_goes_on_as_told(worker: Worker) -> None:
    first = worker.connect()
    await first.send(Order(1, 1), 1)
    await first.until_states({1: S.AVAILABLE})
    await first.close()
    second = worker.connect()
    status, _ = await second.reply()
    assert status.accepted == Order(1, 1)
    assert [(servable.key.version, servable.state) for servable in status.servables] == [(1, S.AVAILABLE)]
    assert worker.runtime.loads == {spec(1).key: 1}


async def test_connections_are_counted_until_they_end(worker: Worker) -> None:
    first, second = worker.connect(), worker.connect()
    await first.reply()
    await second.reply()
    assert worker.control.synchronizers == 2
    await first.close()
    await second.close()
    third = worker.connect()
    async with asyncio.timeout(10):
        while worker.control.synchronizers != 1:
            await third.reply()


async def test_draining_is_reported_at_once_to_all(worker: Worker) -> None:
    first, second = worker.connect(), worker.connect()
    await first.reply()
    await second.reply()
    worker.control.drain()
    assert (await first.until(lambda status, _: status.draining)).draining
    assert (await second.until(lambda status, _: status.draining)).draining


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda message: message.versions.append(message.versions[0]), id="a version twice"),
        pytest.param(lambda message: setattr(message.versions[0].ref, "tenant", "../x"), id="no name"),
        pytest.param(lambda message: setattr(message.versions[0].artifact, "sha256", "x"), id="no digest"),
        pytest.param(lambda message: setattr(message.versions[0].artifact, "format", "exe"), id="unknown format"),
    ],
)
async def test_a_set_that_makes_no_sense_ends_the_stream_and_nothing_else(
    worker: Worker, spoil: Callable[[worker_pb2.AspiredSet], None]
) -> None:
    good, bad = worker.connect(), worker.connect()
    await good.send(Order(1, 1), 1)
    await good.until_states({1: S.AVAILABLE})
    message = aspired_to_wire(AspiredSet(Order(1, 2), (spec(2),)))
    spoil(message)
    await bad.send_raw(message)
    assert await bad.code() is grpc.StatusCode.INVALID_ARGUMENT
    status, _ = await good.reply()
    assert status.accepted == Order(1, 1)


async def test_load_goes_with_the_signs_of_life_to_everybody_once(worker: Worker) -> None:
    first, second = worker.connect(), worker.connect()
    for synchronizer in (first, second):
        status, _ = await synchronizer.reply()
        assert (status.load, status.loads) == (ReplicaLoad(), ())
    one, two = spec(1).key, spec(2).key
    worker.loads.add(one, 0.5, queued=0.25)
    worker.loads.add(one, 0.25)
    worker.loads.add(two, 1.0, completed=0)
    for synchronizer in (first, second):
        status = await synchronizer.until(lambda status, _: bool(status.loads))
        assert status.load == ReplicaLoad(2, 1.75, 0.25)
        assert set(status.loads) == {ServableLoad(one, 2, 0.75), ServableLoad(two, 0, 1.0)}
    status, _ = await first.reply()
    assert (status.load.completed, status.loads) == (2, ()), "no requests since"
    worker.loads.add(one, 0.25)
    status = await first.until(lambda status, _: bool(status.loads))
    assert status.loads == (ServableLoad(one, 3, 1.0),), "sums since the start"


async def test_changes_are_reported_without_the_versions_loads(worker: Worker) -> None:
    synchronizer = worker.connect()
    await synchronizer.reply()
    worker.loads.add(spec(1).key, 0.5)
    await synchronizer.send(Order(1, 1), 1)
    status = await synchronizer.until_states({1: S.AVAILABLE})
    assert (status.load.completed, status.loads) == (1, ())
    assert (await synchronizer.until(lambda status, _: bool(status.loads))).accepted == Order(1, 1)


async def test_strangers_are_refused(worker: Worker) -> None:
    assert await worker.connect("s" * 40).code() is grpc.StatusCode.UNAUTHENTICATED
    assert worker.control.synchronizers == 0
