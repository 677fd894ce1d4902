"""Makes a runtime hold the aspired versions, and lends them to requests.

The state of every version has one home, `Lifecycle`. Each fact changes the state first and puts the model on the
agenda; a look then asks the policy what follows, and has it carried out. Everything here runs on one event loop and
nothing is locked.

One version's fault ends with that version: whatever a runtime or the store raises becomes its `ERROR`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import structlog

from berth.ids import ModelKey
from berth.model import NEVER, AspiredSet, Order, ServableStatus
from berth.resources import HOST
from berth.wake import Wake
from worker.core.capacity import MemoryLimits
from worker.core.lifecycle import Acceptance, Lifecycle
from worker.core.policy import Defer, next_actions
from worker.keeping.agenda import Agenda, LookAgain
from worker.keeping.execution import Execution, Patience
from worker.keeping.lending import Lending
from worker.keeping.loading import Artifacts
from worker.metrics import WorkerMetrics
from worker.runtimes.protocol import ModelRuntime

log = structlog.get_logger(__name__)


class Keeper:
    """`run` does the work; `aspire` says what it is; `lending` has what can be borrowed."""

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
        self.lending = Lending()
        self._limits = limits
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        # The core's clock is the loop's, which never jumps; reports are in seconds since the Unix epoch.
        self._epoch = wall() - self._loop.time()
        self._life = Lifecycle(limits)
        self._agenda = Agenda()
        self._changes = Wake()
        self._execution = Execution(
            runtime,
            artifacts,
            self._life,
            self.lending,
            metrics=metrics,
            patience=patience or Patience(),
            rng=rng or random.Random(),
            changed=self._changed,
        )
        self._closing = False

    def __repr__(self) -> str:
        closing = " closing" if self._closing else ""
        return f"<Keeper {self._life!r} {self.lending!r} {self._execution!r} {self._agenda!r}{closing}>"

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
        """Whether it was told what to hold, and has loaded or tried to load all of it, save what waits for memory."""
        return self._life.order != NEVER and self._agenda.empty and not self._life.ledger.total.loads

    def aspire(self, aspired: AspiredSet) -> Acceptance:
        """Follow `aspired` from now on, unless it is refused. Raises `InvalidArgument` if it contradicts itself."""
        if self._closing:
            return Acceptance.REFUSED
        acceptance, changed = self._life.accept(aspired, self._loop.time())
        if acceptance is Acceptance.REFUSED:
            self._metrics.refused_sets.inc()
            log.warning("aspired set refused", order=tuple(aspired.order), held=tuple(self._life.order))
        if acceptance is Acceptance.ACCEPTED:
            self._agenda.add(changed)
            self._changes.up()
        return acceptance

    # What it holds

    @property
    def revision(self) -> int:
        """Grows whenever `statuses` or `order` change."""
        return self._changes.times

    async def changed(self, seen: int) -> int:
        """Wait until the revision is no longer `seen`, and return it."""
        await self._changes.beyond(seen)
        return self._changes.times

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

        The process itself is not counted: this is to be compared with `memory_limit`, which bounds versions only.
        """
        return self._life.ledger.total.used

    def validate(self) -> None:
        """Assert everything that must be true between any two turns of the loop."""
        self._life.validate()
        self._execution.validate()

    # The work

    async def run(self) -> None:
        """Work until `close` was called and everything is unloaded. Cancelling it ends all work at once instead."""
        try:
            async with asyncio.TaskGroup() as group:
                self._execution.begin(group)
                try:
                    while not (self._closing and self._execution.idle and self._agenda.empty):
                        await self._agenda.wait()
                        await self._agenda.work_off(self._look, self._may_load)
                except BaseException:
                    self._closing = True
                    self._execution.abandon()
                    raise
        finally:
            self._execution.abandon()
            self._agenda.close()

    def close(self) -> None:
        """Refuse further sets and let go of everything; `run` ends when that is done, within `Patience`."""
        if not self._closing:
            self._closing = True
            self._agenda.add(self._life.release(self._loop.time()))
            self._changes.up()

    def _changed(self, model: ModelKey) -> None:
        self._changes.up()
        self._agenda.add([model])

    def _may_load(self) -> bool:
        return self._life.ledger.total.loads < self._limits.max_loads

    def _look(self, model: ModelKey) -> LookAgain:
        """Carry out what the policy says of one model, synchronously; the I/O is left to tasks."""
        now, at, with_memory = self._loop.time(), float("inf"), False
        for action in next_actions(self._life.versions(model), self._life.aspired(model), self._life.ledger, now):
            if not isinstance(action, Defer):
                self._execution.carry_out(action, now)
                self._changes.up()
                continue
            if self._life.explain(action.key, action.reason):
                self._changes.up()
            if action.until is None:
                with_memory = True
            else:
                at = min(at, action.until)
        return LookAgain(at, with_memory)
