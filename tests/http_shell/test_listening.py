"""What every listening port does alike, seen by plain sockets on the loopback and by timers on virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from berth.http.events import DataReceived, Event, RequestReceived, StreamReset
from berth.http.http1.client import Http1Client
from berth.http.http2 import frames
from berth.http.http2.client import Http2Client
from berth.http.limits import Http1Limits, Http2Limits
from berth.http_shell.link import Shared
from berth.http_shell.links import Links, ShellLimits
from berth.http_shell.listening import Listener, listen
from berth.http_shell.server import ServerLink
from berth.settings import SettingsError
from doubles.http_shell import connect

WAIT_S = 10.0
GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"


class Site:
    """Answers `/now` at once, `/later` when told to, `/large` with 8 MB; `/bug` is one."""

    def __init__(self) -> None:
        self.links: list[ServerLink] = []
        self.waiting: list[tuple[ServerLink, int]] = []
        self.arrived = asyncio.Event()
        self.resets: list[StreamReset] = []
        self.reset = asyncio.Event()
        self.received = 0

    def accept(self, link: ServerLink) -> Visit:
        self.links.append(link)
        return Visit(self, link)

    def on_request(self, link: ServerLink, event: RequestReceived) -> None:
        path = event.head.path
        if path == b"/bug":
            raise ZeroDivisionError
        if path == b"/later":
            self.waiting.append((link, event.stream_id))
            self.arrived.set()
        else:
            self.answer(link, event.stream_id, bytes(8 << 20) if path == b"/large" else b"now")

    def answer(self, link: ServerLink, stream_id: int, body: bytes = b"late") -> None:
        link.http.send_head(stream_id, link.http.encode_response(200), length=len(body))
        link.http.send_data(stream_id, body, True)

    def release(self) -> None:
        for link, stream_id in self.waiting:
            self.answer(link, stream_id)
            link.mark()
        self.waiting.clear()


class Visit:
    """One connection of the site's."""

    def __init__(self, site: Site, link: ServerLink) -> None:
        self._site = site
        self._link = link

    def on_events(self, events: list[Event]) -> None:
        site, link = self._site, self._link
        for event in events:
            if isinstance(event, RequestReceived):
                site.on_request(link, event)
            elif isinstance(event, DataReceived):
                site.received += len(event.data)
                link.http.consume(event.stream_id, len(event.data))
            elif isinstance(event, StreamReset):
                site.resets.append(event)
                site.reset.set()

    def on_lost(self) -> None:
        self._site.links.remove(self._link)


class Serving:
    """A port and its connections."""

    def __init__(self, listener: Listener, links: Links) -> None:
        self.port = listener.port
        self.links = links
        self._listener = listener

    async def drain(self, grace_s: float, idle_s: float = 0.0) -> None:
        self._listener.close()
        await self.links.drain(grace_s, idle_s)
        self.links.close()
        await self.links.closed()


@contextlib.asynccontextmanager
async def serving(site: Site, **limits: Any) -> AsyncIterator[Serving]:
    links = Links(Shared(asyncio.get_running_loop()), ShellLimits(**limits), Http1Limits(), Http2Limits())
    async with listen("127.0.0.1:0", links, site.accept) as listener:
        links.start()
        served = Serving(listener, links)
        try:
            yield served
        finally:
            await served.drain(0.0)


@contextlib.asynccontextmanager
async def client(served: Serving) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        async with asyncio.timeout(WAIT_S):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.partition(b"content-length: ")[2].split(b"\r")[0])
    return head, await reader.readexactly(size)


async def test_requests_sent_ahead_are_answered_in_order_also_when_one_takes_time() -> None:
    site = Site()
    async with serving(site) as listener, client(listener) as (reader, writer):
        writer.write(GET % b"now" + GET % b"later" + GET % b"now")
        assert (await read_answer(reader))[1] == b"now"
        await site.arrived.wait()
        site.release()
        assert [(await read_answer(reader))[1] for _ in range(2)] == [b"late", b"now"]


