"""Watches: what a client that lists and then watches sees, and what tells it to list again."""

from __future__ import annotations

from typing import Any


async def test_a_watch_goes_on_from_a_list(api: Any) -> None:
    await api.create("leases", "before", spec={})
    async with api.watch("leases", resourceVersion=await api.version("leases")) as stream:
        made = await api.create("leases", "one", spec={})
        await api.patch("leases", "one", {"spec": {"holderIdentity": "a"}})
        await api.ask("DELETE", api.path("leases", "one"))
        events = [await stream.next() for _ in range(3)]
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert {event["object"]["metadata"]["uid"] for event in events} == {made["metadata"]["uid"]}
    assert {event["object"]["kind"] for event in events} == {"Lease"}
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))


async def test_a_watch_from_nowhere_begins_with_what_there_is(api: Any) -> None:
    await api.create("leases", "a", spec={})
    await api.create("leases", "b", spec={})
    async with api.watch("leases", resourceVersion="0") as stream:
        assert sorted(await stream.names(2)) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_watch_from_the_past_repeats_what_happened_since(api: Any) -> None:
    first = await api.create("leases", "a", spec={})
    await api.patch("leases", "a", {"spec": {"holderIdentity": "x"}})
    await api.create("leases", "b", spec={})
    async with api.watch("leases", resourceVersion=first["metadata"]["resourceVersion"]) as stream:
        assert await stream.names(2) == [("MODIFIED", "a"), ("ADDED", "b")]


async def test_a_selector_makes_leaving_a_deletion_and_coming_an_addition(api: Any) -> None:
    await api.create("leases", "one", metadata={"name": "one", "labels": {"in": "no"}}, spec={})
    async with api.watch("leases", labelSelector="in=yes", resourceVersion=await api.version("leases")) as stream:
        for value in ("yes", "no"):
            await api.patch("leases", "one", {"metadata": {"labels": {"in": value}}})
            last = await stream.next()
        left = await api.get("leases", "one")
    assert (last["type"], last["object"]["metadata"]["labels"]) == ("DELETED", {"in": "yes"})
    assert last["object"]["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]


async def test_a_field_selector_follows_one_object(api: Any) -> None:
    query = {"fieldSelector": "metadata.name=one", "resourceVersion": await api.version("leases")}
    async with api.watch("leases", **query) as stream:
        await api.create("leases", "other", spec={})
        await api.create("leases", "one", spec={})
        assert await stream.names(1) == [("ADDED", "one")]


async def test_a_watch_ends_when_its_time_is_over(api: Any) -> None:
    query = {"timeoutSeconds": "1", "resourceVersion": await api.version("leases")}
    async with api.watch("leases", **query) as stream:
        await api.create("leases", "one", spec={})
        assert [event["type"] for event in await stream.rest()] == ["ADDED"]


async def test_a_streamed_list_says_where_it_ends(api: Any) -> None:
    await api.create("leases", "one", spec={})
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with api.watch("leases", **query) as stream:
        assert await stream.names(1) == [("ADDED", "one")]
        end = await stream.next()
        assert end["type"] == "BOOKMARK"
        assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await api.create("leases", "two", spec={})
        assert await stream.names(1) == [("ADDED", "two")]


async def test_a_streamed_list_must_say_which_version_it_accepts(api: Any) -> None:
    answer = await api.ask("GET", api.path("leases"), watch="1", sendInitialEvents="true")
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
