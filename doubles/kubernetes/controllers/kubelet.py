"""Kubelets that run nothing: a bound pod is running and ready at once, a pod that is going is gone at once.

For tests that need the states of pods but no processes. The annotation `testing.berth.dev/ready: "false"` on a pod, or
in a template, keeps it from becoming ready; a Job's pods succeed at once.
"""

from __future__ import annotations

from doubles.kubernetes.budgets import is_finished
from doubles.kubernetes.controllers.cluster import Cluster, controller_of, is_going, with_condition
from doubles.kubernetes.controllers.nodes import NODES, condition
from doubles.kubernetes.kinds import Object
from doubles.kubernetes.moments import stamp

READY = "testing.berth.dev/ready"
_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")


def reconcile(cluster: Cluster, pod: Object) -> None:
    node = cluster.store.get(NODES, "", pod["spec"].get("nodeName", ""))
    alive = node is not None and (condition(node) or {}).get("status") == "True"
    if not alive or is_finished(pod):
        return
    if is_going(pod):
        cluster.delete(pod, 0)
    elif (controller_of(pod) or {}).get("kind") == "Job":
        cluster.set_status(pod, pod["status"] | {"phase": "Succeeded"})
    else:
        cluster.set_status(pod, _running(cluster, pod))


def _running(cluster: Cluster, pod: Object) -> Object:
    ready = (pod["metadata"].get("annotations") or {}).get(READY, "true") == "true"
    status: Object = pod["status"]
    conditions = status.get("conditions") or []
    for type_ in _CONDITIONS:
        is_true = ready or type_ not in {"ContainersReady", "Ready"}
        held = next((item for item in conditions if item["type"] == type_), None)
        if held is None or held["status"] != str(is_true):
            conditions = with_condition(conditions, {"type": type_, "status": str(is_true)}, cluster.now)
    now = status.get("startTime") or stamp(cluster.now)
    address = status.get("podIP") or _address(cluster)
    containers = [
        {
            "name": container["name"],
            "image": container.get("image", ""),
            "imageID": "",
            "ready": ready,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": now}},
        }
        for container in pod["spec"]["containers"]
    ]
    return status | {
        "phase": "Running",
        "conditions": conditions,
        "startTime": now,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": "127.0.0.1",
        "containerStatuses": containers,
    }


def _address(cluster: Cluster) -> str:
    """Unique: versions of the store are."""
    number = cluster.store.version
    return f"10.{64 + number // 65536 % 64}.{number // 256 % 256}.{number % 256}"
