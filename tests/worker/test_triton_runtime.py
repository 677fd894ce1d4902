"""The real Triton: what it computes, what is left of it afterwards, and how it comes back from what kills it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import ml_dtypes
import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from berth.auth.peer import PeerCredential
from berth.errors import InvalidArgument, Unavailable
from berth.ids import VersionKey
from berth.model import Artifact, Signature, TensorSpec, VersionSpec
from berth.oip.datatypes import bytes_array
from berth.resources import Resources
from berth.settings import ProcessSettings
from doubles import onnx_models
from doubles.certificates import Authority, Mount
from tests.worker.runtime_conformance import RuntimeConformance, TritonBench
from worker.runtimes.protocol import Array, LoadFailed, NotHeld
from worker.runtimes.triton.child import ChildTriton, open_triton
from worker.runtimes.triton.process import TritonServer, TritonStartFailed
from worker.runtimes.triton.repository import Repository
from worker.runtimes.triton.servable import TritonServable
from worker.runtimes.triton.stubs import ProcessWatch, find_stubs

# One Triton for most tests, since each start takes a second; so they share a loop.
pytestmark = [pytest.mark.triton, pytest.mark.asyncio(loop_scope="module")]

WAIT_S = 30.0
X = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


class Shared:
    """A Triton that is started when it is first needed, or again when a test has closed it."""

    def __init__(self, home: Path, work_dir: Path) -> None:
        self._home = home
        self._work_dir = work_dir
        self.running: ChildTriton | None = None

    async def get(self) -> ChildTriton:
        if self.running is None or self.running.server is None:
            self.running = await ChildTriton.start(self._home, self._work_dir, instance="w-1")
        return self.running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(triton_home: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    triton = Shared(triton_home, tmp_path_factory.mktemp("triton"))
    yield triton
    if triton.running is not None:
        await triton.running.close()


@pytest_asyncio.fixture(loop_scope="module")
async def runtime(shared: Shared) -> AsyncIterator[ChildTriton]:
    running = await shared.get()
    assert list(running.repository.path.iterdir()) == []
    yield running
    for servable in running.held:
        await servable.unload()


def spec(model: str = "double") -> VersionSpec:
    return VersionSpec(VersionKey("acme", model, 1), Artifact("0" * 64, 1), Resources.host(1 << 20))


class TestTritonRuntime(RuntimeConformance):
    @pytest_asyncio.fixture(loop_scope="module")
    async def bench(self, runtime: ChildTriton, tmp_path: Path) -> TritonBench:
        return TritonBench(runtime, tmp_path)


async def load(runtime: ChildTriton, folder: Path, model: bytes, name: str = "double") -> TritonServable:
    path = folder / f"{name}.onnx"
    path.write_bytes(model)
    loaded = await runtime.load(spec(name), path)
    assert isinstance(loaded, TritonServable)
    return loaded


async def doubled(servable: TritonServable) -> Array:
    return (await servable.infer({"x": X}, ("y",)))["y"]


class Lost:
    """Waits until servables are lost, as the keeper does. (It then unloads them and loads them again.)"""

    def __init__(self, *servables: TritonServable) -> None:
        self._untold = len(servables)
        self._all = asyncio.Event()
        self.reasons: list[str] = []
        for servable in servables:
            servable.when_lost(self._tell)

    def _tell(self, reason: str) -> None:
        self.reasons.append(reason)
        if len(self.reasons) == self._untold:
            self._all.set()

    async def wait(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self._all.wait()


def left_in_memory(runtime: ChildTriton) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{runtime.shm_prefix}*"))


async def test_it_answers_and_leaves_nothing(runtime: ChildTriton, tmp_path: Path) -> None:
    servable = await load(runtime, tmp_path, onnx_models.double())
    stub = servable.stub
    assert stub is not None

    assert servable.signature == Signature(
        (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "FP32", (-1, 2)))
    )
    assert 10 << 20 < await servable.measure() < 100 << 20
    both = await servable.infer({"x": X}, ())
    assert {name: array.tolist() for name, array in both.items()} == {"y": (X + X).tolist(), "z": (-X).tolist()}
    assert list(await servable.infer({"x": X}, ("z",))) == ["z"]
    assert (await servable.infer({"x": X[:0]}, ("y",)))["y"].shape == (0, 2)

    over = asyncio.Event()
    watch = ProcessWatch(stub.pid, over.set)
    await servable.unload()
    async with asyncio.timeout(WAIT_S):
        await over.wait()
    watch.close()
    assert list(runtime.repository.path.iterdir()) == []
    assert left_in_memory(runtime) == []
    with pytest.raises(NotHeld):
        await servable.infer({"x": X}, ())
    await servable.unload()


async def test_every_kind_of_tensor(runtime: ChildTriton, tmp_path: Path) -> None:
    rows: list[tuple[str, int, Array]] = [
        ("bfloat16", TensorProto.BFLOAT16, np.array([1, 2.5, -3], ml_dtypes.bfloat16)),
        ("float16", TensorProto.FLOAT16, np.array([1, 2.5, -3], np.float16)),
        ("string", TensorProto.STRING, bytes_array([b"", "é".encode(), b"x" * 3_000_000], (3,))),
        ("bool", TensorProto.BOOL, np.array([True, False])),
        ("uint64", TensorProto.UINT64, np.array([2**64 - 1], np.uint64)),
    ]
    for name, element_type, array in rows:
        servable = await load(runtime, tmp_path, onnx_models.identity(element_type), name)
        back = (await servable.infer({"x": array}, ()))["y"]
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert back.tolist() == array.tolist()


async def test_scalars_and_awkward_names(runtime: ChildTriton, tmp_path: Path) -> None:
    given, got = 'the "x"/é', "y:0\n"
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ()) for name in (given, got)]
    graph = helper.make_graph([helper.make_node("Neg", [given], [got])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    servable = await load(runtime, tmp_path, model.SerializeToString())

    answer = (await servable.infer({given: np.array(2.5, np.float32)}, ()))[got]

    assert (answer.shape, answer.tolist()) == ((), -2.5)


async def test_what_the_model_rejects(runtime: ChildTriton, tmp_path: Path) -> None:
    servable = await load(runtime, tmp_path, onnx_models.reshape())
    with pytest.raises(InvalidArgument) as caught:
        await servable.infer({"x": np.zeros(5, np.float32), "shape": np.array([2, 3], np.int64)}, ())
    assert "rejects the inputs in a Reshape node" in caught.value.detail
    assert str(tmp_path) not in caught.value.detail
    with pytest.raises(InvalidArgument, match="no output 'q'"):
        await servable.infer({"x": np.zeros(6, np.float32), "shape": np.array([2, 3], np.int64)}, ("q",))


async def test_giving_up_ends_the_computation(runtime: ChildTriton, tmp_path: Path) -> None:
    servable = await load(runtime, tmp_path, onnx_models.slow_loop())
    one = np.array(1, np.float32)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await servable.infer({"x": one, "n": np.array(2**62, np.int64)}, ())
    # The model runs one request at a time: an answer proves that the endless one has ended.
    async with asyncio.timeout(WAIT_S):
        answer = await servable.infer({"x": one, "n": np.array(3, np.int64)}, ())
    assert answer["y"].tolist() == 4


async def test_models_that_cannot_be_loaded(runtime: ChildTriton, tmp_path: Path) -> None:
    unknown = helper.make_graph(
        [helper.make_node("NoSuchOperator", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    rows = [
        (
            helper.make_model(unknown, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString(),
            "NoSuchOperator",
        ),
        (onnx_models.sequence(), "output 'y' has a type"),
        (onnx_models.external("weights.bin"), "weights in other files"),
        (onnx_models.double()[:40], "not an ONNX model"),
    ]
    for model, text in rows:
        with pytest.raises(LoadFailed) as caught:
            await load(runtime, tmp_path, model, "broken")
        assert text in caught.value.reason
        assert str(tmp_path) not in caught.value.reason
        assert caught.value.permanent
    assert list(runtime.repository.path.iterdir()) == []
    with pytest.raises(LoadFailed) as caught:
        await runtime.load(spec("gone"), tmp_path / "gone.onnx")
    assert not caught.value.permanent


async def test_a_cancelled_load_leaves_nothing(runtime: ChildTriton, tmp_path: Path) -> None:
    path = tmp_path / "double.onnx"
    path.write_bytes(onnx_models.double())
    for seconds in (0, 0.005, 0.02, 0.05, 0.1, 0.2):
        loading = asyncio.create_task(runtime.load(spec(), path))
        await asyncio.wait([loading], timeout=seconds)
        loading.cancel()
        await asyncio.wait([loading], timeout=WAIT_S)
        if not loading.cancelled():
            await loading.result().unload()  # it was quicker than the cancellation
        assert list(runtime.repository.path.iterdir()) == []
        assert runtime.server is not None
        assert find_stubs(runtime.server.pid, runtime.repository.script(spec().key.servable)) == []
    servable = await load(runtime, tmp_path, onnx_models.double())
    assert (await doubled(servable)).tolist() == (X + X).tolist()


async def test_a_models_process_that_is_killed_is_lost(runtime: ChildTriton, tmp_path: Path) -> None:
    servable = await load(runtime, tmp_path, onnx_models.double())
    bystander = await load(runtime, tmp_path, onnx_models.double(), "bystander")
    stub, lost = servable.stub, Lost(servable)
    assert stub is not None

    os.kill(stub.pid, signal.SIGKILL)
    await lost.wait()
    assert lost.reasons == ["the model's process ended unasked"]
    with pytest.raises(NotHeld):
        await servable.infer({"x": X}, ())
    assert (await doubled(bystander)).tolist() == (X + X).tolist()
    late = Lost(servable)
    await late.wait()

    await servable.unload()
    again = await load(runtime, tmp_path, onnx_models.double())
    assert (await doubled(again)).tolist() == (X + X).tolist()
    assert again.stub != stub


async def test_a_request_under_way_when_its_process_dies(runtime: ChildTriton, tmp_path: Path) -> None:
    servable = await load(runtime, tmp_path, onnx_models.slow_loop())
    assert servable.stub is not None
    endless: dict[str, np.ndarray[Any, Any]] = {"x": np.array(1, np.float32), "n": np.array(2**62, np.int64)}
    running = asyncio.create_task(servable.infer(endless, ()))
    # The model runs one request at a time: when a quick one has to wait, the endless one is being run.
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.5):
                await servable.infer({**endless, "n": np.array(0, np.int64)}, ())

    lost = Lost(servable)
    servable.stub.kill()

    # It may have had effects: not safe to send elsewhere unasked.
    with pytest.raises(Unavailable):
        async with asyncio.timeout(WAIT_S):
            await running
    await lost.wait()
    await servable.unload()
    again = await load(runtime, tmp_path, onnx_models.slow_loop())
    assert (await again.infer({**endless, "n": np.array(2, np.int64)}, ()))["y"].tolist() == 3


async def test_triton_that_is_killed_is_started_again_and_all_is_lost(runtime: ChildTriton, tmp_path: Path) -> None:
    servables = [await load(runtime, tmp_path, onnx_models.double(), f"double-{index}") for index in range(2)]
    busy = await load(runtime, tmp_path, onnx_models.slow_loop(), "busy")
    endless: dict[str, np.ndarray[Any, Any]] = {"x": np.array(1, np.float32), "n": np.array(2**62, np.int64)}
    running = asyncio.create_task(busy.infer(endless, ()))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await asyncio.shield(running)
    server = runtime.server
    assert server is not None

    lost = Lost(*servables, busy)
    os.kill(server.pid, signal.SIGKILL)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(Unavailable):
            await running
    await lost.wait()
    assert runtime.trouble == "Triton ended unasked and is being started again"
    for servable in (*servables, busy):
        with pytest.raises(NotHeld):
            await servable.infer({"x": X}, ())
        await servable.unload()
    # A load waits for the next life.
    again = await load(runtime, tmp_path, onnx_models.double(), "double-0")
    assert (await doubled(again)).tolist() == (X + X).tolist()
    assert runtime.server is not server
    assert runtime.trouble is None


async def test_a_load_outlives_the_triton_that_it_began_on(
    runtime: ChildTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = runtime.server
    assert server is not None
    loop, write, written = asyncio.get_running_loop(), Repository.write, asyncio.Event()

    def write_and_tell(repository: Repository, name: str, signature: Signature, model: Path) -> None:
        write(repository, name, signature, model)
        loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(Repository, "write", write_and_tell)
    loading = asyncio.create_task(load(runtime, tmp_path, onnx_models.double()))
    async with asyncio.timeout(WAIT_S):
        await written.wait()
    server.kill()
    async with asyncio.timeout(WAIT_S):
        servable = await loading
    assert (await doubled(servable)).tolist() == (X + X).tolist()
    assert runtime.server is not server


def write_without_script(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A version folder without its model makes Triton's load hang for ever."""
    write = Repository.write

    def incompletely(repository: Repository, written: str, signature: Signature, model: Path) -> None:
        write(repository, written, signature, model)
        if name in written:
            repository.script(written).unlink()

    monkeypatch.setattr(Repository, "write", incompletely)


