"""A real Triton that somebody else runs: as a process of the test's, killed, started again, emptied behind our back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
import structlog
from onnx import TensorProto
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2, service_pb2_grpc

from berth.errors import InvalidArgument, Unavailable
from berth.ids import VersionKey
from berth.model import Artifact, AspiredSet, Order, VersionSpec
from berth.resources import HOST, Resources
from berth.settings import SettingsError, environment
from berth.states import ServableState as S
from doubles import onnx_models
from tests.worker.runtime_conformance import RuntimeConformance, TritonBench
from worker.core.capacity import MemoryLimits
from worker.keeping.keeper import Keeper
from worker.metrics import WorkerMetrics
from worker.runtimes.protocol import LoadFailed, NotHeld
from worker.runtimes.triton.installation import locate
from worker.runtimes.triton.repository import Repository
from worker.runtimes.triton.sidecar import SidecarTriton
from worker.runtimes.triton.stubs import end, find_stubs
from worker.settings import TritonBackend

# One Triton for most tests, since each start takes a second; so they share a loop. Whoever attaches finds it empty.
pytestmark = [pytest.mark.triton, pytest.mark.asyncio(loop_scope="module")]

WAIT_S = 60.0
X = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


class Server:
    """A tritonserver as a pod spec would start it: it knows its repository and its port, and nothing of Berth."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.repository = folder / "repository"
        self.repository.mkdir()
        self._log = folder / "triton.log"
        self._installation = locate(home)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                self._installation.server,
                f"--model-repository={self.repository}",
                "--model-control-mode=explicit",
                f"--backend-directory={self._installation.backends}",
                "--disable-auto-complete-config",
                "--strict-readiness=false",
                "--backend-config=python,shm-default-byte-size=1048576",
                f"--backend-config=python,shm-region-prefix-name=berthtest{self._port}_",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={self._port}",
                "--allow-http=false",
                "--allow-metrics=false",
                env=self._installation.environment(environment()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        if self._process is not None and self.running:
            # With the processes of its models, as a container is killed.
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def call(self, method: str, request: Any) -> Any:
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return await getattr(stub, method)(request, timeout=WAIT_S, wait_for_ready=True)

    async def models(self) -> set[str]:
        answer = await self.call("RepositoryIndex", service_pb2.RepositoryIndexRequest(ready=True))
        return {model.name for model in answer.models}

    def clean(self) -> None:
        for region in Path("/dev/shm").glob(f"berthtest{self._port}_*"):
            region.unlink(missing_ok=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(triton_home: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    server = Server(triton_home, tmp_path_factory.mktemp("triton"))
    yield server
    await server.kill()
    server.clean()


@pytest_asyncio.fixture(loop_scope="module")
async def server(shared: Server) -> Server:
    if not shared.running:
        await shared.start()
    return shared


@contextlib.asynccontextmanager
async def attached(server: Server, **options: Any) -> AsyncIterator[SidecarTriton]:
    runtime = await SidecarTriton.attach(server.address, server.repository, **options)
    try:
        yield runtime
    finally:
        await runtime.close()


def artifact(folder: Path, data: bytes, name: str = "m") -> tuple[VersionSpec, Path]:
    path = folder / "artifacts" / name / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return VersionSpec(VersionKey("acme", name, 1), Artifact("0" * 64, len(data)), Resources.host(12_345)), path


class Lease:
    def __init__(self, path: Path) -> None:
        self.path = path

    def release(self) -> None:
        """The file stays: it is the test's."""


class Shelf:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def obtain(self, _: Artifact) -> Lease:
        return Lease(self._path)


class World:
    """A keeper over a Triton beside it: what a worker would report, and answer."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.seen: list[S] = []

    async def until(self, state: S) -> None:
        """Wait until the one version is in `state`; what was reported in between is in `seen`."""
        async with asyncio.timeout(WAIT_S):
            while True:
                status = self.keeper.statuses()[0]
                if self.seen[-1:] != [status.state]:
                    self.seen.append(status.state)
                if status.state is state:
                    return
                await self.keeper.changed(self.keeper.revision)

    async def ask(self) -> list[list[float]]:
        with self.keeper.lending.acquire(VersionKey("acme", "m", 1)) as loaded:
            answer: list[list[float]] = (await loaded.infer({"x": X}, ("y",)))["y"].tolist()
            return answer

    def reason(self) -> str:
        return self.keeper.statuses()[0].reason


@contextlib.asynccontextmanager
async def world(server: Server, folder: Path) -> AsyncIterator[World]:
    spec, path = artifact(folder, onnx_models.double())
    async with attached(server) as runtime, asyncio.TaskGroup() as tasks:
        keeper = Keeper(
            runtime, Shelf(path), MemoryLimits(Resources.host(2**30)), metrics=WorkerMetrics(CollectorRegistry())
        )
        tasks.create_task(keeper.run())
        keeper.aspire(AspiredSet(Order(1, 1), (spec,)))
        yield World(keeper)
        keeper.close()


async def test_it_serves_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    spec, path = artifact(tmp_path, onnx_models.double())
    async with attached(server) as runtime:
        loaded = await runtime.load(spec, path)
        assert runtime.trouble is None
        assert (await loaded.infer({"x": X}, ("y",)))["y"].tolist() == (X + X).tolist()
        assert await loaded.measure() == spec.reserved[HOST], "it cannot be measured from here"
        assert await server.models() == {spec.key.servable}
        model = server.repository / spec.key.servable / "1" / "model.onnx"
        assert not model.is_symlink(), "Triton does not see our files"
        with pytest.raises(InvalidArgument):
            await loaded.infer({"x": X}, ("nothing",))
        await loaded.unload()
        assert await server.models() == set()
        assert list(server.repository.iterdir()) == []
        with pytest.raises(NotHeld):
            await loaded.infer({"x": X}, ("y",))
        still, _ = await runtime.load(spec, path), None
    assert await server.models() == set(), "closing leaves Triton empty"
    with pytest.raises(NotHeld):
        await still.infer({"x": X}, ("y",))


async def test_a_triton_that_is_killed_and_comes_back(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as worker:
        await worker.until(S.AVAILABLE)
        assert await worker.ask() == (X + X).tolist()
        await server.kill()
        # Whether it had been sent when the connection was seen to break is a matter of chance.
        with pytest.raises((NotHeld, Unavailable)):
            await worker.ask()
        await worker.until(S.LOADING)
        assert worker.keeper.lending.held() == frozenset(), "what cannot be queried is not said to be available"
        await server.start()
        await worker.until(S.AVAILABLE)
        assert await worker.ask() == (X + X).tolist()
        assert set(worker.seen) <= {S.NEW, S.LOADING, S.AVAILABLE, S.UNLOADING}
        assert S.ERROR not in worker.seen, "a load waits for it"


async def test_a_restart_between_two_looks_is_noticed(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as worker:
        await worker.until(S.AVAILABLE)
        worker.seen.clear()
        await server.kill()
        await server.start()
        await worker.until(S.LOADING)
        await worker.until(S.AVAILABLE)
        assert await worker.ask() == (X + X).tolist()


async def test_a_model_that_somebody_else_unloads_is_lost(server: Server, tmp_path: Path) -> None:
    async with attached(server) as runtime:
        lost: asyncio.Queue[str] = asyncio.Queue()
        kept, gone = [await runtime.load(*artifact(tmp_path, onnx_models.double(), name)) for name in ("kept", "gone")]
        gone.when_lost(lost.put_nowait)
        await server.call("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="acme~gone~1"))
        async with asyncio.timeout(WAIT_S):
            assert await lost.get() == "Triton no longer has it"
        assert (await kept.infer({"x": X}, ("y",)))["y"].tolist() == (X + X).tolist()
        assert runtime.trouble is None


async def test_a_models_process_that_dies_is_noticed_by_its_requests(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as worker:
        await worker.until(S.AVAILABLE)
        script = server.repository / "acme~m~1" / "1" / "model.py"
        (stub,) = await asyncio.to_thread(find_stubs, server.pid, script)
        await end(stub, WAIT_S)
        worker.seen.clear()
        with pytest.raises(Unavailable):
            await worker.ask()
        await worker.until(S.LOADING)
        await worker.until(S.AVAILABLE)
        assert await worker.ask() == (X + X).tolist()


async def test_a_worker_that_starts_again_finds_triton_as_it_left_it_and_empties_it(
    server: Server, tmp_path: Path
) -> None:
    _, path = artifact(tmp_path, onnx_models.double(), "old")
    # As an earlier life of the worker, which was killed, has left it.
    earlier = Repository(server.repository, native_onnx=False, threads=1, linked=False)
    async with attached(server) as runtime:
        signature = (await runtime.load(*artifact(tmp_path, onnx_models.double(), "probe"))).signature
    await asyncio.to_thread(earlier.write, "acme~old~1", signature, path)
    await server.call("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="acme~old~1"))
    assert await server.models() == {"acme~old~1"}
    async with attached(server) as runtime:
        await runtime.load(*artifact(tmp_path, onnx_models.double(), "new"))
        assert await server.models() == {"acme~new~1"}
        assert [entry.name for entry in server.repository.iterdir()] == ["acme~new~1"]


async def test_loads_wait_for_a_triton_that_is_not_there_yet(triton_home: Path, tmp_path: Path) -> None:
    server = Server(triton_home, tmp_path)
    spec, path = artifact(tmp_path, onnx_models.double())
    async with attached(server) as runtime:
        assert runtime.trouble is not None
        loading = asyncio.create_task(runtime.load(spec, path))
        await server.start()
        try:
            async with asyncio.timeout(WAIT_S):
                loaded = await loading
            assert (await loaded.infer({"x": X}, ("y",)))["y"].tolist() == (X + X).tolist()
        finally:
            await server.kill()
            server.clean()
    async with attached(server, load_timeout_s=0.2) as runtime:
        with pytest.raises(LoadFailed, match=r"Triton does not answer|has not answered yet") as failed:
            await runtime.load(spec, path)
        assert not failed.value.permanent


async def test_the_backend_can_be_chosen(server: Server, tmp_path: Path) -> None:
    """This Triton has no onnxruntime backend."""
    spec, path = artifact(tmp_path, onnx_models.identity(TensorProto.FLOAT))
    async with attached(server, backend=TritonBackend.ONNXRUNTIME, load_timeout_s=3.0) as runtime:
        with pytest.raises(LoadFailed, match="not fit for use"):
            await runtime.load(spec, path)
        assert "onnxruntime" in str(runtime.trouble)
    async with attached(server, backend=TritonBackend.PYTHON) as runtime:
        await runtime.load(spec, path)
        assert runtime.trouble is None


def fail_to_clear(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
    """From its second time on, emptying the repository fails with each of `errors` in turn."""
    clear, coming = Repository.clear, iter([None, *errors])

    def cleared(repository: Repository) -> None:
        error = next(coming, None)
        if error is not None:
            raise error
        clear(repository)

    monkeypatch.setattr(Repository, "clear", cleared)


async def test_a_repository_that_cannot_be_emptied_is_tried_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = OSError(errno.EIO, "Input/output error")
    fail_to_clear(monkeypatch, wrong, wrong)
    async with attached(server, load_timeout_s=WAIT_S) as runtime:
        with structlog.testing.capture_logs() as logs:
            loaded = await runtime.load(*artifact(tmp_path, onnx_models.double()))
        assert (await loaded.infer({"x": X}, ("y",)))["y"].tolist() == (X + X).tolist()
        assert runtime.trouble is None
    reasons = [line["reason"] for line in logs if line["event"] == "triton is not fit for use"]
    assert reasons == ["its repository cannot be emptied: Input/output error"] * 2


async def test_a_watch_that_ends_by_a_fault_of_ours_ends_the_worker(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_clear(monkeypatch, RuntimeError("nobody thought of this"))
    lost = asyncio.Event()
    async with attached(server, on_lost=lost.set), asyncio.timeout(WAIT_S):
        await lost.wait()


@pytest.mark.parametrize("address", ["10.0.0.1:8001", "triton:8001", "127.0.0.1", "127.0.0.1:http"])
async def test_triton_is_reached_on_loopback_only(address: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="BERTH_TRITON_ADDRESS"):
        await SidecarTriton.attach(address, tmp_path / "repository")


class TestSidecarRuntime(RuntimeConformance):
    @pytest_asyncio.fixture(loop_scope="module")
    async def bench(self, server: Server, tmp_path: Path) -> AsyncIterator[TritonBench]:
        async with attached(server) as runtime:
            yield TritonBench(runtime, tmp_path)
