"""The values that components exchange, as frozen dataclasses free of any transport.

Decisions in `*/core` speak only these; `berth.wire.convert` turns them into messages and back.
All sizes are bytes, all instants are seconds since the Unix epoch unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from berth.ids import ModelKey, VersionKey
from berth.resources import Resources
from berth.states import ArtifactFormat, Role, Runtime, ServableState, VersionState


class Order(NamedTuple):
    """Orders complete states: a later epoch wins, then a later generation. The epoch fences deposed leaders."""

    epoch: int
    generation: int


NEVER = Order(0, 0)
"""Older than every order that is ever given out."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """The bytes of a version: immutable, addressed by what they are."""

    sha256: str
    size_bytes: int
    format: ArtifactFormat = ArtifactFormat.ONNX


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `datatype` is an OIP v2 name ("FP32", "INT64", "BYTES"); -1 marks a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class VersionSpec:
    """All a worker needs to hold a version; `reserved` is what placement set aside on the job."""

    key: VersionKey
    artifact: Artifact
    reserved: Resources


@dataclass(frozen=True, slots=True)
class DesiredJob:
    """A job of a cell and the complete set of versions that each of its replicas should hold.

    `replicas` is what the cell's synchronizer is to scale the job's workload to; None: somebody else decides.
    """

    name: str
    runtime: Runtime
    versions: tuple[VersionSpec, ...]
    replicas: int | None = None


class Share(NamedTuple):
    """One version's part of the requests that name none: `weight` (at least 1) out of the sum of all weights."""

    version: int
    weight: int = 1


@lru_cache(maxsize=4096)
def all_to(version: int) -> tuple[Share, ...]:
    """The shares of a model that one version serves alone; none for version 0."""
    # A hundred thousand models have mostly versions 1 to 10, and their tables need not hold the same pair each.
    return (Share(version),) if version else ()


