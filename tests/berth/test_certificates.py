"""Certificates by name and under rotation, in real handshakes: gRPC and TLS, on asyncio's loop and uvloop's."""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import uvloop
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from berth.auth.certificates import Certificates, TlsFiles
from berth.auth.peer import PeerCredential
from berth.settings import ProcessSettings, SettingsError
from doubles.certificates import Authority, Files, Mount

NAME = "berth.internal"
METHOD = "/test.Echo/Echo"
EXPIRED = datetime.timedelta(hours=-1)
WAIT_S = 20.0


def credential(files: Files, name: str = NAME) -> PeerCredential:
    return PeerCredential.from_settings(
        ProcessSettings(tls_cert=files.cert, tls_key=files.key, tls_ca=files.ca, tls_peer_name=name)
    )


def named(authority: Authority, who: str) -> Files:
    """A certificate for the deployment's name and no address at all."""
    return authority.issue(who, names=[NAME], addresses=[])


@asynccontextmanager
async def grpc_port(of: PeerCredential) -> AsyncIterator[str]:
    async def echo(request: bytes, _: object) -> bytes:
        return request

    async def echoes(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def writes(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        async for request in requests:
            await context.write(request)

    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.stream_stream_rpc_method_handler(echoes),
        "Write": grpc.stream_stream_rpc_method_handler(writes),
    }
    server = of.grpc_server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    port = of.add_port(server, "127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def tls_port(of: PeerCredential) -> AsyncIterator[str]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await reader.readexactly(5))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=of.server_tls("127.0.0.1:0"))
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def ask_grpc(of: PeerCredential, address: str) -> bool:
    async with of.grpc_channel(address) as channel:
        return await ask_on(channel)


async def ask_on(channel: grpc.aio.Channel) -> bool:
    try:
        return bool(await channel.unary_unary(METHOD)(b"hello", timeout=WAIT_S) == b"hello")
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED):
            return False
        raise


async def ask_tls(of: PeerCredential, address: str) -> bool:
    return await ask_with(of.client_tls(), address)


async def ask_with(context: ssl.SSLContext | None, address: str) -> bool:
    assert context is not None
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(WAIT_S):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=host)
            try:
                writer.write(b"hello")
                return await reader.read(5) == b"hello"
            finally:
                writer.close()
    except OSError:  # `ssl.SSLError` is one
        return False


KINDS = [pytest.param(grpc_port, ask_grpc, id="grpc"), pytest.param(tls_port, ask_tls, id="tls")]


