"""Lists as `kubectl get` shows them: the server makes the columns, for whoever asks for a Table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from doubles.kubernetes.budgets import is_ready
from doubles.kubernetes.kinds import Kind, Object
from doubles.kubernetes.moments import moment_of

Cells = Callable[[Object], list[Any]]


def _pod(pod: Object) -> list[Any]:
    status = pod.get("status", {})
    containers = status.get("containerStatuses") or ()
    shown = "Terminating" if "deletionTimestamp" in pod["metadata"] else status.get("phase", "")
    waiting = (container.get("state", {}).get("waiting", {}).get("reason") for container in containers)
    shown = next(filter(None, waiting), shown)
    ready = f"{sum(container.get('ready', False) for container in containers)}/{len(pod['spec']['containers'])}"
    restarts = str(sum(container.get("restartCount", 0) for container in containers))
    return [ready, shown, restarts]


def _pod_wide(pod: Object) -> list[Any]:
    return [pod.get("status", {}).get("podIP", "<none>"), pod["spec"].get("nodeName", "<none>")]


def _status(*fields: str) -> Cells:
    return lambda value: [value.get("status", {}).get(field, 0) for field in fields]


def _ready_of(value: Object) -> str:
    return f"{value.get('status', {}).get('readyReplicas', 0)}/{value['spec'].get('replicas', 0)}"


def _node(node: Object) -> list[Any]:
    spec, status = node.get("spec", {}), node.get("status", {})
    shown = ["Ready" if is_ready(node) else "NotReady"] + ["SchedulingDisabled"] * bool(spec.get("unschedulable"))
    return [",".join(shown), "<none>", status.get("nodeInfo", {}).get("kubeletVersion", "")]


def _service(service: Object) -> list[Any]:
    spec = service["spec"]
    ports = ",".join(f"{port['port']}/{port.get('protocol', 'TCP')}" for port in spec.get("ports") or ())
    return [spec.get("type"), spec.get("clusterIP", "<none>"), "<none>", ports or "<none>"]


def _budget(budget: Object) -> list[Any]:
    spec = budget["spec"]
    bounds = [str(spec.get(field, "N/A")) for field in ("minAvailable", "maxUnavailable")]
    return [*bounds, budget.get("status", {}).get("disruptionsAllowed", 0)]


_COLUMNS: Mapping[str, tuple[tuple[str, ...], Cells]] = {
    "pods": (("Ready", "Status", "Restarts"), _pod),
    "nodes": (("Status", "Roles", "Version"), _node),
    "services": (("Type", "Cluster-IP", "External-IP", "Port(s)"), _service),
    "namespaces": (("Status",), lambda space: [space["status"]["phase"]]),
    "deployments.apps": (
        ("Ready", "Up-to-date", "Available"),
        lambda value: [_ready_of(value), *_status("updatedReplicas", "availableReplicas")(value)],
    ),
    "statefulsets.apps": (("Ready",), lambda value: [_ready_of(value)]),
    "replicasets.apps": (
        ("Desired", "Current", "Ready"),
        lambda value: [value["spec"].get("replicas", 0), *_status("replicas", "readyReplicas")(value)],
    ),
    "poddisruptionbudgets.policy": (("Min Available", "Max Unavailable", "Allowed Disruptions"), _budget),
    "leases.coordination.k8s.io": (("Holder",), lambda lease: [lease.get("spec", {}).get("holderIdentity", "")]),
}
_WIDE: Mapping[str, tuple[tuple[str, ...], Cells]] = {"pods": (("IP", "Node"), _pod_wide)}


def is_asked_for(accept: str) -> bool:
    """Whether an Accept header prefers a Table."""
    return "as=Table" in accept.partition(",")[0] and "g=meta.k8s.io" in accept.partition(",")[0]


def table(kind: Kind, values: Sequence[Object], metadata: Object, now: datetime) -> Object:
    """A Table of objects of one kind."""
    names, cells = _COLUMNS.get(kind.resource, ((), lambda _: []))
    wide_names, wide_cells = _WIDE.get(kind.resource, ((), lambda _: []))
    columns = [("Name", "name", 0), *((name, "", 0) for name in names), ("Age", "", 0)]
    columns += [(name, "", 1) for name in wide_names]
    rows = []
    for value in values:
        held = value["metadata"]
        row = [held["name"], *cells(value), age(now, moment_of(held["creationTimestamp"])), *wide_cells(value)]
        partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": held}
        rows.append({"cells": row, "object": partial})
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {"name": name, "type": "string", "format": format_, "description": "", "priority": priority}
            for name, format_, priority in columns
        ],
        "rows": rows,
    }


def age(now: datetime, then: datetime) -> str:
    """As people read it: 90s, 5m, 3h, 12d."""
    seconds = max(0, int((now - then).total_seconds()))
    for unit, length, until in (("s", 1, 120), ("m", 60, 3 * 3600), ("h", 3600, 48 * 3600)):
        if seconds < until:
            return f"{seconds // length}{unit}"
    return f"{seconds // 86400}d"