async def test_http2_is_told_from_http1_however_its_first_bytes_are_cut() -> None:
    site = Site()
    async with serving(site) as listener, client(listener) as (reader, writer):
        for byte in frames.PREFACE:
            writer.write(bytes((byte,)))
            await writer.drain()
        writer.write(frames.settings({}))
        assert (await reader.readexactly(9))[3] == frames.SETTINGS
        assert site.links[0].is_http2


@pytest.mark.parametrize("make", [Http1Client, Http2Client])
async def test_draining_finishes_what_is_under_way_and_refuses_connections(make: Callable[[], Any]) -> None:
    site = Site()
    async with serving(site) as listener, asyncio.timeout(WAIT_S):
        caller = await connect(listener.port, make)
        answer = caller.call(b"GET", b"/later", (), b"")
        await site.arrived.wait()
        draining = asyncio.create_task(listener.drain(WAIT_S))
        await asyncio.wait([draining], timeout=0.01)
        assert not draining.done()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", listener.port)
        site.release()
        assert (await answer).body == b"late"
        await draining
        await caller.lost
        assert len(listener.links) == 0


@pytest.mark.looptime
async def test_who_was_accepted_just_before_a_drain_gets_an_answer_and_nobody_after_it() -> None:
    site = Site()
    async with serving(site) as listener, linked(listener, site) as (busy, _):
        hear(busy, GET % b"later")
        draining = asyncio.create_task(listener.drain(WAIT_S, idle_s=1.0))
        await asyncio.sleep(0)
        async with linked(listener, site) as (link, wires):
            hear(link, GET % b"now")
            await asyncio.sleep(0.5)
            assert b"connection: close" in wires.written
            assert wires.ended.is_set()
        await asyncio.sleep(1.0)
        async with linked(listener, site) as (_, wires):
            assert wires.ended.is_set()
        assert listener.links.refused == 1
        site.release()
        await draining


async def test_an_idle_http1_client_gets_one_more_answer_while_draining() -> None:
    site = Site()
    async with serving(site) as listener, client(listener) as (reader, writer):
        writer.write(GET % b"now")
        await read_answer(reader)
        draining = asyncio.create_task(listener.drain(WAIT_S, idle_s=WAIT_S))
        await asyncio.wait([draining], timeout=0.01)
        writer.write(GET % b"now")
        head, body = await read_answer(reader)
        assert body == b"now"
        assert b"connection: close\r\n" in head
        assert await reader.read() == b""
        writer.close()
        await draining


async def test_what_does_not_end_in_time_is_cut_off_and_reported() -> None:
    site = Site()
    async with serving(site) as listener, client(listener) as (reader, writer):
        writer.write(GET % b"later")
        await site.arrived.wait()
        await listener.drain(0.01)
        assert len(site.resets) == 1
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        # An answer that comes too late is no fault.
        site.release()


async def test_connections_beyond_the_limit_are_closed() -> None:
    async with (
        serving(Site(), connections=1) as listener,
        client(listener) as (reader, writer),
        client(listener) as (second, _),
    ):
        with contextlib.suppress(ConnectionError):
            assert await second.read() == b""
        assert listener.links.refused == 1
        writer.write(GET % b"now")
        assert (await read_answer(reader))[1] == b"now"


async def test_a_client_that_hangs_up_is_reported() -> None:
    site = Site()
    async with serving(site) as listener:
        async with client(listener) as (_, writer):
            writer.write(GET % b"later")
            await site.arrived.wait()
        async with asyncio.timeout(WAIT_S):
            await site.reset.wait()
        assert site.resets[0].remote


async def test_a_client_that_does_not_read_costs_little_and_gets_everything_in_the_end() -> None:
    site = Site()
    async with serving(site) as listener, client(listener) as (reader, writer), client(listener) as (other, second):
        for _ in range(4):
            writer.write(GET % b"large")
        second.write(GET % b"now")
        assert (await read_answer(other))[1] == b"now"
        # The second request is not even looked at before the first answer has gone.
        sizes = [len((await read_answer(reader))[1]) for _ in range(4)]
        assert sizes == [8 << 20] * 4


