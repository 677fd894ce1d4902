"""TensorFlow Serving's surface through a real router: to a real worker with ONNX Runtime, and to scripted replicas."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from onnx import TensorProto
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.ids import ModelKey, VersionKey
from berth.model import Artifact, ReplicaAddress, Signature, TensorSpec, VersionRoute, VersionSpec
from berth.resources import Resources
from berth.states import VersionState
from doubles import onnx_models
from doubles.scripted_replica import Answer, ScriptedReplica
from worker.runtimes.onnx.runtime import OnnxRuntime
from worker.runtimes.protocol import Loaded
from worker.scheduling.local import ScheduledRuntime
from worker.serving.server import serve_inference

ALICE = {"authorization": "Bearer alice-key"}
BOB = {"authorization": "Bearer bob-key"}
MODELS: dict[str, bytes] = {
    # half_plus_three, the toy of the documentation.
    "half": onnx_models.linear([[0.5]], [3.0]),
    "double": onnx_models.double(),
    "text": onnx_models.identity(TensorProto.STRING),
    "flag": onnx_models.identity(TensorProto.BOOL, ()),
    "wide": onnx_models.linear([[1.0, -1.0], [0.5, 0.5]]),
    "choosy": onnx_models.reshape(),
}


class Held:
    def __init__(self) -> None:
        self.versions: dict[VersionKey, Loaded] = {}

    def held(self) -> frozenset[VersionKey]:
        return frozenset(self.versions)

    def acquire(self, key: VersionKey) -> AbstractContextManager[Loaded]:
        @contextlib.contextmanager
        def borrow() -> Iterator[Loaded]:
            yield self.versions[key]

        return borrow()


@pytest.fixture
async def worker(credential: PeerCredential, tmp_path: Path) -> AsyncIterator[ReplicaAddress]:
    runtime = ScheduledRuntime(OnnxRuntime(intra_op_threads=1), threads=1)
    held = Held()
    for name, content in MODELS.items():
        path = tmp_path / name / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(content)
        key = VersionKey("alice", name, 1)
        held.versions[key] = await runtime.load(VersionSpec(key, Artifact("0" * 64, 1), Resources.host(1 << 20)), path)
        await held.versions[key].warm_up()
    try:
        async with serve_inference(
            held,
            credential=credential,
            grpc_address="127.0.0.1:0",
            http_address="127.0.0.1:0",
            replica="w1",
            registry=CollectorRegistry(),
        ) as server:
            grpc, http = f"127.0.0.1:{server.grpc_port}", f"127.0.0.1:{server.http_port}"
            yield ReplicaAddress("w1", "job", "local", "w1-1", "127.0.0.1:1", grpc, http)
    finally:
        for loaded in held.versions.values():
            await loaded.unload()
        await runtime.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(
    session: aiohttp.ClientSession, method: str, url: str, body: Any = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, document and headers (lower-case names) of an answer to Alice."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    # aiohttp warns of large bodies that are bytes.
    content = None if data is None else io.BytesIO(data)
    async with session.request(method, url, data=content, headers={**ALICE, **headers}) as response:
        shown = {name.lower(): value for name, value in response.headers.items()}
        return response.status, json.loads(await response.read()), shown


SERVED = [
    # model and verb, body, answer
    ("half:predict", {"instances": [[1.0], [2.0], [5.0]]}, {"predictions": [[3.5], [4.0], [5.5]]}),
    ("half:predict", {"instances": [{"x": [1]}, {"x": [2]}]}, {"predictions": [[3.5], [4.0]]}),
    ("half:predict", {"inputs": [[1.0]]}, {"outputs": [[3.5]]}),
    ("half/versions/1:predict", {"inputs": {"x": [[0.4]]}}, {"outputs": [[3.2]]}),
    ("half/labels/stable:predict", {"signature_name": "serving_default", "inputs": [[0]]}, {"outputs": [[3.0]]}),
    ("half:regress", {"examples": [{"x": 1.0}, {"x": 2.0}]}, {"results": [3.5, 4.0]}),
    (
        "double:predict",
        {"instances": [[1, 2], [3, 4]]},
        {"predictions": [{"y": [2.0, 4.0], "z": [-1.0, -2.0]}, {"y": [6.0, 8.0], "z": [-3.0, -4.0]}]},
    ),
    ("double:predict", {"inputs": [[1, 2]]}, {"outputs": {"y": [[2.0, 4.0]], "z": [[-1.0, -2.0]]}}),
    ("text:predict", {"instances": ["foo", {"b64": "w6k="}]}, {"predictions": ["foo", "é"]}),
    ("text:predict", {"inputs": []}, {"outputs": []}),
    ("flag:predict", {"inputs": True}, {"outputs": True}),
    ("wide:classify", {"examples": [{"x": [2.0, 4.0]}]}, {"results": [[["", 4.0], ["", 0.0]]]}),
    ("wide:classify", {"context": {"x": [0, 2]}, "examples": [{}]}, {"results": [[["", 1.0], ["", 1.0]]]}),
]


async def test_a_real_model_answers_as_documented(
    worker: ReplicaAddress, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({name: {1: [worker]} for name in MODELS}, labels={"stable": 1})) as rig:
        base = f"http://{rig.rest}/v1/models"
        for path, body, answer in SERVED:
            status, document, headers = await ask(session, "POST", f"{base}/{path}", body, **{"x-request-id": "r"})
            assert (status, document) == (200, answer), path
            assert (headers["content-type"], headers["x-request-id"]) == ("application/json", "r")
            assert headers["berth-replica"] == "w1"
        packed = gzip.compress(json.dumps({"instances": [[1.0]]}).encode())
        encoding = {"content-encoding": "gzip"}
        assert (await ask(session, "POST", f"{base}/half:predict", packed, **encoding))[1] == {"predictions": [[3.5]]}

        status, document, _ = await ask(session, "GET", f"{base}/half/metadata")
        assert status == 200
        assert document["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
        definition = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert definition["inputs"]["x"]["dtype"] == "DT_FLOAT"
        assert [dim["size"] for dim in definition["outputs"]["y"]["tensor_shape"]["dim"]] == ["-1", "1"]


async def test_large_tensors_go_there_and_back(
    worker: ReplicaAddress, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({name: {1: [worker]} for name in MODELS})) as rig:
        rows = [[number / 8] for number in range(50_000)]
        url = f"http://{rig.rest}/v1/models/half:predict"
        status, document, _ = await ask(session, "POST", url, {"instances": rows})
        assert status == 200
        assert document["predictions"] == [[3.0 + value / 2] for (value,) in rows]


REFUSED = [
    # method, path, body, headers, status, part of the error
    ("POST", "half:predict", b"", {}, 400, "not JSON"),
    ("POST", "half:predict", b'{"instances": [[1', {}, 400, "not JSON"),
    ("POST", "half:predict", b'{"instances": [[1], [1, 2]]}', {}, 400, "not a tensor"),
    ("POST", "half:predict", b'{"instances": [1]}', {}, 400, "has shape"),
    ("POST", "half:predict", b'{"signature_name": "x", "instances": [[1]]}', {}, 400, "'x' not found"),
    ("POST", "half:predict", b"{}", {"content-encoding": "br"}, 400, "gzip or deflate"),
    ("POST", "half:predict", b"{}", {"content-encoding": "gzip"}, 400, "not gzip"),
    ("POST", "half:predict", gzip.compress(b"{}")[:-9], {"content-encoding": "gzip"}, 400, "cut off"),
    ("POST", "half:predict", gzip.compress(b" " * 5000), {"content-encoding": "gzip"}, 413, "unpacked"),
    ("POST", "half:predict", b" " * 4001, {}, 413, "4000 are allowed"),
    ("POST", "half:predict", b"{}", {"authorization": "Bearer nope"}, 401, "unknown"),
    ("POST", "half:predict", b"{}", {"authorization": "Bearer admin-key"}, 403, "tenant's key"),
    ("POST", "half:predict", b"{}", {"berth-timeout-ms": "soon"}, 400, "milliseconds"),
    ("POST", "nope:predict", b"{}", {}, 404, "model 'nope' does not exist"),
    ("POST", "secret:predict", b"{}", {}, 404, "model 'secret' does not exist"),
    ("POST", "half/versions/9:predict", b"{}", {}, 404, "serves no version '9'"),
    ("POST", "half/labels/none:predict", b"{}", {}, 404, "serves no version 'none'"),
    ("GET", "half/versions/9", None, {}, 404, "serves no version '9'"),
    ("GET", "half/versions/9/metadata", None, {}, 404, "serves no version '9'"),
    ("GET", "half:predict", None, {}, 400, "malformed request"),
    ("PUT", "half:predict", b"{}", {}, 400, "malformed request"),
    ("DELETE", "half", None, {}, 400, "malformed request"),
    ("POST", "double:regress", b'{"examples": [{"x": [1, 2]}]}', {}, 400, "do not say which"),
    # The model itself refuses: the worker's words come through.
    ("POST", "choosy:predict", b'{"inputs": {"x": [1, 2, 3], "shape": [2, 2]}}', {}, 400, ""),
]


async def test_refusals_look_like_tensorflow_servings(
    worker: ReplicaAddress, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    table = table_of({name: {1: [worker]} for name in MODELS})
    async with routing(table, tfserving_body_bytes=4000) as rig:
        for method, path, body, headers, status, says in REFUSED:
            got, document, shown = await ask(session, method, f"http://{rig.rest}/v1/models/{path}", body, **headers)
            assert (got, list(document), says in document["error"]) == (status, ["error"], True), (path, document)
            assert shown["content-type"].startswith("application/json")
        # The router is none the worse for it.
        assert (await ask(session, "POST", f"http://{rig.rest}/v1/models/half:predict", {"inputs": [[1]]}))[0] == 200


X = Signature((TensorSpec("x", "INT64", (-1,)),), (TensorSpec("x", "INT64", (-1,)),))


@pytest.fixture
async def scripted(credential: PeerCredential) -> AsyncIterator[ScriptedReplica]:
    held = {VersionKey("alice", "m", 1), VersionKey("alice", "m", 2), VersionKey("bob", "secret", 1)}
    async with ScriptedReplica("w1", held).serve(credential) as replica:
        replica.signature = X
        yield replica


async def test_a_signature_is_asked_for_once_a_version(
    scripted: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    table = table_of({"m": {1: [scripted.address]}})
    async with routing(table) as rig:
        url = f"http://{rig.rest}/v1/models/m:predict"
        for number in range(3):
            assert (await ask(session, "POST", url, {"instances": [number]}))[1] == {"predictions": [number]}
        assert [arrived.method for arrived in scripted.arrived] == ["GET", "POST", "POST", "POST"]
        infer = scripted.arrived[1]
        assert infer.servable == "alice~m~1"
        assert {"authorization", "accept-encoding"}.isdisjoint(infer.headers)
        assert int(infer.headers["berth-timeout-ms"]) > 1000
        # A new version may have another signature: it is asked for its own.
        await rig.route(table_of({"m": {1: [scripted.address], 2: [scripted.address]}}, generation=2))
        await ask(session, "POST", url, {"instances": [1]})
        assert [arrived.servable for arrived in scripted.arrived[4:]] == ["alice~m~2", "alice~m~2"]


async def test_a_version_that_moves_under_a_request_is_followed(
    scripted: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    """Version 1 is withdrawn between the signature and the rows: version 2 is asked, with its own signature."""
    async with routing(table_of({"m": {1: [scripted.address]}})) as rig:
        go = asyncio.Event()
        signature = Answer(hold=go)
        scripted.script.append(signature)
        url = f"http://{rig.rest}/v1/models/m:predict"
        asked = asyncio.create_task(ask(session, "POST", url, {"instances": [7]}))
        async with asyncio.timeout(10):
            await signature.started.wait()
        await rig.route(table_of({"m": {2: [scripted.address]}}, generation=2))
        go.set()
        assert (await asked)[:2] == (200, {"predictions": [7]})
        assert [arrived.servable[-1] for arrived in scripted.arrived] == ["1", "2", "2"]
        # Who asks for a version by its number is told that it has gone.
        assert (await ask(session, "POST", f"http://{rig.rest}/v1/models/m/versions/1:predict", {"inputs": []}))[
            0
        ] == 404


async def test_a_replicas_refusal_comes_through(
    scripted: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"m": {1: [scripted.address]}})) as rig:
        url = f"http://{rig.rest}/v1/models/m:predict"
        scripted.script.append(Answer())
        for status in (400, 500):
            scripted.script.append(Answer(status=status, message="no such luck"))
            got = await ask(session, "POST", url, {"instances": [1]})
            assert got[:2] == (status, {"error": "no such luck"})


async def test_the_deadline_covers_all_of_it(
    scripted: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"m": {1: [scripted.address]}})) as rig:
        slow = Answer(hold=asyncio.Event())
        scripted.script += [Answer(), slow]
        url = f"http://{rig.rest}/v1/models/m:predict"
        status, document, _ = await ask(session, "POST", url, {"instances": [1]}, **{"berth-timeout-ms": "300"})
        assert (status, list(document)) == (504, ["error"])
        async with asyncio.timeout(10):
            await slow.ended.wait()
        assert slow.withdrawn


async def test_states_over_http(
    scripted: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    table = table_of({"m": {1: [scripted.address]}}, labels={"stable": 1, "next": 2})
    route = table.models[ModelKey("alice", "m")]
    loading = VersionRoute(2, (), "loading on 1 replica", state=VersionState.LOADING)
    models = {**table.models, route.key: replace(route, versions=(*route.versions, loading))}
    async with routing(replace(table, models=models), cold_hold_s=0) as rig:
        base = f"http://{rig.rest}/v1/models/m"
        ok = {"error_code": "OK", "error_message": ""}
        one = {"version": "1", "state": "AVAILABLE", "status": ok}
        two = {"version": "2", "state": "LOADING", "status": {**ok, "error_message": "loading on 1 replica"}}
        for path, expected in (("", [two, one]), ("/versions/1", [one]), ("/labels/next", [two])):
            status, document, _ = await ask(session, "GET", base + path)
            assert (status, document) == (200, {"model_version_status": expected})
        for path, method in (("/labels/next:predict", "POST"), ("/labels/next/metadata", "GET")):
            status, document, headers = await ask(session, method, base + path, b"{}" if method == "POST" else None)
            assert (status, "not loaded yet" in document["error"], headers["retry-after"]) == (503, True, "1")
    assert scripted.arrived == []


async def test_a_cold_version_is_waited_for(
    scripted: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"m": {1: []}}), cold_hold_s=20) as rig:
        url = f"http://{rig.rest}/v1/models/m:predict"
        asked = asyncio.create_task(ask(session, "POST", url, {"instances": [1]}))
        assert not (await asyncio.wait([asked], timeout=0.2))[0]
        await rig.route(table_of({"m": {1: [scripted.address]}}, generation=2))
        assert (await asked)[:2] == (200, {"predictions": [1]})


async def test_someone_elses_model_is_byte_for_byte_no_model(
    scripted: ScriptedReplica, session: aiohttp.ClientSession, routing: Any, table_of: Any
) -> None:
    async with routing(table_of({"m": {1: [scripted.address]}}, labels={"stable": 1})) as rig:
        # Bob's requests warm whatever is kept of his model.
        url = f"http://{rig.rest}/v1/models/secret:predict"
        assert (await ask(session, "POST", url, {"instances": [1]}, **BOB))[0] == 200

        async def seen(method: str, path: str, model: str) -> tuple[object, ...]:
            url = f"http://{rig.rest}/v1/models/{path.format(model)}"
            data = b'{"instances": [1]}' if method == "POST" else None
            async with session.request(method, url, data=data, headers={**ALICE, "x-request-id": "same"}) as reply:
                shown = [(name, value) for name, value in reply.raw_headers if name.lower() != b"date"]
                return reply.status, reply.reason, shown, (await reply.read()).replace(model.encode(), b"MODEL")

        for named in ("{}", "{}/versions/1", "{}/labels/stable"):
            for method, what in (
                ("GET", ""),
                ("GET", "/metadata"),
                ("POST", ":predict"),
                ("POST", ":classify"),
                ("POST", ":regress"),
            ):
                theirs = await seen(method, named + what, "secret")
                assert theirs == await seen(method, named + what, "secreu")
                assert theirs[0] == 404


async def test_a_router_starts_without_numpy() -> None:
    """It costs 13 MB, and is needed only by who uses this surface."""
    program = """
import pkgutil, sys, router
from importlib import import_module
for module in pkgutil.walk_packages(router.__path__, "router."):
    if not module.name.startswith("router.tfserving."):
        import_module(module.name)
import router.tfserving.answering
print("numpy" in sys.modules)
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    assert (process.returncode, printed) == (0, b"False\n")
