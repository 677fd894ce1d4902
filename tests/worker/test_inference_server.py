"""The worker's inference ports on loopback: real HTTP and gRPC, real tritonclients, scripted models behind them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import aiohttp
import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2, service_pb2_grpc

from berth.auth.peer import PeerCredential
from berth.errors import InvalidArgument
from berth.ids import VersionKey
from berth.model import Signature, TensorSpec
from berth.oip.datatypes import bytes_array
from worker.runtimes.protocol import Array, LentVersion, NotHeld, nobody
from worker.serving.server import InferenceServer, serve_inference

TOKEN = "t" * 40
CREDENTIAL = PeerCredential.from_token(TOKEN)
KEY = VersionKey("acme", "digits", 3)
SERVABLE = KEY.servable
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("name", "BYTES", (1,)))
)
WAIT_S = 10.0

Inputs = Mapping[str, Array]


async def double(inputs: Inputs) -> dict[str, Array]:
    return {"y": inputs["x"] * 2, "name": bytes_array([b"twice"], (1,))}


class Scripted:
    """A loaded version that runs a coroutine function of the test's."""

    def __init__(self, run: Callable[[Inputs], Awaitable[dict[str, Array]]]) -> None:
        self._run = run
        self.signature = SIGNATURE
        self.borrowers = 0

    def infer_now(self, inputs: Inputs, outputs: Sequence[str]) -> None:
        """Never: what a test scripts may wait."""

    async def infer(
        self, inputs: Inputs, outputs: Sequence[str], started: Callable[[], None] = nobody
    ) -> dict[str, Array]:
        started()
        answers = await self._run(inputs)
        return {name: answers[name] for name in outputs or answers}

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Never."""

    async def unload(self) -> None:
        raise AssertionError("only the keeper unloads")


class Shelf:
    """What the keeper would hold."""

    def __init__(self) -> None:
        self.loaded: dict[VersionKey, Scripted] = {KEY: Scripted(double)}

    def held(self) -> frozenset[VersionKey]:
        return frozenset(self.loaded)

    def acquire(self, key: VersionKey) -> AbstractContextManager[LentVersion]:
        @contextlib.contextmanager
        def borrow() -> Iterator[LentVersion]:
            loaded = self.loaded.get(key)
            if loaded is None:
                raise NotHeld(str(key))
            loaded.borrowers += 1
            try:
                yield loaded
            finally:
                loaded.borrowers -= 1

        return borrow()


class Stuck:
    """A model that answers when told to, and knows what became of its runs."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, inputs: Inputs) -> dict[str, Array]:
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return await double(inputs)


@contextlib.asynccontextmanager
async def serving(
    shelf: Shelf, registry: CollectorRegistry | None = None, **options: Any
) -> AsyncIterator[InferenceServer]:
    options = {"credential": CREDENTIAL, "drain_s": 5.0, "max_body_bytes": 1 << 20, **options}
    async with serve_inference(
        shelf,
        grpc_address="127.0.0.1:0",
        http_address="127.0.0.1:0",
        replica="w-1",
        registry=registry or CollectorRegistry(),
        **options,
    ) as server:
        yield server


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def server(shelf: Shelf) -> AsyncIterator[InferenceServer]:
    async with serving(shelf) as running:
        yield running


@pytest.fixture
async def http(server: InferenceServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.http_port}", headers=CREDENTIAL.headers()) as session:
        yield session


@pytest.fixture
async def stub(server: InferenceServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


BODY = {"id": "seven", "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
PATH = f"/v2/models/{SERVABLE}/infer"


def message(servable: str = SERVABLE, **fields: Any) -> service_pb2.ModelInferRequest:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
    raw = np.array([1, 2, 3], np.float32).tobytes()
    return service_pb2.ModelInferRequest(
        model_name=servable, inputs=[tensor], raw_input_contents=[raw], **{"id": "seven", **fields}
    )


async def test_rest_answers_under_the_tenants_names(http: aiohttp.ClientSession) -> None:
    async with http.post(PATH, json=BODY, headers={"x-request-id": "r-1"}) as response:
        assert response.status == 200
        assert "x-request-id" not in response.headers, "who asked has said it"
        assert response.headers["berth-replica"] == "w-1"
        assert await response.json() == {
            "id": "seven",
            "model_name": "digits",
            "model_version": "3",
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2, 4, 6]},
                {"name": "name", "datatype": "BYTES", "shape": [1], "data": ["twice"]},
            ],
        }


