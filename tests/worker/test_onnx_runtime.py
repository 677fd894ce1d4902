"""The real ONNX Runtime: the conformance suite, and what is its own: datatypes, hostile models, memory, threads."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from berth.errors import Internal, InvalidArgument
from berth.ids import VersionKey
from berth.model import Artifact, TensorSpec, VersionSpec
from berth.resources import Resources
from berth.settings import SettingsError
from doubles import onnx_models
from tests.worker.runtime_conformance import MODELS, RuntimeConformance, turn
from worker.core.stages import Stage
from worker.keeping.loading import load, unload
from worker.runtimes.onnx import values
from worker.runtimes.onnx.runtime import OnnxRuntime
from worker.runtimes.onnx.values import safe_text
from worker.runtimes.protocol import Array, LoadFailed
from worker.scheduling.local import ScheduledRuntime, ScheduledVersion


class OnnxBench:
    load_patience = 10.0

    def __init__(self, runtime: ScheduledRuntime, folder: Path) -> None:
        self.runtime = runtime
        self._folder = folder

    def artifact(self, model: str, key: VersionKey) -> tuple[VersionSpec, Path]:
        return self.place(MODELS[model], key)

    def place(self, data: bytes, key: VersionKey | None = None) -> tuple[VersionSpec, Path]:
        digest = hashlib.sha256(data).hexdigest()
        path = self._folder / digest / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return VersionSpec(key or VersionKey("acme", "m", 1), Artifact(digest, len(data)), Resources.host(1000)), path

    async def load(self, data: bytes) -> ScheduledVersion:
        loaded = await self.runtime.load(*self.place(data))
        await loaded.warm_up()
        return loaded


class OneArtifact:
    """Where a version is fetched from that lies on this disk, and what it is then leased as."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def obtain(self, artifact: Artifact) -> OneArtifact:
        return self

    def release(self) -> None:
        """The file is the test's."""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[OnnxBench]:
    runtime = ScheduledRuntime(OnnxRuntime(intra_op_threads=1, providers="cpu"), threads=2)
    yield OnnxBench(runtime, tmp_path)
    await runtime.close()


class TestOnnxRuntime(RuntimeConformance):
    pass


@pytest.mark.parametrize(
    ("element_type", "datatype", "values"),
    [
        (TensorProto.BOOL, "BOOL", np.array([True, False])),
        (TensorProto.UINT8, "UINT8", np.array([0, 255], np.uint8)),
        (TensorProto.UINT16, "UINT16", np.array([0, 65535], np.uint16)),
        (TensorProto.UINT32, "UINT32", np.array([0, 2**32 - 1], np.uint32)),
        (TensorProto.UINT64, "UINT64", np.array([0, 2**64 - 1], np.uint64)),
        (TensorProto.INT8, "INT8", np.array([-128, 127], np.int8)),
        (TensorProto.INT16, "INT16", np.array([-(2**15), 2**15 - 1], np.int16)),
        (TensorProto.INT32, "INT32", np.array([-(2**31), 2**31 - 1], np.int32)),
        (TensorProto.INT64, "INT64", np.array([-(2**63), 2**63 - 1], np.int64)),
        (TensorProto.FLOAT16, "FP16", np.array([1.5, -0.0], np.float16)),
        (TensorProto.FLOAT, "FP32", np.array([1.5, np.inf], np.float32)),
        (TensorProto.DOUBLE, "FP64", np.array([1e300, -1.0])),
        (TensorProto.BFLOAT16, "BF16", np.array([1.5, -3.0], ml_dtypes.bfloat16)),
        (TensorProto.STRING, "BYTES", np.array([b"a", "b\u00e9\0c".encode()], object)),
    ],
)
async def test_every_datatype_passes_through_unchanged(
    bench: OnnxBench, element_type: int, datatype: str, values: Array
) -> None:
    loaded = await bench.load(onnx_models.identity(element_type))
    assert [spec.datatype for spec in (*loaded.signature.inputs, *loaded.signature.outputs)] == [datatype] * 2
    answer = (await loaded.infer({"x": values}, []))["y"]
    assert answer.dtype == values.dtype
    assert answer.tolist() == values.tolist()
    empty = (await loaded.infer({"x": values[:0]}, []))["y"]
    assert empty.shape == (0,)


@pytest.mark.parametrize(
    ("shape", "signature"),
    [((), ()), ((3,), (3,)), ((None, "N", 3), (-1, -1, 3))],
)
async def test_shapes(bench: OnnxBench, shape: tuple[int | str | None, ...], signature: tuple[int, ...]) -> None:
    loaded = await bench.load(onnx_models.identity(TensorProto.FLOAT, shape))
    assert loaded.signature.inputs[0].shape == signature
    array = np.ones([1 if extent < 0 else extent for extent in signature], np.float32)
    assert (await loaded.infer({"x": array}, []))["y"].shape == array.shape


