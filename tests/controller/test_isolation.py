"""Tenants are strangers: with a valid key, every route on another tenant's things answers as if they did not exist."""

from __future__ import annotations

import json
from typing import Any

from doubles.onnx_models import identity

JSON_BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/tenants"): {"name": "more"},
    ("PATCH", "/v1/tenants/{tenant}"): {"quota": {}},
    ("POST", "/v1/keys"): {"role": "operator"},
    ("POST", "/v1/tenants/{tenant}/keys"): {"role": "viewer"},
    ("POST", "/v1/tenants/{tenant}/models"): {"name": "digits"},
    ("PATCH", "/v1/tenants/{tenant}/models/{model}"): {"description": "mine now"},
    ("PUT", "/v1/tenants/{tenant}/models/{model}/labels/{label}"): {"version": 1},
    ("POST", "/v1/jobs"): {"name": "more"},
    ("PATCH", "/v1/jobs/{job}"): {"replicas": 2},
}
# A tenant's key is told that these are the platform's, whatever they name.
PLATFORM = (
    "/v1/tenants",
    "/v1/keys",
    "/v1/keys/{key_id}",
    "/v1/jobs",
    "/v1/jobs/{job}",
    "/v1/assignments",
    "/v1/replicas",
    "/v1/events",
)


async def routes(controller: Any) -> list[tuple[str, str]]:
    schema = await controller.get("/openapi.json")
    return [(method.upper(), path) for path, operations in schema["paths"].items() for method in operations]


async def call(
    controller: Any, key: dict[str, str], method: str, template: str, names: dict[str, str]
) -> tuple[Any, ...]:
    """Status, headers and body, with what the caller said put back into placeholders."""
    path = template.format(**names)
    headers = {**key, "x-request-id": "same"}
    if (method, template) in JSON_BODIES:
        answer = await controller.api.request(method, path, headers=headers, json=JSON_BODIES[method, template])
    elif method == "POST":
        headers["content-type"] = "application/octet-stream"
        answer = await controller.api.request(method, path, headers=headers, content=identity())
    else:
        answer = await controller.api.request(method, path, headers=headers)
    text = answer.text
    for placeholder, name in names.items():
        text = text.replace(repr(name), f"<{placeholder}>")
    shape = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
    return answer.status_code, json.dumps(shape, sort_keys=True), text


async def test_every_route_hides_other_tenants(controller: Any) -> None:
    await controller.tenant("victim")
    uploaded = await controller.upload("victim/digits")
    assert uploaded.status_code == 201
    key_id = (await controller.get("/v1/tenants/victim/keys"))["items"][0]["id"]
    real = {"tenant": "victim", "model": "digits", "version": "1", "label": "a", "job": "pool", "key_id": key_id}
    unreal = {"tenant": "nobody", "model": "nothin", "version": "7", "label": "b", "job": "none", "key_id": "key-x"}
    before = (await controller.get("/v1/events?limit=500"))["items"]
    found = await routes(controller)
    assert len(found) > 25
    for role in ("developer", "viewer"):
        key = await controller.tenant("stranger", role)
        for method, template in found:
            there = await call(controller, key, method, template, real)
            absent = await call(controller, key, method, template, unreal)
            assert there == absent, (method, template)
            if template == "/v1/whoami":
                assert there[0] == 200
            else:
                assert there[0] == (403 if template in PLATFORM else 404), (method, template, there)
    after = (await controller.get("/v1/events?limit=500"))["items"]
    assert [event for event in after[len(before) :] if event["tenant"] != "stranger"] == []


async def test_lists_hold_only_the_tenants_own(controller: Any) -> None:
    keys = {name: await controller.tenant(name) for name in ("a", "b")}
    for name in keys:
        await controller.upload(f"{name}/digits")
    for name, key in keys.items():
        for path in (f"/v1/tenants/{name}/{what}" for what in ("models", "assignments", "events")):
            answer = await controller.api.get(path, headers=key)
            items = answer.json()["items"]
            assert items, path
            assert {item["tenant"] for item in items} == {name}


async def test_roles_within_a_tenant_and_of_the_platform(controller: Any) -> None:
    viewer = await controller.tenant("acme", "viewer")
    developer = await controller.tenant("acme", "developer")
    operator = controller.as_key((await controller.api.post("/v1/keys", json={"role": "operator"})).json()["secret"])
    models = "/v1/tenants/acme/models"
    rows: list[tuple[dict[str, str], str, str, int]] = [
        (viewer, "GET", models, 200),
        (viewer, "POST", models, 403),
        (viewer, "GET", "/v1/tenants/acme", 200),
        (viewer, "GET", "/v1/tenants/acme/keys", 403),
        (developer, "POST", models, 201),
        (developer, "GET", "/v1/tenants/acme/keys", 403),
        (developer, "GET", "/v1/jobs", 403),
        (operator, "GET", "/v1/jobs", 200),
        (operator, "GET", "/v1/events", 200),
        (operator, "GET", "/v1/tenants", 403),
        (operator, "GET", models, 403),
        (operator, "GET", "/v1/tenants/none/models", 403),
        (operator, "GET", "/v1/keys", 403),
    ]
    for key, method, path, status in rows:
        body = {"json": {"name": "digits"}} if method == "POST" else {}
        answer = await controller.api.request(method, path, headers=key, **body)
        assert answer.status_code == status, (method, path, answer.text)
