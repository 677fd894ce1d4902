"""Two router processes on one pair of ports: replaced, frozen and killed under clients that keep their connections."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.local.ports import PortBook
from berth.route_delta import snapshot
from berth.settings import variable_name
from doubles.scripted_replica import ScriptedReplica
from doubles.scripted_route_feed import ScriptedRouteFeed

DIGITS = VersionKey("alice", "digits", 1)
BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[1,2]}]}'
ALICE = {"authorization": "Bearer alice-key"}


class Load:
    """Clients that ask one request after the other, each on its connection, until they are told to end."""

    def __init__(self, rest: str, target: str) -> None:
        self.rest = rest
        self._target = target
        self.answered = 0
        self.failed: list[str] = []
        self.progress = asyncio.Event()

    def _count(self, problem: str = "") -> None:
        self.answered += 1
        if problem:
            self.failed.append(problem)
        self.progress.set()

    async def more(self, count: int) -> None:
        """Until so many more have been answered."""
        goal = self.answered + count
        while self.answered < goal:
            self.progress.clear()
            await self.progress.wait()

    async def over_rest(self) -> None:
        # One connection, kept: http.client's way, not a pool that picks a fresh one.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            while True:
                url = f"http://{self.rest}/v2/models/digits/infer"
                try:
                    async with session.post(url, data=BODY, headers=ALICE) as response:
                        await response.read()
                        self._count("" if response.status == 200 else f"status {response.status}")
                except aiohttp.ClientError as error:
                    self._count(repr(error))

    async def ask_anew(self) -> int:
        """The status of a request on a connection of its own."""
        async with aiohttp.ClientSession() as session:
            url = f"http://{self.rest}/v2/models/digits/infer"
            async with session.post(url, data=BODY, headers=ALICE) as response:
                return response.status

    async def over_grpc(self) -> None:
        request = service_pb2.ModelInferRequest(model_name="digits")
        request.inputs.add(name="x", datatype="INT32", shape=[1]).contents.int_contents.append(1)
        message = request.SerializeToString()
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(self._target, options=options) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while True:
                try:
                    await infer(message, metadata=tuple(ALICE.items()), timeout=20, wait_for_ready=True)
                    self._count()
                except grpc.aio.AioRpcError as error:
                    self._count(f"{error.code()}: {error.details()}")


@asynccontextmanager
async def two_processes(
    settings_of: Any, credential: PeerCredential, replica: ScriptedReplica, table: Any
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Load, str]]:
    """The parent, clients under way, and the address of its admin port."""
    async with ScriptedRouteFeed().serve(credential) as feed, replica.serve(credential):
        import random

        book = PortBook(random.Random())
        ports = [book.internal() for _ in range(3)]
        settings = settings_of(
            feed.address,
            processes=2,
            http_address=f"127.0.0.1:{ports[0]}",
            grpc_address=f"127.0.0.1:{ports[1]}",
            admin_address=f"127.0.0.1:{ports[2]}",
        )
        env = {variable_name(name): str(value) for name, value in settings if value is not None}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "router", env={**os.environ, **env}, stderr=asyncio.subprocess.PIPE
        )

        async def teach() -> None:
            while True:
                stream = await feed.opened.get()
                stream.send(snapshot(table(replica)))

        load = Load(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
        assert process.stderr is not None
        teaching = asyncio.create_task(teach())
        reading = asyncio.create_task(until_closed(process.stderr))
        clients: list[asyncio.Task[None]] = []
        try:
            admin = f"http://127.0.0.1:{ports[2]}"
            await until(lambda: both_ready(admin))
            clients = [asyncio.create_task(load.over_rest()) for _ in range(4)]
            clients += [asyncio.create_task(load.over_grpc()) for _ in range(4)]
            yield process, load, admin
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            if process.returncode is None:
                process.terminate()
            status = await process.wait()
            for task in (teaching, reading):
                task.cancel()
            await asyncio.gather(teaching, reading, return_exceptions=True)
        assert status == 0


async def until_closed(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


async def until(condition: Callable[[], Any]) -> Any:
    while not (found := await condition()):
        pass
    return found


async def generations(admin: str) -> dict[str, float]:
    """By process, the requests it has answered."""
    async with aiohttp.ClientSession() as session, session.get(f"{admin}/metrics") as response:
        text = await response.text()
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("berth_router_requests_total") and "process=" in line:
            number = line.split('process="')[1][0]
            found[number] = found.get(number, 0.0) + float(line.rsplit(" ", 1)[1])
    return found


async def both_ready(admin: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{admin}/metrics") as response:
            text = await response.text()
    except aiohttp.ClientError:
        return False
    return all(f'berth_router_route_generation{{process="{number}"}} 1.0' in text for number in "01")


async def connections(admin: str) -> list[float]:
    """By process, how many clients are connected."""
    async with aiohttp.ClientSession() as session, session.get(f"{admin}/metrics") as response:
        text = await response.text()
    lines = sorted(line for line in text.splitlines() if line.startswith("berth_router_connections{"))
    return [float(line.rsplit(" ", 1)[1]) for line in lines]


async def children_of(pid: int) -> set[int]:
    def read() -> set[int]:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    return await asyncio.to_thread(read)


async def test_replacing_both_processes_fails_no_request(
    settings_of: Any, credential: PeerCredential, table_of: Any
) -> None:
    replica = ScriptedReplica("w1", {DIGITS})
    async with (
        asyncio.timeout(90),
        two_processes(settings_of, credential, replica, lambda it: table_of({"digits": {1: [it.address]}})) as rig,
    ):
        parent, load, _ = rig
        await load.more(100)
        before = await children_of(parent.pid)
        assert len(before) == 2
        parent.send_signal(signal.SIGHUP)

        async def replaced() -> bool:
            now = await children_of(parent.pid)
            return len(now) == 2 and not now & before

        await until(replaced)
        await load.more(100)
        assert load.failed == []


async def test_connections_are_shared_evenly(settings_of: Any, credential: PeerCredential, table_of: Any) -> None:
    replica = ScriptedReplica("w1", {DIGITS})
    async with (
        asyncio.timeout(90),
        two_processes(settings_of, credential, replica, lambda it: table_of({"digits": {1: [it.address]}})) as rig,
    ):
        _, load, admin = rig
        # Four REST and four gRPC clients are there already.
        await load.more(50)
        async with AsyncExitStack() as stack:
            for number in range(40):
                _, writer = await asyncio.open_connection(*load.rest.split(":"))
                stack.callback(writer.close)
                if number < 31:
                    continue

                async def counted(expected: int = 8 + number + 1) -> list[float]:
                    found = await connections(admin)
                    return found if sum(found) == expected else []

                first, second = await until(counted)
                # One on each port. A process that gets no core for a while may miss its turn: the next ones are its.
                if abs(first - second) <= 2:
                    break
            else:
                raise AssertionError(f"{first} and {second} connections")
        assert load.failed == []


async def test_a_frozen_process_keeps_nobody_waiting(
    settings_of: Any, credential: PeerCredential, table_of: Any
) -> None:
    replica = ScriptedReplica("w1", {DIGITS})
    async with (
        asyncio.timeout(90),
        two_processes(settings_of, credential, replica, lambda it: table_of({"digits": {1: [it.address]}})) as rig,
    ):
        parent, load, admin = rig
        await load.more(20)
        frozen = min(await children_of(parent.pid))
        os.kill(frozen, signal.SIGSTOP)
        try:
            # Each of them would have gone there with a probability of one half.
            assert await asyncio.gather(*(load.ask_anew() for _ in range(24))) == [200] * 24
        finally:
            os.kill(frozen, signal.SIGCONT)
        await load.more(50)
        await until(lambda: both_ready(admin))
        assert load.failed == []


async def test_clients_find_the_port_open_while_all_processes_are_away(
    settings_of: Any, credential: PeerCredential, table_of: Any
) -> None:
    replica = ScriptedReplica("w1", {DIGITS})
    async with (
        asyncio.timeout(90),
        two_processes(settings_of, credential, replica, lambda it: table_of({"digits": {1: [it.address]}})) as rig,
    ):
        parent, load, _ = rig
        before = await children_of(parent.pid)
        for pid in before:
            os.kill(pid, signal.SIGKILL)

        async def away() -> bool:
            return not before & await children_of(parent.pid)

        await until(away)
        # Not refused, and answered by whoever comes first, who may not have its routes yet.
        assert set(await asyncio.gather(*(load.ask_anew() for _ in range(8)))) <= {200, 503}


async def test_a_killed_process_comes_back(settings_of: Any, credential: PeerCredential, table_of: Any) -> None:
    replica = ScriptedReplica("w1", {DIGITS})
    async with (
        asyncio.timeout(90),
        two_processes(settings_of, credential, replica, lambda it: table_of({"digits": {1: [it.address]}})) as rig,
    ):
        parent, load, admin = rig
        before = await children_of(parent.pid)
        os.kill(min(before), signal.SIGKILL)

        async def back() -> bool:
            return len(await children_of(parent.pid)) == 2 and await both_ready(admin)

        await until(back)
        await load.more(50)
        served = await until(lambda: generations(admin))
        assert json.dumps(served)
        assert set(served) <= {"0", "1"}