async def test_a_linear_model_computes(bench: OnnxBench) -> None:
    loaded = await bench.load(onnx_models.linear([[1, 2], [3, 4]], [10, 20]))
    answer = await loaded.infer({"x": np.array([[1, 1]], np.float32)}, ["y"])
    np.testing.assert_array_equal(answer["y"], [[14, 26]])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": np.ones((1, 5), np.float32)}, "Got invalid dimensions"),
        ({"x": np.ones((1, 2), np.float64)}, "Unexpected input data type"),
        ({}, "missing from input feed"),
        ({"x": np.ones((1, 2), np.float32), "q": np.ones(1)}, "Invalid input name: q"),
    ],
)
async def test_wrong_inputs(bench: OnnxBench, inputs: dict[str, Array], words: str) -> None:
    loaded = await bench.load(onnx_models.double())
    with pytest.raises(InvalidArgument, match=words):
        await loaded.infer(inputs, [])


async def test_an_output_that_does_not_exist(bench: OnnxBench) -> None:
    loaded = await bench.load(onnx_models.double())
    with pytest.raises(InvalidArgument, match="no output 'nope'"):
        await loaded.infer({"x": np.ones((1, 2), np.float32)}, ["y", "nope"])


async def test_bytes_that_are_no_text(bench: OnnxBench) -> None:
    loaded = await bench.load(onnx_models.identity(TensorProto.STRING))
    with pytest.raises(InvalidArgument, match="UTF-8"):
        await loaded.infer({"x": np.array([b"\xff"], object)}, [])


async def test_a_request_for_more_memory_than_there_is_fails_alone(bench: OnnxBench) -> None:
    loaded = await bench.load(onnx_models.fill())
    with pytest.raises(Internal):
        await loaded.infer({"shape": np.array([2**30, 2**20])}, [])
    assert (await loaded.infer({"shape": np.array([2, 2])}, []))["y"].shape == (2, 2)


async def test_a_use_after_the_unload_is_a_clean_error(bench: OnnxBench) -> None:
    loaded = await bench.load(onnx_models.double())
    await loaded.unload()
    await loaded.unload()
    with pytest.raises(Internal):
        await loaded.infer({"x": np.ones((1, 2), np.float32)}, [])


# What cannot be loaded


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(onnx_models.mlp(16, 2)[:400], id="truncated"),
        pytest.param(onnx_models.sequence(), id="sequence"),
        pytest.param(onnx_models.identity(TensorProto.COMPLEX64), id="a type without name in OIP"),
        pytest.param(onnx_models.double().replace(b"Neg", b"Gen"), id="unknown operator"),
        pytest.param(onnx_models.external("/etc/hostname"), id="external, absolute"),
        pytest.param(onnx_models.external("../secret"), id="external, up"),
        pytest.param(onnx_models.external("secret"), id="external, beside"),
    ],
)
async def test_what_cannot_be_loaded_is_refused_for_good(bench: OnnxBench, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(np.arange(12, dtype=np.float32).tobytes())
    with pytest.raises(LoadFailed) as caught:
        await bench.load(data)
    assert caught.value.permanent
    assert str(tmp_path) not in caught.value.reason
    assert "onnxruntime_src" not in caught.value.reason


async def test_files_in_the_current_directory_are_no_weights(
    bench: OnnxBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(np.arange(12, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadFailed) as caught:
        await bench.load(onnx_models.external("secret"))
    assert caught.value.permanent


async def test_an_artifact_beside_other_files_is_not_loaded(bench: OnnxBench) -> None:
    """It could name them as its weights, and ONNX Runtime would read them."""
    spec, path = bench.place(onnx_models.external("neighbour"))
    (path.parent / "neighbour").write_bytes(np.arange(12, dtype=np.float32).tobytes())
    with pytest.raises(LoadFailed, match="alone"):
        await bench.runtime.load(spec, path)


async def test_a_file_that_has_vanished_may_come_back(bench: OnnxBench, tmp_path: Path) -> None:
    spec, _ = bench.place(onnx_models.double())
    with pytest.raises(LoadFailed) as caught:
        await bench.runtime.load(spec, tmp_path / "gone" / "model.onnx")
    assert not caught.value.permanent
    assert str(tmp_path) not in caught.value.reason


def test_cuda_that_is_not_there_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="BERTH_PROVIDERS"):
        OnnxRuntime(providers="cuda")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Load /var/cache/berth/ab/model.onnx failed", "Load … failed"),
        (
            "/onnxruntime_src/core/reshape_helper.h:91 onnxruntime::F(const T&) a == b was false. Input shape:{6}",
            "Input shape:{6}",
        ),
        ("two\nlines", "two lines"),
        ("x" * 1000, "x" * 499 + "…"),
        ("1/2 and a/b stay", "1/2 and a/b stay"),
    ],
)
def test_error_texts_tell_nothing_of_the_machine(text: str, safe: str) -> None:
    assert safe_text(text) == safe


