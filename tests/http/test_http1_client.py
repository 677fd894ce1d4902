"""RFC 9112 from the client's side, our two sides against each other, and h11 as an oracle for both."""

from __future__ import annotations

import random

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.http.errors import ErrorCode, LocalError
from berth.http.events import (
    BodyTooLarge,
    ConnectionClosed,
    DataReceived,
    DataSent,
    Event,
    InformationalReceived,
    RequestReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http.head import ResponseHead
from berth.http.http1.client import Http1Client
from berth.http.http1.connection import Http1Connection
from berth.http.http1.encoding import encode_fields, encode_request, encode_response
from berth.http.http1.server import Http1Server
from berth.http.limits import Http1Limits
from doubles.http_link import Link, Relay, feed, joined, now

GET = encode_request(b"GET", b"h", b"/")
POST = encode_request(b"POST", b"h", b"/")
CUTS = pytest.mark.parametrize("cut", [None, *range(3)])


def ask(
    wire: bytes, cut: int | None = None, *, head_only: bool = False, limits: Http1Limits | None = None
) -> tuple[Http1Client, list[Event]]:
    connection = Http1Client(limits)
    connection.open(GET, True, head_only=head_only)
    connection.output()
    return connection, joined(feed(connection, wire, random.Random(cut) if cut is not None else None))


@CUTS
@pytest.mark.parametrize(
    ("wire", "body", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 404 Not \xe9\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    ],
)
def test_responses(wire: bytes, body: bytes, kept: bool, cut: int | None) -> None:
    connection, events = ask(wire, cut)
    if b"103" in wire:
        assert events.pop(0) == InformationalReceived(1, ResponseHead(103, ((b"link", b"x"),)))
    assert isinstance(events[0], ResponseReceived)
    assert b"".join(event.data for event in events[1:] if isinstance(event, DataReceived)) == body
    assert getattr(events[-1], "ended", False)
    assert (connection.can_open, connection.finished) == (kept, not kept)
    assert connection.open_streams == 0


@CUTS
def test_a_body_that_ends_with_the_connection(cut: int | None) -> None:
    connection, events = ask(b"HTTP/1.1 200 OK\r\n\r\nhello", cut)
    assert events[1:] == [DataReceived(1, b"hello", False)]
    end = connection.eof()
    assert end == [DataReceived(1, b"", True), ConnectionClosed(ErrorCode.NO_ERROR, "the server hung up", True)]


def test_an_answer_to_head() -> None:
    connection, events = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", head_only=True)
    assert events == [ResponseReceived(1, ResponseHead(200, ((b"content-length", b"5"),), 5), True)]
    assert connection.can_open


@CUTS
@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 40_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_responses_that_are_refused(wire: bytes, cut: int | None) -> None:
    connection, events = ask(wire, cut)
    assert [type(event) for event in events[-2:]] == [StreamReset, ConnectionClosed]
    assert connection.finished
    assert not connection.can_open
    assert connection.output() == b""


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    """They could be taken for the answer to the next request."""
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    connection, events = ask(wire + wire)
    assert [type(event) for event in events] == [ResponseReceived, ConnectionClosed]
    connection, _ = ask(wire)
    assert [type(event) for event in feed(connection, b"\r")] == [ConnectionClosed]
    assert not connection.can_open


@pytest.mark.parametrize("wire", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", b"HTTP/1.1 2"])
def test_a_server_that_hangs_up(wire: bytes) -> None:
    connection, _ = ask(wire)
    [reset, closed] = connection.eof()
    assert isinstance(reset, StreamReset)
    assert ("before it answered" in reset.detail) == (not wire)
    assert reset.remote
    assert closed == ConnectionClosed(ErrorCode.CONNECT_ERROR, reset.detail, True)
    assert connection.eof() == []
    assert Http1Client().eof() == [ConnectionClosed(ErrorCode.NO_ERROR, "the server hung up", True)]


def test_an_answer_before_the_request_has_ended() -> None:
    connection = Http1Client()
    connection.open(POST, length=100)
    connection.send_data(1, b"some")
    events = feed(connection, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert [type(event) for event in events] == [ResponseReceived]
    assert connection.finished, "where the next request would start is not known to the server"
    assert connection.send_data(1, b"more") == 4


def test_requests() -> None:
    for method, end, length, expected in (
        (b"GET", True, None, b"\r\n"),
        (b"POST", True, None, b"content-length: 0\r\n\r\n"),
        (b"PUT", True, None, b"content-length: 0\r\n\r\n"),
        (b"PATCH", True, None, b"content-length: 0\r\n\r\n"),
        (b"DELETE", True, None, b"\r\n"),
        (b"POST", False, 3, b"content-length: 3\r\n\r\nabc"),
        (b"POST", False, None, b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n"),
    ):
        connection = Http1Client()
        block = encode_request(method, b"h", b"/")
        stream_id = connection.open(block, end, length=length)
        if not end:
            connection.send_data(stream_id, b"abc")
            connection.send_trailers(stream_id, encode_fields([(b"t", b"1")]))
        assert connection.output() == block + expected
        assert not connection.can_open
        with pytest.raises(LocalError):
            connection.open(block, True)
    with pytest.raises(LocalError):
        Http1Client().open(POST, True, length=3)


def test_a_response_over_its_limit() -> None:
    connection, events = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + bytes(20), limits=Http1Limits(body=10))
    assert [type(event) for event in events] == [ResponseReceived, BodyTooLarge]
    connection, _ = ask(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(20), limits=Http1Limits(body=10))
    assert [type(event) for event in connection.eof()] == [ConnectionClosed]


def test_shutdown_and_reset() -> None:
    idle = Http1Client()
    idle.shutdown()
    assert now(idle.finished)
    busy, _ = ask(b"")
    busy.shutdown()
    assert not now(busy.finished)
    feed(busy, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert now(busy.finished)
    busy, _ = ask(b"")
    busy.reset(1)
    assert now(busy.finished)
    assert not busy.can_open


# ── Our two sides ──────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(
    exchanges=st.lists(
        st.tuples(st.binary(max_size=3000), st.binary(max_size=3000), st.booleans(), st.booleans()), max_size=5
    ),
    seed=st.integers(0, 2**32),
)
def test_exchanges(exchanges: list[tuple[bytes, bytes, bool, bool]], seed: int) -> None:
    rng = random.Random(seed)
    client, server = Http1Client(), Http1Server()
    link = Link(client, server, rng)
    for number, (up, down, lengths, trailers) in enumerate(exchanges, 1):
        assert client.can_open
        assert client.open(POST, length=len(up) if lengths else None) == number
        _send(client, number, up, rng, trailers=trailers and not lengths)
        link.settle()
        _check(link.take()[1], number, up, trailers=trailers and not lengths)
        server.send_head(number, encode_response(200), length=len(down) if lengths else None)
        _send(server, number, down, rng, trailers=trailers and not lengths)
        link.settle()
        _check(link.take()[0], number, down, trailers=trailers and not lengths)


def _send(side: Http1Connection, number: int, body: bytes, rng: random.Random, *, trailers: bool) -> None:
    if rng.random() < 0.3:
        side.pause()
    half = rng.randint(0, len(body))
    side.send_data(number, body[:half])
    if trailers:
        side.send_data(number, body[half:])
        side.send_trailers(number, encode_fields([(b"t", b"1")]))
    else:
        side.send_data(number, body[half:], True)
    side.validate()
    side.resume()
    side.validate()


def _check(events: list[Event], number: int, body: bytes, *, trailers: bool) -> None:
    """One head, the body, one end."""
    head, *rest = joined(events)
    assert isinstance(head, RequestReceived | ResponseReceived)
    assert head.stream_id == number
    if trailers:
        assert rest.pop() == TrailersReceived(number, ((b"t", b"1"),))
    ends = not trailers
    if head.ended:
        assert (rest, body) == ([], b"")
    elif rest or ends:
        assert rest == [DataReceived(number, body, ends)]
    else:
        assert body == b""


@pytest.mark.parametrize("size", [5_000_000, 64_000_000])
@pytest.mark.parametrize("length", [True, False])
def test_a_large_body_through_a_proxy(size: int, length: bool) -> None:
    rng = random.Random(size)
    body = rng.randbytes(size)
    client, above, below, worker = Http1Client(), Http1Server(), Http1Client(), Http1Server()
    front, back = Link(client, above), Link(below, worker)
    client.open(GET, True)
    front.settle()
    below.open(GET, True)
    back.settle()
    relay = Relay(below, 1, above, 1)
    above.send_head(1, encode_response(200), length=size if length else None)
    worker.send_head(1, encode_response(200), length=size if length else None)
    received: list[bytes] = []
    for pos in range(0, size, 250_000):
        worker.send_data(1, body[pos : pos + 250_000], pos + 250_000 >= size)
        if rng.random() < 0.5:
            above.pause()
        back.settle()
        for event in back.take()[0]:
            if isinstance(event, DataReceived):
                relay.on_data(event)
        assert below.wants_data or above.unsent(1)
        for sent in above.resume():
            assert isinstance(sent, DataSent)
            relay.on_sent(sent)
        front.settle()
        for event in front.take()[0]:
            if isinstance(event, DataReceived):
                received.append(event.data)
                client.consume(1, len(event.data))
    assert b"".join(received) == body
    assert relay.waiting == 0
    assert client.can_open


# ── h11 ────────────────────────────────────────────────────────────────────────────────────────────────────────────

names = st.sampled_from([b"x-a", b"x-b", b"accept", b"user-agent"])
values = st.text(alphabet="abcXYZ019-_ /", max_size=30).map(lambda text: text.strip().encode())
field_lists = st.lists(st.tuples(names, values), max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    exchanges=st.lists(
        st.tuples(field_lists, st.binary(max_size=2000), st.binary(max_size=2000), st.booleans(), st.booleans()),
        max_size=4,
    ),
    seed=st.integers(0, 2**32),
)
def test_our_server_understands_h11(
    exchanges: list[tuple[list[tuple[bytes, bytes]], bytes, bytes, bool, bool]], seed: int
) -> None:
    rng = random.Random(seed)
    server, oracle = Http1Server(), h11.Connection(h11.CLIENT)
    for number, (fields, up, down, chunked_up, chunked_down) in enumerate(exchanges, 1):
        framing = (b"transfer-encoding", b"chunked") if chunked_up else (b"content-length", b"%d" % len(up))
        wire = oracle.send(h11.Request(method="POST", target="/p", headers=[(b"host", b"h"), *fields, framing])) or b""
        for piece in (up[:100], up[100:]):
            wire += oracle.send(h11.Data(data=piece)) or b""
        wire += oracle.send(h11.EndOfMessage(headers=[(b"t", b"1")] if chunked_up else [])) or b""
        events = joined(feed(server, wire, rng))
        assert isinstance(events[0], RequestReceived)
        assert [field for field in events[0].head.fields if field[0] != b"content-length"] == fields
        assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == up
        if chunked_up:
            assert events[-1] == TrailersReceived(number, ((b"t", b"1"),))
        server.send_head(number, encode_response(200, fields), length=None if chunked_down else len(down))
        server.send_data(number, down)
        server.send_trailers(number, encode_fields([(b"u", b"2")]))
        oracle.receive_data(server.output())
        response = oracle.next_event()
        assert isinstance(response, h11.Response)
        assert [tuple(field) for field in response.headers][: len(fields)] == fields
        body, end = _rest_of(oracle)
        assert body == down
        assert list(end.headers) == ([(b"u", b"2")] if chunked_down else [])
        oracle.start_next_cycle()


def _rest_of(oracle: h11.Connection) -> tuple[bytes, h11.EndOfMessage]:
    body = b""
    while True:
        event = oracle.next_event()
        if isinstance(event, h11.EndOfMessage):
            return body, event
        assert isinstance(event, h11.Data)
        body += bytes(event.data)


@settings(max_examples=60, deadline=None)
@given(
    fields=field_lists,
    up=st.binary(max_size=2000),
    down=st.binary(max_size=2000),
    chunked=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_our_client_understands_h11(
    fields: list[tuple[bytes, bytes]], up: bytes, down: bytes, chunked: bool, seed: int
) -> None:
    client, oracle = Http1Client(), h11.Connection(h11.SERVER)
    client.open(encode_request(b"POST", b"h", b"/p", fields), length=None if chunked else len(up))
    client.send_data(1, up, True)
    oracle.receive_data(client.output())
    request = oracle.next_event()
    assert isinstance(request, h11.Request)
    assert [tuple(field) for field in request.headers][1 : 1 + len(fields)] == fields
    assert _rest_of(oracle)[0] == up
    framing = (b"transfer-encoding", b"chunked") if chunked else (b"content-length", b"%d" % len(down))
    wire = oracle.send(h11.InformationalResponse(status_code=103, headers=[])) or b""
    wire += oracle.send(h11.Response(status_code=200, headers=[*fields, framing])) or b""
    wire += (oracle.send(h11.Data(data=down)) or b"") + (oracle.send(h11.EndOfMessage()) or b"")
    events = joined(feed(client, wire, random.Random(seed)))
    assert [type(event) for event in events[:2]] == [InformationalReceived, ResponseReceived]
    assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == down
    assert client.can_open


# ── Bytes that nobody meant ────────────────────────────────────────────────────────────────────────────────────────

fragments = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n", b"Host: h\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"\r\n", b"\r", b"\n", b"hello", b"5\r\nhello\r\n",
        b"5;x=y\r\nhello\r\n", b"0\r\n\r\n", b"0\r\n", b"T: 1\r\n", b" folded\r\n", b"\x00", b":",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n",
    ]
)  # fmt: skip
wires = st.lists(st.one_of(fragments, fragments, st.binary(max_size=4)), max_size=25).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(wire=wires, server=st.booleans(), seed=st.integers(0, 2**32))
def test_any_bytes_give_the_same_events_however_they_are_cut(wire: bytes, server: bool, seed: int) -> None:
    def listen(rng: random.Random | None) -> tuple[list[Event], bytes, str]:
        connection: Http1Server | Http1Client = Http1Server() if server else Http1Client()
        if isinstance(connection, Http1Client):
            connection.open(GET, True)
        events = feed(connection, wire, rng)
        events += connection.receive(b"")
        return joined(events), connection.output(), repr(connection)

    assert listen(None) == listen(random.Random(seed))


@settings(max_examples=300, deadline=None)
@given(wire=wires, seed=st.integers(0, 2**32))
def test_any_requests_leave_a_consistent_state(wire: bytes, seed: int) -> None:
    """Answered at random moments; what h11 makes of our answers must be whole answers."""
    rng = random.Random(seed)
    connection = Http1Server()
    heard: list[Event] = []
    pos = 0
    while pos < len(wire) or connection.backlog:
        size = rng.randint(1, 40)
        fresh = connection.receive(wire[pos : pos + size])
        connection.validate()
        for event in fresh:
            if isinstance(event, RequestReceived):
                connection.send_head(event.stream_id, encode_response(200), length=rng.choice([None, 2]))
                connection.send_data(event.stream_id, b"ok", True)
            elif isinstance(event, DataReceived):
                connection.consume(event.stream_id, len(event.data))
            connection.validate()
        heard += fresh
        if pos >= len(wire) and not fresh:
            break
        pos += size
    if not connection.closed:
        heard += connection.eof()
    assert sum(isinstance(event, ConnectionClosed) for event in heard) <= 1
    assert not any(isinstance(event, ConnectionClosed) for event in heard[:-1])
    connection.validate()
