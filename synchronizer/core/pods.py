"""A worker's pod, as Kubernetes describes it, as the address of a replica.

A pod says where to look, never what works: the worker's own report says whether it is alive and what it holds. So
readiness is not asked for here, and a lost node needs no rule. The `incarnation` is the pod's. The worker's own changes
with every start of its container, and comes with its report. To count the container's restarts instead would come
seconds late, and close the stream that the new process already answers on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from berth.model import ReplicaAddress

CELL, JOB = "berth.dev/cell", "berth.dev/job"
ZONE = "topology.kubernetes.io/zone"
_OURS = {"app.kubernetes.io/name": "berth", "app.kubernetes.io/component": "worker"}
_CONTAINER = "worker"
_PORTS = ("control", "inference-grpc", "inference-http")


class Pod(NamedTuple):
    """`address` is None where nothing can be reached (yet, or any more); `fault` is what an operator has to mend."""

    address: ReplicaAddress | None
    leaving: bool = False
    fault: str = ""


def selector(cell: str) -> str:
    """The labels of the workers of `cell`, and of what runs them."""
    return ",".join(f"{label}={value}" for label, value in {**_OURS, CELL: cell}.items())


def read_pod(pod: Mapping[str, Any]) -> Pod:
    """What `pod` says of its replica."""
    metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
    leaving = bool(metadata.get("deletionTimestamp"))
    labels = metadata.get("labels") or {}
    host = str(status.get("podIP") or "")
    ports = _ports((pod.get("spec") or {}).get("containers") or ())
    missing = [name for name in _PORTS if name not in ports]
    if not labels.get(JOB):
        return Pod(None, leaving, f"no label {JOB}")
    if missing:
        return Pod(None, leaving, f"container {_CONTAINER!r} has no port named {', '.join(missing)}")
    if not host or not _is_running(status.get("containerStatuses") or ()):
        return Pod(None, leaving)
    control, grpc, http = (_join(host, ports[name]) for name in _PORTS)
    address = ReplicaAddress(
        replica=str(metadata["name"]),
        job=str(labels[JOB]),
        cell=str(labels.get(CELL, "")),
        incarnation=str(metadata.get("uid") or ""),
        control=control,
        grpc=grpc,
        http=http,
        zone=str(labels.get(ZONE, "")),
    )
    return Pod(address, leaving)


def _ports(containers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    return {
        str(port.get("name")): int(port["containerPort"])
        for container in containers
        if container.get("name") == _CONTAINER
        for port in container.get("ports") or ()
    }


def _is_running(statuses: Iterable[Mapping[str, Any]]) -> bool:
    return any(
        status.get("name") == _CONTAINER and (status.get("state") or {}).get("running") is not None
        for status in statuses
    )


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
