from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Elsewhere(_message.Message):
    __slots__ = ("version", "cells")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    version: int
    cells: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[int] = ..., cells: _Optional[_Iterable[str]] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("version", "weight")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    version: int
    weight: int
    def __init__(self, version: _Optional[int] = ..., weight: _Optional[int] = ...) -> None: ...

class VersionRef(_message.Message):
    __slots__ = ("tenant", "model", "version")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    version: int
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("sha256", "size_bytes", "format")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    format: str
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., format: _Optional[str] = ...) -> None: ...

class DeviceBytes(_message.Message):
    __slots__ = ("device", "bytes")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    device: str
    bytes: int
    def __init__(self, device: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class VersionSpec(_message.Message):
    __slots__ = ("ref", "artifact", "reserved_bytes", "reserved_of")
    REF_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_OF_FIELD_NUMBER: _ClassVar[int]
    ref: VersionRef
    artifact: Artifact
    reserved_bytes: int
    reserved_of: _containers.RepeatedCompositeFieldContainer[DeviceBytes]
    def __init__(self, ref: _Optional[_Union[VersionRef, _Mapping]] = ..., artifact: _Optional[_Union[Artifact, _Mapping]] = ..., reserved_bytes: _Optional[int] = ..., reserved_of: _Optional[_Iterable[_Union[DeviceBytes, _Mapping]]] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("epoch", "generation")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    generation: int
    def __init__(self, epoch: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class ApiKey(_message.Message):
    __slots__ = ("sha256", "tenant", "role")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    tenant: str
    role: str
    def __init__(self, sha256: _Optional[bytes] = ..., tenant: _Optional[str] = ..., role: _Optional[str] = ...) -> None: ...

class TenantLimits(_message.Message):
    __slots__ = ("tenant", "requests_per_second", "max_concurrent", "bytes_per_second", "weight")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    requests_per_second: float
    max_concurrent: int
    bytes_per_second: float
    weight: float
    def __init__(self, tenant: _Optional[str] = ..., requests_per_second: _Optional[float] = ..., max_concurrent: _Optional[int] = ..., bytes_per_second: _Optional[float] = ..., weight: _Optional[float] = ...) -> None: ...

class ReplicaAddress(_message.Message):
    __slots__ = ("replica", "job", "cell", "incarnation", "control", "grpc", "http", "zone")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    replica: str
    job: str
    cell: str
    incarnation: str
    control: str
    grpc: str
    http: str
    zone: str
    def __init__(self, replica: _Optional[str] = ..., job: _Optional[str] = ..., cell: _Optional[str] = ..., incarnation: _Optional[str] = ..., control: _Optional[str] = ..., grpc: _Optional[str] = ..., http: _Optional[str] = ..., zone: _Optional[str] = ...) -> None: ...

class ServableStatus(_message.Message):
    __slots__ = ("ref", "state", "reason", "since", "measured_bytes", "attempts")
    REF_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    MEASURED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ref: VersionRef
    state: str
    reason: str
    since: float
    measured_bytes: int
    attempts: int
    def __init__(self, ref: _Optional[_Union[VersionRef, _Mapping]] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., since: _Optional[float] = ..., measured_bytes: _Optional[int] = ..., attempts: _Optional[int] = ...) -> None: ...

class ReplicaLoad(_message.Message):
    __slots__ = ("completed", "busy_s", "queued_s")
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    QUEUED_S_FIELD_NUMBER: _ClassVar[int]
    completed: int
    busy_s: float
    queued_s: float
    def __init__(self, completed: _Optional[int] = ..., busy_s: _Optional[float] = ..., queued_s: _Optional[float] = ...) -> None: ...

class ServableLoad(_message.Message):
    __slots__ = ("ref", "completed", "busy_s")
    REF_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    ref: VersionRef
    completed: int
    busy_s: float
    def __init__(self, ref: _Optional[_Union[VersionRef, _Mapping]] = ..., completed: _Optional[int] = ..., busy_s: _Optional[float] = ...) -> None: ...

class ReplicaStatus(_message.Message):
    __slots__ = ("address", "accepted", "servables", "memory_limit", "memory_used", "in_flight", "draining", "load", "loads")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    SERVABLES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    LOADS_FIELD_NUMBER: _ClassVar[int]
    address: ReplicaAddress
    accepted: Order
    servables: _containers.RepeatedCompositeFieldContainer[ServableStatus]
    memory_limit: int
    memory_used: int
    in_flight: int
    draining: bool
    load: ReplicaLoad
    loads: _containers.RepeatedCompositeFieldContainer[ServableLoad]
    def __init__(self, address: _Optional[_Union[ReplicaAddress, _Mapping]] = ..., accepted: _Optional[_Union[Order, _Mapping]] = ..., servables: _Optional[_Iterable[_Union[ServableStatus, _Mapping]]] = ..., memory_limit: _Optional[int] = ..., memory_used: _Optional[int] = ..., in_flight: _Optional[int] = ..., draining: _Optional[bool] = ..., load: _Optional[_Union[ReplicaLoad, _Mapping]] = ..., loads: _Optional[_Iterable[_Union[ServableLoad, _Mapping]]] = ...) -> None: ...
