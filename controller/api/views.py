"""Records as resources of the API.

If a resource shows more than its writers write, its entity tag has two parts: `WRITTEN.SHOWN`. If-Match asks about the
first part alone, so no change is refused because something was observed meanwhile. If-None-Match asks about both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from berth.api import schemas
from berth.api.schemas import Resource
from berth.resources import HOST
from berth.states import ScalingMode
from controller.core.rollout.target import served
from controller.core.scaling import document_of
from controller.core.status import VersionStatus
from controller.default_answer import outputs_of
from controller.store import records

R = TypeVar("R", bound=Resource)


def tenant(record: records.TenantRecord) -> schemas.Tenant:
    quota = schemas.TenantQuota(**asdict(record.quota))
    return _sealed(schemas.Tenant, name=record.name, quota=quota, created_at=record.created_at)


def key(record: records.KeyRecord) -> schemas.Key:
    return schemas.Key(**record._asdict())


def model(record: records.ModelRecord) -> schemas.Model:
    return _sealed(
        schemas.Model,
        tenant=record.key.tenant,
        name=record.key.model,
        description=record.description,
        serving=schemas.ServingPolicy(policy="latest" if record.pinned is None else "pinned", version=record.pinned),
        labels=record.labels,
        cells=list(record.cells),
        latest_version=record.latest,
        serves=_serves(record),
        default_answer=_default_answer(record.default_answer),
        created_at=record.created_at,
        derived={"serves"},
    )


def _default_answer(text: str | None) -> schemas.DefaultAnswer | None:
    return None if text is None else schemas.DefaultAnswer.model_validate({"outputs": outputs_of(text)})


def _serves(record: records.ModelRecord) -> schemas.ServingView:
    # A pinned version cannot be deleted, so these two are all that the target depends on.
    live = [number for number in (record.pinned, record.latest) if number is not None]
    serving = served(record.pinned, live, record.labels)
    return schemas.ServingView(
        versions=[schemas.VersionShare(version=share.version, weight=share.weight) for share in serving.versions],
        labels=dict(serving.labels),
    )


def version(record: records.VersionRecord, status: VersionStatus, jobs: Sequence[str]) -> schemas.Version:
    measured = max(status.measured_bytes or 0, record.measured_bytes or 0)
    return _sealed(
        schemas.Version,
        tenant=record.key.tenant,
        model=record.key.model,
        version=record.key.version,
        sha256=record.artifact.sha256,
        size_bytes=record.artifact.size_bytes,
        format=str(record.artifact.format),
        signature=schemas.SignatureView(
            inputs=[_tensor(spec) for spec in record.signature.inputs],
            outputs=[_tensor(spec) for spec in record.signature.outputs],
        ),
        estimated_bytes=record.estimated_bytes,
        measured_bytes=measured or None,
        state=status.state,
        reason=status.reason,
        since=instant(status.since),
        job=jobs[0] if jobs else None,
        jobs=list(jobs),
        replicas=schemas.ReplicaCounts(**status.replicas._asdict()),
        created_at=record.created_at,
        written=(*record.key, record.created_at),
    )


def job(record: records.JobRecord, workload: records.WorkloadRecord | None) -> schemas.Job:
    """`workload` is what runs its replicas, if anything was observed to."""
    decision = record.decision
    return _sealed(
        schemas.Job,
        written=_written(record, workload),
        derived={"resources"},
        name=record.name,
        cell=record.cell,
        runtime=record.runtime,
        hardware=record.hardware,
        replicas=record.replicas,
        memory_per_replica=record.capacity[HOST],
        service_class=record.service_class,
        dedicated_tenant=record.dedicated_tenant,
        reserved_bytes=record.reserved[HOST],
        resources=schemas.JobResources(capacity=dict(record.capacity.parts), reserved=dict(record.reserved.parts)),
        created_at=record.created_at,
        from_file=record.from_file,
        file_problem=record.file_problem,
        scaling=schemas.Scaling(**document_of(record.scaling)),
        wished_replicas=record.wished_replicas,
        desired_replicas=None if decision is None else decision.replicas,
        desired_reason="" if decision is None else decision.reason,
        desired_at=record.decided_at,
        observed=None
        if workload is None
        else schemas.Workload(workload=workload.workload, replicas=workload.replicas, ready=workload.ready),
    )


class _Verbatim(str):
    """Text that stands in a tag without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _written(job: records.JobRecord, workload: records.WorkloadRecord | None) -> tuple[object, ...]:
    """What operators and the pools file say of a job. The number of replicas is theirs only where no autoscaler decides
    it: the number they wish for, or the workload's number once that has followed."""
    replicas = job.replicas if workload is None else workload.replicas
    asked = replicas if job.wished_replicas is None else job.wished_replicas
    return (
        job.name,
        job.created_at,
        job.cell,
        str(job.runtime),
        job.hardware,
        job.capacity[HOST],
        str(job.service_class),
        job.dedicated_tenant,
        job.from_file,
        # As controllers of the release before spell it: their tags and ours must be the same.
        _Verbatim(repr(job.scaling).replace("ScalingPolicy", "Scaling", 1)),
        asked if job.scaling.mode is ScalingMode.MANUAL else None,
    )


def assignment(record: records.AssignmentRecord) -> schemas.Assignment:
    return schemas.Assignment(
        tenant=record.key.tenant,
        model=record.key.model,
        version=record.key.version,
        job=record.job,
        reserved_bytes=record.reserved[HOST],
        resources=dict(record.reserved.parts),
        releasing=record.releasing_at is not None,
        created_at=record.created_at,
    )


def replica(record: records.ReplicaRecord, servables: list[records.ServableRecord]) -> schemas.Replica:
    return schemas.Replica(
        name=record.name,
        job=record.job,
        cell=record.cell,
        connected=record.connected,
        draining=record.draining,
        memory_limit=record.memory_limit,
        memory_used=record.memory_used,
        in_flight=record.in_flight,
        servables=[
            schemas.ServableView(
                tenant=entry.key.tenant,
                model=entry.key.model,
                version=entry.key.version,
                state=entry.state,
                reason=entry.reason,
                since=instant(entry.since),
                measured_bytes=entry.measured_bytes,
                routed=entry.routed,
            )
            for entry in servables
        ],
        seen_at=instant(record.seen_at),
    )


def event(record: records.EventRecord) -> schemas.Event:
    return schemas.Event(**record._asdict())


def instant(seconds: float) -> datetime:
    """Seconds since the epoch as the API shows them. What a broken clock reports must not break a page."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), 253_402_300_799.0), UTC)


def _tensor(spec: Any) -> schemas.Tensor:
    return schemas.Tensor(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))


def _sealed(
    resource: type[R],
    written: tuple[object, ...] | None = None,
    derived: AbstractSet[str] = frozenset(),
    **fields: Any,
) -> R:
    """The resource with its entity tag. `written` is the part that writers write; None: all that the resource shows.

    `derived` members follow from others and do not count: a controller of the release before, which does not show
    them, gives the same tag.
    """
    draft = resource(**{**fields, "etag": ""})
    shown = _digest(draft.model_dump_json(exclude=set(derived)))
    return draft.model_copy(update={"etag": shown if written is None else f"{_digest(repr(written))}.{shown}"})


def written_part(etag: str) -> str:
    """What If-Match asks about."""
    return etag.partition(".")[0]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
