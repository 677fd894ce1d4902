"""A runtime that does what a script says, on the event loop's time: for virtual-time tests of what is above it.

It passes the same conformance suite as the real runtimes. It knows them by shape only, so errors that a load is to
raise are put into the script by the test that imports them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from berth.errors import InvalidArgument
from berth.ids import VersionKey
from berth.model import Artifact, Signature, TensorSpec, VersionSpec

Array = npt.NDArray[Any]
Answer = Callable[[Mapping[str, Array]], dict[str, Array]]


def doubled(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What `doubles.onnx_models.double` answers."""
    return {"y": inputs["x"] + inputs["x"], "z": -inputs["x"]}


_DOUBLE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "FP32", (-1, 2))),
)


@dataclass(slots=True)
class Script:
    """How one version behaves: seconds, and for each load in turn the error it ends with (None, or past the end: none).

    `answer` may raise `InvalidArgument`. By default the version is `double`.
    """

    load_s: float = 0.0
    failures: Sequence[Exception | None] = ()
    infer_s: float = 0.0
    unload_s: float = 0.0
    unload_error: Exception | None = None
    measured_bytes: int = 1000
    signature: Signature = _DOUBLE
    answer: Answer = doubled


class ScriptedRuntime:
    """`scripts` by version; what has none follows `default`. Its state is there to be asserted."""

    in_container = True
    on_gpu = False
    trouble: str | None = None

    def __init__(self, scripts: Mapping[VersionKey, Script] | None = None, default: Script | None = None) -> None:
        self.scripts = dict(scripts or {})
        self.default = default or Script()
        self.held: dict[VersionKey, ScriptedServable] = {}
        self.loading: set[VersionKey] = set()
        self.loads: dict[VersionKey, int] = {}
        self.most_at_once = 0
        self.closed = False

    def turn(self, spec: VersionSpec) -> AbstractAsyncContextManager[None]:
        """Nobody's: what a script takes is known."""
        return nullcontext()

    async def load(self, spec: VersionSpec, path: Path) -> ScriptedServable:
        key = spec.key
        script = self.scripts.get(key, self.default)
        attempt = self.loads.get(key, 0)
        self.loads[key] = attempt + 1
        self.loading.add(key)
        self.most_at_once = max(self.most_at_once, len(self.loading))
        try:
            await asyncio.sleep(script.load_s)
        finally:
            self.loading.discard(key)
        failure = script.failures[attempt] if attempt < len(script.failures) else None
        if failure is not None:
            raise failure
        if key in self.held:
            raise AssertionError(f"{key} is loaded twice")
        self.held[key] = ScriptedServable(self, key, script)
        return self.held[key]

    async def close(self) -> None:
        self.held.clear()
        self.closed = True


class ScriptedServable:
    def __init__(self, runtime: ScriptedRuntime, key: VersionKey, script: Script) -> None:
        self._runtime = runtime
        self._key = key
        self._script = script
        self.signature = script.signature
        self.running = 0
        self._tell: Callable[[str], None] | None = None

    async def warm_up(self) -> float:
        """It is as warm as it will be."""
        return self._script.infer_s or float("inf")

    async def measure(self) -> int:
        return self._script.measured_bytes

    def when_lost(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def lose(self, reason: str) -> None:
        """As a runtime in another process may."""
        assert self._tell is not None, "nobody wants to know"
        self._tell(reason)

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> None:
        """Never: scripts take time."""

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], started: Callable[[], None] = lambda: None
    ) -> dict[str, Array]:
        started()
        if self._runtime.held.get(self._key) is not self:
            raise AssertionError(f"{self._key} is asked after it was unloaded")
        self.running += 1
        try:
            await asyncio.sleep(self._script.infer_s)
        finally:
            self.running -= 1
        answers = self._script.answer(inputs)
        unknown = set(outputs) - answers.keys()
        if unknown:
            raise InvalidArgument(f"the model has no output {min(unknown)!r}")
        return {name: np.asarray(answers[name]) for name in outputs or answers}

    async def unload(self) -> None:
        await asyncio.sleep(self._script.unload_s)
        if self._runtime.held.get(self._key) is self:
            del self._runtime.held[self._key]
        if self._script.unload_error is not None:
            raise self._script.unload_error


@dataclass(slots=True)
class ScriptedLease:
    """A lease on an artifact that is nowhere."""

    path: Path
    artifacts: ScriptedArtifacts
    digest: str

    def release(self) -> None:
        self.artifacts.leased.remove(self.digest)


@dataclass(slots=True)
class ScriptedArtifacts:
    """Stands in for the artifact cache where no runtime reads files: `fetch_s` seconds, and failures in turn."""

    fetch_s: float = 0.0
    failures: list[Exception] = field(default_factory=list)
    leased: list[str] = field(default_factory=list)

    async def obtain(self, artifact: Artifact) -> ScriptedLease:
        await asyncio.sleep(self.fetch_s)
        if self.failures:
            raise self.failures.pop(0)
        self.leased.append(artifact.sha256)
        return ScriptedLease(Path("/nowhere") / artifact.sha256, self, artifact.sha256)
