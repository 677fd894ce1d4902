"""Limits of a process: bytes of answers that are held back, and connections that nobody uses."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from berth.http.events import Event, GoingAway, ResponseReceived
from berth.http.http1.client import Http1Client
from berth.http.http2.client import Http2Client
from berth.http_shell.server import ServerLink
from berth.model import ReplicaAddress
from doubles.bare_router import make_clients
from router.path.inbound.clients import Clients

BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[1,2]}]}'
ALICE = {"authorization": "Bearer alice-key"}
PART, REST = bytes(100_000), bytes(50_000)


async def buffered(rig: Any) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{rig.ports.admin}/metrics") as reply:
        text = await reply.text()
    return float(text.split("\nberth_router_buffered_bytes ")[1].split()[0])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """`condition` asks the router, so it takes a while each time."""
    async with asyncio.timeout(20):
        while not await condition():
            pass


@pytest.mark.parametrize("end", ["it comes", "it breaks off", "the client leaves"])
async def test_an_answer_that_is_held_back_counts_as_memory(routing: Any, table_of: Any, end: str) -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(BODY)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 150000\r\n\r\n" + PART)
            await go.wait()
            if end == "it comes":
                writer.write(REST)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    where = ReplicaAddress("w1", "job", "local", "1", "", "", f"127.0.0.1:{port}")

    async def ask(rig: Any) -> tuple[int, int]:
        url = f"http://{rig.rest}/v2/models/digits/infer"
        async with aiohttp.ClientSession() as session, session.post(url, data=BODY, headers=ALICE) as reply:
            return reply.status, len(await reply.read())

    async with server, routing(table_of({"digits": {1: [where]}}), patience_s=0.0) as rig:
        asking = asyncio.create_task(ask(rig))

        async def held() -> bool:
            return await buffered(rig) == len(BODY) + len(PART)

        async def released() -> bool:
            return await buffered(rig) == 0

        await until(held)
        if end == "the client leaves":
            asking.cancel()
            await asyncio.wait([asking])
        else:
            go.set()
            assert await asking == (200, 150_000) if end == "it comes" else (await asking)[0] == 503
        await until(released)
        go.set()


class Transport(asyncio.Transport):
    """Where a connection of the router's writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed_at: float | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There are none here."""

    def is_closing(self) -> bool:
        return self.closed_at is not None

    def close(self) -> None:
        if self.closed_at is None:
            self.closed_at = asyncio.get_running_loop().time()

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        """Nothing comes unasked."""

    def resume_reading(self) -> None:
        """As above."""


class Client:
    """A client's end, without a socket."""

    def __init__(self, clients: Clients, http: Http1Client | Http2Client) -> None:
        self.transport = Transport()
        self._link = ServerLink(clients.links, clients.accept)
        self._link.connection_made(self.transport)
        self._http = http
        self._heard = 0

    async def ask(self) -> list[Event]:
        """Is the router alive? What comes back."""
        if isinstance(self._http, Http1Client):
            block = self._http.encode_request(b"GET", b"router", b"/v2/health/live")
        else:
            block = self._http.encode_request(b"GET", b"http", b"router", b"/v2/health/live")
        self._http.open(block, True)
        self.send(self._http.output())
        await asyncio.sleep(0.1)
        return self.hear()

    def send(self, data: bytes) -> None:
        buffer = self._link.get_buffer(-1)
        buffer[: len(data)] = data
        self._link.buffer_updated(len(data))

    def hear(self) -> list[Event]:
        news, self._heard = self.transport.written[self._heard :], len(self.transport.written)
        return list(self._http.receive(news)) if news else []


@pytest.mark.looptime
async def test_an_idle_connection_is_closed_over_http1() -> None:
    clients = make_clients()
    clients.start()
    loop = asyncio.get_running_loop()
    idle, used = Client(clients, Http1Client()), Client(clients, Http1Client())
    for client in (idle, used):
        [answer, *_] = await client.ask()
        assert isinstance(answer, ResponseReceived)
        assert answer.head.status == 200
    began = loop.time()
    # A request now and then keeps a connection.
    while loop.time() < began + 300.0:
        await asyncio.sleep(60.0)
        assert isinstance((await used.ask())[0], ResponseReceived)
    assert used.transport.closed_at is None
    assert idle.transport.closed_at is not None
    assert 90.0 <= idle.transport.closed_at - began <= 93.0
    clients.close()


@pytest.mark.looptime
async def test_an_idle_connection_is_told_to_go_over_http2() -> None:
    clients = make_clients()
    clients.start()
    client = Client(clients, Http2Client())
    assert any(isinstance(event, ResponseReceived) for event in await client.ask())
    await asyncio.sleep(88.0)
    assert not any(isinstance(event, GoingAway) for event in client.hear())
    await asyncio.sleep(5.0)
    assert any(isinstance(event, GoingAway) for event in client.hear())
    clients.close()


@pytest.mark.looptime
async def test_a_connection_that_never_says_anything_is_closed_sooner() -> None:
    clients = make_clients()
    clients.start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    client = Client(clients, Http1Client())
    await asyncio.sleep(20.0)
    assert client.transport.closed_at is not None
    assert 10.0 <= client.transport.closed_at - began <= 13.0
    clients.close()
