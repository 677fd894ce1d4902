"""Uploads: what is accepted, what is refused and why, and that a failure leaves nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from berth.artifacts.opening import open_store
from controller.loops.housekeeping import Housekeeping
from controller.store import artifacts
from controller.store.transaction import Transactions
from doubles.onnx_models import identity, linear

MODEL = identity()
OCTETS = {"content-type": "application/octet-stream"}


def content_digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def objects(controller: Any) -> list[Path]:
    folder = Path(controller.settings.artifact_store.removeprefix("file://"))
    return [path for path in folder.rglob("*") if path.is_file()]


def spooled(controller: Any) -> list[Path]:
    return list(controller.settings.spool_dir.iterdir())


async def test_an_upload_makes_a_placed_version_with_its_signature(controller: Any) -> None:
    key = await controller.tenant("acme")
    answer = await controller.upload("acme/digits", MODEL, **key, **{"content-digest": content_digest(MODEL)})
    assert answer.status_code == 201, answer.text
    version = answer.json()
    assert answer.headers["location"] == "/v1/tenants/acme/models/digits/versions/1"
    assert version["sha256"] == hashlib.sha256(MODEL).hexdigest()
    assert version["size_bytes"] == len(MODEL)
    assert version["signature"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    assert (version["state"], version["job"]) == ("pending", "pool")
    assert [path.read_bytes() for path in objects(controller)] == [MODEL]
    assert spooled(controller) == []
    (assignment,) = (await controller.get("/v1/tenants/acme/assignments"))["items"]
    assert assignment["reserved_bytes"] == version["estimated_bytes"]
    assert assignment["resources"] == {"host": version["estimated_bytes"]}
    state = await controller.desired()
    (spec,) = state.jobs[0].versions
    assert (spec.ref.model, spec.ref.version, spec.artifact.sha256) == ("digits", 1, version["sha256"])
    assert [(entry.model, entry.target) for entry in state.models] == [("digits", 1)]
    serves = (await controller.get("/v1/tenants/acme/models/digits"))["serves"]
    assert serves == {"versions": [{"version": 1, "weight": 1}], "labels": {}}


async def test_the_same_bytes_make_another_version(controller: Any) -> None:
    await controller.tenant("acme")
    numbers = [(await controller.upload("acme/digits", MODEL)).json()["version"] for _ in range(2)]
    assert numbers == [1, 2]
    assert len(objects(controller)) == 1


async def test_bad_uploads_are_refused_and_leave_nothing(controller: Any) -> None:
    await controller.tenant("acme")
    good = content_digest(MODEL)
    other = content_digest(b"other")
    path = "/v1/tenants/acme/models/digits/versions"
    rows: list[tuple[str, bytes, dict[str, str], int]] = [
        (path, b"", {}, 400),
        (path, b"\x00" * 100, {}, 422),
        (path, b"not a model at all", {}, 422),
        (path, MODEL[: len(MODEL) // 2], {}, 422),
        (path, MODEL, {"content-digest": other}, 422),
        (path, MODEL, {"content-digest": "sha-256=:AAAA:"}, 400),
        (path, MODEL, {"content-digest": "md5=:AAAA:"}, 400),
        (path, MODEL, {"content-type": "application/json"}, 415),
        (path, MODEL, {"content-type": "multipart/form-data; boundary=x"}, 415),
        ("/v1/tenants/acme/models/Bad%20Name/versions", MODEL, {}, 400),
        ("/v1/tenants/acme/models/..%2f..%2fetc/versions", MODEL, {}, 404),
        ("/v1/tenants/none/models/digits/versions", MODEL, {}, 404),
        (path, MODEL, {"idempotency-key": "\x7f"}, 400),
    ]
    for where, content, headers, status in rows:
        answer = await controller.api.post(where, content=content, headers=OCTETS | headers)
        assert answer.status_code == status, (where, headers, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await controller.get("/v1/tenants/acme/models"))["items"] == []
    assert (await controller.get("/v1/jobs/pool"))["reserved_bytes"] == 0
    assert objects(controller) == []
    assert spooled(controller) == []
    accepted = await controller.api.post(path, content=MODEL, headers=OCTETS | {"content-digest": f"md5=:x:, {good}"})
    assert accepted.json()["version"] == 1


async def test_too_large_uploads_are_refused_announced_or_not(start_controller: Any) -> None:
    controller = await start_controller(max_artifact_bytes=1000)
    await controller.tenant("acme")
    assert (await controller.upload("acme/m", b"x" * 1001)).status_code == 413

    async def repeated(times: int) -> AsyncIterator[bytes]:
        for _ in range(times):
            yield b"x" * 300

    path = "/v1/tenants/acme/models/m/versions"
    answer = await controller.api.post(path, content=repeated(1000), headers=OCTETS)
    assert answer.status_code == 413
    assert answer.json()["limit"] == 1000
    # Who does not stop sending is cut off.
    with contextlib.suppress(httpx.TransportError):
        answer = await controller.api.post(path, content=repeated(2**62), headers=OCTETS)
        assert answer.status_code == 413
    assert spooled(controller) == []


async def test_a_body_that_stops_arriving_is_given_up(start_controller: Any) -> None:
    controller = await start_controller(body_pause_s=0.2)
    await controller.tenant("acme")
    for path, headers in (("/v1/tenants/acme/models/m/versions", OCTETS), ("/v1/tenants", {})):
        async with asyncio.timeout(10):
            raw = await _send_and_stall(controller, path, headers)
        assert raw.startswith(b"HTTP/1.1 408")
        assert b"request-timeout" in raw
    assert spooled(controller) == []


async def _send_and_stall(controller: Any, path: str, headers: dict[str, str]) -> bytes:
    """Send half a request and read what comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection(controller.api.base_url.host, controller.api.base_url.port)
    authorization = controller.api.headers["authorization"]
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Length: 100", f"Authorization: {authorization}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", "half"]).encode())
    await writer.drain()
    raw = await reader.read()
    writer.close()
    return raw


