"""gRPC over HTTP/2 as far as a proxy needs it: five bytes before a message, a deadline, a status in the trailers.

After https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from berth.errors import InvalidArgument
from berth.headers import CONTENT_TYPE, GRPC_TIMEOUT
from berth.http.head import Field
from berth.http.http2 import header_codec

SERVICE: Final = "inference.GRPCInferenceService"
PREFIX_SIZE: Final = 5

CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
UNKNOWN, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 2, 12, 13, 14
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
