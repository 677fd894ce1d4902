"""The scripted replicas and the load generator, against real gRPC and HTTP clients: instruments must not lie."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench import open_load, payload
from bench.processes import cpu_seconds
from bench.rig import Replicas, replicas, router, table_of
from bench.service import Service


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Replicas]:
    async with replicas(["replica-a", "replica-b"], tmp_path) as running:
        yield running


@asynccontextmanager
async def stub(target: str) -> AsyncIterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(target) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request(size: int) -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest.FromString(payload.grpc_request(size)[5:])


@pytest.mark.parametrize("size", [payload.SMALL, payload.LARGE])
async def test_grpc_answers_are_whole_and_large_for_large_requests(behind: Replicas, size: int) -> None:
    async with stub(behind.where["replica-b"].grpc) as client:
        replies = await asyncio.gather(*[client.ModelInfer(request(size), timeout=20) for _ in range(20)])
    assert {(reply.model_name, len(reply.raw_output_contents[0])) for reply in replies} == {(payload.MODEL, size)}
    counters = await behind.counters()
    assert [counters[name].answered for name in ("replica-a", "replica-b")] == [0, 20]


@pytest.mark.parametrize("size", [payload.SMALL, payload.LARGE])
async def test_http_answers_are_whole_and_large_for_large_requests(behind: Replicas, size: int) -> None:
    body, headers = payload.http_request(size)
    url = f"http://{behind.where['replica-a'].http}{payload.HTTP_PATH}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
        for _ in range(3):
            async with session.post(url, data=body, headers=headers) as reply:
                content = await reply.read()
                head = int(reply.headers["inference-header-content-length"])
                assert len(content) - head == size
                assert reply.headers["berth-replica"] == "replica-a"


async def test_a_cancelled_request_is_withdrawn_and_frees_its_slot(behind: Replicas) -> None:
    await behind.serve(Service(least_ms=60_000.0))
    async with stub(behind.where["replica-a"].grpc) as client:
        # Four run, the others wait: then all are taken back.
        calls = [client.ModelInfer(request(8)) for _ in range(6)]
        await _until(behind, lambda arrived, _: arrived == 6)
        for call in calls:
            call.cancel()
        await _until(behind, lambda _, withdrawn: withdrawn == 6)
        await behind.serve(Service(least_ms=1.0))
        await client.ModelInfer(request(8), timeout=10)


async def test_the_open_loop_accounts_for_every_request_through_a_real_router(behind: Replicas, tmp_path: Path) -> None:
    async with router(table_of(behind.where), tmp_path, {}, cores=_cores()) as running:
        samples = await open_load.drive(running.side.grpc, rate=200, seconds=0.5)
        assert cpu_seconds(running.side.pid)[running.side.pid] > 0
    assert [sample.good for sample in samples] == [True] * 100
    assert sum(counters.answered for counters in (await behind.counters()).values()) == 100


async def test_refusals_are_no_good_answers(behind: Replicas, tmp_path: Path) -> None:
    table = table_of({"nobody": behind.where["replica-a"]._replace(grpc="127.0.0.1:1")})
    async with router(table, tmp_path, {"patience_s": 0}, cores=_cores()) as running:
        samples = await open_load.drive(running.side.grpc, rate=100, seconds=0.1)
    assert [sample.good for sample in samples] == [False] * 10


def _cores() -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


async def _until(behind: Replicas, reached: Callable[[int, int], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            counters = (await behind.counters())["replica-a"]
            if reached(counters.arrived, counters.withdrawn):
                return
