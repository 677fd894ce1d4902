"""One version in ONNX Runtime: its session, and runs of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnxruntime as ort
import structlog

from berth.errors import BerthError, Internal, InvalidArgument
from berth.model import Signature
from worker.runtimes.local import RunStopped
from worker.runtimes.onnx.lanes import LoadLane
from worker.runtimes.onnx.loading import WarmUp
from worker.runtimes.onnx.meter import Measurement
from worker.runtimes.onnx.values import Runner, rejection, runner, to_runtime
from worker.runtimes.protocol import Array

log = structlog.get_logger(__name__)

_WARMUP_S = 10.0


class OnnxRun:
    """Implements `PreparedRun`."""

    __slots__ = ("_feed", "_names", "_options", "_run", "_session")

    def __init__(self, run: Runner, session: Any, names: Sequence[str], feed: Mapping[str, Any]) -> None:
        self._run = run
        self._session = session
        self._names = names
        self._feed = feed
        self._options = ort.RunOptions()

    def compute(self) -> dict[str, Array]:
        try:
            return self._run(self._session, self._names, self._feed, self._options)
        except Exception as error:
            if self._options.terminate:
                raise RunStopped from None
            raise _fault(error) from error

    def stop(self) -> None:
        self._options.terminate = True


class OnnxVersion:
    """Implements `LocalVersion`. `freed` is called after each unload."""

    def __init__(
        self,
        name: str,
        session: Any,
        signature: Signature,
        *,
        measurement: Measurement,
        lane: LoadLane,
        freed: Callable[[], None],
    ) -> None:
        self.signature = signature
        self._name = name
        self._session: Any = session
        self._measurement = measurement
        self._lane = lane
        self._freed = freed
        self._outputs = tuple(spec.name for spec in signature.outputs)
        self._run = runner(signature)

    def __repr__(self) -> str:
        return f"<OnnxVersion {self._name}{'' if self._session is not None else ', unloaded'}>"

    def prepare(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> OnnxRun:
        session = self._session
        if session is None:
            raise Internal("the version was unloaded while it was in use")
        for name in outputs:
            if name not in self._outputs:
                raise InvalidArgument(f"the model has no output {name!r}")
        feed = {name: to_runtime(name, array) for name, array in inputs.items()}
        return OnnxRun(self._run, session, outputs or self._outputs, feed)

    async def warm_up(self) -> float:
        runs = WarmUp(self._name, self._session, self.signature)
        try:
            async with asyncio.timeout(_WARMUP_S):
                return await self._lane.run(runs.run, runs.stop)
        except TimeoutError:
            return runs.best

    async def measure(self) -> int:
        return self._measurement.finish()

    async def unload(self) -> None:
        if self._session is None:
            return
        # The thread is to have the last reference: freeing a large session takes a while.
        last, self._session = [self._session], None

        def free() -> None:
            last.clear()
            self._measurement.release()

        await self._lane.finish(free)
        self._freed()


def _fault(error: Exception) -> BerthError:
    """What a caller is told of a run that failed. ONNX Runtime's errors have no common class but `Exception`."""
    reason = rejection(error)
    if reason is not None:
        return InvalidArgument(reason)
    log.error("run failed", error=str(error))
    return Internal("the model failed while running")
