"""Nodes: which of them a pod goes to, and what becomes of the pods of one that is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal

from doubles.kubernetes.budgets import is_finished, is_ready
from doubles.kubernetes.controllers.cluster import PODS, Cluster, is_going
from doubles.kubernetes.kinds import BY_NAME, Object
from doubles.kubernetes.moments import moment_of

NODES = BY_NAME["nodes"]
_SUFFIXES = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}


def quantity(text: str | int) -> Decimal:
    """A resource quantity such as `250m`, `8Gi` or `2`."""
    text = str(text)
    number = text.rstrip("KMGTPEikmnu")
    suffix = text[len(number) :]
    if suffix.endswith("i"):
        return Decimal(number) * Decimal(1024) ** ("KMGTPE".index(suffix[0]) + 1)
    return Decimal(number) * Decimal(10) ** _SUFFIXES[suffix]


def requests(pod: Object) -> dict[str, Decimal]:
    """What a pod asks of its node, all containers together."""
    total: dict[str, Decimal] = {"pods": Decimal(1)}
    for container in pod["spec"].get("containers") or ():
        for name, asked in ((container.get("resources") or {}).get("requests") or {}).items():
            total[name] = total.get(name, Decimal(0)) + quantity(asked)
    return total


def condition(node: Object) -> Object | None:
    """The Ready condition of a node; None: its kubelet has not said yet."""
    found = node.get("status", {}).get("conditions") or ()
    return next((item for item in found if item["type"] == "Ready"), None)


def accepts(node: Object, pod: Object, used: Mapping[str, Decimal]) -> bool:
    """Whether a pod may be bound to a node: ready, not cordoned, tolerated, selected, and with room."""
    ready = condition(node)
    if ready is None or ready["status"] != "True" or node.get("spec", {}).get("unschedulable") or is_going(node):
        return False
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(name) != value for name, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return False
    tolerations = pod["spec"].get("tolerations") or ()
    if any(taint["effect"] != "PreferNoSchedule" and not _tolerated(taint, tolerations) for taint in _taints(node)):
        return False
    room = node.get("status", {}).get("allocatable")
    if not room:
        return True  # a node that does not say how much it has takes everything
    asked = requests(pod)
    if "pods" not in room:
        del asked["pods"]
    return all(
        name in room and used.get(name, Decimal(0)) + amount <= quantity(room[name]) for name, amount in asked.items()
    )


def _taints(node: Object) -> Sequence[Object]:
    return node.get("spec", {}).get("taints") or ()


def _tolerated(taint: Object, tolerations: Iterable[Object]) -> bool:
    return any(
        item.get("effect", taint["effect"]) == taint["effect"]
        and (
            (item.get("operator") == "Exists" and item.get("key", taint["key"]) == taint["key"])
            or (item.get("key") == taint["key"] and item.get("value", "") == taint.get("value", ""))
        )
        for item in tolerations
    )


def schedule(cluster: Cluster, waiting: Iterable[Object]) -> None:
    """Bind each pod to the node that accepts it and has the fewest; say of the others that there is none."""
    nodes = cluster.store.items(NODES)
    load: dict[str, int] = {node["metadata"]["name"]: 0 for node in nodes}
    used: dict[str, dict[str, Decimal]] = {name: {} for name in load}
    for pod in cluster.store.items(PODS):
        name = pod["spec"].get("nodeName")
        if name in load and not is_finished(pod):
            load[name] += 1
            _add(used[name], requests(pod))
    for pod in waiting:
        fits = [node for node in nodes if accepts(node, pod, used[node["metadata"]["name"]])]
        if not fits:
            message = f"0/{len(nodes)} nodes are available."
            unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            cluster.set_condition(pod, unschedulable)
            continue
        name = min((node["metadata"]["name"] for node in fits), key=lambda name: (load[name], name))
        load[name] += 1
        _add(used[name], requests(pod))
        cluster.set_condition(cluster.registry.bind(pod, name), {"type": "PodScheduled", "status": "True"})


def _add(used: dict[str, Decimal], asked: Mapping[str, Decimal]) -> None:
    for name, amount in asked.items():
        used[name] = used.get(name, Decimal(0)) + amount


def is_waiting(pod: Object) -> bool:
    """Whether a pod is the scheduler's to bind."""
    spec = pod["spec"]
    return not spec.get("nodeName") and not spec.get("schedulingGates") and not is_going(pod) and not is_finished(pod)


def lose(cluster: Cluster, node: Object, after_s: float) -> None:
    """A node that is not ready: its pods are not either, and after a while they are to be deleted.

    They stay until its kubelet confirms or the node object goes; a Deployment replaces them at once, a StatefulSet
    only then, because two pods of one name must never run."""
    ready = condition(node)
    if ready is None or ready["status"] == "True":
        return
    due = moment_of(ready.get("lastTransitionTime") or node["metadata"]["creationTimestamp"]) + timedelta(
        seconds=after_s
    )
    for pod in cluster.store.items(PODS):
        if pod["spec"].get("nodeName") != node["metadata"]["name"] or is_finished(pod):
            continue
        if is_ready(pod):
            cluster.set_condition(pod, {"type": "Ready", "status": "False", "reason": "NodeNotReady"})
        if due > cluster.now:
            cluster.wake(due)
        elif not is_going(pod):
            cluster.delete(pod)


def forget(cluster: Cluster, node: str) -> None:
    """A node that was deleted takes its pods with it."""
    for pod in cluster.store.items(PODS):
        if pod["spec"].get("nodeName") == node:
            cluster.delete(pod, 0)
