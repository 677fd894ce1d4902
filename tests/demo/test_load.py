"""The load generator against real servers: every request is accounted for, with its time and its error."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2_grpc

from berth.demo.load import Inputs, RequestFailed, VersionedAnswer, open_targets, quantile, steady_load, summarize
from berth.oip import rest, rpc
from berth.oip.request import InferRequest, InferResponse
from doubles.scripted_http import Scripted, serve_script

X = np.array([[1.0, 2.0]], np.float32)
ANSWER = InferResponse("m", "4", {"y": X * 2})


class Doubler(service_pb2_grpc.GRPCInferenceServiceServicer):
    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the method
        if ("authorization", "Bearer k") not in tuple(context.invocation_metadata()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")
        await context.send_initial_metadata((("berth-replica", "w-1"),))
        inputs = rpc.decode_request(request).inputs
        return rpc.encode_response(InferResponse("m", request.model_version or "4", {"y": inputs["x"] * 2}))


@asynccontextmanager
async def serve_grpc() -> AsyncIterator[str]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Doubler(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def rest_answer() -> Scripted:
    body = rest.encode_response(ANSWER, InferRequest({}, binary_outputs=True))
    return Scripted(200, body.content, {**body.headers, "berth-replica": "w-0"})


async def test_both_protocols_are_used_in_turn_and_nothing_is_lost() -> None:
    async with serve_script() as server, serve_grpc() as address:
        server.script("POST /v2/models/m/infer", rest_answer())
        async with (
            open_targets(model="m", key="k", rest_urls=[server.url], grpc_targets=[address]) as targets,
            steady_load(targets, [{"x": X}], rate=500) as load,
        ):
            await load.wait_for(40)
    summary = summarize(load.samples)
    assert summary.failed == 0
    assert set(summary.replicas) == {"w-0", "w-1"}
    assert summary.versions == {"4": summary.requests}
    assert 0 < summary.p50 <= summary.p99
    protocols = [sample.protocol for sample in load.samples]
    assert abs(protocols.count("REST") - protocols.count("gRPC")) <= 1
    for sample in load.samples:
        assert sample.answer is not None
        np.testing.assert_array_equal(sample.answer.outputs["y"], X * 2)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Scripted.json({"error": "not loaded"}, 503), "status 503"),
        (Scripted(200, b"{}"), "InvalidArgument"),
        (Scripted(200, b"{", {"content-length": "9"}, cut=True), "ClientPayloadError"),
    ],
)
async def test_every_kind_of_failure_over_rest_is_counted(answer: Scripted, text: str) -> None:
    async with serve_script() as server:
        server.script("POST /v2/models/m/versions/7/infer", answer)
        async with open_targets(model="m", key="k", rest_urls=[server.url], version="7") as targets:
            with pytest.raises(RequestFailed, match=text):
                await targets[0].ask({"x": X})


async def test_a_refused_or_absent_grpc_server_is_counted() -> None:
    async with serve_grpc() as address, open_targets(model="m", key="wrong", grpc_targets=[address]) as targets:
        with pytest.raises(RequestFailed, match="UNAUTHENTICATED: no key"):
            await targets[0].ask({"x": X})
    async with open_targets(model="m", key="k", grpc_targets=["127.0.0.1:1"], timeout_s=5) as targets:
        with pytest.raises(RequestFailed, match="UNAVAILABLE"):
            await targets[0].ask({"x": X})


class Stalling:
    """Answers nothing until it is released."""

    protocol = "test"

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.under_way = 0

    async def ask(self, inputs: Inputs) -> VersionedAnswer:
        self.under_way += 1
        await self.released.wait()
        return VersionedAnswer({}, "1", "w")


@pytest.mark.looptime
async def test_a_stall_shows_in_the_latencies_and_requests_are_bounded() -> None:
    stalling = Stalling()
    async with steady_load([stalling], [{}], rate=100, most_in_flight=10) as load:
        asyncio.get_running_loop().call_later(2.0, stalling.released.set)
        await load.wait_for(150)
        assert stalling.under_way >= 150
    waited = [sample.latency_s for sample in load.samples]
    assert max(waited) == pytest.approx(2.0, abs=0.05)
    # Those that were due while the server stalled waited too, though they could not be sent.
    assert sum(latency > 0.5 for latency in waited) >= 100


@pytest.mark.looptime
async def test_the_schedule_is_kept() -> None:
    stalling = Stalling()
    stalling.released.set()
    async with steady_load([stalling], [{}], rate=100) as load:
        await load.wait_for(101)
        assert asyncio.get_running_loop().time() == pytest.approx(1.0, abs=0.05)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_members_and_grow(values: list[float], share: float) -> None:
    ordered = sorted(values)
    assert quantile(ordered, share) in ordered
    assert quantile(ordered, share) >= quantile(ordered, share / 2)
