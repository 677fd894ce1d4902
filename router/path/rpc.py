"""What a proxy has to know of gRPC beside its bytes (`berth.http.grpc`): what of an answer goes on to the client, and
what its status says of the replica."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from berth.headers import CONTENT_TYPE, GRPC_MESSAGE, GRPC_STATUS, GRPC_TIMEOUT, NOT_STARTED
from berth.http.grpc import messages
from berth.http.grpc.status import CANCELLED, DATA_LOSS, INTERNAL, UNAVAILABLE, UNKNOWN, read_status
from berth.http.grpc.timeouts import encode_timeout
from berth.http.head import Field, Fields, ResponseHead, first
from berth.http.http2 import header_codec
from router.path import fields as of

# Another replica might do better.
_FAULTY: Final = frozenset((UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS))
_LOST: Final = frozenset((CANCELLED, UNAVAILABLE))

CONTENT_TYPE_FIELD: Final[Field] = (CONTENT_TYPE, messages.CONTENT_TYPE)


@lru_cache(maxsize=4096)
def timeout_block(milliseconds: int) -> bytes:
    """The encoded field for the next hop."""
    return header_codec.encode(((GRPC_TIMEOUT, encode_timeout(milliseconds)),))


class GrpcAnswerHead:
    """What a worker's head says, and what becomes of it (encoded) on its way to the client."""

    __slots__ = ("block", "not_started", "pushback")

    def __init__(self, fields: Fields) -> None:
        self.block = header_codec.encode_response(200, (CONTENT_TYPE_FIELD, *of.grpc_to_client(fields)))
        self.not_started = first(fields, NOT_STARTED) is not None
        self.pushback = of.pushback_of(fields)


def answer_head_of(head: ResponseHead) -> GrpcAnswerHead:
    """For the part of a head that others share; worked out once for all of these."""
    base = head.base
    passed = base.derived
    if type(passed) is not GrpcAnswerHead:
        passed = base.derived = GrpcAnswerHead(base.fields)
    return passed


def block_for_client(head: ResponseHead) -> bytes:
    passed, base = answer_head_of(head), head.base
    if base is head:
        return passed.block
    tail = of.grpc_to_client(head.fields[len(base.fields) :])
    return passed.block + header_codec.encode(tail) if tail else passed.block


class GrpcEnding(NamedTuple):
    """What the fields at the end of an answer say, and how they go on to the client (encoded).

    `lost`: a library's way to say that the server ended. A worker means it never by itself: what it refuses before it
    starts is marked, and what it answers carries more or another code.
    """

    code: int
    faulty: bool
    lost: bool
    not_started: bool
    pushback: float | None
    message: bytes
    passed: Fields
    block: bytes


@lru_cache(maxsize=1024)
def read_ending(fields: Fields, http_status: int = 200) -> GrpcEnding:
    """The status in trailers, or in a head that is all of the answer."""
    code, message = read_status(fields, http_status)
    passed = tuple(of.grpc_to_client(fields))
    ours: Fields = ((GRPC_STATUS, b"%d" % code), *(((GRPC_MESSAGE, message),) if message else ()))
    return GrpcEnding(
        code,
        code in _FAULTY,
        code in _LOST and not passed,
        first(fields, NOT_STARTED) is not None,
        of.pushback_of(fields),
        message,
        passed,
        header_codec.encode((*ours, *passed)),
    )
