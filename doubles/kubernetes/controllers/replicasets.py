"""ReplicaSets: as many pods as they are told, and the right ones to delete."""

from __future__ import annotations

from doubles.kubernetes.budgets import is_ready
from doubles.kubernetes.controllers.cluster import (
    PODS,
    Cluster,
    is_active,
    is_going,
    ready_since,
    without_zeros,
)
from doubles.kubernetes.kinds import Object
from doubles.kubernetes.moments import moment_of

COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASES = {"Pending": 0, "Unknown": 1}


def reconcile(cluster: Cluster, replica_set: Object) -> None:
    spec = replica_set["spec"]
    if not is_going(replica_set):
        cluster.adopt(replica_set, PODS, spec["selector"])
        pods = [pod for pod in cluster.children(replica_set, PODS) if is_active(pod)]
        name = replica_set["metadata"]["name"]
        for _ in range(spec["replicas"] - len(pods)):
            cluster.create_pod(replica_set, spec["template"], {"generateName": f"{name}-"})
        if len(pods) > spec["replicas"]:
            for pod in sorted(pods, key=expendable)[: len(pods) - spec["replicas"]]:
                cluster.delete(pod)
    _tell(cluster, replica_set)


def expendable(pod: Object) -> tuple[object, ...]:
    """Sorts first what a scale-down takes first: not bound, not running, not ready, cheap, then the newest."""
    since = ready_since(pod)
    return (
        bool(pod["spec"].get("nodeName")),
        _PHASES.get(pod["status"].get("phase", ""), 2),
        is_ready(pod),
        int((pod["metadata"].get("annotations") or {}).get(COST, 0)),
        -since.timestamp() if since else 0.0,
        -sum(status.get("restartCount", 0) for status in pod["status"].get("containerStatuses") or ()),
        -moment_of(pod["metadata"]["creationTimestamp"]).timestamp(),
        pod["metadata"]["name"],
    )


def _tell(cluster: Cluster, replica_set: Object) -> None:
    pods = [pod for pod in cluster.children(replica_set, PODS) if is_active(pod)]
    ready, available = cluster.counts(pods, replica_set["spec"].get("minReadySeconds", 0))
    counts = {"fullyLabeledReplicas": len(pods), "readyReplicas": ready, "availableReplicas": available}
    told = {"replicas": len(pods), "observedGeneration": replica_set["metadata"]["generation"]}
    cluster.set_status(replica_set, told | without_zeros(counts))
