"""The heads and bodies of requests that go by gRPC: to a replica, and as they came to another cell's routers."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

from berth.headers import CONTENT_TYPE, GRPC_TIMEOUT, PASSED_ON
from berth.http.grpc import messages
from berth.http.grpc.timeouts import encode_timeout
from berth.http.head import Fields
from berth.http.http2 import header_codec
from berth.http.limits import BULKY
from berth.oip import metadata
from router.core.message import name_fields
from router.core.paths import Operation
from router.path import fields as of
from router.path.fields import Door
from router.path.request import Envelope, Request
from router.path.request_ids import id_block

_METHODS: Final = {
    Operation.INFER: b"ModelInfer",
    Operation.METADATA: b"ModelMetadata",
    Operation.READY: b"ModelReady",
}
_FIELDS: Final[Fields] = (
    (b"te", b"trailers"),
    (CONTENT_TYPE, messages.CONTENT_TYPE),
    (b"user-agent", b"berth-router"),
)


class GrpcHead:
    """The part of a head that is the same for all requests, kept with its envelope: for replicas, and for the routers
    of one other cell."""

    __slots__ = ("block", "door", "door_block")

    def __init__(self) -> None:
        self.block = b""
        self.door: Door | None = None
        self.door_block = b""


def _kept(envelope: Envelope) -> GrpcHead:
    kept = envelope.written
    if type(kept) is not GrpcHead:
        kept = envelope.written = GrpcHead()
    return kept


def head_for(request: Request, scheme: bytes, seconds: float, credential: bytes) -> bytes:
    """The encoded head for a replica, whose `scheme` is the same for all; `seconds` are left until the deadline."""
    kept = _kept(request.envelope)
    if not kept.block:
        fields = (*_FIELDS, *of.grpc_to_worker(request.envelope.fields))
        kept.block = header_codec.encode_request(b"POST", scheme, of.WORKER, _path_of(request), fields)
    block = kept.block + credential + id_block(request.request_id)
    return block if seconds == math.inf else block + _timeout_block(max(1, int(seconds * 1000.0)))


def head_to_router(request: Request, door: Door, seconds: float) -> bytes:
    """The same for another cell's routers."""
    kept = _kept(request.envelope)
    if kept.door is not door:
        fields = (*_FIELDS, *of.grpc_to_router(request.envelope.fields), (PASSED_ON, door.sender))
        kept.door = door
        kept.door_block = header_codec.encode_request(b"POST", door.scheme, door.authority, _path_of(request), fields)
    block = kept.door_block + id_block(request.request_id)
    return block if seconds == math.inf else block + _timeout_block(max(1, int(seconds * 1000.0)))


def body_for(request: Request, servable: str) -> list[bytes | memoryview]:
    """One message: in one piece, or more where joining them would copy much. Without a servable, as it came."""
    body, start = request.body, request.offset
    size = len(body) - start
    if not servable:
        return [body] if start else [messages.prefix(size) + body]
    tail = name_fields(servable)
    prefix = messages.prefix(size + len(tail))
    if size < BULKY:
        return [prefix + body[start:] + tail]
    return [prefix, memoryview(body)[start:], tail]


@lru_cache(maxsize=4096)
def _timeout_block(milliseconds: int) -> bytes:
    """The encoded field for the next hop."""
    return header_codec.encode(((GRPC_TIMEOUT, encode_timeout(milliseconds)),))


def _path_of(request: Request) -> bytes:
    method = b"ModelStreamInfer" if request.envelope.streams else _METHODS[request.operation]
    return metadata.GRPC_METHODS + method
