"""What the fake does wrong on demand, and what it remembers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from doubles.kubernetes.server import FakeKubernetes


async def test_a_status_so_many_times(fake: FakeKubernetes, fake_api: Any) -> None:
    fake.fault("status", "list", "pods", code=503, retry_after_s=2, times=2)
    for _ in range(2):
        answer = await fake_api.ask("GET", fake_api.path("pods"))
        assert (answer.status, answer.body["reason"]) == (503, "ServiceUnavailable")
        assert answer.headers["retry-after"] == "2"
    assert (await fake_api.ask("GET", fake_api.path("pods"))).status == 200


async def test_a_fault_meets_only_what_it_names(fake: FakeKubernetes, fake_api: Any) -> None:
    fake.fault("status", "update", "leases", name="mine", code=500)
    await fake_api.create("leases", "mine", spec={})
    other = await fake_api.create("leases", "other", spec={})
    assert (await fake_api.ask("PUT", fake_api.path("leases", "other"), other)).status == 200
    assert (await fake_api.ask("PUT", fake_api.path("leases", "mine"), other)).status == 500


async def test_conflicts_as_if_somebody_else_had_written(fake: FakeKubernetes, fake_api: Any) -> None:
    made = await fake_api.create("leases", "one", spec={})
    fake.fault("conflict", "update", "leases")
    answer = await fake_api.ask("PUT", fake_api.path("leases", "one"), made)
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    assert (await fake_api.ask("PUT", fake_api.path("leases", "one"), made)).status == 200


async def test_a_request_whose_connection_is_reset(fake: FakeKubernetes, fake_api: Any) -> None:
    fake.fault("reset", "list", "pods")
    with pytest.raises(httpx.TransportError):
        await fake_api.ask("GET", fake_api.path("pods"))
    assert (await fake_api.ask("GET", fake_api.path("pods"))).status == 200


async def test_a_watch_is_reset_in_the_middle(fake: FakeKubernetes, fake_api: Any) -> None:
    fake.fault("reset", "watch", "leases", after_events=1)
    for name in ("a", "b"):
        await fake_api.create("leases", name, spec={})
    async with fake_api.watch("leases", resourceVersion="1000") as stream:
        assert await stream.names(1) == [("ADDED", "a")]
        with pytest.raises(httpx.TransportError):
            await stream.next()


async def test_a_watch_expires_in_the_middle(fake: FakeKubernetes, fake_api: Any) -> None:
    fake.fault("expired", "watch", "leases", after_events=1)
    for name in ("a", "b"):
        await fake_api.create("leases", name, spec={})
    async with fake_api.watch("leases", resourceVersion="1000") as stream:
        types = [event["type"] for event in await stream.rest()]
    assert types == ["ADDED", "ERROR"]


async def test_lost_events_cannot_be_asked_for_again(fake: FakeKubernetes, fake_api: Any) -> None:
    fake.fault("lose", "watch", "leases", after_events=1)
    for name in ("a", "b", "c"):
        await fake_api.create("leases", name, spec={})
    async with fake_api.watch("leases", resourceVersion="1000") as stream:
        seen = await stream.rest()
    assert [event["type"] for event in seen] == ["ADDED", "ERROR"]
    async with fake_api.watch("leases", resourceVersion=seen[0]["object"]["metadata"]["resourceVersion"]) as stream:
        assert [event["type"] for event in await stream.rest()] == ["ERROR"]


async def test_bookmarks_alone_move_on_but_show_nothing(fake: FakeKubernetes, fake_api: Any) -> None:
    fake.fault("bookmarks", "watch", "leases")
    async with fake_api.watch("leases", resourceVersion="1000", allowWatchBookmarks="true") as stream:
        made = await fake_api.create("leases", "one", spec={})
        fake.bookmark("leases")
        event = await stream.next()
    assert event["type"] == "BOOKMARK"
    assert int(event["object"]["metadata"]["resourceVersion"]) >= int(made["metadata"]["resourceVersion"])


async def test_slow_events_arrive_in_order(fake: FakeKubernetes, fake_api: Any) -> None:
    fake.fault("slow", "watch", "leases", delay_s=0.05)
    started = asyncio.get_running_loop().time()
    async with fake_api.watch("leases", resourceVersion="1000") as stream:
        for name in ("a", "b"):
            await fake_api.create("leases", name, spec={})
        assert await stream.names(2) == [("ADDED", "a"), ("ADDED", "b")]
    assert asyncio.get_running_loop().time() - started >= 0.1


async def test_running_watches_are_cut_expired_and_marked(fake: FakeKubernetes, fake_api: Any) -> None:
    async with fake_api.watch("leases", resourceVersion="1000", allowWatchBookmarks="true") as stream:
        fake.bookmark("leases")
        assert (await stream.next())["type"] == "BOOKMARK"
        fake.expire_watches("pods")
        fake.expire_watches("leases")
        assert (await stream.next())["object"]["code"] == 410
    async with fake_api.watch("leases", resourceVersion="1000") as stream:
        fake.reset_watches()
        with pytest.raises(httpx.TransportError):
            await stream.next()
    await fake.until(lambda: fake.watches() == 0)


async def test_compaction_ends_old_pages_and_old_watches_but_no_running_one(
    fake: FakeKubernetes, fake_api: Any
) -> None:
    for name in ("a", "b"):
        made = await fake_api.create("leases", name, spec={})
    page = (await fake_api.ask("GET", fake_api.path("leases"), limit="1")).body
    async with fake_api.watch("leases", resourceVersion=made["metadata"]["resourceVersion"]) as stream:
        await fake_api.patch("leases", "a", {"spec": {"holderIdentity": "x"}})
        assert await stream.names(1) == [("MODIFIED", "a")]
        fake.compact()
        await fake_api.patch("leases", "b", {"spec": {"holderIdentity": "x"}})
        assert await stream.names(1) == [("MODIFIED", "b")]
    late = await fake_api.ask("GET", fake_api.path("leases"), **{"continue": page["metadata"]["continue"]})
    assert (late.status, late.body["reason"]) == (410, "Expired")
    rest = await fake_api.ask("GET", fake_api.path("leases"), **{"continue": late.body["metadata"]["continue"]})
    assert [item["metadata"]["name"] for item in rest.body["items"]] == ["b"]
    async with fake_api.watch("leases", resourceVersion=made["metadata"]["resourceVersion"]) as stream:
        event = await stream.next()
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert event["object"]["message"].startswith("too old resource version: ")
        assert await stream.rest() == []


async def test_history_is_bounded(tmp_path: Any) -> None:
    async with FakeKubernetes(history=10) as fake, httpx.AsyncClient(base_url=fake.url) as http:
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "one"}}
        for number in range(30):
            fake.put(lease | {"spec": {"leaseTransitions": number}})
        path = "/apis/coordination.k8s.io/v1/leases?watch=1&timeoutSeconds=1&resourceVersion="
        assert b"Expired" in (await http.get(f"{path}1001")).content
        assert (await http.get(f"{path}{fake.store.version - 5}")).content.count(b"MODIFIED") == 5


async def test_periodic_bookmarks() -> None:
    async with FakeKubernetes(bookmark_interval_s=0.05) as fake, httpx.AsyncClient(base_url=fake.url) as http:
        path = "/api/v1/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion=1000"
        assert (await http.get(path)).content.count(b"BOOKMARK") >= 3


async def test_a_server_without_streamed_lists() -> None:
    async with FakeKubernetes(watch_list=False) as fake, httpx.AsyncClient(base_url=fake.url) as http:
        query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        answer = await http.get(f"/api/v1/pods?{query}")
        assert answer.status_code == 422
        assert "WatchList feature gate" in answer.json()["message"]


async def test_calls_are_recorded_as_rules_name_them(fake: FakeKubernetes, fake_api: Any, workloads: Any) -> None:
    await fake_api.create("deployments", "web", spec=workloads())
    await fake_api.ask("PATCH", fake_api.path("deployments", "web", "scale"), {}, "application/merge-patch+json")
    async with fake_api.watch("leases", fieldSelector="metadata.name=one"):
        watched = fake.calls_of("watch", "leases")[-1]
    assert (watched.group, watched.namespace, watched.name) == ("coordination.k8s.io", fake_api.namespace, "one")
    scaled = fake.calls_of("patch", "deployments", "scale")
    assert [(call.group, call.name, call.user) for call in scaled] == [("apps", "web", "system:admin")]
