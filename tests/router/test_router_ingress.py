"""The router's ports, as clients and attackers meet them; real replicas behind, whose answers are scripted."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.headers import INFERENCE_HEADER_LENGTH_TEXT
from berth.ids import VersionKey
from berth.model import ReplicaAddress, TenantLimits
from doubles.scripted_replica import Answer, ScriptedReplica, dying_port

DIGITS = VersionKey("alice", "digits", 1)
SECRET = VersionKey("bob", "secret", 1)
BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[1,2]}]}'
ALICE = {"authorization": "Bearer alice-key"}
INFER = "/inference.GRPCInferenceService/ModelInfer"


def message(model: str = "digits", version: str = "") -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    tensor = request.inputs.add(name="x", datatype="INT32", shape=[2])
    tensor.contents.int_contents.extend([1, 2])
    encoded: bytes = request.SerializeToString()
    return encoded


@pytest.fixture
async def replicas(credential: PeerCredential) -> AsyncIterator[list[ScriptedReplica]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(ScriptedReplica(name, {DIGITS, SECRET}).serve(credential))
            for name in ("w1", "w2")
        ]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def exchange(address: str, request: bytes) -> bytes:
    """The answer to raw bytes, by its length: the router may linger before it closes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        assert length is not None
        return answer + await reader.readexactly(int(length[1]))
    finally:
        writer.close()
        await writer.wait_closed()