async def test_a_load_that_hangs_is_ended_with_triton_if_need_be(
    triton_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_without_script(monkeypatch, "hangs")
    runtime = await ChildTriton.start(
        triton_home, tmp_path / "work", instance="w-1", load_timeout_s=10.0, give_up_s=0.5
    )
    try:
        servable = await load(runtime, tmp_path, onnx_models.double())
        runtime.load_timeout_s, lost = 0.5, Lost(servable)
        with pytest.raises(LoadFailed) as caught:
            await load(runtime, tmp_path, onnx_models.double(), "hangs")
        assert caught.value.permanent
        assert "could not be stopped" in caught.value.reason
        runtime.load_timeout_s = 10.0
        await lost.wait()
        await servable.unload()
        again = await load(runtime, tmp_path, onnx_models.double())
        assert (await doubled(again)).tolist() == (X + X).tolist()
    finally:
        await runtime.close()


async def test_a_slow_load_costs_only_its_own_process(triton_home: Path, tmp_path: Path) -> None:
    runtime = await ChildTriton.start(triton_home, tmp_path / "work", instance="w-1", load_timeout_s=10.0)
    try:
        servable = await load(runtime, tmp_path, onnx_models.double())
        server, runtime.load_timeout_s = runtime.server, 0.05
        with pytest.raises(LoadFailed, match=r"longer than 0\.05 s") as caught:
            await load(runtime, tmp_path, onnx_models.double(), "slow")
        assert not caught.value.permanent
        assert runtime.server is server
        assert (await doubled(servable)).tolist() == (X + X).tolist()
    finally:
        await runtime.close()


async def test_mutual_tls_guards_tritons_port(triton_home: Path, tmp_path: Path) -> None:
    files = Authority(tmp_path / "pki").issue("worker")
    credential = PeerCredential.from_settings(ProcessSettings(tls_cert=files.cert, tls_key=files.key, tls_ca=files.ca))
    async with open_triton(triton_home, tmp_path / "work", instance="w-1", credential=credential) as runtime:
        servable = await load(runtime, tmp_path, onnx_models.double())
        assert (await doubled(servable)).tolist() == (X + X).tolist()
        assert runtime.server is not None
        async with grpc.aio.insecure_channel(runtime.server.link.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5)


async def test_certificates_are_replaced_under_a_running_triton(triton_home: Path, tmp_path: Path) -> None:
    """It keeps those that it has started with; its next life gets the new ones. None carries its address."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new", "new authority")
    mount = Mount(tmp_path / "mount", old.issue("worker", names=["berth.internal"], addresses=[]))
    cert, key, ca = mount.files
    credential = PeerCredential.from_settings(
        ProcessSettings(tls_cert=cert, tls_key=key, tls_ca=ca, tls_peer_name="berth.internal")
    )
    async with open_triton(triton_home, tmp_path / "work", instance="w-1", credential=credential) as runtime:
        servable = await load(runtime, tmp_path, onnx_models.double())
        mount.swap(new.issue("worker", names=["berth.internal"], addresses=[]))
        assert (await doubled(servable)).tolist() == (X + X).tolist()
        lost = Lost(servable)
        assert runtime.server is not None
        runtime.server.kill()
        await lost.wait()
        await servable.unload()
        again = await load(runtime, tmp_path, onnx_models.double())
        assert (await doubled(again)).tolist() == (X + X).tolist()


async def test_a_worker_that_is_killed_leaves_no_triton(triton_home: Path, tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from worker.runtimes.triton.child import open_triton
        async def main():
            async with open_triton(Path(sys.argv[1]), Path(sys.argv[2]), instance="w-1") as runtime:
                print("pid", runtime.server.pid, flush=True)
                await asyncio.Event().wait()
        asyncio.run(main())
    """)
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, triton_home, tmp_path / "work",
        cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdout is not None
    async with asyncio.timeout(WAIT_S):
        while not (line := await worker.stdout.readline()).startswith(b"pid "):
            assert line, "the worker ended"
    over = asyncio.Event()
    watch = ProcessWatch(int(line.split()[1]), over.set)

    worker.kill()

    async with asyncio.timeout(WAIT_S):
        await worker.wait()
        await over.wait()
    watch.close()


async def test_the_worker_is_told_when_triton_cannot_come_back(
    triton_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail_to_start(*_: Any, **__: Any) -> TritonServer:
        raise TritonStartFailed("somebody has removed it")

    lost = asyncio.Event()
    runtime = await ChildTriton.start(triton_home, tmp_path / "work", instance="w-1", on_lost=lost.set)
    try:
        server = runtime.server
        assert server is not None
        monkeypatch.setattr(TritonServer, "start", fail_to_start)
        server.kill()
        async with asyncio.timeout(WAIT_S):
            await lost.wait()
    finally:
        await runtime.close()
