"""The data path under what hurts: large bodies, streams, slow peers, many connections, other protocols on a port."""

import asyncio
import gc
import io
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import psutil
import pytest
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.http.events import RequestReceived, StreamReset
from berth.http.http2 import frames
from berth.ids import VersionKey
from berth.model import ReplicaAddress
from doubles.certificates import Authority
from doubles.http_shell import echoing
from doubles.scripted_replica import Answer, ScriptedReplica
from router.path.inbound.client import ClientConnection
from router.path.race.passage import Passage

DIGITS = VersionKey("alice", "digits", 1)
SERVABLE = "alice~digits~1"
BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[1,2]}]}'
ALICE = {"authorization": "Bearer alice-key"}
METADATA = tuple(ALICE.items())
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LARGE = 64 * 2**20
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def at(port: int) -> ReplicaAddress:
    return ReplicaAddress("w1", "job", "local", "1", "", f"127.0.0.1:{port}", f"127.0.0.1:{port}")


def message(payload: bytes = b"", model: str = "digits") -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    if payload:
        request.raw_input_contents.append(payload)
    encoded: bytes = request.SerializeToString()
    return encoded


async def metric(rig: Any, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{rig.ports.admin}/metrics") as reply:
        for line in (await reply.text()).splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no metric {name}")


async def until(condition: Callable[[], Any]) -> None:
    """`condition` asks the router, so it takes a while each time."""
    async with asyncio.timeout(20):
        while not await condition():
            pass


@asynccontextmanager
async def talking(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> AsyncIterator[int]:
    """A server of a test's own."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(ConnectionError):
                await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("size", [5_000_000, LARGE])
async def test_large_bodies_pass_byte_for_byte_over_grpc(size: int, routing: Any, table_of: Any) -> None:
    """Through windows of all sizes, there and back; nothing in it repeats, so that no reordering goes unseen."""
    payload = os.urandom(size)
    async with (
        echoing() as (port, _),
        routing(table_of({"digits": {1: [at(port)]}}), max_body_bytes=size + 1000) as rig,
        grpc.aio.insecure_channel(rig.grpc, options=UNLIMITED) as channel,
    ):
        reply = await channel.unary_unary(INFER)(message(payload), metadata=METADATA, timeout=60)
        echoed = service_pb2.ModelInferRequest.FromString(reply)
        assert echoed.model_name == SERVABLE
        assert echoed.raw_input_contents[0] == payload
        assert await metric(rig, "berth_router_buffered_bytes") == 0


async def test_large_bodies_pass_byte_for_byte_over_rest(routing: Any, table_of: Any) -> None:
    payload = os.urandom(LARGE)
    async with (
        echoing() as (port, _),
        routing(table_of({"digits": {1: [at(port)]}}), max_body_bytes=LARGE) as rig,
        aiohttp.ClientSession() as session,
        session.post(f"http://{rig.rest}/v2/models/digits/infer", data=io.BytesIO(payload), headers=ALICE) as response,
    ):
        assert response.headers["x-path"] == f"/v2/models/{SERVABLE}/infer"
        assert response.headers["content-length"] == str(LARGE)
        assert await response.read() == payload


async def test_many_middling_bodies_at_once(routing: Any, table_of: Any) -> None:
    payloads = [os.urandom(300_000) for _ in range(40)]
    async with (
        echoing() as (port, _),
        routing(table_of({"digits": {1: [at(port)]}})) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        infer = channel.unary_unary(INFER)
        replies = await asyncio.gather(
            *(infer(message(payload), metadata=METADATA, timeout=60) for payload in payloads)
        )
        for payload, reply in zip(payloads, replies, strict=True):
            assert service_pb2.ModelInferRequest.FromString(reply).raw_input_contents[0] == payload


# ── Streams ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bidirectional_stream_passes_message_by_message(routing: Any, table_of: Any) -> None:
    """Each message is answered before the next is sent, so nothing is held back; each goes to the one servable."""
    async with (
        echoing() as (port, seen),
        routing(table_of({"digits": {1: [at(port)]}}), default_timeout_s=0.1) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        stream = channel.stream_stream(STREAM)(metadata=METADATA)
        for number in range(5):
            payload = os.urandom(1 + number * 100_000)
            await stream.write(message(payload))
            echoed = service_pb2.ModelInferRequest.FromString(await stream.read())
            assert (echoed.model_name, echoed.raw_input_contents[0]) == (SERVABLE, payload)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        heads = [event.head for event in seen if isinstance(event, RequestReceived)]
        assert [head.path for head in heads] == [STREAM.encode()]


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (message(model="nope"), grpc.StatusCode.NOT_FOUND),
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_stream_is_refused_by_its_first_message(
    first: bytes, code: grpc.StatusCode, routing: Any, table_of: Any
) -> None:
    async with (
        routing(table_of({"digits": {1: [at(1)]}})) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        stream = channel.stream_stream(STREAM)(metadata=METADATA)
        await stream.write(first)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
        assert refused.value.code() is code


async def test_a_stream_whose_client_leaves_is_withdrawn(routing: Any, table_of: Any) -> None:
    async with (
        echoing() as (port, seen),
        routing(table_of({"digits": {1: [at(port)]}})) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        stream = channel.stream_stream(STREAM)(metadata=METADATA)
        await stream.write(message(b"x"))
        await stream.read()
        stream.cancel()

        async def withdrawn() -> bool:
            under_way = await metric(rig, "berth_router_in_flight")
            return not under_way and any(isinstance(event, StreamReset) for event in seen)

        await until(withdrawn)


async def test_events_reach_the_client_as_they_come(routing: Any, table_of: Any) -> None:
    read = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(f"POST /v2/models/{SERVABLE}/generate_stream HTTP/1.1\r\n".encode())
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"9\r\ndata: 1\n\n\r\n"
        )
        await read.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with (
        talking(stream) as port,
        routing(table_of({"digits": {1: [at(port)]}})) as rig,
        aiohttp.ClientSession() as session,
        session.post(f"http://{rig.rest}/v2/models/digits/generate_stream", data=b"{}", headers=ALICE) as response,
    ):
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await response.content.readuntil(b"\n\n") == b"data: 1\n\n"
        read.set()
        assert await response.read() == b"data: 2\n\n"


async def test_half_an_answer_is_not_taken_for_a_whole_one(routing: Any, table_of: Any) -> None:
    """The replica is lost when the client has some of a large answer already."""

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(4 * 2**20))
        await writer.drain()
        writer.transport.abort()

    async with (
        talking(die) as port,
        routing(table_of({"digits": {1: [at(port)]}})) as rig,
        aiohttp.ClientSession() as session,
        session.post(f"http://{rig.rest}/v2/models/digits/infer", data=BODY, headers=ALICE) as response,
    ):
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_slow_replica_holds_a_stream_back(routing: Any, table_of: Any) -> None:
    """It reads nothing: the client can send a few windows, then it has to wait, and nothing of it piles up here."""

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.settings({}) + frames.frame(frames.SETTINGS, frames.ACK, 0))
        await asyncio.Event().wait()

    async with (
        talking(stall) as port,
        routing(table_of({"digits": {1: [at(port)]}})) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        stream = channel.stream_stream(STREAM)(metadata=METADATA)
        written = 0

        async def write() -> None:
            nonlocal written
            while True:
                await stream.write(message(bytes(100_000)))
                written += 100_000

        writing = asyncio.create_task(write())
        before = -1
        # Until it stands still while the router answers twenty questions.
        while written != before:
            before = written
            for _ in range(20):
                await metric(rig, "berth_router_buffered_bytes")
        assert 0 < written < 8 * 2**20
        writing.cancel()
        await asyncio.wait([writing])
        stream.cancel()


async def test_h2load(credential: PeerCredential, routing: Any, table_of: Any, tmp_path: Path) -> None:
    replica = ScriptedReplica("w1", {DIGITS})
    body = tmp_path / "body"
    body.write_bytes(BODY)
    async with replica.serve(credential), routing(table_of({"digits": {1: [replica.address]}})) as rig:
        for flags in (("-m", "10"), ("--h1",)):
            process = await asyncio.create_subprocess_exec(
                "h2load", "-n", "300", "-c", "5", *flags, "-d", str(body), "-H", "authorization: Bearer alice-key",
                f"http://{rig.rest}/v2/models/digits/infer", stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, _ = await process.communicate()
            assert b"300 succeeded, 0 failed, 0 errored" in out, out.decode()


# ── Slow and rude peers ────────────────────────────────────────────────────────────────────────────────────────────


async def test_slow_readers_cost_bounded_memory_over_rest(routing: Any, table_of: Any) -> None:
    """Ten of them, 64 MB each; another client is served meanwhile, and what they finally read is right."""
    block = os.urandom(64 * 1024)
    count = LARGE // len(block)
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        for _ in range(count):
            writer.write(block)
            await writer.drain()
            sent += len(block)

    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(talking(answer))
        other, _ = await stack.enter_async_context(echoing())
        rig = await stack.enter_async_context(
            routing(table_of({"digits": {1: [at(port)]}, "other": {1: [at_other(other)]}}))
        )
        before = psutil.Process().memory_info().rss
        readers = []
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.ports.rest, limit=1024)
            stack.callback(writer.close)
            head = "POST /v2/models/digits/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer alice-key\r\n"
            writer.write(head.encode() + b"Content-Length: 2\r\n\r\n{}")
            await reader.readuntil(b"\r\n\r\n")
            readers.append(reader)
        async with aiohttp.ClientSession() as session:
            url = f"http://{rig.rest}/v2/models/other/infer"
            for _ in range(50):
                async with session.post(url, data=b"served", headers=ALICE) as response:
                    assert await response.read() == b"served"
        grown = psutil.Process().memory_info().rss - before
        assert grown < 10 * 8 * 2**20, f"{grown / 2**20:.0f} MB more"
        # The kernel's buffers hold the rest.
        assert sent < 10 * LARGE / 2
        assert await readers[0].readexactly(LARGE) == block * count


async def test_slow_readers_cost_bounded_memory_over_grpc(routing: Any, table_of: Any) -> None:
    """Ten that grant one window of 64 KB of 64 MB, and share a connection to the replica with one that reads."""
    large = b"\0" + LARGE.to_bytes(4, "big") + os.urandom(1024) * (LARGE // 1024)
    async with AsyncExitStack() as stack:
        port, _ = await stack.enter_async_context(echoing({INFER.encode(): large}))
        rig = await stack.enter_async_context(routing(table_of({"digits": {1: [at(port)]}})))
        before = psutil.Process().memory_info().rss
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.ports.grpc)
            stack.callback(writer.close)
            writer.write(http2_request(message()))
            # Its SETTINGS, the head of the answer and one window of it.
            await reader.readexactly(65_000)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(rig.grpc, options=UNLIMITED))
        reply = await channel.unary_unary(INFER)(message(), metadata=METADATA, timeout=20)
        assert reply == large[5:]
        del reply
        grown = psutil.Process().memory_info().rss - before
        assert grown < (10 * 4 + 2 * 64) * 2**20, f"{grown / 2**20:.0f} MB more"


def at_other(port: int) -> ReplicaAddress:
    return ReplicaAddress("w2", "job", "local", "1", "", f"127.0.0.1:{port}", f"127.0.0.1:{port}")


def http2_request(body: bytes) -> bytes:
    from berth.http.http2 import frames, header_codec

    fields = ((b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"authorization", b"Bearer alice-key"))
    block = header_codec.encode_request(b"POST", b"http", b"h", INFER.encode(), fields)
    prefixed = b"\0" + len(body).to_bytes(4, "big") + body
    return (
        frames.PREFACE
        + frames.settings({})
        + frames.headers(1, block, end_stream=False, max_frame=16384)
        + frames.frame(frames.DATA, frames.END_STREAM, 1, prefixed)
    )


async def test_a_sender_that_stops_is_told_and_costs_nothing(routing: Any, table_of: Any) -> None:
    async with routing(table_of({"digits": {1: [at(1)]}}), body_timeout_s=0.2, head_timeout_s=0.5) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.ports.rest)
        writer.write(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer alice-key\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        async with grpc.aio.insecure_channel(rig.grpc) as channel:
            stream = channel.stream_unary(INFER)(metadata=METADATA)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stream
            assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await metric(rig, "berth_router_buffered_bytes") == 0


async def test_requests_beyond_the_memory_limit_are_refused(routing: Any, table_of: Any) -> None:
    async with (
        routing(table_of({"digits": {1: [at(1)]}}), max_buffered_bytes=100_000) as rig,
        aiohttp.ClientSession() as session,
    ):
        _, hog = await asyncio.open_connection("127.0.0.1", rig.ports.rest)
        head = "POST /v2/models/digits/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer alice-key\r\n"
        hog.write(f"{head}Content-Length: 1000000\r\n\r\n".encode() + bytes(50_000))

        async def held(size: int = 50_000) -> bool:
            return await metric(rig, "berth_router_buffered_bytes") == size

        await until(held)
        hog.write(bytes(150_000))
        await until(lambda: held(200_000))
        url = f"http://{rig.rest}/v2/models/digits/infer"
        async with session.post(url, data=bytes(300_000), headers=ALICE) as response:
            assert (response.status, "too many bytes" in await response.text()) == (503, True)
        hog.close()

        async def released() -> bool:
            return await metric(rig, "berth_router_buffered_bytes") == 0

        await until(released)


async def test_thousands_of_clients_come_and_go(routing: Any, table_of: Any) -> None:
    """Some leave at once, some in the middle of a request, some while it is under way; nothing of them stays."""
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer alice-key\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    rude = [b"", head, whole[:-5], whole, whole + whole, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", http2_request(message())]
    async with echoing() as (port, _), routing(table_of({"digits": {1: [at(port)]}})) as rig:

        async def come_and_go(number: int) -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", (rig.ports.rest, rig.ports.grpc)[number % 2])
            writer.write(rude[number % len(rude)])
            writer.transport.abort() if number % 3 else writer.close()

        for start in range(0, 2100, 100):
            await asyncio.gather(*(come_and_go(number) for number in range(start, start + 100)))

        async def all_gone() -> bool:
            return [
                await metric(rig, name)
                for name in ("berth_router_connections", "berth_router_in_flight", "berth_router_buffered_bytes")
            ] == [0, 0, 0]

        await until(all_gone)
        gc.collect()
        left = [it for it in gc.get_objects() if isinstance(it, ClientConnection | Passage)]
        assert len(left) < 20, left[:5]


async def test_one_client_too_many_is_turned_away(routing: Any, table_of: Any) -> None:
    async with routing(table_of({"digits": {1: [at(1)]}}), max_connections=3) as rig:
        clients = [await asyncio.open_connection("127.0.0.1", rig.ports.rest) for _ in range(3)]

        async def all_in() -> bool:
            return await metric(rig, "berth_router_connections") == 3

        await until(all_in)
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.ports.rest)
        assert await reader.read() == b""
        assert await metric(rig, "berth_router_connections_refused_total") == 1
        for _, one in [*clients, (reader, writer)]:
            one.close()


# ── Other ways in ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_requests_sent_ahead_are_answered_in_order(
    credential: PeerCredential, routing: Any, table_of: Any
) -> None:
    replica = ScriptedReplica("w1", {DIGITS})
    async with replica.serve(credential), routing(table_of({"digits": {1: [replica.address]}})) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.ports.rest)
        requests = [
            b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer alice-key\r\n"
            b"x-request-id: r%d\r\nContent-Length: %d\r\n\r\n" % (number, len(BODY)) + BODY
            for number in range(20)
        ]
        health = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\nx-request-id: h\r\nConnection: close\r\n\r\n"
        writer.write(b"".join([*requests, health]))
        answers = await asyncio.wait_for(reader.read(), 20)
        ids = [line.split(b": ")[1] for line in answers.split(b"\r\n") if line.startswith(b"x-request-id")]
        assert ids == [*(b"r%d" % number for number in range(20)), b"h"]
        writer.close()


async def test_either_port_speaks_both(credential: PeerCredential, routing: Any, table_of: Any) -> None:
    replica = ScriptedReplica("w1", {DIGITS})
    async with replica.serve(credential), routing(table_of({"digits": {1: [replica.address]}})) as rig:
        async with aiohttp.ClientSession() as session:
            url = f"http://{rig.grpc}/v2/models/digits/infer"
            async with session.post(url, data=BODY, headers=ALICE) as response:
                assert response.status == 200
        async with grpc.aio.insecure_channel(rig.rest) as channel:
            request = service_pb2.ModelReadyRequest(name="digits").SerializeToString()
            ready = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
            assert service_pb2.ModelReadyResponse.FromString(await ready(request, metadata=METADATA)).ready


@pytest.mark.parametrize(("model", "status"), [("digits", 200), ("nope", 404)])
async def test_curl_over_http2(
    model: str, status: int, credential: PeerCredential, routing: Any, table_of: Any
) -> None:
    replica = ScriptedReplica("w1", {DIGITS})
    async with replica.serve(credential), routing(table_of({"digits": {1: [replica.address]}})) as rig:
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--http2-prior-knowledge", "-H", "Authorization: Bearer alice-key", "-d", BODY.decode(),
            "-w", "\n%{http_version} %{http_code}", f"http://{rig.rest}/v2/models/{model}/infer",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        document, said = out.decode().splitlines()
        assert said == f"2 {status}"
        assert ("outputs" if status == 200 else "error") in json.loads(document)


@pytest.mark.parametrize("protocol", ["grpc", "h2", "http/1.1"])
async def test_tls_ends_here(
    protocol: str, tmp_path: Path, credential: PeerCredential, routing: Any, table_of: Any
) -> None:
    files = Authority(tmp_path / "authority").issue("router")
    replica = ScriptedReplica("w1", {DIGITS})
    async with (
        replica.serve(credential),
        routing(
            table_of({"digits": {1: [replica.address]}}), client_tls_cert=files.cert, client_tls_key=files.key
        ) as rig,
    ):
        if protocol == "grpc":
            credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
            async with grpc.aio.secure_channel(rig.grpc, credentials) as channel:
                request = service_pb2.ModelReadyRequest(name="digits").SerializeToString()
                ready = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
                assert service_pb2.ModelReadyResponse.FromString(await ready(request, metadata=METADATA)).ready
        elif protocol == "h2":
            process = await asyncio.create_subprocess_exec(
                "curl", "-sS", "--http2", "--cacert", str(files.ca), "-o", os.devnull,
                "-w", "%{http_version} %{http_code}",
                "-H", "Authorization: Bearer alice-key", "-d", BODY.decode(),
                f"https://{rig.rest}/v2/models/digits/infer", stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert (await process.communicate())[0] == b"2 200"
        else:
            context = ssl.create_default_context(cafile=str(files.ca))
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
                session.post(f"https://{rig.rest}/v2/models/digits/infer", data=BODY, headers=ALICE) as response,
            ):
                assert response.status == 200


async def test_going_away_loses_nothing(credential: PeerCredential, routing: Any, table_of: Any) -> None:
    """Streams under way when the router stops are answered; the connection ends after them."""
    replica = ScriptedReplica("w1", {DIGITS})
    held = [Answer(hold=asyncio.Event()) for _ in range(20)]
    async with replica.serve(credential), routing(table_of({"digits": {1: [replica.address]}})) as rig:
        replica.script.extend(held)
        async with grpc.aio.insecure_channel(rig.grpc) as channel:
            infer = channel.unary_unary(INFER)
            calls = [infer(message(b"1234"), metadata=METADATA, timeout=20) for _ in held]
            for answer in held:
                await answer.started.wait()
            rig.stop.set()
            for answer in held:
                assert answer.hold is not None
                answer.hold.set()
            codes = [await call.code() for call in calls]
            assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN}
        await rig.ended
