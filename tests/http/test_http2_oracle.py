"""Against hyper-h2: what it sends we understand, what we send it understands, in both roles; and random bytes."""

from __future__ import annotations

import random

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.http.errors import ErrorCode
from berth.http.events import (
    ConnectionClosed,
    DataReceived,
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
from doubles.http_link import feed, joined

field_lists = st.lists(
    st.tuples(
        st.sampled_from([b"x-a", b"x-b", b"grpc-timeout", b"accept", b"authorization"]),
        st.text(alphabet="abcXYZ019-_ /", max_size=30).map(lambda text: text.strip().encode()),
    ),
    max_size=5,
)
Pairs = list[tuple[bytes, bytes]]
# Fields; body and trailers up; body and trailers down.
Exchange = tuple[Pairs, bytes, Pairs, bytes, Pairs]
exchanges = st.lists(
    st.tuples(field_lists, st.binary(max_size=3000), field_lists, st.binary(max_size=3000), field_lists),
    min_size=1,
    max_size=5,
)


class Oracle:
    """A hyper-h2 connection that sends bodies as its windows allow and gives windows back."""

    def __init__(self, *, client: bool) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self._waiting: dict[int, tuple[bytes, list[tuple[bytes, bytes]]]] = {}

    def send_body(self, stream_id: int, body: bytes, trailers: list[tuple[bytes, bytes]]) -> None:
        self._waiting[stream_id] = body, trailers
        self._flush()

    def _flush(self) -> None:
        for stream_id, (body, trailers) in list(self._waiting.items()):
            rest = self._send_some(stream_id, body)
            self._waiting[stream_id] = rest, trailers
            if not rest:
                del self._waiting[stream_id]
                if trailers:
                    self.h2.send_headers(stream_id, trailers, end_stream=True)
                else:
                    self.h2.end_stream(stream_id)

    def _send_some(self, stream_id: int, body: bytes) -> bytes:
        """What the windows allow, some of it padded. Returns the rest."""
        while body:
            room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
            if room <= 0:
                break
            pad = 5 if room > 6 and len(body) % 3 == 0 else None
            take = room - 6 if pad else room
            self.h2.send_data(stream_id, body[:take], pad_length=pad)
            body = body[take:]
        return body

    def receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self._flush()

    def body(self, stream_id: int) -> bytes:
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream_id
        )

    def fields(
        self,
        kind: type[h2.events.RequestReceived | h2.events.ResponseReceived | h2.events.TrailersReceived],
        stream_id: int,
    ) -> list[tuple[bytes, bytes]]:
        return [
            (field[0], field[1])
            for event in self.events
            if isinstance(event, kind) and event.stream_id == stream_id
            for field in event.headers
        ]


def settle(ours: Http2Connection, oracle: Oracle, rng: random.Random) -> list[Event]:
    events: list[Event] = []
    while True:
        down, up = ours.output(), oracle.h2.data_to_send()
        if not down and not up:
            return events
        oracle.receive(down)
        heard = feed(ours, up, rng)
        for event in heard:
            if isinstance(event, DataReceived):
                ours.consume(event.stream_id, len(event.data))
        ours.validate()
        events += heard


@settings(max_examples=80, deadline=None)
@given(exchanges=exchanges, window=st.integers(1, 5000), seed=st.integers(0, 2**32))
def test_our_server_understands_h2(
    exchanges: list[Exchange],
    window: int,
    seed: int,
) -> None:
    rng = random.Random(seed)
    server, oracle = Http2Server(Http2Limits(stream_window=window)), Oracle(client=True)
    oracle.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    settle(server, oracle, rng)
    for fields, up, trailers, down, down_trailers in exchanges:
        stream_id = oracle.h2.get_next_available_stream_id()
        head = [(b":method", b"POST"), (b":authority", b"h"), (b":scheme", b"http"), (b":path", b"/p?q"), *fields]
        oracle.h2.send_headers(stream_id, head)
        oracle.send_body(stream_id, up, trailers)
        events = joined(settle(server, oracle, rng))
        request = events[0]
        assert isinstance(request, RequestReceived)
        assert request.stream_id == stream_id
        assert (request.head.path, request.head.fields) == (b"/p?q", tuple(fields))
        assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == up
        if trailers:
            assert events[-1] == TrailersReceived(stream_id, tuple(trailers))
        assert getattr(events[-1], "ended", False)
        server.send_head(stream_id, encode_response(200, fields))
        server.send_data(stream_id, down)
        if down_trailers:
            server.send_trailers(stream_id, encode(down_trailers))
        else:
            server.send_data(stream_id, b"", True)
        settle(server, oracle, rng)
        assert oracle.fields(h2.events.ResponseReceived, stream_id) == [(b":status", b"200"), *fields]
        assert oracle.body(stream_id) == down
        assert oracle.fields(h2.events.TrailersReceived, stream_id) == down_trailers
        assert any(isinstance(event, h2.events.StreamEnded) and event.stream_id == stream_id for event in oracle.events)
    assert server.open_streams == 0


