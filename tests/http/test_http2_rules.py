"""RFC 9113, rule by rule: what a peer may not do, what it costs, and what it may do however strange it looks."""

from __future__ import annotations

import random

import pytest

from berth.http.errors import ErrorCode, LocalError
from berth.http.events import (
    BodyTooLarge,
    ConnectionClosed,
    DataReceived,
    Event,
    GoingAway,
    InformationalReceived,
    PingAcknowledged,
    RequestReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http.http2 import frames as f
from berth.http.http2.client import Http2Client
from berth.http.http2.header_codec import encode, encode_request, encode_response
from berth.http.http2.server import Http2Server
from berth.http.limits import Http2Limits
from doubles.http_link import Link, feed, joined, now

GET = encode_request(b"GET", b"http", b"h", b"/")
POST = encode_request(b"POST", b"http", b"h", b"/")
POST_1 = POST + encode([(b"content-length", b"1")])
POST_3 = POST + encode([(b"content-length", b"3")])
OK = encode_response(200)
SETTINGS = f.settings({})
HELLO = f.PREFACE + SETTINGS
END = f.END_STREAM | f.END_HEADERS


def headers(stream_id: int, block: bytes = POST, flags: int = f.END_HEADERS) -> bytes:
    return f.frame(f.HEADERS, flags, stream_id, block)


def data(stream_id: int, body: bytes = b"x", flags: int = 0) -> bytes:
    return f.frame(f.DATA, flags, stream_id, body)


def sent_frames(output: bytes) -> list[tuple[int, int, int, bytes]]:
    """(kind, flags, stream, payload) of each frame in `output`."""
    result = []
    pos = len(f.PREFACE) if output.startswith(f.PREFACE) else 0
    while pos < len(output):
        high, low, kind, flags, stream_id = f.HEADER.unpack_from(output, pos)
        size = high << 16 | low
        pos += 9 + size
        result.append((kind, flags, stream_id, output[pos - size : pos]))
    return result


def codes(output: bytes) -> tuple[list[tuple[int, int]], list[int]]:
    """(stream, code) of each RST_STREAM, and the code of each GOAWAY."""
    sent = sent_frames(output)
    resets = [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in sent if kind == f.RST_STREAM]
    return resets, [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in sent if kind == f.GOAWAY]


def server(limits: Http2Limits | None = None) -> Http2Server:
    connection = Http2Server(limits)
    assert feed(connection, HELLO) == []
    connection.output()
    return connection


def client(streams: int = 1, limits: Http2Limits | None = None) -> Http2Client:
    connection = Http2Client(limits)
    assert feed(connection, SETTINGS) == []
    for _ in range(streams):
        connection.open(POST)
    connection.output()
    return connection


# ── What costs the connection ──────────────────────────────────────────────────────────────────────────────────────

PROTOCOL, FLOW, SIZE = ErrorCode.PROTOCOL_ERROR, ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.FRAME_SIZE_ERROR
CLOSED, CALM, COMPRESSION = ErrorCode.STREAM_CLOSED, ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.COMPRESSION_ERROR

FATAL_TO_BOTH = {
    "4.1 PING on a stream": (f.frame(f.PING, 0, 1, bytes(8)), PROTOCOL),
    "4.2 a frame above MAX_FRAME_SIZE": (data(1, bytes(2**16 + 1)), SIZE),
    "4.3 a block that cannot be decoded": (headers(1, b"\x80"), COMPRESSION),
    "5.1 DATA on an idle stream": (data(9), PROTOCOL),
    "5.1 WINDOW_UPDATE on an idle stream": (f.window_update(9, 1), PROTOCOL),
    "5.1 RST_STREAM on an idle stream": (f.rst_stream(9, 0), PROTOCOL),
    "5.1 DATA on an idle stream of ours": (data(2), PROTOCOL),
    "6.1 DATA on stream 0": (data(0), PROTOCOL),
    "6.1 padding longer than DATA": (data(1, b"\x05abcd", f.PADDED), PROTOCOL),
    "6.1 padding as long as DATA": (data(1, b"\x06abcde", f.PADDED), PROTOCOL),
    "6.1 padded DATA without a byte": (data(1, b"", f.PADDED) + f.ping(bytes(8)), PROTOCOL),
    "6.2 HEADERS on stream 0": (headers(0), PROTOCOL),
    "6.2 padding longer than HEADERS": (headers(1, b"\xff" + POST, f.END_HEADERS | f.PADDED), PROTOCOL),
    "6.2 empty padded HEADERS": (headers(1, b"", f.END_HEADERS | f.PADDED), SIZE),
    "6.2 HEADERS too short for a priority": (headers(1, b"abc", f.END_HEADERS | f.WITH_PRIORITY), PROTOCOL),
    "6.2 another frame inside a block": (headers(1, POST, 0) + f.ping(bytes(8)), PROTOCOL),
    "6.2 an unknown frame inside a block": (headers(1, POST, 0) + f.frame(0xFA, 0, 1), PROTOCOL),
    "6.2 DATA inside a block": (headers(1, POST, 0) + data(1), PROTOCOL),
    "6.2 another stream's HEADERS inside a block": (headers(1, POST, 0) + headers(3), PROTOCOL),
    "6.3 PRIORITY on stream 0": (f.frame(f.PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "6.4 RST_STREAM on stream 0": (f.rst_stream(0, 0), PROTOCOL),
    "6.4 RST_STREAM of 3 bytes": (f.frame(f.RST_STREAM, 0, 1, bytes(3)), SIZE),
    "6.5 SETTINGS on a stream": (f.frame(f.SETTINGS, 0, 1), PROTOCOL),
    "6.5 SETTINGS of 5 bytes": (f.frame(f.SETTINGS, 0, 0, bytes(5)), SIZE),
    "6.5 an acknowledgement with a payload": (f.frame(f.SETTINGS, f.ACK, 0, bytes(6)), SIZE),
    "6.5.2 ENABLE_PUSH 2": (f.settings({f.ENABLE_PUSH: 2}), PROTOCOL),
    "6.5.2 INITIAL_WINDOW_SIZE 2^31": (f.settings({f.INITIAL_WINDOW_SIZE: 2**31}), FLOW),
    "6.5.2 MAX_FRAME_SIZE 2^14 - 1": (f.settings({f.MAX_FRAME_SIZE: 2**14 - 1}), PROTOCOL),
    "6.5.2 MAX_FRAME_SIZE 2^24": (f.settings({f.MAX_FRAME_SIZE: 2**24}), PROTOCOL),
    "6.6 PUSH_PROMISE": (f.frame(f.PUSH_PROMISE, f.END_HEADERS, 1, b"\0\0\0\2" + POST), PROTOCOL),
    "6.7 PING of 7 bytes": (f.frame(f.PING, 0, 0, bytes(7)), SIZE),
    "6.8 GOAWAY on a stream": (f.frame(f.GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "6.8 GOAWAY of 7 bytes": (f.frame(f.GOAWAY, 0, 0, bytes(7)), SIZE),
    "6.8 GOAWAY that takes back": (f.goaway(1, 0) + f.goaway(3, 0), PROTOCOL),
    "6.9 WINDOW_UPDATE of 3 bytes": (f.frame(f.WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "6.9 WINDOW_UPDATE by 0": (f.window_update(0, 0), PROTOCOL),
    "6.9.1 a window above 2^31 - 1": (f.window_update(0, 2**31 - 1), FLOW),
    "6.10 CONTINUATION alone": (f.frame(f.CONTINUATION, f.END_HEADERS, 1, POST), PROTOCOL),
    "6.10 CONTINUATION of another stream": (
        headers(1, POST, 0) + f.frame(f.CONTINUATION, f.END_HEADERS, 3, b""),
        PROTOCOL,
    ),
    "10.5.1 a block above the limit": (headers(1, bytes(40_000)), CALM),
    "10.5.1 a block above the limit in parts": (
        headers(1, POST, 0) + f.frame(f.CONTINUATION, 0, 1, bytes(20_000)) * 2,
        CALM,
    ),
    "10.5 too many CONTINUATION frames": (headers(1, POST, 0) + f.frame(f.CONTINUATION, 0, 1, b"") * 17, CALM),
}  # fmt: skip
FATAL_TO_SERVER = {
    "5.1.1 an even stream": (headers(2), PROTOCOL),
    "5.1.1 a lower stream": (headers(5) + headers(3), CLOSED),
    "5.1 HEADERS on a closed stream": (headers(3, GET, END) + f.rst_stream(3, 0) + headers(3, GET, END), CLOSED),
    "5.1 DATA on a closed stream": (headers(3) + f.rst_stream(3, 0) + data(3), CLOSED),
}
FATAL_TO_CLIENT = {
    "6.5.2 a server enables push": (f.settings({f.ENABLE_PUSH: 1}), PROTOCOL),
    "5.1 HEADERS on an idle stream": (headers(9, OK), PROTOCOL),
    "5.1 DATA after the end": (headers(1, OK, END) + f.rst_stream(1, 0) + data(1), CLOSED),
}
_FATAL = [
    *((f"server: {what}", "server", *how) for what, how in {**FATAL_TO_BOTH, **FATAL_TO_SERVER}.items()),
    *((f"client: {what}", "client", *how) for what, how in {**FATAL_TO_BOTH, **FATAL_TO_CLIENT}.items()),
]


CUTS = pytest.mark.parametrize("rng", [None, 1, 2], ids=["whole", "cut", "cut otherwise"])


@CUTS
@pytest.mark.parametrize(("role", "wire", "code"), [row[1:] for row in _FATAL], ids=[row[0] for row in _FATAL])
def test_what_costs_the_connection(role: str, wire: bytes, code: ErrorCode, rng: int | None) -> None:
    connection = client() if role == "client" else server()
    if role == "server":
        feed(connection, headers(1))  # at a client, stream 1 is open anyway
        connection.output()
    expect_end(connection, wire, code, rng)


@CUTS
@pytest.mark.parametrize(
    ("role", "wire"),
    [
        ("server", b"GET / HTTP/1.1\r\n\r\n"),
        ("server", f.PREFACE[:-1] + b"x"),
        ("server", f.PREFACE + f.ping(bytes(8))),
        ("server", f.PREFACE + data(1)),
        ("server", f.PREFACE + f.frame(f.SETTINGS, f.ACK, 0)),
        ("client", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("client", headers(1, OK)),
        ("client", f.frame(f.SETTINGS, f.ACK, 0)),
    ],
)
def test_a_preface_is_expected(role: str, wire: bytes, rng: int | None) -> None:
    connection = Http2Client() if role == "client" else Http2Server()
    connection.output()
    expect_end(connection, wire, SIZE if wire.startswith(b"HTTP") else PROTOCOL, rng)


def expect_end(connection: Http2Server | Http2Client, wire: bytes, code: ErrorCode, seed: int | None) -> None:
    events = feed(connection, wire, random.Random(seed) if seed is not None else None)
    closed = [event for event in events if isinstance(event, ConnectionClosed)]
    assert [event.code for event in closed] == [code]
    assert isinstance(events[-1], ConnectionClosed)
    assert connection.closed
    assert codes(connection.output())[1] == [code]
    assert feed(connection, headers(101, GET, END)) == []
    assert connection.output() == b""


# ── What costs a stream ────────────────────────────────────────────────────────────────────────────────────────────

COSTS_A_REQUEST = {
    "5.1 DATA after the end": (headers(1, GET, END) + data(1), CLOSED),
    "5.1 HEADERS after the end": (headers(1, GET, END) + headers(1, encode([(b"a", b"b")]), END), CLOSED),
    "6.9 WINDOW_UPDATE by 0": (headers(1) + f.window_update(1, 0), PROTOCOL),
    "6.9.1 a window above 2^31 - 1": (headers(1) + f.window_update(1, 2**31 - 1), FLOW),
    "6.3 PRIORITY of 4 bytes": (headers(1) + f.frame(f.PRIORITY, 0, 1, bytes(4)), SIZE),
    "8.1 a second head": (headers(1) + headers(1, POST, END), PROTOCOL),
    "8.1 trailers without the end": (headers(1) + headers(1, encode([(b"a", b"b")])), PROTOCOL),
    "8.1 trailers with a pseudo-field": (headers(1) + headers(1, OK, END), PROTOCOL),
    "8.1 malformed trailers": (headers(1) + headers(1, b"\x00\x01A\x01b", END), PROTOCOL),
    "8.1.1 no body, yet announced": (headers(1, POST_1, END), PROTOCOL),
    "8.1.1 more body than announced": (headers(1, POST_1) + data(1, b"ab"), PROTOCOL),
    "8.1.1 less body than announced": (
        headers(1, POST_3) + data(1, b"ab", f.END_STREAM),
        PROTOCOL,
    ),
    "8.1.1 less body than announced, then trailers": (
        headers(1, POST_3) + data(1, b"ab") + headers(1, encode([(b"a", b"b")]), END),
        PROTOCOL,
    ),
    "8.2 upper case": (headers(1, POST + b"\x00\x01A\x01b"), PROTOCOL),
    "8.2.2 connection": (headers(1, POST + b"\x00\x0aconnection\x01b"), PROTOCOL),
    "8.3 not a request": (headers(1, OK), PROTOCOL),
    "8.3 trailers first": (headers(1, encode([(b"a", b"b")])), PROTOCOL),
    "10.5.1 a header list above the limit": (headers(1, POST + encode([(b"a", b"v" * 1000)])), CALM),
    "6.9.1 more than the stream's window": (headers(1) + data(1, bytes(60_000)) + data(1, bytes(10_000)), FLOW),
}  # fmt: skip


@CUTS
@pytest.mark.parametrize(("wire", "code"), COSTS_A_REQUEST.values(), ids=COSTS_A_REQUEST)
def test_what_costs_a_request(wire: bytes, code: ErrorCode, rng: int | None) -> None:
    connection = server(Http2Limits(stream_window=1000, header_list=800))
    events = feed(connection, wire, random.Random(rng) if rng is not None else None)
    resets = [event for event in events if isinstance(event, StreamReset)]
    known = any(isinstance(event, RequestReceived) for event in events)
    assert [event.code for event in resets] == [code] * known
    assert codes(connection.output()) == ([(1, code)], [])
    assert connection.open_streams == 0
    # The peer may not have heard of it: what it still sends is ignored, and decoded.
    late = headers(1, encode([(b"late", b"1")]), END) + data(1, b"late") + f.window_update(1, 5) + f.rst_stream(1, 0)
    assert feed(connection, late) == []
    # Nobody else is harmed.
    events = feed(connection, headers(3, GET, END))
    assert [type(event) for event in events] == [RequestReceived]


COSTS_A_RESPONSE = {
    "5.1 DATA after the end": (headers(1, OK, END) + data(1), CLOSED),
    "8.1 DATA before the head": (data(1), PROTOCOL),
    "8.1 a second head": (headers(1, OK) + headers(1, OK, END), PROTOCOL),
    "8.1 an interim head that ends the stream": (headers(1, encode_response(103), END), PROTOCOL),
    "8.1 a request": (headers(1, POST), PROTOCOL),
    "8.1 trailers only": (headers(1, encode([(b"grpc-status", b"0")]), END), PROTOCOL),
    "8.1.1 no body, yet announced": (headers(1, OK + encode([(b"content-length", b"1")]), END), PROTOCOL),
    "8.1.1 more body than announced": (headers(1, OK + encode([(b"content-length", b"1")])) + data(1, b"ab"), PROTOCOL),
    "8.1.1 a body with 204": (headers(1, encode_response(204)) + data(1, b"ab"), PROTOCOL),
    "8.2 malformed": (headers(1, OK + b"\x00\x01A\x01b"), PROTOCOL),
}


@pytest.mark.parametrize(("wire", "code"), COSTS_A_RESPONSE.values(), ids=COSTS_A_RESPONSE)
def test_what_costs_a_response(wire: bytes, code: ErrorCode) -> None:
    connection = client(2)
    events = feed(connection, wire)
    assert isinstance(events[-1], StreamReset)
    assert (events[-1].stream_id, events[-1].code, events[-1].remote) == (1, code, False)
    assert codes(connection.output()) == ([(1, code)], [])
    assert [type(event) for event in feed(connection, headers(3, OK, END))] == [ResponseReceived]


# ── What is allowed ────────────────────────────────────────────────────────────────────────────────────────────────

ALLOWED = {
    "4.1 unknown frames": f.frame(0xFA, 0xFF, 1, b"whatever") + f.frame(0x10, 0, 0, b"priority update"),
    "5.1 PRIORITY on an idle stream": f.frame(f.PRIORITY, 0, 77, bytes(5)),
    "6.5.2 unknown settings": f.settings({0xBEEF: 7}),
    "6.5.2 all settings": f.settings({1: 0, 3: 5, 4: 2**31 - 1, 5: 2**24 - 1, 6: 0}),
    "4.1 reserved bits": f.frame(f.PING, 0xFE, 2**31, bytes(8)),
}


@pytest.mark.parametrize("wire", ALLOWED.values(), ids=ALLOWED)
@pytest.mark.parametrize("role", ["server", "client"])
def test_what_is_ignored(wire: bytes, role: str) -> None:
    connection = server() if role == "server" else client()
    assert feed(connection, wire) == []
    assert not connection.closed
    assert codes(connection.output()) == ([], [])


def padded(content: bytes, pad: int) -> bytes:
    return bytes([pad]) + content + bytes(pad)


@pytest.mark.parametrize("cut", range(5))
def test_padding_priority_and_continuation_change_nothing(cut: int) -> None:
    priority = b"\x80\x00\x00\x01\xff"
    wire = (
        headers(1, padded(priority + POST[:3], 200), f.PADDED | f.WITH_PRIORITY)
        + f.frame(f.CONTINUATION, 0, 1, POST[3:5])
        + f.frame(f.CONTINUATION, 0, 1, b"")
        + f.frame(f.CONTINUATION, f.END_HEADERS, 1, POST[5:])
        + data(1, padded(b"hello", 7), f.PADDED)
        + data(1, padded(b"", 0), f.PADDED)
        + data(1, padded(b" world", 255), f.PADDED)
        + headers(1, padded(encode([(b"t", b"1")]), 3), f.PADDED | END)
    )
    connection = server()
    events = joined(feed(connection, wire, random.Random(cut)))
    request, body, trailers = events
    assert isinstance(request, RequestReceived)
    assert request.head.path == b"/"
    assert body == DataReceived(1, b"hello world", False)
    assert trailers == TrailersReceived(1, ((b"t", b"1"),))
    connection.consume(1, 11)
    connection.validate()


def test_padding_alone_ends_a_body() -> None:
    connection = server()
    events = feed(connection, headers(1) + data(1, padded(b"", 9), f.PADDED | f.END_STREAM), random.Random(0))
    assert events[1:] == [DataReceived(1, b"", True)]


# ── Requests and responses ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_exchange_with_everything() -> None:
    link = Link(Http2Client(), Http2Server())
    upstream, downstream = link.client, link.server
    assert isinstance(upstream, Http2Client)
    assert isinstance(downstream, Http2Server)
    stream = upstream.open(POST)
    upstream.send_data(stream, b"ping")
    upstream.send_trailers(stream, encode([(b"checksum", b"1")]))
    link.settle()
    _, events = link.take()
    assert [type(event) for event in events] == [RequestReceived, DataReceived, TrailersReceived]
    downstream.send_informational(stream, encode_response(103, [(b"link", b"</a>")]))
    downstream.send_head(stream, OK)
    assert downstream.send_data(stream, memoryview(b"pong")) == 4
    downstream.send_trailers(stream, encode([(b"grpc-status", b"0"), (b"grpc-message", "grüß".encode())]))
    link.settle()
    events, _ = link.take()
    assert [type(event) for event in events] == [
        InformationalReceived,
        ResponseReceived,
        DataReceived,
        TrailersReceived,
    ]
    assert events[-1] == TrailersReceived(stream, ((b"grpc-status", b"0"), (b"grpc-message", "grüß".encode())))
    assert upstream.open_streams == downstream.open_streams == 0


def test_a_head_that_needs_continuation() -> None:
    link = Link(Http2Client(), Http2Server(Http2Limits(header_block=70_000)))
    assert isinstance(link.client, Http2Client)
    fields = tuple((b"x-%d" % n, b"v" * 400) for n in range(60))
    link.client.open(encode_request(b"GET", b"http", b"h", b"/", fields), True)
    link.settle()
    [event] = link.at_server
    assert isinstance(event, RequestReceived)
    assert event.head.fields == fields


def test_an_answer_to_head_announces_what_it_does_not_send() -> None:
    connection = client(0)
    stream = connection.open(encode_request(b"HEAD", b"http", b"h", b"/"), True, head_only=True)
    [event] = feed(connection, headers(stream, OK + encode([(b"content-length", b"5")]), END))
    assert isinstance(event, ResponseReceived)
    assert event.head.content_length == 5
    assert connection.open_streams == 0


@pytest.mark.parametrize("ending", ["data", "trailers"])
@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_an_answer_without_a_body_drops_what_it_is_given(method: bytes, status: int, ending: str) -> None:
    connection = server()
    feed(connection, headers(1, encode_request(method, b"http", b"h", b"/"), END))
    connection.send_head(1, encode_response(status, [(b"content-length", b"5")]))
    assert connection.send_data(1, b"hello") == 5
    if ending == "data":
        connection.send_data(1, b"", True)
    else:
        connection.send_trailers(1, encode([(b"t", b"1")]))
    connection.validate()
    assert connection.open_streams == 0
    assert [frame[:3] for frame in sent_frames(connection.output())] == [
        (f.HEADERS, f.END_HEADERS, 1),
        (f.DATA, f.END_STREAM, 1),
    ]


def test_a_response_before_the_request_has_ended() -> None:
    connection = client(1)
    assert len(feed(connection, headers(1, OK, END))) == 1
    connection.send_data(1, b"more", True)
    assert connection.open_streams == 0
    early = client(1)
    events = feed(early, headers(1, OK, END) + f.rst_stream(1, ErrorCode.NO_ERROR))
    assert [type(event) for event in events] == [ResponseReceived, StreamReset]
    assert early.send_data(1, b"dropped") == 7, "sent as far as anyone cares"
    assert codes(early.output()) == ([], [])


def test_events_of_a_batch_may_be_answered_late() -> None:
    """The reset is in the same batch as the request: an answer given in between must not hurt."""
    connection = server()
    events = feed(connection, headers(1, GET, END) + f.rst_stream(1, ErrorCode.CANCEL))
    assert [type(event) for event in events] == [RequestReceived, StreamReset]
    connection.send_informational(1, encode_response(100))
    connection.send_head(1, OK)
    assert connection.send_data(1, b"body") == 4
    connection.send_trailers(1, encode([(b"a", b"b")]))
    connection.consume(1, 10)
    connection.reset(1)
    assert connection.output() == b""


def test_the_table_is_given_up_once_before_anything_else() -> None:
    connection = client(0)
    connection.open(GET, True)
    connection.open(GET, True)
    first, second = sent_frames(connection.output())
    assert (first[3], second[3]) == (b"\x20" + GET, GET)


# ── Misuse ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_misuse_raises_and_changes_nothing() -> None:
    connection = server()
    feed(connection, headers(1) + data(1, b"abc"))
    connection.output()
    for misuse in (
        lambda: connection.send_data(1, b"before the head"),
        lambda: connection.send_trailers(1, b""),
        lambda: connection.send_head(7, OK),
        lambda: connection.send_data(2, b""),
        lambda: connection.reset(0),
        lambda: connection.consume(1, 4),
        lambda: connection.ping(b"short"),
    ):
        with pytest.raises(LocalError):
            misuse()
    connection.validate()
    assert connection.output() == b""
    connection.send_head(1, OK)
    with pytest.raises(LocalError):
        connection.send_head(1, OK)
    with pytest.raises(LocalError):
        connection.send_informational(1, encode_response(100))
    connection.send_data(1, b"all", True)
    with pytest.raises(LocalError):
        connection.send_data(1, b"more")
    with pytest.raises(LocalError):
        connection.send_trailers(1, b"")


def test_a_client_opens_no_more_than_it_may() -> None:
    connection = Http2Client()
    for _ in range(100):
        connection.open(GET, True)
    assert not now(connection.can_open), "before SETTINGS, a hundred"
    with pytest.raises(LocalError):
        connection.open(GET, True)
    feed(connection, f.settings({}))
    assert now(connection.can_open), "no limit was named"
    feed(connection, f.settings({f.MAX_CONCURRENT_STREAMS: 100}))
    assert not now(connection.can_open)
    feed(connection, headers(1, OK, END))
    assert now(connection.can_open)


def test_limits_are_checked() -> None:
    for wrong in ({"max_frame": 10}, {"stream_window": 2**31}, {"connection_window": 10}):
        with pytest.raises(ValueError, match="is not between"):
            Http2Limits(**wrong)


# ── Going away ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_shuts_down_without_losing_a_request() -> None:
    link = Link(Http2Client(), Http2Server())
    upstream, downstream = link.client, link.server
    assert isinstance(upstream, Http2Client)
    assert isinstance(downstream, Http2Server)
    first = upstream.open(GET, True)
    link.settle()
    downstream.shutdown()
    downstream.shutdown()
    crossing = upstream.open(GET, True)  # sent before the client has read the GOAWAY
    link.settle()
    at_client, at_server = link.take()
    assert [event.stream_id for event in at_server if isinstance(event, RequestReceived)] == [first, crossing]
    assert [event.last_stream_id for event in at_client if isinstance(event, GoingAway)] == [2**31 - 1, crossing]
    assert not upstream.can_open
    assert not now(downstream.finished)
    assert not now(upstream.finished)
    for stream in (first, crossing):
        downstream.send_head(stream, OK, True)
    link.settle()
    assert now(downstream.finished)
    assert now(upstream.finished)
    assert sum(isinstance(event, ResponseReceived) for event in link.at_client) == 2


def test_streams_after_the_last_goaway_are_ignored() -> None:
    connection = server()
    feed(connection, headers(1))
    connection.shutdown()
    feed(connection, f.ping(b"draining", ack=True))
    assert codes(connection.output()) == ([], [0, 0])
    assert feed(connection, headers(3) + data(3) + headers(3, encode([(b"t", b"1")]), END)) == []
    assert connection.output() == b""
    assert feed(connection, data(1, b"still heard", f.END_STREAM)) == [DataReceived(1, b"still heard", True)]


def test_goaway_tells_which_requests_are_safe_to_repeat() -> None:
    connection = client(3)
    events = feed(connection, headers(1, OK) + f.goaway(3, ErrorCode.NO_ERROR, b"moving"))
    assert events[1:] == [
        GoingAway(3, 0, "moving"),
        StreamReset(5, 0, "the peer goes away: moving", True, True),
    ]
    assert connection.open_streams == 2
    assert feed(connection, data(1, b"x", f.END_STREAM)) == [DataReceived(1, b"x", True)]
    connection.send_data(1, b"", True)
    lost = connection.eof()
    assert [(type(event), getattr(event, "stream_id", None)) for event in lost] == [
        (StreamReset, 3),
        (ConnectionClosed, None),
    ]
    assert lost[0] == StreamReset(3, ErrorCode.CONNECT_ERROR, "the peer hung up", True, False)


def test_refused_streams_are_safe_to_repeat() -> None:
    connection = client(2)
    events = feed(connection, f.rst_stream(1, ErrorCode.REFUSED_STREAM) + f.rst_stream(3, 0xABCD))
    assert events == [
        StreamReset(1, ErrorCode.REFUSED_STREAM, "reset by the peer: REFUSED_STREAM", True, True),
        StreamReset(3, 0xABCD, "reset by the peer: 0xabcd", True, False),
    ]


def test_a_client_finishes_what_it_has_begun() -> None:
    connection = client(1)
    connection.shutdown()
    assert not connection.can_open
    assert not connection.finished
    connection.send_data(1, b"", True)
    feed(connection, headers(1, OK, END))
    assert connection.finished


def test_eof_and_close() -> None:
    clean = server()
    assert clean.eof() == [ConnectionClosed(ErrorCode.NO_ERROR, "the peer hung up", True)]
    assert clean.eof() == []
    closing = server()
    feed(closing, headers(1))
    assert [type(event) for event in closing.close(ErrorCode.INTERNAL_ERROR, "broken")] == [
        StreamReset,
        ConnectionClosed,
    ]
    assert codes(closing.output())[1] == [ErrorCode.INTERNAL_ERROR]
    assert closing.finished
    assert "closed" in repr(closing)
    assert closing.close() == []


# ── Signs of life ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_pings_are_answered_and_reported() -> None:
    connection = server()
    assert feed(connection, f.ping(b"12345678")) == []
    assert sent_frames(connection.output()) == [(f.PING, f.ACK, 0, b"12345678")]
    connection.ping(b"abcdefgh")
    assert sent_frames(connection.output()) == [(f.PING, 0, 0, b"abcdefgh")]
    assert feed(connection, f.ping(b"abcdefgh", ack=True)) == [PingAcknowledged(b"abcdefgh")]


def test_keepalive() -> None:
    connection = Http2Server(keepalive=10, keepalive_timeout=5)
    feed(connection, HELLO)
    connection.output()
    assert [connection.tick(now) for now in (0.0, 5.0, 9.9)] == [[], [], []]
    assert connection.output() == b""
    assert connection.tick(10.0) == []
    [(kind, _, _, payload)] = sent_frames(connection.output())
    assert kind == f.PING
    assert feed(connection, f.ping(payload, ack=True)) == []
    assert [connection.tick(now) for now in (11.0, 20.0)] == [[], []]
    assert connection.output() == b""
    connection.tick(21.0)
    assert connection.output() != b""
    assert connection.tick(25.9) == []
    assert connection.tick(26.0) == [ConnectionClosed(ErrorCode.CONNECT_ERROR, "the peer does not answer PING", True)]


def test_without_keepalive_silence_is_fine() -> None:
    connection = server()
    assert [connection.tick(float(now)) for now in range(0, 100_000, 10_000)] == [[]] * 10
    assert connection.output() == b""


# ── Bodies over the limit ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", ["data", "trailers"])
def test_a_body_over_its_limit_is_skipped_and_the_answer_is_the_shells(ending: str) -> None:
    connection = server(Http2Limits(body=10))
    events: list[Event] = feed(connection, headers(1) + data(1, b"12345678") + data(1, b"90ab") + data(1, b"cd"))
    assert events[1:] == [DataReceived(1, b"12345678", False), BodyTooLarge(1)]
    connection.send_head(1, encode_response(413), True)
    last = data(1, b"e", f.END_STREAM) if ending == "data" else headers(1, encode([(b"t", b"1")]), END)
    assert feed(connection, last) == []
    assert connection.open_streams == 0
    assert codes(connection.output()) == ([], [])


def test_repr_says_what_matters() -> None:
    connection = server()
    feed(connection, headers(1))
    for part in ("<StreamTable 1 open", "<Outbound ", "<BodyIn ", "<HeaderBlocks ", "<Burden "):
        assert part in repr(connection)
    connection.pause()
    assert "paused" in repr(connection)
    connection.shutdown()
    assert "draining" in repr(connection)


def test_telling_the_protocols_apart() -> None:
    assert f.speaks_http2(b"PRI * HT") is None
    assert f.speaks_http2(b"") is None
    assert f.speaks_http2(f.PREFACE + b"more") is True
    assert f.speaks_http2(b"POST /") is False
    assert f.speaks_http2(b"PRI * HTTP/1.1") is False