async def infer(
    target: str,
    body: bytes,
    metadata: tuple[tuple[str, str], ...] = (("authorization", "Bearer alice-key"),),
    **how: Any,
) -> tuple[grpc.StatusCode, str, dict[str, str], bytes]:
    """Code, details, all metadata that came, reply."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(how.pop("method", INFER))(body, metadata=metadata, timeout=how.pop("timeout", 20))
        try:
            reply: bytes = await call
        except grpc.aio.AioRpcError:
            reply = b""
        said = {**dict(await call.initial_metadata()), **dict(await call.trailing_metadata())}
        return await call.code(), await call.details(), said, reply


async def test_a_request_reaches_the_replica_and_the_answer_comes_back(
    replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    w1 = replicas[0]
    async with routing(table_of({"digits": {1: [w1.address]}})) as rig:
        headers = {**ALICE, "x-request-id": "r-1", "berth-timeout-ms": "5000", "berth-credential": "x", "X-Mine": "1"}
        async with session.post(f"http://{rig.rest}/v2/models/digits/infer", data=BODY, headers=headers) as response:
            assert (response.status, response.headers["berth-replica"]) == (200, "w1")
            assert response.headers["x-request-id"] == "r-1"
            assert (await response.json())["outputs"][0]["data"] == [1, 2]
        metadata = (*ALICE.items(), ("x-request-id", "r-2"), ("berth-credential", "x"), ("x-mine", "1"))
        code, _, said, reply = await infer(rig.grpc, message(), metadata, timeout=5)
        assert (code, said["berth-replica"], said["x-request-id"]) == (grpc.StatusCode.OK, "w1", "r-2")
        assert service_pb2.ModelInferResponse.FromString(reply).model_name == "digits"
    by_rest, by_grpc = w1.arrived
    for arrived, request_id in ((by_rest, "r-1"), (by_grpc, "r-2")):
        assert arrived.servable == "alice~digits~1"
        assert arrived.headers["x-request-id"] == request_id
        assert arrived.headers["x-mine"] == "1"
        assert "authorization" not in arrived.headers
    assert by_rest.body == BODY
    assert 1000 < int(by_rest.headers["berth-timeout-ms"]) <= 5000
    assert 1 < float(by_grpc.headers["time-remaining"]) < 5.1


REFUSED = [
    # method, path, headers, body, status, part of the error
    ("POST", "/v2/models/digits/infer", {}, BODY, 401, "Authorization: Bearer"),
    ("POST", "/v2/models/digits/infer", {"authorization": "Bearer nope"}, BODY, 401, "unknown"),
    ("POST", "/v2/models/digits/infer", {"authorization": "Basic alice-key"}, BODY, 401, "Authorization: Bearer"),
    ("POST", "/v2/models/digits/infer", {"authorization": "Bearer admin-key"}, BODY, 403, "tenant's key"),
    ("POST", "/v2/models/nope/infer", ALICE, BODY, 404, "model 'nope' does not exist"),
    ("POST", "/v2/models/secret/infer", ALICE, BODY, 404, "model 'secret' does not exist"),
    ("POST", "/v2/models/digits/versions/9/infer", ALICE, BODY, 404, "serves no version '9'"),
    ("POST", "/v2/models/digits/versions/2/infer", ALICE, BODY, 503, "version 2 is not loaded yet"),
    ("POST", "/v2/models/..%2f..%2fetc/infer", ALICE, BODY, 404, "does not exist"),
    ("POST", "/v2/models/alice~digits~1/infer", ALICE, BODY, 404, "does not exist"),
    ("GET", "/v2/models/digits/infer", ALICE, b"", 405, "only POST"),
    ("POST", "/v2/models/digits", ALICE, BODY, 405, "only GET"),
    ("GET", "/v2/repository/index", ALICE, b"", 404, "no such path"),
    ("POST", "/v2/models/digits/infer", {**ALICE, "berth-timeout-ms": "soon"}, BODY, 400, "milliseconds"),
    ("POST", "/v2/models/digits/infer", ALICE, b"x" * 3000, 413, "2000 are allowed"),
    ("GET", "/v2/models/%ff", ALICE, b"", 400, "UTF-8"),
]


async def test_refusals_over_rest(
    replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"digits": {1: [replicas[0].address], 2: []}}), max_body_bytes=2000) as rig:
        from yarl import URL

        for method, path, headers, body, status, says in REFUSED:
            url = URL(f"http://{rig.rest}{path}", encoded=True)
            async with session.request(method, url, data=body, headers=headers) as response:
                document = await response.json()
                assert (response.status, says in document["error"]) == (status, True), (path, document)
                assert list(document) == ["error"]
                assert len(response.headers["x-request-id"]) == 32
                assert ("Retry-After" in response.headers) == (status == 503)
        for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
            async with session.get(f"http://{rig.rest}{path}") as response:
                assert response.status == 200
    assert replicas[0].arrived == []


async def test_refusals_over_grpc(replicas: list[ScriptedReplica], routing: Any, table_of: Any) -> None:
    code = grpc.StatusCode
    async with routing(table_of({"digits": {1: [replicas[0].address], 2: []}}), max_body_bytes=2000) as rig:
        for body, metadata, expected, says in [
            (message(), (), code.UNAUTHENTICATED, "Authorization: Bearer"),
            (message(), (("authorization", "Bearer nope"),), code.UNAUTHENTICATED, "unknown"),
            (message(), (("authorization", "Bearer admin-key"),), code.PERMISSION_DENIED, "tenant's key"),
            (message("nope"), tuple(ALICE.items()), code.NOT_FOUND, "model 'nope' does not exist"),
            (message("secret"), tuple(ALICE.items()), code.NOT_FOUND, "model 'secret' does not exist"),
            (message("digits", "9"), tuple(ALICE.items()), code.NOT_FOUND, "serves no version '9'"),
            (message("digits", "2"), tuple(ALICE.items()), code.UNAVAILABLE, "version 2 is not loaded yet"),
            (b"\xff\xff\xff", tuple(ALICE.items()), code.INVALID_ARGUMENT, "not valid protobuf"),
            (b"", tuple(ALICE.items()), code.NOT_FOUND, "model '' does not exist"),
            (
                message() + b"\x3a\xb8\x17" + bytes(3000),
                tuple(ALICE.items()),
                code.RESOURCE_EXHAUSTED,
                "larger than max",
            ),
        ]:
            got, details, said, _ = await infer(rig.grpc, body, metadata)
            assert (got, says in details) == (expected, True), details
            assert ("retry-after" in said) == (got is code.UNAVAILABLE)
        ready = service_pb2.ModelReadyRequest(name="digits", version="2").SerializeToString()
        method = "/inference.GRPCInferenceService/ModelReady"
        assert (await infer(rig.grpc, ready, method=method))[0::3] == (code.OK, b"")
        for method in ("RepositoryIndex", "Nonsense"):
            got, *_ = await infer(rig.grpc, b"", method=f"/inference.GRPCInferenceService/{method}")
            assert got is code.UNIMPLEMENTED
        async with grpc.aio.insecure_channel(rig.grpc) as channel:
            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([message()]))
            with pytest.raises(grpc.aio.AioRpcError, match="an API key is needed"):
                await stream.read()
    assert replicas[0].arrived == []


async def test_someone_elses_model_is_byte_for_byte_no_model(
    replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    """Every inference path, over both wires: what Alice sees of Bob's `secret` is what she sees of `secreu`."""
    async with routing(table_of({"digits": {1: [replicas[0].address]}}, labels={"stable": 1})) as rig:

        async def over_rest(method: str, path: str, model: str) -> tuple[object, ...]:
            url = f"http://{rig.rest}{path.format(model)}"
            headers = {**ALICE, "x-request-id": "same"}
            async with session.request(method, url, headers=headers, data=BODY if method == "POST" else None) as reply:
                shown = [(name, value) for name, value in reply.raw_headers if name.lower() != b"date"]
                return reply.status, reply.reason, shown, (await reply.read()).replace(model.encode(), b"MODEL")

        for path in ("/v2/models/{}", "/v2/models/{}/versions/1", "/v2/models/{}/versions/stable"):
            for suffix, method in (("", "GET"), ("/ready", "GET"), ("/infer", "POST"), ("/infer", "GET")):
                assert await over_rest(method, path + suffix, "secret") == await over_rest(
                    method, path + suffix, "secreu"
                )

        async def over_grpc(method: str, version: str, model: str) -> tuple[object, ...]:
            body = message(model, version)
            if method != "ModelInfer":
                body = service_pb2.ModelReadyRequest(name=model, version=version).SerializeToString()
            metadata = (*ALICE.items(), ("x-request-id", "same"))
            code, details, said, reply = await infer(
                rig.grpc, body, metadata, method=f"/inference.GRPCInferenceService/{method}"
            )
            return code, details.replace(model, "MODEL"), said, reply

        for method in ("ModelInfer", "ModelMetadata", "ModelReady"):
            for version in ("", "1", "stable", "9"):
                assert await over_grpc(method, version, "secret") == await over_grpc(method, version, "secreu")
    assert replicas[0].arrived == []


