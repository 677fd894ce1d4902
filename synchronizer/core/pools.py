"""Pools: the workloads that run the replicas of jobs, and whether one of them is to be scaled now.

Whether an operator or the autoscaler decides how many replicas a job has, the decision is made in the controller. Here
it is only carried out, and never for a job that has no workload or several: to guess which one is meant would be to own
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from berth.model import ObservedPool
from synchronizer.core.pods import JOB

MISSING, AMBIGUOUS = "missing", "ambiguous"
"""Why a job cannot be scaled: no workload has its label, or several have."""


class PoolWorkload(NamedTuple):
    """`version` is that of the object which said so. `replicas` is what it is told to have."""

    kind: str
    name: str
    job: str
    replicas: int
    ready: int
    version: str
    leaving: bool = False

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class ScaleWorkload(NamedTuple):
    """Tell `workload` to have `to` replicas, if it is still of the version seen."""

    workload: PoolWorkload
    to: int


class Blocked(NamedTuple):
    """It cannot be done: `reason` is one of the words above, `detail` is for people."""

    reason: str
    detail: str


def reader(kind: str) -> Callable[[Mapping[str, Any]], PoolWorkload]:
    """How to read objects of `kind` ("deployment", "statefulset")."""

    def read(item: Mapping[str, Any]) -> PoolWorkload:
        metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
        replicas = spec.get("replicas")
        return PoolWorkload(
            kind=kind,
            name=str(metadata["name"]),
            job=str((metadata.get("labels") or {}).get(JOB, "")),
            # If it is left out, it is one: the server itself says so.
            replicas=1 if replicas is None else int(replicas),
            ready=int(status.get("readyReplicas") or 0),
            version=str(metadata.get("resourceVersion") or ""),
            leaving=bool(metadata.get("deletionTimestamp")),
        )

    return read


def by_job(workloads: Iterable[PoolWorkload]) -> dict[str, tuple[PoolWorkload, ...]]:
    """The workloads of each job, in the order of their names. Those being deleted are nobody's any more."""
    jobs: dict[str, tuple[PoolWorkload, ...]] = {}
    for workload in sorted(workloads):
        if workload.job and not workload.leaving:
            jobs[workload.job] = (*jobs.get(workload.job, ()), workload)
    return jobs


def observe(jobs: Mapping[str, tuple[PoolWorkload, ...]]) -> tuple[ObservedPool, ...]:
    """One pool per job. Where several workloads run one job, all are named and counted together."""
    return tuple(
        ObservedPool(
            job,
            ",".join(map(str, workloads)),
            sum(workload.replicas for workload in workloads),
            sum(workload.ready for workload in workloads),
        )
        for job, workloads in sorted(jobs.items())
    )


def next_scale(job: str, wanted: int, workloads: tuple[PoolWorkload, ...]) -> ScaleWorkload | Blocked | None:
    """What to do so that `job` has `wanted` replicas; None: its workload is told so already."""
    if not workloads:
        return Blocked(MISSING, f"no Deployment or StatefulSet has the label {JOB}={job}")
    if len(workloads) > 1:
        return Blocked(AMBIGUOUS, f"{', '.join(map(str, workloads))} all have the label {JOB}={job}")
    return ScaleWorkload(workloads[0], wanted) if workloads[0].replicas != wanted else None