async def test_a_refusal_for_want_of_room_names_each_job_and_writes_nothing(controller: Any) -> None:
    key = await controller.tenant("acme")
    await controller.tenant("rival")
    await controller.api.patch("/v1/jobs/pool", json={"memory_per_replica": 1 << 20})
    await controller.job("secret", memory_per_replica=1 << 20, dedicated_tenant="rival")
    events = (await controller.get("/v1/events"))["items"]
    large = linear([[0.5] * 1000] * 500)
    refused = await controller.upload("acme/large", large, **key)
    assert refused.status_code == 507
    problem = refused.json()
    assert [entry["job"] for entry in problem["shortfalls"]] == ["pool"]
    assert problem["shortfalls"][0]["short_of_bytes"] == problem["needed_bytes"] - (1 << 20)
    assert "secret" not in refused.text
    assert (await controller.get("/v1/tenants/acme/models"))["items"] == []
    assert (await controller.get("/v1/events"))["items"] == events
    assert objects(controller) == []
    # The operator sees all jobs.
    assert "secret" in (await controller.upload("acme/large", large)).text


async def test_repeated_and_simultaneous_uploads_with_one_key_make_one_version(controller: Any) -> None:
    await controller.tenant("acme")
    answers = await asyncio.gather(
        *(controller.upload("acme/digits", MODEL, **{"idempotency-key": "build-7"}) for _ in range(4))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 3
    other = await controller.upload("acme/digits", identity(shape=(2,)), **{"idempotency-key": "build-7"})
    assert other.status_code == 409
    assert len((await controller.get("/v1/tenants/acme/models/digits/versions"))["items"]) == 1


async def test_an_upload_cut_midway_leaves_nothing(controller: Any) -> None:
    await controller.tenant("acme")
    host, port = controller.api.base_url.host, controller.api.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"POST /v1/tenants/acme/models/digits/versions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n"
        b"Content-Type: application/octet-stream\r\nExpect: 100-continue\r\n"
        b"Authorization: " + controller.api.headers["authorization"].encode() + b"\r\n\r\n"
    )
    async with asyncio.timeout(10), controller.listening() as committed:
        # It is asked for when there is a place for it.
        assert b" 100 Continue" in await reader.readline()
        writer.write(b"x" * 2_000_000)
        await writer.drain()
        assert spooled(controller)
        writer.transport.abort()
        while spooled(controller):
            await committed("uploads")
    assert objects(controller) == []
    assert (await controller.get("/v1/tenants/acme/models"))["items"] == []
    text = (await controller.api.get("/metrics")).text
    assert 'berth_uploads_total{outcome="cut"} 1.0' in text


async def test_an_artifact_whose_version_was_never_made_is_collected(
    controller: Any, transactions: Transactions, tmp_path: Path
) -> None:
    """As after a kill between storing the bytes and the commit: only garbage is left, and it does not stay."""
    await controller.tenant("acme")
    kept = (await controller.upload("acme/digits", MODEL)).json()["sha256"]
    store = open_store(controller.settings.artifact_store)
    orphan = hashlib.sha256(b"orphan").hexdigest()
    assert await transactions.run(lambda tx: artifacts.touch(tx, orphan, 6))
    await store.put(_once(b"orphan"), expected_sha256=orphan, max_bytes=10)
    housekeeping = Housekeeping(transactions, store, tmp_path)
    await housekeeping.tidy(timedelta(hours=1))
    assert await store.exists(orphan)  # its upload may still be on its way
    await housekeeping.tidy(timedelta(0))
    assert not await store.exists(orphan)
    assert await store.exists(kept)
    assert await transactions.run(lambda tx: artifacts.touch(tx, orphan, 6))


async def test_bytes_that_are_being_collected_are_not_referred_to(
    controller: Any, transactions: Transactions, tmp_path: Path
) -> None:
    await controller.tenant("acme")
    digest = hashlib.sha256(MODEL).hexdigest()
    assert await transactions.run(lambda tx: artifacts.touch(tx, digest, len(MODEL)))
    assert await transactions.run(lambda tx: artifacts.condemn(tx, timedelta(0))) == [digest]
    waits = await controller.upload("acme/digits", MODEL)
    assert (waits.status_code, waits.headers["retry-after"]) == (503, "2")
    await Housekeeping(transactions, open_store(controller.settings.artifact_store), tmp_path).tidy(timedelta(0))
    assert (await controller.upload("acme/digits", MODEL)).status_code == 201


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
