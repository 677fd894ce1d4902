"""How many requests per CPU-second the framing alone can forward, in memory: `python -m bench.http_forward`.

One process plays the proxy: a client's bytes go into a server connection, its events become calls of a client
connection, the worker's bytes come back the same way. The bytes of client and worker are made beforehand, so the
figure is what framing costs; sockets, event loop and routing come on top. It bounds what a router can reach.
"""

from __future__ import annotations

import argparse
import struct
import time
from collections.abc import Callable
from functools import partial

from hpack import Encoder

from berth.http.events import DataReceived, Event, RequestReceived, ResponseReceived, TrailersReceived
from berth.http.http1.client import Http1Client
from berth.http.http1.server import Http1Server
from berth.http.http2 import frames
from berth.http.http2.client import Http2Client
from berth.http.http2.server import Http2Server
from berth.http.limits import Http2Limits

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_ID = b"x-request-id"


class _Grpc:
    """One client connection and one worker connection, with the proxy between them."""

    def __init__(self, size: int, *, unique: bool) -> None:
        self._message = b"\0" + struct.pack(">I", size) + bytes(size)
        self._unique = unique
        # Both scripts send a whole message without waiting for a window.
        limits = Http2Limits(stream_window=2**20, connection_window=2**22)
        settings = frames.settings({frames.INITIAL_WINDOW_SIZE: 2**30}) + frames.frame(frames.SETTINGS, frames.ACK, 0)
        self.server = Http2Server(limits)
        self.upstream = Http2Client(limits)
        self._encoder = Encoder()
        self._request_fields = [
            (":scheme", "http"), (":method", "POST"), (":authority", "localhost:8001"), (":path", _METHOD),
            ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "grpc-python/1.85.1"),
            ("grpc-accept-encoding", "identity, deflate, gzip"), ("authorization", "Bearer " + "k" * 43),
        ]  # fmt: skip
        self._encoder.encode(self._request_fields)
        first = Encoder()
        # A client that sends large messages announces large windows, as grpcio does.
        preface = (
            frames.PREFACE
            + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**30})
            + frames.frame(frames.SETTINGS, frames.ACK, 0)
        )
        warm = frames.headers(1, first.encode(self._request_fields), end_stream=True, max_frame=16384)
        self.server.receive(preface + frames.window_update(0, 2**30) + warm)
        self.server.reset(1)
        self.upstream.receive(settings)
        self.upstream.receive(frames.window_update(0, 2**30))
        self._block = first.encode(self._request_fields)
        self._reply_head = Http2Server.encode_response(200, ((b"content-type", b"application/grpc"),))
        self._reply_trailers = Http2Server.encode_fields(((b"grpc-status", b"0"),))
        self._next = 3
        self._below: dict[int, int] = {}
        self.answered = 0
        self.server.output()
        self.upstream.output()

    def _data(self, stream_id: int, *, end: bool) -> bytes:
        pieces = []
        message = self._message
        for start in range(0, len(message), 16384):
            part = message[start : start + 16384]
            last = end and start + 16384 >= len(message)
            pieces.append(frames.frame(frames.DATA, frames.END_STREAM if last else 0, stream_id, part))
        return b"".join(pieces)

    def request(self) -> bytes:
        stream_id, self._next = self._next, self._next + 2
        block = self._block
        if self._unique:
            block += b"\0\x0c" + _ID + b"\x20" + b"%032x" % stream_id
        return (
            frames.headers(stream_id, block, end_stream=False, max_frame=16384)
            + self._data(stream_id, end=True)
            + frames.window_update(0, len(self._message))
        )

    def reply(self, stream_id: int) -> bytes:
        head = self._reply_head
        if self._unique:
            head += b"\0\x0c" + _ID + b"\x20" + b"%032x" % stream_id
        return (
            frames.headers(stream_id, head, end_stream=False, max_frame=16384)
            + self._data(stream_id, end=False)
            + frames.headers(stream_id, self._reply_trailers, end_stream=True, max_frame=16384)
            + frames.window_update(0, len(self._message))
        )

    def forward(self, data: bytes) -> bytes:
        """The client's bytes, to the worker."""
        above, below, ids = self.server, self.upstream, self._below
        for event in above.receive(data):
            if isinstance(event, RequestReceived):
                stream_id, head, ended = event
                base = head.base
                block = base.derived
                if not isinstance(block, bytes):
                    block = base.derived = below.encode_request(
                        base.method, base.scheme, b"worker", base.path, base.fields
                    )
                if base is not head:
                    block += below.encode_fields(head.fields[len(base.fields) :])
                ids[stream_id] = below.open(block, ended)
            elif isinstance(event, DataReceived):
                stream_id, chunk, ended = event
                above.consume(stream_id, below.send_data(ids[stream_id], chunk, ended))
        above.output()
        return below.output()

    def back(self, data: bytes, stream_id: int) -> bytes:
        """The worker's bytes, to the client."""
        above, below = self.server, self.upstream
        for event in below.receive(data):
            if isinstance(event, DataReceived):
                below_id, chunk, ended = event
                below.consume(below_id, above.send_data(stream_id, chunk, ended))
            elif isinstance(event, ResponseReceived):
                head, base = event.head, event.head.base
                block = base.derived
                if not isinstance(block, bytes):
                    block = base.derived = above.encode_response(base.status, base.fields)
                if base is not head:
                    block += above.encode_fields(head.fields[len(base.fields) :])
                above.send_head(stream_id, block, event.ended)
            elif isinstance(event, TrailersReceived):
                above.send_trailers(stream_id, above.encode_fields(event.fields))
                self.answered += 1
        below.output()
        return above.output()

    def run(self, count: int) -> float:
        requests = [self.request() for _ in range(count)]
        first = self._next - 2 * count
        upstream_first = self.upstream._next  # noqa: SLF001 - the script of the worker needs to know
        replies = [self.reply(upstream_first + 2 * n) for n in range(count)]
        started = time.process_time()
        for n in range(count):
            self.forward(requests[n])
            self.back(replies[n], first + 2 * n)
        return time.process_time() - started


