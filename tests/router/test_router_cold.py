"""Models that are not loaded, and tenants over their limits, at the router's real ports."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.model import TenantLimits
from doubles.scripted_replica import Answer, ScriptedReplica

DIGITS, OTHER = VersionKey("alice", "digits", 1), VersionKey("alice", "other", 1)
SECRET = VersionKey("bob", "secret", 1)
BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[1,2]}]}'
ALICE = {"authorization": "Bearer alice-key"}
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
async def w1(credential: PeerCredential) -> AsyncIterator[ScriptedReplica]:
    async with ScriptedReplica("w1", {DIGITS, OTHER, SECRET}).serve(credential) as replica:
        yield replica


async def over_rest(address: str, *, body: bytes = BODY, timeout_ms: int = 20_000) -> tuple[int, str, str]:
    """Status, Retry-After, and the error or the model that answered."""
    headers = {**ALICE, "berth-timeout-ms": str(timeout_ms)}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"http://{address}/v2/models/digits/infer", data=body) as response,
    ):
        document = json.loads(await response.read())
        says = document.get("error") or document["model_name"]
        return response.status, response.headers.get("Retry-After", ""), says


async def fetched(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession(headers=ALICE) as session, session.get(url) as response:
        return response.status, await response.text()


async def over_grpc(address: str, *, timeout: float = 20.0) -> tuple[int, str, str]:
    """As `over_rest`, with the number of gRPC's code."""
    request = service_pb2.ModelInferRequest(model_name="digits")
    request.inputs.add(name="x", datatype="INT32", shape=[1]).contents.int_contents.append(1)
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(INFER)(request.SerializeToString(), metadata=tuple(ALICE.items()), timeout=timeout)
        try:
            reply = service_pb2.ModelInferResponse.FromString(await call)
        except grpc.aio.AioRpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            return error.code().value[0], str(trailers.get("retry-after", "")), str(error.details())
        return 0, "", reply.model_name


async def test_requests_wait_for_their_model_and_ask_for_it(w1: ScriptedReplica, routing: Any, table_of: Any) -> None:
    cold = table_of({"digits": {1: []}, "other": {1: [w1.address]}}, generation=1)
    async with routing(cold, cold_hold_s=30.0) as rig:
        held = [asyncio.ensure_future(over_rest(rig.rest)) for _ in range(3)]
        held.append(asyncio.ensure_future(over_grpc(rig.grpc)))
        # Said on the stream, once for all of them, and again while they wait.
        await rig.stream.has_wanted(DIGITS, times=2)
        assert {key for notice in rig.stream.wanted for key in notice} == {DIGITS}
        assert rig.stream.heard[-1] == cold.order
        assert not any(request.done() for request in held)
        await rig.route(table_of({"digits": {1: [w1.address]}, "other": {1: [w1.address]}}, generation=2))
        assert await asyncio.gather(*held) == [(200, "", "digits")] * 3 + [(0, "", "digits")]
        assert len(w1.arrived) == 4
        _, text = await fetched(f"http://127.0.0.1:{rig.ports.admin}/metrics")
        assert 'berth_router_waiting{what="model"} 0.0' in text


async def test_a_model_that_does_not_come(w1: ScriptedReplica, routing: Any, table_of: Any) -> None:
    cold = table_of({"digits": {1: []}, "other": {1: [w1.address]}})
    async with routing(cold, cold_hold_s=0.3) as rig:
        says = "model 'digits' version 1 is not loaded yet"
        rest, rpc = await asyncio.gather(over_rest(rig.rest), over_grpc(rig.grpc))
        assert (rest, rpc) == ((503, "1", says), (grpc.StatusCode.UNAVAILABLE.value[0], "1", says))
        status, retry_after, error = await over_rest(rig.rest, timeout_ms=100)
        assert (status, retry_after, error) == (504, "", f"the deadline passed: {says}")
        assert w1.arrived == []
        # A question does not wait.
        assert (await fetched(f"http://{rig.rest}/v2/models/digits/ready"))[0] == 503


async def test_a_new_stream_hears_what_is_wanted(w1: ScriptedReplica, routing: Any, table_of: Any) -> None:
    cold = table_of({"digits": {1: []}, "other": {1: [w1.address]}})
    async with routing(cold, cold_hold_s=30.0) as rig:
        held = asyncio.ensure_future(over_rest(rig.rest))
        await rig.stream.has_wanted(DIGITS)
        rig.stream.close()
        again = await rig.feed.opened.get()
        await again.has_wanted(DIGITS)
        held.cancel()
        await asyncio.wait([held])


async def test_the_router_is_shared_when_it_is_full(w1: ScriptedReplica, routing: Any, table_of: Any) -> None:
    first = Answer(hold=asyncio.Event())
    w1.script.append(first)
    async with routing(table_of({"digits": {1: [w1.address]}}), max_in_flight=1, queue_wait_s=20.0) as rig:
        holder = asyncio.ensure_future(over_rest(rig.rest))
        await first.started.wait()
        waiting = [asyncio.ensure_future(over_rest(rig.rest)), asyncio.ensure_future(over_grpc(rig.grpc))]
        # Its time is up while it waits; nobody has to leave for that.
        status, _, error = await over_rest(rig.rest, timeout_ms=150)
        assert (status, error) == (504, "the deadline passed while the request waited for its turn")
        assert len(w1.arrived) == 1
        assert first.hold is not None
        first.hold.set()
        assert (await holder)[0] == 200
        assert [(await request)[0] for request in waiting] == [200, 0]


async def test_without_a_queue_a_full_router_says_so(w1: ScriptedReplica, routing: Any, table_of: Any) -> None:
    first = Answer(hold=asyncio.Event())
    w1.script.append(first)
    async with routing(table_of({"digits": {1: [w1.address]}}), max_in_flight=1, queue_requests=0) as rig:
        holder = asyncio.ensure_future(over_rest(rig.rest))
        await first.started.wait()
        says = "the router is at its limit of requests"
        assert await over_rest(rig.rest) == (503, "1", says)
        assert await over_grpc(rig.grpc) == (grpc.StatusCode.UNAVAILABLE.value[0], "1", says)
        assert first.hold is not None
        first.hold.set()
        assert (await holder)[0] == 200


async def test_bytes_are_limited(w1: ScriptedReplica, routing: Any, table_of: Any) -> None:
    limits = (TenantLimits("alice", bytes_per_second=100.0),)
    async with routing(table_of({"digits": {1: [w1.address]}}, limits=limits)) as rig:
        padded = BODY + b" " * (5000 - len(BODY))
        assert (await over_rest(rig.rest, body=padded))[0] == 200
        status, retry_after, error = await over_rest(rig.rest)
        assert (status, error) == (429, "more than 100 bytes of requests per second")
        assert 45 <= int(retry_after) <= 50
        code, retry_after, _ = await over_grpc(rig.grpc)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert int(retry_after) >= 45
