"""Rows as values: what the store gives and takes, without SQLAlchemy."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from berth.ids import ModelKey, VersionKey
from berth.model import Artifact, Signature
from berth.resources import Resources
from berth.states import Role, Runtime, ServableState, ServiceClass
from controller.core.autoscaling.readings import ReplicaReading
from controller.core.autoscaling.scaler import Decision
from controller.core.quota import Quota
from controller.core.scaling import ScalingPolicy


class TenantRecord(NamedTuple):
    name: str
    quota: Quota
    created_at: datetime


class KeyRecord(NamedTuple):
    id: str
    role: Role
    tenant: str | None
    description: str
    created_at: datetime
    revoked_at: datetime | None


class ModelRecord(NamedTuple):
    """`id` tells models apart that had the same name one after the other."""

    id: int
    key: ModelKey
    description: str
    pinned: int | None
    latest: int | None
    labels: dict[str, int]
    created_at: datetime
    default_answer: str | None = None
    cells: tuple[str, ...] = ()


class VersionRecord(NamedTuple):
    model_id: int
    key: VersionKey
    artifact: Artifact
    signature: Signature
    estimated_bytes: int
    measured_bytes: int | None
    announced: str
    created_at: datetime
    changed_at: datetime
    deleted: bool
    proven: bool


class JobRecord(NamedTuple):
    """`capacity` is each replica's, `reserved` the sum of the job's assignments."""

    name: str
    cell: str
    runtime: Runtime
    hardware: str
    replicas: int
    capacity: Resources
    service_class: ServiceClass
    dedicated_tenant: str | None
    reserved: Resources
    created_at: datetime
    from_file: bool
    scaling_from_file: bool
    file_problem: str
    scaling: ScalingPolicy
    wished_replicas: int | None
    decision: Decision | None
    decided_at: datetime | None


class WorkloadRecord(NamedTuple):
    """What runs a job's replicas, as its cell's synchronizer last reported it."""

    job: str
    cell: str
    workload: str
    replicas: int
    ready: int


class CellLoad(NamedTuple):
    """What the autoscaler needs of a cell's last report. `age_s` by the database's clock."""

    age_s: float
    wanted: frozenset[str]
    replicas: dict[str, list[ReplicaReading]]


class AssignmentRecord(NamedTuple):
    model_id: int
    key: VersionKey
    job: str
    cell: str
    artifact: Artifact
    reserved: Resources
    created_at: datetime
    releasing_at: datetime | None
    releasing_generation: int | None
    deleted: bool


class ReplicaRecord(NamedTuple):
    name: str
    cell: str
    job: str
    connected: bool
    draining: bool
    memory_limit: int
    memory_used: int
    in_flight: int
    seen_at: float


class ServableRecord(NamedTuple):
    """What one replica says of one version."""

    cell: str
    replica: str
    key: VersionKey
    state: ServableState
    reason: str
    since: float
    measured_bytes: int
    routed: bool


class CellReport(NamedTuple):
    cell: str
    epoch: int
    desired_generation: int


class EventRecord(NamedTuple):
    id: int
    at: datetime
    kind: str
    actor: str
    tenant: str | None
    subject: str
    data: dict[str, object]


class RememberedRequest(NamedTuple):
    """What was answered to a request, whose SHA-256 is `fingerprint`."""

    fingerprint: bytes
    status: int
    body: dict[str, Any]


class LeaseRecord(NamedTuple):
    """What became of a wish to lead. `expires_in_seconds` is of the lease of whoever leads."""

    granted: bool
    epoch: int
    expires_in_seconds: float
