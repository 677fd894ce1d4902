"""What gRPC clients see beyond single calls: `ModelStreamInfer`, compression, odd texts, REST and gRPC on one port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import aiohttp
import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2, service_pb2_grpc

from berth.auth.peer import PeerCredential
from berth.errors import InvalidArgument
from berth.ids import VersionKey
from berth.model import Signature, TensorSpec
from berth.oip import rpc
from berth.oip.request import InferRequest
from worker.runtimes.protocol import Array, LentVersion, NotHeld, nobody
from worker.serving.server import InferenceServer, serve_inference

CREDENTIAL = PeerCredential.from_token("t" * 40)
KEY = VersionKey("acme", "echo", 7)
WAIT_S = 10.0
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))

Inputs = Mapping[str, Array]


class Echo:
    """Gives back what it gets. A negative first element is rejected; zero waits for `go`, after `started`."""

    def __init__(self, *, at_once: bool) -> None:
        self.signature = SIGNATURE
        self.at_once = at_once
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.hold_back = False

    def infer_now(self, inputs: Inputs, outputs: Sequence[str]) -> dict[str, Array] | None:
        if not self.at_once or inputs["x"][0] == 0:
            return None
        if inputs["x"][0] < 0:
            raise InvalidArgument("négatif: 100 % ✗\n")
        return {"y": inputs["x"]}

    async def infer(
        self, inputs: Inputs, outputs: Sequence[str], started: Callable[[], None] = nobody
    ) -> dict[str, Array]:
        if not self.hold_back:
            started()
        if inputs["x"][0] < 0:
            raise InvalidArgument("négatif: 100 % ✗\n")
        if inputs["x"][0] == 0:
            self.waiting.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return {"y": inputs["x"]}

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Never."""

    async def unload(self) -> None:
        raise AssertionError("only the keeper unloads")


class Held:
    def __init__(self, echo: Echo) -> None:
        self._echo = echo

    def held(self) -> frozenset[VersionKey]:
        return frozenset((KEY,))

    def acquire(self, key: VersionKey) -> AbstractContextManager[LentVersion]:
        if key != KEY:
            raise NotHeld(str(key))

        @contextlib.contextmanager
        def borrow() -> Iterator[LentVersion]:
            yield self._echo

        return borrow()


@pytest.fixture(params=[True, False], ids=["at once", "later"])
def echo(request: pytest.FixtureRequest) -> Echo:
    return Echo(at_once=request.param)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def server(echo: Echo, registry: CollectorRegistry) -> AsyncIterator[InferenceServer]:
    async with serve_inference(
        Held(echo),
        credential=CREDENTIAL,
        grpc_address="127.0.0.1:0",
        http_address="127.0.0.1:0",
        replica="w-1",
        registry=registry,
        max_body_bytes=8 << 20,
        drain_s=5.0,
    ) as running:
        yield running


UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@pytest.fixture
async def stub(server: InferenceServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=UNLIMITED) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def ask(values: Sequence[float] | Array, model: str = KEY.servable, request_id: str = "") -> Any:
    return rpc.encode_request(model, InferRequest({"x": np.asarray(values, np.float32)}, id=request_id))


def values(answer: Any) -> list[float]:
    assert not answer.error_message
    return np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32).tolist()  # type: ignore[no-any-return]


async def test_a_stream_is_answered_message_by_message_in_order(stub: Any) -> None:
    questions = [ask([1]), ask([-1]), ask([2], "acme~echo~8"), ask([3] * 500_000), ask([4])]
    async with asyncio.timeout(WAIT_S):
        call = stub.ModelStreamInfer(iter(questions), metadata=(*CREDENTIAL.metadata(), ("x-request-id", "r-1")))
        answers = [answer async for answer in call]
        initial = dict(await call.initial_metadata())
    assert values(answers[0]) == [1]
    assert answers[1].error_message == "négatif: 100 % ✗\n"
    assert answers[2].error_message == "model 'echo' version 8 is not loaded here"
    assert len(values(answers[3])) == 500_000
    assert values(answers[4]) == [4]
    assert len(answers) == 5
    assert (initial["berth-replica"], initial["x-request-id"]) == ("w-1", "r-1")
    assert await call.code() is grpc.StatusCode.OK


