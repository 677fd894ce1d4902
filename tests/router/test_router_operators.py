"""What operators see and what workers and clients can ask for: debug documents, metrics, berth-no-hedge, pushback."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.http.head import Fields
from berth.ids import VersionKey
from berth.settings import SettingsError
from doubles.scripted_replica import Answer, ScriptedReplica
from router.path.said import may_hedge, pushback_of
from router.settings import RouterSettings

DIGITS = VersionKey("alice", "digits", 1)
BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[1,2]}]}'
ALICE = {"authorization": "Bearer alice-key"}
TOKEN = {"berth-credential": "t" * 43}


@pytest.fixture
async def replicas(credential: PeerCredential) -> AsyncIterator[list[ScriptedReplica]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(ScriptedReplica(name, {DIGITS}).serve(credential)) for name in ("w1", "w2")
        ]


async def post(rig: Any, headers: dict[str, str] | None = None) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://{rig.rest}/v2/models/digits/infer", data=BODY, headers={**ALICE, **(headers or {})}
        ) as response,
    ):
        return response.status


async def get(rig: Any, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{rig.ports.admin}{path}", headers=headers or {}) as response,
    ):
        document = await response.json() if response.content_type == "application/json" else await response.text()
        return response.status, document


async def arrived(answer: Answer) -> None:
    async with asyncio.timeout(10):
        await answer.started.wait()


async def test_the_debug_documents(routing: Any, table_of: Any, replicas: list[ScriptedReplica]) -> None:
    w1, w2 = replicas
    async with routing(table_of({"digits": {1: [w1.address, w2.address]}}, generation=7), zone="z1") as rig:
        assert await post(rig) == 200
        status, routes = await get(rig, "/debug/routes?tenant=alice", TOKEN)
        assert status == 200
        assert routes["order"] == {"epoch": 1, "generation": 7}
        assert routes["counts"] == {"models": 2, "replicas": 2, "keys": 3}
        [model] = routes["models"]
        assert model["versions"] == [{"version": 1, "replicas": ["w1", "w2"], "reason": ""}]
        assert {replica["seen"]["standing"] for replica in routes["replicas"]} == {"fit"}
        assert (await get(rig, "/debug/routes?limit=0", TOKEN))[1]["models"] == []
        assert [m["model"] for m in (await get(rig, "/debug/routes?model=secret", TOKEN))[1]["models"]] == ["secret"]
        status, hedging = await get(rig, "/debug/hedging", TOKEN)
        assert status == 200
        assert hedging["delay"] == "auto"
        assert hedging["unarmed"] == {"no_history": 1}
        [line] = hedging["lines"]
        assert (line["key"], line["size_class"], line["observations"]) == ("alice/digits:1", 0, 1)


@pytest.mark.parametrize("path", ["/debug/routes", "/debug/hedging"])
async def test_who_may_not_read_them(routing: Any, table_of: Any, replicas: list[ScriptedReplica], path: str) -> None:
    async with routing(table_of({"digits": {1: [replicas[0].address]}})) as rig:
        for headers in ({}, ALICE, {"berth-credential": "x" * 43}):
            status, text = await get(rig, path, headers)
            assert status == 403
            assert "alice" not in text
        for limit in ("-1", "x", "999999", "1.5", "²"):
            status, problem = await get(rig, f"{path}?limit={limit}", TOKEN)
            assert (status, problem["type"]) == (400, "urn:berth:problem:invalid-argument")


async def test_a_client_can_do_without_a_second_copy(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica]
) -> None:
    w1, w2 = replicas
    async with routing(table_of({"digits": {1: [w1.address, w2.address]}}), hedge_delay_ms=5.0) as rig:
        stuck = Answer(hold=asyncio.Event())
        # Whoever is asked first is stuck.
        w1.script = w2.script = type(w1.script)([stuck])
        request = asyncio.create_task(post(rig, {"berth-no-hedge": "1", "x-request-id": "alone"}))
        await arrived(stuck)
        # Takes many times the hedge delay.
        for _ in range(20):
            assert await post(rig) == 200
        copies = [seen for replica in replicas for seen in replica.arrived if seen.headers["x-request-id"] == "alone"]
        assert len(copies) == 1
        assert "berth-no-hedge" not in copies[0].headers
        assert not request.done()
        assert stuck.hold is not None
        stuck.hold.set()
        assert await request == 200
        assert 'berth_router_hedges_unarmed_total{reason="asked"} 1.0' in (await get(rig, "/metrics"))[1]


@pytest.mark.parametrize("header", ["berth-pushback-ms", "grpc-retry-pushback-ms"])
async def test_a_worker_that_pushes_back_over_grpc_gets_no_twins(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica], header: str
) -> None:
    w1, w2 = replicas
    async with routing(table_of({"digits": {1: [w1.address, w2.address]}}), hedge_delay_ms=5.0) as rig:
        message = service_pb2.ModelInferRequest(model_name="digits")
        message.inputs.add(name="x", datatype="INT32", shape=[1]).contents.int_contents.append(1)
        async with grpc.aio.insecure_channel(rig.grpc) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            # At the same time, so that both replicas get some: one alone may be picked for as long as it is quicker.
            gate = asyncio.Event()
            for replica in replicas:
                replica.script.extend(Answer(hold=gate, trailers=((header, "30000"),)) for _ in range(8))
            metadata = (*ALICE.items(), ("berth-no-hedge", "1"))
            calls = [infer(message.SerializeToString(), metadata=metadata, timeout=20) for _ in range(8)]
            async with asyncio.timeout(10):
                while sum(len(replica.arrived) for replica in replicas) < 8:
                    await asyncio.wait([asyncio.create_task(get(rig, "/metrics"))])
            gate.set()
            for call in calls:
                await call
                assert header not in dict(await call.trailing_metadata())
            assert all(replica.arrived for replica in replicas)
            for replica in replicas:
                replica.script.clear()
            slow = [Answer(hold=asyncio.Event()) for _ in replicas]
            for replica, answer in zip(replicas, slow, strict=True):
                replica.script.append(answer)
            held = infer(message.SerializeToString(), metadata=tuple(ALICE.items()), timeout=20)
            denied = 0.0
            async with asyncio.timeout(10):
                while not denied:
                    _, text = await get(rig, "/metrics")
                    denied = float(text.split('berth_router_hedges_denied_total{reason="no_replica"} ')[1].split()[0])
            for answer in slow:
                assert answer.hold is not None
                answer.hold.set()
            await held
        _, routes = await get(rig, "/debug/routes", TOKEN)
        assert all(0.0 < replica["seen"]["pushed_back_for"] <= 30.0 for replica in routes["replicas"])


async def test_hedging_is_on_by_default_and_learns(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica]
) -> None:
    w1, w2 = replicas
    async with (
        routing(table_of({"digits": {1: [w1.address, w2.address]}}), hedge_share=0.05, metrics_models=1) as rig,
        asyncio.timeout(30),
    ):
        armed = False
        while not armed:
            assert await post(rig) == 200
            _, hedging = await get(rig, "/debug/hedging", TOKEN)
            armed = any(line["tail"] is not None for line in hedging["lines"])
        stuck = Answer(hold=asyncio.Event())
        w1.script = w2.script = type(w1.script)([stuck])
        assert await post(rig) == 200
        await stuck.ended.wait()
        assert stuck.withdrawn
        text = (await get(rig, "/metrics"))[1]
        assert 'berth_router_hedges_total{event="won"} 0.0' not in text
        assert told_of(text) == {("digits", "1", "w1", "good"), ("digits", "1", "w2", "good")}


def told_of(page: str) -> set[tuple[str, ...]]:
    """Model, version, replica and outcome of what the metrics page has histograms of."""
    lines = [line for line in page.splitlines() if line.startswith("berth_router_model_seconds_count")]
    return {
        tuple(dict(re.findall(r'(\w+)="([^"]*)"', line))[label] for label in ("model", "version", "replica", "outcome"))
        for line in lines
    }


@pytest.mark.parametrize(
    ("script", "headers", "status", "outcome"),
    [
        (Answer(), {}, 200, ("w1", "good")),
        (Answer(status=500, message="broken"), {}, 500, ("w1", "bad")),
        (Answer(status=400, message="wrong shape"), {}, 400, ("w1", "good")),
        (Answer(hold=asyncio.Event()), {"berth-timeout-ms": "50"}, 504, ("w1", "none")),
    ],
)
async def test_latency_is_told_by_replica_and_outcome(
    routing: Any,
    table_of: Any,
    replicas: list[ScriptedReplica],
    script: Answer,
    headers: dict[str, str],
    status: int,
    outcome: tuple[str, str],
) -> None:
    w1, _ = replicas
    w1.script.append(script)
    async with routing(table_of({"digits": {1: [w1.address]}}), metrics_models=1) as rig, asyncio.timeout(30):
        assert await post(rig, headers) == status
        assert told_of((await get(rig, "/metrics"))[1]) == {("digits", "1", *outcome)}


async def test_latency_of_an_answer_that_was_kept_names_no_replica(
    routing: Any, table_of: Any, replicas: list[ScriptedReplica]
) -> None:
    w1, _ = replicas
    table = table_of({"digits": {1: [w1.address]}})
    async with routing(table, metrics_models=1, cache_bytes=100_000) as rig, asyncio.timeout(30):
        assert [await post(rig), await post(rig)] == [200, 200]
        assert told_of((await get(rig, "/metrics"))[1]) == {
            ("digits", "1", "w1", "good"),
            ("digits", "1", "", "cached"),
        }


@pytest.mark.parametrize(
    ("text", "value"), [("auto", "auto"), ("0", 0.0), ("12.5", 12.5), ("", "auto"), ("-1", None), ("soon", None)]
)
def test_the_hedge_delay_is_a_number_or_auto(text: str, value: object) -> None:
    environ = {"BERTH_ROUTE_FEEDS": "127.0.0.1:1", "BERTH_HEDGE_DELAY_MS": text}
    if value is None:
        with pytest.raises(SettingsError, match="BERTH_HEDGE_DELAY_MS"):
            RouterSettings.load(environ)
    else:
        assert RouterSettings.load(environ).hedge_delay_ms == value


@pytest.mark.parametrize(
    ("no_hedge", "may"),
    [(None, True), (b"1", False), (b"", False), (b"0", True)],
)
def test_a_header_forbids_hedging(no_hedge: bytes | None, may: bool) -> None:
    assert may_hedge(no_hedge) is may


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ((), None),
        (((b"x", b"1"),), None),
        (((b"berth-pushback-ms", b"250"),), 0.25),
        (((b"grpc-retry-pushback-ms", b"0"),), 0.0),
        (((b"grpc-retry-pushback-ms", b"-1"),), float("inf")),
        (((b"berth-pushback-ms", b"soon"),), float("inf")),
    ],
)
def test_what_a_worker_asks_for(fields: Fields, seconds: float | None) -> None:
    assert pushback_of(fields) == seconds