@pytest.mark.parametrize("wire", ["rest", "grpc"])
@pytest.mark.parametrize("end", ["refuses", "dies", "let go"])
async def test_a_replica_that_ends_costs_no_request(
    *,
    wire: str,
    end: str,
    replicas: list[ScriptedReplica],
    session: aiohttp.ClientSession,
    credential: PeerCredential,
    routing: Any,
    table_of: Any,
) -> None:
    """Half of the requests go first to a replica that accepts no connection, breaks it mid-request, or has let go."""
    w1, w2 = replicas
    async with AsyncExitStack() as stack:
        dying = await stack.enter_async_context(dying_port(b"INT32"))
        bad = {
            "refuses": replace(w1.address, http="127.0.0.1:1", grpc="127.0.0.1:1"),
            "dies": replace(w1.address, http=dying, grpc=dying),
            "let go": w1.address,
        }[end]
        w1.held.clear()
        rig = await stack.enter_async_context(routing(table_of({"digits": {1: [bad, w2.address]}})))
        for _ in range(20):
            if wire == "rest":
                async with session.post(
                    f"http://{rig.rest}/v2/models/digits/infer", data=BODY, headers=ALICE
                ) as response:
                    assert (response.status, response.headers["berth-replica"]) == (200, "w2"), await response.text()
            else:
                code, details, said, _ = await infer(rig.grpc, message())
                assert (code, said["berth-replica"]) == (grpc.StatusCode.OK, "w2"), details
        async with session.get(f"http://127.0.0.1:{rig.ports.admin}/metrics") as response:
            metrics = await response.text()
        failure = {"refuses": "unreached", "dies": "broken", "let go": "not_started"}[end]
        assert f'berth_router_attempt_failures_total{{failure="{failure}"}}' in metrics
        assert metrics.count("berth_router_attempt_failures_total{") == 1


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_a_replica_that_stops_under_a_request(
    *,
    wire: str,
    replicas: list[ScriptedReplica],
    session: aiohttp.ClientSession,
    credential: PeerCredential,
    routing: Any,
    table_of: Any,
) -> None:
    """The request has begun there, and the head of its answer may have come: it is answered elsewhere."""
    steady = replicas[0]
    async with AsyncExitStack() as stack:
        stopping = await stack.enter_async_context(ScriptedReplica("w0", {DIGITS}).serve(credential))
        answer = Answer(hold=asyncio.Event())
        stopping.script.append(answer)
        async with routing(table_of({"digits": {1: [stopping.address]}})) as rig:
            if wire == "rest":
                url = f"http://{rig.rest}/v2/models/digits/infer"
                request: asyncio.Future[Any] = asyncio.ensure_future(session.post(url, data=BODY, headers=ALICE))
            else:
                request = asyncio.ensure_future(infer(rig.grpc, message()))
            await answer.started.wait()
            await rig.route(table_of({"digits": {1: [stopping.address, steady.address]}}, generation=2))
            await stack.aclose()
            if wire == "rest":
                async with await request as response:
                    assert (response.status, response.headers["berth-replica"]) == (200, "w1")
            else:
                code, details, said, _ = await request
                assert (code, said["berth-replica"]) == (grpc.StatusCode.OK, "w1"), details


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_when_no_replica_is_left(
    wire: str, replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    gone = ReplicaAddress("w9", "job", "local", "1", "", "127.0.0.1:1", "127.0.0.1:1")
    async with routing(table_of({"digits": {1: [gone]}}), patience_s=0.1) as rig:
        if wire == "rest":
            async with session.post(f"http://{rig.rest}/v2/models/digits/infer", data=BODY, headers=ALICE) as response:
                said, status = (await response.json())["error"], response.status
                assert (status, response.headers["Retry-After"]) == (503, "1")
        else:
            code, said, *_ = await infer(rig.grpc, message())
            assert code is grpc.StatusCode.UNAVAILABLE
        assert said == "no replica of the model could be reached"


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL", "DEADLINE_EXCEEDED"])
async def test_a_workers_status_passes_unchanged(
    status: str, replicas: list[ScriptedReplica], routing: Any, table_of: Any
) -> None:
    w1 = replicas[0]
    number = grpc.StatusCode[status].value[0]
    w1.script.append(
        Answer(status=number, message="input \u201ex\u201c: zw\u00f6lf \u2260 12", trailers=(("why", "because"),))
    )
    async with routing(table_of({"digits": {1: [w1.address]}})) as rig:
        code, details, said, _ = await infer(rig.grpc, message())
        assert (code.name, details) == (status, "input \u201ex\u201c: zw\u00f6lf \u2260 12")
        assert (said["why"], said["berth-replica"]) == ("because", "w1")


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_a_workers_http_status_passes_unchanged(
    status: int, replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    w1 = replicas[0]
    w1.script.append(Answer(status=status, message="zw\u00f6lf"))
    async with (
        routing(table_of({"digits": {1: [w1.address]}})) as rig,
        session.post(f"http://{rig.rest}/v2/models/digits/infer", data=BODY, headers=ALICE) as response,
    ):
        assert (response.status, await response.json()) == (status, {"error": "zw\u00f6lf"})
        assert response.headers["berth-replica"] == "w1"


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_a_client_that_leaves_is_felt_by_the_replica(
    wire: str, replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    w1 = replicas[0]
    answer = Answer(hold=asyncio.Event())
    w1.script.append(answer)
    async with routing(table_of({"digits": {1: [w1.address]}})) as rig:
        request: asyncio.Future[Any]
        if wire == "rest":
            request = asyncio.ensure_future(
                session.post(f"http://{rig.rest}/v2/models/digits/infer", data=BODY, headers=ALICE)
            )
        else:
            request = asyncio.ensure_future(infer(rig.grpc, message()))
        await answer.started.wait()
        request.cancel()
        await asyncio.wait([request])
        await answer.ended.wait()
        assert answer.withdrawn


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_the_deadline_ends_request_and_copy(
    wire: str, replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    w1 = replicas[0]
    answer = Answer(hold=asyncio.Event())
    w1.script.append(answer)
    async with routing(table_of({"digits": {1: [w1.address]}}), default_timeout_s=0.2) as rig:
        if wire == "rest":
            async with session.post(f"http://{rig.rest}/v2/models/digits/infer", data=BODY, headers=ALICE) as response:
                assert (response.status, "deadline" in (await response.json())["error"]) == (504, True)
        else:
            code, *_ = await infer(rig.grpc, message(), timeout=None)
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await answer.ended.wait()
        assert answer.withdrawn


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_a_hedge_wins_and_the_loser_is_withdrawn(
    wire: str, replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    # Whichever replica is picked first holds; the other answers.
    w1, w2 = replicas
    first = Answer(hold=asyncio.Event())
    shared = type(w1.script)([first])
    w1.script = w2.script = shared
    async with routing(table_of({"digits": {1: [w1.address, w2.address]}}), hedge_delay_ms=20.0) as rig:
        if wire == "rest":
            async with session.post(f"http://{rig.rest}/v2/models/digits/infer", data=BODY, headers=ALICE) as response:
                assert response.status == 200
                winner = response.headers["berth-replica"]
        else:
            code, _, said, _ = await infer(rig.grpc, message())
            assert code is grpc.StatusCode.OK
            winner = said["berth-replica"]
        await first.ended.wait()
        assert first.withdrawn
        loser = w1 if winner == "w2" else w2
        assert [len(loser.arrived), len(w1.arrived) + len(w2.arrived)] == [1, 2]
        async with session.get(f"http://127.0.0.1:{rig.ports.admin}/metrics") as response:
            assert 'berth_router_hedges_total{event="won"} 1.0' in await response.text()


async def test_a_tenants_limits(
    replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    w1 = replicas[0]
    answer = Answer(hold=asyncio.Event())
    w1.script.append(answer)
    limits = (TenantLimits("alice", max_concurrent=1),)
    async with routing(table_of({"digits": {1: [w1.address]}}, limits=limits)) as rig:
        url = f"http://{rig.rest}/v2/models/digits/infer"
        first = asyncio.ensure_future(session.post(url, data=BODY, headers=ALICE))
        await answer.started.wait()
        async with session.post(url, data=BODY, headers=ALICE) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "1")
        code, *_ = await infer(rig.grpc, message())
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        code, *_ = await infer(rig.grpc, message("secret"), (("authorization", "Bearer bob-key"),))
        assert code is grpc.StatusCode.OK
        assert answer.hold is not None
        answer.hold.set()
        async with await first as response:
            assert response.status == 200


def head(*lines: str, method: str = "POST") -> bytes:
    start = f"{method} /v2/models/digits/infer HTTP/1.1"
    fixed = ("Host: h", "Authorization: Bearer alice-key", "Connection: close")
    return "\r\n".join((start, *fixed, *lines, "", "")).encode()


async def test_bodies_in_unusual_shapes(replicas: list[ScriptedReplica], routing: Any, table_of: Any) -> None:
    w1 = replicas[0]
    async with routing(table_of({"digits": {1: [w1.address]}}), max_body_bytes=2000, body_timeout_s=0.3) as rig:
        chunked = b"".join(b"%x\r\n%c\r\n" % (1, byte) for byte in BODY) + b"0\r\n\r\n"
        answer = await exchange(rig.rest, head("Transfer-Encoding: chunked") + chunked)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert w1.arrived[-1].body == BODY

        # Announced too large, or found to be so: refused without reading on.
        answer = await exchange(rig.rest, head("Content-Length: 99999999999"))
        assert answer.startswith(b"HTTP/1.1 413 ")
        chunks = b"400\r\n" + b"x" * 1024 + b"\r\n"
        answer = await exchange(rig.rest, head("Transfer-Encoding: chunked") + chunks * 3)
        assert answer.startswith(b"HTTP/1.1 413 ")

        # A body that never ends.
        answer = await exchange(rig.rest, head("Content-Length: 1000") + b"slow")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'{"error": "the body did not arrive' in answer

        # Smuggling: two lengths.
        answer = await exchange(rig.rest, head("Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n")
        assert b" 400 " in answer.splitlines()[0]
        answer = await exchange(rig.rest, head("Content-Length: 3", "Content-Length: 4") + b"abcd")
        assert b" 400 " in answer.splitlines()[0]
        assert len(w1.arrived) == 1


async def test_continue_is_said_only_to_who_may(replicas: list[ScriptedReplica], routing: Any, table_of: Any) -> None:
    async with routing(table_of({"digits": {1: [replicas[0].address]}})) as rig:
        host, _, port = rig.rest.rpartition(":")
        expect = head(f"Content-Length: {len(BODY)}", "Expect: 100-continue")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(expect)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()

        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(expect.replace(b"alice-key", b"wrong"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        writer.close()
        await writer.wait_closed()


async def test_a_large_answer_arrives_whole(
    replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    import numpy as np

    from berth.oip import rest, rpc
    from berth.oip.request import InferRequest

    array = np.random.default_rng(5).integers(0, 256, (1, 5_000_000), dtype=np.uint8)
    async with routing(table_of({"digits": {1: [replicas[0].address]}})) as rig:
        body = rest.encode_request(InferRequest({"x": array}, binary_outputs=True), binary=True)
        url = f"http://{rig.rest}/v2/models/digits/infer"
        async with session.post(url, data=io.BytesIO(body.content), headers={**ALICE, **body.headers}) as response:
            answer = rest.decode_response(await response.read(), response.headers.get(INFERENCE_HEADER_LENGTH_TEXT))
            assert np.array_equal(answer.outputs["x"], array)
        sent = rpc.encode_request("digits", InferRequest({"x": array})).SerializeToString()
        async with grpc.aio.insecure_channel(rig.grpc, options=[("grpc.max_receive_message_length", -1)]) as channel:
            reply = await channel.unary_unary(INFER)(sent, metadata=tuple(ALICE.items()), timeout=20)
        got = rpc.decode_response(service_pb2.ModelInferResponse.FromString(reply))
        assert np.array_equal(got.outputs["x"], array)


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_stopping_lets_requests_end(
    wire: str, replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    w1 = replicas[0]
    answer = Answer(hold=asyncio.Event())
    assert answer.hold is not None
    w1.script.append(answer)
    async with routing(table_of({"digits": {1: [w1.address]}})) as rig:
        ready = f"http://127.0.0.1:{rig.ports.admin}/readyz"
        async with session.get(ready) as response:
            assert response.status == 200
        url = f"http://{rig.rest}/v2/models/digits/infer"
        if wire == "rest":
            request: asyncio.Future[Any] = asyncio.ensure_future(session.post(url, data=BODY, headers=ALICE))
        else:
            request = asyncio.ensure_future(infer(rig.grpc, message()))
        await answer.started.wait()
        rig.stop.set()
        async with session.get(ready) as response:
            assert (response.status, await response.text()) == (503, "stopping\n")
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", rig.ports.rest)
            except ConnectionRefusedError:
                break
            writer.close()
            await writer.wait_closed()
            del reader
        assert not rig.ended.done()
        answer.hold.set()
        if wire == "rest":
            async with await request as response:
                assert (response.status, response.headers["Connection"]) == (200, "close")
                assert json.loads(await response.read())["model_name"] == "digits"
        else:
            assert (await request)[0] is grpc.StatusCode.OK
        await rig.ended


async def test_a_client_that_leaves_mid_body_is_nobodys_fault(
    replicas: list[ScriptedReplica], session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"digits": {1: [replicas[0].address]}})) as rig:
        host, _, port = rig.rest.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head("Content-Length: 1000", "Expect: 100-continue") + b"x")
        await reader.readuntil(b"Continue\r\n\r\n")
        writer.transport.abort()
        url = f"http://{rig.rest}/v2/models/digits/infer"
        async with session.post(url, data=BODY, headers=ALICE) as response:
            assert response.status == 200
        async with session.get(f"http://127.0.0.1:{rig.ports.admin}/metrics") as response:
            metrics = await response.text()
        assert 'code="500"' not in metrics
        assert "berth_router_in_flight 0.0" in metrics
    assert len(replicas[0].arrived) == 1


@pytest.mark.parametrize("wire", ["rest", "grpc"])
@pytest.mark.parametrize("drain_s", [0.0, 0.1])
async def test_stopping_waits_for_nobody_forever(
    *,
    wire: str,
    drain_s: float,
    replicas: list[ScriptedReplica],
    session: aiohttp.ClientSession,
    routing: Any,
    table_of: Any,
) -> None:
    w1 = replicas[0]
    answer = Answer(hold=asyncio.Event())
    w1.script.append(answer)
    async with routing(table_of({"digits": {1: [w1.address]}}), drain_s=drain_s) as rig:
        if wire == "rest":
            url = f"http://{rig.rest}/v2/models/digits/infer"
            request: asyncio.Future[Any] = asyncio.ensure_future(session.post(url, data=BODY, headers=ALICE))
        else:
            request = asyncio.ensure_future(infer(rig.grpc, message()))
        await answer.started.wait()
        rig.stop.set()
        async with asyncio.timeout(5):
            await rig.ended
            await asyncio.wait([request])
            await answer.ended.wait()
        assert answer.withdrawn
        if wire == "grpc":
            assert request.result()[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        else:
            assert isinstance(request.exception(), aiohttp.ClientError)
