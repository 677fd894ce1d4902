"""Mutual TLS on both inference ports: a certificate of the deployment's authority, or nothing."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2, service_pb2_grpc

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.settings import ProcessSettings, SettingsError
from doubles.certificates import Authority
from worker.serving.server import serve_inference


class Empty:
    def held(self) -> frozenset[VersionKey]:
        return frozenset()

    def acquire(self, key: VersionKey) -> Any:
        raise AssertionError(f"nobody asks for {key}")


def credential(authority: Authority, name: str) -> PeerCredential:
    files = authority.issue(name)
    return PeerCredential.from_settings(ProcessSettings(tls_cert=files.cert, tls_key=files.key, tls_ca=files.ca))


async def status_of(url: str, context: ssl.SSLContext) -> int:
    async with aiohttp.request("GET", url, ssl=context, timeout=aiohttp.ClientTimeout(10)) as response:
        return response.status


async def grpc_live(peer: PeerCredential, port: int) -> bool:
    async with peer.grpc_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = await stub.ServerLive(service_pb2.ServerLiveRequest(), metadata=peer.metadata(), timeout=10)
    return bool(answer.live)


async def test_only_peers_of_the_authority_get_in(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    async with serve_inference(
        Empty(),
        credential=credential(ours, "worker"),
        grpc_address="127.0.0.1:0",
        http_address="127.0.0.1:0",
        replica="w-1",
        registry=CollectorRegistry(),
    ) as server:
        router = credential(ours, "router")
        context = router.client_tls()
        assert context is not None
        assert await status_of(f"https://127.0.0.1:{server.http_port}/v2/health/live", context) == 200
        assert await grpc_live(router, server.grpc_port)

        bare = ssl.create_default_context(cafile=str(ours.issue("nobody").ca))
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await status_of(f"https://127.0.0.1:{server.http_port}/v2", bare)
        foreign = credential(Authority(tmp_path / "theirs"), "router")
        with pytest.raises(grpc.aio.AioRpcError):
            await grpc_live(foreign, server.grpc_port)


async def test_other_addresses_need_tls() -> None:
    with pytest.raises(SettingsError, match="not loopback"):
        async with serve_inference(
            Empty(),
            credential=PeerCredential.from_token("t" * 40),
            grpc_address="127.0.0.1:0",
            http_address="0.0.0.0:0",
            replica="w-1",
            registry=CollectorRegistry(),
        ):
            raise AssertionError("listening")