async def test_a_client_that_converses_gets_each_answer_before_it_asks_on(stub: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        call = stub.ModelStreamInfer(metadata=CREDENTIAL.metadata())
        for number in range(1, 20):
            await call.write(ask([number]))
            assert values(await call.read()) == [number]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_a_stream_that_sends_far_ahead_of_what_it_reads(stub: Any) -> None:
    """40 MB each way: more than all windows hold, so both sides must give way to each other."""
    count = 20
    big = np.full(500_000, 1.0, np.float32)
    async with asyncio.timeout(30):
        call = stub.ModelStreamInfer((ask(big * (n + 1)) for n in range(count)), metadata=CREDENTIAL.metadata())
        firsts = [values(answer)[0] async for answer in call]
    assert firsts == [float(n + 1) for n in range(count)]


async def test_an_empty_stream_ends_well(stub: Any) -> None:
    call = stub.ModelStreamInfer(iter(()), metadata=CREDENTIAL.metadata())
    async with asyncio.timeout(WAIT_S):
        assert [answer async for answer in call] == []
        assert await call.code() is grpc.StatusCode.OK


async def test_a_malformed_message_in_a_stream_costs_that_message(server: InferenceServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, asyncio.timeout(WAIT_S):
        method: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        call = method(iter((b"\xff\xff", ask([5]).SerializeToString())), metadata=CREDENTIAL.metadata())
        answers = [service_pb2.ModelStreamInferResponse.FromString(raw) async for raw in call]
    assert answers[0].error_message == "the message is not a ModelInferRequest"
    assert values(answers[1]) == [5]


async def test_a_stream_given_up_ends_its_run(echo: Echo, server: InferenceServer, stub: Any) -> None:
    call = stub.ModelStreamInfer(metadata=CREDENTIAL.metadata())
    async with asyncio.timeout(WAIT_S):
        await call.write(ask([0]))
        await echo.waiting.wait()
        call.cancel()
        await echo.cancelled.wait()
    assert server.in_flight == 0


@pytest.mark.parametrize("begun", [True, False])
async def test_what_is_cancelled_after_it_began_is_counted_as_waste(
    echo: Echo, server: InferenceServer, stub: Any, registry: CollectorRegistry, begun: bool
) -> None:
    echo.hold_back = not begun
    call = stub.ModelInfer(ask([0]), metadata=CREDENTIAL.metadata())
    async with asyncio.timeout(WAIT_S):
        await echo.waiting.wait()
        call.cancel()
        await echo.cancelled.wait()
    assert server.in_flight == 0
    assert registry.get_sample_value("berth_worker_wasted_total") == float(begun)


async def test_texts_beyond_ascii_arrive(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(ask([-1]), metadata=(*CREDENTIAL.metadata(), ("x-request-id", "r-2")))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "négatif: 100 % ✗\n"
    trailing = dict(caught.value.trailing_metadata())
    assert (trailing["berth-replica"], trailing["x-request-id"]) == ("w-1", "r-2")


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages(stub: Any, compression: grpc.Compression) -> None:
    answer = await stub.ModelInfer(ask([2] * 5000), metadata=CREDENTIAL.metadata(), compression=compression)
    assert len(answer.raw_output_contents[0]) == 20_000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(ask([2] * 4_000_000), metadata=CREDENTIAL.metadata(), compression=compression)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_many_large_messages_share_a_connection(stub: Any) -> None:
    """40 at once of 300 KB each way, over one connection."""
    big = np.arange(75_000, dtype=np.float32)
    async with asyncio.timeout(30):
        calls = (stub.ModelInfer(ask(big + n + 1), metadata=CREDENTIAL.metadata()) for n in range(40))
        answers = await asyncio.gather(*calls)
    for n, answer in enumerate(answers):
        assert answer.raw_output_contents[0] == (big + n + 1).tobytes()


async def test_either_port_speaks_both(server: InferenceServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.http_port}") as channel:
        live = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive(
            service_pb2.ServerLiveRequest(), metadata=CREDENTIAL.metadata()
        )
        assert live.live
    url = f"http://127.0.0.1:{server.grpc_port}/v2/health/live"
    async with aiohttp.request("GET", url, headers=CREDENTIAL.headers()) as response:
        assert (response.status, await response.json()) == (200, {"live": True})
