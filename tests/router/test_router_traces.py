"""Traces through the whole router: real clients, real replicas, a real collector."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from doubles.otlp_collector import OtlpCollector
from doubles.scripted_replica import Answer, ScriptedReplica

DIGITS = VersionKey("alice", "digits", 1)
BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[41,42]}]}'
ALICE = {"authorization": "Bearer alice-key"}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "vendor=1"}


@pytest.fixture
async def replicas(credential: PeerCredential) -> AsyncIterator[list[ScriptedReplica]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(ScriptedReplica(name, {DIGITS}).serve(credential)) for name in ("w1", "w2")
        ]


@pytest.fixture
async def collector() -> AsyncIterator[OtlpCollector]:
    async with OtlpCollector().serve() as running:
        yield running


async def ask(rig: Any, wire: str, headers: dict[str, str], model: str = "digits") -> bool:
    """Whether it was answered well."""
    if wire == "rest":
        url = f"http://{rig.rest}/v2/models/{model}/infer"
        async with aiohttp.ClientSession() as session, session.post(url, data=BODY, headers=ALICE | headers) as reply:
            await reply.read()
            return reply.status == 200
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="INT32", shape=[2]).contents.int_contents.extend([41, 42])
    async with grpc.aio.insecure_channel(rig.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            await infer(message.SerializeToString(), metadata=tuple((ALICE | headers).items()), timeout=20)
        except grpc.aio.AioRpcError:
            return False
        return True


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_a_hedge_is_a_sibling_of_what_it_overtakes(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica], collector: OtlpCollector, wire: str
) -> None:
    w1, w2 = replicas
    stuck = Answer(hold=asyncio.Event())
    # Whoever is asked first is stuck.
    w1.script = w2.script = deque([stuck])
    routes = table_of({"digits": {1: [w1.address, w2.address]}})
    async with routing(routes, hedge_delay_ms=5.0, otlp_endpoint=collector.endpoint, trace_sample=0.0) as rig:
        assert await ask(rig, wire, SAMPLED)
        await stuck.ended.wait()
    [infer] = collector.named("infer")
    assert (infer.service, infer.kind, infer.trace_id, infer.parent_id) == ("berth-router", "server", TRACE, SPAN)
    about = {name: infer.attributes[name] for name in ("berth.tenant", "berth.model", "berth.version", "berth.answer")}
    assert about == {"berth.tenant": "alice", "berth.model": "digits", "berth.version": 1, "berth.answer": "good"}
    attempts = collector.named("attempt")
    assert {span.attributes["berth.attempt"]: span.attributes["berth.outcome"] for span in attempts} == {
        "first": "lost",
        "hedge": "won",
    }
    assert {(span.kind, span.trace_id, span.parent_id) for span in attempts} == {("client", TRACE, infer.span_id)}
    # Each replica goes on with the span of its own copy.
    arrived = {replica.name: replica.arrived[0].headers for replica in replicas}
    for span in attempts:
        headers = arrived[str(span.attributes["berth.replica"])]
        assert headers["traceparent"] == f"00-{TRACE}-{span.span_id}-01"
        assert headers["tracestate"] == "vendor=1"
        assert infer.start <= span.start <= span.end <= infer.end
    told = repr(collector.spans)
    assert "alice-key" not in told
    assert "41" not in [str(value) for span in collector.spans for value in span.attributes.values()]


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_another_cell_goes_on_with_the_trace(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica], collector: OtlpCollector, wire: str
) -> None:
    traced = {"otlp_endpoint": collector.endpoint, "trace_sample": 0.0}
    async with routing(table_of({"digits": {1: [replicas[0].address]}}), cell="far", **traced) as far:
        near = table_of({"digits": {}}, elsewhere={"digits": {1: ("far",)}})
        known = f"far={far.rest}/{far.grpc}"
        async with routing(near, cell="near", other_cells=known, **traced) as rig:
            assert await ask(rig, wire, SAMPLED)
    attempts = {span.span_id: span for span in collector.named("attempt")}
    infers = {span.parent_id: span for span in collector.named("infer")}
    [passed_on] = [span for span in attempts.values() if span.attributes.get("berth.passed_on") == "far"]
    assert passed_on.parent_id == infers[SPAN].span_id
    assert passed_on.attributes["berth.outcome"] == "won"
    [there] = [span for span in attempts.values() if span is not passed_on]
    assert there.parent_id == infers[passed_on.span_id].span_id
    assert (there.attributes["berth.replica"], "berth.passed_on" in there.attributes) == ("w1", False)
    assert "alice-key" not in repr(collector.spans)


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_a_retry_is_a_sibling_too(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica], collector: OtlpCollector, wire: str
) -> None:
    w1, w2 = replicas
    w1.held = set()
    routes = table_of({"digits": {1: [w1.address, w2.address]}})
    async with routing(routes, otlp_endpoint=collector.endpoint, trace_sample=1.0) as rig:
        async with asyncio.timeout(20):
            while not w1.arrived:
                assert await ask(rig, wire, {})
    retry = next(span for span in collector.named("attempt") if span.attributes["berth.attempt"] == "retry")
    siblings = [span for span in collector.named("attempt") if span.parent_id == retry.parent_id]
    assert [(span.attributes["berth.replica"], span.attributes["berth.outcome"]) for span in siblings] == [
        ("w1", "cancelled"),
        ("w2", "won"),
    ]


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_what_is_refused_says_why(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica], collector: OtlpCollector, wire: str
) -> None:
    async with routing(
        table_of({"digits": {1: [replicas[0].address]}}), otlp_endpoint=collector.endpoint, trace_sample=0.0
    ) as rig:
        # Looked at when the whole of it has come: what is refused earlier has no span.
        assert not await ask(rig, wire, SAMPLED | {"berth-timeout-ms": "5000"}, model="absent")
    for span in collector.named("infer"):
        assert span.attributes["berth.answer"] == "none"
        assert span.attributes["error.type"] == "NotFound"
        assert "berth.tenant" not in span.attributes
    assert not collector.named("attempt")
    if wire == "grpc":
        assert len(collector.named("infer")) == 1


@pytest.mark.parametrize("wire", ["rest", "grpc"])
@pytest.mark.parametrize("traced", [True, False], ids=["a collector", "none"])
async def test_what_is_not_traced_passes_as_it_came(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica], collector: OtlpCollector, wire: str, *, traced: bool
) -> None:
    settings = {"otlp_endpoint": collector.endpoint, "trace_sample": 0.0} if traced else {}
    w1 = replicas[0]
    async with routing(table_of({"digits": {1: [w1.address]}}), **settings) as rig:
        for headers in (UNSAMPLED, {}, SAMPLED | {"x-late": "1"}):
            assert await ask(rig, wire, headers)
    told, silent, sampled = (arrived.headers for arrived in w1.arrived)
    assert {name: told[name] for name in UNSAMPLED} == UNSAMPLED
    assert not SAMPLED.keys() & silent.keys()
    assert (sampled["traceparent"] == SAMPLED["traceparent"]) is not traced
    assert sampled["tracestate"] == "vendor=1"
    assert len(collector.named("infer")) == traced


async def test_a_share_is_traced_anew(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica], collector: OtlpCollector
) -> None:
    w1 = replicas[0]
    async with routing(
        table_of({"digits": {1: [w1.address]}}), otlp_endpoint=collector.endpoint, trace_sample=1.0
    ) as rig:
        for _ in range(3):
            assert await ask(rig, "rest", {})
        assert await ask(rig, "rest", UNSAMPLED)
    assert len({span.trace_id for span in collector.named("infer")}) == 3
    assert all(not span.parent_id for span in collector.named("infer"))
    traceparents = [arrived.headers["traceparent"] for arrived in w1.arrived]
    assert [line[-2:] for line in traceparents] == ["01", "01", "01", "00"]
    assert traceparents[3] == UNSAMPLED["traceparent"]
