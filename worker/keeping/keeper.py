"""Makes a runtime hold the aspired versions, and lends them to requests.

The state of every version has one home, `Lifecycle`; what is lent lies in `_lent`. Each fact changes the state first,
then `_look` asks the policy what follows from it, records the decision and starts the I/O that carries it out. A load
or a drain is one task; when it ends, its done callback records the outcome. No state is read before an await and
written after it. Everything here runs on one event loop and nothing is locked.

One version's fault ends with that version: whatever a runtime or the store raises becomes its `ERROR`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from berth.ids import ModelKey, VersionKey
from berth.model import NEVER, AspiredSet, Order, ServableStatus
from berth.resources import HOST
from berth.states import ServableState
from worker.core.capacity import MemoryLimits
from worker.core.lifecycle import Acceptance, Lifecycle, ServableEvent
from worker.core.policy import CancelLoad, Defer, Drain, Forget, Revive, StartLoad, next_actions, retry_delay
from worker.keeping.lending import Changes, Guard
from worker.keeping.loading import Artifacts, HeldVersion, LoadResult, load, unload
from worker.metrics import WorkerMetrics
from worker.runtimes.protocol import Loaded, ModelRuntime, NotHeld

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Models looked at before other work gets its turn: about a millisecond.
_LOOKS_PER_TURN = 100
# Timers may fire a tick of the clock early; a look that comes too early would have to be repeated.
_TICK_S = 0.001


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take, in seconds, before the keeper goes on without them."""

    load: float = 300.0
    drain: float = 30.0
    unload: float = 30.0


