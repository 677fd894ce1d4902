"""RFC 9112 from the server's side: what is read, what is refused, what is written, and when the connection ends."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from berth.http.errors import ErrorCode, LocalError
from berth.http.events import (
    BodyTooLarge,
    ConnectionClosed,
    DataReceived,
    DataSent,
    Event,
    RequestReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http.head import RequestHead
from berth.http.http1.encoding import encode_fields, encode_request, encode_response
from berth.http.http1.server import Http1Server
from berth.http.limits import Http1Limits
from doubles.http_link import feed, joined, now

GET = b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"
OK = encode_response(200, [(b"server", b"berth")])
CUTS = pytest.mark.parametrize("cut", [None, *range(4)])


def listen(wire: bytes, cut: int | None = None, limits: Http1Limits | None = None) -> tuple[Http1Server, list[Event]]:
    connection = Http1Server(limits)
    return connection, joined(feed(connection, wire, random.Random(cut) if cut is not None else None))


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n" + body


# ── What is read ───────────────────────────────────────────────────────────────────────────────────────────────────


@CUTS
def test_a_request_without_a_body(cut: int | None) -> None:
    wire = b"GET /a?b HTTP/1.1\r\nHOST: h:80\r\nX-Two:  a b \r\nx-two:\tc\t\r\nX-Empty:\r\nX-Obs: \xff\r\n\r\n"
    connection, events = listen(wire, cut)
    fields = ((b"x-two", b"a b"), (b"x-two", b"c"), (b"x-empty", b""), (b"x-obs", b"\xff"))
    assert events == [RequestReceived(1, RequestHead(b"GET", b"http", b"h:80", b"/a?b", fields), True)]
    assert connection.open_streams == 1


@CUTS
@pytest.mark.parametrize("size", [1, 10, 100_000])
def test_a_body_of_known_length(cut: int | None, size: int) -> None:
    body = random.Random(size).randbytes(size)
    _, events = listen(post(b"Content-Length: %d\r\n" % size, body + GET), cut)
    assert isinstance(events[0], RequestReceived)
    assert events[0].head.content_length == size
    assert not events[0].ended
    assert events[1:] == [DataReceived(1, body, True)], "the next request waits"


@CUTS
@pytest.mark.parametrize(
    ("wire", "body", "trailers"),
    [
        (b"0\r\n\r\n", b"", ()),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world", ()),
        (b"00000a\r\n0123456789\r\n000\r\n\r\n", b"0123456789", ()),
        (b'5;name=value;other="x;y\t"\r\nhello\r\n0;last\r\n\r\n', b"hello", ()),
        (
            b"A\r\n0123456789\r\n0\r\nChecksum: 7\r\nOther:  x \r\n\r\n",
            b"0123456789",
            ((b"checksum", b"7"), (b"other", b"x")),
        ),
        (b"0\r\nonly: trailers\r\n\r\n", b"", ((b"only", b"trailers"),)),
    ],
)
def test_a_chunked_body(wire: bytes, body: bytes, trailers: tuple[tuple[bytes, bytes], ...], cut: int | None) -> None:
    _, events = listen(post(b"Transfer-Encoding: Chunked\r\n", wire + GET), cut)
    expected: list[Event] = [DataReceived(1, body, not trailers)] if body or not trailers else []
    if trailers:
        expected.append(TrailersReceived(1, trailers))
    assert events[1:] == expected


@CUTS
def test_a_large_chunked_body(cut: int | None) -> None:
    rng = random.Random(7)
    body, wire = rng.randbytes(1_000_000), b""
    pos = 0
    while pos < len(body):
        piece = body[pos : pos + rng.randint(1, 30_000)]
        wire += b"%X\r\n%b\r\n" % (len(piece), piece)
        pos += len(piece)
    _, events = listen(post(b"transfer-encoding: chunked\r\n", wire + b"0\r\n\r\n"), cut)
    assert events[1:] == [DataReceived(1, body, True)]


@pytest.mark.parametrize(
    ("line", "fields", "expected"),
    [
        (b"GET http://other:81/x?y HTTP/1.1", b"Host: h\r\n", (b"other:81", b"/x?y")),
        (b"GET HTTP://other HTTP/1.1", b"Host: h\r\n", (b"other", b"/")),
        (b"GET http://other?q HTTP/1.1", b"Host: h\r\n", (b"other", b"/?q")),
        (b"OPTIONS * HTTP/1.1", b"Host: h\r\n", (b"h", b"*")),
        (b"GET / HTTP/1.0", b"", (b"", b"/")),
        (b"GET / HTTP/1.1", b"Host:\r\n", (b"", b"/")),
        (b"GET / HTTP/1.1", b"Host: [::1]:80\r\n", (b"[::1]:80", b"/")),
        (b"M-SEARCH // HTTP/1.1", b"Host: h\r\n", (b"h", b"//")),
        (b"\r\nGET / HTTP/1.1", b"Host: h\r\n", (b"h", b"/")),
    ],
)
def test_targets(line: bytes, fields: bytes, expected: tuple[bytes, bytes]) -> None:
    _, events = listen(line + b"\r\n" + fields + b"\r\n")
    assert isinstance(events[0], RequestReceived)
    assert (events[0].head.authority, events[0].head.path) == expected


def test_what_concerns_the_connection_is_not_passed_on() -> None:
    wire = post(
        b"Connection: close, X-Hop, Authorization\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AA\r\nTE: trailers\r\nTrailer: x\r\nProxy-Connection: x\r\n"
        b"Authorization: Bearer k\r\nContent-Length: 0\r\nX: y\r\n"
    )
    _, events = listen(wire)
    assert isinstance(events[0], RequestReceived)
    assert events[0].head.fields == ((b"authorization", b"Bearer k"), (b"content-length", b"0"), (b"x", b"y"))
    assert events[0].ended


def test_equal_heads_are_parsed_once() -> None:
    connection = Http1Server()
    heads = []
    for _ in range(2):
        [event] = feed(connection, GET)
        assert isinstance(event, RequestReceived)
        heads.append(event.head)
        connection.send_head(event.stream_id, OK, True)
    assert heads[0] is heads[1]


# ── What is refused ────────────────────────────────────────────────────────────────────────────────────────────────

HEAD = b"GET / HTTP/1.1\r\nHost: h\r\n"
REFUSED = {
    "bare LF after the request line": (b"GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
    "bare LF between fields": (HEAD + b"A: b\nC: d\r\n\r\n", 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: h\n\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "only bare LF": (b"GET / HTTP/1.1\nHost: h\n\n", 400),
    "bare CR in a value": (HEAD + b"A: b\rC: d\r\n\r\n", 400),
    "bare CR in the request line": (b"GET /\r HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "NUL in a value": (HEAD + b"A: \x00\r\n\r\n", 400),
    "DEL in a value": (HEAD + b"A: \x7f\r\n\r\n", 400),
    "NUL in a name": (HEAD + b"A\x00: b\r\n\r\n", 400),
    "folded line": (HEAD + b"A: b\r\n c\r\n\r\n", 400),
    "folded line with a colon": (HEAD + b"A: b\r\n c: d\r\n\r\n", 400),
    "first line of the fields is folded": (b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
    "space before the colon": (HEAD + b"A : b\r\n\r\n", 400),
    "tab before the colon": (HEAD + b"A\t: b\r\n\r\n", 400),
    "space before the colon of content-length": (HEAD + b"Content-Length : 5\r\n\r\nhello", 400),
    "space before the colon of transfer-encoding": (HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "no colon": (HEAD + b"A\r\n\r\n", 400),
    "empty name": (HEAD + b": b\r\n\r\n", 400),
    "name with a bracket": (HEAD + b"A(b): c\r\n\r\n", 400),
    "name in UTF-8": (HEAD + "é: b\r\n\r\n".encode(), 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (HEAD + b"Host: h\r\n\r\n", 400),
    "a list of hosts": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "user information in host": (b"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", 400),
    "slash in host": (b"GET / HTTP/1.1\r\nHost: h/x\r\n\r\n", 400),
    "user information in the target": (b"GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "no host in the target": (b"GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "another scheme": (b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "authority form": (b"GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "asterisk of GET": (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "target in UTF-8": ("GET /é HTTP/1.1\r\nHost: h\r\n\r\n".encode(), 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "tab in the request line": (b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "space at the end of the request line": (b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
    "space before the method": (b" GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "method with a comma": (b"GE,T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "no version": (b"GET /\r\nHost: h\r\n\r\n", 400),
    "lower-case version": (b"GET / http/1.1\r\nHost: h\r\n\r\n", 400),
    "version 1.10": (b"GET / HTTP/1.10\r\nHost: h\r\n\r\n", 400),
    "version 2.0": (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    "connect": (b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
    "two empty lines before": (b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "content-length and transfer-encoding": (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "transfer-encoding and content-length": (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
    "two content-lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
    "two equal content-lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\n", 400),
    "a list of content-lengths": (HEAD + b"Content-Length: 3, 3\r\n\r\n", 400),
    "content-length with a sign": (HEAD + b"Content-Length: +3\r\n\r\n", 400),
    "negative content-length": (HEAD + b"Content-Length: -3\r\n\r\n", 400),
    "hexadecimal content-length": (HEAD + b"Content-Length: 0x3\r\n\r\n", 400),
    "content-length with an underscore": (HEAD + b"Content-Length: 1_0\r\n\r\n", 400),
    "fractional content-length": (HEAD + b"Content-Length: 3.0\r\n\r\n", 400),
    "content-length in other digits": (HEAD + b"Content-Length: \xef\xbc\x93\r\n\r\n", 400),
    "empty content-length": (HEAD + b"Content-Length:\r\n\r\n", 400),
    "enormous content-length": (HEAD + b"Content-Length: 1" + b"0" * 18 + b"\r\n\r\n", 400),
    "unknown coding": (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "a coding before chunked": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "a coding after chunked": (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n", 501),
    "chunked twice": (HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    "chunked in two fields": (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunked with a vertical tab": (HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400),
    "chunked with a parameter": (HEAD + b"Transfer-Encoding: chunked;a=b\r\n\r\n", 501),
    "xchunked": (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n", 501),
    "empty transfer-encoding": (HEAD + b"Transfer-Encoding:\r\n\r\n", 501),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "another expectation": (HEAD + b"Expect: tea\r\n\r\n", 417),
    "too many fields": (HEAD + b"A: b\r\n" * 130 + b"\r\n", 431),
    "a head that is too large": (HEAD + b"A: " + b"b" * 40_000 + b"\r\n\r\n", 431),
    "a head that never ends": (HEAD + b"A: " + b"b" * 40_000, 431),
    "a request line that never ends": (b"GET /" + b"a" * 40_000, 431),
    "not HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
}  # fmt: skip


@CUTS
@pytest.mark.parametrize(("wire", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(wire: bytes, status: int, cut: int | None) -> None:
    connection, events = listen(wire + GET, cut)
    assert [type(event) for event in events] == [ConnectionClosed]
    assert connection.finished
    output = connection.output()
    assert output.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close\r\n" in output
    assert feed(connection, GET) == []


CHUNKS_REFUSED = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "only an extension": b";a\r\n",
    "not hexadecimal": b"5g\r\nhello\r\n0\r\n\r\n",
    "a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "negative": b"-1\r\n",
    "an underscore": b"1_0\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "space after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "size too large": b"fffffffffffffffff\r\n",
    "bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "bare CR after the size": b"5\rhello\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a\x00\r\nhello\r\n0\r\n\r\n",
    "extensions without end": b"1;" + b"a" * 5000 + b"\r\n",
    "many extensions": b"1;aaaaaaaaaaaaaaaaaaaa\r\nx\r\n" * 300,
    "longer than its size": b"5\r\nhello!\r\n0\r\n\r\n",
    "no line end after the chunk": b"5\r\nhelloXX0\r\n\r\n",
    "bare LF after the chunk": b"5\r\nhello\n0\r\n\r\n",
    "bare CR after the chunk": b"5\r\nhello\r0\r\n\r\n",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "bare LF after a trailer": b"0\r\nA: b\n\r\n\r\n",
    "content-length as a trailer": b"0\r\nContent-Length: 3\r\n\r\n",
    "transfer-encoding as a trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "host as a trailer": b"0\r\nHost: h\r\n\r\n",
    "authorization as a trailer": b"0\r\nAuthorization: x\r\n\r\n",
    "trailers without end": b"0\r\nA: " + b"b" * 9000,
}


@CUTS
@pytest.mark.parametrize("wire", CHUNKS_REFUSED.values(), ids=CHUNKS_REFUSED)
def test_chunks_that_are_refused(wire: bytes, cut: int | None) -> None:
    connection, events = listen(post(b"Transfer-Encoding: chunked\r\n", wire + GET), cut)
    assert isinstance(events[0], RequestReceived)
    assert [type(event) for event in events[-2:]] == [StreamReset, ConnectionClosed]
    assert not any(isinstance(event, RequestReceived) for event in events[1:])
    assert connection.output().startswith(b"HTTP/1.1 4")
    assert connection.finished


def test_a_broken_body_after_the_answer_has_begun_only_ends_the_connection() -> None:
    connection, _ = listen(post(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n"))
    connection.send_head(1, OK)
    connection.output()
    assert [type(event) for event in feed(connection, b"zz\r\n")] == [StreamReset, ConnectionClosed]
    assert connection.output() == b""


# ── What is written ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("request_wire", "status", "length", "body", "expected"),
    [
        (GET, 200, 5, b"hello", b"content-length: 5\r\n\r\nhello"),
        (GET, 200, None, b"hello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (GET, 200, 0, b"", b"content-length: 0\r\n\r\n"),
        (GET, 200, None, None, b"content-length: 0\r\n\r\n"),
        (GET, 204, None, None, b"\r\n"),
        (GET, 204, 0, b"", b"\r\n"),
        (GET, 304, 5, None, b"content-length: 5\r\n\r\n"),
        (GET, 304, None, b"dropped", b"\r\n"),
        (GET.replace(b"GET", b"HEAD"), 200, 5, b"hello", b"content-length: 5\r\n\r\n"),
        (GET.replace(b"GET", b"HEAD"), 200, 5, None, b"content-length: 5\r\n\r\n"),
        (GET.replace(b"GET", b"HEAD"), 200, None, None, b"\r\n"),
        (b"GET / HTTP/1.0\r\n\r\n", 200, 5, b"hello", b"connection: close\r\ncontent-length: 5\r\n\r\nhello"),
        (b"GET / HTTP/1.0\r\n\r\n", 200, None, b"hello", b"connection: close\r\n\r\nhello"),
        (
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, 5, b"hello",
            b"connection: keep-alive\r\ncontent-length: 5\r\n\r\nhello",
        ),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, None, b"hello", b"connection: close\r\n\r\nhello"),
        (
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Foo , CLOSE\r\n\r\n", 200, 5, b"hello",
            b"connection: close\r\ncontent-length: 5\r\n\r\nhello",
        ),
    ],
)  # fmt: skip
def test_answers(request_wire: bytes, status: int, length: int | None, body: bytes | None, expected: bytes) -> None:
    connection, _ = listen(request_wire)
    block = encode_response(status)
    connection.send_head(1, block, body is None, length=length)
    if body is not None:
        assert connection.send_data(1, body, True) == len(body)
    connection.validate()
    assert connection.output() == block + expected
    assert connection.finished == (b"connection: close" in expected)
    assert feed(connection, GET) == [] if connection.finished else len(feed(connection, GET)) == 1


def test_trailers() -> None:
    connection, _ = listen(GET)
    connection.send_head(1, OK)
    connection.send_data(1, b"")
    connection.send_data(1, memoryview(b"hello"))
    connection.send_trailers(1, encode_fields([(b"grpc-status", b"0")]))
    assert connection.output().endswith(b"\r\n\r\n5\r\nhello\r\n0\r\ngrpc-status: 0\r\n\r\n")
    connection, _ = listen(GET)
    connection.send_head(1, OK, length=5)
    connection.send_data(1, b"hello")
    connection.send_trailers(1, encode_fields([(b"grpc-status", b"0")]))
    assert connection.output().endswith(b"\r\n\r\nhello")
    assert connection.open_streams == 0


def test_blocks() -> None:
    assert encode_response(200) == b"HTTP/1.1 200 OK\r\n"
    assert encode_response(299) == b"HTTP/1.1 299 \r\n"
    given = [(b"a", b"b"), (b"content-length", b"3"), (b"connection", b"x"), (b"te", b"trailers"), (b"host", b"z")]
    assert encode_request(b"GET", b"h", b"/x", given) == b"GET /x HTTP/1.1\r\nhost: h\r\na: b\r\n"
    broken: tuple[Callable[[], bytes], ...] = (
        lambda: encode_response(99),
        lambda: encode_response(200, [(b"a", b"b\r\nc: d")]),
        lambda: encode_response(200, [(b"a b", b"c")]),
        lambda: encode_request(b"G T", b"h", b"/"),
        lambda: encode_request(b"GET", b"h\r\n", b"/"),
        lambda: encode_request(b"GET", b"h", b"/ HTTP/1.1"),
    )
    for encode in broken:
        with pytest.raises(ValueError, match=r"field|method|target|authority|status"):
            encode()


# ── Continue ───────────────────────────────────────────────────────────────────────────────────────────────────────

EXPECTING = post(b"Expect: 100-Continue\r\nContent-Length: 5\r\n")


def test_a_client_that_waits_is_told_to_continue() -> None:
    connection, events = listen(EXPECTING)
    assert isinstance(events[0], RequestReceived)
    assert events[0].head.expects_continue
    connection.send_informational(1, encode_response(100))
    assert connection.output() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert feed(connection, b"hello") == [DataReceived(1, b"hello", True)]
    connection.send_head(1, OK, True)
    assert not connection.finished


def test_a_client_that_was_not_told_to_continue_cannot_be_kept() -> None:
    """It may send the body or not, so what comes next could be either (RFC 9110 section 10.1.1)."""
    connection, _ = listen(EXPECTING)
    connection.send_head(1, encode_response(413), True)
    assert b"connection: close" in connection.output()
    assert connection.finished


def test_a_client_that_did_not_wait_is_kept() -> None:
    connection, _ = listen(EXPECTING + b"hello")
    connection.send_head(1, OK, True)
    assert not connection.finished


def test_http_1_0_is_not_told_to_continue() -> None:
    connection, events = listen(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert isinstance(events[0], RequestReceived)
    assert not events[0].head.expects_continue
    connection.send_informational(1, encode_response(100))
    assert connection.output() == b""


# ── Keep-alive, pipelining, back-pressure ──────────────────────────────────────────────────────────────────────────


@CUTS
def test_pipelined_requests_wait_for_their_turn(cut: int | None) -> None:
    wire = GET + post(b"Content-Length: 3\r\n", b"abc") + GET.replace(b"/a", b"/c")
    connection, events = listen(wire, cut)
    for number, path in ((1, b"/a?b"), (2, b"/"), (3, b"/c?b")):
        request = events[0]
        assert isinstance(request, RequestReceived)
        assert (request.stream_id, request.head.path) == (number, path)
        assert len(events) == (2 if number == 2 else 1)
        connection.send_head(number, OK, length=1)
        connection.send_data(number, b"%d" % number, True)
        connection.validate()
        assert bool(connection.backlog) == (number < 3)
        events = joined(feed(connection, b"") if connection.backlog else [])
    assert events == []
    assert [answer[-1:] for answer in connection.output().split(OK)] == [b"", b"1", b"2", b"3"]


def test_a_shell_that_is_behind_stops_reading() -> None:
    limits = Http1Limits(buffer=1000)
    connection, _ = listen(post(b"Content-Length: 5000\r\n"), limits=limits)
    assert now(connection.wants_data)
    feed(connection, bytes(1000))
    assert not now(connection.wants_data)
    connection.consume(1, 600)
    assert now(connection.wants_data)
    with pytest.raises(LocalError):
        connection.consume(1, 401)
    pipelined, _ = listen(GET + b"x" * 1000, limits=limits)
    assert not now(pipelined.wants_data)
    pipelined.consume(7, 1)


def test_a_full_transport() -> None:
    connection, _ = listen(GET)
    connection.pause()
    connection.send_head(1, OK, length=10)
    assert connection.send_data(1, b"hello") == 0
    assert connection.output() == b""
    assert connection.unsent(1) == 5
    assert connection.resume() == [DataSent(1, 5)]
    assert connection.send_data(1, b"world", True) == 5
    assert connection.output().endswith(b"\r\n\r\nhelloworld")
    assert connection.resume() == []


@pytest.mark.parametrize("length", [None, 20_000])
def test_single_bytes_that_wait_are_joined(length: int | None) -> None:
    connection, _ = listen(GET)
    connection.pause()
    connection.send_head(1, OK, length=length)
    body = random.Random(1).randbytes(20_000)
    for at in range(20_000):
        connection.send_data(1, body[at : at + 1])
    connection.send_data(1, b"", True)
    waiting = re.search(r" paused, (\d+) waiting>", repr(connection))
    assert waiting is not None
    assert int(waiting[1]) <= 6
    assert connection.resume() == [DataSent(1, 20_000)]
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert connection.output().partition(b"\r\n\r\n")[2] == (body if length else chunks)


def test_what_waits_is_written_before_the_end() -> None:
    connection, _ = listen(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    connection.pause()
    connection.send_head(1, OK)
    connection.send_data(1, b"hello", True)
    assert connection.closed
    assert not now(connection.finished)
    assert connection.resume() == [DataSent(1, 5)]
    assert now(connection.finished)
    assert connection.output().endswith(b"5\r\nhello\r\n0\r\n\r\n")


def test_an_answer_before_the_request_has_ended() -> None:
    """The rest of the request is skipped, as long as that costs little."""
    connection, _ = listen(post(b"Content-Length: 1200\r\n", bytes(200)), limits=Http1Limits(buffer=200))
    assert not now(connection.wants_data)
    connection.send_head(1, encode_response(413), True)
    assert now(connection.wants_data), "what the shell never consumed must not keep the rest from being skipped"
    connection.consume(1, 200)
    assert not now(connection.finished)
    assert feed(connection, bytes(400)) == []
    assert [type(event) for event in feed(connection, bytes(600) + GET)] == [RequestReceived]
    connection, _ = listen(post(b"Content-Length: 1000\r\n"), limits=Http1Limits(discard=500))
    connection.send_head(1, encode_response(413), True)
    events = feed(connection, bytes(600))
    assert [type(event) for event in events] == [StreamReset, ConnectionClosed]
    assert now(connection.finished)


def test_an_answer_over_an_unfinished_request_that_is_the_last() -> None:
    connection, _ = listen(post(b"Connection: close\r\nContent-Length: 1000\r\n"))
    connection.send_head(1, OK, True)
    assert connection.finished


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_its_limit(announced: bool) -> None:
    wire = post(b"Content-Length: 12\r\n" if announced else b"Transfer-Encoding: chunked\r\n")
    connection, events = listen(wire, limits=Http1Limits(body=10))
    events += feed(connection, b"123456789012" if announced else b"c\r\n123456789012\r\n0\r\n\r\n")
    assert [type(event) for event in events] == [RequestReceived, BodyTooLarge]
    connection.send_head(1, encode_response(413), True)
    assert not connection.finished, "what was skipped is little"
    assert len(feed(connection, GET)) == 1


def test_a_body_far_over_its_limit_ends_the_connection_with_the_answer() -> None:
    connection, _ = listen(post(b"Transfer-Encoding: chunked\r\n"), limits=Http1Limits(body=10, discard=100))
    feed(connection, b"ff\r\n" + bytes(255) + b"\r\n")
    connection.send_head(1, encode_response(413), True)
    assert b"connection: close" in connection.output()
    assert connection.finished


# ── Ends ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_shutdown() -> None:
    idle = Http1Server()
    idle.shutdown()
    assert now(idle.finished)
    busy, _ = listen(GET)
    busy.shutdown()
    assert not now(busy.finished)
    busy.send_head(1, OK, True)
    assert b"connection: close" in busy.output()
    assert now(busy.finished)
    partial, _ = listen(GET[:10])
    partial.shutdown()
    assert not now(partial.finished)
    assert len(feed(partial, GET[10:])) == 1


def test_eof() -> None:
    assert Http1Server().eof() == [ConnectionClosed(ErrorCode.NO_ERROR, "the client hung up", True)]
    waiting, _ = listen(GET)
    assert [type(event) for event in waiting.eof()] == [StreamReset, ConnectionClosed]
    waiting.send_head(1, OK)
    assert waiting.send_data(1, b"too late", True) == 8
    assert waiting.output() == b""
    assert waiting.eof() == []
    partial, _ = listen(GET[:10])
    assert [getattr(event, "code", None) for event in partial.eof()] == [ErrorCode.CANCEL]


def test_reset_and_close() -> None:
    connection, _ = listen(GET)
    connection.send_head(1, OK)
    connection.reset(1)
    connection.reset(1)
    assert connection.finished
    connection, _ = listen(GET)
    assert [type(event) for event in connection.close(ErrorCode.INTERNAL_ERROR, "x")] == [StreamReset, ConnectionClosed]
    assert connection.close() == []
    assert connection.tick(1.0) == []


def test_misuse_raises_and_changes_nothing() -> None:
    connection, _ = listen(GET)
    for misuse in (
        lambda: connection.send_data(1, b"before the head"),
        lambda: connection.send_trailers(1, b""),
        lambda: connection.send_head(2, OK),
        lambda: connection.send_head(0, OK),
        lambda: connection.send_head(1, OK, True, length=5),
    ):
        with pytest.raises(LocalError):
            misuse()
    assert connection.output() == b""
    connection.send_head(1, OK, length=5)
    for misuse in (
        lambda: connection.send_head(1, OK),
        lambda: connection.send_informational(1, encode_response(100)),
        lambda: connection.send_data(1, b"too long"),
        lambda: connection.send_data(1, b"shrt", True),
        lambda: connection.send_trailers(1, b""),
    ):
        with pytest.raises(LocalError):
            misuse()
    connection.send_data(1, b"right", True)
    assert connection.output().endswith(b"\r\n\r\nright")
    assert "idle" in repr(connection)


def test_a_request_sent_ahead_is_looked_at_when_the_answer_before_it_has_gone() -> None:
    connection, _ = listen(GET)
    connection.pause()
    connection.send_head(1, OK, length=5)
    connection.send_data(1, b"hello", True)
    assert feed(connection, GET) == []
    assert connection.newest == 1
    assert connection.backlog == len(GET)
    assert connection.resume() == [DataSent(1, 5)]
    [request] = connection.receive(b"")
    assert isinstance(request, RequestReceived)
    assert connection.newest == request.stream_id == 2


@pytest.mark.parametrize(
    ("wire", "answered", "unread"),
    [
        pytest.param(GET, True, False, id="all of it was read"),
        pytest.param(post(b"Content-Length: 5\r\n", b"hello"), True, False, id="and its body"),
        pytest.param(post(b"Content-Length: 5\r\n", b"he"), True, True, id="half a body"),
        pytest.param(GET + GET, True, True, id="another was sent ahead"),
        pytest.param(b"GET / HTTP/1.1\nHost: h\n\n", False, True, id="it was refused"),
    ],
)
def test_a_connection_that_ends_says_whether_something_was_left_unread(
    wire: bytes, answered: bool, unread: bool
) -> None:
    connection, _ = listen(wire)
    if answered:
        connection.shutdown()
        connection.send_head(1, OK, length=0)
        connection.send_data(1, b"", True)
    assert connection.finished
    assert connection.unread is unread
