"""What a replica says of its load: the sums themselves, and what real requests add to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.model import Artifact, AspiredSet, Order, ReplicaLoad, ServableLoad, VersionSpec
from berth.resources import Resources
from doubles import onnx_models
from worker.core.capacity import MemoryLimits
from worker.core.loads import Loads
from worker.keeping.keeper import Keeper
from worker.metrics import WorkerMetrics
from worker.runtimes.onnx.runtime import OnnxRuntime
from worker.runtimes.protocol import Array, LentVersion, nobody
from worker.scheduling.local import ScheduledRuntime
from worker.serving.server import serve_inference

CREDENTIAL = PeerCredential.from_token("t" * 40)
WAIT_S = 30.0


def key(number: int) -> VersionKey:
    return VersionKey("acme", "m", number)


def test_each_reader_hears_of_each_request_once() -> None:
    loads = Loads()
    loads.add(key(1), 1.0)
    with loads.reader() as early:
        loads.add(key(2), 2.0, queued=0.5)
        with loads.reader() as late:
            assert {load.key.version for load in early.collect()} == {2}
            loads.add(key(2), 1.0)
            assert late.collect() == (ServableLoad(key(2), 2, 3.0),)
            assert late.collect() == ()
        loads.add(key(3), 0.0)
        assert {load.key.version for load in early.collect()} == {2, 3}
    assert loads.total == ReplicaLoad(4, 4.0, 0.5)


def test_sums_of_versions_that_are_gone_are_dropped_when_they_are_many() -> None:
    loads = Loads()
    for number in range(1, 1_002):
        loads.add(key(number), 1.0)
    loads.retain(frozenset({key(1)}))
    assert "1001 versions" in repr(loads), "few more than are held"
    loads.add(key(1_002), 1.0)
    loads.retain(frozenset({key(1)}))
    assert "of 1 versions" in repr(loads)
    assert loads.total.completed == 1_002


class HeardLoads(Loads):
    """Says when a request is over."""

    def __init__(self) -> None:
        super().__init__()
        self.added = asyncio.Event()

    def add(self, key: VersionKey, seconds: float, queued: float = 0.0, completed: int = 1) -> None:
        super().add(key, seconds, queued, completed)
        self.added.set()


class HeardVersion:
    """A version that says when a run of it has begun."""

    def __init__(self, version: LentVersion, begun: asyncio.Event) -> None:
        self.signature = version.signature
        self._version = version
        self._begun = begun
        self._loop = asyncio.get_running_loop()

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array] | None:
        return self._version.infer_now(inputs, outputs)

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], started: Callable[[], None] = nobody
    ) -> dict[str, Array]:
        def begin() -> None:
            started()
            self._loop.call_soon_threadsafe(self._begun.set)

        return await self._version.infer(inputs, outputs, begin)


class HeardLending:
    """Lends what the keeper lends."""

    def __init__(self, keeper: Keeper) -> None:
        self._lending = keeper.lending
        self.begun = asyncio.Event()

    def held(self) -> frozenset[VersionKey]:
        return self._lending.held()

    @contextlib.contextmanager
    def acquire(self, key: VersionKey) -> Iterator[LentVersion]:
        with self._lending.acquire(key) as version:
            yield HeardVersion(version, self.begun)


class Rig:
    def __init__(self, begun: asyncio.Event, session: aiohttp.ClientSession, loads: HeardLoads) -> None:
        self.begun = begun
        self._session = session
        self.loads = loads

    async def ask(self, number: int, *inputs: tuple[str, Any], headers: dict[str, str] | None = None) -> int:
        names = {"float32": "FP32", "int64": "INT64"}
        tensors = [
            {"name": name, "datatype": names[array.dtype.name], "shape": array.shape, "data": array.ravel().tolist()}
            for name, array in inputs
        ]
        path = f"/v2/models/{key(number).servable}/infer"
        async with self._session.post(path, json={"inputs": tensors}, headers=headers or {}) as response:
            return response.status


QUICK, SLOW = 1, 2
X = ("x", np.ones((1, 2), np.float32))


def turns(number: int) -> tuple[tuple[str, Any], ...]:
    return ("x", np.array(1, np.float32)), ("n", np.array(number, np.int64))


@contextlib.asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    """Real ONNX Runtime with one thread, behind the real server."""
    artifacts = {number: onnx_models.double() if number == QUICK else onnx_models.slow_loop() for number in (1, 2)}
    runtime, loads = ScheduledRuntime(OnnxRuntime(providers="cpu"), threads=1), HeardLoads()
    keeper = Keeper(
        runtime,
        _Folder(folder, artifacts),
        MemoryLimits(Resources.host(2**30)),
        metrics=WorkerMetrics(CollectorRegistry()),
    )
    lending = HeardLending(keeper)
    async with (
        asyncio.TaskGroup() as tasks,
        serve_inference(
            lending,
            credential=CREDENTIAL,
            grpc_address="127.0.0.1:0",
            http_address="127.0.0.1:0",
            replica="w-1",
            registry=CollectorRegistry(),
            loads=loads,
        ) as server,
        aiohttp.ClientSession(f"http://127.0.0.1:{server.http_port}", headers=CREDENTIAL.headers()) as session,
    ):
        tasks.create_task(keeper.run())
        specs = tuple(
            VersionSpec(key(number), Artifact(f"{number:064x}", len(data)), Resources.host(2**20))
            for number, data in artifacts.items()
        )
        keeper.aspire(AspiredSet(Order(1, 1), specs))
        async with asyncio.timeout(WAIT_S):
            while len(keeper.lending.held()) < len(artifacts):
                await keeper.changed(keeper.revision)
        yield Rig(lending.begun, session, loads)
        keeper.close()
    await runtime.close()


class _Folder:
    def __init__(self, folder: Path, artifacts: dict[int, bytes]) -> None:
        self._folder = folder
        self._artifacts = artifacts

    async def obtain(self, artifact: Artifact) -> _Lease:
        path = self._folder / artifact.sha256 / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self._artifacts[int(artifact.sha256, 16)])
        return _Lease(path)


class _Lease:
    def __init__(self, path: Path) -> None:
        self.path = path

    def release(self) -> None:
        """The folder is the test's."""


