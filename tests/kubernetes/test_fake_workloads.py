"""The controllers of the fake, seen through the objects that they make."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from doubles.kubernetes.kinds import BY_NAME, Object
from doubles.kubernetes.registry import Registry
from doubles.kubernetes.server import FakeKubernetes
from doubles.kubernetes.store import Store

LABELS = {"app": "web"}


def _workload(kind: str, name: str = "web", replicas: int = 3, ready: str = "true", **spec: Any) -> Object:
    template = {
        "metadata": {"labels": LABELS, "annotations": {"testing.berth.dev/ready": ready}},
        "spec": {
            "containers": [{"name": "main", "image": "main:1", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
    }
    body = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template} | spec
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": body}


def _status(cluster: FakeKubernetes, kind: str = "deployments", name: str = "web") -> Object:
    found = cluster.get(kind, "default", name)
    assert found is not None
    status: Object = found.get("status", {})
    return status if status.get("observedGeneration") == found["metadata"]["generation"] else {}


def _names(cluster: FakeKubernetes) -> list[str]:
    return [pod["metadata"]["name"] for pod in cluster.items("pods", "default")]


async def _ready(cluster: FakeKubernetes, count: int, kind: str = "deployments") -> None:
    def is_ready() -> bool:
        status = _status(cluster, kind)
        return bool(
            status.get("readyReplicas", 0) == count
            and status.get("updatedReplicas", 0) == count
            and status.get("replicas", 0) == count == len(_names(cluster))
        )

    await cluster.until(is_ready)


def _scale(cluster: FakeKubernetes, replicas: int, kind: str = "deployments") -> None:
    cluster.patch(kind, "default", "web", {"spec": {"replicas": replicas}})


def _image(kind: str, cluster: FakeKubernetes, image: str, ready: str = "true") -> None:
    container = {"name": "main", "image": image}
    template = {"metadata": {"annotations": {"testing.berth.dev/ready": ready}}, "spec": {"containers": [container]}}
    cluster.patch(kind, "default", "web", {"spec": {"template": template}})


async def test_a_deployment_becomes_pods_on_every_node(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("Deployment"))
    await _ready(cluster, 3)
    pods = cluster.items("pods", "default")
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-0", "node-1", "node-2"}
    assert len({pod["status"]["podIP"] for pod in pods}) == 3
    (replica_set,) = cluster.items("replicasets", "default")
    assert {pod["metadata"]["ownerReferences"][0]["name"] for pod in pods} == {replica_set["metadata"]["name"]}
    hash_ = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"web-{hash_}"
    assert all(pod["metadata"]["labels"] == LABELS | {"pod-template-hash": hash_} for pod in pods)


async def test_scaling_up_and_down_and_to_nothing(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("Deployment"))
    for count in (6, 2, 0, 1):
        _scale(cluster, count)
        await _ready(cluster, count)


async def test_a_deleted_pod_is_replaced(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("Deployment"))
    await _ready(cluster, 3)
    gone = _names(cluster)[0]
    cluster.delete("pods", "default", gone)
    await cluster.until(lambda: gone not in _names(cluster))
    await _ready(cluster, 3)


async def test_a_rolling_update_replaces_every_pod(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("Deployment", replicas=4))
    await _ready(cluster, 4)
    _image("deployments", cluster, "main:2")
    await _ready(cluster, 4)
    assert {pod["spec"]["containers"][0]["image"] for pod in cluster.items("pods", "default")} == {"main:2"}
    sizes = {found["spec"]["replicas"] for found in cluster.items("replicasets", "default")}
    assert sizes == {0, 4}
    found = cluster.get("deployments", "default", "web")
    assert found is not None
    assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"


async def test_an_update_that_never_gets_ready_stops_within_its_bounds(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("Deployment", replicas=4))
    await _ready(cluster, 4)
    _image("deployments", cluster, "main:broken", ready="false")
    await cluster.until(lambda: _status(cluster).get("updatedReplicas") == 2)
    status = _status(cluster)
    assert (status["replicas"], status["readyReplicas"], status["unavailableReplicas"]) == (5, 3, 2)
    _image("deployments", cluster, "main:3")
    await _ready(cluster, 4)


async def test_recreate_waits_until_the_old_ones_are_gone(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("Deployment", strategy={"type": "Recreate"}))
    await _ready(cluster, 3)
    held = _names(cluster)[0]
    cluster.patch("pods", "default", held, {"metadata": {"finalizers": ["berth.test/hold"]}})
    _image("deployments", cluster, "main:2")
    await cluster.until(lambda: _names(cluster) == [held])
    cluster.patch("pods", "default", held, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["berth.test/hold"]}})
    await _ready(cluster, 3)


async def test_a_stateful_set_grows_and_shrinks_in_order(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("StatefulSet", serviceName="web", volumeClaimTemplates=[{"metadata": {"name": "data"}}]))
    await _ready(cluster, 3, "statefulsets")
    assert _names(cluster) == ["web-0", "web-1", "web-2"]
    made = sorted(cluster.items("pods", "default"), key=lambda pod: pod["status"]["podIP"])
    assert [pod["spec"]["hostname"] for pod in made] == ["web-0", "web-1", "web-2"]
    _scale(cluster, 1, "statefulsets")
    await _ready(cluster, 1, "statefulsets")
    assert _names(cluster) == ["web-0"]
    claims = [claim["metadata"]["name"] for claim in cluster.items("persistentvolumeclaims", "default")]
    assert claims == ["data-web-0", "data-web-1", "data-web-2"]


async def test_a_stateful_set_waits_for_each_to_be_ready(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("StatefulSet", ready="false"))
    await cluster.until(lambda: _status(cluster, "statefulsets").get("replicas") == 1)
    assert _names(cluster) == ["web-0"]
    cluster.put(_workload("StatefulSet", name="other", ready="false", podManagementPolicy="Parallel"))
    await cluster.until(lambda: len(_names(cluster)) == 4)


async def test_a_stateful_set_rolls_from_the_end(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("StatefulSet", updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}))
    await _ready(cluster, 3, "statefulsets")
    _image("statefulsets", cluster, "main:2")
    await cluster.until(lambda: _status(cluster, "statefulsets").get("updatedReplicas") == 2)
    images = {
        pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in cluster.items("pods", "default")
    }
    assert images == {"web-0": "main:1", "web-1": "main:2", "web-2": "main:2"}


async def test_pods_wait_for_a_node_that_takes_them(cluster: FakeKubernetes) -> None:
    for number in range(3):
        cluster.patch("nodes", "", f"node-{number}", {"spec": {"unschedulable": True}})
    cluster.put(_workload("Deployment", replicas=1))
    await cluster.until(lambda: len(_names(cluster)) == 1)
    await cluster.until(lambda: bool(cluster.items("pods", "default")[0]["status"].get("conditions")))
    (pod,) = cluster.items("pods", "default")
    assert pod["status"]["phase"] == "Pending"
    assert pod["status"]["conditions"][0]["reason"] == "Unschedulable"
    cluster.patch("nodes", "", "node-1", {"spec": {"unschedulable": None}})
    await _ready(cluster, 1)
    assert cluster.items("pods", "default")[0]["spec"]["nodeName"] == "node-1"


@pytest.mark.parametrize("kind", ["deployments", "statefulsets"])
async def test_a_lost_node_and_its_pods(cluster: FakeKubernetes, kind: str) -> None:
    cluster.put(_workload({"deployments": "Deployment", "statefulsets": "StatefulSet"}[kind]))
    await _ready(cluster, 3, kind)
    down = {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}}
    cluster.patch("nodes", "", "node-0", down, "status")
    lost = [pod["metadata"]["name"] for pod in cluster.items("pods") if pod["spec"].get("nodeName") == "node-0"]

    def going() -> bool:
        pods = [cluster.get("pods", "default", name) for name in lost]
        return all(pod is not None and "deletionTimestamp" in pod["metadata"] for pod in pods)

    await cluster.until(going)
    if kind == "deployments":  # two pods of one name must never run: a StatefulSet waits for the node object to go
        await cluster.until(lambda: _status(cluster, kind).get("readyReplicas") == 3)
    else:
        assert _status(cluster, kind)["readyReplicas"] == 2
    cluster.delete("nodes", "", "node-0")
    await _ready(cluster, 3, kind)
    assert {pod["spec"]["nodeName"] for pod in cluster.items("pods")} == {"node-1", "node-2"}


async def test_endpoint_slices_say_who_is_ready(cluster: FakeKubernetes) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}}
    cluster.put(service | {"spec": {"selector": LABELS, "ports": ports}})
    cluster.put(_workload("Deployment"))
    await _ready(cluster, 3)
    held = cluster.items("pods", "default")[0]
    cluster.patch("pods", "default", held["metadata"]["name"], {"metadata": {"finalizers": ["berth.test/hold"]}})

    def endpoints() -> dict[str, Object]:
        found = [item for slice_ in cluster.items("endpointslices") for item in slice_["endpoints"]]
        return {item["targetRef"]["name"]: item for item in found}

    await cluster.until(lambda: len(endpoints()) == 3)
    (slice_,) = cluster.items("endpointslices", "default")
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
    assert slice_["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    assert {item["zone"] for item in slice_["endpoints"]} == {"zone-0", "zone-1", "zone-2"}
    cluster.delete("pods", "default", held["metadata"]["name"])
    await cluster.until(lambda: endpoints()[held["metadata"]["name"]]["conditions"]["terminating"])
    conditions = endpoints()[held["metadata"]["name"]]["conditions"]
    assert conditions == {"ready": False, "serving": True, "terminating": True}


async def test_a_job_ends(cluster: FakeKubernetes) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "main:1"}]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate", "namespace": "default"}}
    cluster.put(job | {"spec": {"template": template, "completions": 2}})

    def conditions() -> list[str]:
        found = cluster.get("jobs", "default", "migrate") or {}
        return [item["type"] for item in found.get("status", {}).get("conditions") or ()]

    await cluster.until(lambda: conditions() == ["Complete"])
    assert (cluster.get("jobs", "default", "migrate") or {})["status"]["succeeded"] == 2


async def test_what_one_controller_is_refused_does_not_stop_the_others(cluster: FakeKubernetes) -> None:
    kind = BY_NAME["replicasets"]
    broken = _workload("ReplicaSet", "broken")
    broken["metadata"] |= {"uid": "u-1", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    broken["spec"]["template"]["spec"]["containers"] = []
    cluster.store.write(kind, broken)
    cluster.put(_workload("StatefulSet"))
    await _ready(cluster, 3, "statefulsets")
    assert _names(cluster) == ["web-0", "web-1", "web-2"]


class _Repeating(random.Random):
    """Draws what it drew before, twice."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn = iter(["aaaaa", "aaaaa", "aaaaa", "bbbbb"])

    def choices(self, *_: Any, **__: Any) -> list[Any]:
        return list(next(self._drawn))


def test_generated_names_that_are_taken_are_drawn_again() -> None:
    registry = Registry(Store(), lambda: datetime(2026, 1, 1, tzinfo=UTC), _Repeating())
    names = [
        registry.create(BY_NAME["nodes"], "", {"metadata": {"generateName": "n-"}})["metadata"]["name"]
        for _ in range(2)
    ]
    assert names == ["n-aaaaa", "n-bbbbb"]


async def test_deleting_a_deployment_takes_its_pods(cluster: FakeKubernetes) -> None:
    cluster.put(_workload("Deployment"))
    await _ready(cluster, 3)
    cluster.delete("deployments", "default", "web")
    await cluster.until(lambda: not cluster.items("replicasets") and not cluster.items("pods"))
