"""Lists: which objects, in which pages, of which moment."""

from __future__ import annotations

from typing import Any

import pytest


async def _names(api: Any, kind: str = "configmaps", **query: str) -> list[str]:
    answer = await api.ask("GET", api.path(kind), **query)
    assert answer.status == 200, answer.body
    return sorted(item["metadata"]["name"] for item in answer.body["items"] if item["metadata"]["name"] != _ROOT_CA)


_ROOT_CA = "kube-root-ca.crt"  # a real cluster puts it into every namespace


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("app=a", ["a1", "a2"]),
        ("app==a,tier=x", ["a1"]),
        ("app!=a", ["b1", "none"]),
        ("app in (a, b)", ["a1", "a2", "b1"]),
        ("app notin (a)", ["b1", "none"]),
        ("tier", ["a1", "b1"]),
        ("!tier,app", ["a2"]),
        ("app in (a,b),tier in (y)", ["b1"]),
    ],
)
async def test_labels_select(api: Any, selector: str, found: list[str]) -> None:
    for name, labels in (("a1", {"app": "a", "tier": "x"}), ("a2", {"app": "a"}), ("b1", {"app": "b", "tier": "y"})):
        await api.create("configmaps", name, metadata={"name": name, "labels": labels})
    await api.create("configmaps", "none")
    assert await _names(api, labelSelector=selector) == found


async def test_fields_select(api: Any, pods: Any) -> None:
    await api.create("pods", "bound", spec=pods(nodeName="node-of-nobody"))
    await api.create("pods", "free", spec=pods(nodeSelector={"berth.test/none": "none"}))
    assert await _names(api, "pods", fieldSelector="spec.nodeName=node-of-nobody") == ["bound"]
    assert await _names(api, "pods", fieldSelector="metadata.name=free,status.phase=Pending") == ["free"]
    assert await _names(api, "pods", fieldSelector="spec.nodeName!=node-of-nobody") == ["free"]
    await api.ask("DELETE", api.path("pods", "bound"), gracePeriodSeconds="0")


@pytest.mark.parametrize("query", [{"labelSelector": "a=b=c"}, {"fieldSelector": "spec.none=1"}])
async def test_selectors_that_cannot_be_read_are_refused(api: Any, query: dict[str, str]) -> None:
    answer = await api.ask("GET", api.path("pods"), **query)
    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")


async def test_items_of_a_list_do_not_repeat_their_kind(api: Any) -> None:
    await api.create("configmaps", "one")
    answer = await api.ask("GET", api.path("configmaps"))
    assert (answer.body["kind"], answer.body["apiVersion"]) == ("ConfigMapList", "v1")
    assert all("kind" not in item and "apiVersion" not in item for item in answer.body["items"])


async def test_pages_are_of_one_moment(api: Any) -> None:
    for number in range(5):
        await api.create("leases", f"l{number}", spec={})
    first = (await api.ask("GET", api.path("leases"), limit="2")).body
    assert [item["metadata"]["name"] for item in first["items"]] == ["l0", "l1"]
    assert first["metadata"]["remainingItemCount"] == 3
    await api.create("leases", "l11", spec={})
    await api.ask("DELETE", api.path("leases", "l3"))
    names, token = [], first["metadata"]["continue"]
    while token:
        page = (await api.ask("GET", api.path("leases"), **{"limit": "2", "continue": token})).body
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
    assert names == ["l2", "l3", "l4"]


async def test_a_version_of_the_future_is_refused(api: Any) -> None:
    answer = await api.ask("GET", api.path("configmaps"), resourceVersion="999999999")
    assert (answer.status, answer.body["reason"]) == (504, "Timeout")
    assert answer.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_an_exact_version_of_the_past_can_be_listed(api: Any) -> None:
    made = await api.create("leases", "one", spec={})
    await api.create("leases", "two", spec={})
    version = made["metadata"]["resourceVersion"]
    assert await _names(api, "leases", resourceVersion=version, resourceVersionMatch="Exact") == ["one"]
    assert await _names(api, "leases", resourceVersion=version, resourceVersionMatch="NotOlderThan") == ["one", "two"]
