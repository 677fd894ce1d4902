from berth.wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RouteAck(_message.Message):
    __slots__ = ("router", "applied", "wanted")
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    router: str
    applied: _common_pb2.Order
    wanted: _containers.RepeatedCompositeFieldContainer[_common_pb2.VersionRef]
    def __init__(self, router: _Optional[str] = ..., applied: _Optional[_Union[_common_pb2.Order, _Mapping]] = ..., wanted: _Optional[_Iterable[_Union[_common_pb2.VersionRef, _Mapping]]] = ...) -> None: ...

class VersionRoute(_message.Message):
    __slots__ = ("version", "replicas", "reason", "failed", "state")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    version: int
    replicas: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    failed: bool
    state: str
    def __init__(self, version: _Optional[int] = ..., replicas: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., failed: _Optional[bool] = ..., state: _Optional[str] = ...) -> None: ...

class ModelRoute(_message.Message):
    __slots__ = ("tenant", "model", "default_version", "labels", "versions", "default_answer", "elsewhere", "shares")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_ANSWER_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    default_version: int
    labels: _containers.ScalarMap[str, int]
    versions: _containers.RepeatedCompositeFieldContainer[VersionRoute]
    default_answer: bytes
    elsewhere: _containers.RepeatedCompositeFieldContainer[_common_pb2.Elsewhere]
    shares: _containers.RepeatedCompositeFieldContainer[_common_pb2.Share]
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ..., default_version: _Optional[int] = ..., labels: _Optional[_Mapping[str, int]] = ..., versions: _Optional[_Iterable[_Union[VersionRoute, _Mapping]]] = ..., default_answer: _Optional[bytes] = ..., elsewhere: _Optional[_Iterable[_Union[_common_pb2.Elsewhere, _Mapping]]] = ..., shares: _Optional[_Iterable[_Union[_common_pb2.Share, _Mapping]]] = ...) -> None: ...

class ModelRef(_message.Message):
    __slots__ = ("tenant", "model")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class RouteDelta(_message.Message):
    __slots__ = ("base", "order", "models", "removed_models", "replicas", "removed_replicas", "keys", "removed_keys", "limits", "removed_limits", "routers")
    BASE_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_MODELS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_KEYS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_LIMITS_FIELD_NUMBER: _ClassVar[int]
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    base: int
    order: _common_pb2.Order
    models: _containers.RepeatedCompositeFieldContainer[ModelRoute]
    removed_models: _containers.RepeatedCompositeFieldContainer[ModelRef]
    replicas: _containers.RepeatedCompositeFieldContainer[_common_pb2.ReplicaAddress]
    removed_replicas: _containers.RepeatedScalarFieldContainer[str]
    keys: _containers.RepeatedCompositeFieldContainer[_common_pb2.ApiKey]
    removed_keys: _containers.RepeatedScalarFieldContainer[bytes]
    limits: _containers.RepeatedCompositeFieldContainer[_common_pb2.TenantLimits]
    removed_limits: _containers.RepeatedScalarFieldContainer[str]
    routers: int
    def __init__(self, base: _Optional[int] = ..., order: _Optional[_Union[_common_pb2.Order, _Mapping]] = ..., models: _Optional[_Iterable[_Union[ModelRoute, _Mapping]]] = ..., removed_models: _Optional[_Iterable[_Union[ModelRef, _Mapping]]] = ..., replicas: _Optional[_Iterable[_Union[_common_pb2.ReplicaAddress, _Mapping]]] = ..., removed_replicas: _Optional[_Iterable[str]] = ..., keys: _Optional[_Iterable[_Union[_common_pb2.ApiKey, _Mapping]]] = ..., removed_keys: _Optional[_Iterable[bytes]] = ..., limits: _Optional[_Iterable[_Union[_common_pb2.TenantLimits, _Mapping]]] = ..., removed_limits: _Optional[_Iterable[str]] = ..., routers: _Optional[int] = ...) -> None: ...