async def test_stage_by_stage_without_a_keeper(bench: OnnxBench) -> None:
    """As a process would that only tries a version."""
    spec, path = bench.place(onnx_models.double())
    outcome = await load(bench.runtime, OneArtifact(path), spec, within=30.0)
    report, held = outcome.report, outcome.held
    assert held is not None
    assert report.failure is None
    assert list(report.stages) == list(Stage)
    assert all(seconds > 0 for seconds in report.stages.values())
    assert report.signature == held.loaded.signature
    assert 0 < report.quickest_run_s < 1
    assert report.measured_bytes > 0
    await unload(held, within=30.0)


# Where it runs


async def test_a_quick_model_runs_on_the_loop_and_a_heavy_one_in_the_pool(bench: OnnxBench) -> None:
    assert "loop" in repr(await bench.load(onnx_models.double()))
    assert "pool" in repr(await bench.load(onnx_models.slow_loop(20_000)))


async def test_without_a_warm_up_the_first_run_tells_where_it_belongs(
    bench: OnnxBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runtimes.onnx.loading._WARMUP_BYTES", 0)
    monkeypatch.setattr("worker.core.pace.QUICK_S", 10.0)
    loaded = await bench.load(onnx_models.double())
    assert "pool" in repr(loaded)
    await loaded.infer({"x": np.ones((1, 2), np.float32)}, [])
    assert "loop" in repr(loaded)


async def test_a_model_that_is_quick_on_zeros_and_then_is_not_holds_up_the_loop_once(bench: OnnxBench) -> None:
    loaded = await bench.load(onnx_models.slow_loop())
    assert "loop" in repr(loaded), "its warm-up does nothing"
    inputs = {"x": np.array(0, np.float32), "n": np.array(200_000)}
    assert (await loaded.infer(inputs, []))["y"] == 200_000.0, "the answer is right all the same"
    assert "pool" in repr(loaded)


async def test_a_deadline_ends_a_run(bench: OnnxBench) -> None:
    loaded = await bench.load(onnx_models.slow_loop())
    endless = {"x": np.array(0, np.float32), "n": np.array(2**62)}
    async with asyncio.timeout(10):
        for _ in range(5):  # more than there are threads: each must come back
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await loaded.infer(endless, [])
        assert (await loaded.infer({**endless, "n": np.array(1)}, []))["y"] == 1.0


async def test_a_request_cancelled_while_it_waits_for_a_thread_never_begins(bench: OnnxBench) -> None:
    loaded = await bench.load(onnx_models.slow_loop())
    endless = {"x": np.array(0, np.float32), "n": np.array(2**62)}
    loop = asyncio.get_running_loop()
    begun: asyncio.Queue[str] = asyncio.Queue()

    def ask(name: str) -> asyncio.Task[dict[str, Array]]:
        def started() -> None:
            loop.call_soon_threadsafe(begun.put_nowait, name)

        return asyncio.create_task(loaded.infer(endless, [], started))

    with_thread = [ask("thread") for _ in range(2)]
    async with asyncio.timeout(10):
        assert [await begun.get() for _ in with_thread] == ["thread", "thread"]
        waiting = ask("waited")
        await turn()
        waiting.cancel()
        await asyncio.wait([waiting])
        for task in with_thread:
            task.cancel()
        await asyncio.wait(with_thread)
        await loaded.infer({**endless, "n": np.array(1)}, [])
    assert begun.empty()


async def test_a_warm_up_without_end_is_ended(bench: OnnxBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runtimes.onnx.version._WARMUP_S", 0.1)
    async with asyncio.timeout(10):
        loaded = await bench.load(onnx_models.slow_loop(2**62))
    assert "pool" in repr(loaded)


async def test_a_warm_up_is_cancelled(bench: OnnxBench, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, begun = asyncio.get_running_loop(), asyncio.Event()

    def smallest(spec: TensorSpec) -> Array:
        loop.call_soon_threadsafe(begun.set)
        return values.smallest(spec)

    monkeypatch.setattr("worker.runtimes.onnx.loading.smallest", smallest)
    loaded = await bench.runtime.load(*bench.place(onnx_models.slow_loop(2**62)))
    warming = asyncio.create_task(loaded.warm_up())
    async with asyncio.timeout(10):
        await begun.wait()
        warming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await warming
        await loaded.unload()


# Memory


async def test_measured_memory_follows_the_weights(bench: OnnxBench) -> None:
    small = await bench.load(onnx_models.linear([[1.0]]))
    assert 20_000 < await small.measure() < 400_000
    data = onnx_models.mlp(512, 4)
    large = await bench.load(data)
    assert 0.9 * len(data) < await large.measure() < 1.6 * len(data)
