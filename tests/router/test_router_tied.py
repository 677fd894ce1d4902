"""Tied copies: the replica that comes to compute one first says so, and the other, if it still waits, is withdrawn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2

from berth.http.events import DataReceived, Event, RequestReceived, StreamReset
from berth.http.head import RequestHead
from berth.http.http1.server import Http1Server
from berth.http.http2.frames import speaks_http2
from berth.http.http2.server import Http2Server
from berth.model import ReplicaAddress
from doubles.http_shell import Pipe

BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[1,2]}]}'
ALICE = {"authorization": "Bearer alice-key"}


class Waiting:
    """A request at a replica, which answers when it is told to."""

    def __init__(self, replica: str, pipe: "Replica", stream_id: int, head: RequestHead) -> None:
        self.replica = replica
        self.head = head
        self._pipe = pipe
        self._stream_id = stream_id
        self.withdrawn = asyncio.Event()

    def begin(self) -> None:
        """Its turn has come."""
        connection = self._pipe.connection
        assert isinstance(connection, Http1Server | Http2Server)
        block = connection.encode_response(102, ((b"berth-started", b"1"),))
        connection.send_informational(self._stream_id, block)
        self._pipe.flush()

    def answer(self) -> None:
        connection = self._pipe.connection
        assert isinstance(connection, Http1Server | Http2Server)
        if self.head.get(b"content-type") == b"application/grpc":
            block = connection.encode_response(200, ((b"content-type", b"application/grpc"),))
            connection.send_head(self._stream_id, block)
            message = service_pb2.ModelInferResponse(model_name=self.replica).SerializeToString()
            connection.send_data(self._stream_id, b"\0" + len(message).to_bytes(4, "big") + message)
            connection.send_trailers(self._stream_id, connection.encode_fields(((b"grpc-status", b"0"),)))
        else:
            body = self.replica.encode()
            connection.send_head(self._stream_id, connection.encode_response(200), length=len(body))
            connection.send_data(self._stream_id, body, True)
        self._pipe.flush()


class Replica(Pipe):
    """One connection to a replica whose requests go into `came`."""

    def __init__(self, name: str, came: "asyncio.Queue[Waiting]") -> None:
        super().__init__()
        self._name = name
        self._came = came
        self._first = b""
        self._requests: dict[int, Waiting] = {}

    def data_received(self, data: bytes) -> None:
        if self.connection is None:
            self._first += data
            chosen = speaks_http2(self._first)
            if chosen is None:
                return
            self.connection = Http2Server() if chosen else Http1Server()
            data, self._first = self._first, b""
        super().data_received(data)

    def on_event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._requests[event.stream_id] = Waiting(self._name, self, event.stream_id, event.head)
        elif isinstance(event, DataReceived) and event.ended:
            self._came.put_nowait(self._requests[event.stream_id])
        elif isinstance(event, StreamReset):
            self._requests[event.stream_id].withdrawn.set()


@asynccontextmanager
async def replica(name: str, came: "asyncio.Queue[Waiting]") -> AsyncIterator[ReplicaAddress]:
    pipes: list[Replica] = []

    def accept() -> Replica:
        pipes.append(Replica(name, came))
        return pipes[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield ReplicaAddress(name, "job", "local", "1", "", f"127.0.0.1:{port}", f"127.0.0.1:{port}")
    finally:
        server.close()
        for pipe in pipes:
            pipe.transport.abort()
        await asyncio.gather(*(pipe.lost for pipe in pipes))


async def ask(rig: Any, wire: str) -> str:
    """Who answered."""
    if wire == "rest":
        url = f"http://{rig.rest}/v2/models/digits/infer"
        headers = ALICE | {"x-request-id": "mine"}
        async with aiohttp.ClientSession() as session, session.post(url, data=BODY, headers=headers) as reply:
            assert reply.status == 200
            return await reply.text()
    message = service_pb2.ModelInferRequest(model_name="digits").SerializeToString()
    async with grpc.aio.insecure_channel(rig.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        metadata = (*ALICE.items(), ("x-request-id", "mine"))
        reply = await infer(message, metadata=metadata, timeout=20)
        return str(service_pb2.ModelInferResponse.FromString(reply).model_name)


@asynccontextmanager
async def racing(
    routing: Any, table_of: Any, wire: str, **settings: object
) -> AsyncIterator[tuple["asyncio.Task[str]", Waiting, Waiting]]:
    """A request, its first copy and its twin, both of which wait at their replicas."""
    came: asyncio.Queue[Waiting] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(20))
        where = [await stack.enter_async_context(replica(name, came)) for name in ("w1", "w2")]
        settings = {"hedge_delay_ms": 5.0, "hedge_tied": True, **settings}
        rig = await stack.enter_async_context(routing(table_of({"digits": {1: where}}), **settings))
        asking = asyncio.create_task(ask(rig, wire))
        yield asking, await came.get(), await came.get()
        assert came.empty()
        await asking


@pytest.mark.parametrize("wire", ["rest", "grpc"])
@pytest.mark.parametrize("earlier", [0, 1], ids=["the first copy", "its twin"])
async def test_who_begins_first_withdraws_the_other(routing: Any, table_of: Any, wire: str, earlier: int) -> None:
    async with racing(routing, table_of, wire) as (asking, *copies):
        assert [copy.head.get(b"berth-twin") for copy in copies] == [b"mine-2", b"mine-1"]
        winner, loser = copies[earlier], copies[1 - earlier]
        winner.begin()
        await loser.withdrawn.wait()
        # Before any answer: the loser never had to be computed.
        assert not asking.done()
        winner.answer()
        assert await asking == winner.replica
        assert not winner.withdrawn.is_set()


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_two_that_have_begun_race_to_the_end(routing: Any, table_of: Any, wire: str) -> None:
    came: asyncio.Queue[Waiting] = asyncio.Queue()
    async with (
        asyncio.timeout(20),
        replica("w1", came) as w1,
        replica("w2", came) as w2,
        routing(table_of({"digits": {1: [w1, w2]}}), hedge_delay_ms=300.0, hedge_tied=True) as rig,
    ):
        asking = asyncio.create_task(ask(rig, wire))
        first = await came.get()
        # Begun, and slow: the twin comes nevertheless, and has begun as well before anybody could be told.
        first.begin()
        twin = await came.get()
        twin.begin()
        first.answer()
        assert await asking == first.replica
        await twin.withdrawn.wait()
        assert not first.withdrawn.is_set()


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_copies_are_not_tied_unless_it_is_wished(routing: Any, table_of: Any, wire: str) -> None:
    async with racing(routing, table_of, wire, hedge_tied=False) as (asking, first, twin):
        assert first.head.get(b"berth-twin") is None
        assert twin.head.get(b"berth-twin") is None
        twin.answer()
        assert await asking == twin.replica
        await first.withdrawn.wait()
