"""Heads of RFC 9112, read strictly: a request or status line, fields, and what they say about the body's length.

Refused although RFC 9112 lets a recipient repair it, because the next parser may repair it otherwise: line folding,
a bare LF or CR, white space before a colon, any content-length beside transfer-encoding, a content-length given twice,
codings other than chunked, a list of host fields. An HTTP/1.0 message with a transfer-encoding is refused as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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

_REQUEST_LINE: Final = re.compile(rb"([!-~]+) ([!-~]+) HTTP/(\d)\.(\d)")
_STATUS_LINE: Final = re.compile(rb"HTTP/(1)\.(\d) ([1-5]\d\d)(?: [\t -~\x80-\xff]*)?")
_ABSOLUTE: Final = re.compile(rb"(https?)://([^/?#]*)(.*)", re.IGNORECASE)
# Of interest to this module; all other fields pass through unread.
_FRAMING: Final = CONNECTION_FIELDS | {b"content-length", b"host", b"te", b"trailer", b"expect"}
# They decide where a message ends or where it goes, so they must not come after the fact (RFC 9110 section 6.5.1).
_NOT_IN_TRAILERS: Final = CONNECTION_FIELDS | {b"content-length", b"host", b"authorization", b"te", b"trailer"}

# `connection` may not take these from a request.
_NEVER_HIDDEN: Final = frozenset((b"authorization", b"content-length", b"host"))
# Single lines are remembered up to this size, for all connections together: bounded in number and in bytes.
_MEMO_LINE_SIZE: Final = 256


@dataclass(frozen=True, slots=True)
class RequestFraming:
    """A request head, and what concerns this connection only. `chunked` or `head.content_length` tells the body."""

    head: RequestHead
    chunked: bool
    keep_alive: bool
    modern: bool  # HTTP/1.1: chunked answers and 100 Continue are understood


@dataclass(frozen=True, slots=True)
class ResponseFraming:
    head: ResponseHead
    chunked: bool
    keep_alive: bool


@dataclass(slots=True)
class _Hop:
    """What the fields of one hop said."""

    chunked: bool = False
    close: bool = False
    keep_alive: bool = False
    hosts: tuple[bytes, ...] = ()
    content_length: int | None = None
    expects_continue: bool = False


def parse_request(raw: bytes, scheme: bytes, max_fields: int) -> RequestFraming:
    """`raw` is the head without its final empty line. `scheme` is the transport's. Raises `Malformed`."""
    line, rest = _first_line(raw)
    matched = _REQUEST_LINE.fullmatch(line)
    if matched is None:
        raise Malformed("the request line is not METHOD TARGET HTTP/1.1")
    method, target, major, minor = matched.groups()
    if major != b"1":
        raise Malformed("only HTTP/1.1 is spoken here", 505)
    modern = minor != b"0"
    check_method(method)
    fields, hop = _parse_fields(rest, max_fields)
    if hop.chunked and not modern:
        raise Malformed("transfer-encoding in HTTP/1.0")
    if len(hop.hosts) > 1 or (modern and not hop.hosts):
        raise Malformed("not exactly one host")
    authority = hop.hosts[0] if hop.hosts else b""
    check_authority(authority)
    path = target
    if target[:1] != b"/" and target != b"*":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Malformed("the request target is neither a path nor a URL")
        # The target counts, whatever host says (RFC 9112 section 3.2.2).
        _, authority, path = absolute.groups()
        check_authority(authority)
        if not authority:
            raise Malformed("the request target names no host")
        if path[:1] != b"/":
            path = b"/" + path
    check_path(method, path)
    head = RequestHead(
        method,
        scheme,
        authority,
        path,
        fields,
        content_length=hop.content_length,
        expects_continue=hop.expects_continue and modern,
    )
    keep_alive = not hop.close and (modern or hop.keep_alive)
    return RequestFraming(head, hop.chunked, keep_alive, modern)