class _Http1:
    """The same over HTTP/1.1."""

    def __init__(self, size: int, *, unique: bool) -> None:
        self._body = bytes(size)
        self._unique = unique
        self.server = Http1Server()
        self.upstream = Http1Client()
        self.answered = 0

    def run(self, count: int) -> float:
        ids = [b"x-request-id: %032x\r\n" % n if self._unique else b"" for n in range(count)]
        requests = [
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost:8000\r\nAuthorization: Bearer " + b"k" * 43
            + b"\r\nContent-Type: application/json\r\nAccept: */*\r\nUser-Agent: bench\r\n" + line
            + b"Content-Length: %d\r\n\r\n" % len(self._body) + self._body
            for line in ids
        ]  # fmt: skip
        replies = [
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: worker\r\n" + line
            + b"Content-Length: %d\r\n\r\n" % len(self._body) + self._body
            for line in ids
        ]  # fmt: skip
        started = time.process_time()
        for n in range(count):
            self._forward(self.server.receive(requests[n]))
            self.upstream.output()
            self._back(self.upstream.receive(replies[n]))
            self.server.output()
        return time.process_time() - started

    def _forward(self, events: list[Event]) -> None:
        above, below = self.server, self.upstream
        for event in events:
            if isinstance(event, RequestReceived):
                self._above_id, head, ended = event
                block = head.derived
                if not isinstance(block, bytes):
                    block = head.derived = below.encode_request(head.method, b"worker", head.path, head.fields)
                self._below_id = below.open(block, ended, length=head.content_length)
            elif isinstance(event, DataReceived):
                above.consume(event.stream_id, below.send_data(self._below_id, event.data, event.ended))

    def _back(self, events: list[Event]) -> None:
        above, below = self.server, self.upstream
        for event in events:
            if isinstance(event, ResponseReceived):
                head = event.head
                block = head.derived
                if not isinstance(block, bytes):
                    block = head.derived = above.encode_response(head.status, head.fields)
                above.send_head(self._above_id, block, event.ended, length=head.content_length)
            elif isinstance(event, DataReceived):
                below.consume(event.stream_id, above.send_data(self._above_id, event.data, event.ended))
                self.answered += event.ended


def _measure(what: str, make: Callable[[], _Grpc | _Http1], count: int, rounds: int) -> None:
    best = 0.0
    for _ in range(rounds):
        proxy = make()
        best = max(best, count / proxy.run(count))
        if proxy.answered != count:
            raise SystemExit(f"{what}: {proxy.answered} of {count} requests were answered")
    print(f"{what:44s} {best:10,.0f} requests per CPU-second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    for name, kind in (("gRPC unary", _Grpc), ("HTTP/1.1", _Http1)):
        for size, part in ((1024, 1), (600_000, 100)):
            for unique in (False, True):
                what = f"{name}, {size} bytes{', a request id each' if unique else ''}"
                _measure(what, partial(kind, size, unique=unique), given.count // part, given.rounds)


if __name__ == "__main__":
    main()
