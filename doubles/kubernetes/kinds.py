"""The kinds that the server knows: one table. What differs between kinds, and is no code of its own, is a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""An API object as JSON holds it. An object that a store has given out is never changed in place."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource. `plural` and `group` name it in paths and rules."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    generation: bool = False
    """Counts changes of the spec in metadata.generation."""
    unconditional_update: bool = True
    """PUT without a resourceVersion overwrites whatever is there."""
    create_on_update: bool = False
    """PUT to a name that does not exist creates it."""
    returns_deleted: bool = False
    """DELETE answers with the object; other kinds answer with a Status."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """Such as `pods` or `deployments.apps`: how messages name it, and the key of its objects in the store."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def has_scale(self) -> bool:
        return "scale" in self.subresources


_STATUS = ("status",)
_SCALED = ("status", "scale")
_RBAC = "rbac.authorization.k8s.io"

KINDS: tuple[Kind, ...] = (
    Kind("", "v1", "Namespace", "namespaces", namespaced=False, subresources=_STATUS),
    Kind("", "v1", "Node", "nodes", namespaced=False, subresources=_STATUS),
    Kind(
        "",
        "v1",
        "Pod",
        "pods",
        subresources=("status", "eviction"),
        generation=True,
        returns_deleted=True,
    ),
    Kind("", "v1", "Service", "services", subresources=_STATUS, create_on_update=True, returns_deleted=True),
    Kind("", "v1", "ConfigMap", "configmaps"),
    Kind("", "v1", "Secret", "secrets"),
    Kind("", "v1", "ServiceAccount", "serviceaccounts", subresources=("token",), returns_deleted=True),
    Kind(
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        subresources=_STATUS,
        returns_deleted=True,
    ),
    Kind("apps", "v1", "Deployment", "deployments", subresources=_SCALED, generation=True),
    Kind("apps", "v1", "StatefulSet", "statefulsets", subresources=_SCALED, generation=True),
    Kind("apps", "v1", "ReplicaSet", "replicasets", subresources=_SCALED, generation=True),
    Kind("apps", "v1", "ControllerRevision", "controllerrevisions"),
    Kind("batch", "v1", "Job", "jobs", subresources=_STATUS, generation=True),
    Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", generation=True),
    Kind(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        subresources=_STATUS,
        generation=True,
        unconditional_update=False,
    ),
    Kind("coordination.k8s.io", "v1", "Lease", "leases", unconditional_update=False, create_on_update=True),
    Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", generation=True),
    Kind(_RBAC, "v1", "Role", "roles", create_on_update=True),
    Kind(_RBAC, "v1", "RoleBinding", "rolebindings", create_on_update=True),
    Kind(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False, create_on_update=True),
    Kind(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False, create_on_update=True),
)

BY_PATH = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}
BY_KIND = {(kind.api_version, kind.kind): kind for kind in KINDS}
BY_NAME = {name: kind for kind in reversed(KINDS) for name in (kind.resource, kind.plural, kind.kind)}


def kind_of(value: Object) -> Kind:
    """The kind that an object says it is. Raises `KeyError` for one that the server does not know."""
    return BY_KIND[value["apiVersion"], value["kind"]]