async def test_a_refused_body_is_read_on_so_that_the_answer_is_not_lost() -> None:
    site = Site()
    async with serving(site) as listener, client(listener) as (reader, writer):
        writer.write(b"POST /now HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n\r\n" + bytes(8_000_000))
        assert (await read_answer(reader))[1] == b"now"


async def test_a_bug_in_the_handler_costs_its_connection_only() -> None:
    site = Site()
    async with serving(site) as listener, client(listener) as (reader, writer), client(listener) as (other, second):
        second.write(GET % b"later")
        await site.arrived.wait()
        writer.write(GET % b"bug")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        site.release()
        assert (await read_answer(other))[1] == b"late"


async def test_an_address_that_cannot_be_had() -> None:
    async with serving(Site()) as listener:
        with pytest.raises(SettingsError, match="cannot listen on"):
            async with listen(f"127.0.0.1:{listener.port}", listener.links, Site().accept):
                raise AssertionError("two listen on one port")


class Wires(asyncio.Transport):
    """A transport without a socket, for virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = asyncio.Event()
        self.link: ServerLink | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.ended.is_set()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def abort(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            assert self.link is not None
            self.link.connection_lost(None)

    close = abort


def hear(link: ServerLink, data: bytes) -> None:
    """What the transport does with bytes that have come."""
    buffer = link.get_buffer(-1)
    buffer[: len(data)] = data
    link.buffer_updated(len(data))


@contextlib.asynccontextmanager
async def linked(served: Serving, site: Site) -> AsyncIterator[tuple[ServerLink, Wires]]:
    wires = Wires()
    link = wires.link = ServerLink(served.links, site.accept)
    link.connection_made(wires)
    yield link, wires
    wires.abort()


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("said", "after"),
    [
        pytest.param(b"", 5.0, id="nothing"),
        pytest.param(b"GET / HT", 5.0, id="half a head"),
        pytest.param(frames.PREFACE[:9], 5.0, id="half a preface"),
        pytest.param(GET % b"now", 60.0, id="one request, then nothing"),
        pytest.param(frames.PREFACE + frames.settings({}), 50.0, id="HTTP/2 that answers no PING"),
    ],
)
async def test_quiet_connections_are_closed_in_time(said: bytes, after: float) -> None:
    async with (
        serving(Site(), head_timeout_s=5.0, idle_timeout_s=60.0, linger_s=2.0, keepalive_s=30.0) as listener,
        linked(listener, Site()) as (link, wires),
    ):
        if said:
            hear(link, said)
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.timeout(200.0):
            await wires.ended.wait()
        assert after <= loop.time() - started <= after + 3.0


@pytest.mark.looptime
async def test_a_head_that_drips_is_not_waited_for_and_a_request_under_way_is() -> None:
    site = Site()
    async with (
        serving(site, head_timeout_s=5.0, idle_timeout_s=60.0) as listener,
        linked(listener, site) as (link, wires),
        linked(listener, site) as (busy, other),
    ):
        hear(busy, GET % b"later")
        for byte in b"GET /now HTTP/1.1\r\nHo":
            if wires.ended.is_set():
                break
            hear(link, bytes((byte,)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wires.ended.wait(), 1.0)
        assert wires.ended.is_set()
        assert listener.links.timed_out == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.ended.wait(), 300.0)
        site.release()
        await asyncio.wait_for(other.ended.wait(), 70.0)
        assert b"late" in other.written


@pytest.mark.looptime
async def test_half_a_request_is_looked_at_when_more_of_it_comes() -> None:
    site = Site()
    async with serving(site) as listener, linked(listener, site) as (link, wires):
        hear(link, GET % b"now" + b"GET /now HTTP/1.1\r\nHo")
        turns = 0
        while link.marked:
            await asyncio.sleep(0)
            turns += 1
        assert turns < 5
        hear(link, b"st: h\r\n\r\n")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert wires.written.count(b"200 OK") == 2
