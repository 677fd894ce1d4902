"""StatefulSets: pods with names of their own, made in order, taken away in reverse, replaced from the end."""

from __future__ import annotations

import copy

from doubles.kubernetes.budgets import is_finished, is_ready
from doubles.kubernetes.controllers.cluster import PODS, Cluster, is_going, template_hash
from doubles.kubernetes.kinds import BY_NAME, Object

REVISIONS = BY_NAME["controllerrevisions"]
CLAIMS = BY_NAME["persistentvolumeclaims"]
REVISION = "controller-revision-hash"


def reconcile(cluster: Cluster, stateful_set: Object) -> None:
    update = f"{stateful_set['metadata']['name']}-{template_hash(stateful_set['spec']['template'])}"
    current = stateful_set.get("status", {}).get("currentRevision") or update
    if not is_going(stateful_set):
        _keep_revision(cluster, stateful_set, update)
        if _fill(cluster, stateful_set, current, update) and _shrink(cluster, stateful_set):
            _roll(cluster, stateful_set, update)
    _tell(cluster, stateful_set, current, update)


def _keep_revision(cluster: Cluster, stateful_set: Object, name: str) -> None:
    if cluster.store.get(REVISIONS, stateful_set["metadata"]["namespace"], name) is None:
        content = {"data": {"template": stateful_set["spec"]["template"]}, "revision": 1}
        cluster.create(stateful_set, REVISIONS, {"name": name}, content)


def _ordinals(stateful_set: Object) -> range:
    start = (stateful_set["spec"].get("ordinals") or {}).get("start", 0)
    return range(start, start + stateful_set["spec"]["replicas"])


def _pods(cluster: Cluster, stateful_set: Object) -> dict[int, Object]:
    """Its pods by ordinal."""
    found: dict[int, Object] = {}
    for pod in cluster.children(stateful_set, PODS):
        head, _, ordinal = pod["metadata"]["name"].rpartition("-")
        if head == stateful_set["metadata"]["name"] and ordinal.isdigit():
            found[int(ordinal)] = pod
    return found


def _is_ordered(stateful_set: Object) -> bool:
    return bool(stateful_set["spec"].get("podManagementPolicy", "OrderedReady") == "OrderedReady")


def _partition(stateful_set: Object) -> int:
    return int((stateful_set["spec"]["updateStrategy"].get("rollingUpdate") or {}).get("partition", 0))


def _fill(cluster: Cluster, stateful_set: Object, current: str, update: str) -> bool:
    """Make what is missing; whether all are there, and ready where order matters."""
    pods = _pods(cluster, stateful_set)
    complete = True
    for ordinal in _ordinals(stateful_set):
        pod = pods.get(ordinal)
        if pod is not None and is_finished(pod) and not is_going(pod):
            cluster.delete(pod, 0)
            pod = None
        if pod is None:
            revision = update if ordinal >= _partition(stateful_set) else current
            _create(cluster, stateful_set, ordinal, revision)
        if pod is None or is_going(pod) or not is_ready(pod):
            complete = False
            if _is_ordered(stateful_set):
                return False
    return complete or not _is_ordered(stateful_set)


def _shrink(cluster: Cluster, stateful_set: Object) -> bool:
    """Take away what is too much, the last first; whether nothing is."""
    pods = _pods(cluster, stateful_set)
    condemned = sorted(pods.keys() - set(_ordinals(stateful_set)), reverse=True)
    for ordinal in condemned:
        if not is_going(pods[ordinal]):
            cluster.delete(pods[ordinal])
        if _is_ordered(stateful_set):
            return False
    return not condemned


def _roll(cluster: Cluster, stateful_set: Object, update: str) -> None:
    """Replace one pod of an older template at a time, from the last down to the partition."""
    if stateful_set["spec"]["updateStrategy"]["type"] != "RollingUpdate":
        return
    pods = _pods(cluster, stateful_set)
    for ordinal in reversed(_ordinals(stateful_set)):
        pod = pods.get(ordinal)
        if ordinal < _partition(stateful_set) or pod is None or is_going(pod):
            return
        if pod["metadata"]["labels"].get(REVISION) != update:
            cluster.delete(pod)
            return
        if not is_ready(pod):
            return


def _create(cluster: Cluster, stateful_set: Object, ordinal: int, revision: str) -> None:
    spec, metadata = stateful_set["spec"], stateful_set["metadata"]
    name = f"{metadata['name']}-{ordinal}"
    if cluster.store.get(PODS, metadata["namespace"], name) is not None:
        return  # somebody else's, or not ours any more: the name must become free first
    kept = cluster.store.get(REVISIONS, metadata["namespace"], revision)
    template = copy.deepcopy(kept["data"]["template"] if kept else spec["template"])
    template["spec"] |= {"hostname": name}
    if spec.get("serviceName"):
        template["spec"] |= {"subdomain": spec["serviceName"]}
    for claim in spec.get("volumeClaimTemplates") or ():
        _claim(cluster, stateful_set, claim, name)
        volume = {"name": claim["metadata"]["name"]}
        volume |= {"persistentVolumeClaim": {"claimName": f"{claim['metadata']['name']}-{name}"}}
        template["spec"]["volumes"] = [*(template["spec"].get("volumes") or ()), volume]
    labels = {
        REVISION: revision,
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": str(ordinal),
    }
    cluster.create_pod(stateful_set, template, {"name": name, "labels": labels})


def _claim(cluster: Cluster, stateful_set: Object, claim: Object, pod: str) -> None:
    """A volume claim outlives its pod, and the StatefulSet: it has no owner."""
    namespace, name = stateful_set["metadata"]["namespace"], f"{claim['metadata']['name']}-{pod}"
    if cluster.store.get(CLAIMS, namespace, name) is None:
        value = {"metadata": {"name": name}, "spec": copy.deepcopy(claim.get("spec", {}))}
        cluster.registry.create(CLAIMS, namespace, value)


def _tell(cluster: Cluster, stateful_set: Object, current: str, update: str) -> None:
    pods = [pod for pod in _pods(cluster, stateful_set).values() if not is_finished(pod)]
    live = [pod for pod in pods if not is_going(pod)]
    ready, available = cluster.counts(live, stateful_set["spec"].get("minReadySeconds", 0))
    updated = sum(pod["metadata"]["labels"].get(REVISION) == update for pod in live)
    if updated == len(pods) == stateful_set["spec"]["replicas"] == ready:
        current = update
    counts = {
        "readyReplicas": ready,
        "currentReplicas": sum(pod["metadata"]["labels"].get(REVISION) == current for pod in live),
        "updatedReplicas": updated,
    }
    status = {
        "observedGeneration": stateful_set["metadata"]["generation"],
        "replicas": len(pods),
        "availableReplicas": available,
        "currentRevision": current,
        "updateRevision": update,
        "collisionCount": 0,
    }
    cluster.set_status(stateful_set, status | {name: count for name, count in counts.items() if count})
