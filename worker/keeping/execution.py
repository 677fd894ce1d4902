"""Carries out the policy's actions, and records how each ended.

An action changes the state first and then starts its I/O: a load, or a drain and unload, is one task for each version.
When it ends, its done callback records the outcome. No state is read before an await and written after it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import structlog

from berth.ids import ModelKey, VersionKey
from berth.states import ServableState
from worker.core.lifecycle import Lifecycle, ServableEvent
from worker.core.policy import CancelLoad, Drain, Forget, Revive, StartLoad, retry_delay
from worker.core.stages import LoadReport, StageFailure
from worker.keeping.lending import Guard, Lending
from worker.keeping.loading import Artifacts, HeldVersion, LoadOutcome, load, unload
from worker.metrics import WorkerMetrics
from worker.runtimes.protocol import ModelRuntime

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take, in seconds, before the keeper goes on without them."""

    load: float = 300.0
    drain: float = 30.0
    unload: float = 30.0


class _Kept(NamedTuple):
    version: HeldVersion
    guard: Guard


class Execution:
    """Owns what is loaded, and the tasks that load and unload. Tells `changed` which model something happened to."""

    def __init__(
        self,
        runtime: ModelRuntime,
        artifacts: Artifacts,
        life: Lifecycle,
        lending: Lending,
        *,
        metrics: WorkerMetrics,
        patience: Patience,
        rng: random.Random,
        changed: Callable[[ModelKey], None],
    ) -> None:
        self._runtime = runtime
        self._artifacts = artifacts
        self._life = life
        self._lending = lending
        self._metrics = metrics
        self._patience = patience
        self._rng = rng
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._kept: dict[VersionKey, _Kept] = {}
        self._tasks: dict[VersionKey, asyncio.Task[Any]] = {}
        # None: nothing is begun any more, and what ends is not recorded.
        self._group: asyncio.TaskGroup | None = None

    def __repr__(self) -> str:
        return f"<Execution kept={len(self._kept)} tasks={len(self._tasks)}>"

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._tasks

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Actions may come, and their tasks belong to `group`."""
        self._group = group

    def abandon(self) -> None:
        """Record nothing any more: the process is ending."""
        self._group = None

    def carry_out(self, action: StartLoad | CancelLoad | Drain | Revive | Forget, now: float) -> None:
        match action:
            case StartLoad(key):
                spec = self._life.record(key, ServableEvent.LOAD, now).spec
                self._start(key, load(self._runtime, self._artifacts, spec, self._patience.load), self._loading_over)
            case CancelLoad(key):
                self._life.record(key, ServableEvent.CANCEL, now)
                self._tasks[key].cancel()
            case Drain(key):
                self._life.record(key, ServableEvent.DRAIN, now)
                self._lending.withdraw(key)
                self._start(key, self._drain(key), self._unloading_over)
            case Revive(key):
                self._life.record(key, ServableEvent.REVIVE, now)
                # It waits for borrowers, or has not begun: once it unloads, the state is no longer DRAINING.
                self._tasks.pop(key).cancel()
                self._lending.offer(key, self._kept[key].guard)
            case Forget(key):
                self._life.record(key, ServableEvent.FORGET, now)
                # The end of one may be the beginning of another under the same name.
                self._changed(key.model_key)

    def validate(self) -> None:
        """Assert everything that must be true between any two turns of the loop."""
        for servable in self._life.servables():
            key, state = servable.spec.key, servable.state
            assert (key in self._kept) == (state in (ServableState.AVAILABLE, ServableState.DRAINING)), (key, state)
            assert (key in self._lending.held()) == (state is ServableState.AVAILABLE), (key, state)
            busy = state in (ServableState.LOADING, ServableState.DRAINING, ServableState.UNLOADING)
            assert (key in self._tasks) == busy, (key, state)

    def _start(
        self, key: VersionKey, work: Coroutine[Any, Any, T], over: Callable[[VersionKey, asyncio.Task[T]], None]
    ) -> None:
        assert self._group is not None, "only a running keeper acts"
        task = self._group.create_task(work, name=f"keeper:{key}")
        self._tasks[key] = task
        task.add_done_callback(partial(over, key))

    # How loads end

    def _loading_over(self, key: VersionKey, task: asyncio.Task[LoadOutcome]) -> None:
        self._discharge(key, task)
        servable = self._life.find(key)
        if self._group is None or servable is None:
            return
        outcome = None if task.cancelled() else task.result()
        if servable.state is not ServableState.UNLOADING:
            self._record_load(key, outcome, self._loop.time())
        elif outcome is not None and outcome.held is not None:
            # It was cancelled, but finished first: what it made must go.
            self._start(key, unload(outcome.held, self._patience.unload), self._unloading_over)
            return
        else:
            self._life.record(key, ServableEvent.UNLOADED, self._loop.time())
            self._metrics.loads.labels("cancelled").inc()
        self._changed(key.model_key)

    def _record_load(self, key: VersionKey, outcome: LoadOutcome | None, now: float) -> None:
        if outcome is not None and outcome.held is not None:
            self._loaded(key, outcome.held, outcome.report, now)
            return
        failure = None if outcome is None else outcome.report.failure
        self._failed(key, failure, now)

    def _loaded(self, key: VersionKey, held: HeldVersion, report: LoadReport, now: float) -> None:
        self._kept[key] = kept = _Kept(held, Guard(key, held.loaded))
        self._life.record(key, ServableEvent.LOADED, now, measured_bytes=report.measured_bytes)
        self._lending.offer(key, kept.guard)
        self._metrics.loads.labels("loaded").inc()
        self._metrics.load_seconds.observe(report.seconds)
        stages = {stage.value: round(seconds, 4) for stage, seconds in report.stages.items()}
        log.info(
            "loaded", version=str(key), seconds=round(report.seconds, 4), bytes=report.measured_bytes, stages=stages
        )
        held.loaded.when_lost(partial(self._lose, key, kept))

    def _failed(self, key: VersionKey, failure: StageFailure | None, now: float) -> None:
        reason = "the load was cancelled by the runtime" if failure is None else failure.reason
        permanent = failure is not None and failure.permanent
        attempts = self._life.versions(key.model_key)[key.version].attempts
        retry_at = None if permanent else now + retry_delay(attempts, self._rng.random())
        self._life.record(key, ServableEvent.FAILED, now, reason=reason, retry_at=retry_at)
        self._metrics.loads.labels("refused" if permanent else "failed").inc()
        stage = None if failure is None else failure.stage.value
        log.warning("load failed", version=str(key), stage=stage, reason=reason, permanent=permanent)

    # How versions go

    def _lose(self, key: VersionKey, kept: _Kept, reason: str) -> None:
        """The runtime lost it: nobody gets it any more, and it is loaded anew; later and later if it goes by itself."""
        servable = self._life.find(key)
        if self._group is None or self._kept.get(key) is not kept:
            return
        if servable is None or servable.state is not ServableState.AVAILABLE:
            return  # on its way out already
        now, losses, retry_at = self._loop.time(), servable.losses, None
        # One that went with its runtime is not to blame. The first time may have been chance.
        if self._runtime.trouble is None:
            losses = servable.losses_with(now)
            if losses > 1:
                retry_at = now + retry_delay(losses - 1, self._rng.random())
        self._life.record(key, ServableEvent.LOST, now, reason=reason, retry_at=retry_at, losses=losses)
        self._lending.withdraw(key)
        del self._kept[key]
        self._metrics.lost.inc()
        log.error("lost", version=str(key), reason=reason, in_a_row=losses)
        self._start(key, unload(kept.version, self._patience.unload), self._unloading_over)
        self._changed(key.model_key)

    async def _drain(self, key: VersionKey) -> None:
        """Wait for those who have it, and unload it."""
        kept = self._kept[key]
        try:
            async with asyncio.timeout(self._patience.drain):
                await kept.guard.idle()
        except TimeoutError:
            self._metrics.forced_drains.inc()
            log.warning("unloading with requests under way", version=str(key), borrowers=kept.guard.borrowers)
        del self._kept[key]
        self._life.record(key, ServableEvent.DRAINED, self._loop.time())
        self._changed(key.model_key)
        await unload(kept.version, self._patience.unload)

    def _unloading_over(self, key: VersionKey, task: asyncio.Task[None]) -> None:
        self._discharge(key, task)
        if self._group is None or task.cancelled():
            return  # the process is ending, or the version was revived
        self._life.record(key, ServableEvent.UNLOADED, self._loop.time())
        self._metrics.unloads.inc()
        log.info("unloaded", version=str(key))
        self._changed(key.model_key)

    def _discharge(self, key: VersionKey, task: asyncio.Task[Any]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
