from berth.wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AspiredSet(_message.Message):
    __slots__ = ("order", "versions")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    order: _common_pb2.Order
    versions: _containers.RepeatedCompositeFieldContainer[_common_pb2.VersionSpec]
    def __init__(self, order: _Optional[_Union[_common_pb2.Order, _Mapping]] = ..., versions: _Optional[_Iterable[_Union[_common_pb2.VersionSpec, _Mapping]]] = ...) -> None: ...

class SyncReply(_message.Message):
    __slots__ = ("status", "refused")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.ReplicaStatus
    refused: bool
    def __init__(self, status: _Optional[_Union[_common_pb2.ReplicaStatus, _Mapping]] = ..., refused: _Optional[bool] = ...) -> None: ...
