"""What is wrong gets the right error, at every door, and every process lives on."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import onnx
import pytest
from tritonclient.grpc import service_pb2

from berth.api.schemas import TenantQuota
from berth.states import VersionState
from e2e.conftest import Tenant, make_tenant
from e2e.models import broken_when_loaded, heavy, multiplier
from e2e.stack import Stack
from e2e.waiting import until

GOOD = multiplier(2)
FOUR = [1.0, 2.0, 3.0, 4.0]
TRAVERSAL = "..%2f..%2fetc%2fpasswd"


class Doors(NamedTuple):
    """The ways in, with the key of tenant `plain` in every request."""

    control: httpx.Client
    admin: httpx.Client
    infer: httpx.Client


@pytest.fixture(scope="module")
def doors(stack: Stack, multiplying: Tenant) -> Iterator[Doors]:
    headers = {"authorization": f"Bearer {multiplying.key}"}
    as_admin = {"authorization": f"Bearer {stack.admin_key}"}
    with (
        httpx.Client(base_url=stack.controller_url, headers=headers, timeout=30) as control,
        httpx.Client(base_url=stack.controller_url, headers=as_admin, timeout=30) as admin,
        httpx.Client(base_url=stack.router_url, headers=headers, timeout=30) as infer,
    ):
        yield Doors(control, admin, infer)


@pytest.fixture(scope="module", autouse=True)
def everything_lives(stack: Stack, multiplying: Tenant) -> Iterator[None]:
    """After all rows of this module: the same processes, and the right answer."""
    before = {name: process.pid for name, process in stack.processes().items()}
    yield
    assert {name: process.pid for name, process in stack.processes().items()} == before
    answer = multiplying.client.infer("times", {"x": np.ones((1, 4), np.float32)})
    assert answer["product"].tolist() == [[3.0] * 4]


# --- the control API ------------------------------------------------------------------------------------------------


def with_external_data() -> bytes:
    model = onnx.load_from_string(GOOD)
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    content: bytes = model.SerializeToString()
    return content


def put_artifact(content: bytes, model: str = "bad", **headers: str) -> Callable[[Doors], httpx.Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def send(doors: Doors) -> httpx.Response:
        return doors.control.post(
            f"/v1/tenants/plain/models/{model}/versions",
            content=content,
            headers={"content-type": "application/octet-stream", **named},
        )

    return send


def digest_of(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def ask(method: str, path: str, **options: Any) -> Callable[[Doors], httpx.Response]:
    return lambda doors: doors.control.request(method, f"/v1/tenants/plain{path}", **options)


def admin(method: str, path: str, **options: Any) -> Callable[[Doors], httpx.Response]:
    return lambda doors: doors.admin.request(method, f"/v1{path}", **options)


def pin(**serving: Any) -> Callable[[Doors], httpx.Response]:
    return ask("PATCH", "/models/times", json={"serving": {"policy": "pinned", **serving}})


JSON = {"content-type": "application/json"}
STALE = {"if-match": '"old"'}

CONTROL_ROWS: list[tuple[str, Callable[[Doors], httpx.Response], int, str]] = [
    ("an empty artifact", put_artifact(b""), 400, "invalid-argument"),
    ("garbage", put_artifact(b"\x00\xff" * 500), 422, "unsupported-artifact"),
    ("a truncated model", put_artifact(GOOD[: len(GOOD) // 2]), 422, "unsupported-artifact"),
    ("a model that reads other files", put_artifact(with_external_data()), 422, "unsupported-artifact"),
    ("other bytes than announced", put_artifact(GOOD, content_digest=digest_of(b"x")), 422, "digest-mismatch"),
    ("a digest that is none", put_artifact(GOOD, content_digest="sha-256=:!!:"), 400, "invalid-argument"),
    ("more bytes than allowed", put_artifact(b"\x00" * (65 << 20)), 413, "payload-too-large"),
    ("a name in capitals", put_artifact(GOOD, "BAD"), 400, "invalid-argument"),
    ("a name that climbs", put_artifact(GOOD, TRAVERSAL), 404, "not-found"),
    ("no room in any job", put_artifact(heavy(60), "fat-4"), 507, "insufficient-capacity"),
    ("a pin to a version that is not", pin(version=99), 400, "invalid-argument"),
    ("a pin to nothing", pin(), 400, "invalid-argument"),
    ("a label on no version", ask("PUT", "/models/times/labels/stable", json={"version": 99}), 400, "invalid-argument"),
    ("a member that is unknown", ask("POST", "/models", json={"name": "a", "colour": "red"}), 400, "invalid-argument"),
    ("half a JSON document", ask("POST", "/models", content=b'{"name": ', headers=JSON), 400, "invalid-argument"),
    ("a stale If-Match", ask("PATCH", "/models/times", json={}, headers=STALE), 412, "precondition-failed"),
    ("a cursor that nobody gave", ask("GET", "/models?cursor=nonsense"), 400, "invalid-argument"),
    ("a limit below one", ask("GET", "/models?limit=-1"), 400, "invalid-argument"),
    ("an event id that is none", ask("GET", "/events", headers={"last-event-id": "x"}), 400, "invalid-argument"),
    ("a path that is not", ask("GET", "/nothing"), 404, "not-found"),
    ("a method that is not", ask("PUT", "/models/times"), 405, "method-not-allowed"),
    ("an existing tenant", admin("POST", "/tenants", json={"name": "plain"}), 409, "conflict"),
    ("a job of 1 byte", admin("POST", "/jobs", json={"name": "a", "memory_per_replica": 1}), 400, "invalid-argument"),
    ("a job that is not", admin("DELETE", "/jobs/nothing"), 404, "not-found"),
    ("a job that is in use", admin("DELETE", "/jobs/onnxruntime"), 409, "conflict"),
    ("a role that is none", admin("POST", "/tenants/plain/keys", json={"role": "king"}), 400, "invalid-argument"),
    ("a platform's role", admin("POST", "/tenants/plain/keys", json={"role": "admin"}), 400, "invalid-argument"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("send", "status", "slug"), [row[1:] for row in CONTROL_ROWS], ids=[row[0] for row in CONTROL_ROWS]
)
def test_control(doors: Doors, send: Callable[[Doors], httpx.Response], status: int, slug: str) -> None:
    if status == 507:
        # The jobs have 256 MiB: these fill them.
        for number in range(1, 4):
            put_artifact(heavy(40), f"fat-{number}")(doors)
    response = send(doors)
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert (response.status_code, problem["type"]) == (status, f"urn:berth:problem:{slug}"), problem
    assert problem["detail"]
    assert response.headers["x-request-id"]
    assert "Traceback" not in response.text


def test_refused_uploads_leave_nothing(doors: Doors) -> None:
    response = doors.control.get("/v1/tenants/plain/models/bad")
    assert response.status_code == 404, response.text


def test_one_idempotency_key_for_two_requests(doors: Doors) -> None:
    first = put_artifact(GOOD, "twice", idempotency_key="k-1")(doors)
    again = put_artifact(GOOD, "twice", idempotency_key="k-1")(doors)
    other = put_artifact(multiplier(9), "twice", idempotency_key="k-1")(doors)
    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 409)
    assert first.json()["version"] == again.json()["version"] == 1


def test_a_quota_names_what_was_used_and_asked(stack: Stack, tmp_path: Path) -> None:
    with stack.client() as client:
        client.tenants.create("small", TenantQuota(max_models=1))
        response = httpx.post(
            f"{stack.controller_url}/v1/tenants/small/models",
            json={"name": "one"},
            headers={"authorization": f"Bearer {stack.admin_key}"},
        )
        assert response.status_code == 201
    response = httpx.post(
        f"{stack.controller_url}/v1/tenants/small/models",
        json={"name": "two"},
        headers={"authorization": f"Bearer {stack.admin_key}"},
    )
    assert response.status_code == 403
    assert response.json()["type"] == "urn:berth:problem:quota-exceeded"


def test_a_model_that_no_runtime_loads_says_why(stack: Stack, tmp_path: Path) -> None:
    tenant = make_tenant(stack, "hopeful")
    path = tmp_path / "broken.onnx"
    path.write_bytes(broken_when_loaded())
    response = httpx.post(
        f"{stack.controller_url}/v1/tenants/hopeful/models/broken/versions",
        content=path.read_bytes(),
        headers={"authorization": f"Bearer {tenant.key}", "content-type": "application/octet-stream"},
    )
    assert response.status_code == 201

    def failed() -> Any:
        version = tenant.client.versions.get("broken", 1)
        return version if version.state is VersionState.FAILED else None

    version = until(failed, within=20, what="version 1 has failed")
    assert "MatMul" in version.reason
    assert str(stack.home) not in version.reason
    response = httpx.post(
        f"{stack.router_url}/v2/models/broken/infer", headers={"authorization": f"Bearer {tenant.key}"}, json={}
    )
    assert (response.status_code, "retry-after" in response.headers) == (503, True)


# --- inference over REST --------------------------------------------------------------------------------------------


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": FOUR, **changes}


def infer(*inputs: Any, model: str = "times", **options: Any) -> Callable[[Doors], httpx.Response]:
    return lambda doors: doors.infer.post(f"/v2/models/{model}/infer", json={"inputs": list(inputs)}, **options)


def raw(content: bytes, **headers: str) -> Callable[[Doors], httpx.Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda doors: doors.infer.post("/v2/models/times/infer", content=content, headers={**JSON, **named})


CUT_SHORT = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}]}
).encode()

INFER_ROWS: list[tuple[str, Callable[[Doors], httpx.Response], int]] = [
    ("no key", infer(tensor(), headers={"authorization": ""}), 401),
    ("a wrong key", infer(tensor(), headers={"authorization": "Bearer berth_wrong"}), 401),
    ("an unknown model", infer(tensor(), model="nothing"), 404),
    ("a name that climbs", infer(tensor(), model=TRAVERSAL), 404),
    ("the name that workers use", infer(tensor(), model="plain~times~1"), 404),
    ("an unknown version", infer(tensor(), model="times/versions/99"), 404),
    ("an unknown label", infer(tensor(), model="times/versions/stable"), 404),
    ("no JSON", raw(b"not json"), 400),
    ("half a document", raw(b'{"inputs": ['), 400),
    ("deep nesting", raw(b"[" * 100_000), 400),
    ("not UTF-8", raw(b'{"inputs": "\xff\xfe"}'), 400),
    ("a list for a document", raw(b"[]"), 400),
    ("no input", infer(), 400),
    ("an input too many", infer(tensor(), tensor(name="y")), 400),
    ("an input twice", infer(tensor(), tensor()), 400),
    ("another name", infer(tensor(name="z")), 400),
    ("another datatype", infer(tensor(datatype="INT64", data=[1, 2, 3, 4])), 400),
    ("a datatype that is none", infer(tensor(datatype="FP33")), 400),
    ("another shape", infer(tensor(shape=[2, 2])), 400),
    ("a shape of other size", infer(tensor(shape=[2, 4])), 400),
    ("a negative shape", infer(tensor(shape=[-1, 4])), 400),
    ("a shape without end", infer(tensor(shape=[2**62, 2**62])), 400),
    ("text for numbers", infer(tensor(data=["a", "b", "c", "d"])), 400),
    ("a header longer than the body", raw(b"{}", inference_header_content_length="1000"), 400),
    ("a header of no length", raw(b"{}", inference_header_content_length="-1"), 400),
    ("fewer binary bytes than said", raw(CUT_SHORT, inference_header_content_length=str(len(CUT_SHORT))), 400),
    ("a deadline that is none", raw(b"{}", berth_timeout_ms="soon"), 400),
    ("more bytes than allowed", raw(b" " * (9 << 20)), 413),
]  # fmt: skip


@pytest.mark.parametrize(("send", "status"), [row[1:] for row in INFER_ROWS], ids=[row[0] for row in INFER_ROWS])
def test_infer(doors: Doors, send: Callable[[Doors], httpx.Response], status: int) -> None:
    response = send(doors)
    assert response.status_code == status, response.text
    assert response.json()["error"]
    assert response.headers["x-request-id"]
    assert "Traceback" not in response.text


def test_a_client_cannot_speak_for_the_router(doors: Doors) -> None:
    forged = {"berth-credential": "x" * 64, "berth-not-started": "1", "berth-replica": "mine"}
    response = infer(tensor(), headers=forged)(doors)
    assert response.status_code == 200, response.text
    assert response.headers["berth-replica"] != "mine"


@pytest.mark.parametrize("door", ["upload", "infer"])
def test_a_sender_that_stalls_is_cut_off(stack: Stack, multiplying: Tenant, door: str) -> None:
    port, path = {
        "upload": (stack.controller_port, "/v1/tenants/plain/models/slow/versions"),
        "infer": (stack.http_port, "/v2/models/times/infer"),
    }[door]
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {multiplying.key}\r\n"
        "content-type: application/octet-stream\r\ncontent-length: 1000\r\n\r\nabc"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536)
    assert answer.split(b" ")[1] in (b"408", b"400", b"504"), answer


# --- inference over gRPC --------------------------------------------------------------------------------------------


class Rpc(NamedTuple):
    """Calls the router's gRPC port with bytes."""

    channel: grpc.Channel
    key: str

    def code(self, content: bytes, method: str = "ModelInfer", key: str | None = None) -> grpc.StatusCode:
        call = self.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            call(content, metadata=(("authorization", f"Bearer {key or self.key}"),), timeout=20)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def rpc(stack: Stack, multiplying: Tenant) -> Iterator[Rpc]:
    with grpc.insecure_channel(stack.router_grpc) as channel:
        yield Rpc(channel, multiplying.key)


