"""Tenants, keys, models, labels and jobs over real HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest


async def test_first_steps(controller: Any) -> None:
    assert (await controller.get("/v1/whoami")) == {"key_id": "bootstrap", "role": "admin", "tenant": None}
    key = await controller.tenant("acme")
    me = (await controller.api.get("/v1/whoami", headers=key)).json()
    assert (me["role"], me["tenant"]) == ("developer", "acme")
    made = await controller.api.post("/v1/tenants/acme/models", json={"name": "digits"}, headers=key)
    assert made.status_code == 201
    assert made.json()["latest_version"] is None
    assert made.json()["serves"] == {"versions": [], "labels": {}}
    assert made.headers["etag"] == f'"{made.json()["etag"]}"'
    kinds = [event["kind"] for event in (await controller.get("/v1/tenants/acme/events"))["items"]]
    assert kinds == ["tenant.created", "key.created", "model.created"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tenants", {"name": "acme"}),
        ("/v1/jobs", {"name": "pool"}),
        ("/v1/tenants/acme/models", {"name": "digits"}),
    ],
)
async def test_names_are_taken_once(controller: Any, path: str, body: dict[str, Any]) -> None:
    await controller.tenant("acme")
    await controller.api.post(path, json=body)
    again = await controller.api.post(path, json=body)
    assert again.status_code == 409
    assert again.json()["type"] == "urn:berth:problem:conflict"


async def test_changes_name_the_state_they_were_made_for(controller: Any) -> None:
    await controller.tenant("acme")
    for path, change in (
        ("/v1/tenants/acme", {"quota": {"max_models": 7}}),
        ("/v1/jobs/pool", {"replicas": 3}),
    ):
        before = await controller.api.get(path)
        etag = before.headers["etag"]
        assert (await controller.api.get(path, headers={"if-none-match": etag})).status_code == 304
        changed = await controller.api.patch(path, json=change, headers={"if-match": etag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != etag
        late = await controller.api.patch(path, json=change, headers={"if-match": etag})
        assert late.status_code == 412
        assert (await controller.api.delete(path, headers={"if-match": etag})).status_code == 412
        assert (await controller.api.delete(path, headers={"if-match": changed.headers["etag"]})).status_code == 204
        assert (await controller.api.get(path)).status_code == 404


async def test_pages_follow_each_other_without_gap_or_repetition(controller: Any) -> None:
    names = [f"t{number:02}" for number in range(7)]
    for name in reversed(names):
        await controller.api.post("/v1/tenants", json={"name": name})
    seen, cursor, pages = [], None, 0
    while cursor is not None or not pages:
        page = await controller.get("/v1/tenants?limit=3" + (f"&cursor={cursor}" if cursor else ""))
        seen += [tenant["name"] for tenant in page["items"]]
        cursor, pages = page.get("next_cursor"), pages + 1
    assert seen == names
    assert pages == 3


async def test_made_up_cursors_are_refused(controller: Any) -> None:
    for cursor in ("x", "WzFd", "W10", "WyJcdTAwMDAiXQ", "////", "bnVsbA"):
        answer = await controller.api.get("/v1/jobs", params={"cursor": cursor})
        assert answer.status_code == 400, cursor
        assert "cursor" in answer.json()["detail"]


async def test_a_repeated_post_is_answered_as_before(controller: Any) -> None:
    body, headers = {"name": "acme"}, {"idempotency-key": "try-1"}
    first = await controller.api.post("/v1/tenants", json=body, headers=headers)
    again = await controller.api.post("/v1/tenants", json=body, headers=headers)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = await controller.api.post("/v1/tenants", json={"name": "other"}, headers=headers)
    assert other.status_code == 409
    malformed = await controller.api.post("/v1/tenants", json=body, headers={"idempotency-key": "x" * 256})
    assert malformed.status_code == 400


async def test_a_repeated_key_creation_gives_the_same_secret_and_stores_none(controller: Any) -> None:
    await controller.tenant("acme")
    body, headers = {"role": "viewer"}, {"idempotency-key": "key-for-ci"}
    answers = await asyncio.gather(
        *(controller.api.post("/v1/tenants/acme/keys", json=body, headers=headers) for _ in range(3))
    )
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert len({answer.text for answer in answers}) == 1
    made = answers[0].json()
    assert (await controller.api.get("/v1/whoami", headers=controller.as_key(made["secret"]))).status_code == 200
    listed = await controller.api.get("/v1/tenants/acme/keys")
    assert made["secret"] not in listed.text
    assert [key["id"] for key in listed.json()["items"]].count(made["id"]) == 1


async def test_a_revoked_key_ends_at_once_and_leaves_the_feed(controller: Any) -> None:
    key = await controller.tenant("acme")
    key_id = (await controller.api.get("/v1/whoami", headers=key)).json()["key_id"]
    before = await controller.desired()
    assert (await controller.api.delete(f"/v1/tenants/acme/keys/{key_id}")).status_code == 204
    refused = await controller.api.get("/v1/whoami", headers=key)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    after = await controller.desired()
    assert after.generation > before.generation
    assert {entry.tenant for entry in before.keys} - {entry.tenant for entry in after.keys} == {"acme"}
    assert (await controller.api.delete(f"/v1/tenants/acme/keys/{key_id}")).status_code == 204
    assert (await controller.api.delete("/v1/tenants/acme/keys/key-none")).status_code == 404


async def test_roles_belong_to_the_platform_or_to_a_tenant(controller: Any) -> None:
    await controller.tenant("acme")
    for path, role, status in (
        ("/v1/keys", "admin", 201),
        ("/v1/keys", "operator", 201),
        ("/v1/keys", "developer", 400),
        ("/v1/tenants/acme/keys", "viewer", 201),
        ("/v1/tenants/acme/keys", "admin", 400),
        ("/v1/tenants/none/keys", "viewer", 404),
    ):
        answer = await controller.api.post(path, json={"role": role})
        assert answer.status_code == status, (path, role, answer.text)


async def test_a_job_keeps_the_memory_that_is_reserved(controller: Any) -> None:
    await controller.tenant("acme")
    uploaded = await controller.upload("acme/digits")
    assert uploaded.status_code == 201, uploaded.text
    reserved = (await controller.get("/v1/jobs/pool"))["reserved_bytes"]
    assert reserved == uploaded.json()["estimated_bytes"] > 0
    job = await controller.get("/v1/jobs/pool")
    assert job["resources"] == {"capacity": {"host": job["memory_per_replica"]}, "reserved": {"host": reserved}}
    await controller.job("tiny", memory_per_replica=1 << 20)
    assert (await controller.api.delete("/v1/jobs/pool")).json()["assignments"] == 1
    for _ in range(8):
        assert (await controller.upload("acme/digits")).status_code == 201
    shrunk = await controller.api.patch("/v1/jobs/pool", json={"memory_per_replica": 1 << 20})
    held = (await controller.get("/v1/jobs/pool"))["reserved_bytes"]
    assert shrunk.status_code == (409 if held > 1 << 20 else 200)


async def test_a_tenant_with_models_stays(controller: Any) -> None:
    await controller.tenant("acme")
    await controller.api.post("/v1/tenants/acme/models", json={"name": "digits"})
    assert (await controller.api.delete("/v1/tenants/acme")).status_code == 409
    assert (await controller.api.delete("/v1/tenants/acme/models/digits")).status_code == 204
    assert (await controller.api.delete("/v1/tenants/acme")).status_code == 204


async def test_a_dedicated_job_needs_its_tenant_and_serves_no_other(controller: Any) -> None:
    assert (await controller.api.post("/v1/jobs", json={"name": "own", "dedicated_tenant": "acme"})).status_code == 400
    await controller.tenant("acme")
    await controller.tenant("other")
    await controller.job("own", dedicated_tenant="acme")
    assert (await controller.api.delete("/v1/tenants/acme")).status_code == 409
    assert (await controller.upload("acme/m")).json()["job"] == "own"
    assert (await controller.upload("other/m")).json()["job"] == "pool"


async def test_quotas(controller: Any) -> None:
    key = await controller.tenant("acme")
    await controller.api.patch("/v1/tenants/acme", json={"quota": {"max_models": 1, "max_bytes": 250}})
    assert (await controller.upload("acme/one", **key)).status_code == 201
    refused = await controller.upload("acme/two", **key)
    assert (refused.status_code, refused.json()["quota"]) == (403, "max_models")
    answers = [await controller.upload("acme/one", **key) for _ in range(5)]
    assert answers[-1].status_code == 403
    assert answers[-1].json()["quota"] == "max_bytes"


async def _problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"].startswith("urn:berth:problem:")
    assert body["instance"] == f"urn:berth:request:{answer.headers['x-request-id']}"
    return dict(body)


BAD_REQUESTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/nowhere", {}, 404),
    ("PUT", "/v1/tenants", {}, 405),
    ("GET", "/v1/tenants", {"headers": {"authorization": "Bearer wrong"}}, 401),
    ("GET", "/v1/tenants", {"headers": {"authorization": "Basic wrong"}}, 401),
    ("GET", "/v1/tenants", {"headers": {"authorization": b"Bearer \xff"}}, 401),
    ("GET", "/v1/tenants?limit=0", {}, 400),
    ("GET", "/v1/tenants?limit=many", {}, 400),
    ("POST", "/v1/tenants", {"content": b"{"}, 400),
    ("POST", "/v1/tenants", {"content": b"\xff\xfe"}, 400),
    ("POST", "/v1/tenants", {"json": {"name": "Ünïcode"}}, 400),
    ("POST", "/v1/tenants", {"json": {"name": "../etc"}}, 400),
    ("POST", "/v1/tenants", {"json": {"name": "acme", "colour": "red"}}, 400),
    ("POST", "/v1/tenants", {"content": b'{"name": "' + b"a" * (1 << 20) + b'"}'}, 413),
    ("POST", "/v1/jobs", {"json": {"name": "j", "memory_per_replica": -1}}, 400),
    ("POST", "/v1/jobs", {"json": {"name": "j", "memory_per_replica": 2**80}}, 400),
    ("POST", "/v1/jobs", {"json": {"name": "j", "runtime": "tensorflow"}}, 400),
    ("PATCH", "/v1/jobs/pool", {"json": {"replicas": "many"}}, 400),
    ("GET", "/v1/tenants/%00", {}, 404),
    ("GET", "/v1/tenants/%2e%2e", {}, 404),
    ("GET", "/v1/jobs/%F0%9F%92%A9", {}, 404),
    ("DELETE", "/v1/keys/nope", {}, 404),
    ("GET", "/v1/tenants/acme/models/m", {}, 404),
    ("POST", "/v1/tenants/none/models", {"json": {"name": "m"}}, 404),
    ("POST", "/v1/tenants/acme/models", {"json": {"name": "m", "description": "a\x00b"}}, 400),
    ("POST", "/v1/tenants/acme/models", {"content": b'{"name": "m", "description": "\\ud800"}'}, 400),
    ("GET", "/v1/events", {"headers": {"last-event-id": "x"}}, 400),
    ("GET", "/v1/events?after=99999999999999999999", {}, 400),
]


async def test_bad_requests_are_refused_as_problems(controller: Any) -> None:
    await controller.tenant("acme")
    for method, path, extra, status in BAD_REQUESTS:
        answer = await controller.api.request(method, path, **extra)
        assert answer.status_code == status, (method, path, extra, answer.text)
        await _problem(answer)
    assert (await controller.api.get("/healthz")).status_code == 200


async def test_request_ids_are_kept_or_made(controller: Any) -> None:
    kept = await controller.api.get("/v1/whoami", headers={"x-request-id": "abc-123"})
    assert kept.headers["x-request-id"] == "abc-123"
    made = await controller.api.get("/v1/whoami", headers={"x-request-id": "bad id\x7f"})
    assert made.headers["x-request-id"] != "bad id\x7f"
    assert len(made.headers["x-request-id"]) == 32


async def test_probes_need_no_key(controller: Any) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        answer = await controller.api.get(path, headers={"authorization": ""})
        assert answer.status_code == 200, path
    text = (await controller.api.get("/metrics")).text
    assert 'route="/v1/jobs"' in text
    assert "berth_transaction_retries" in text
