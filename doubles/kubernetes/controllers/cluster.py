"""What every controller does to the cluster: children with an owner, statuses, deletions, and the time."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from doubles.kubernetes.budgets import is_finished, is_ready
from doubles.kubernetes.deletion import Deletion
from doubles.kubernetes.kinds import BY_NAME, Kind, Object, kind_of
from doubles.kubernetes.moments import moment_of, stamp
from doubles.kubernetes.registry import Registry
from doubles.kubernetes.selectors import requirements_of, selects

PODS = BY_NAME["pods"]
_HASH = "bcdfghjklmnpqrstvwxz2456789"


def is_going(value: Object) -> bool:
    return "deletionTimestamp" in value["metadata"]


def is_active(pod: Object) -> bool:
    """Whether a pod counts as a replica: it runs or may yet run."""
    return not is_finished(pod) and not is_going(pod)


def ready_since(pod: Object) -> datetime | None:
    """When a pod became ready; None: it is not."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] == "True":
            text = condition.get("lastTransitionTime") or pod["metadata"]["creationTimestamp"]
            return moment_of(text)
    return None


def template_hash(template: Object) -> str:
    """A short name for a pod template: equal templates have equal names."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(_HASH[byte % len(_HASH)] for byte in digest[:10])


def with_condition(conditions: Sequence[Object], new: Object, now: datetime) -> list[Object]:
    """Conditions with one set; its lastTransitionTime moves only when its status does."""
    old = next((item for item in conditions if item["type"] == new["type"]), None)
    since = old.get("lastTransitionTime") if old and old["status"] == new["status"] else None
    new = new | {"lastTransitionTime": since or stamp(now)}
    return [item for item in conditions if item["type"] != new["type"]] + [new]


def without_zeros(status: Object) -> Object:
    """Fields that the API leaves out when they are zero or empty."""
    return {name: value for name, value in status.items() if value not in (0, None, [], {})}


class Cluster:
    """The registry as controllers use it. `wake_at` is when something is due that no event will tell."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.store = registry.store
        self.wake_at: datetime | None = None

    @property
    def now(self) -> datetime:
        return self.registry.clock()

    def wake(self, at: datetime) -> None:
        self.wake_at = at if self.wake_at is None else min(at, self.wake_at)

    def children(self, owner: Object, kind: Kind) -> list[Object]:
        """Objects of a kind that `owner` controls, by name."""
        found = self.store.dependents(owner["metadata"]["uid"])
        return [value for value in found if value["kind"] == kind.kind and controller_of(value) is not None]

    def adopt(self, owner: Object, kind: Kind, selector: Object) -> None:
        """Take orphans that the owner's selector means, as one that was deleted with --cascade=orphan leaves them."""
        requirements = requirements_of(selector)
        for value in self.store.items(kind, owner["metadata"]["namespace"]):
            metadata = value["metadata"]
            if controller_of(value) is None and not is_going(value) and selects(requirements, metadata.get("labels")):
                owners = [*(metadata.get("ownerReferences") or ()), reference_to(owner)]
                self.registry.change(kind, value, value | {"metadata": metadata | {"ownerReferences": owners}})

    def create(self, owner: Object, kind: Kind, metadata: Object, content: Object) -> Object:
        """Create an object that `owner` controls."""
        namespace = owner["metadata"]["namespace"]
        full = copy.deepcopy(metadata) | {"ownerReferences": [reference_to(owner)], "namespace": namespace}
        base = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": full}
        return self.registry.create(kind, namespace, base | copy.deepcopy(content))

    def create_pod(self, owner: Object, template: Object, metadata: Object) -> Object:
        """Create a pod from a template; `metadata` names it, and adds labels to the template's."""
        given = template.get("metadata", {})
        labels = given.get("labels", {}) | metadata.get("labels", {})
        kept = {"annotations": given["annotations"]} if given.get("annotations") else {}
        return self.create(owner, PODS, kept | metadata | {"labels": labels}, {"spec": template["spec"]})

    def delete(self, value: Object, grace_s: int | None = None) -> None:
        metadata = value["metadata"]
        deletion = Deletion(grace_s=grace_s, propagation="Background", uid=metadata["uid"])
        self.registry.delete(kind_of(value), metadata.get("namespace", ""), metadata["name"], deletion)

    def update(self, value: Object, **spec: object) -> Object:
        """Change fields of the spec; returns the object as it is then."""
        return self.registry.change(kind_of(value), value, value | {"spec": value["spec"] | spec})

    def annotate(self, value: Object, **annotations: str) -> Object:
        metadata = value["metadata"]
        changed = (metadata.get("annotations") or {}) | annotations
        return self.registry.change(kind_of(value), value, value | {"metadata": metadata | {"annotations": changed}})

    def set_status(self, value: Object, status: Object) -> Object:
        """Write the status where it differs."""
        if value.get("status") == status:
            return value
        return self.registry.change(kind_of(value), value, value | {"status": status}, "status")

    def set_condition(self, value: Object, condition: Object) -> Object:
        status = value.get("status", {})
        conditions = with_condition(status.get("conditions") or (), condition, self.now)
        return self.set_status(value, status | {"conditions": conditions})

    def is_available(self, pod: Object, min_ready_s: int) -> bool:
        """Ready for as long as its workload asks; wakes when it will have been."""
        since = ready_since(pod)
        if since is None or is_going(pod):
            return False
        due = since + timedelta(seconds=min_ready_s)
        if min_ready_s and due > self.now:
            self.wake(due)
            return False
        return True

    def counts(self, pods: Sequence[Object], min_ready_s: int) -> tuple[int, int]:
        """How many are ready, and available."""
        ready = sum(is_ready(pod) for pod in pods)
        return ready, sum(self.is_available(pod, min_ready_s) for pod in pods)


def reference_to(owner: Object) -> Object:
    metadata = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_of(value: Object) -> Object | None:
    """The reference to the owner that controls an object."""
    owners = value["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)