@dataclass(frozen=True, slots=True)
class Serving:
    """What a model serves. `versions` divide the requests that name no version; `labels` are names for versions.

    Without `versions` nothing answers a request that names none. Today one version has all of them. Routers divide
    requests wherever the table says so; no sender of tables needs a second format.
    """

    versions: tuple[Share, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def only(cls, version: int, labels: Mapping[str, int] | None = None) -> Serving:
        """All to one version; 0: to none."""
        return cls(all_to(version), {} if labels is None else labels)

    @property
    def default(self) -> int:
        """The version with the largest share, of equals the newest; 0 without any."""
        shares = self.versions
        if len(shares) == 1:
            return shares[0].version
        return max(((share.weight, share.version) for share in shares), default=(0, 0))[1]


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """How a model's name is to resolve, once what it is to serve is loaded.

    `default_answer` is a whole OIP answer as REST spells it, or empty: see `ModelRoute`. `elsewhere` names, by version,
    the other cells that are to hold it.
    """

    key: ModelKey
    serving: Serving = Serving()
    default_answer: bytes = b""
    elsewhere: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a router must know of a key: never the key itself. `tenant` is empty for platform roles."""

    sha256: bytes
    tenant: str
    role: Role


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may send to all routers of a cell together; 0 means unlimited.

    Bytes are those of request bodies. `weight` is the tenant's share of a full router, relative to the weights of the
    other tenants that wait then.
    """

    tenant: str
    requests_per_second: float = 0.0
    max_concurrent: int = 0
    bytes_per_second: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class DesiredState:
    """Everything the controller wants of one cell. Complete: what is left out is to go."""

    cell: str
    generation: int
    jobs: tuple[DesiredJob, ...] = ()
    models: tuple[DesiredModel, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    limits: tuple[TenantLimits, ...] = ()


@dataclass(frozen=True, slots=True)
class AspiredSet:
    """The complete set of versions that one replica should hold. Repeating it means nothing."""

    order: Order
    versions: tuple[VersionSpec, ...]


@dataclass(frozen=True, slots=True)
class ServableStatus:
    """What one replica says of one version. `reason` explains `ERROR` (and a retry in `LOADING`)."""

    key: VersionKey
    state: ServableState
    reason: str = ""
    since: float = 0.0
    measured_bytes: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Where a replica listens, as `host:port`. `incarnation` changes with every start of the process.

    `zone` is what fails as one (a rack, an availability zone); empty where nobody has said.
    """

    replica: str
    job: str
    cell: str
    incarnation: str
    control: str
    grpc: str
    http: str
    zone: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What a replica has answered since its start; only ever grows within an incarnation.

    `busy_s` are the seconds of all requests from arrival to answer, `queued_s` the part of these spent waiting. By
    Little's law the growth of `busy_s` over an interval is the mean number of requests that were under way in it.
    """

    completed: int = 0
    busy_s: float = 0.0
    queued_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ServableLoad:
    """The part of one version in a replica's load, cumulative as that."""

    key: VersionKey
    completed: int
    busy_s: float


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A worker's whole report. `accepted` is the order of the newest aspired set it took.

    `loads` are those of versions that had requests since the last report. Load alone is no reason for a report.
    """

    address: ReplicaAddress
    accepted: Order
    servables: tuple[ServableStatus, ...] = ()
    memory_limit: int = 0
    memory_used: int = 0
    in_flight: int = 0
    draining: bool = False
    load: ReplicaLoad = ReplicaLoad()
    loads: tuple[ServableLoad, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """A replica as the synchronizer sees it. `routed` are the versions that every connected router sends it."""

    status: ReplicaStatus
    connected: bool
    routed: frozenset[VersionKey] = frozenset()
    seen_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ObservedPool:
    """What runs a job's replicas on Kubernetes: `workload` is "deployment/NAME" or "statefulset/NAME".

    `replicas` is what the workload is told to have (spec.replicas), `ready` how many of them are.
    """

    job: str
    workload: str
    replicas: int
    ready: int


@dataclass(frozen=True, slots=True)
class ObservedCell:
    """The synchronizer's whole report to the controller. `desired_generation` is what it has acted on.

    `wanted` are jobs with versions that requests wait for in routers, because no replica has loaded them.
    """

    cell: str
    epoch: int
    desired_generation: int
    replicas: tuple[ObservedReplica, ...] = ()
    routers: tuple[str, ...] = ()
    pools: tuple[ObservedPool, ...] = ()
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionRoute:
    """Where one version can be answered now. Empty `replicas`: assigned but not loaded, and `reason` says why.

    `state` is its state in the API. But a version with `replicas` is available, whatever `state` says. `failed`: every
    replica that tried to load it failed and none is trying now, so waiting is not likely to help.
    """

    version: int
    replicas: tuple[str, ...] = ()
    reason: str = ""
    failed: bool = False
    state: VersionState = VersionState.PENDING


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """How requests for a model resolve now. `serving` has shares of loaded versions only: none if nothing is loaded.

    `default_answer`, unless empty, is what inference is answered when no replica answers in time. `elsewhere` is as in
    `DesiredModel`: what other cells are to hold. Whether they do is not said.
    """

    key: ModelKey
    serving: Serving
    versions: tuple[VersionRoute, ...]
    default_answer: bytes = b""
    elsewhere: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouteTable:
    """An immutable snapshot of all a router needs to answer: models, replicas, keys and limits.

    `routers` is how many routers share the tenants' limits, this one included.
    """

    order: Order = NEVER
    models: Mapping[ModelKey, ModelRoute] = field(default_factory=dict)
    replicas: Mapping[str, ReplicaAddress] = field(default_factory=dict)
    keys: Mapping[bytes, ApiKey] = field(default_factory=dict)
    limits: Mapping[str, TenantLimits] = field(default_factory=dict)
    routers: int = 1


@dataclass(frozen=True, slots=True)
class RouteDelta:
    """What turns the table of generation `base` into `order`. `base` 0 makes it a full snapshot.

    `routers` is no difference but the number itself, in every delta.
    """

    base: int
    order: Order
    models: tuple[ModelRoute, ...] = ()
    removed_models: tuple[ModelKey, ...] = ()
    replicas: tuple[ReplicaAddress, ...] = ()
    removed_replicas: tuple[str, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    removed_keys: tuple[bytes, ...] = ()
    limits: tuple[TenantLimits, ...] = ()
    removed_limits: tuple[str, ...] = ()
    routers: int = 1