def message(model: str = "times", raw_input: bytes | None = None, **changes: Any) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    values = {"name": "x", "datatype": "FP32", "shape": [1, 4], **changes}
    request.inputs.add(**values)
    request.raw_input_contents.append(np.array([FOUR], np.float32).tobytes() if raw_input is None else raw_input)
    content: bytes = request.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (message(), "OK"),
        (b"\xff\xff\xff", "INVALID_ARGUMENT"),
        (message()[:-3], "INVALID_ARGUMENT"),
        (message(raw_input=b"\x00" * 15), "INVALID_ARGUMENT"),
        (message(shape=[2, 4]), "INVALID_ARGUMENT"),
        (message(shape=[-1, -4]), "INVALID_ARGUMENT"),
        (message(datatype="FP33"), "INVALID_ARGUMENT"),
        (message(name="y"), "INVALID_ARGUMENT"),
        (message("nothing"), "NOT_FOUND"),
        (message("plain~times~1"), "NOT_FOUND"),
        (message("../times"), "NOT_FOUND"),
        (b"", "NOT_FOUND"),
        (message(raw_input=b"\x00" * (9 << 20)), "RESOURCE_EXHAUSTED"),
    ],
)
def test_grpc(rpc: Rpc, content: bytes, code: str) -> None:
    assert rpc.code(content).name == code


def test_grpc_without_a_key_or_a_method(rpc: Rpc) -> None:
    assert rpc.code(message(), key="wrong") is grpc.StatusCode.UNAUTHENTICATED
    assert rpc.code(b"", method="Nothing") is grpc.StatusCode.UNIMPLEMENTED