async def test_grpc_answers_under_the_tenants_names(stub: Any) -> None:
    call = stub.ModelInfer(message(outputs=[{"name": "y"}]), metadata=(*CREDENTIAL.metadata(), ("x-request-id", "r-1")))
    answer = await call

    assert (answer.model_name, answer.model_version, answer.id) == ("digits", "3", "seven")
    assert [output.name for output in answer.outputs] == ["y"]
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4, 6]
    initial = dict(await call.initial_metadata())
    assert (initial["x-request-id"], initial["berth-replica"]) == ("r-1", "w-1")


async def test_a_request_id_that_could_break_a_header_is_replaced(http: aiohttp.ClientSession) -> None:
    async with http.get("/v2", headers={"x-request-id": "a b"}) as response:
        assert response.headers["x-request-id"] != "a b"
        assert len(response.headers["x-request-id"]) == 32


async def test_health_and_metadata_over_rest(http: aiohttp.ClientSession) -> None:
    async def get(path: str) -> tuple[int, Any]:
        async with http.get(path) as response:
            return response.status, await response.json()

    assert await get("/v2/health/live") == (200, {"live": True})
    assert await get("/v2/health/ready") == (200, {"ready": True})
    assert await get(f"/v2/models/{SERVABLE}/ready") == (200, {"name": "digits", "ready": True})
    assert await get("/v2/models/acme~digits~4/ready") == (503, {"name": "digits", "ready": False})
    status, document = await get(f"/v2/models/{SERVABLE}")
    assert (status, document["name"], document["versions"]) == (200, "digits", ["3"])
    assert document["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert (await get("/v2"))[1]["name"] == "berth"
    status, document = await get("/v2/models/digits")
    assert (status, document) == (404, {"error": "'digits' is not a servable name"})
    status, document = await get(f"/v2/models/{SERVABLE}/versions/3/ready")
    assert status == 404
    assert "error" in document


def tritonclient_http_sync(port: int, binary: bool) -> list[list[float]]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{port}") as client:
        headers = CREDENTIAL.headers()
        assert client.is_server_live(headers)
        assert client.is_server_ready(headers)
        assert client.is_model_ready(SERVABLE, headers=headers)
        assert client.get_model_metadata(SERVABLE, headers=headers)["name"] == "digits"
        given = triton_http.InferInput("x", [2, 3], "FP32")
        given.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3), binary_data=binary)
        wished = [triton_http.InferRequestedOutput(name, binary_data=binary) for name in ("y", "name")]
        result = client.infer(SERVABLE, [given], outputs=wished, request_id="seven", headers=headers)
        assert result.get_response()["id"] == "seven"
        assert result.as_numpy("name").tolist() == [b"twice" if binary else "twice"]
        compressed = client.infer(SERVABLE, [given], headers=headers, request_compression_algorithm="gzip")
        assert compressed.as_numpy("y").tolist() == result.as_numpy("y").tolist()
        return result.as_numpy("y").tolist()  # type: ignore[no-any-return]


def tritonclient_grpc_sync(port: int) -> list[list[float]]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        headers = CREDENTIAL.headers()
        assert client.is_server_live(headers)
        assert client.is_server_ready(headers)
        assert client.is_model_ready(SERVABLE, headers=headers)
        assert not client.is_model_ready("acme~digits~4", headers=headers)
        assert client.get_server_metadata(headers).name == "berth"
        assert client.get_model_metadata(SERVABLE, headers=headers).name == "digits"
        given = triton_grpc.InferInput("x", [2, 3], "FP32")
        given.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
        result = client.infer(SERVABLE, [given], headers=headers)
        assert result.as_numpy("name").tolist() == [b"twice"]
        return result.as_numpy("y").tolist()  # type: ignore[no-any-return]


TWICE = [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]


@pytest.mark.parametrize("binary", [True, False])
async def test_tritonclient_http(server: InferenceServer, binary: bool) -> None:
    assert await asyncio.to_thread(tritonclient_http_sync, server.http_port, binary) == TWICE


async def test_tritonclient_grpc(server: InferenceServer) -> None:
    assert await asyncio.to_thread(tritonclient_grpc_sync, server.grpc_port) == TWICE


@pytest.mark.parametrize("binary", [True, False])
async def test_tritonclient_http_aio(server: InferenceServer, binary: bool) -> None:
    async with triton_http_aio.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
        given = triton_http.InferInput("x", [2, 3], "FP32")
        given.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3), binary_data=binary)
        result = await client.infer(SERVABLE, [given], headers=CREDENTIAL.headers())
        assert result.as_numpy("y").tolist() == TWICE