def parse_response(raw: bytes, max_fields: int) -> ResponseFraming:
    """`raw` is the head without its final empty line. Raises `Malformed`."""
    line, rest = _first_line(raw)
    matched = _STATUS_LINE.fullmatch(line)
    if matched is None:
        raise Malformed("the status line is not HTTP/1.1 STATUS REASON")
    _, minor, status = matched.groups()
    modern = minor != b"0"
    fields, hop = _parse_fields(rest, max_fields)
    if hop.chunked and not modern:
        raise Malformed("transfer-encoding in HTTP/1.0")
    keep_alive = not hop.close and (modern or hop.keep_alive)
    return ResponseFraming(ResponseHead(int(status), fields, hop.content_length), hop.chunked, keep_alive)


def _first_line(raw: bytes) -> tuple[bytes, bytes]:
    line, _, rest = raw.partition(b"\r\n")
    if b"\n" in line:
        raise Malformed("a line ends with a bare LF")
    return line, rest


def parse_trailers(raw: bytes, max_fields: int) -> Fields:
    """Fields after a chunked body. Raises `Malformed`."""
    fields = _split(raw, max_fields)
    if not _NOT_IN_TRAILERS.isdisjoint([name for name, _ in fields]):
        raise Malformed("a trailer that belongs into the head")
    return tuple(fields)


def _split(raw: bytes, max_fields: int) -> list[Field]:
    """Fields with names in lower case and values without surrounding white space, checked."""
    if not raw:
        return []
    lines = raw.split(b"\r\n")
    if len(lines) > max_fields:
        raise Malformed("too many fields", 431)
    return [_read_line_remembered(line) if len(line) <= _MEMO_LINE_SIZE else _read_line(line) for line in lines]


def _read_line(line: bytes) -> Field:
    # A folded line starts with white space, as a name does not; a bare CR or LF ends up in a name or a value.
    name, colon, value = line.partition(b":")
    if not colon:
        raise Malformed("a field without a colon")
    name, value = name.lower(), value.strip(b" \t")
    check_fields([name], [value])
    return name, value


# Most lines of a request with a new id are those of the request before.
_read_line_remembered: Final = lru_cache(maxsize=2048)(_read_line)


def _parse_fields(raw: bytes, max_fields: int) -> tuple[Fields, _Hop]:
    """The fields that are meant end to end, and what the others said."""
    hop = _Hop()
    fields: list[Field] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    options: list[bytes] = []
    for field in _split(raw, max_fields):
        name, value = field
        if name not in _FRAMING:
            fields.append(field)
        elif name == b"host":
            hop.hosts += (value,)
        elif name == b"content-length":
            lengths.append(value)
            fields.append(field)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"connection":
            options += _tokens(value)
        elif name == b"expect":
            _read_expect(value, hop)
        # keep-alive, te, trailer, upgrade and the like speak of this connection only, and are not passed on.
    return _conclude(fields, lengths, codings, options, hop), hop


def _conclude(
    fields: list[Field], lengths: list[bytes], codings: list[bytes], options: list[bytes], hop: _Hop
) -> Fields:
    """What the fields of one kind say together. Returns those that are meant end to end."""
    if lengths:
        hop.content_length = parse_content_length(lengths)
    if codings:
        _read_codings(codings, hop)
    if options:
        fields = _read_options(options, fields, hop)
    return tuple(fields)


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t").lower() for token in value.split(b",")]


def _read_options(options: list[bytes], fields: list[Field], hop: _Hop) -> list[Field]:
    """What `connection` said; the fields it names are not for the next hop, unless they decide about the request."""
    hop.close, hop.keep_alive = b"close" in options, b"keep-alive" in options
    named = frozenset(options) - _NEVER_HIDDEN
    return [field for field in fields if field[0] not in named]


def _read_expect(value: bytes, hop: _Hop) -> None:
    if value.lower() != b"100-continue":
        raise Malformed("an expectation that cannot be met", 417)
    hop.expects_continue = True


def _read_codings(codings: list[bytes], hop: _Hop) -> None:
    if hop.content_length is not None:
        raise Malformed("both transfer-encoding and content-length")
    if len(codings) > 1 or codings[0].lower() != b"chunked":
        known = all(coding == b"chunked" for coding in _tokens(b",".join(codings)))
        raise Malformed("transfer-encoding is not just chunked", 400 if known else 501)
    hop.chunked = True
