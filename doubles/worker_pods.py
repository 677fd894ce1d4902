"""Pods and workloads of workers as objects of Kubernetes, with the labels and ports by which they are found."""

from __future__ import annotations

from typing import Any

_PORTS = {"control": 9000, "inference-grpc": 9001, "inference-http": 9002, "admin": 9100}


def labels(job: str, cell: str = "c") -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "berth",
        "app.kubernetes.io/component": "worker",
        "berth.dev/cell": cell,
        "berth.dev/job": job,
        "berth.dev/runtime": "onnxruntime",
    }


def worker_pod(
    name: str,
    job: str = "j",
    cell: str = "c",
    *,
    host: str = "127.0.0.1",
    control: int = 9000,
    zone: str = "",
    uid: str = "",
    running: bool = True,
    namespace: str = "default",
) -> dict[str, Any]:
    """A worker's pod. One that is not `running` has an address and waits for its container."""
    ports = [{"name": port, "containerPort": number} for port, number in {**_PORTS, "control": control}.items()]
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}} if running else {"waiting": {"reason": "Starting"}}
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": labels(job, cell)}
    if zone:
        metadata["labels"]["topology.kubernetes.io/zone"] = zone
    if uid:
        metadata["uid"] = uid
    container = {"name": "worker", "image": "berth", "ports": ports}
    status = {"name": "worker", "image": "berth", "imageID": "", "ready": running, "restartCount": 0, "state": state}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": "node-1", "containers": [container]},
        "status": {"phase": "Running", "podIP": host, "containerStatuses": [status]},
    }


def worker_pool(
    name: str,
    job: str = "j",
    cell: str = "c",
    *,
    replicas: int = 2,
    ready: int = 0,
    kind: str = "Deployment",
    namespace: str = "default",
) -> dict[str, Any]:
    """The workload of a job, of kind Deployment or StatefulSet."""
    ours = labels(job, cell)
    pod = worker_pod("unused", job, cell)
    template = {"metadata": {"labels": ours}, "spec": {"containers": pod["spec"]["containers"]}}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": ours},
        "spec": {"replicas": replicas, "selector": {"matchLabels": ours}, "template": template},
        "status": {"replicas": replicas, "readyReplicas": ready},
    }
