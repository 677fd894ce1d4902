"""Deployments: one ReplicaSet per template, and the sizes that a rollout gives them."""

from __future__ import annotations

from collections.abc import Sequence

from doubles.kubernetes.controllers.cluster import Cluster, is_going, template_hash, with_condition, without_zeros
from doubles.kubernetes.controllers.rollout import Size, bounds_of, next_sizes
from doubles.kubernetes.kinds import BY_NAME, Object

REPLICA_SETS = BY_NAME["replicasets"]
HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"


def reconcile(cluster: Cluster, deployment: Object) -> None:
    """One step towards the Deployment's spec."""
    if not is_going(deployment):
        cluster.adopt(deployment, REPLICA_SETS, deployment["spec"]["selector"])
    sets = sorted(cluster.children(deployment, REPLICA_SETS), key=_age)
    if is_going(deployment):
        return
    hash_ = template_hash(deployment["spec"]["template"])
    new = next((found for found in sets if found["metadata"]["labels"].get(HASH) == hash_), None)
    old = [found for found in sets if found is not new]
    paused = deployment["spec"].get("paused", False)
    if new is None and not paused and not _must_wait(cluster, deployment, old):
        new = _create(cluster, deployment, hash_)
    deployment, new = _set_revision(cluster, deployment, new, old)
    if new is not None:
        sizes = next_sizes(bounds_of(deployment["spec"]), _size(new), [_size(found) for found in old])
    elif not paused:
        sizes = {found["metadata"]["name"]: 0 for found in old}
    else:
        sizes = {}
    for found in [*old, *([new] if new else [])]:
        name = found["metadata"]["name"]
        if name in sizes and not (paused and found is not new):
            cluster.update(found, replicas=sizes[name])
    _forget(cluster, deployment, old)
    _tell(cluster, deployment, hash_)


def _age(replica_set: Object) -> tuple[int, str]:
    metadata = replica_set["metadata"]
    return int((metadata.get("annotations") or {}).get(REVISION, 0)), metadata["name"]


def _size(replica_set: Object) -> Size:
    available = replica_set.get("status", {}).get("availableReplicas", 0)
    return Size(replica_set["metadata"]["name"], replica_set["spec"]["replicas"], available)


def _must_wait(cluster: Cluster, deployment: Object, old: Sequence[Object]) -> bool:
    """Recreate: the last old pod must be gone, not only going."""
    if deployment["spec"]["strategy"]["type"] != "Recreate":
        return False
    return any(cluster.children(found, BY_NAME["pods"]) for found in old)


def _create(cluster: Cluster, deployment: Object, hash_: str) -> Object:
    spec, metadata = deployment["spec"], deployment["metadata"]
    template = spec["template"]
    labels = template["metadata"].get("labels", {}) | {HASH: hash_}
    selector = spec["selector"] | {"matchLabels": spec["selector"].get("matchLabels", {}) | {HASH: hash_}}
    content = {
        "replicas": 0,
        "selector": selector,
        "template": template | {"metadata": template["metadata"] | {"labels": labels}},
    }
    if spec.get("minReadySeconds"):
        content["minReadySeconds"] = spec["minReadySeconds"]
    name = f"{metadata['name']}-{hash_}"
    return cluster.create(deployment, REPLICA_SETS, {"name": name, "labels": labels}, {"spec": content})


def _set_revision(
    cluster: Cluster, deployment: Object, new: Object | None, old: Sequence[Object]
) -> tuple[Object, Object | None]:
    """Number the new ReplicaSet behind the others: `kubectl rollout undo` and history go by these."""
    if new is None:
        return deployment, None
    newest = max((_age(found)[0] for found in old), default=0)
    revision = _age(new)[0]
    if revision <= newest:
        revision = newest + 1
        new = cluster.annotate(new, **{REVISION: str(revision)})
    if (deployment["metadata"].get("annotations") or {}).get(REVISION) != str(revision):
        deployment = cluster.annotate(deployment, **{REVISION: str(revision)})
    return deployment, new


def _forget(cluster: Cluster, deployment: Object, old: Sequence[Object]) -> None:
    """Delete empty ReplicaSets beyond the history that is to be kept."""
    empty = [found for found in old if found["spec"]["replicas"] == 0 and not found["status"].get("replicas")]
    limit = deployment["spec"].get("revisionHistoryLimit", 10)
    for found in empty[: max(0, len(empty) - limit)]:
        cluster.delete(found)


def _tell(cluster: Cluster, deployment: Object, hash_: str) -> None:
    """Sum up the ReplicaSets in the status."""
    sets = cluster.children(deployment, REPLICA_SETS)
    current = [found for found in sets if found["metadata"]["labels"].get(HASH) == hash_]
    bounds = bounds_of(deployment["spec"])

    def total(field: str, of: Sequence[Object]) -> int:
        return sum(found.get("status", {}).get(field, 0) for found in of)

    replicas, available, updated = total("replicas", sets), total("availableReplicas", sets), total("replicas", current)
    enough = available >= bounds.desired - bounds.unavailable
    complete = updated == replicas == available == bounds.desired
    told = deployment.get("status", {})
    conditions = with_condition(
        told.get("conditions") or (),
        {
            "type": "Available",
            "status": str(enough),
            "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            "message": f"Deployment {'has' if enough else 'does not have'} minimum availability.",
        },
        cluster.now,
    )
    conditions = with_condition(
        conditions,
        {
            "type": "Progressing",
            "status": "True",
            "reason": "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
            "message": f'ReplicaSet "{deployment["metadata"]["name"]}-{hash_}" '
            f"{'has successfully progressed' if complete else 'is progressing'}.",
        },
        cluster.now,
    )
    status = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": total("readyReplicas", sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, max(replicas, bounds.desired) - available),
        "conditions": conditions,
    }
    cluster.set_status(deployment, without_zeros(status))
