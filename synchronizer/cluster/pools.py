"""Follows the workloads of the cell's jobs, and tells them how many replicas to have when the controller says so.

Only the holder of the lease writes. Each write names the version of the workload that it was decided on: the API
refuses the write if anything came between, a deposed leader's write included. A number is acted on only while a
controller repeats it. A number that a restarted process finds on its disk may have been taken back long ago. And a
controller that is away for an hour must not undo what operators do by hand meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import structlog

from berth.model import DesiredState, ObservedPool
from berth.reconcile import Again, Backoff, Done, Outcome, Reconciler, Retry
from synchronizer.cluster.api import MERGE_PATCH, ApiFailure, KubernetesApi
from synchronizer.cluster.metrics import ClusterMetrics
from synchronizer.cluster.reflector import Reflector
from synchronizer.core.pools import Blocked, PoolWorkload, ScaleWorkload, by_job, next_scale, observe

log = structlog.get_logger(__name__)

_BELIEVED_S = 30.0  # controllers repeat themselves every few seconds
_PACE_S = 1.0  # least time between two writes to one workload
_LEADERLESS_S = 0.5  # until it is looked again whether the lease is held
_WRITE_S = 5.0
_FORBIDDEN = "forbidden"


class KubernetesPools:
    """`workloads`: a reflector for each kind, by the plural that its paths have. `folder` is the path of the namespace
    in the group of these kinds. Without `may_scale` it only looks."""

    def __init__(
        self,
        api: KubernetesApi,
        folder: str,
        workloads: Mapping[str, Reflector[PoolWorkload]],
        metrics: ClusterMetrics,
        *,
        may_scale: bool = True,
        rng: random.Random | None = None,
    ) -> None:
        self._api = api
        self._folder = folder
        self._reflectors = workloads
        self._metrics = metrics
        self._may_scale = may_scale
        self._seen: dict[str, Mapping[str, PoolWorkload]] = {}
        self._jobs: Mapping[str, tuple[PoolWorkload, ...]] = {}
        self._wanted: Mapping[str, int] = {}
        self._heard_at = 0.0
        self._blocked: dict[str, str] = {}
        # By job: the workload as it was when it was last written to. Until it is seen to differ, there is no news.
        self._written: dict[str, PoolWorkload] = {}
        self._paced: dict[str, float] = {}
        self._lease_left: Callable[[], float] = lambda: 0.0
        self._changed: Callable[[], None] = lambda: None
        self._loop = Reconciler("pools", self._look, backoff=Backoff(first=0.1, most=10.0), rng=rng)

    def __repr__(self) -> str:
        return f"<KubernetesPools jobs={len(self._jobs)} wanted={dict(self._wanted)} blocked={self._blocked}>"

    def observe(self) -> tuple[ObservedPool, ...]:
        return observe(self._jobs) if self._complete else ()

    def hear(self, desired: DesiredState) -> None:
        wanted = {job.name: job.replicas for job in desired.jobs if job.replicas is not None}
        for job in self._wanted.keys() - wanted.keys():
            self._unblock(job)
            self._loop.forget(job)
        self._wanted, self._heard_at = wanted, asyncio.get_running_loop().time()
        self._look_again()

    async def run(self, lease_left: Callable[[], float], changed: Callable[[], None]) -> None:
        self._lease_left, self._changed = lease_left, changed
        async with asyncio.TaskGroup() as tasks:
            for plural, reflector in self._reflectors.items():
                tasks.create_task(self._follow(plural, reflector), name=plural)
            if self._may_scale:
                tasks.create_task(self._loop.run(), name="scale")

    @property
    def _complete(self) -> bool:
        """Whether all kinds were listed: until then, a workload that is not known may be there all the same."""
        return self._seen.keys() == self._reflectors.keys()

    async def _follow(self, plural: str, reflector: Reflector[PoolWorkload]) -> None:
        async for workloads in reflector.watch():
            before = self.observe()
            self._seen[plural] = workloads
            self._jobs = by_job(workload for seen in self._seen.values() for workload in seen.values())
            if self.observe() != before:
                self._changed()
            self._look_again()

    def _look_again(self) -> None:
        if self._complete and self._may_scale:
            for job in self._wanted:
                self._loop.add(job)

    async def _look(self, job: str) -> Outcome:
        now = asyncio.get_running_loop().time()
        wanted = self._wanted.get(job)
        if wanted is None or now - self._heard_at > _BELIEVED_S:
            return Done()
        step = next_scale(job, wanted, self._jobs.get(job, ()))
        if isinstance(step, Blocked):
            self._block(job, step.reason, step.detail)
            return Done()
        if step is None or self._written.get(job) == step.workload:
            self._unblock(job)
            return Done()
        if (left := self._lease_left()) <= 0.0:
            return Again(_LEADERLESS_S)
        if (wait := self._paced.get(job, 0.0) - now) > 0.0:
            return Again(wait)
        return await self._scale(job, step, min(left, _WRITE_S))

    async def _scale(self, job: str, step: ScaleWorkload, timeout: float) -> Outcome:
        workload = step.workload
        patch = {"metadata": {"resourceVersion": workload.version}, "spec": {"replicas": step.to}}
        path = f"{self._folder}/{workload.kind}s/{workload.name}/scale"
        try:
            await self._api.call("PATCH", path, body=patch, content=MERGE_PATCH, timeout=timeout)
        except ApiFailure as error:
            if error.code == 403:
                self._block(job, _FORBIDDEN, error.detail)
            return Retry(error.detail)
        self._written[job] = workload
        self._paced[job] = asyncio.get_running_loop().time() + _PACE_S
        self._unblock(job)
        self._metrics.scalings.labels(job).inc()
        log.info(
            "pool scaled",
            job=job,
            workload=str(workload),
            was=workload.replicas,
            now=step.to,
            reason="the controller asks for it",
        )
        return Done()

    def _block(self, job: str, reason: str, detail: str) -> None:
        if self._blocked.get(job) != reason:
            self._unblock(job)
            self._blocked[job] = reason
            self._metrics.blocked.labels(job, reason).set(1)
            log.warning("pool cannot be scaled", job=job, reason=reason, detail=detail)

    def _unblock(self, job: str) -> None:
        reason = self._blocked.pop(job, None)
        if reason is not None:
            self._metrics.blocked.remove(job, reason)
