"""The audit is complete: what changes over the API tells an event, with who, from where, before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from berth.ids import VersionKey
from berth.model import ObservedReplica
from berth.states import ServableState
from controller.core.events import catalogue
from doubles.onnx_models import identity

Replica = Callable[..., ObservedReplica]
V1 = VersionKey("acme", "digits", 1)
TENANT, MODEL = "/v1/tenants/{tenant}", "/v1/tenants/{tenant}/models/{model}"
DIGITS = "/v1/tenants/acme/models/digits"
ANSWER = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [0.0] * 4}]}


class Write(NamedTuple):
    """A request to `route` at `path`, and the event that it must tell; `shown` is part of the event's data."""

    method: str
    route: str
    path: str
    body: dict[str, Any] | None
    kind: str
    subject: str
    before: Any
    after: Any
    shown: dict[str, Any]


def write(
    method: str,
    route: str,
    path: str,
    kind: str,
    subject: str,
    *,
    body: dict[str, Any] | None = None,
    before: Any = None,
    after: Any = None,
    **shown: Any,
) -> Write:
    return Write(method, route, path, body, kind, subject, before, after, shown)


class Has(dict[str, Any]):
    """Equal to any mapping that has these members."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and all(name in other and other[name] == self[name] for name in self)

    __hash__ = None


QUOTA = {"max_models": 7, "max_bytes": 1 << 30}
WRITES = [
    write(
        "POST", "/v1/tenants", "/v1/tenants", "tenant.created", "tenant/more",
        body={"name": "more"}, after=Has(quota=Has(max_models=1_000)),
    ),
    write(
        "PATCH", TENANT, "/v1/tenants/more", "tenant.updated", "tenant/more", body={"quota": QUOTA},
        before=Has(quota=Has(max_models=1_000)), after=Has(quota=Has(QUOTA)), quota=Has(QUOTA),
    ),
    write("DELETE", TENANT, "/v1/tenants/more", "tenant.deleted", "tenant/more", before=Has(quota=Has(QUOTA))),
    write(
        "POST", "/v1/keys", "/v1/keys", "key.created", "key/NEW", body={"role": "operator", "description": "ops"},
        after={"role": "operator", "description": "ops"}, role="operator",
    ),
    write("DELETE", "/v1/keys/{key_id}", "/v1/keys/NEW", "key.revoked", "key/NEW", before=Has(role="operator")),
    write(
        "POST", f"{TENANT}/keys", "/v1/tenants/acme/keys", "key.created", "key/NEW", body={"role": "viewer"},
        after={"role": "viewer", "description": ""}, role="viewer",
    ),
    write(
        "DELETE", f"{TENANT}/keys/{{key_id}}", "/v1/tenants/acme/keys/NEW", "key.revoked", "key/NEW",
        before=Has(role="viewer"),
    ),
    write(
        "POST", f"{TENANT}/models", "/v1/tenants/acme/models", "model.created", "model/spare",
        body={"name": "spare", "description": "one"}, after=Has(description="one", pinned=None, labels={}, cells=[]),
    ),
    write(
        "PATCH", MODEL, "/v1/tenants/acme/models/spare", "model.updated", "model/spare", body={"description": "two"},
        before={"description": "one"}, after={"description": "two"},
    ),
    write(
        "PATCH", MODEL, "/v1/tenants/acme/models/spare", "model.updated", "model/spare", body={"cells": ["local"]},
        before={"cells": []}, after={"cells": ["local"]}, cells=["local"],
    ),
    write(
        "PATCH", MODEL, "/v1/tenants/acme/models/spare", "model.updated", "model/spare",
        body={"default_answer": ANSWER}, before={"default_answer_bytes": None}, after=Has(),
    ),
    write(
        "DELETE", MODEL, "/v1/tenants/acme/models/spare", "model.deleted", "model/spare",
        before=Has(description="two", cells=["local"]),
    ),
    write(
        "POST", f"{MODEL}/versions", f"{DIGITS}/versions", "version.uploaded", "model/digits/versions/2",
        after=Has(jobs=["pool"]), job="pool",
    ),
    write(
        "PATCH", MODEL, DIGITS, "model.pinned", "model/digits",
        body={"serving": {"policy": "pinned", "version": 1}},
        before={"pinned": None}, after={"pinned": 1}, version=1,
    ),
    write(
        "PATCH", MODEL, DIGITS, "model.unpinned", "model/digits", body={"serving": {"policy": "latest"}},
        before={"pinned": 1}, after={"pinned": None},
    ),
    write(
        "PUT", f"{MODEL}/labels/{{label}}", f"{DIGITS}/labels/stable?force=true", "label.set", "model/digits",
        body={"version": 1}, before={"version": None}, after={"version": 1}, label="stable", version=1,
    ),
    write(
        "DELETE", f"{MODEL}/labels/{{label}}", f"{DIGITS}/labels/stable", "label.removed", "model/digits",
        before={"version": 1}, label="stable",
    ),
    write(
        "DELETE", f"{MODEL}/versions/{{version}}", f"{DIGITS}/versions/2", "version.deleted",
        "model/digits/versions/2", before=Has(),
    ),
    write(
        "POST", "/v1/jobs", "/v1/jobs", "job.created", "job/more", body={"name": "more", "replicas": 3},
        after=Has(replicas=3, cell="local"), replicas=3, runtime="onnxruntime",
    ),
    write(
        "PATCH", "/v1/jobs/{job}", "/v1/jobs/more", "job.updated", "job/more", body={"replicas": 2},
        before={"replicas": 3}, after={"replicas": 2}, replicas=2,
    ),
    write(
        "PATCH", "/v1/jobs/{job}", "/v1/jobs/more", "job.updated", "job/more",
        body={"scaling": {"mode": "external"}}, before=Has(scaling=Has(mode="manual")),
        after=Has(scaling=Has(mode="external")), scaling={"mode": "external"},
    ),
    write("DELETE", "/v1/jobs/{job}", "/v1/jobs/more", "job.deleted", "job/more", before=Has(replicas=2)),
]  # fmt: skip


async def test_every_write_tells_its_event(controller: Any) -> None:
    await controller.tenant("acme")
    assert (await controller.upload("acme/digits")).status_code == 201
    told = await newest(controller)
    made = ""
    for number, wanted in enumerate(WRITES):
        headers = {"x-request-id": f"write-{number}"}
        if wanted.body is None and wanted.method == "POST":
            content = {"content": identity(), "headers": {**headers, "content-type": "application/octet-stream"}}
        else:
            content = {"headers": headers} | ({} if wanted.body is None else {"json": wanted.body})
        answer = await controller.api.request(wanted.method, wanted.path.replace("NEW", made), **content)
        assert answer.is_success, (wanted, answer.text)
        if wanted.kind == "key.created":
            made = answer.json()["id"]
        (event,) = (await controller.get(f"/v1/events?after={told}"))["items"]
        told = event["id"]
        assert (event["kind"], event["subject"]) == (wanted.kind, wanted.subject.replace("NEW", made))
        assert (event["actor"], event["tenant"]) == ("bootstrap", tenant_of(wanted))
        data = event["data"]
        assert (data["from"], data["request_id"]) == ("127.0.0.1", f"write-{number}")
        assert data.get("before") == wanted.before, wanted
        assert data.get("after") == wanted.after, wanted
        assert {name: data[name] for name in wanted.shown} == wanted.shown
        assert "secret" not in str(data)


def tenant_of(wanted: Write) -> str | None:
    if wanted.subject.startswith("tenant/"):
        return wanted.subject.removeprefix("tenant/")
    return "acme" if "/acme/" in wanted.path else None


async def newest(controller: Any) -> int:
    found = (await controller.get("/v1/events?limit=500"))["items"]
    return int(found[-1]["id"])


async def test_no_route_that_writes_is_left_out(controller: Any) -> None:
    schema = await controller.get("/openapi.json")
    routes = {
        (method.upper(), path)
        for path, operations in schema["paths"].items()
        for method in operations
        if method.upper() not in ("GET", "HEAD")
    }
    assert {(wanted.method, wanted.route) for wanted in WRITES} == routes


async def test_a_write_that_changes_nothing_or_is_refused_tells_nothing(controller: Any) -> None:
    await controller.tenant("acme")
    await controller.upload("acme/digits")
    told = await newest(controller)
    for body, status in (
        ({"serving": {"policy": "latest"}}, 200),
        ({"cells": []}, 200),
        ({"serving": {"policy": "pinned", "version": 9}}, 400),
    ):
        assert (await controller.api.patch(DIGITS, json=body)).status_code == status
    assert (await controller.api.delete("/v1/tenants/acme")).status_code == 409
    assert await newest(controller) == told


async def test_what_the_controller_does_itself_says_so(controller: Any, observed_replica: Replica) -> None:
    await controller.tenant("acme")
    await controller.upload("acme/digits")
    await controller.lead()
    await controller.report(observed_replica("w1", (V1, ServableState.AVAILABLE)))
    page = await controller.until(
        "/v1/tenants/acme/events", lambda page: page["items"][-1]["kind"] == "version.available"
    )
    event = page["items"][-1]
    assert event["actor"] == "controller"
    assert event["data"] == {"reason": "", "before": {"state": None}, "after": {"state": "available"}}
    (first,) = (await controller.get("/v1/events?limit=1"))["items"]
    assert (first["kind"], first["subject"], first["actor"]) == ("key.created", "key/bootstrap", "bootstrap")


def test_the_catalogue_names_each_kind_once() -> None:
    kinds = [kind.KIND for kind in catalogue()]
    assert len(kinds) == len(set(kinds)) == 24


@pytest.mark.parametrize("wanted", WRITES, ids=lambda wanted: f"{wanted.kind} {wanted.subject}")
def test_each_written_kind_is_in_the_catalogue(wanted: Write) -> None:
    assert wanted.kind in {kind.KIND for kind in catalogue()}
