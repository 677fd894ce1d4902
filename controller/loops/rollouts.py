"""Moves models from version to version: looks at those of which something changed, and at all of them now and then."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Counter

from berth.errors import BerthError
from berth.ids import ModelKey
from berth.reconcile import Again, Backoff, Outcome, Repeater, Retry
from controller.store import assignments, models
from controller.store.scope import EVERY_TENANT
from controller.store.transaction import Transactions, Tx
from controller.usecases import rollout

log = structlog.get_logger(__name__)

SWEEP_S = 10.0
_BATCH = 200
_RETRY_S = 1.0


class RolloutLoop:
    """Looks at models after changes and observations, and at all of them every `SWEEP_S` seconds.

    What is to be looked at lives in `_dirty`. Several controllers may look at the same model: `settle` is idempotent.
    """

    def __init__(self, transactions: Transactions, registry: CollectorRegistry) -> None:
        self._transactions = transactions
        self._dirty: set[ModelKey] = set()
        self._sweep_at = 0.0
        self._loop = Repeater(self._look, backoff=Backoff(first=_RETRY_S, most=_RETRY_S))
        self._steps = Counter("berth_rollout_steps", "Steps that rollouts took", ["step"], registry=registry)

    def __repr__(self) -> str:
        return f"<RolloutLoop dirty={len(self._dirty)}>"

    def add(self, changed: set[ModelKey]) -> None:
        """Look at these models, and at whatever is being released, as soon as possible."""
        self._dirty |= changed
        self._loop.look_again()

    async def run(self) -> None:
        """Until cancelled. What could not be looked at is looked at again."""
        await self._loop.run()

    async def _look(self) -> Outcome:
        now = asyncio.get_running_loop().time()
        everything = now >= self._sweep_at
        dirty, self._dirty = self._dirty, set()
        try:
            await self.look(None if everything else dirty)
        except BerthError as error:
            log.warning("rollouts wait", error=error.detail)
            self._dirty |= dirty
            return Retry(error.detail)
        if everything:
            self._sweep_at = now + SWEEP_S
        return Again(self._sweep_at - asyncio.get_running_loop().time())

    async def look(self, keys: set[ModelKey] | None) -> None:
        """Do what is to be done for these models and for those being released; for all models if None."""

        async def ids(tx: Tx) -> list[int]:
            return sorted({*await models.ids_of(tx, EVERY_TENANT, keys), *await assignments.releasing_models(tx)})

        found = await self._transactions.read(ids)
        for start in range(0, len(found), _BATCH):
            await self._look_at(found[start : start + _BATCH])

    async def _look_at(self, batch: list[int]) -> None:
        # Most looks find nothing: they must not take the lock.
        if not (work := await self._transactions.read(lambda tx: rollout.survey(tx, batch))):
            return
        lock = rollout.needs_fleet(work)
        for step in await self._transactions.run(lambda tx: rollout.settle(tx, batch), fleet=lock):
            self._steps.labels(step.kind).inc()
            log.info("rollout step", step=step.kind, version=step.version)
