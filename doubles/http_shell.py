"""A small asyncio shell around the sans-IO connections, to meet real peers: an echo server and a plain client.

It is as simple as a shell can be and still right: it detects the protocol, keeps back-pressure in both directions and
closes in order. The router's and the worker's shells do more.
"""

from __future__ import annotations

import abc
import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from berth.http.events import (
    BodyTooLarge,
    DataReceived,
    DataSent,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http.head import Fields, RequestHead, ResponseHead
from berth.http.http1.client import Http1Client
from berth.http.http1.server import Http1Server
from berth.http.http2.client import Http2Client
from berth.http.http2.frames import speaks_http2
from berth.http.http2.server import Http2Server
from berth.http.limits import Http2Limits

Server = Http1Server | Http2Server
Client = Http1Client | Http2Client


class Pipe(asyncio.Protocol, abc.ABC):
    """Moves bytes between a transport and a connection; what the events mean is for `on_event`."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.connection: Server | Client | None = None
        self._reading = True
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.flush()

    def data_received(self, data: bytes) -> None:
        assert self.connection is not None
        events = self.connection.receive(data)
        while events:
            for event in events:
                self.on_event(event)
            events = self.connection.receive(b"") if self.connection.backlog else []
        self.flush()

    def flush(self) -> None:
        if self.connection is None or self.transport.is_closing():
            return
        self.connection.validate()
        data = self.connection.output()
        if data:
            self.transport.write(data)
        if self.connection.finished:
            self.transport.close()
        elif self.connection.wants_data != self._reading:
            self._reading = self.connection.wants_data
            (self.transport.resume_reading if self._reading else self.transport.pause_reading)()

    def pause_writing(self) -> None:
        if self.connection is not None:
            self.connection.pause()

    def resume_writing(self) -> None:
        if self.connection is not None:
            for event in self.connection.resume():
                self.on_event(event)
            self.flush()

    def eof_received(self) -> None:
        if self.connection is not None:
            for event in self.connection.eof():
                self.on_event(event)
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof_received()
        if not self.lost.done():
            self.lost.set_result(None)

    @abc.abstractmethod
    def on_event(self, event: Event) -> None: ...


class EchoServer(Pipe):
    """Sends every body back as it comes, or `replies[path]`; for gRPC as well, with the trailers that it needs."""

    def __init__(self, replies: Mapping[bytes, bytes], limits: Http2Limits | None, seen: list[Event]) -> None:
        super().__init__()
        self._replies = replies
        self._limits = limits
        self._seen = seen
        self._first = b""
        self._heads: dict[int, RequestHead] = {}

    def data_received(self, data: bytes) -> None:
        if self.connection is None:
            self._first += data
            chosen = speaks_http2(self._first)
            if chosen is None:
                return
            self.connection = Http2Server(self._limits) if chosen else Http1Server()
            data, self._first = self._first, b""
        super().data_received(data)

    def on_event(self, event: Event) -> None:
        connection = self.connection
        assert isinstance(connection, Http1Server | Http2Server)
        if not isinstance(event, DataReceived | DataSent):
            self._seen.append(event)
        if isinstance(event, RequestReceived):
            self._begin(connection, event)
        elif isinstance(event, DataReceived):
            self._echo(connection, event)
        elif isinstance(event, DataSent):
            if self._heads[event.stream_id].path not in self._replies:
                connection.consume(event.stream_id, event.size)
        elif isinstance(event, TrailersReceived):
            self._finish(connection, event.stream_id)
        elif isinstance(event, BodyTooLarge):
            connection.reset(event.stream_id)

    def _begin(self, connection: Server, event: RequestReceived) -> None:
        self._heads[event.stream_id] = event.head
        if event.head.expects_continue:
            connection.send_informational(event.stream_id, connection.encode_response(100))
        kind = event.head.get(b"content-type") or b"application/octet-stream"
        fixed = self._replies.get(event.head.path)
        length = event.head.content_length if fixed is None else len(fixed)
        fields: Fields = ((b"content-type", kind), (b"x-path", event.head.path))
        connection.send_head(event.stream_id, connection.encode_response(200, fields), length=length)
        if fixed is not None:
            connection.send_data(event.stream_id, fixed)
        if event.ended:
            self._finish(connection, event.stream_id)

    def _echo(self, connection: Server, event: DataReceived) -> None:
        size = len(event.data)
        if self._heads[event.stream_id].path in self._replies:
            connection.consume(event.stream_id, size)
        else:
            connection.consume(event.stream_id, connection.send_data(event.stream_id, event.data))
        if event.ended:
            self._finish(connection, event.stream_id)

    def _finish(self, connection: Server, stream_id: int) -> None:
        if (self._heads[stream_id].get(b"content-type") or b"").startswith(b"application/grpc"):
            connection.send_trailers(stream_id, connection.encode_fields(((b"grpc-status", b"0"),)))
        else:
            connection.send_data(stream_id, b"", True)


@asynccontextmanager
async def echoing(
    replies: Mapping[bytes, bytes] | None = None,
    limits: Http2Limits | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[int, list[Event]]]:
    """An echo server: its port on the loopback, and what it hears, body apart. Ends with all its connections."""
    seen: list[Event] = []
    pipes: list[EchoServer] = []

    def accept() -> EchoServer:
        pipes.append(EchoServer(replies or {}, limits, seen))
        return pipes[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()
        for pipe in pipes:
            pipe.transport.abort()
        await asyncio.gather(*(pipe.lost for pipe in pipes))


class Caller(Pipe):
    """A client whose exchanges are futures."""

    def __init__(self, connection: Client) -> None:
        super().__init__()
        self.connection = connection
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._parts: dict[int, tuple[ResponseHead, list[bytes]]] = {}

    def call(self, method: bytes, path: bytes, fields: Fields, body: bytes) -> asyncio.Future[Answer]:
        connection = self.connection
        assert isinstance(connection, Http1Client | Http2Client)
        block: bytes
        if isinstance(connection, Http1Client):
            block = connection.encode_request(method, b"localhost", path, fields)
        else:
            block = connection.encode_request(method, b"http", b"localhost", path, fields)
        stream_id = connection.open(block, not body, length=len(body) or None)
        if body:
            connection.send_data(stream_id, body, True)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[stream_id] = answer
        self.flush()
        return answer

    def on_event(self, event: Event) -> None:
        assert self.connection is not None
        if isinstance(event, ResponseReceived):
            self._parts[event.stream_id] = event.head, []
            if event.ended:
                self._conclude(event.stream_id, ())
        elif isinstance(event, DataReceived):
            self._parts[event.stream_id][1].append(event.data)
            self.connection.consume(event.stream_id, len(event.data))
            if event.ended:
                self._conclude(event.stream_id, ())
        elif isinstance(event, TrailersReceived):
            self._conclude(event.stream_id, event.fields)
        elif isinstance(event, StreamReset) and not self._answers[event.stream_id].done():
            self._answers[event.stream_id].set_exception(ConnectionError(event.detail))

    def _conclude(self, stream_id: int, trailers: Fields) -> None:
        head, parts = self._parts.pop(stream_id)
        self._answers[stream_id].set_result(Answer(head, b"".join(parts), trailers))


class Answer:
    def __init__(self, head: ResponseHead, body: bytes, trailers: Fields) -> None:
        self.head = head
        self.body = body
        self.trailers = trailers


async def connect(port: int, make: Callable[[], Client]) -> Caller:
    """A client connected to a port of the loopback."""
    loop = asyncio.get_running_loop()
    _, caller = await loop.create_connection(lambda: Caller(make()), "127.0.0.1", port)
    return caller