@settings(max_examples=80, deadline=None)
@given(exchanges=exchanges, window=st.integers(1, 5000), seed=st.integers(0, 2**32))
def test_our_client_understands_h2(
    exchanges: list[Exchange],
    window: int,
    seed: int,
) -> None:
    rng = random.Random(seed)
    client, oracle = Http2Client(Http2Limits(stream_window=window)), Oracle(client=False)
    oracle.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    settle(client, oracle, rng)
    for fields, up, trailers, down, down_trailers in exchanges:
        stream_id = client.open(encode_request(b"POST", b"http", b"h", b"/p?q", fields))
        client.send_data(stream_id, up)
        if trailers:
            client.send_trailers(stream_id, encode(trailers))
        else:
            client.send_data(stream_id, b"", True)
        settle(client, oracle, rng)
        request = oracle.fields(h2.events.RequestReceived, stream_id)
        assert request[4:] == fields
        assert dict(request[:4])[b":path"] == b"/p?q"
        assert oracle.body(stream_id) == up
        assert oracle.fields(h2.events.TrailersReceived, stream_id) == trailers
        oracle.h2.send_headers(stream_id, [(b":status", b"200"), *fields])
        oracle.send_body(stream_id, down, down_trailers)
        events = joined(settle(client, oracle, rng))
        response = events[0]
        assert isinstance(response, ResponseReceived)
        assert (response.head.status, response.head.fields) == (200, tuple(fields))
        assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == down
        if down_trailers:
            assert events[-1] == TrailersReceived(stream_id, tuple(down_trailers))
    assert client.open_streams == 0


@pytest.mark.parametrize("size", [5_000_000])
@pytest.mark.parametrize("window", [65_535, 10_000])
def test_a_large_body_from_and_to_h2(size: int, window: int) -> None:
    rng = random.Random(3)
    server, oracle = Http2Server(Http2Limits(stream_window=window)), Oracle(client=True)
    settle(server, oracle, rng)
    body = rng.randbytes(size)
    oracle.h2.send_headers(1, [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"h")])
    oracle.send_body(1, body, [])
    events = settle(server, oracle, rng)
    assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == body
    server.send_head(1, encode_response(200))
    server.send_data(1, body, True)
    settle(server, oracle, rng)
    assert oracle.body(1) == body


def test_resets_and_goaway_with_h2() -> None:
    rng = random.Random(5)
    server, oracle = Http2Server(), Oracle(client=True)
    head = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"h")]
    for stream_id in (1, 3):
        oracle.h2.send_headers(stream_id, head)
    oracle.h2.reset_stream(1, ErrorCode.CANCEL)
    events = settle(server, oracle, rng)
    assert [type(event) for event in events] == [RequestReceived, RequestReceived, StreamReset]
    server.reset(3, ErrorCode.INTERNAL_ERROR)
    settle(server, oracle, rng)
    [reset] = [event for event in oracle.events if isinstance(event, h2.events.StreamReset)]
    assert (reset.stream_id, reset.error_code) == (3, ErrorCode.INTERNAL_ERROR)
    server.close(ErrorCode.ENHANCE_YOUR_CALM, "enough")
    oracle.receive(server.output())
    [gone] = [event for event in oracle.events if isinstance(event, h2.events.ConnectionTerminated)]
    assert gone.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert gone.additional_data == b"enough"


# ── Bytes that nobody meant ────────────────────────────────────────────────────────────────────────────────────────

