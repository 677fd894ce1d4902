"""Large bodies through small windows: byte-exact, in order, with back-pressure, in both roles. And floods.

A prototype once reordered the chunks of a 5 MB reply, because it tracked windows per chunk. Each test here compares
whole bodies, made so that no two pieces of them are alike.
"""

from __future__ import annotations

import hashlib
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.http.errors import ErrorCode
from berth.http.events import (
    ConnectionClosed,
    DataReceived,
    DataSent,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http.http2 import frames as f
from berth.http.http2.client import Http2Client
from berth.http.http2.connection import Http2Connection
from berth.http.http2.header_codec import encode, encode_request, encode_response
from berth.http.http2.server import Http2Server
from berth.http.limits import Http2Limits
from doubles.http_link import Link, Relay, feed

POST = encode_request(b"POST", b"http", b"h", b"/")
OK = encode_response(200)
TRAILERS = encode([(b"grpc-status", b"0")])


def body_of(size: int, seed: int = 0) -> bytes:
    """Bytes in which every piece tells where it belongs."""
    return random.Random(seed).randbytes(size)


class Reader:
    """A shell that consumes what it is given: all at once, or a random part now and the rest later."""

    def __init__(self, connection: Http2Connection, rng: random.Random | None = None) -> None:
        self.connection = connection
        self.bodies: dict[int, list[bytes]] = {}
        self.ended: set[int] = set()
        self.failed: list[StreamReset | ConnectionClosed] = []
        self._owed: dict[int, int] = {}
        self._rng = rng

    def read(self, events: list[object]) -> None:
        for event in events:
            if isinstance(event, DataReceived):
                self.bodies.setdefault(event.stream_id, []).append(event.data)
                self._owed[event.stream_id] = self._owed.get(event.stream_id, 0) + len(event.data)
                if event.ended:
                    self.ended.add(event.stream_id)
            elif isinstance(event, TrailersReceived):
                self.ended.add(event.stream_id)
            elif isinstance(event, StreamReset | ConnectionClosed):
                self.failed.append(event)
        for stream_id, owed in self._owed.items():
            size = owed if self._rng is None else self._rng.randint(0, owed)
            self.connection.consume(stream_id, size)
            self._owed[stream_id] -= size
        self.connection.validate()

    def body(self, stream_id: int) -> bytes:
        return b"".join(self.bodies[stream_id])

    @property
    def owes(self) -> bool:
        return any(self._owed.values())


def run(link: Link, client: Reader, server: Reader) -> None:
    """Move bytes and consume bodies until both sides are silent."""
    while True:
        owed = client.owes or server.owes
        moved = link.step()
        at_client, at_server = link.take()
        client.read(list(at_client))
        server.read(list(at_server))
        if not moved and not owed:
            return


windows = st.one_of(st.sampled_from([1, 2, 100, 16_383, 16_384, 65_535, 70_000]), st.integers(1, 200_000))


@settings(max_examples=60, deadline=None)
@given(
    limits=st.builds(
        Http2Limits,
        stream_window=windows,
        connection_window=st.integers(65_535, 200_000),
        max_frame=st.sampled_from([2**14, 2**14 + 1, 2**17]),
        control_frames=st.just(10**6),
    ),
    sizes=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    cut=st.booleans(),
)
def test_bodies_survive_any_windows(limits: Http2Limits, sizes: list[tuple[int, int]], seed: int, cut: bool) -> None:
    """Several streams at once, both directions, random windows, random cuts, lazy readers, random pauses."""
    rng = random.Random(seed)
    if limits.stream_window < 100:
        sizes = [(up % 300, down % 300) for up, down in sizes]
    client, server = Http2Client(limits), Http2Server(limits)
    link = Link(client, server, rng if cut else None)
    reads = Reader(client, rng), Reader(server, rng)
    bodies: dict[int, tuple[bytes, bytes]] = {}
    for up, down in sizes:
        stream_id = client.open(POST)
        bodies[stream_id] = body_of(up, stream_id), body_of(down, -stream_id)
    link.step()
    reads[0].read(list(link.take()[0]))
    for stream_id, (up_body, down_body) in bodies.items():
        server.send_head(stream_id, OK)
        _send_in_pieces(client, stream_id, up_body, rng)
        _send_in_pieces(server, stream_id, down_body, rng)
        if rng.random() < 0.5:
            server.pause()
            client.pause()
        run(link, *reads)
        for side in (client, server):
            side.resume()
            side.validate()
    run(link, *reads)
    for stream_id, (up_body, down_body) in bodies.items():
        assert reads[1].body(stream_id) == up_body
        assert reads[0].body(stream_id) == down_body
    assert reads[0].ended == reads[1].ended == set(bodies)
    assert client.open_streams == server.open_streams == 0
    assert not reads[0].failed
    assert not reads[1].failed


def _send_in_pieces(side: Http2Connection, stream_id: int, body: bytes, rng: random.Random) -> None:
    """Some of it now and some behind what waits; ended by DATA or by trailers."""
    pos = 0
    while pos < len(body):
        size = rng.randint(0, len(body))
        side.send_data(stream_id, body[pos : pos + size])
        pos += size
    if rng.random() < 0.5 or not body:
        side.send_data(stream_id, b"", True)
    else:
        side.send_trailers(stream_id, TRAILERS)
    side.validate()


@pytest.mark.parametrize("role", ["client sends", "server sends"])
@pytest.mark.parametrize(("size", "window"), [(5_000_000, 16_384), (5_000_000, 65_535), (64_000_000, 1_000_000)])
def test_a_large_body_arrives_byte_exact(role: str, size: int, window: int) -> None:
    limits = Http2Limits(stream_window=window, connection_window=max(window, 65_535))
    client, server = Http2Client(limits), Http2Server(limits)
    link = Link(client, server)
    reads = Reader(client), Reader(server)
    stream_id = client.open(POST)
    run(link, *reads)
    sender, reader = (client, reads[1]) if role == "client sends" else (server, reads[0])
    server.send_head(stream_id, OK)
    body = body_of(size)
    accepted = sender.send_data(stream_id, body, True)
    assert accepted <= window
    assert sender.unsent(stream_id) == size - accepted
    run(link, *reads)
    assert hashlib.sha256(reader.body(stream_id)).digest() == hashlib.sha256(body).digest()
    assert reader.ended == {stream_id}
    assert sender.unsent(stream_id) == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_proxy_holds_no_more_than_a_window(seed: int) -> None:
    """Client, proxy and worker, with different windows on both sides; a reply and a request of 5 MB at once."""
    rng = random.Random(seed)
    size, window = 5_000_000, 100_000
    client = Http2Client(Http2Limits(stream_window=rng.choice([20_000, 65_535, 300_000])))
    above = Http2Server(Http2Limits(stream_window=window))
    below = Http2Client(Http2Limits(stream_window=window))
    worker = Http2Server(Http2Limits(stream_window=rng.choice([20_000, 65_535, 300_000])))
    front, back = Link(client, above), Link(below, worker)
    request, reply = body_of(size, 1), body_of(size, 2)
    read_client, read_worker = Reader(client, rng), Reader(worker, rng)
    top = client.open(POST)
    client.send_data(top, request, True)
    bottom = below.open(POST)
    up, down = Relay(above, top, below, bottom), Relay(below, bottom, above, top)
    front.settle()
    back.settle()
    above.send_head(top, OK)
    worker.send_head(bottom, OK)
    worker.send_data(bottom, reply)
    worker.send_trailers(bottom, TRAILERS)
    stuck = 0
    while stuck < 10:
        paused = rng.random() < 0.3
        events_above = []
        if paused:
            above.pause()
        else:
            events_above += above.resume()
        moved = front.step() | back.step()
        stuck = 0 if moved else stuck + 1
        at_client, at_above = front.take()
        at_below, at_worker = back.take()
        pass_on([*events_above, *at_above], up, down)
        pass_on(at_below, down, up)
        if any(isinstance(event, TrailersReceived) for event in at_below):
            above.send_trailers(top, TRAILERS)
        read_client.read(list(at_client))
        read_worker.read(list(at_worker))
        for connection in (above, below):
            connection.validate()
    assert read_worker.body(bottom) == request
    assert read_client.body(top) == reply
    assert read_client.ended == {top}
    assert up.waiting == down.waiting == 0
    assert 0 < max(up.most_waiting, down.most_waiting) <= window


def pass_on(events: list[Event], onward: Relay, other: Relay) -> None:
    """What one of the proxy's two connections reports: body for `onward`, and what `other` could send there."""
    for event in events:
        if isinstance(event, DataReceived):
            onward.on_data(event)
        elif isinstance(event, DataSent):
            other.on_sent(event)


def test_a_reader_that_does_not_read_stops_only_its_own_stream() -> None:
    client, server = Http2Client(Http2Limits(stream_window=65_535)), Http2Server()
    link = Link(client, server)
    slow, quick = client.open(POST, True), client.open(POST, True)
    link.settle()
    for stream_id in (slow, quick):
        server.send_head(stream_id, OK)
    server.send_data(slow, body_of(200_000), True)
    body = body_of(300_000)
    server.send_data(quick, body, True)
    received = b""
    while link.step():
        for event in link.take()[0]:
            if isinstance(event, DataReceived) and event.stream_id == quick:
                client.consume(quick, len(event.data))
                received += event.data
    assert received == body
    assert server.unsent(slow) == 200_000 - 65_535


def test_streams_share_the_connections_window_in_turn() -> None:
    client, server = Http2Client(Http2Limits(connection_window=65_535, max_frame=2**14)), Http2Server()
    link = Link(client, server)
    streams = [client.open(POST, True) for _ in range(4)]
    link.settle()
    link.take()
    for stream_id in streams:
        server.send_head(stream_id, OK)
        server.send_data(stream_id, bytes(150_000), True)
    finished: list[int] = []
    served: dict[int, int] = dict.fromkeys(streams, 0)
    while link.step():
        for event in link.take()[0]:
            if isinstance(event, DataReceived):
                client.consume(event.stream_id, len(event.data))
                served[event.stream_id] += len(event.data)
                if event.ended:
                    finished.append(event.stream_id)
        if not finished:
            rest = [served[stream_id] for stream_id in streams[1:]]
            assert max(rest) - min(rest) <= 2 * 16_384, "a stream went ahead of the others"
    assert sorted(finished) == streams


def test_a_window_that_shrinks_below_zero() -> None:
    connection = Http2Server()
    feed(connection, f.PREFACE + f.settings({}) + f.headers(1, POST, end_stream=True, max_frame=16384))
    connection.send_head(1, OK)
    body = body_of(70_000)
    assert connection.send_data(1, body, True) == 65_535
    feed(connection, f.settings({f.INITIAL_WINDOW_SIZE: 0}) + f.window_update(0, 100_000))
    connection.output()
    assert feed(connection, f.window_update(1, 65_535)) == [], "back at zero"
    assert feed(connection, f.window_update(1, 4_464)) == [DataSent(1, 4_464)]
    assert feed(connection, f.settings({f.INITIAL_WINDOW_SIZE: 10})) == [DataSent(1, 1)]
    assert connection.open_streams == 0
    assert connection.output().count(body[-1:]) >= 1


def test_a_small_window_counts_only_once_it_is_acknowledged() -> None:
    """Until then the client may have relied on 65,535 (RFC 9113 section 6.9.2)."""
    connection = Http2Server(Http2Limits(stream_window=10))
    events = feed(
        connection,
        f.PREFACE + f.settings({}) + f.headers(1, POST, end_stream=False, max_frame=16384)
        + f.frame(f.DATA, 0, 1, bytes(1000)) + f.frame(f.SETTINGS, f.ACK, 0),
    )  # fmt: skip
    assert [type(event) for event in events] == [RequestReceived, DataReceived]
    connection.consume(1, 1000)
    connection.validate()
    assert isinstance(feed(connection, f.frame(f.DATA, 0, 1, bytes(11)))[0], StreamReset)


def test_a_window_that_shrinks_does_not_strand_a_client() -> None:
    """The client used up 65,535 before it knew of 16,384. All was consumed, so it must be told that it may go on."""
    size, window = 100_000, 16_384
    connection = Http2Server(Http2Limits(stream_window=window))
    body = body_of(size)
    wire = f.PREFACE + f.settings({}) + f.headers(1, POST, end_stream=False, max_frame=16384)
    pos = 0
    while pos < 65_535:
        piece = body[pos : min(pos + 10_000, 65_535)]
        wire += f.frame(f.DATA, 0, 1, piece)
        pos += len(piece)
    for event in feed(connection, wire):
        if isinstance(event, DataReceived):
            connection.consume(1, len(event.data))
    feed(connection, f.frame(f.SETTINGS, f.ACK, 0))
    connection.validate()
    output, granted = connection.output(), 65_535 - (65_535 - window)
    for at in range(len(output) - 12):
        if output[at : at + 9] == f.window_update(1, 0)[:9]:
            granted += int.from_bytes(output[at + 9 : at + 13], "big")
    assert granted - 65_535 == window, "the whole of the new window is open"


def test_more_body_than_the_connections_window() -> None:
    connection = Http2Server(Http2Limits(connection_window=65_535, stream_window=200_000))
    feed(connection, f.PREFACE + f.settings({}) + f.headers(1, POST, end_stream=False, max_frame=16384))
    assert len(feed(connection, f.frame(f.DATA, 0, 1, bytes(60_000)))) == 1
    events = feed(connection, f.frame(f.DATA, 0, 1, bytes(6_000)))
    assert isinstance(events[-1], ConnectionClosed)
    assert events[-1].code == ErrorCode.FLOW_CONTROL_ERROR


def test_a_setting_that_makes_a_window_too_large() -> None:
    connection = Http2Server()
    feed(connection, f.PREFACE + f.settings({}) + f.headers(1, POST, end_stream=True, max_frame=16384))
    feed(connection, f.window_update(1, 2**31 - 1 - 65_535))
    events = feed(connection, f.settings({f.INITIAL_WINDOW_SIZE: 65_536}))
    assert isinstance(events[-1], ConnectionClosed)
    assert events[-1].code == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("padded", [False, True])
def test_the_rest_of_a_frame_whose_stream_is_gone_is_thrown_away(padded: bool) -> None:
    connection = Http2Server()
    feed(connection, f.PREFACE + f.settings({}) + f.headers(1, POST, end_stream=False, max_frame=16384))
    frame = f.frame(f.DATA, f.PADDED, 1, b"\x0a" + bytes(90)) if padded else f.frame(f.DATA, 0, 1, bytes(90))
    assert len(feed(connection, frame[:40])) == 1
    connection.reset(1)
    connection.validate()
    events = feed(connection, frame[40:] + f.headers(3, POST, end_stream=True, max_frame=16384))
    assert [type(event) for event in events] == [RequestReceived]


def test_an_end_needs_no_window_and_no_transport() -> None:
    connection = Http2Server()
    feed(connection, f.PREFACE + f.settings({f.INITIAL_WINDOW_SIZE: 0}))
    for stream_id in (1, 3):
        feed(connection, f.headers(stream_id, POST, end_stream=True, max_frame=16384))
        connection.send_head(stream_id, OK)
        connection.pause()
        assert connection.send_data(stream_id, b"") == 0
        assert connection.send_data(stream_id, b"", True) == 0
        connection.resume()
    assert connection.open_streams == 0


def test_a_body_of_several_frames_that_fits_its_window() -> None:
    connection = Http2Server()
    feed(connection, f.PREFACE + f.settings({}) + f.headers(1, POST, end_stream=True, max_frame=16384))
    connection.send_head(1, OK)
    connection.output()
    body = body_of(40_000)
    assert connection.send_data(1, body, True) == 40_000
    assert connection.open_streams == 0
    expected = [(body[:16384], 0), (body[16384:32768], 0), (body[32768:], f.END_STREAM)]
    assert connection.output() == b"".join(f.frame(f.DATA, flags, 1, part) for part, flags in expected)


def test_single_bytes_that_wait_are_joined() -> None:
    connection = Http2Server()
    feed(connection, f.PREFACE + f.settings({f.INITIAL_WINDOW_SIZE: 0}))
    feed(connection, f.headers(1, POST, end_stream=True, max_frame=16384))
    connection.send_head(1, OK)
    connection.output()
    body = body_of(20_000)
    for at in range(20_000):
        assert connection.send_data(1, memoryview(body)[at : at + 1]) == 0
    connection.send_data(1, b"", True)
    assert feed(connection, f.window_update(1, 16_384) + f.window_update(1, 3_616)) == [
        DataSent(1, 16_384),
        DataSent(1, 3_616),
    ]
    sent = connection.output()
    # A frame for each piece that was kept, and one more where the first window cut a piece.
    assert len(sent) - len(body) <= 7 * f.HEADER_SIZE
    reader = Http2Client()
    feed(reader, f.settings({}))
    reader.open(POST, True)
    events = feed(reader, f.headers(1, OK, end_stream=False, max_frame=16384) + sent)
    assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == body
    assert reader.open_streams == 0


def test_trailers_wait_behind_body() -> None:
    connection = Http2Server()
    feed(connection, f.PREFACE + f.settings({f.INITIAL_WINDOW_SIZE: 5}))
    feed(connection, f.headers(1, POST, end_stream=True, max_frame=16384))
    connection.send_head(1, OK)
    assert connection.send_data(1, b"1234567890") == 5
    assert connection.send_data(1, b"abc") == 0
    connection.send_trailers(1, TRAILERS)
    assert TRAILERS not in connection.output()
    assert feed(connection, f.window_update(1, 7)) == [DataSent(1, 7)]
    assert feed(connection, f.window_update(1, 7)) == [DataSent(1, 1)]
    assert connection.output().endswith(b"c" + f.headers(1, TRAILERS, end_stream=True, max_frame=16384))


def test_a_reset_drops_what_waits() -> None:
    connection = Http2Server()
    feed(connection, f.PREFACE + f.settings({f.INITIAL_WINDOW_SIZE: 5}))
    feed(connection, f.headers(1, POST, end_stream=True, max_frame=16384))
    connection.send_head(1, OK)
    connection.send_data(1, b"1234567890", True)
    connection.output()
    connection.reset(1, ErrorCode.INTERNAL_ERROR)
    assert connection.unsent(1) == 0
    assert connection.output() == f.rst_stream(1, ErrorCode.INTERNAL_ERROR)
    assert feed(connection, f.window_update(1, 100)) == []


def test_unread_body_of_a_stream_that_is_gone_does_not_stall_the_connection() -> None:
    """A shell that never consumes and only resets: the connection's window must come back."""
    limits = Http2Limits(stream_window=65_535, connection_window=65_535)
    client, server = Http2Client(), Http2Server(limits)
    link = Link(client, server)
    for _ in range(20):
        stream_id = client.open(POST)
        client.send_data(stream_id, bytes(60_000))
        link.settle()
        server.reset(stream_id)
        link.settle()
    arrived = sum(len(event.data) for event in link.at_server if isinstance(event, DataReceived))
    assert arrived == 20 * 60_000


# ── Floods ─────────────────────────────────────────────────────────────────────────────────────────────────────────

FLOODS = {
    "ping": lambda n: f.ping(n.to_bytes(8, "big")),
    "settings": lambda n: f.settings({}),
    "empty data": lambda n: f.frame(f.DATA, 0, 1),
    "padding only": lambda n: f.frame(f.DATA, f.PADDED, 1, b"\x00"),
    "priority": lambda n: f.frame(f.PRIORITY, 0, 1, bytes(5)),
    "window updates": lambda n: f.window_update(1, 1),
    "unknown frames": lambda n: f.frame(0xFB, 0, 0, b"x"),
    "rapid reset": lambda n: f.headers(3 + 2 * n, POST, end_stream=True, max_frame=16384) + f.rst_stream(3 + 2 * n, 8),
    "resets provoked from us": lambda n: (
        f.headers(3 + 2 * n, POST, end_stream=True, max_frame=16384) + f.window_update(3 + 2 * n, 0)
    ),
    "malformed requests": lambda n: f.headers(3 + 2 * n, OK, end_stream=True, max_frame=16384),
    "too many streams": lambda n: f.headers(3 + 2 * n, POST, end_stream=False, max_frame=16384),
    "resets of nothing": lambda n: f.rst_stream(1, 0),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_ends_the_connection(flood: object) -> None:
    assert callable(flood)
    connection = Http2Server(Http2Limits(control_frames=100, resets=20, max_streams=10))
    feed(connection, f.PREFACE + f.settings({}) + f.frame(f.SETTINGS, f.ACK, 0))
    feed(connection, f.headers(1, POST, end_stream=False, max_frame=16384))
    for n in range(2000):
        events = feed(connection, flood(n))
        if connection.closed:
            break
    assert isinstance(events[-1], ConnectionClosed)
    assert events[-1].code == ErrorCode.ENHANCE_YOUR_CALM
    assert len(connection.output()) < 200_000, "the flood was answered frame by frame"


def test_pings_over_years_are_no_flood() -> None:
    connection = Http2Server(Http2Limits(control_frames=100))
    feed(connection, f.PREFACE + f.settings({}))
    for n in range(5000):
        feed(connection, f.ping(bytes(8)))
        if n % 50 == 0:
            connection.tick(float(n))
    assert not connection.closed


def test_useful_work_earns_window_updates_and_resets() -> None:
    """A busy connection updates its windows and cancels requests as often as it does now."""
    connection = Http2Server(Http2Limits(control_frames=50, resets=10))
    feed(connection, f.PREFACE + f.settings({}))
    for n in range(2000):
        stream_id = 1 + 2 * n
        feed(connection, f.headers(stream_id, POST, end_stream=True, max_frame=16384))
        if n % 2:
            feed(connection, f.rst_stream(stream_id, 8))
        else:
            connection.send_head(stream_id, OK)
            connection.send_data(stream_id, b"answer", True)
        feed(connection, f.window_update(0, 6) + f.ping(bytes(8)))
    assert not connection.closed


def test_a_client_may_reset_what_it_opened_however_often_the_server_fails() -> None:
    connection = Http2Client(Http2Limits(resets=5))
    feed(connection, f.settings({}))
    for _ in range(100):
        stream_id = connection.open(POST, True)
        [event] = feed(connection, f.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
        assert isinstance(event, StreamReset)
    assert connection.can_open


def test_state_stays_small_over_many_streams() -> None:
    client, server = Http2Client(), Http2Server()
    link = Link(client, server)
    for n in range(3000):
        stream_id = client.open(POST + encode([(b"x-request-id", b"%d" % n)]), True)
        link.settle()
        if n % 3:
            server.send_head(stream_id, OK, True)
        else:
            server.reset(stream_id)
        link.settle()
        assert any(isinstance(event, ResponseReceived | StreamReset) for event in link.take()[0])
    for side in (client, server):
        told = repr(side)
        assert "<StreamTable 0 open, 0 ready" in told
        assert "<Output 0 pieces" in told
        assert "0 bytes of a frame" in told
        [remembered] = re.findall(r"(\d+) reset,", told)
        assert int(remembered) <= 1024
