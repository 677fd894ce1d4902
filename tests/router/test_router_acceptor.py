"""Routers on one pair of ports, as several processes have it: real sockets, whole routers, in one process."""

import asyncio
import gc
import os
import resource
import socket
import time
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from berth.http_shell.attached import Attached
from berth.settings import SettingsError
from doubles.certificates import Authority
from router.core.turns import SILENT_AFTER
from router.listening.seats import Port, Seats
from router.listening.shared_ports import SharedPorts, open_shared
from router.path.inbound.client import ClientConnection
from router.settings import Inherited, RouterSettings

READY = b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n"


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def status(self) -> int:
        """What the router says when it is asked whether it is ready."""
        self.writer.write(READY)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
        await self._reader.readexactly(int(length.split(b":")[1]))
        return int(head.split()[1])

    async def gone(self) -> bool:
        return not await self._reader.read(1)


class House:
    """The ports and the seats. Routers come and go."""

    def __init__(self, shared: SharedPorts) -> None:
        self.shared = shared
        self.seats = Seats(shared.seats)
        self._clients: list[Client] = []

    def place(self, seat: int) -> dict[str, str]:
        """Settings of the router that sits there."""
        rest, grpc = (os.dup(listening.fileno()) for listening in (self.shared.rest, self.shared.grpc))
        return {"shared_ports": str(Inherited(rest, grpc, os.dup(self.shared.seats), seat)), "instance": f"r-{seat}"}

    async def connect(self, port: Port = Port.REST) -> Client:
        listening = self.shared.rest if port is Port.REST else self.shared.grpc
        client = Client(*await asyncio.open_connection(*listening.getsockname()))
        self._clients.append(client)
        return client

    async def connect_many(self, count: int, port: Port = Port.REST) -> list[Client]:
        """At once; returns when each of them has been answered."""
        clients = await asyncio.gather(*(self.connect(port) for _ in range(count)))
        assert set(await asyncio.gather(*(client.status() for client in clients))) <= {200, 503}
        return clients

    async def all_ready(self, *seats: int) -> None:
        """Until each of them has said so to the others."""
        for seat in seats:
            await until(lambda seat=seat: (it := self.seats.standing(seat, Port.REST)) is not None and it.ready)  # type: ignore[misc]

    def connections(self, seat: int, port: Port = Port.REST) -> int | None:
        standing = self.seats.standing(seat, port)
        return None if standing is None else standing.connections

    async def close(self) -> None:
        for client in self._clients:
            client.writer.close()


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let the event loop go round once."""
    yield


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        # The routers turn on the same loop, and nothing tells of what stands in the seats.
        while not condition():
            await turn()


@pytest.fixture
async def house(settings_of: Callable[..., RouterSettings]) -> AsyncIterator[House]:
    with open_shared(settings_of("unused:1", processes=3)) as shared:
        house = House(shared)
        try:
            yield house
        finally:
            await house.close()


@asynccontextmanager
async def two(house, routing, table_of, **settings) -> AsyncIterator[tuple]:  # type: ignore[no-untyped-def, type-arg]
    async with (
        routing(table_of({}), **house.place(0), **settings) as first,
        routing(table_of({}), **house.place(1), **settings) as second,
    ):
        await house.all_ready(0, 1)
        yield first, second


async def test_connections_are_spread_evenly_on_each_port(house: House, routing, table_of) -> None:  # type: ignore[no-untyped-def]
    async with two(house, routing, table_of):
        await house.connect_many(32)
        assert [house.connections(0), house.connections(1)] == [16, 16]
        for _ in range(6):
            await house.connect_many(1, Port.GRPC)
        assert [house.connections(0, Port.GRPC), house.connections(1, Port.GRPC)] == [3, 3]
        assert [house.connections(0), house.connections(1)] == [16, 16]


async def test_who_comes_later_takes_what_comes_until_it_has_as_many(house: House, routing, table_of) -> None:  # type: ignore[no-untyped-def]
    async with routing(table_of({}), **house.place(0)):
        clients = await house.connect_many(8)
        async with routing(table_of({}), **house.place(1)):
            await house.all_ready(0, 1)
            await house.connect_many(8)
            assert [house.connections(0), house.connections(1)] == [8, 8]
            for client in clients:
                client.writer.close()
            await until(lambda: house.connections(0) == 0)
            await house.connect_many(8)
            assert [house.connections(0), house.connections(1)] == [8, 8]


async def test_who_cannot_serve_yet_leaves_connections_to_who_can(house: House, routing, table_of) -> None:  # type: ignore[no-untyped-def]
    async with routing(None, **house.place(1)) as unready:
        (early,) = await house.connect_many(1)
        assert await early.status() == 503
        async with routing(table_of({}), **house.place(0)):
            await house.all_ready(0)
            clients = await house.connect_many(8)
            assert [await client.status() for client in clients] == [200] * 8
            assert [house.connections(0), house.connections(1)] == [8, 1]
            await unready.route(table_of({}))
            await house.all_ready(1)
            await house.connect_many(7)
            assert [house.connections(0), house.connections(1)] == [8, 8]


async def test_nobody_waits_long_for_one_that_is_frozen(house: House, routing, table_of) -> None:  # type: ignore[no-untyped-def]
    async with two(house, routing, table_of):
        await house.connect_many(2)
        # It has said that it is there and has no connection, and then no more.
        began = time.monotonic()
        said = began - SILENT_AFTER * 0.7
        house.seats.say(2, int(said * 1e9), ready=True)
        client = await house.connect()
        assert await client.status() == 200
        # It was given a chance.
        assert time.monotonic() - began > 0.01
        await until(lambda: time.monotonic() - said > SILENT_AFTER)
        # Once it is known, nobody waits at all.
        await house.connect_many(29)
        assert [house.connections(seat) for seat in range(3)] == [16, 16, 0]


async def test_connections_that_have_ended_leave_nothing_to_the_collector(house: House, routing, table_of) -> None:  # type: ignore[no-untyped-def]
    def kept() -> int:
        return sum(isinstance(it, Attached | ClientConnection) for it in gc.get_objects())

    async with routing(table_of({}), **house.place(0)):
        gc.collect()
        gc.disable()
        try:
            clients = await house.connect_many(8)
            assert kept() >= 8
            for client in clients:
                client.writer.close()
            await until(lambda: house.connections(0) == 0)
            await until(lambda: kept() == 0)
        finally:
            gc.enable()


async def test_one_that_stops_leaves_connections_to_the_others(house: House, routing, table_of) -> None:  # type: ignore[no-untyped-def]
    async with two(house, routing, table_of) as (first, _):
        held = await house.connect(Port.REST)
        await held.status()
        in_first = house.connections(0) == 1
        first.stop.set()
        await until(lambda: house.connections(0) is None)
        await house.connect_many(8)
        assert house.connections(1) == (8 if in_first else 9)


async def test_the_parent_ends_the_listening_for_all(house: House, routing, table_of) -> None:  # type: ignore[no-untyped-def]
    async with two(house, routing, table_of):
        (client,) = await house.connect_many(1)
        address = house.shared.rest.getsockname()
        house.shared.end_listening()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        assert await client.status() == 200


async def test_a_port_has_one_parent(house: House, settings_of: Callable[..., RouterSettings]) -> None:
    address = "{}:{}".format(*house.shared.grpc.getsockname())
    settings = settings_of("unused:1", grpc_address=address)
    with pytest.raises(SettingsError, match=address), open_shared(settings):
        pass


async def test_what_nobody_has_taken_waits_for_who_comes(house: House, routing, table_of) -> None:  # type: ignore[no-untyped-def]
    client = await house.connect()
    async with routing(table_of({}), **house.place(0)):
        assert await client.status() in (200, 503)


async def test_a_handshake_that_fails_is_not_counted(  # type: ignore[no-untyped-def]
    house: House, routing, table_of, tmp_path: Path
) -> None:
    shown = Authority(tmp_path / "authority").issue("shown")
    settings = {"client_tls_cert": shown.cert, "client_tls_key": shown.key}
    async with routing(table_of({}), **house.place(0), **settings):
        wrong = await house.connect()
        wrong.writer.write(READY)
        assert await wrong.gone()
        await until(lambda: house.connections(0) == 0)
        # One that never goes on does not hold up the end.
        await house.connect()
        await until(lambda: house.connections(0) == 1)


async def test_without_descriptors_it_steps_aside_and_comes_back(house: House, routing, table_of) -> None:  # type: ignore[no-untyped-def]
    async with routing(table_of({}), **house.place(0)):
        client = socket.socket()
        client.setblocking(False)
        with client, no_more_descriptors():
            with pytest.raises(BlockingIOError):
                client.connect(house.shared.rest.getsockname())
            await until(lambda: house.connections(0) is None)
        await house.connect_many(1)
        assert house.connections(0) == 1


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.dup(0)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
