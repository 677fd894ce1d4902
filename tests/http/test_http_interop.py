"""Real peers over real sockets: grpcio in both roles, aiohttp, httpx's and curl's HTTP, nghttp2 where installed."""

from __future__ import annotations

import asyncio
import random
import shutil
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import aiohttp.web
import grpc
import grpc.aio
import pytest

from berth.http.errors import ErrorCode
from berth.http.events import RequestReceived, StreamReset
from berth.http.http1.client import Http1Client
from berth.http.http2.client import Http2Client
from berth.http.limits import Http2Limits
from doubles.certificates import Authority
from doubles.http_shell import Caller, connect, echoing

TIMEOUT = 60
SMALL = Http2Limits(stream_window=16_384, connection_window=65_535, max_frame=2**14)
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def bytes_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def message(body: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(body)) + body


@asynccontextmanager
async def calling(
    port: int, kind: type[Http1Client | Http2Client], limits: Http2Limits | None = None
) -> AsyncIterator[Caller]:
    caller = await connect(port, lambda: Http2Client(limits) if kind is Http2Client else Http1Client())
    try:
        yield caller
    finally:
        caller.transport.close()
        await asyncio.wait_for(caller.lost, TIMEOUT)


def channel_to(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", UNLIMITED)


# ── grpcio calls us ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limits", [None, SMALL], ids=["default windows", "small windows"])
@pytest.mark.parametrize("size", [0, 1024, 5_000_000, 64_000_000])
async def test_grpc_aio_calls_us(size: int, limits: Http2Limits | None) -> None:
    async with (
        echoing(limits=limits) as (port, _),
        channel_to(port) as channel,
    ):
        body = bytes_of(size)
        reply = await channel.unary_unary("/s/Echo")(body, timeout=TIMEOUT)
        assert reply == body


async def test_grpc_calls_us_from_threads() -> None:
    async with echoing() as (port, _):

        def call() -> bytes:
            with grpc.insecure_channel(f"127.0.0.1:{port}", UNLIMITED) as channel:
                reply = channel.unary_unary("/s/Echo")(bytes_of(300_000), timeout=TIMEOUT)
                assert isinstance(reply, bytes)
                return reply

        assert await asyncio.to_thread(call) == bytes_of(300_000)


async def test_forty_large_grpc_calls_at_once() -> None:
    async with echoing(limits=SMALL) as (port, _), channel_to(port) as channel:
        bodies = [bytes_of(300_000 + n) for n in range(40)]
        replies = await asyncio.gather(*(channel.unary_unary("/s/Echo")(body, timeout=TIMEOUT) for body in bodies))
        assert replies == bodies


async def test_many_grpc_calls_with_metadata_of_their_own() -> None:
    """Every call changes the dynamic table, and every call's metadata must be its own."""
    async with echoing() as (port, seen), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary("/s/Echo")
        for n in range(100):
            metadata = (("x-request-id", f"id-{n}"), ("x-bin", bytes([n, 255 - n]))) if n % 2 else ()
            await method(b"%d" % n, timeout=30 + n / 7, metadata=metadata)
        heads = [event.head for event in seen if isinstance(event, RequestReceived)]
        assert [head.get(b"x-request-id") for head in heads] == [b"id-%d" % n if n % 2 else None for n in range(100)]
        assert all(head.path == b"/s/Echo" and head.get(b"te") == b"trailers" for head in heads)


async def test_a_grpc_stream_and_its_cancellation() -> None:
    async with echoing() as (port, seen), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream("/s/Echo")()
        for n in range(20):
            await call.write(b"message %d" % n)
            assert await call.read() == b"message %d" % n
        call.cancel()
        async with asyncio.timeout(TIMEOUT):
            while not any(isinstance(event, StreamReset) for event in seen):
                await channel.unary_unary("/s/Echo")(b"round trip", timeout=TIMEOUT)
        [reset] = [event for event in seen if isinstance(event, StreamReset)]
        assert (reset.code, reset.remote) == (ErrorCode.CANCEL, True)


# ── We call grpcio ─────────────────────────────────────────────────────────────────────────────────────────────────


class _Service(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            if details.method == "/s/Fail":
                await context.abort(grpc.StatusCode.NOT_FOUND, "kein Modell für »ü«")
            return request

        return grpc.unary_unary_rpc_method_handler(echo)


@asynccontextmanager
async def grpc_server() -> AsyncIterator[int]:
    server = grpc.aio.server(options=UNLIMITED)
    server.add_generic_rpc_handlers((_Service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


GRPC_FIELDS = ((b"te", b"trailers"), (b"content-type", b"application/grpc"))


@pytest.mark.parametrize("limits", [None, SMALL], ids=["default windows", "small windows"])
@pytest.mark.parametrize("size", [0, 1024, 5_000_000, 64_000_000])
async def test_we_call_grpc_aio(size: int, limits: Http2Limits | None) -> None:
    async with grpc_server() as port, calling(port, Http2Client, limits) as caller:
        wire = message(bytes_of(size))
        answer = await asyncio.wait_for(caller.call(b"POST", b"/s/Echo", GRPC_FIELDS, wire), TIMEOUT)
        assert answer.head.status == 200
        assert answer.body == wire
        assert dict(answer.trailers)[b"grpc-status"] == b"0"


async def test_forty_large_calls_to_grpc_at_once_and_one_that_fails() -> None:
    async with grpc_server() as port, calling(port, Http2Client) as caller:
        bodies = [message(bytes_of(300_000 + n)) for n in range(40)]
        calls = [caller.call(b"POST", b"/s/Echo", GRPC_FIELDS, body) for body in bodies]
        failing = caller.call(b"POST", b"/s/Fail", GRPC_FIELDS, message(b"x"))
        answers = await asyncio.wait_for(asyncio.gather(*calls), TIMEOUT)
        assert [answer.body for answer in answers] == bodies
        failed = await asyncio.wait_for(failing, TIMEOUT)
        fields = dict(failed.trailers) or dict(failed.head.fields)
        assert fields[b"grpc-status"] == b"5"
        assert fields[b"grpc-message"] == b"kein Modell f%C3%BCr %C2%BB%C3%BC%C2%AB"


# ── HTTP/1.1 ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunked", [True, False])
async def test_aiohttp_calls_us(chunked: bool) -> None:
    async with echoing() as (port, _), aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT)) as session:
        for size in (0, 1, 70_000, 5_000_000 if chunked else 900_000):
            body = bytes_of(size)

            async def parts(body: bytes = body) -> AsyncIterator[bytes]:
                for pos in range(0, len(body), 99_999):
                    yield body[pos : pos + 99_999]

            url = f"http://127.0.0.1:{port}/a?b=c"
            async with session.post(url, data=parts() if chunked else body, expect100=size > 70_000) as reply:
                assert await reply.read() == body
                assert reply.headers["x-path"] == "/a?b=c"


@pytest.mark.parametrize("kind", ["length", "chunked"])
async def test_we_call_aiohttp(kind: str) -> None:
    async def handle(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        body = await request.read()
        if kind == "length":
            return aiohttp.web.Response(body=body)
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        for pos in range(0, len(body), 50_000):
            await response.write(body[pos : pos + 50_000])
        return response

    app = aiohttp.web.Application(client_max_size=2**30)
    app.router.add_post("/echo", handle)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with calling(port, Http1Client) as caller:
            for size in (1, 70_000, 5_000_000):
                body = bytes_of(size)
                answer = await asyncio.wait_for(caller.call(b"POST", b"/echo", (), body), TIMEOUT)
                assert answer.body == body
    finally:
        await runner.cleanup()


# ── Commands ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def run(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, errors.decode()
    return output


@pytest.fixture(scope="module")
def curl() -> str:
    found = shutil.which("curl")
    assert found is not None, "curl is needed by these tests"
    return found


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize("size", [0, 5_000_000])
async def test_curl_sends_and_receives(curl: str, protocol: str, size: int, tmp_path: Path) -> None:
    sent, received = tmp_path / "sent", tmp_path / "received"
    sent.write_bytes(bytes_of(size))
    async with echoing(limits=SMALL) as (port, _):
        url = f"http://127.0.0.1:{port}/curl"
        await run(curl, "-sS", "-f", protocol, "--data-binary", f"@{sent}", "-o", str(received), url)
    assert received.read_bytes() == sent.read_bytes()


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2-prior-knowledge"])
async def test_curl_reuses_its_connection_and_asks_for_heads(curl: str, protocol: str) -> None:
    body = bytes_of(10_000)
    async with echoing({b"/fixed": body}) as (port, seen):
        url = f"http://127.0.0.1:{port}/fixed"
        if protocol == "--http1.1":  # curl 7.88 does not manage to reuse an HTTP/2 connection, also not with nghttpd
            assert await run(curl, "-sS", protocol, url, url, url) == body * 3
            heads = [event for event in seen if isinstance(event, RequestReceived)]
            assert len({head.stream_id for head in heads}) == 3, "one connection"
        assert b"x-path: /fixed" in await run(curl, "-sS", "-I", protocol, url)


@pytest.mark.parametrize(("protocol", "chosen"), [("--http2", b"2"), ("--http1.1", b"1.1")])
async def test_curl_over_tls_chooses_by_alpn(curl: str, protocol: str, chosen: bytes, tmp_path: Path) -> None:
    files = Authority(tmp_path / "ca").issue("server")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.cert, files.key)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    body = bytes_of(3_000_000)
    received = tmp_path / "received"
    async with echoing({b"/fixed": body}, tls=tls) as (port, _):
        url = f"https://127.0.0.1:{port}/fixed"
        format_ = "%{http_version}"
        used = await run(curl, "-sS", "--cacert", str(files.ca), protocol, "-o", str(received), "-w", format_, url)
    assert used == chosen
    assert received.read_bytes() == body


async def test_curl_is_not_upgraded(curl: str) -> None:
    async with echoing({b"/fixed": b"plain"}) as (port, _):
        assert await run(curl, "-sS", "--http2", f"http://127.0.0.1:{port}/fixed") == b"plain"


@pytest.mark.parametrize("arguments", [("-m", "1"), ("-m", "32"), ("-m", "10", "-w", "14", "-W", "16")])
@pytest.mark.parametrize("size", [1024, 300_000])
async def test_h2load(arguments: tuple[str, ...], size: int) -> None:
    """Needs nghttp2's tools; where they are missing, curl (which is nghttp2 inside) has said the same."""
    h2load = shutil.which("h2load")
    body = bytes_of(size)
    count = 400 if size < 10_000 else 60
    async with echoing({b"/fixed": body}) as (port, seen):
        url = f"http://127.0.0.1:{port}/fixed"
        if h2load is None:
            curl = shutil.which("curl")
            assert curl is not None
            assert await run(curl, "-sS", "--http2-prior-knowledge", url) == body
            return
        report = (await run(h2load, "-n", str(count), "-c", "4", *arguments, url)).decode()
        assert f"{count} succeeded, 0 failed, 0 errored, 0 timeout" in report
        assert sum(isinstance(event, RequestReceived) for event in seen) == count
