"""The status of a call: a number and a text, in the trailers or in a head that is all of the answer."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from berth.headers import GRPC_MESSAGE, GRPC_STATUS
from berth.http.head import Field, Fields, first

CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
CANCELLED: Final = 1
UNKNOWN: Final = 2
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
DATA_LOSS: Final = 15

OK_FIELD: Final[Field] = (GRPC_STATUS, b"0")

_PLAIN: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
# Peers bound their header lists at 8 KiB and up; a non-ASCII letter takes up to twelve bytes.
_LONGEST_TEXT: Final = 1000
# gRPC's http-grpc-status-mapping.md.
_FROM_HTTP: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}


def code_name(code: int) -> str:
    """The name of a code, `UNKNOWN` for one that does not exist."""
    return CODES[code] if 0 <= code < len(CODES) else CODES[UNKNOWN]


def encode_text(text: str) -> bytes:
    """A `grpc-message`: text beyond ASCII is percent-encoded UTF-8, and what is too long is cut."""
    return quote(text[:_LONGEST_TEXT], safe=_PLAIN).encode()


def parse_text(value: bytes) -> str:
    """The text of a `grpc-message`; what is not properly encoded stays as it is."""
    return unquote(value.decode("latin-1"), errors="replace")


def status_fields(code: int, text: str) -> tuple[Field, Field]:
    """The trailers of a call that failed."""
    return (GRPC_STATUS, b"%d" % code), (GRPC_MESSAGE, encode_text(text))


class GrpcStatus(NamedTuple):
    """`text` as it is on the wire."""

    code: int
    text: bytes


def read_status(fields: Fields, http_status: int = 200) -> GrpcStatus:
    """The status in the last fields of an answer; if there is none, the one that HTTP's status implies."""
    given = first(fields, GRPC_STATUS)
    if given is not None and given.isdigit() and len(given) < 4:
        return GrpcStatus(int(given), first(fields, GRPC_MESSAGE) or b"")
    if http_status == 200:
        return GrpcStatus(UNKNOWN, b"the replica's answer has no status")
    return GrpcStatus(_FROM_HTTP.get(http_status, UNKNOWN), b"HTTP status %d" % http_status)
