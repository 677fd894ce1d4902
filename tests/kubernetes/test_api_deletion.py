"""Deletion: grace, finalizers, preconditions, owners, budgets."""

from __future__ import annotations

import asyncio
from typing import Any

NODE = "node-of-nobody"


async def _gone(api: Any, kind: str, name: str) -> None:
    """Wait for an object to go, by a watch."""
    version = await api.version(kind)
    if (await api.ask("GET", api.path(kind, name))).status == 404:
        return
    async with api.watch(kind, fieldSelector=f"metadata.name={name}", resourceVersion=version) as stream:
        while (await stream.next())["type"] != "DELETED":
            pass


async def test_a_pod_that_runs_nowhere_goes_at_once(api: Any, pods: Any) -> None:
    await api.create("pods", "free", spec=pods(schedulingGates=[{"name": "berth.test/never"}]))
    answer = await api.ask("DELETE", api.path("pods", "free"))
    assert (answer.status, answer.body["kind"]) == (200, "Pod")
    assert (await api.ask("GET", api.path("pods", "free"))).status == 404


async def test_a_pod_on_a_node_stays_until_its_kubelet_lets_it_go(api: Any, pods: Any) -> None:
    await api.create("pods", "bound", spec=pods(nodeName=NODE, terminationGracePeriodSeconds=60))
    answer = await api.ask("DELETE", api.path("pods", "bound"))
    assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 60
    first = (await api.get("pods", "bound"))["metadata"]
    await api.ask("DELETE", api.path("pods", "bound"), {"gracePeriodSeconds": 90})
    assert (await api.get("pods", "bound"))["metadata"]["deletionGracePeriodSeconds"] == 60
    await api.ask("DELETE", api.path("pods", "bound"), {"gracePeriodSeconds": 5})
    shorter = (await api.get("pods", "bound"))["metadata"]
    assert shorter["deletionGracePeriodSeconds"] == 5
    assert shorter["deletionTimestamp"] < first["deletionTimestamp"]
    await api.ask("DELETE", api.path("pods", "bound"), {"gracePeriodSeconds": 0})
    assert (await api.ask("GET", api.path("pods", "bound"))).status == 404


async def test_the_answer_of_other_kinds_is_a_status(api: Any) -> None:
    made = await api.create("configmaps", "one")
    answer = await api.ask("DELETE", api.path("configmaps", "one"))
    assert answer.body == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": "one", "kind": "configmaps", "uid": made["metadata"]["uid"]},
    }
    assert (await api.ask("DELETE", api.path("configmaps", "one"))).status == 404


async def test_a_finalizer_holds_an_object(api: Any) -> None:
    await api.create("configmaps", "held", metadata={"name": "held", "finalizers": ["berth.test/hold"]})
    await api.ask("DELETE", api.path("configmaps", "held"))
    held = await api.get("configmaps", "held")
    assert held["metadata"]["deletionTimestamp"]
    more = await api.patch("configmaps", "held", {"metadata": {"finalizers": ["berth.test/hold", "berth.test/more"]}})
    assert more.status == 422
    await api.patch("configmaps", "held", {"metadata": {"finalizers": None}})
    assert (await api.ask("GET", api.path("configmaps", "held"))).status == 404


async def test_preconditions_guard_a_deletion(api: Any) -> None:
    made = await api.create("configmaps", "one")
    await api.patch("configmaps", "one", {"data": {"k": "v"}})
    for wrong in ({"uid": "none"}, {"resourceVersion": made["metadata"]["resourceVersion"]}):
        answer = await api.ask("DELETE", api.path("configmaps", "one"), {"preconditions": wrong})
        assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    right = {"preconditions": {"uid": made["metadata"]["uid"]}}
    assert (await api.ask("DELETE", api.path("configmaps", "one"), right)).status == 200


async def test_what_an_owner_leaves_behind_is_collected(api: Any) -> None:
    owner = await api.create("configmaps", "owner")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    for name in ("child", "other"):
        await api.create("configmaps", name, metadata={"name": name, "ownerReferences": [reference]})
    await api.ask("DELETE", api.path("configmaps", "owner"), {"propagationPolicy": "Background"})
    async with asyncio.timeout(30):
        await _gone(api, "configmaps", "child")
        await _gone(api, "configmaps", "other")


async def test_an_owner_can_wait_for_what_it_owns(api: Any) -> None:
    owner = await api.create("configmaps", "owner")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    metadata = {"ownerReferences": [reference | {"blockOwnerDeletion": True}], "finalizers": ["berth.test/hold"]}
    await api.create("configmaps", "child", metadata={"name": "child", **metadata})
    version = await api.version()
    await api.ask("DELETE", api.path("configmaps", "owner"), {"propagationPolicy": "Foreground"})
    query = {"fieldSelector": "metadata.name=child", "resourceVersion": version}
    async with api.watch("configmaps", **query) as stream:
        assert "deletionTimestamp" in (await stream.next())["object"]["metadata"]
    assert (await api.get("configmaps", "owner"))["metadata"]["finalizers"] == ["foregroundDeletion"]
    await api.patch("configmaps", "child", {"metadata": {"finalizers": None}})
    async with asyncio.timeout(30):
        await _gone(api, "configmaps", "owner")


async def test_an_eviction_asks_the_budget(api: Any, pods: Any) -> None:
    labels = {"app": "guarded"}
    for name in ("a", "b"):
        await api.create("pods", name, metadata={"name": name, "labels": labels}, spec=pods(nodeName=NODE))
        ready = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        assert (await api.patch("pods", name, ready, subresource="status")).status == 200
    version = await api.version("poddisruptionbudgets")
    await api.create("poddisruptionbudgets", "guard", spec={"minAvailable": 1, "selector": {"matchLabels": labels}})
    async with api.watch("poddisruptionbudgets", resourceVersion=version) as stream:
        while (await stream.next())["object"].get("status", {}).get("disruptionsAllowed") != 1:
            pass  # the disruption controller of a real cluster takes its time

    async def evict(name: str) -> Any:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": api.namespace}}
        return await api.ask("POST", api.path("pods", name, "eviction"), body)

    allowed = await evict("a")
    assert (allowed.status, allowed.body["status"]) == (201, "Success")
    going = await api.get("pods", "a")
    assert "deletionTimestamp" in going["metadata"]
    assert "DisruptionTarget" in {item["type"] for item in going["status"]["conditions"]}
    refused = await evict("b")
    assert (refused.status, refused.body["reason"]) == (429, "TooManyRequests")
    assert refused.body["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    assert refused.body["details"]["causes"][0]["reason"] == "DisruptionBudget"
    for name in ("a", "b"):
        await api.ask("DELETE", api.path("pods", name), {"gracePeriodSeconds": 0})


async def test_a_namespace_goes_with_all_it_holds(api: Any) -> None:
    name = f"{api.namespace}-2"
    await api.create("namespaces", name)
    path = f"/api/v1/namespaces/{name}"
    await api.ask("POST", f"{path}/configmaps", {"metadata": {"name": "one"}})
    assert (await api.ask("DELETE", path)).body["status"]["phase"] == "Terminating"
    async with asyncio.timeout(60):
        await _gone(api, "namespaces", name)
    assert (await api.ask("GET", f"{path}/configmaps/one")).status == 404
