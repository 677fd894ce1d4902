"""`python -m bench.upstream`: replicas that cost next to nothing, to put behind the proxies that are measured.

Each listens for HTTP/1.1 and for gRPC (HTTP/2 without TLS), believes whatever credential comes, and answers a small
request with 1 KiB and a large one with 600 KB: bytes made beforehand, no header decoded. It is driven by lines of JSON
on stdin and ends with it: `{"service": {…}}` sets how long answers take, `{}` asks for the counters; each is answered
by a line on stdout. The first line says where the replicas listen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from bench import framing
from bench.payload import LARGE_FROM, grpc_reply, http_reply
from bench.service import Replica, Service

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_WINDOW = 65535
_REPLENISH = 2**20


class Http1(asyncio.Protocol):
    """One connection: a request at a time, its body counted and dropped."""

    def __init__(self, replica: Replica, small: bytes, large: bytes) -> None:
        self._replica = replica
        self._replies = (small, large)
        self._head = b""
        self._size = 0
        self._missing = 0
        self._withdraw: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._withdraw is not None:
            self._withdraw()

    def data_received(self, data: bytes) -> None:
        while data:
            if not self._missing:
                head = self._head + data if self._head else data
                end = head.find(b"\r\n\r\n")
                if end < 0:
                    self._head = head
                    return
                self._head = b""
                found = _LENGTH.search(head, 0, end)
                if found is None and not head.startswith(b"GET"):
                    self._transport.write(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\n\r\n")
                    self._transport.close()
                    return
                self._size = self._missing = int(found[1]) if found else 0
                data = head[end + 4 :]
            taken = min(self._missing, len(data))
            self._missing -= taken
            data = data[taken:]
            if not self._missing:
                self._withdraw = self._replica.begin(self._reply)

    def _reply(self) -> None:
        self._withdraw = None
        self._transport.write(self._replies[self._size >= LARGE_FROM])


class Grpc(asyncio.Protocol):
    """One connection: every stream gets the same answer once its request has ended."""

    def __init__(self, replica: Replica, head: bytes, small: bytes, large: bytes, trailers: bytes) -> None:
        self._replica = replica
        self._head = head
        self._bodies = (small, large)
        self._trailers = trailers
        self._reader = framing.Reader()
        self._opening = b""
        self._opened = False
        self._sizes: dict[int, int] = {}
        self._withdraw: dict[int, Callable[[], None]] = {}
        self._out: list[bytes] = []
        self._reading = False
        self._unacknowledged = 0
        self._window = _WINDOW
        self._first_window = _WINDOW
        # Windows of streams that are open, and where in the body those stand that wait for one.
        self._windows: dict[int, int] = {}
        self._sending: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(framing.opening())

    def connection_lost(self, exc: Exception | None) -> None:
        for withdraw in self._withdraw.values():
            withdraw()

    def data_received(self, data: bytes) -> None:
        if not self._opened:
            self._opening += data
            if len(self._opening) < len(framing.PREFACE):
                return
            data, self._opening, self._opened = self._opening[len(framing.PREFACE) :], b"", True
        self._reading = True
        for kind, flags, stream, payload in self._reader.frames(data):
            if kind == framing.DATA:
                self._unacknowledged += len(payload)
                self._sizes[stream] = self._sizes.get(stream, 0) + len(payload)
                if flags & framing.END_STREAM:
                    self._begin(stream)
            elif kind == framing.HEADERS:
                self._windows[stream] = self._first_window
                self._sizes[stream] = 0
                if flags & framing.END_STREAM:
                    self._begin(stream)
            else:
                self._control(kind, flags, stream, payload)
        self._reading = False
        if self._unacknowledged > _REPLENISH:
            self._out.append(framing.window_update(0, self._unacknowledged))
            self._unacknowledged = 0
        self._flush()

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == framing.WINDOW_UPDATE:
            by = int.from_bytes(payload, "big") & 0x7FFFFFFF
            if stream == 0:
                self._window += by
            elif stream in self._windows:
                self._windows[stream] += by
            self._send_waiting()
        elif kind == framing.SETTINGS and not flags & framing.ACK:
            self._settle(payload)
        elif kind == framing.PING and not flags & framing.ACK:
            self._out.append(framing.frame(framing.PING, framing.ACK, 0, payload))
        elif kind == framing.RST_STREAM:
            self._forget(stream)
            withdraw = self._withdraw.pop(stream, None)
            if withdraw is not None:
                withdraw()

    def _settle(self, payload: bytes) -> None:
        for setting, value in framing.read_settings(payload):
            if setting == framing.INITIAL_WINDOW_SIZE:
                grown, self._first_window = value - self._first_window, value
                self._windows = {stream: window + grown for stream, window in self._windows.items()}
        self._out.append(framing.frame(framing.SETTINGS, framing.ACK, 0))
        self._send_waiting()

    def _forget(self, stream: int) -> None:
        for state in (self._windows, self._sizes, self._sending):
            state.pop(stream, None)

    def _begin(self, stream: int) -> None:
        withdraw = self._replica.begin(partial(self._reply, stream))
        if withdraw is not None:
            self._withdraw[stream] = withdraw

    def _reply(self, stream: int) -> None:
        self._withdraw.pop(stream, None)
        self._out.append(framing.frame(framing.HEADERS, framing.END_HEADERS, stream, self._head))
        self._send_body(stream, 0)
        if not self._reading:
            self._flush()

    def _send_body(self, stream: int, at: int) -> None:
        body = self._bodies[self._sizes[stream] >= LARGE_FROM]
        window = self._windows[stream]
        while at < len(body):
            size = min(len(body) - at, framing.MOST_DATA, window, self._window)
            if size <= 0:
                self._windows[stream] = window
                self._sending[stream] = at
                return
            self._out.append(framing.frame(framing.DATA, 0, stream, body[at : at + size]))
            at += size
            window -= size
            self._window -= size
        self._out.append(
            framing.frame(framing.HEADERS, framing.END_HEADERS | framing.END_STREAM, stream, self._trailers)
        )
        self._forget(stream)

    def _send_waiting(self) -> None:
        for stream, at in list(self._sending.items()):
            self._send_body(stream, at)

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", help="names of the replicas")
    parser.add_argument("--slots", type=int, default=4, help="requests that a replica answers side by side")
    given = parser.parse_args()
    loop = asyncio.get_running_loop()
    replicas: dict[str, Replica] = {}
    where: dict[str, dict[str, str]] = {}
    for number, name in enumerate(given.names):
        replica = replicas[name] = Replica(Service(), given.slots, Random(number))
        http = await loop.create_server(
            partial(Http1, replica, http_reply(name, large=False), http_reply(name, large=True)), "127.0.0.1", 0
        )
        grpc = await loop.create_server(partial(Grpc, replica, *grpc_reply(name)), "127.0.0.1", 0)
        ports = [server.sockets[0].getsockname()[1] for server in (http, grpc)]
        where[name] = {"http": f"127.0.0.1:{ports[0]}", "grpc": f"127.0.0.1:{ports[1]}"}
    _say(where)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async for line in commands:
        order: dict[str, Any] = json.loads(line)
        if "service" in order:
            for replica in replicas.values():
                replica.service = Service(**order["service"])
        _say({name: [r.arrived, r.answered, r.withdrawn] for name, r in replicas.items()})


def _say(document: Any) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
