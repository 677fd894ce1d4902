"""The subresources that are objects of their own: scale and eviction."""

from __future__ import annotations

from typing import Any

from doubles.kubernetes.budgets import Health, covers, health, refusal
from doubles.kubernetes.deletion import Deletion
from doubles.kubernetes.kinds import BY_NAME, Kind, Object
from doubles.kubernetes.moments import stamp
from doubles.kubernetes.registry import Registry, patched
from doubles.kubernetes.selectors import selector_text
from doubles.kubernetes.status import bad_request, invalid

SCALE = Kind("autoscaling", "v1", "Scale", "scales")
PODS = BY_NAME["pods"]
BUDGETS = BY_NAME["poddisruptionbudgets"]
OWNERS = tuple(BY_NAME[name] for name in ("replicasets", "statefulsets"))


def scale_of(value: Object) -> Object:
    """The scale subresource of a workload."""
    metadata = value["metadata"]
    fields = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Object = {"replicas": value.get("status", {}).get("replicas", 0)}
    if selector := selector_text(value["spec"].get("selector")):
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: metadata[field] for field in fields if field in metadata},
        "spec": {"replicas": value["spec"].get("replicas", 0)},
        "status": status,
    }


def put_scale(registry: Registry, kind: Kind, current: Object, scale: Object) -> Object:
    """Give a workload the replicas of a Scale. Raises 400, 409 or 422."""
    if scale.get("kind") != "Scale" or not isinstance(scale.get("spec", {}), dict):
        raise bad_request("the object is not an autoscaling/v1 Scale")
    replicas = scale.get("spec", {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        name = current["metadata"]["name"]
        raise invalid(SCALE, name, "spec.replicas", f"Invalid value: {replicas}: must be greater than or equal to 0")
    given = scale.get("metadata", {})
    lock = {field: given[field] for field in ("uid", "resourceVersion") if given.get(field)}
    proposed = current | {
        "metadata": {**current["metadata"], "resourceVersion": "", **lock},
        "spec": current["spec"] | {"replicas": replicas},
    }
    return scale_of(registry.change(kind, current, proposed))


def patch_scale(registry: Registry, kind: Kind, current: Object, content_type: str, patch: Any) -> Object:
    return put_scale(registry, kind, current, patched(scale_of(current), content_type, patch))


def budget_health(registry: Registry, budget: Object) -> Health:
    """The numbers of a budget now."""
    store, namespace = registry.store, budget["metadata"]["namespace"]
    pods = [pod for pod in store.items(PODS, namespace) if covers(budget, pod)]
    owners = {
        (owner["kind"], owner["name"])
        for pod in pods
        for owner in pod["metadata"].get("ownerReferences") or ()
        if owner.get("controller")
    }
    return health(budget, pods, sum(_replicas(registry, namespace, kind, name) for kind, name in owners))


def _replicas(registry: Registry, namespace: str, kind: str, name: str) -> int:
    owner = next((found for found in OWNERS if found.kind == kind), None)
    found = registry.store.get(owner, namespace, name) if owner else None
    if found is None:
        return 0
    above = (found["metadata"].get("ownerReferences") or [{}])[0]
    if above.get("kind") == "Deployment":
        found = registry.store.get(BY_NAME["deployments"], namespace, above["name"]) or found
    return int(found["spec"].get("replicas", 1))


def evict(registry: Registry, namespace: str, name: str, eviction: Object) -> Object:
    """Delete a pod if the budgets that cover it allow. Raises 400, 404, 409 or 429."""
    pod = registry.get(PODS, namespace, name)
    if eviction.get("metadata", {}).get("name", name) != name:
        raise bad_request("name in URL does not match name in Eviction object")
    options = eviction.get("deleteOptions") or {}
    deletion = Deletion.read(options, {})
    budgets = [budget for budget in registry.store.items(BUDGETS, namespace) if covers(budget, pod)]
    refused = refusal(pod, [(budget, budget_health(registry, budget)) for budget in budgets])
    if refused is not None:
        raise refused
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": stamp(registry.clock()),
    }
    kept = [item for item in pod["status"].get("conditions") or () if item["type"] != "DisruptionTarget"]
    status = pod["status"] | {"conditions": [*kept, condition]}
    if deletion.version is None:  # a precondition is about the pod as the caller saw it
        registry.change(PODS, pod, pod | {"status": status}, "status")
    registry.delete(PODS, namespace, name, deletion)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
