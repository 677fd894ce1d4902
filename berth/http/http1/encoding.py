"""Heads written for HTTP/1.1.

A block is the first line and the fields, without those that frame the body. The connection appends these and the final
empty line. So a block can be made once and sent many times, and field lines may be appended to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from berth.http.errors import Malformed
from berth.http.head import (
    CONNECTION_FIELDS,
    Field,
    check_authority,
    check_fields,
    check_method,
    check_path,
)

# The connection writes these itself.
_OURS: Final = CONNECTION_FIELDS | {b"content-length", b"te", b"trailer", b"expect"}
# Single fields are remembered up to this size, for all connections together: bounded in number and in bytes.
_MEMO_VALUE_SIZE: Final = 256


def encode_fields(fields: Iterable[Field]) -> bytes:
    """Field lines, to be used alone or appended to a block. Framing and connection fields are left out.

    Raises `ValueError` for what must not be on the wire.
    """
    return b"".join(
        [_line_remembered(field) if len(field[1]) <= _MEMO_VALUE_SIZE else _line(field) for field in fields]
    )


def _line(field: Field) -> bytes:
    name, value = field
    if name in _OURS:
        return b""
    try:
        check_fields([name], [value])
    except Malformed as error:
        raise ValueError(error.detail) from None
    return b"%b: %b\r\n" % field


# Most fields of a message with a new id are those of the message before.
_line_remembered: Final = lru_cache(maxsize=2048)(_line)


def encode_request(method: bytes, authority: bytes, path: bytes, fields: Iterable[Field] = ()) -> bytes:
    """The block of a request; `fields` as for `encode_fields`, without host."""
    try:
        check_method(method)
        check_path(method, path)
        check_authority(authority)
    except Malformed as error:
        raise ValueError(error.detail) from None
    rest = encode_fields(field for field in fields if field[0] != b"host")
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, path, authority) + rest


def encode_response(status: int, fields: Iterable[Field] = ()) -> bytes:
    """The block of a response; `fields` as for `encode_fields`."""
    return _status_line(status) + encode_fields(fields)


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    if not 100 <= status <= 599:
        raise ValueError(f"{status} is not an HTTP status")
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    return f"HTTP/1.1 {status} {reason}\r\n".encode()


def encode_chunk(data: bytes | memoryview) -> tuple[bytes, bytes | memoryview, bytes]:
    """A chunk in three pieces, so that the body is not copied. Must not be empty: that would end the body."""
    return b"%x\r\n" % len(data), data, b"\r\n"
