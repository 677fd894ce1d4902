"""The autoscaler: one controller looks at all jobs every two seconds, decides, and stores what is new.

What it has learned lives in `_scalers`, in the memory of the controller that leads; the next leader learns it again.
The last answer is in the database, so nothing jumps when the lead changes hands.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from berth.errors import PreconditionFailed
from berth.states import ScalingMode
from controller.core.autoscaling.readings import JobReading
from controller.core.autoscaling.scaler import Decision, JobScaler
from controller.core.settling import Settlement, settle_replicas, start
from controller.leadership import SoleLeadership
from controller.store.transaction import Transactions, Tx
from controller.usecases import scaling
from controller.usecases.jobs import SeenJob

log = structlog.get_logger(__name__)

EVERY_S = 2.0
_UNHEARD = JobReading(age_s=math.inf)


class Autoscaler:
    """`clock` is monotonic, in seconds."""

    def __init__(
        self,
        transactions: Transactions,
        leadership: SoleLeadership,
        registry: CollectorRegistry,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._transactions = transactions
        self._leadership = leadership
        self._clock = clock or asyncio.get_running_loop().time
        self._epoch: int | None = None
        self._scalers: dict[str, JobScaler] = {}
        self._metrics = _Metrics(registry)

    def __repr__(self) -> str:
        return f"<Autoscaler {self._leadership} {self._scalers}>"

    async def run(self) -> None:
        """Until cancelled. While the database is away nothing is decided, and cells keep what they have."""
        await self._leadership.repeat(self.tick, EVERY_S)

    async def tick(self) -> None:
        """Look once; decide and store if this controller leads. Every controller publishes what is stored."""
        epoch = await self._leadership.renew()
        if epoch is None or epoch != self._epoch:
            self._scalers.clear()
        self._epoch = epoch
        if epoch is None:
            self._metrics.show(await self._transactions.read(scaling.everything), {})
            return
        view = await self._transactions.read(scaling.survey)
        decisions = self._decide(view)
        self._metrics.show(view.jobs, decisions)
        found = [settle_replicas(seen.numbers, decisions.get(seen.job.name)) for seen in view.jobs]
        if settlements := [settlement for settlement in found if settlement is not None]:
            await self._store(settlements)

    def _decide(self, view: scaling.View) -> dict[str, Decision]:
        now = self._clock()
        decisions = {}
        for seen in view.jobs:
            job = seen.job
            if job.scaling.mode is ScalingMode.MANUAL:
                continue
            unseen = job.from_file and seen.workload is None
            if job.decision is None and (unseen or job.name not in view.readings):
                # Whoever decides before seeing what there is takes it away.
                continue
            scaler = self._scalers.get(job.name)
            if scaler is None or (job.decision is None and scaler.decided):
                # New, or taken from someone who has decided otherwise in between.
                scaler = self._scalers[job.name] = JobScaler(start(seen.numbers), now)
            reading = view.readings.get(job.name, _UNHEARD)
            decisions[job.name] = scaler.step(reading, job.scaling, job.service_class, now)
        for gone in self._scalers.keys() - decisions.keys():
            del self._scalers[gone]
        return decisions

    async def _store(self, settlements: list[Settlement]) -> None:
        async def use_case(tx: Tx) -> None:
            await self._leadership.check(tx)
            await scaling.settle(tx, settlements)

        try:
            await self._transactions.run(use_case, fleet=True)
        except PreconditionFailed as error:
            log.info("the autoscaler was replaced", reason=error.detail)
            return
        for settlement in settlements:
            if (decision := settlement.decision) is not None:
                self._metrics.count(settlement)
                log.info("job scaled", job=settlement.job, replicas=decision.replicas, reason=decision.reason)


class _Metrics:
    """Numbers of replicas by job, for Prometheus, and through it for HPA and KEDA."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["job"], registry=registry)

        self._desired = gauge("berth_job_desired_replicas", "Replicas that the autoscaler finds right")
        self._most = gauge(
            "berth_job_max_replicas", "Most replicas that the job may be given; none of jobs that people scale"
        )
        self._replicas = gauge("berth_job_replicas", "Replicas that the job's workload is told to have")
        self._ready = gauge("berth_job_ready_replicas", "Ready replicas of the job's workload")
        self._sustainable = gauge(
            "berth_job_sustainable_concurrency", "Requests at the same time that one replica sustains, as learned"
        )
        self._decisions = Counter(
            "berth_scaling_decisions", "Changes of a job's desired replicas", ["job", "direction"], registry=registry
        )

    def show(self, jobs: list[SeenJob], decisions: dict[str, Decision]) -> None:
        """Replaces what was shown. Nothing awaits here, so no scrape sees half of it."""
        for gauge in (self._desired, self._most, self._replicas, self._ready, self._sustainable):
            gauge.clear()
        for job, pool in jobs:
            if job.scaling.mode is not ScalingMode.MANUAL:
                self._most.labels(job.name).set(job.scaling.max_replicas)
            self._replicas.labels(job.name).set(job.replicas if pool is None else pool.replicas)
            if pool is not None:
                self._ready.labels(job.name).set(pool.ready)
            decision = decisions.get(job.name)
            stored = job.decision if decision is None else decision
            if stored is not None:
                self._desired.labels(job.name).set(stored.replicas)
            if decision is not None and decision.sustainable:
                self._sustainable.labels(job.name).set(decision.sustainable)

    def count(self, settlement: Settlement) -> None:
        if settlement.decision is not None and settlement.before is not None:
            direction = "up" if settlement.decision.replicas > settlement.before else "down"
            self._decisions.labels(settlement.job, direction).inc()
