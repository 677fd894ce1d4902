from berth.wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LeaseRequest(_message.Message):
    __slots__ = ("cell", "holder", "ttl_seconds", "release")
    CELL_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    cell: str
    holder: str
    ttl_seconds: float
    release: bool
    def __init__(self, cell: _Optional[str] = ..., holder: _Optional[str] = ..., ttl_seconds: _Optional[float] = ..., release: _Optional[bool] = ...) -> None: ...

class LeaseReply(_message.Message):
    __slots__ = ("granted", "epoch", "expires_in_seconds")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    epoch: int
    expires_in_seconds: float
    def __init__(self, granted: _Optional[bool] = ..., epoch: _Optional[int] = ..., expires_in_seconds: _Optional[float] = ...) -> None: ...

class WatchDesiredRequest(_message.Message):
    __slots__ = ("cell", "known_generation")
    CELL_FIELD_NUMBER: _ClassVar[int]
    KNOWN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    cell: str
    known_generation: int
    def __init__(self, cell: _Optional[str] = ..., known_generation: _Optional[int] = ...) -> None: ...

class DesiredState(_message.Message):
    __slots__ = ("cell", "generation", "jobs", "models", "keys", "limits")
    CELL_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    cell: str
    generation: int
    jobs: _containers.RepeatedCompositeFieldContainer[DesiredJob]
    models: _containers.RepeatedCompositeFieldContainer[DesiredModel]
    keys: _containers.RepeatedCompositeFieldContainer[_common_pb2.ApiKey]
    limits: _containers.RepeatedCompositeFieldContainer[_common_pb2.TenantLimits]
    def __init__(self, cell: _Optional[str] = ..., generation: _Optional[int] = ..., jobs: _Optional[_Iterable[_Union[DesiredJob, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[DesiredModel, _Mapping]]] = ..., keys: _Optional[_Iterable[_Union[_common_pb2.ApiKey, _Mapping]]] = ..., limits: _Optional[_Iterable[_Union[_common_pb2.TenantLimits, _Mapping]]] = ...) -> None: ...

class DesiredJob(_message.Message):
    __slots__ = ("name", "runtime", "versions", "replicas")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    name: str
    runtime: str
    versions: _containers.RepeatedCompositeFieldContainer[_common_pb2.VersionSpec]
    replicas: int
    def __init__(self, name: _Optional[str] = ..., runtime: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[_common_pb2.VersionSpec, _Mapping]]] = ..., replicas: _Optional[int] = ...) -> None: ...

class DesiredModel(_message.Message):
    __slots__ = ("tenant", "model", "target", "labels", "default_answer", "elsewhere", "shares")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_ANSWER_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    target: int
    labels: _containers.ScalarMap[str, int]
    default_answer: bytes
    elsewhere: _containers.RepeatedCompositeFieldContainer[_common_pb2.Elsewhere]
    shares: _containers.RepeatedCompositeFieldContainer[_common_pb2.Share]
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ..., target: _Optional[int] = ..., labels: _Optional[_Mapping[str, int]] = ..., default_answer: _Optional[bytes] = ..., elsewhere: _Optional[_Iterable[_Union[_common_pb2.Elsewhere, _Mapping]]] = ..., shares: _Optional[_Iterable[_Union[_common_pb2.Share, _Mapping]]] = ...) -> None: ...

class ObservedReplica(_message.Message):
    __slots__ = ("status", "connected", "routed", "seen_at")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    ROUTED_FIELD_NUMBER: _ClassVar[int]
    SEEN_AT_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.ReplicaStatus
    connected: bool
    routed: _containers.RepeatedCompositeFieldContainer[_common_pb2.VersionRef]
    seen_at: float
    def __init__(self, status: _Optional[_Union[_common_pb2.ReplicaStatus, _Mapping]] = ..., connected: _Optional[bool] = ..., routed: _Optional[_Iterable[_Union[_common_pb2.VersionRef, _Mapping]]] = ..., seen_at: _Optional[float] = ...) -> None: ...

class ObservedPool(_message.Message):
    __slots__ = ("job", "workload", "replicas", "ready")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    job: str
    workload: str
    replicas: int
    ready: int
    def __init__(self, job: _Optional[str] = ..., workload: _Optional[str] = ..., replicas: _Optional[int] = ..., ready: _Optional[int] = ...) -> None: ...

class ObservedCell(_message.Message):
    __slots__ = ("cell", "epoch", "desired_generation", "replicas", "routers", "pools", "wanted")
    CELL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DESIRED_GENERATION_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    cell: str
    epoch: int
    desired_generation: int
    replicas: _containers.RepeatedCompositeFieldContainer[ObservedReplica]
    routers: _containers.RepeatedScalarFieldContainer[str]
    pools: _containers.RepeatedCompositeFieldContainer[ObservedPool]
    wanted: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cell: _Optional[str] = ..., epoch: _Optional[int] = ..., desired_generation: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[ObservedReplica, _Mapping]]] = ..., routers: _Optional[_Iterable[str]] = ..., pools: _Optional[_Iterable[_Union[ObservedPool, _Mapping]]] = ..., wanted: _Optional[_Iterable[str]] = ...) -> None: ...

class ReportSummary(_message.Message):
    __slots__ = ("reports",)
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: int
    def __init__(self, reports: _Optional[int] = ...) -> None: ...
