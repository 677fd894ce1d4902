"""The scripted runtime behaves like the real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from berth.errors import InvalidArgument
from berth.ids import VersionKey
from berth.model import Artifact, Signature, TensorSpec, VersionSpec
from berth.resources import Resources
from doubles.scripted_runtime import Script, ScriptedRuntime
from tests.worker.runtime_conformance import RuntimeConformance
from worker.runtimes.protocol import Array, LoadFailed

pytestmark = pytest.mark.looptime


def reshaped(inputs: Mapping[str, Array]) -> dict[str, Array]:
    try:
        return {"y": inputs["x"].reshape(inputs["shape"])}
    except ValueError:
        raise InvalidArgument("the model rejects the inputs") from None


def signature(inputs: dict[str, str]) -> Signature:
    return Signature(tuple(TensorSpec(name, datatype, ()) for name, datatype in inputs.items()), ())


SCRIPTS = {
    "double": Script(load_s=0.1, infer_s=0.01),
    "endless": Script(
        infer_s=0.5,
        signature=signature({"x": "FP32", "n": "INT64"}),
        answer=lambda inputs: {"y": inputs["x"] + inputs["n"]},
    ),
    "reshape": Script(signature=signature({"x": "FP32", "shape": "INT64"}), answer=reshaped),
    "garbage": Script(failures=[LoadFailed("not a model", permanent=True)]),
}


class ScriptedBench:
    load_patience = 1.0

    def __init__(self) -> None:
        self.runtime = ScriptedRuntime()

    def artifact(self, model: str, key: VersionKey) -> tuple[VersionSpec, Path]:
        self.runtime.scripts[key] = SCRIPTS[model]
        return VersionSpec(key, Artifact("a" * 64, 10), Resources.host(1000)), Path("/nowhere")


class TestScriptedRuntime(RuntimeConformance):
    @pytest.fixture
    async def bench(self) -> AsyncIterator[ScriptedBench]:
        bench = ScriptedBench()
        yield bench
        assert bench.runtime.loading == set()
        await bench.runtime.close()


async def test_it_follows_its_script() -> None:
    key = VersionKey("acme", "m", 1)
    spec = VersionSpec(key, Artifact("a" * 64, 10), Resources.host(1000))
    runtime = ScriptedRuntime({key: Script(failures=[LoadFailed("first", permanent=False)], measured_bytes=7)})
    with pytest.raises(LoadFailed, match="first"):
        await runtime.load(spec, Path("/nowhere"))
    loaded = await runtime.load(spec, Path("/nowhere"))
    assert await loaded.measure() == 7
    assert runtime.loads == {key: 2}
    np.testing.assert_array_equal((await loaded.infer({"x": np.ones((1, 2), np.float32)}, ["y"]))["y"], [[2, 2]])
    await loaded.unload()
    with pytest.raises(AssertionError, match="unloaded"):
        await loaded.infer({}, [])
