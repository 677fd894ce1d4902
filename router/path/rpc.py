"""gRPC over HTTP/2 as far as a proxy needs it: five bytes before a message, a deadline, a status in the trailers.

After https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

from berth.errors import InvalidArgument
from berth.headers import CONTENT_TYPE, GRPC_MESSAGE, GRPC_STATUS, GRPC_TIMEOUT, NOT_STARTED
from berth.http.head import Field, Fields, ResponseHead, first
from berth.http.http2 import header_codec
from router.path import fields as of

SERVICE: Final = "inference.GRPCInferenceService"
PREFIX_SIZE: Final = 5

CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
UNKNOWN, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 2, 12, 13, 14
# Another replica might do better: UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS.
_FAULTY: Final = frozenset((2, 13, 14, 15))

# CANCELLED, UNAVAILABLE.
_LOST: Final = frozenset((1, 14))

TYPE: Final[Field] = (CONTENT_TYPE, b"application/grpc")

_TIMEOUT: Final = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LONGEST_IN_MS: Final = 99_999_999


def code_name(status: int) -> str:
    """The name of a status, `UNKNOWN` for one that does not exist."""
    return CODES[status] if 0 <= status < len(CODES) else CODES[UNKNOWN]


def prefix(size: int) -> bytes:
    """What goes before an uncompressed message of `size` bytes."""
    return b"\0" + size.to_bytes(4, "big")


@lru_cache(maxsize=1024)
def timeout_of(value: bytes) -> float:
    """Seconds of a `grpc-timeout`. Raises `InvalidArgument`."""
    matched = _TIMEOUT.fullmatch(value)
    if matched is None:
        raise InvalidArgument("grpc-timeout is not a number of at most eight digits and a unit")
    return int(matched[1]) * _UNITS[matched[2]]


@lru_cache(maxsize=4096)
def timeout_block(milliseconds: int) -> bytes:
    """The encoded field for the next hop."""
    value = b"%dm" % milliseconds if milliseconds <= _LONGEST_IN_MS else b"%dS" % min(milliseconds // 1000, 10**8 - 1)
    return header_codec.encode(((GRPC_TIMEOUT, value),))


class Passed:
    """What a worker's head says, and what becomes of it (encoded) on its way to the client."""

    __slots__ = ("block", "not_started", "pushback")

    def __init__(self, fields: Fields) -> None:
        self.block = header_codec.encode_response(200, (TYPE, *of.grpc_to_client(fields)))
        self.not_started = first(fields, NOT_STARTED) is not None
        self.pushback = of.pushback_of(fields)


def passed_of(head: ResponseHead) -> Passed:
    """For the part of a head that others share; worked out once for all of these."""
    base = head.base
    passed = base.derived
    if type(passed) is not Passed:
        passed = base.derived = Passed(base.fields)
    return passed


def block_for_client(head: ResponseHead) -> bytes:
    passed, base = passed_of(head), head.base
    if base is head:
        return passed.block
    tail = of.grpc_to_client(head.fields[len(base.fields) :])
    return passed.block + header_codec.encode(tail) if tail else passed.block


class Status(NamedTuple):
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
def read_status(fields: Fields, http_status: int = 200) -> Status:
    """The status in trailers, or in a head that is all of the answer."""
    given = first(fields, GRPC_STATUS)
    message = first(fields, GRPC_MESSAGE) or b""
    if given is not None and given.isdigit() and len(given) < 4:
        code = int(given)
    else:
        code = UNKNOWN if http_status == 200 else _from_http(http_status)
        message = b"the replica's answer has no status" if http_status == 200 else b"HTTP status %d" % http_status
    passed = tuple(of.grpc_to_client(fields))
    ours: Fields = ((GRPC_STATUS, b"%d" % code), *(((GRPC_MESSAGE, message),) if message else ()))
    return Status(
        code,
        code in _FAULTY,
        code in _LOST and not passed,
        first(fields, NOT_STARTED) is not None,
        of.pushback_of(fields),
        message,
        passed,
        header_codec.encode((*ours, *passed)),
    )


def _from_http(status: int) -> int:
    """The table of gRPC's http-grpc-status-mapping.md."""
    return {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}.get(status, UNKNOWN)


def percent_encode(text: str) -> bytes:
    """A status message as it is sent."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in text.encode()
    )


def percent_decode(message: bytes) -> str:
    return unquote(message.decode("latin-1"), encoding="utf-8", errors="replace")


def decompress(message: bytes | memoryview, encoding: bytes | None, limit: int) -> bytes:
    """A compressed message. Raises `InvalidArgument`, and `OverflowError` for more than `limit` bytes."""
    if encoding == b"gzip":
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
    elif encoding == b"deflate":
        decoder = zlib.decompressobj()
    else:
        raise InvalidArgument("the message is compressed in a way that is not supported: use gzip, deflate or identity")
    try:
        plain = decoder.decompress(message, limit + 1)
    except zlib.error:
        raise InvalidArgument("the message is not what grpc-encoding says") from None
    if len(plain) > limit:
        raise OverflowError
    if not decoder.eof:
        raise InvalidArgument("the compressed message is cut short")
    return plain
