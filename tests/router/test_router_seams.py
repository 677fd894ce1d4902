"""Where a client's half of an exchange meets a replica's: streams that move, answers that wait at either side."""

import asyncio
from typing import Any

import aiohttp
import pytest
from tritonclient.grpc import service_pb2

from berth.http.events import DataReceived, ResponseReceived, StreamReset, TrailersReceived
from berth.model import ReplicaAddress
from doubles.http2_peer import Peer, RawReplica, connect

ALICE = (b"authorization", b"Bearer alice-key")
INFER = b"/inference.GRPCInferenceService/ModelInfer"
STREAM = b"/inference.GRPCInferenceService/ModelStreamInfer"


def at(port: int, replica: str = "w1") -> ReplicaAddress:
    return ReplicaAddress(replica, "job", "local", "1", "", f"127.0.0.1:{port}", f"127.0.0.1:{port}")


def framed(payload: bytes = b"") -> bytes:
    request = service_pb2.ModelInferRequest(model_name="digits")
    if payload:
        request.raw_input_contents.append(payload)
    encoded: bytes = request.SerializeToString()
    return b"\0" + len(encoded).to_bytes(4, "big") + encoded


def payloads(body: bytes) -> list[bytes]:
    """What the messages in `body` carry."""
    found = []
    while body:
        size = int.from_bytes(body[1:5], "big")
        found.append(service_pb2.ModelInferRequest.FromString(body[5 : 5 + size]).raw_input_contents[0])
        body = body[5 + size :]
    return found


def ask(caller: Peer, path: bytes, body: bytes, *, end: bool = True) -> int:
    return caller.ask(path, body, (ALICE,), end=end)


async def test_a_stream_outlives_the_time_for_a_body(routing: Any, table_of: Any) -> None:
    """Its first message came with its head, so nothing is late, however long it stays open."""
    async with (
        RawReplica() as replica,
        routing(table_of({"digits": {1: [at(replica.port)]}}), body_timeout_s=0.05) as rig,
    ):
        caller = await connect(rig.ports.grpc)
        stream = ask(caller, STREAM, framed(b"one"), end=False)
        worker, asked = await replica.asked()
        late = ask(caller, INFER, b"\0", end=False)
        # This one is late, and was begun after the other.
        await caller.until(lambda: [one for one in caller.events if getattr(one, "stream_id", 0) == late])
        worker.answer(asked, framed(b"first"))
        await caller.until(lambda: caller.body(stream))
        assert payloads(caller.body(stream)) == [b"first"]
        caller.transport.abort()
        await caller.lost


async def test_a_stream_that_is_refused_unstarted_moves_with_all_that_was_sent(routing: Any, table_of: Any) -> None:
    """The version has left the replica: the other one gets every message, not only the first."""
    async with RawReplica() as one, RawReplica() as other:
        table = table_of({"digits": {1: [at(one.port, "w1"), at(other.port, "w2")]}})
        async with routing(table) as rig:
            caller = await connect(rig.ports.grpc)
            sent = [b"one", b"two", b"three"]
            stream = ask(caller, STREAM, b"".join(map(framed, sent))[:-3], end=False)
            first, second = asyncio.create_task(one.asked()), asyncio.create_task(other.asked())
            done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
            worker, asked = done.pop().result()
            await worker.until(lambda: b"two" in worker.body(asked))
            worker.answer(asked, fields=((b"grpc-status", b"14"), (b"berth-not-started", b"1")))
            worker, asked = await (second if first.done() else first)
            caller.http.send_data(stream, framed(b"three")[-3:] + framed(b"four"), True)
            caller.flush()
            await worker.until(lambda: any(isinstance(one, DataReceived) and one.ended for one in worker.events))
            assert payloads(worker.body(asked)) == [*sent, b"four"]
            worker.answer(asked, framed(b"done"))
            worker.http.send_trailers(asked, worker.http.encode_fields(((b"grpc-status", b"0"),)))
            worker.flush()
            await caller.until(lambda: any(isinstance(one, TrailersReceived) for one in caller.events))
            assert payloads(caller.body(stream)) == [b"done"]
            caller.transport.abort()
            await caller.lost


