"""What every runtime must do, as a class of tests: subclass it in a test module and give it a `bench` fixture.

The keeper and the inference server rely on exactly this. `artifact` puts one of the models below on disk:

    double    `doubles.onnx_models.double()`: y = 2x and z = -x, both FP32 [-1, 2]
    endless   `slow_loop()`: runs for as long as its input `n` says
    reshape   `reshape()`: rejects some inputs that fit its signature
    garbage   bytes that are no model
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from berth.errors import InvalidArgument
from berth.ids import VersionKey
from berth.model import Artifact, VersionSpec
from berth.resources import Resources
from doubles import onnx_models
from worker.runtimes.protocol import LoadFailed, ModelRuntime

X = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)


class Bench(Protocol):
    """A runtime under test, and how to make something for it to load."""

    runtime: ModelRuntime
    load_patience: float
    """Seconds that a load, or giving one up, may take."""

    def artifact(self, model: str, key: VersionKey) -> tuple[VersionSpec, Path]: ...


MODELS = {
    "double": onnx_models.double(),
    "endless": onnx_models.slow_loop(),
    "reshape": onnx_models.reshape(),
    "garbage": b"no model at all",
}


class TritonBench:
    """For a Triton, whoever started it: it takes a file of any name, and does not look at the digest."""

    load_patience = 30.0

    def __init__(self, runtime: ModelRuntime, folder: Path) -> None:
        self.runtime = runtime
        self._folder = folder

    def artifact(self, model: str, key: VersionKey) -> tuple[VersionSpec, Path]:
        path = self._folder / f"{key.servable}.onnx"
        path.write_bytes(MODELS[model])
        return VersionSpec(key, Artifact("0" * 64, path.stat().st_size), Resources.host(1 << 20)), path


def key(version: int = 1, model: str = "m") -> VersionKey:
    return VersionKey("acme", model, version)


async def turn() -> None:
    """Let everything that is ready run once."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


class RuntimeConformance:
    async def test_it_loads_answers_and_unloads(self, bench: Bench) -> None:
        loaded = await bench.runtime.load(*bench.artifact("double", key()))
        assert [(spec.name, spec.datatype, spec.shape) for spec in loaded.signature.inputs] == [("x", "FP32", (-1, 2))]
        assert {(spec.name, spec.datatype, spec.shape) for spec in loaded.signature.outputs} == {
            ("y", "FP32", (-1, 2)),
            ("z", "FP32", (-1, 2)),
        }
        assert await loaded.warm_up() > 0
        assert await loaded.measure() >= 1
        answers = await loaded.infer({"x": X}, [])
        assert set(answers) == {"y", "z"}
        np.testing.assert_array_equal(answers["y"], 2 * X)
        np.testing.assert_array_equal(answers["z"], -X)
        await loaded.unload()

    async def test_only_the_outputs_asked_for_are_returned(self, bench: Bench) -> None:
        loaded = await bench.runtime.load(*bench.artifact("double", key()))
        answers = await loaded.infer({"x": X}, ["z"])
        assert set(answers) == {"z"}
        np.testing.assert_array_equal(answers["z"], -X)
        await loaded.unload()

    async def test_requests_at_once_get_their_own_answers(self, bench: Bench) -> None:
        loaded = await bench.runtime.load(*bench.artifact("double", key()))
        inputs = [np.full((1 + number % 3, 2), number, np.float32) for number in range(40)]
        answers = await asyncio.gather(*(loaded.infer({"x": array}, ["y"]) for array in inputs))
        for array, answer in zip(inputs, answers, strict=True):
            np.testing.assert_array_equal(answer["y"], 2 * array)
        await loaded.unload()

    async def test_versions_of_one_model_and_models_of_one_name_are_apart(self, bench: Bench) -> None:
        keys = [key(1), key(2), key(1, "other"), VersionKey("rival", "m", 1)]
        versions = [await bench.runtime.load(*bench.artifact("double", one)) for one in keys]
        await versions[0].unload()
        for loaded in versions[1:]:
            np.testing.assert_array_equal((await loaded.infer({"x": X}, ["y"]))["y"], 2 * X)
            await loaded.unload()

    async def test_an_unloaded_version_can_be_loaded_again(self, bench: Bench) -> None:
        for _ in range(3):
            loaded = await bench.runtime.load(*bench.artifact("double", key()))
            np.testing.assert_array_equal((await loaded.infer({"x": X}, ["y"]))["y"], 2 * X)
            await loaded.unload()

    async def test_garbage_is_refused_for_good_in_words_without_paths(self, bench: Bench) -> None:
        spec, path = bench.artifact("garbage", key())
        with pytest.raises(LoadFailed) as caught:
            await bench.runtime.load(spec, path)
        assert caught.value.permanent
        assert caught.value.reason
        assert str(path.parent) not in caught.value.reason
        loaded = await bench.runtime.load(*bench.artifact("double", key(2)))
        await loaded.unload()

    async def test_inputs_that_the_model_rejects_are_the_requests_fault(self, bench: Bench) -> None:
        loaded = await bench.runtime.load(*bench.artifact("reshape", key()))
        good = {"x": np.arange(6, dtype=np.float32), "shape": np.array([2, 3])}
        assert (await loaded.infer(good, []))["y"].shape == (2, 3)
        with pytest.raises(InvalidArgument) as caught:
            await loaded.infer({**good, "shape": np.array([4, 2])}, [])
        assert "onnxruntime_src" not in caught.value.detail
        assert (await loaded.infer(good, []))["y"].shape == (2, 3)
        await loaded.unload()

    async def test_a_cancelled_request_gives_up_and_harms_nobody(self, bench: Bench) -> None:
        endless = await bench.runtime.load(*bench.artifact("endless", key()))
        double = await bench.runtime.load(*bench.artifact("double", key(2)))
        forever = {"x": np.array(0, np.float32), "n": np.array(2**62)}
        request = asyncio.create_task(endless.infer(forever, []))
        np.testing.assert_array_equal((await double.infer({"x": X}, ["y"]))["y"], 2 * X)
        request.cancel()
        async with asyncio.timeout(bench.load_patience):
            with pytest.raises(asyncio.CancelledError):
                await request
            quick = await endless.infer({**forever, "n": np.array(3)}, [])
        assert quick["y"] == 3.0
        await double.unload()
        await endless.unload()

    async def test_a_cancelled_load_leaves_nothing_behind(self, bench: Bench) -> None:
        spec, path = bench.artifact("double", key())
        for turns in (0, 1, 2, 5):
            load = asyncio.create_task(bench.runtime.load(spec, path))
            for _ in range(turns):
                await turn()
            load.cancel()
            async with asyncio.timeout(bench.load_patience):
                with pytest.raises(asyncio.CancelledError):
                    await load
        loaded = await bench.runtime.load(spec, path)
        np.testing.assert_array_equal((await loaded.infer({"x": X}, ["y"]))["y"], 2 * X)
        await loaded.unload()

    async def test_closing_ends_what_is_loaded(self, bench: Bench) -> None:
        await bench.runtime.load(*bench.artifact("double", key()))
        async with asyncio.timeout(bench.load_patience):
            await bench.runtime.close()