async def test_tritonclient_grpc_aio(server: InferenceServer) -> None:
    async with triton_grpc_aio.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        given = triton_grpc.InferInput("x", [2, 3], "FP32")
        given.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
        result = await client.infer(SERVABLE, [given], headers=CREDENTIAL.headers())
        assert result.as_numpy("y").tolist() == TWICE


async def test_strangers_are_refused(server: InferenceServer, stub: Any) -> None:
    url = f"http://127.0.0.1:{server.http_port}"
    async with aiohttp.ClientSession(url, headers={"berth-credential": "x" * 40}) as stranger:
        for path in ("/v2", "/v2/health/ready", f"/v2/models/{SERVABLE}"):
            async with stranger.get(path) as response:
                assert response.status == 401
                assert "error" in await response.json()
        async with stranger.post(PATH, json=BODY) as response:
            assert response.status == 401
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_what_is_not_held_was_not_started(http: aiohttp.ClientSession, stub: Any) -> None:
    async with http.post("/v2/models/acme~digits~4/infer", json=BODY) as response:
        assert response.status == 503
        assert response.headers["berth-not-started"] == "1"
        assert response.headers["Retry-After"] == "1"
        assert await response.json() == {"error": "model 'digits' version 4 is not loaded here"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message("acme~digits~4"), metadata=CREDENTIAL.metadata())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ("berth-not-started", "1") in tuple(caught.value.trailing_metadata())


async def test_bad_requests_are_told_what_is_wrong(http: aiohttp.ClientSession, stub: Any) -> None:
    async with http.post(PATH, data=b"{") as response:
        assert (response.status, response.headers["berth-replica"]) == (400, "w-1")
        assert "berth-not-started" not in response.headers
        assert "not JSON" in (await response.json())["error"]
    wrong = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    async with http.post(PATH, json=wrong) as response:
        assert response.status == 400
        assert "the model takes [-1, 3]" in (await response.json())["error"]
    async with http.post(PATH, json=BODY, headers={"berth-timeout-ms": "soon"}) as response:
        assert response.status == 400
    async with http.put(PATH, json=BODY) as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message(outputs=[{"name": "q"}]), metadata=CREDENTIAL.metadata())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "unknown output 'q'" in (caught.value.details() or "")


async def test_a_malformed_message_is_an_invalid_argument(server: InferenceServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for method in ("ModelInfer", "ModelMetadata", "ModelReady"):
            call: Any = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff\xff\xff", metadata=CREDENTIAL.metadata())
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_methods_that_are_not_served_say_so(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), metadata=CREDENTIAL.metadata())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "RepositoryIndex is not served here"


async def test_deadlines_end_the_run(shelf: Shelf, http: aiohttp.ClientSession, stub: Any) -> None:
    stuck = Stuck()
    shelf.loaded[KEY] = Scripted(stuck)
    async with http.post(PATH, json=BODY, headers={"berth-timeout-ms": "50"}) as response:
        assert response.status == 504
    assert stuck.cancelled.is_set()

    stuck = Stuck()
    shelf.loaded[KEY] = Scripted(stuck)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message(), metadata=CREDENTIAL.metadata(), timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(WAIT_S):
        await stuck.cancelled.wait()
    assert shelf.loaded[KEY].borrowers == 0


async def test_a_client_that_hangs_up_ends_its_run(
    shelf: Shelf, server: InferenceServer, http: aiohttp.ClientSession, stub: Any
) -> None:
    async def over_http() -> None:
        async with http.post(PATH, json=BODY):
            raise AssertionError("it never answers")

    async def over_grpc() -> None:
        await stub.ModelInfer(message(), metadata=CREDENTIAL.metadata())

    for ask in (over_http, over_grpc):
        stuck = Stuck()
        shelf.loaded[KEY] = Scripted(stuck)
        client = asyncio.create_task(ask())
        async with asyncio.timeout(WAIT_S):
            await stuck.begun.wait()
            assert server.in_flight == 1
            client.cancel()
            await stuck.cancelled.wait()
        with contextlib.suppress(asyncio.CancelledError):
            await client
        assert shelf.loaded[KEY].borrowers == 0
    assert server.in_flight == 0