async def test_answers_are_counted_by_version(tmp_path: Path) -> None:
    async with rig(tmp_path) as worker:
        with worker.loads.reader() as reader:
            for _ in range(3):
                assert await worker.ask(QUICK, X) == 200
            assert await worker.ask(QUICK, ("y", X[1])) == 400
            assert await worker.ask(SLOW, *turns(10)) == 200
            assert await worker.ask(9, X) == 503
            by_version = {load.key.version: load for load in reader.collect()}
        assert {number: load.completed for number, load in by_version.items()} == {QUICK: 4, SLOW: 1}
        total = worker.loads.total
        assert total.completed == 5, "what is refused because it is not here is none of this replica's work"
        assert abs(total.busy_s - sum(load.busy_s for load in by_version.values())) < 1e-9
        assert 0 < total.busy_s < WAIT_S


async def test_waiting_for_a_thread_is_told_apart_from_running(tmp_path: Path) -> None:
    async with rig(tmp_path) as worker:
        endless = turns(2**62)
        # The one thread computes for as long as the first client waits; the second one's request never begins.
        first = asyncio.create_task(worker.ask(SLOW, *endless, headers={"berth-timeout-ms": "1500"}))
        async with asyncio.timeout(WAIT_S):
            await worker.begun.wait()
        assert await worker.ask(SLOW, *endless, headers={"berth-timeout-ms": "300"}) == 504
        waited = worker.loads.total
        assert waited.completed == 1
        assert 0.2 < waited.queued_s <= waited.busy_s
        assert await first == 504
        total = worker.loads.total
        assert total.completed == 2
        assert total.queued_s - waited.queued_s < 0.5
        assert total.busy_s - waited.busy_s > 1.0


async def test_work_that_was_given_up_is_work(tmp_path: Path) -> None:
    async with rig(tmp_path) as worker:
        asking = asyncio.create_task(worker.ask(SLOW, *turns(2**62)))
        async with asyncio.timeout(WAIT_S):
            await worker.begun.wait()
            asking.cancel()
            await worker.loads.added.wait()
        total = worker.loads.total
        assert total.completed == 0
        assert total.busy_s > 0
