"""Resources of the control API, version 1. Paths are in ARCHITECTURE.md; sizes are bytes, instants are RFC 3339."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from berth.ids import MAX_VERSION, NAME_PATTERN
from berth.states import Role, Runtime, ScalingMode, ServiceClass, VersionState

Name = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$", max_length=63)]
VersionNumber = Annotated[int, Field(ge=1, le=MAX_VERSION)]
_MAX_BYTES = 2**50
Bytes = Annotated[int, Field(ge=0, le=_MAX_BYTES)]

T = TypeVar("T")


class Resource(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Resource, Generic[T]):
    """One page of a list. `next_cursor` continues it, and is absent on the last page."""

    items: list[T]
    next_cursor: str | None = None


class Identity(Resource):
    """Who a key is: answer of `GET /v1/whoami`. `tenant` is absent for platform keys."""

    key_id: str
    role: Role
    tenant: Name | None = None


class TenantQuota(Resource):
    max_models: int = Field(default=1_000, ge=0, le=1_000_000)
    max_bytes: Bytes = Field(default=1 << 40, description="Sum of the sizes of all stored artifacts.")
    requests_per_second: float = Field(
        default=0.0, ge=0, le=1e9, description="Of all routers of a cell together; 0 is unlimited."
    )
    max_concurrent: int = Field(
        default=0, ge=0, le=1_000_000, description="Of all routers of a cell together; 0 is unlimited."
    )
    bytes_per_second: float = Field(
        default=0.0, ge=0, le=1e15, description="Request bodies, of all routers of a cell together; 0 is unlimited."
    )
    weight: float = Field(
        default=1.0, ge=0.01, le=1_000, description="Share of a router that is full, against other tenants' weights."
    )


class TenantCreate(Resource):
    name: Name
    quota: TenantQuota = TenantQuota()


class TenantUpdate(Resource):
    quota: TenantQuota


class Tenant(Resource):
    name: Name
    quota: TenantQuota
    created_at: datetime
    etag: str


class KeyCreate(Resource):
    role: Role
    description: str = Field(default="", max_length=200)


class Key(Resource):
    id: str
    role: Role
    tenant: Name | None = None
    description: str = ""
    created_at: datetime
    revoked_at: datetime | None = None


class KeyCreated(Key):
    """The only answer that ever carries the key itself."""

    secret: str


class ServingPolicy(Resource):
    """Which version answers requests that name none: the newest, or a pinned one."""

    policy: Literal["latest", "pinned"] = "latest"
    version: VersionNumber | None = None


_CELLS = "Cells that are to have a copy each; none: one cell, whichever has room."


class ModelCreate(Resource):
    name: Name
    description: str = Field(default="", max_length=2_000)
    cells: list[Name] = Field(default=[], max_length=100, description=_CELLS)


class DefaultOutput(Resource):
    """One output tensor, as Open Inference Protocol v2 spells it in JSON."""

    name: str = Field(min_length=1, max_length=200)
    datatype: str = Field(max_length=10)
    shape: list[Annotated[int, Field(ge=0, le=2**31)]] = Field(max_length=32)
    data: list[Any]


class DefaultAnswer(Resource):
    """What a model answers when no replica answers in time. At most 64 KiB as JSON."""

    outputs: list[DefaultOutput] = Field(min_length=1, max_length=100)


class ModelUpdate(Resource):
    """Members left out keep their value; `default_answer` null removes it."""

    description: str | None = Field(default=None, max_length=2_000)
    serving: ServingPolicy | None = None
    cells: list[Name] | None = Field(default=None, max_length=100, description=_CELLS)
    default_answer: DefaultAnswer | None = None


class LabelSet(Resource):
    version: VersionNumber


class VersionShare(Resource):
    """A version's part of the requests that name none: its weight out of the sum of all weights."""

    version: int
    weight: int


class ServingView(Resource):
    """What a model serves, by its policy and labels, once that is loaded. No versions: nothing by default."""

    versions: list[VersionShare] = []
    labels: dict[str, int] = {}


class Model(Resource):
    """`serves` follows from `serving`, `labels` and the versions there are: it cannot be set."""

    tenant: Name
    name: Name
    description: str
    serving: ServingPolicy
    labels: dict[str, int]
    cells: list[Name] = Field(default=[], description=_CELLS)
    latest_version: int | None = None
    serves: ServingView = ServingView()
    default_answer: DefaultAnswer | None = None
    created_at: datetime
    etag: str


class Tensor(Resource):
    name: str
    datatype: str
    shape: list[int]


class SignatureView(Resource):
    inputs: list[Tensor]
    outputs: list[Tensor]


class ReplicaCounts(Resource):
    """Replicas of the job by what they say of one version."""

    total: int = 0
    available: int = 0
    loading: int = 0
    failed: int = 0
    draining: int = 0


