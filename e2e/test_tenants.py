"""Tenants are strangers: what is someone else's looks exactly like what does not exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from e2e.conftest import Tenant, make_tenant, upload
from e2e.models import multiplier
from e2e.stack import Stack


class Two(NamedTuple):
    """`owner` has the model `secret`; `other` has a valid key and nothing else."""

    owner: Tenant
    other: Tenant


@pytest.fixture(scope="module")
def two(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Two:
    two = Two(make_tenant(stack, "owner"), make_tenant(stack, "other"))
    upload(two.owner, "secret", multiplier(5), tmp_path_factory.mktemp("models"))
    two.owner.client.models.set_label("secret", "stable", 1)
    return two


CONTROL = [
    ("GET", "/v1/tenants/{t}", None),
    ("GET", "/v1/tenants/{t}/keys", None),
    ("POST", "/v1/tenants/{t}/keys", {"role": "viewer"}),
    ("DELETE", "/v1/tenants/{t}/keys/1", None),
    ("GET", "/v1/tenants/{t}/models", None),
    ("POST", "/v1/tenants/{t}/models", {"name": "mine"}),
    ("GET", "/v1/tenants/{t}/models/secret", None),
    ("PATCH", "/v1/tenants/{t}/models/secret", {"description": "x"}),
    ("DELETE", "/v1/tenants/{t}/models/secret", None),
    ("PUT", "/v1/tenants/{t}/models/secret/labels/stable", {"version": 1}),
    ("DELETE", "/v1/tenants/{t}/models/secret/labels/stable", None),
    ("GET", "/v1/tenants/{t}/models/secret/versions", None),
    ("POST", "/v1/tenants/{t}/models/secret/versions", b"bytes"),
    ("GET", "/v1/tenants/{t}/models/secret/versions/1", None),
    ("DELETE", "/v1/tenants/{t}/models/secret/versions/1", None),
    ("GET", "/v1/tenants/{t}/assignments", None),
    ("GET", "/v1/tenants/{t}/events", None),
]


def send(url: str, key: str, method: str, path: str, body: Any) -> httpx.Response:
    content = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
    kind = {"content-type": "application/octet-stream"} if isinstance(body, bytes) else {}
    return httpx.request(method, url + path, headers={"authorization": f"Bearer {key}", **kind}, timeout=30, **content)


def shape(response: httpx.Response, *names: str) -> tuple[Any, ...]:
    """What a stranger can see of an answer, with the names that they themselves gave blotted out."""
    text = response.text
    for name in names:
        text = text.replace(name, "*")
    request = response.headers.get("x-request-id", "")
    return response.status_code, text.replace(request, "#"), sorted(response.headers)


@pytest.mark.parametrize(("method", "path", "body"), CONTROL, ids=[f"{row[0]} {row[1]}" for row in CONTROL])
def test_the_control_api_tells_nothing(stack: Stack, two: Two, method: str, path: str, body: Any) -> None:
    theirs = send(stack.controller_url, two.other.key, method, path.format(t="owner"), body)
    nobodys = send(stack.controller_url, two.other.key, method, path.format(t="nobody"), body)
    assert theirs.status_code == 404
    assert shape(theirs, "owner") == shape(nobodys, "nobody")


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/replicas", "/v1/assignments", "/v1/events", "/v1/tenants", "/v1/keys"]
)
def test_the_platforms_views_are_not_for_tenants(stack: Stack, two: Two, path: str) -> None:
    response = send(stack.controller_url, two.other.key, "GET", path, None)
    assert response.status_code == 403
    assert "owner" not in response.text
    assert "secret" not in response.text


REST: list[tuple[str, str, Any]] = [
    ("GET", "/v2/models/{m}", None),
    ("GET", "/v2/models/{m}/ready", None),
    ("GET", "/v2/models/{m}/versions/1", None),
    ("GET", "/v2/models/{m}/versions/1/ready", None),
    ("GET", "/v2/models/{m}/versions/stable", None),
    ("POST", "/v2/models/{m}/infer", {"inputs": []}),
    ("POST", "/v2/models/{m}/versions/1/infer", {"inputs": []}),
    ("POST", "/v2/models/{m}/versions/stable/infer", {"inputs": []}),
    ("POST", "/v2/models/{m}/infer", b"\x00"),
]


@pytest.mark.parametrize(("method", "path", "body"), REST, ids=[f"{row[0]} {row[1]}" for row in REST])
def test_inference_over_rest_tells_nothing(stack: Stack, two: Two, method: str, path: str, body: Any) -> None:
    theirs = send(stack.router_url, two.other.key, method, path.format(m="secret"), body)
    nobodys = send(stack.router_url, two.other.key, method, path.format(m="absent"), body)
    assert theirs.status_code == 404
    assert shape(theirs, "secret") == shape(nobodys, "absent")


@pytest.fixture(scope="module")
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(stack.router_grpc) as channel:
        yield channel


@pytest.mark.parametrize("version", ["", "1", "stable"])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata"])
def test_inference_over_grpc_tells_nothing(channel: grpc.Channel, two: Two, method: str, version: str) -> None:
    def ask(model: str) -> tuple[Any, ...]:
        request: Any = {
            "ModelInfer": service_pb2.ModelInferRequest(model_name=model, model_version=version),
            "ModelReady": service_pb2.ModelReadyRequest(name=model, version=version),
            "ModelMetadata": service_pb2.ModelMetadataRequest(name=model, version=version),
        }[method]
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError) as refused:
            call(request.SerializeToString(), metadata=(("authorization", f"Bearer {two.other.key}"),), timeout=20)
        error: Any = refused.value
        trailers = sorted(key for key, _ in error.trailing_metadata() or ())
        return error.code(), error.details().replace(model, "*"), trailers

    assert ask("secret") == ask("absent")
    assert ask("secret")[0] is grpc.StatusCode.NOT_FOUND


def test_the_same_name_is_two_models_of_two_tenants(stack: Stack, tmp_path: Path) -> None:
    tenants = [make_tenant(stack, name) for name in ("north", "south")]
    for tenant, factor in zip(tenants, (2.0, 7.0), strict=True):
        upload(tenant, "times", multiplier(factor), tmp_path)
    ones = {"x": np.ones((1, 4), np.float32)}
    answers = [tenant.client.infer("times", ones)["product"][0, 0] for tenant in tenants]
    assert answers == [2.0, 7.0]


def test_a_revoked_key_opens_nothing(stack: Stack, two: Two) -> None:
    from berth.states import Role
    from e2e.waiting import until

    with stack.client() as admin:
        key = admin.of("owner").keys.create(Role.VIEWER)
        path = "/v2/models/secret/ready"

        def status() -> int:
            return send(stack.router_url, key.secret, "GET", path, None).status_code

        until(lambda: status() == 200, within=10, what="the new key is known to the router")
        admin.of("owner").keys.revoke(key.id)
        assert send(stack.controller_url, key.secret, "GET", "/v1/whoami", None).status_code == 401
        until(lambda: status() == 401, within=10, what="the revoked key is refused by the router")


def test_nothing_of_one_tenant_is_in_the_metrics(stack: Stack, two: Two) -> None:
    pages = [httpx.get(f"{stack.controller_url}/metrics").text]
    pages += [
        httpx.get(f"http://127.0.0.1:{process.ports['admin']}/metrics").text
        for process in stack.processes().values()
        if "admin" in process.ports
    ]
    assert len(pages) >= 5
    assert not [page for page in pages if "secret" in page or two.owner.key in page]


def test_no_key_is_in_a_log_or_a_process_list(stack: Stack, two: Two) -> None:
    keys = {stack.admin_key, two.owner.key, two.other.key, (stack.home / "run" / "credential").read_text().strip()}
    logs = list(stack.home.rglob("*.log"))
    assert len(logs) >= len(stack.processes())
    for log in logs:
        assert not [key for key in keys if key in log.read_text(errors="replace")], log
    for process in stack.processes().values():
        arguments = Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace")
        assert not [key for key in keys if key in arguments]
