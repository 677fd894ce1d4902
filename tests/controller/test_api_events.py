"""Events as pages and as a stream that resumes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

STREAM = {"accept": "text/event-stream"}


async def messages(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def take(answer: httpx.Response, count: int) -> list[dict[str, Any]]:
    found = []
    async with asyncio.timeout(10):
        async for message in messages(answer):
            found.append(message)
            if len(found) == count:
                break
    return found


async def test_a_stream_tells_what_happens_and_resumes_where_it_stopped(controller: Any) -> None:
    await controller.tenant("acme")
    path = "/v1/tenants/acme/events"
    async with controller.api.stream("GET", path, headers=STREAM) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        await controller.api.post("/v1/tenants/acme/models", json={"name": "one"})
        (first,) = await take(answer, 1)
    assert (first["kind"], first["subject"]) == ("model.created", "model/one")
    for name in ("two", "three"):
        await controller.api.post("/v1/tenants/acme/models", json={"name": name})
    await controller.tenant("other")
    headers = STREAM | {"last-event-id": str(first["id"])}
    async with controller.api.stream("GET", path, headers=headers) as answer:
        rest = await take(answer, 2)
    assert [event["subject"] for event in rest] == ["model/two", "model/three"]
    page = await controller.get(f"{path}?after={first['id']}")
    assert page["items"] == rest


async def test_many_readers_each_get_everything_in_order(controller: Any) -> None:
    async def read() -> list[int]:
        async with controller.api.stream("GET", "/v1/events?after=0", headers=STREAM) as answer:
            return [event["id"] for event in await take(answer, 12)]

    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(read()) for _ in range(5)]
        for number in range(12):
            await controller.api.post("/v1/tenants", json={"name": f"t{number}"})
    found = [reader.result() for reader in readers]
    assert all(ids == found[0] for ids in found)
    assert found[0] == sorted(found[0])


async def test_a_revoked_key_ends_its_stream(controller: Any) -> None:
    key = await controller.tenant("acme")
    key_id = (await controller.api.get("/v1/whoami", headers=key)).json()["key_id"]
    async with controller.api.stream("GET", "/v1/tenants/acme/events", headers=STREAM | key) as answer:
        await controller.api.delete(f"/v1/tenants/acme/keys/{key_id}")
        async with asyncio.timeout(10):
            told = [message["kind"] async for message in messages(answer)]
    assert "key.revoked" not in told


async def test_open_streams_do_not_delay_the_end_of_the_process(start_controller: Any) -> None:
    controller = await start_controller()
    async with controller.api.stream("GET", "/v1/events", headers=STREAM) as answer:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await controller.stop()
        async with asyncio.timeout(10):
            assert [message async for message in messages(answer)] == []
        assert loop.time() - started < 4