GET = encode_request(b"GET", b"http", b"h", b"/")
good = st.sampled_from(
    [
        f.headers(1, GET, end_stream=False, max_frame=16384),
        f.headers(3, GET, end_stream=True, max_frame=16384),
        f.headers(1, encode_response(200), end_stream=False, max_frame=16384),
        f.headers(1, encode([(b"t", b"1")]), end_stream=True, max_frame=16384),
        f.headers(5, hpack.Encoder().encode([(":method", "GET"), (":scheme", "http"), (":path", "/"), ("x", "y" * 50)]),
                  end_stream=False, max_frame=16384),
        f.frame(f.HEADERS, 0, 7, GET[:3]),
        f.frame(f.CONTINUATION, f.END_HEADERS, 7, GET[3:]),
        f.frame(f.DATA, 0, 1, b"hello"),
        f.frame(f.DATA, f.PADDED | f.END_STREAM, 1, b"\x02hello\0\0"),
        f.frame(f.DATA, 0, 3, b"hello"),
        f.settings({f.INITIAL_WINDOW_SIZE: 3, f.MAX_FRAME_SIZE: 20_000}),
        f.frame(f.SETTINGS, f.ACK, 0),
        f.window_update(0, 10),
        f.window_update(1, 10),
        f.rst_stream(1, 8),
        f.ping(bytes(8)),
        f.ping(b"draining", ack=True),
        f.goaway(2**31 - 1, 0),
        f.goaway(0, 0, b"bye"),
        f.frame(f.PRIORITY, 0, 1, bytes(5)),
    ]
)  # fmt: skip
random_frames = st.builds(
    f.frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 7, 2**31 - 1]),
    st.binary(max_size=40),
)
wires = st.lists(st.one_of(good, good, good, random_frames, st.binary(max_size=20)), max_size=25).map(b"".join)


def _answer(connection: Http2Connection, events: list[Event]) -> None:
    """A shell that answers whatever it hears of, and says something on streams of its own."""
    for event in events:
        if isinstance(event, RequestReceived) and isinstance(connection, Http2Server):
            connection.send_head(event.stream_id, encode_response(200))
            connection.send_data(event.stream_id, b"answer", event.ended)
        elif isinstance(event, DataReceived):
            connection.consume(event.stream_id, len(event.data))


@settings(max_examples=400, deadline=None)
@given(wire=wires, role=st.booleans(), seed=st.integers(0, 2**32))
def test_any_bytes_give_the_same_events_however_they_are_cut(wire: bytes, role: bool, seed: int) -> None:
    def listen(rng: random.Random | None) -> tuple[list[Event], str]:
        connection: Http2Server | Http2Client
        if role:
            connection, prefix = Http2Server(), f.PREFACE + f.settings({})
        else:
            connection, prefix = Http2Client(), f.settings({})
            connection.open(GET)
            connection.open(GET, True)
        events = feed(connection, prefix + wire, rng)
        return joined(events), repr(connection)

    whole, cut = listen(None), listen(random.Random(seed))
    assert whole == cut


@settings(max_examples=300, deadline=None)
@given(wire=wires, role=st.booleans(), pauses=st.lists(st.booleans(), max_size=20), seed=st.integers(0, 2**32))
def test_any_bytes_leave_a_consistent_state(wire: bytes, role: bool, pauses: list[bool], seed: int) -> None:
    connection: Http2Server | Http2Client = Http2Server() if role else Http2Client()
    feed(connection, f.PREFACE + f.settings({}) if role else f.settings({}))
    if isinstance(connection, Http2Client):
        for end in (False, True):
            connection.open(GET, end)
        connection.send_data(1, bytes(100_000), True)
    rng = random.Random(seed)
    states = iter(pauses)
    heard: list[Event] = []
    pos = 0
    while pos < len(wire):
        size = rng.randint(1, 60)
        fresh = connection.receive(wire[pos : pos + size])
        heard += fresh
        _answer(connection, fresh)
        connection.validate()
        if next(states, False):
            connection.pause()
        else:
            heard += connection.resume()
        connection.validate()
        pos += size
    heard += connection.eof()
    assert sum(isinstance(event, ConnectionClosed) for event in heard) == 1
    assert isinstance(heard[-1], ConnectionClosed)
    _ends_once(heard)


def _ends_once(events: list[Event]) -> None:
    """Nothing follows the end of a message or the reset of a stream, except that a whole message may be reset."""
    ended: set[int] = set()
    reset: set[int] = set()
    for event in events:
        if isinstance(event, StreamReset):
            assert event.stream_id not in reset
            reset.add(event.stream_id)
        elif isinstance(event, RequestReceived | ResponseReceived | DataReceived | TrailersReceived):
            assert event.stream_id not in reset
            assert event.stream_id not in ended
            if event.ended:
                ended.add(event.stream_id)


def test_h2_and_we_agree_that_a_broken_block_ends_the_connection() -> None:
    oracle = Oracle(client=False)
    with pytest.raises(h2.exceptions.ProtocolError):
        oracle.receive(f.PREFACE + f.settings({}) + f.frame(f.HEADERS, f.END_HEADERS, 1, b"\x80"))
    connection = Http2Server()
    [event] = feed(connection, f.PREFACE + f.settings({}) + f.frame(f.HEADERS, f.END_HEADERS, 1, b"\x80"))
    assert isinstance(event, ConnectionClosed)
