"""Both ends of HTTP/2 connections, whose events a test waits for and which say what the test says: a gRPC client, and a
replica that accepts a router's connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from berth.http.events import DataReceived, Event, RequestReceived
from berth.http.http2.client import Http2Client
from berth.http.http2.server import Http2Server
from berth.http.limits import Http2Limits
from doubles.http_shell import Pipe

GRPC = ((b"te", b"trailers"), (b"content-type", b"application/grpc"))


class Peer(Pipe):
    """A connection whose events a test waits for, and which says what the test says. Body is consumed as it comes."""

    def __init__(self, connection: Http2Client | Http2Server) -> None:
        super().__init__()
        self.connection = connection
        self.http: Any = connection
        self.events: list[Event] = []
        self.takes = True
        self._news = asyncio.Event()

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, DataReceived) and self.takes:
            self.http.consume(event.stream_id, len(event.data))
        self._news.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def body(self, stream_id: int) -> bytes:
        return b"".join(one.data for one in self.events if isinstance(one, DataReceived) and one.stream_id == stream_id)

    def ask(self, path: bytes, body: bytes, fields: Iterable[tuple[bytes, bytes]] = (), *, end: bool = True) -> int:
        """Head and body leave in one write."""
        block = self.http.encode_request(b"POST", b"http", b"h", path, (*GRPC, *fields))
        stream_id: int = self.http.open(block)
        self.http.send_data(stream_id, body, end)
        self.flush()
        return stream_id

    def answer(self, stream_id: int, body: bytes = b"", fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The head, unless it is the end as well (`fields`), and some body."""
        end = tuple(fields)
        head = self.http.encode_response(200, ((b"content-type", b"application/grpc"), *end))
        self.http.send_head(stream_id, head, bool(end))
        if body:
            self.http.send_data(stream_id, body)
        self.flush()


class RawReplica:
    """Accepts connections of a router; `peers` in the order in which they came."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self._came = asyncio.Event()

    async def __aenter__(self) -> RawReplica:
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._server.close()
        for peer in self.peers:
            peer.transport.abort()
        await asyncio.gather(*(peer.lost for peer in self.peers))

    def _accept(self) -> Peer:
        self.peers.append(Peer(Http2Server()))
        self._came.set()
        return self.peers[-1]

    async def asked(self, count: int = 1) -> tuple[Peer, int]:
        """The newest request that has come, when there have been `count`."""
        async with asyncio.timeout(20):
            await self._came.wait()
        [peer] = self.peers

        def requests() -> list[int]:
            return [one.stream_id for one in peer.events if isinstance(one, RequestReceived)]

        await peer.until(lambda: len(requests()) >= count)
        return peer, requests()[-1]


async def connect(port: int, limits: Http2Limits | None = None) -> Peer:
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(lambda: Peer(Http2Client(limits)), "127.0.0.1", port)
    return peer
