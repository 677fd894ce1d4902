"""The deployment's credential, on real ports: who is let in and who is not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web

from berth.auth.peer import PeerCredential
from berth.settings import ProcessSettings, SettingsError
from doubles.certificates import Authority, Files

TOKEN = "t" * 43
METHOD = "/test.Echo/Echo"


def with_token(folder: Path, token: str = TOKEN) -> PeerCredential:
    path = folder / "credential"
    path.write_text(token + "\n")
    return PeerCredential.from_settings(ProcessSettings(credential_file=path))


def with_tls(files: Files) -> PeerCredential:
    return PeerCredential.from_settings(ProcessSettings(tls_cert=files.cert, tls_key=files.key, tls_ca=files.ca))


@asynccontextmanager
async def echo_server(credential: PeerCredential) -> AsyncIterator[str]:
    async def echo(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
        return request

    handler = grpc.method_handlers_generic_handler("test.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    server = credential.grpc_server()
    server.add_generic_rpc_handlers((handler,))
    port = credential.add_port(server, "127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def call(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> bytes:
    async with channel:
        reply: bytes = await channel.unary_unary(METHOD)(b"hello", metadata=metadata, timeout=10)
        return reply


async def test_the_token_opens_the_port(tmp_path: Path) -> None:
    credential = with_token(tmp_path)
    async with echo_server(credential) as address:
        assert await call(credential.grpc_channel(address), credential.metadata()) == b"hello"


@pytest.mark.parametrize("metadata", [(), (("berth-credential", "x" * 43),), (("berth-credential", ""),)])
async def test_without_the_token_every_call_is_refused(tmp_path: Path, metadata: tuple[tuple[str, str], ...]) -> None:
    credential = with_token(tmp_path)
    async with echo_server(credential) as address:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(credential.grpc_channel(address), metadata)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_mutual_tls_lets_the_deployments_certificates_in(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    async with echo_server(with_tls(authority.issue("worker"))) as address:
        assert await call(with_tls(authority.issue("router")).grpc_channel(address)) == b"hello"


async def test_mutual_tls_refuses_strangers(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    theirs = Authority(tmp_path / "theirs", "another authority").issue("router")
    async with echo_server(with_tls(ours.issue("worker"))) as address:
        trusting = with_tls(Files(theirs.cert, theirs.key, ours.issue("any").ca))
        for channel in (trusting.grpc_channel(address), grpc.aio.insecure_channel(address)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_an_http_port_under_mutual_tls_refuses_strangers(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = with_tls(authority.issue("worker")), with_tls(authority.issue("router"))

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server.server_tls("127.0.0.1:0")).start()
        url = f"{server.scheme}://127.0.0.1:{runner.addresses[0][1]}/"
        async with aiohttp.ClientSession() as session:
            context = client.client_tls()
            assert context is not None
            async with session.get(url, ssl=context) as answer:
                assert await answer.text() == "hello"
            with pytest.raises(aiohttp.ClientError):
                await session.get(url, ssl=False)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "10.0.0.1:80", "[::]:0", "example.com:80", "nonsense"])
def test_a_token_never_leaves_loopback(tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsError, match="loopback"):
        with_token(tmp_path).server_tls(address)


def test_an_incomplete_credential_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no credential"):
        PeerCredential.from_settings(ProcessSettings())
    with pytest.raises(SettingsError, match="go together"):
        PeerCredential.from_settings(ProcessSettings(tls_cert=tmp_path / "cert.pem"))
    with pytest.raises(SettingsError, match="cannot read"):
        PeerCredential.from_settings(ProcessSettings(credential_file=tmp_path / "absent"))
    with pytest.raises(SettingsError, match="shorter"):
        with_token(tmp_path, "short")


def test_the_token_shows_in_no_repr(tmp_path: Path) -> None:
    assert TOKEN not in repr(with_token(tmp_path))
