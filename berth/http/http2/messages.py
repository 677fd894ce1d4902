"""From a decoded field list to a head or trailers, by the rules of RFC 9113 section 8."""

from __future__ import annotations

from enum import Enum, auto
from functools import lru_cache
from typing import Final

from berth.http.errors import Malformed
from berth.http.head import (
    CONNECTION_FIELDS,
    Field,
    Fields,
    RequestHead,
    ResponseHead,
    check_authority,
    check_fields,
    check_method,
    check_path,
    parse_content_length,
)
from berth.http.http2.header_codec import MEMO_VALUE_SIZE

_SPECIAL: Final = frozenset((b"content-length", b"host", b"expect"))
_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))


class Trailers:
    """Fields after the body; a class of its own because heads and trailers share a memory of blocks."""

    __slots__ = ("fields",)

    def __init__(self, fields: Fields) -> None:
        self.fields = fields

    def extended(self, tail: Fields) -> Trailers:
        """With more fields at the end."""
        return Trailers(self.fields + tail)


Message = RequestHead | ResponseHead | Trailers


def parse(fields: list[Field]) -> Message:
    """What the block is, told by its pseudo-fields. Raises `Malformed`."""
    pseudo: dict[bytes, bytes] = {}
    special: list[Field] = []
    for at, field in enumerate(fields):
        kind = _kind_remembered(field) if len(field[1]) <= MEMO_VALUE_SIZE else _kind(field)
        if kind is Kind.PLAIN:
            continue
        if kind is Kind.SPECIAL:
            special.append(field)
        elif at != len(pseudo) or field[0] in pseudo:
            raise Malformed(f"{field[0].decode('latin-1')} is given twice, or after other fields")
        else:
            pseudo[field[0]] = field[1]
    regular = fields[len(pseudo) :]
    length = parse_content_length([value for name, value in special if name == b"content-length"])
    if b":status" in pseudo:
        return _response(pseudo, regular, length)
    if pseudo:
        return _request(pseudo, regular, special, length)
    if length is not None:
        raise Malformed("content-length after the body")
    return Trailers(tuple(regular))


def are_plain(fields: list[Field]) -> bool:
    """Whether these fields are well formed and change nothing about the message but its list of fields.

    Raises `Malformed`.
    """
    return all(
        (_kind_remembered(field) if len(field[1]) <= MEMO_VALUE_SIZE else _kind(field)) is Kind.PLAIN
        for field in fields
    )


class Kind(Enum):
    """What `parse` has to do about a well-formed field."""

    PLAIN = auto()
    SPECIAL = auto()
    PSEUDO = auto()


def _kind(field: Field) -> Kind:
    name, value = field
    if name[:1] == b":":
        check_fields([name[1:]], [value])
        return Kind.PSEUDO
    check_fields([name], [value])
    if name in CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed("a field speaks of the connection")
    return Kind.SPECIAL if name in _SPECIAL else Kind.PLAIN


# Most fields of a request with a new id are those of the request before.
_kind_remembered: Final = lru_cache(maxsize=2048)(_kind)


def _response(pseudo: dict[bytes, bytes], regular: list[Field], length: int | None) -> ResponseHead:
    status = pseudo[b":status"]
    if len(pseudo) != 1:
        raise Malformed("a response with the pseudo-fields of a request")
    if len(status) != 3 or not status.isdigit() or not b"100" <= status <= b"599":
        raise Malformed("the status is not a number from 100 to 599")
    if status == b"101":
        raise Malformed("HTTP/2 has no 101")
    return ResponseHead(int(status), tuple(regular), length)


def _request(pseudo: dict[bytes, bytes], regular: list[Field], special: list[Field], length: int | None) -> RequestHead:
    if not pseudo.keys() <= _REQUEST_PSEUDO:
        raise Malformed("an unknown pseudo-field")
    method = pseudo.get(b":method", b"")
    check_method(method)
    scheme, path, authority = pseudo.get(b":scheme"), pseudo.get(b":path"), pseudo.get(b":authority", b"")
    if not scheme or path is None:
        raise Malformed("a request without :scheme or :path")
    check_path(method, path)
    hosts = [value for name, value in special if name == b"host"]
    if hosts:
        if len(hosts) > 1 or (authority and hosts[0] != authority):
            raise Malformed("host and :authority differ")
        authority = hosts[0]
        regular = [field for field in regular if field[0] != b"host"]
    check_authority(authority)
    expects = any(name == b"expect" and value.lower() == b"100-continue" for name, value in special)
    return RequestHead(method, scheme, authority, path, tuple(regular), content_length=length, expects_continue=expects)