async def test_bodies_beyond_the_limit(http: aiohttp.ClientSession, stub: Any) -> None:
    async with http.post(PATH, data=io.BytesIO(b"[" * ((1 << 20) + 1))) as response:
        assert response.status == 413
        assert "larger than 1048576 bytes" in (await response.json())["error"]
    too_large = message()
    too_large.raw_input_contents[0] = bytes(2 << 20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(too_large, metadata=CREDENTIAL.metadata())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with http.get("/v2/health/live") as response:
        assert response.status == 200


async def test_large_tensors_are_answered_off_the_loop(shelf: Shelf, http: aiohttp.ClientSession) -> None:
    rows = 20_000
    body = {"inputs": [{"name": "x", "shape": [rows, 3], "datatype": "FP32", "data": [1.5] * (3 * rows)}]}
    async with http.post(PATH, json=body) as response:
        assert response.status == 200
        assert (await response.json())["outputs"][0]["data"] == [3.0] * (3 * rows)

    # Beyond every limit of the request: what a model gives is not bounded here.
    async def widen(_: Inputs) -> dict[str, Array]:
        return {"y": np.ones((400_000, 3), np.float32), "name": bytes_array([b"wide"], (1,))}

    shelf.loaded[KEY] = Scripted(widen)
    async with http.post(PATH, json={**BODY, "parameters": {"binary_data_output": True}}) as response:
        assert response.status == 200
        assert len(await response.read()) > 4_800_000


async def test_a_body_that_does_not_arrive() -> None:
    async with serving(Shelf(), body_timeout_s=0.05) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        head = f"POST {PATH} HTTP/1.1\r\nHost: h\r\nberth-credential: {TOKEN}\r\nContent-Length: 100\r\n\r\n"
        writer.write(head.encode() + b"{")
        async with asyncio.timeout(WAIT_S):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
            assert json.loads(await reader.readuntil(b"}")) == {"error": "the body did not arrive within 0.05 s"}
        writer.close()
        await writer.wait_closed()

        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        writer.write(head.replace("\r\n\r\n", "\r\nberth-timeout-ms: 1\r\n\r\n").encode())
        async with asyncio.timeout(WAIT_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 504 ")
        writer.close()
        await writer.wait_closed()


async def test_a_fault_of_ours_says_nothing_of_the_inside(shelf: Shelf, http: aiohttp.ClientSession, stub: Any) -> None:
    async def break_(_: Inputs) -> dict[str, Array]:
        raise ZeroDivisionError("secret")

    shelf.loaded[KEY] = Scripted(break_)
    async with http.post(PATH, json=BODY) as response:
        assert response.status == 500
        assert "secret" not in await response.text()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message(), metadata=CREDENTIAL.metadata())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")


async def test_what_the_model_rejects_is_the_clients_to_mend(shelf: Shelf, http: aiohttp.ClientSession) -> None:
    async def reject(_: Inputs) -> dict[str, Array]:
        raise InvalidArgument("shape 7 does not divide 3")

    shelf.loaded[KEY] = Scripted(reject)
    async with http.post(PATH, json=BODY) as response:
        assert (response.status, await response.json()) == (400, {"error": "shape 7 does not divide 3"})


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
async def test_leaving_drains_what_is_under_way(shelf: Shelf, protocol: str) -> None:
    stuck = Stuck()
    shelf.loaded[KEY] = Scripted(stuck)

    async def ask(server: InferenceServer) -> bool:
        if protocol == "grpc":
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                answer = await stub.ModelInfer(message(), metadata=CREDENTIAL.metadata())
                return str(answer.id) == "seven"
        url = f"http://127.0.0.1:{server.http_port}{PATH}"
        async with aiohttp.request("POST", url, json=BODY, headers=CREDENTIAL.headers()) as response:
            return response.status == 200

    async with asyncio.timeout(WAIT_S):
        async with serving(shelf) as server:
            client = asyncio.create_task(ask(server))
            await stuck.begun.wait()
            # Released only once the servers have begun to stop: the loop gets there before the callback does.
            asyncio.get_running_loop().call_later(0.05, stuck.go.set)
        assert await client


async def test_outcomes_are_counted(shelf: Shelf) -> None:
    registry = CollectorRegistry()
    async with serving(shelf, registry) as server:
        for path, body in ((PATH, BODY), (PATH, {}), ("/v2/models/a~b~1/infer", BODY)):
            url = f"http://127.0.0.1:{server.http_port}{path}"
            async with aiohttp.request("POST", url, json=body, headers=CREDENTIAL.headers()):
                pass

    def count(outcome: str) -> float | None:
        labels = {"protocol": "rest", "outcome": outcome}
        return registry.get_sample_value("berth_worker_inference_requests_total", labels)

    assert (count("ok"), count("invalid-argument"), count("not-started")) == (1, 1, 1)
    assert registry.get_sample_value("berth_worker_inference_seconds_count", {"protocol": "rest"}) == 1
    assert registry.get_sample_value("berth_worker_inference_in_flight") == 0
