"""Answers that no replica gives: kept ones and default ones, over both wires of a real router."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.ids import ModelKey, VersionKey
from berth.model import RouteTable, TenantLimits
from doubles.scripted_replica import Answer, ScriptedReplica

ALICE = {"authorization": "Bearer alice-key"}
BOB = {"authorization": "Bearer bob-key"}
DEFAULT = b'{"model_name":"m","outputs":[{"name":"x","datatype":"INT32","shape":[1],"data":[42]}]}'
CACHE = {"cache_bytes": 1 << 20}


def body(value: int = 1, request_id: str = "") -> bytes:
    document: dict[str, Any] = {"id": request_id} if request_id else {}
    document["inputs"] = [{"name": "x", "datatype": "INT32", "shape": [1], "data": [value]}]
    return json.dumps(document).encode()


def message(value: int = 1) -> bytes:
    request = service_pb2.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype="INT32", shape=[1])
    tensor.contents.int_contents.append(value)
    encoded: bytes = request.SerializeToString()
    return encoded


@pytest.fixture
async def replica(credential: PeerCredential) -> AsyncIterator[ScriptedReplica]:
    held = {VersionKey("alice", "m", 1), VersionKey("alice", "m", 2), VersionKey("bob", "secret", 1)}
    async with ScriptedReplica("w1", held).serve(credential) as replica:
        yield replica


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def infer(
    session: aiohttp.ClientSession, rig: Any, data: bytes, model: str = "m", **headers: str
) -> tuple[int, Any, dict[str, str]]:
    given = {**ALICE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with session.post(f"http://{rig.rest}/v2/models/{model}/infer", data=data, headers=given) as response:
        shown = {name.lower(): value for name, value in response.headers.items()}
        return response.status, json.loads(await response.read()), shown


async def infer_grpc(rig: Any, data: bytes, timeout: float = 20) -> tuple[grpc.StatusCode, Any, dict[str, str]]:
    async with grpc.aio.insecure_channel(rig.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
            data, metadata=tuple(ALICE.items()), timeout=timeout
        )
        try:
            reply: bytes = await call
        except grpc.aio.AioRpcError:
            reply = b""
        said = {**dict(await call.initial_metadata()), **dict(await call.trailing_metadata())}
        return await call.code(), service_pb2.ModelInferResponse.FromString(reply), said


async def test_the_same_request_is_answered_from_memory(
    replica: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"m": {1: [replica.address]}}), **CACHE) as rig:
        first = await infer(session, rig, body(1, "mine"), x_request_id="one")
        again = await infer(session, rig, body(1, "mine"), x_request_id="two")
        assert first[:2] == again[:2]
        assert again[1]["id"] == "mine"
        assert (first[2]["x-request-id"], again[2]["x-request-id"]) == ("one", "two")
        assert (first[2].get("berth-cache"), again[2].get("berth-cache")) == (None, "hit")
        assert ("berth-replica" in first[2], "berth-replica" in again[2]) == (True, False)
        assert len(replica.arrived) == 1
        # Another id, another value, another wire: another request.
        assert (await infer(session, rig, body(1, "other")))[1]["id"] == "other"
        assert (await infer(session, rig, body(2)))[1]["outputs"][0]["data"] == [2]
        one = await infer_grpc(rig, message())
        two = await infer_grpc(rig, message())
        assert (one[0], one[1]) == (two[0], two[1])
        assert one[0] is grpc.StatusCode.OK
        assert ("berth-cache" in one[2], two[2]["berth-cache"]) == (False, "hit")
        assert len(replica.arrived) == 4
        async with session.get(f"http://127.0.0.1:{rig.ports.admin}/metrics") as response:
            metrics = await response.text()
        assert 'berth_router_cache_total{event="hit"} 2.0' in metrics
        assert 'berth_router_cache_total{event="miss"} 4.0' in metrics


async def test_a_client_may_insist_on_a_new_answer(
    replica: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"m": {1: [replica.address]}}), **CACHE) as rig:
        for headers, arrived in (
            ({"cache_control": "no-store"}, 1),
            ({}, 2),
            ({}, 2),
            ({"cache_control": "max-age=0, No-Cache"}, 3),
            ({"cache_control": "no-store"}, 4),
            ({}, 4),
            # What the worker's answer does not depend on makes no difference; what it may depend on does.
            ({"x_mine": "1"}, 4),
            ({"content_type": "text/plain"}, 5),
        ):
            assert (await infer(session, rig, body(), **headers))[0] == 200
            assert len(replica.arrived) == arrived, headers


async def test_only_good_answers_are_kept(
    replica: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"m": {1: [replica.address]}}), **CACHE) as rig:
        for status in (400, 500):
            replica.script.append(Answer(status=status, message="no"))
            assert (await infer(session, rig, body()))[0] == status
        replica.script.append(Answer(status=3, message="no"))
        assert (await infer_grpc(rig, message()))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert (await infer(session, rig, body()))[0] == 200
        assert (await infer_grpc(rig, message()))[0] is grpc.StatusCode.OK
        async with session.get(f"http://{rig.rest}/v2/models/m", headers=ALICE) as response:
            assert "berth-cache" not in response.headers


async def test_nothing_kept_crosses_to_another_tenant_or_version(
    replica: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"m": {1: [replica.address]}}), **CACHE) as rig:
        assert (await infer(session, rig, body(), "secret", **BOB))[0] == 200
        assert (await infer(session, rig, body()))[2].get("berth-cache") is None
        assert (await infer(session, rig, body(), "secret"))[0] == 404
        await rig.route(table_of({"m": {1: [replica.address], 2: [replica.address]}}, generation=2))
        status, document, headers = await infer(session, rig, body())
        assert (status, document["model_version"], headers.get("berth-cache")) == (200, "2", None)
        assert (await infer(session, rig, body(), "m/versions/1"))[2]["berth-cache"] == "hit"
        # Once out of the table, it is not there when it comes back either.
        await rig.route(table_of({"m": {2: [replica.address]}}, generation=3))
        assert (await infer(session, rig, body(), "m/versions/1"))[0] == 404
        await rig.route(table_of({"m": {1: [replica.address], 2: [replica.address]}}, generation=4))
        assert (await infer(session, rig, body(), "m/versions/1"))[2].get("berth-cache") is None


async def test_answers_from_memory_count_against_the_rate(
    replica: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    limits = (TenantLimits("alice", requests_per_second=2.0),)
    async with routing(table_of({"m": {1: [replica.address]}}, limits=limits), **CACHE) as rig:
        statuses = [(await infer(session, rig, body()))[0] for _ in range(12)]
        assert 429 in statuses
        assert len(replica.arrived) == 1


async def test_off_unless_asked_for(
    replica: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"m": {1: [replica.address]}})) as rig:
        for _ in range(2):
            assert (await infer(session, rig, body()))[2].get("berth-cache") is None
        assert len(replica.arrived) == 2


def with_default(table: RouteTable, answer: bytes = DEFAULT) -> RouteTable:
    key = ModelKey("alice", "m")
    return replace(table, models={**table.models, key: replace(table.models[key], default_answer=answer)})


async def test_the_default_answer_leaves_before_the_deadline(
    replica: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(with_default(table_of({"m": {1: [replica.address]}})), **CACHE) as rig:
        for _ in range(2):
            slow = Answer(hold=asyncio.Event())
            replica.script.append(slow)
            began = asyncio.get_running_loop().time()
            status, document, headers = await infer(session, rig, body(), berth_timeout_ms="500")
            assert asyncio.get_running_loop().time() - began > 0.3
            assert (status, document) == (200, json.loads(DEFAULT))
            assert (headers["berth-default-answer"], headers["content-type"]) == ("1", "application/json")
            assert "berth-cache" not in headers
            async with asyncio.timeout(10):
                await slow.ended.wait()
        replica.script.append(Answer(hold=asyncio.Event()))
        code, reply, said = await infer_grpc(rig, message(), timeout=0.5)
        assert (code, said["berth-default-answer"]) == (grpc.StatusCode.OK, "1")
        assert (reply.model_name, reply.outputs[0].name) == ("m", "x")
        assert list(reply.raw_output_contents) == [(42).to_bytes(4, "little")]
        # An answer in time is the replica's.
        status, document, headers = await infer(session, rig, body(7))
        assert (status, document["outputs"][0]["data"], "berth-default-answer" in headers) == (200, [7], False)


async def test_the_default_answer_stands_in_for_a_model_that_is_not_there(
    replica: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(with_default(table_of({"m": {1: []}})), cold_hold_s=0) as rig:
        assert (await infer(session, rig, body()))[1] == json.loads(DEFAULT)
        assert (await infer_grpc(rig, message()))[1].outputs[0].name == "x"
        url = f"http://{rig.rest}/v1/models/m:predict"
        for data, answer in ((b'{"instances": [1]}', {"predictions": [42]}), (b'{"inputs": [1]}', {"outputs": [42]})):
            async with session.post(url, data=data, headers=ALICE) as response:
                assert (response.status, await response.json()) == (200, answer)
                assert response.headers["berth-default-answer"] == "1"
        # It says nothing of readiness, of other versions, or to others.
        async with session.get(f"http://{rig.rest}/v2/models/m/ready", headers=ALICE) as response:
            assert response.status == 503
        assert (await infer(session, rig, body(), "m/versions/9"))[0] == 404
        assert (await infer(session, rig, body(), **BOB))[0] == 404
    async with routing(with_default(table_of({"m": {1: [replica.address]}}))) as rig:
        for status in (503, 504):
            replica.script.append(Answer(status=status, message="not now"))
            assert (await infer(session, rig, body()))[1] == json.loads(DEFAULT)
        for status in (400, 500):
            replica.script.append(Answer(status=status, message="wrong"))
            assert (await infer(session, rig, body()))[0] == status
        replica.script.append(Answer(status=4, message="too late"))
        assert (await infer_grpc(rig, message()))[2]["berth-default-answer"] == "1"
        await rig.route(with_default(table_of({"m": {1: []}}, generation=2), b""))
        assert (await infer(session, rig, body(), berth_timeout_ms="200"))[0] in (503, 504)


async def test_a_tenant_over_its_limit_gets_no_default_answer(
    replica: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    limits = (TenantLimits("alice", requests_per_second=1.0),)
    async with routing(with_default(table_of({"m": {1: [replica.address]}}, limits=limits))) as rig:
        assert 429 in [(await infer(session, rig, body()))[0] for _ in range(6)]