class Keeper:
    """Implements `Servables`. `run` does the work; `aspire` says what it is."""

    def __init__(
        self,
        runtime: ModelRuntime,
        artifacts: Artifacts,
        limits: MemoryLimits,
        *,
        metrics: WorkerMetrics,
        patience: Patience | None = None,
        rng: random.Random | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._runtime = runtime
        self._artifacts = artifacts
        self._limits = limits
        self._metrics = metrics
        self._patience = patience or Patience()
        self._rng = rng or random.Random()
        self._loop = asyncio.get_running_loop()
        # The core's clock is the loop's, which never jumps; reports are in seconds since the Unix epoch.
        self._epoch = wall() - self._loop.time()
        self._life = Lifecycle(limits)
        self._held: dict[VersionKey, HeldVersion] = {}
        # What can be acquired now: a subset of `_held`. The hot path reads this dict and nothing else.
        self._lent: dict[VersionKey, Guard] = {}
        self._lent_keys: frozenset[VersionKey] | None = None
        self._tasks: dict[VersionKey, asyncio.Task[Any]] = {}
        self._group: asyncio.TaskGroup | None = None
        # Models to look at, and those that wait for room in the ledger; both oldest first.
        self._dirty: dict[ModelKey, None] = {}
        self._blocked: dict[ModelKey, None] = {}
        self._timers: dict[ModelKey, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._changes = Changes()
        self._closing = False
        self._ending = False

    def __repr__(self) -> str:
        return (
            f"<Keeper {self._life!r} lent={len(self._lent)} tasks={len(self._tasks)} dirty={len(self._dirty)} "
            f"blocked={len(self._blocked)}{' closing' if self._closing else ''}>"
        )

    # Lending

    def acquire(self, key: VersionKey) -> AbstractContextManager[Loaded]:
        """Borrow a version: it is not unloaded while the context is open. Raises `NotHeld`. Never waits."""
        try:
            return self._lent[key]
        except KeyError:
            raise NotHeld(str(key)) from None

    def held(self) -> frozenset[VersionKey]:
        """The versions that can be acquired now."""
        if self._lent_keys is None:
            self._lent_keys = frozenset(self._lent)
        return self._lent_keys

    # What it should hold

    @property
    def order(self) -> Order:
        """The order of the newest aspired set that was accepted."""
        return self._life.order

    @property
    def aspires(self) -> bool:
        """Whether there is anything that it should hold."""
        return self._life.aspires

    @property
    def settled(self) -> bool:
        """Whether it was told what to hold, and has loaded or tried to load all of it; what waits, waits for memory."""
        return self._life.order != NEVER and not self._dirty and not self._life.ledger.total.loads

    def aspire(self, aspired: AspiredSet) -> Acceptance:
        """Follow `aspired` from now on, unless it is refused. Raises `InvalidArgument` if it contradicts itself."""
        if self._closing:
            return Acceptance.REFUSED
        acceptance, changed = self._life.accept(aspired, self._loop.time())
        if acceptance is Acceptance.REFUSED:
            self._metrics.refused_sets.inc()
            log.warning("aspired set refused", order=tuple(aspired.order), held=tuple(self._life.order))
        if acceptance is Acceptance.ACCEPTED:
            self._touch(changed)
            self._changes.publish()
        return acceptance

    # What it holds

    @property
    def revision(self) -> int:
        """Grows whenever `statuses` or `order` change."""
        return self._changes.revision

    async def changed(self, seen: int) -> int:
        """Wait until the revision is no longer `seen`, and return it."""
        return await self._changes.after(seen)

    def statuses(self) -> tuple[ServableStatus, ...]:
        """Every version here and its state, in order of keys."""
        return tuple(
            ServableStatus(
                servable.spec.key,
                servable.state,
                servable.reason,
                round(servable.since + self._epoch, 3),
                servable.measured_bytes,
                servable.attempts,
            )
            for servable in sorted(self._life.servables(), key=lambda servable: servable.spec.key)
        )

    @property
    def memory_limit(self) -> int:
        return self._limits.memory[HOST]

    @property
    def memory_used(self) -> int:
        """Measured bytes of what is held, plus reserved bytes of what is being loaded.

        Without what the process itself takes: it is to be compared with `memory_limit`, which bounds versions only.
        """
        return self._life.ledger.total.used

    # The work

    async def run(self) -> None:
        """Work until `close` was called and everything is unloaded. Cancelling it ends all work at once instead."""
        try:
            async with asyncio.TaskGroup() as self._group:
                try:
                    while not (self._closing and not self._tasks and not self._dirty):
                        await self._wake.wait()
                        self._wake.clear()
                        await self._look_at_all()
                except BaseException:
                    self._closing = self._ending = True
                    raise
        finally:
            self._group = None
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    def close(self) -> None:
        """Refuse further sets and let go of everything; `run` ends when that is done, within `Patience`."""
        if not self._closing:
            self._closing = True
            self._touch(self._life.release(self._loop.time()))
            self._changes.publish()

    def _touch(self, models: Iterable[ModelKey]) -> None:
        self._dirty.update(dict.fromkeys(models))
        self._wake.set()

    async def _look_at_all(self) -> None:
        while self._dirty:
            for model in list(self._dirty)[:_LOOKS_PER_TURN]:
                del self._dirty[model]
                self._look(model)
            await asyncio.sleep(0)
        for turn, model in enumerate(list(self._blocked), start=1):
            if self._life.ledger.total.loads >= self._limits.max_loads:
                break
            self._look(model)
            if turn % _LOOKS_PER_TURN == 0:
                await asyncio.sleep(0)

    def _look(self, model: ModelKey) -> None:
        """Carry out what the policy says of one model, synchronously; the I/O is left to tasks."""
        timer = self._timers.pop(model, None)
        if timer is not None:
            timer.cancel()
        now = self._loop.time()
        blocked, until = False, float("inf")
        for action in next_actions(self._life.versions(model), self._life.aspired(model), self._life.ledger, now):
            if not isinstance(action, Defer):
                self._carry_out(action, now)
                self._changes.publish()
            else:
                if self._life.explain(action.key, action.reason):
                    self._changes.publish()
                if action.until is None:
                    blocked = True
                else:
                    until = min(until, action.until)
        if blocked:
            self._blocked.setdefault(model)
        else:
            self._blocked.pop(model, None)
        if until != float("inf"):
            self._timers[model] = self._loop.call_at(until + _TICK_S, self._touch, [model])

    def _carry_out(self, action: StartLoad | CancelLoad | Drain | Revive | Forget, now: float) -> None:
        match action:
            case StartLoad(key):
                servable = self._life.record(key, ServableEvent.LOAD, now)
                self._start(
                    key, load(self._runtime, self._artifacts, servable.spec, self._patience.load), self._settle_load
                )
            case CancelLoad(key):
                self._life.record(key, ServableEvent.CANCEL, now)
                self._tasks[key].cancel()
            case Drain(key):
                self._life.record(key, ServableEvent.DRAIN, now)
                self._lent.pop(key).open = False
                self._lent_keys = None
                self._start(key, self._let_go(key), self._settle_unload)
            case Revive(key):
                self._life.record(key, ServableEvent.REVIVE, now)
                # It waits for borrowers, or has not begun: once it unloads, the state is no longer DRAINING.
                self._tasks.pop(key).cancel()
                self._lend(key)
            case Forget(key):
                self._life.record(key, ServableEvent.FORGET, now)
                # The end of one may be the beginning of another under the same name.
                self._touch([key.model_key])

    def _lend(self, key: VersionKey) -> None:
        guard = self._held[key].guard
        guard.open = True
        self._lent[key] = guard
        self._lent_keys = None

    def _start(
        self, key: VersionKey, work: Coroutine[Any, Any, T], settle: Callable[[VersionKey, asyncio.Task[T]], None]
    ) -> None:
        assert self._group is not None, "only run() looks"
        task = self._group.create_task(work, name=f"keeper:{key}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: settle(key, done))

    def _settle_load(self, key: VersionKey, task: asyncio.Task[LoadResult]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        servable = self._life.find(key)
        if self._ending or servable is None:
            return
        now = self._loop.time()
        result = None if task.cancelled() else task.result()
        if servable.state is ServableState.UNLOADING:
            # It was cancelled. If the load was quicker than that, what it made must go.
            if result is not None and result.held is not None:
                self._start(key, unload(key, result.held, self._patience.unload), self._settle_unload)
                return
            self._life.record(key, ServableEvent.UNLOADED, now)
            self._metrics.loads.labels("cancelled").inc()
        elif result is not None and result.held is not None:
            self._held[key] = result.held
            measured = max(1, result.held.loaded.measured_bytes)
            self._life.record(key, ServableEvent.LOADED, now, measured_bytes=measured)
            self._lend(key)
            self._metrics.loads.labels("loaded").inc()
            self._metrics.load_seconds.observe(result.seconds)
            log.info("loaded", version=str(key), seconds=round(result.seconds, 4), bytes=measured)
            result.held.loaded.when_lost(partial(self._lose, key, result.held))
        else:
            result = result or LoadResult(reason="the load was cancelled by the runtime")
            retry_at = None if result.permanent else now + retry_delay(servable.attempts, self._rng.random())
            self._life.record(key, ServableEvent.FAILED, now, reason=result.reason, retry_at=retry_at)
            self._metrics.loads.labels("refused" if result.permanent else "failed").inc()
            log.warning("load failed", version=str(key), reason=result.reason, permanent=result.permanent)
        self._changes.publish()
        self._touch([key.model_key])

    def _lose(self, key: VersionKey, held: HeldVersion, reason: str) -> None:
        """The runtime lost it: nobody gets it any more, and it is loaded anew; later and later if it goes by itself."""
        servable = self._life.find(key)
        if self._group is None or self._ending or self._held.get(key) is not held:
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
        self._lent.pop(key).open = False
        self._lent_keys = None
        del self._held[key]
        self._metrics.lost.inc()
        log.error("lost", version=str(key), reason=reason, in_a_row=losses)
        self._start(key, unload(key, held, self._patience.unload), self._settle_unload)
        self._changes.publish()

    async def _let_go(self, key: VersionKey) -> None:
        held = self._held[key]
        try:
            async with asyncio.timeout(self._patience.drain):
                await held.guard.idle()
        except TimeoutError:
            self._metrics.forced_drains.inc()
            log.warning("unloading with requests under way", version=str(key), borrowers=held.guard.borrowers)
        del self._held[key]
        self._life.record(key, ServableEvent.DRAINED, self._loop.time())
        self._changes.publish()
        await unload(key, held, self._patience.unload)

    def _settle_unload(self, key: VersionKey, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if self._ending or task.cancelled():
            return  # revived, or the process is ending
        self._life.record(key, ServableEvent.UNLOADED, self._loop.time())
        self._metrics.unloads.inc()
        log.info("unloaded", version=str(key))
        self._changes.publish()
        self._touch([key.model_key])
