"""One load, stage by stage, and giving back what it made: the I/O behind the keeper's decisions.

`load` needs somewhere to fetch from, a runtime and a version's specification, and knows nothing of the keeper: a
process that only tries a version can run it as well, and say `LoadReport` of it.

Here is the boundary between one version and the rest: whatever a runtime or the store raises becomes a reason.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from berth.errors import BerthError
from berth.model import Artifact, VersionSpec
from worker.core.stages import LoadReport, Stage, StageClock, StageFailure
from worker.runtimes.protocol import Loaded, LoadFailed, ModelRuntime

log = structlog.get_logger(__name__)

# For a version that was loaded and is not wanted: bounds the end of a load that was cancelled.
_UNLOAD_S = 30.0


class ArtifactLease(Protocol):
    """An artifact on disk that stays there until it is released."""

    @property
    def path(self) -> Path: ...

    def release(self) -> None: ...


class Artifacts(Protocol):
    async def obtain(self, artifact: Artifact) -> ArtifactLease:
        """The verified artifact on local disk. Raises `BerthError` or `OSError`."""


@dataclass(slots=True)
class HeldVersion:
    """The parts of a loaded version. All must be given back: `unload` does that."""

    spec: VersionSpec
    loaded: Loaded
    lease: ArtifactLease


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """How a load ended: `held` is None if it failed, and `report` says why."""

    report: LoadReport
    held: HeldVersion | None = None


async def load(runtime: ModelRuntime, artifacts: Artifacts, spec: VersionSpec, within: float) -> LoadOutcome:
    """Fetch, load, warm up and measure one version in at most `within` seconds.

    Never raises but when it is cancelled. Then, as after a failure, nothing of the version is left.
    """
    now = asyncio.get_running_loop().time
    clock = StageClock(now())
    try:
        async with AsyncExitStack() as undo, asyncio.timeout(within):
            lease = await artifacts.obtain(spec.artifact)
            undo.callback(lease.release)
            clock.enter(Stage.LOAD, now())
            async with runtime.turn(spec):
                loaded = await runtime.load(spec, lease.path)
                undo.push_async_callback(_free, spec, loaded, _UNLOAD_S)
                clock.enter(Stage.WARM, now())
                quickest = await loaded.warm_up()
                clock.enter(Stage.MEASURE, now())
                measured = max(1, await loaded.measure())
            undo.pop_all()
    except Exception as error:
        return LoadOutcome(LoadReport(clock.stages(now()), _failure(clock.stage, error, spec, within)))
    report = LoadReport(
        clock.stages(now()), signature=loaded.signature, measured_bytes=measured, quickest_run_s=quickest
    )
    return LoadOutcome(report, HeldVersion(spec, loaded, lease))


async def unload(held: HeldVersion, within: float) -> None:
    """Give back all that a version consists of. Never raises but when it is cancelled."""
    try:
        await _free(held.spec, held.loaded, within)
    finally:
        held.lease.release()


def _failure(stage: Stage, error: Exception, spec: VersionSpec, within: float) -> StageFailure:
    """What an error means in `stage`. One that nobody thought of is logged."""
    match error:
        case LoadFailed():
            return StageFailure(stage, error.reason, error.permanent)
        case TimeoutError():
            return StageFailure(stage, f"loading took longer than {within:g} s")
        case BerthError() if stage is Stage.FETCH:
            return StageFailure(stage, f"the artifact could not be fetched: {error.detail}")
        case OSError():
            return StageFailure(stage, f"the artifact could not be stored: {error.strerror or 'I/O error'}")
    log.error("load failed unexpectedly", version=str(spec.key), stage=stage, exc_info=error)
    return StageFailure(stage, "internal error while loading; the worker's log says more")


async def _free(spec: VersionSpec, loaded: Loaded, within: float) -> None:
    try:
        async with asyncio.timeout(within):
            await loaded.unload()
    except Exception as error:
        # The boundary again; a TimeoutError is one of its cases. What could not be freed is the runtime's to answer
        # for: keeping the version in UNLOADING for ever would only lock its memory out for good.
        log.error("unload failed", version=str(spec.key), error=repr(error))