@pytest.mark.parametrize(("listen", "ask"), KINDS)
async def test_the_name_counts_and_not_the_address(listen: Callable, ask: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    authority = Authority(tmp_path)
    ours = credential(named(authority, "worker"))
    other = credential(authority.issue("other", names=["else.internal"], addresses=["127.0.0.1"]))
    async with listen(ours) as address:
        assert await ask(credential(named(authority, "router")), address)
        assert not await ask(credential(named(authority, "router"), name=""), address), "it does not carry its address"
        assert not await ask(other, address), "a server asks for the name too"
    async with listen(other) as address:
        assert not await ask(ours, address), "another name, although the address is right"


@pytest.mark.parametrize(("listen", "ask"), KINDS)
async def test_an_expired_certificate_is_refused(listen: Callable, ask: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    authority = Authority(tmp_path)
    good = credential(named(authority, "good"))
    expired = credential(authority.issue("late", names=[NAME], lifetime=EXPIRED))
    async with listen(good) as address:
        assert await ask(good, address)
        assert not await ask(expired, address)
    async with listen(expired) as address:
        assert not await ask(good, address)


@pytest.mark.parametrize(("listen", "ask"), KINDS)
async def test_a_server_follows_the_rotation_of_everything(listen: Callable, ask: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new", "new authority")
    mount = Mount(tmp_path / "mount", named(old, "worker"))
    before, after = credential(named(old, "router")), credential(named(new, "router"))
    async with listen(credential(mount.files)) as address:
        assert (await ask(before, address), await ask(after, address)) == (True, False)
        mount.swap(named(new, "worker"))
        assert (await ask(before, address), await ask(after, address)) == (False, True)


async def test_a_client_context_follows_it_too(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new", "new authority")
    mount = Mount(tmp_path / "mount", named(old, "router"))
    context = credential(mount.files).client_tls()
    async with tls_port(credential(named(old, "a"))) as before, tls_port(credential(named(new, "b"))) as after:
        assert (await ask_with(context, before), await ask_with(context, after)) == (True, False)
        mount.swap(named(new, "router"))
        assert (await ask_with(context, before), await ask_with(context, after)) == (False, True)


async def test_a_channel_follows_it_and_its_streams_go_on(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new", "new authority")
    ours, theirs = (Mount(tmp_path / name, named(old, name)) for name in ("router", "worker"))
    async with grpc_port(credential(theirs.files)) as address, credential(ours.files).grpc_channel(address) as channel:
        stream = channel.stream_stream("/test.Echo/Write")()
        await stream.write(b"one")
        assert await stream.read() == b"one"
        theirs.swap(named(new, "worker"))
        ours.swap(named(new, "router"))
        assert await ask_on(channel)
        await stream.write(b"two")
        assert await stream.read() == b"two", "it began before, and nobody cuts it off"
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        second = channel.stream_stream("/test.Echo/Stream")()
        await second.write(b"three")
        assert await second.read() == b"three"
        second.cancel()


async def test_closing_a_channel_ends_the_calls_of_those_it_replaced(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    mount = Mount(tmp_path / "mount", named(authority, "router"))
    async with grpc_port(credential(named(authority, "worker"))) as address:
        channel = credential(mount.files).grpc_channel(address)
        stream = channel.stream_stream("/test.Echo/Stream")()
        await stream.write(b"one")
        assert await stream.read() == b"one"
        mount.swap(named(authority, "router"))
        assert await ask_on(channel)
        await channel.close()
        async with asyncio.timeout(WAIT_S):
            assert await stream.code() is grpc.StatusCode.CANCELLED


def test_uvloop_uses_the_contexts_alike(tmp_path: Path) -> None:
    async def main() -> None:
        old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new", "new authority")
        ours, theirs = (Mount(tmp_path / name, named(old, name)) for name in ("router", "worker"))
        stranger = credential(old.issue("other", names=["else.internal"], addresses=["127.0.0.1"]))
        context = credential(ours.files).client_tls()
        async with tls_port(credential(theirs.files)) as address:
            assert await ask_with(context, address)
            assert not await ask_tls(stranger, address)
            theirs.swap(named(new, "worker"))
            assert not await ask_with(context, address)
            ours.swap(named(new, "router"))
            assert await ask_with(context, address)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_files_written_one_after_the_other_are_an_update_under_way(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    files = Files(*(tmp_path / name for name in Files._fields))
    for source, target in zip(authority.issue("a"), files, strict=True):
        shutil.copyfile(source, target)
    certificates = Certificates(TlsFiles(*files))
    first = certificates.current()
    second = authority.issue("b", lifetime=datetime.timedelta(days=3))

    with capture_logs() as logs:
        shutil.copyfile(second.cert, files.cert)
        assert certificates.current() is first, "certificate and key do not fit"
        assert certificates.current() is first
        files.key.unlink()
        assert certificates.current() is first
        shutil.copyfile(second.key, files.key)
        rotated = certificates.current()
    assert (rotated.cert, rotated.key) == (second.cert.read_bytes(), second.key.read_bytes())
    assert rotated.expires > first.expires
    assert certificates.current() is rotated
    assert [entry["log_level"] for entry in logs] == ["warning", "warning", "info"], "said once for each state"

    for broken in (b"", second.cert.read_bytes()[:200]):
        files.cert.write_bytes(broken)
        assert certificates.current() is rotated
    files.cert.write_bytes(second.cert.read_bytes())
    files.ca.write_bytes(b"")
    assert certificates.current().ca == rotated.ca, "an empty authority would mean those of the system"
    os.utime(files.key)
    assert certificates.current().ca == rotated.ca


@pytest.mark.parametrize("spoil", ["cert", "key", "ca"])
def test_at_the_start_files_must_be_right(spoil: str, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("a")
    getattr(files, spoil).write_bytes(b"")
    with pytest.raises(SettingsError, match=r"cannot use .*a\.pem"):
        credential(files)


def test_the_end_of_validity_is_published(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    now = datetime.datetime.now(datetime.UTC).timestamp()
    mount = Mount(tmp_path / "mount", authority.issue("a", lifetime=datetime.timedelta(days=30)))
    registry = CollectorRegistry()
    clients = Certificates(TlsFiles(*authority.issue("c", lifetime=datetime.timedelta(days=365 * 40))[:2]))
    credential(mount.files).register(registry, clients=clients)

    def days(use: str) -> float | None:
        value = registry.get_sample_value("berth_tls_certificate_expires_timestamp_seconds", {"use": use})
        assert value is not None
        return round((value - now) / 86_400, 2)

    assert days("internal") == 30
    assert days("clients") == 365 * 40, "beyond 2049 dates are written in another way"
    mount.swap(authority.issue("b", lifetime=datetime.timedelta(days=90)))
    assert days("internal") == 90
    PeerCredential.from_token("t" * 40).register(registry)


def test_neither_key_nor_certificate_shows_in_a_repr(tmp_path: Path) -> None:
    ours = credential(named(Authority(tmp_path), "worker"))
    assert "BEGIN" not in repr(ours)
    assert "worker.pem until 20" in repr(ours)
