"""A router in a deployment with mutual TLS and a name: to its feed, to replicas, for clients, and under rotation."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.settings import ProcessSettings
from doubles.certificates import Authority, Files, Mount
from doubles.scripted_replica import ScriptedReplica

NAME = "berth.internal"
HELD = {VersionKey("alice", "m", 1), VersionKey("bob", "secret", 1)}
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}]}).encode()


def trusting(files: Files) -> PeerCredential:
    return PeerCredential.from_settings(
        ProcessSettings(tls_cert=files.cert, tls_key=files.key, tls_ca=files.ca, tls_peer_name=NAME)
    )


def issue(authority: Authority, who: str) -> Files:
    return authority.issue(who, names=[NAME], addresses=[])


@pytest.fixture
def old(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "old")


@pytest.fixture
def credential(old: Authority) -> PeerCredential:
    """Of the feed."""
    return trusting(issue(old, "synchronizer"))


async def ask_rest(address: str, ca: Path) -> int:
    context = ssl.create_default_context(cafile=str(ca))
    headers = {"authorization": "Bearer alice-key"}
    async with aiohttp.request(
        "POST", f"https://{address}/v2/models/m/infer", data=BODY, headers=headers, ssl=context
    ) as response:
        return response.status


async def ask_grpc(address: str, ca: Path) -> grpc.StatusCode:
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="INT32", shape=[1]).contents.int_contents.append(1)
    credentials = grpc.ssl_channel_credentials(await asyncio.to_thread(ca.read_bytes))
    async with grpc.aio.secure_channel(address, credentials) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
            request, metadata=(("authorization", "Bearer alice-key"),), timeout=10
        )
        code: grpc.StatusCode = await call.code()
        return code


async def test_everything_is_rotated_under_a_running_router(routing, table_of, old: Authority, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    new = Authority(tmp_path / "new", "new authority")
    ours = Mount(tmp_path / "router", issue(old, "router"))
    shown = Mount(tmp_path / "clients", old.issue("shown"))
    settings = {
        "tls_cert": ours.files.cert,
        "tls_key": ours.files.key,
        "tls_ca": ours.files.ca,
        "tls_peer_name": NAME,
        "client_tls_cert": shown.files.cert,
        "client_tls_key": shown.files.key,
    }
    async with (
        ScriptedReplica("w1", HELD).serve(trusting(issue(old, "w1"))) as before,
        ScriptedReplica("w2", HELD).serve(trusting(issue(new, "w2"))) as after,
        routing(table_of({"m": {1: [before.address]}}), **settings) as rig,
    ):
        ca = old.issue("any").ca
        assert await ask_rest(rig.rest, ca) == 200
        assert await ask_grpc(rig.grpc, ca) is grpc.StatusCode.OK

        ours.swap(issue(new, "router"))
        shown.swap(new.issue("shown"))
        await rig.route(table_of({"m": {1: [after.address]}}, generation=2))

        ca = new.issue("any").ca
        assert await ask_rest(rig.rest, ca) == 200
        assert await ask_grpc(rig.grpc, ca) is grpc.StatusCode.OK
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask_rest(rig.rest, old.issue("any").ca)


async def test_a_replica_without_the_name_is_no_replica(routing, table_of, old: Authority, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ours = issue(old, "router")
    settings = {
        "tls_cert": ours.cert,
        "tls_key": ours.key,
        "tls_ca": ours.ca,
        "tls_peer_name": NAME,
        "patience_s": 0.1,
        "client_tls_cert": (shown := old.issue("shown")).cert,
        "client_tls_key": shown.key,
    }
    # It has a certificate of the authority, and even for the right address.
    stranger = trusting(old.issue("w1", names=["else.internal"]))
    async with (
        ScriptedReplica("w1", HELD).serve(stranger) as replica,
        routing(table_of({"m": {1: [replica.address]}}), **settings) as rig,
    ):
        assert await ask_rest(rig.rest, shown.ca) == 503
        assert await ask_grpc(rig.grpc, shown.ca) is grpc.StatusCode.UNAVAILABLE
        assert replica.arrived == []
