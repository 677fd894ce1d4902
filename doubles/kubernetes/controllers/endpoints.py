"""EndpointSlices: the addresses behind each service, and whether they are ready."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from doubles.kubernetes.budgets import is_finished, is_ready
from doubles.kubernetes.controllers.cluster import PODS, Cluster, is_going
from doubles.kubernetes.controllers.nodes import NODES
from doubles.kubernetes.kinds import BY_NAME, Object

SLICES = BY_NAME["endpointslices"]
SERVICE = "kubernetes.io/service-name"
_MOST = 100  # endpoints of one slice
_Ports = tuple[tuple[str, str, int], ...]


def selected(service: Object, pod: Object) -> bool:
    selector = service["spec"].get("selector")
    return bool(selector) and selector.items() <= (pod["metadata"].get("labels") or {}).items()


def reconcile(cluster: Cluster, service: Object) -> None:
    """Make the service's slices what its pods say now. Pods that resolve its ports differently get their own."""
    if not service["spec"].get("selector") or is_going(service):
        return
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    groups: dict[_Ports, list[Object]] = defaultdict(list)
    for pod in cluster.store.items(PODS, namespace):
        if selected(service, pod) and pod["status"].get("podIP") and not is_finished(pod):
            groups[_ports(service, pod)].append(_endpoint(cluster, service, pod))
    wanted: dict[str, Object] = {}
    for ports, endpoints in sorted(groups.items()) or [((), [])]:
        for start in range(0, max(1, len(endpoints)), _MOST):
            digest = hashlib.sha256(f"{name} {ports} {start}".encode()).hexdigest()[:5]
            wanted[f"{name}-{digest}"] = _content(ports, endpoints[start : start + _MOST])
    for found in cluster.children(service, SLICES):
        content = wanted.pop(found["metadata"]["name"], None)
        if content is None:
            cluster.delete(found)
        elif any(found.get(field) != wanted_field for field, wanted_field in content.items()):
            cluster.registry.change(SLICES, found, found | content)
    labels = {SERVICE: name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
    for slice_, content in wanted.items():
        cluster.create(service, SLICES, {"name": slice_, "labels": labels}, content)


def _content(ports: _Ports, endpoints: Sequence[Object]) -> Object:
    listed = [{"name": name, "protocol": protocol, "port": number} for name, protocol, number in ports]
    return {"addressType": "IPv4", "endpoints": list(endpoints), "ports": listed}


def _endpoint(cluster: Cluster, service: Object, pod: Object) -> Object:
    metadata, status = pod["metadata"], pod["status"]
    serving = is_ready(pod)
    ready = service["spec"].get("publishNotReadyAddresses", False) or (serving and not is_going(pod))
    reference = {"kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]}
    endpoint: Object = {
        "addresses": [status["podIP"]],
        "conditions": {"ready": ready, "serving": serving, "terminating": is_going(pod)},
        "targetRef": reference,
    }
    node = cluster.store.get(NODES, "", pod["spec"].get("nodeName", ""))
    if node is not None:
        endpoint["nodeName"] = node["metadata"]["name"]
        if zone := (node["metadata"].get("labels") or {}).get("topology.kubernetes.io/zone"):
            endpoint["zone"] = zone
    return endpoint


def _ports(service: Object, pod: Object) -> _Ports:
    """The service's ports as numbers of one pod; a name that the pod does not have is left out."""
    named = {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or ()
        if "name" in port
    }
    resolved = []
    for port in service["spec"].get("ports") or ():
        target = port.get("targetPort", port["port"])
        number = target if isinstance(target, int) else named.get(target)
        if number is not None:
            resolved.append((port.get("name", ""), port.get("protocol", "TCP"), number))
    return tuple(resolved)