async def test_a_stream_of_which_much_has_gone_is_not_moved(routing: Any, table_of: Any) -> None:
    """It would have to be kept for that. What was kept until then is let go of."""
    async with RawReplica() as one, RawReplica() as other:
        table = table_of({"digits": {1: [at(one.port, "w1"), at(other.port, "w2")]}})
        async with routing(table) as rig:
            caller = await connect(rig.ports.grpc)
            stream = ask(caller, STREAM, framed(b"one") + framed(bytes(3 * 2**20)), end=False)
            first, second = asyncio.create_task(one.asked()), asyncio.create_task(other.asked())
            [done], [waiting] = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
            worker, asked = done.result()
            await worker.until(lambda: len(worker.body(asked)) > 3 * 2**20)
            assert 0 < await buffered(rig) < 1000
            worker.answer(asked, fields=((b"grpc-status", b"14"), (b"berth-not-started", b"1")))
            await caller.until(lambda: any(isinstance(event, ResponseReceived) for event in caller.events))
            [answer] = [event for event in caller.events if isinstance(event, ResponseReceived)]
            assert (answer.stream_id, answer.head.get(b"grpc-status")) == (stream, b"14")
            await until_nothing_is_held(rig)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert not (other if done is first else one).peers
            caller.transport.abort()
            await caller.lost


async def buffered(rig: Any) -> int:
    """Bytes that the router counts as held."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{rig.ports.admin}/metrics") as reply:
        for line in (await reply.text()).splitlines():
            if line.startswith("berth_router_buffered_bytes "):
                return int(float(line.rsplit(" ", 1)[1]))
    raise AssertionError("no such metric")


async def until_nothing_is_held(rig: Any) -> None:
    async with asyncio.timeout(20):
        while (held := await buffered(rig)) != 0:
            assert held > 0, "given back twice"


async def test_a_slow_reader_of_an_answer_that_pauses(routing: Any, table_of: Any) -> None:
    """The client takes what was held back, and the replica has sent nothing since: both connections go on."""
    body, part = framed(bytes(3 * 2**20)), 2**20 + 2**16
    async with RawReplica() as replica, routing(table_of({"digits": {1: [at(replica.port)]}})) as rig:
        caller = await connect(rig.ports.grpc)
        stream = ask(caller, INFER, framed())
        worker, asked = await replica.asked()
        worker.answer(asked, body[:part])
        await caller.until(lambda: len(caller.body(stream)) == part)
        worker.http.send_data(asked, body[part:])
        worker.http.send_trailers(asked, worker.http.encode_fields(((b"grpc-status", b"0"),)))
        worker.flush()
        await caller.until(lambda: any(isinstance(one, TrailersReceived | StreamReset) for one in caller.events))
        assert caller.body(stream) == body
        await until_nothing_is_held(rig)
        caller.transport.abort()
        await caller.lost


@pytest.mark.parametrize("path", [INFER, STREAM])
@pytest.mark.parametrize("answered", [None, 0, 100_000, 2**20 + 2**16], ids=["unanswered", "head", "little", "much"])
@pytest.mark.parametrize("who", ["stream", "client", "replica"])
async def test_what_is_held_is_given_back_once_whoever_leaves(
    path: bytes, answered: int | None, who: str, routing: Any, table_of: Any
) -> None:
    """At each stage: the client gives up one request or its connection, or the replica is lost."""
    async with RawReplica() as replica, routing(table_of({"digits": {1: [at(replica.port)]}})) as rig:
        caller = await connect(rig.ports.grpc)
        # It takes one window of the answer, and the rest waits for it.
        caller.takes = False
        stream = ask(
            caller, path, framed(bytes(300_000)) + (framed(b"more") if path == STREAM else b""), end=path == INFER
        )
        worker, asked = await replica.asked()
        await worker.until(lambda: len(worker.body(asked)) > 300_000)
        if answered is not None:
            worker.answer(asked, framed(bytes(2 * 2**20))[:answered])
        assert await buffered(rig) >= 0
        if who == "stream":
            caller.http.reset(stream)
            caller.flush()
        elif who == "client":
            caller.transport.abort()
        else:
            await replica.close()
        if who != "replica":
            await until_nothing_is_held(rig)
        # What a lost replica has sent of an answer is still the client's to take, until it leaves.
        caller.transport.abort()
        await caller.lost
        await until_nothing_is_held(rig)