class Version(Resource):
    """One immutable version. `state` is what is observed now; `reason` and `since` explain it."""

    tenant: Name
    model: Name
    version: VersionNumber
    sha256: str
    size_bytes: Bytes
    format: str
    signature: SignatureView
    estimated_bytes: Bytes
    measured_bytes: Bytes | None = None
    state: VersionState
    reason: str = ""
    since: datetime
    job: Name | None = Field(default=None, description="The first of `jobs`.")
    jobs: list[Name] = Field(default=[], description="Where it is assigned: at most one job of each cell.")
    replicas: ReplicaCounts = ReplicaCounts()
    created_at: datetime
    etag: str


_Replicas = Annotated[int, Field(ge=0, le=10_000)]
_Most = Annotated[int, Field(ge=1, le=10_000)]
_TargetQueue = Annotated[float, Field(gt=0, le=60_000)]
_StabilizeDown = Annotated[float, Field(ge=0, le=86_400)]


class Scaling(Resource):
    """Who decides how many replicas there are, and within what."""

    mode: ScalingMode = Field(
        default=ScalingMode.MANUAL,
        description="manual: whoever scales the workload. berth: the autoscaler, which then sets it. external: HPA or "
        "KEDA, for which the autoscaler's number is only published.",
    )
    min_replicas: _Replicas = 1
    max_replicas: _Most = 10
    target_queue_ms: _TargetQueue = Field(default=50.0, description="How long a request may wait on a replica.")
    stabilize_down_s: _StabilizeDown = Field(
        default=300.0, description="Fewer replicas only after there were too many for so long."
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}")
        return self


class ScalingUpdate(Resource):
    """Members left out keep their value."""

    mode: ScalingMode | None = None
    min_replicas: _Replicas | None = None
    max_replicas: _Most | None = None
    target_queue_ms: _TargetQueue | None = None
    stabilize_down_s: _StabilizeDown | None = None


class JobCreate(Resource):
    name: Name
    cell: Name = "local"
    runtime: Runtime = Runtime.ONNXRUNTIME
    hardware: Name = "cpu"
    replicas: int = Field(default=1, ge=0, le=10_000)
    memory_per_replica: Annotated[int, Field(ge=1 << 20, le=_MAX_BYTES)] = Field(default=1 << 30)
    service_class: ServiceClass = ServiceClass.PROD
    dedicated_tenant: Name | None = Field(default=None, description="Only this tenant's models; absent: shared.")
    scaling: Scaling = Scaling()


class JobUpdate(Resource):
    """Members left out keep their value."""

    replicas: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="On Kubernetes a wish: it is pushed until the workload has it, and then forgotten.",
    )
    scaling: ScalingUpdate | None = None
    memory_per_replica: Annotated[int, Field(ge=1 << 20, le=_MAX_BYTES)] | None = None


class Workload(Resource):
    """What runs the replicas on Kubernetes, and how many it is told to have."""

    workload: str = Field(description="Such as `deployment/berth-pool-gpu`.")
    replicas: int
    ready: int


ByDevice = Annotated[
    dict[str, Bytes], Field(description="Bytes by device; `host` is the machine's memory. None of those left out.")
]


class JobResources(Resource):
    """What each replica has, and how much of it is reserved."""

    capacity: ByDevice = {}
    reserved: ByDevice = {}


class Job(JobCreate):
    """`memory_per_replica` and `reserved_bytes` are the host's part of `resources`.

    `desired_replicas` is the autoscaler's last answer, `desired_reason` why it differs from the one before.
    """

    reserved_bytes: Bytes
    resources: JobResources = JobResources()
    from_file: bool = Field(default=False, description="It comes from the pools file, which alone can delete it.")
    file_problem: str = Field(default="", description="Why what the pools file says of it cannot be done.")
    wished_replicas: int | None = None
    desired_replicas: int | None = None
    desired_reason: str = ""
    desired_at: datetime | None = None
    observed: Workload | None = None
    created_at: datetime
    etag: str


class Assignment(Resource):
    tenant: Name
    model: Name
    version: VersionNumber
    job: Name
    reserved_bytes: Bytes
    resources: ByDevice = {}
    releasing: bool = Field(description="True once the version is to leave the job; its bytes are still reserved.")
    created_at: datetime


class ServableView(Resource):
    tenant: Name
    model: Name
    version: VersionNumber
    state: str
    reason: str = ""
    since: datetime
    measured_bytes: Bytes = 0
    routed: bool = False


class Replica(Resource):
    name: str
    job: Name
    cell: Name
    connected: bool
    draining: bool
    memory_limit: Bytes
    memory_used: Bytes
    in_flight: int
    servables: list[ServableView]
    seen_at: datetime


class Event(Resource):
    """Something that happened. `id` grows; a reader resumes after the last id it saw."""

    id: int
    at: datetime
    kind: str = Field(description="Such as `version.uploaded`, `version.available`, `model.pinned`, `key.revoked`.")
    actor: str = Field(description="Id of the key that asked for it, or `controller`.")
    tenant: Name | None = None
    subject: str = Field(description="What it happened to, such as `model/digits/versions/2`.")
    data: dict[str, Any] = Field(
        default={},
        description="What depends on the kind. `before` and `after` are members of what it happened to, as they were "
        "and are; of an update those that differ. `from` is the address that the request came from, `request_id` its "
        "id; neither is there for what the controller does by itself.",
    )
