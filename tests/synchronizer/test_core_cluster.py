"""Tables: what a pod is as a replica, what a workload is as a pool, and when it is scaled."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from berth.model import ObservedPool, ReplicaAddress
from synchronizer.core.pods import Pod, read_pod, selector
from synchronizer.core.pools import Blocked, PoolWorkload, ScaleWorkload, by_job, next_scale, observe, reader

POD: dict[str, Any] = {
    "metadata": {
        "name": "pool-a-1",
        "uid": "u1",
        "labels": {"berth.dev/cell": "c", "berth.dev/job": "a", "topology.kubernetes.io/zone": "z1"},
    },
    "spec": {
        "containers": [
            {"name": "triton", "ports": [{"name": "control", "containerPort": 1}]},
            {
                "name": "worker",
                "ports": [
                    {"name": "control", "containerPort": 9000},
                    {"name": "inference-grpc", "containerPort": 9001},
                    {"name": "inference-http", "containerPort": 9002},
                    {"name": "admin", "containerPort": 9100},
                ],
            },
        ]
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "containerStatuses": [{"name": "worker", "restartCount": 0, "state": {"running": {"startedAt": "now"}}}],
    },
}
ADDRESS = ReplicaAddress("pool-a-1", "a", "c", "u1", "10.0.0.7:9000", "10.0.0.7:9001", "10.0.0.7:9002", "z1")


def changed(*path: Any, to: Any) -> dict[str, Any]:
    pod = copy.deepcopy(POD)
    at: Any = pod
    for step in path[:-1]:
        at = at[step]
    if to is None:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return pod


WAITING = [{"name": "worker", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]
OTHER_RUNS = [{"name": "triton", "state": {"running": {}}}]


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (POD, Pod(ADDRESS)),
        (changed("metadata", "deletionTimestamp", to="now"), Pod(ADDRESS, leaving=True)),
        (changed("status", "podIP", to=None), Pod(None)),
        (changed("status", to={"phase": "Pending"}), Pod(None)),
        (changed("status", "containerStatuses", to=WAITING), Pod(None)),
        (changed("status", "containerStatuses", to=OTHER_RUNS), Pod(None)),
        (changed("metadata", "labels", "berth.dev/job", to=None), Pod(None, fault="no label berth.dev/job")),
        (
            changed("spec", "containers", 1, "ports", 0, "name", to="ctl"),
            Pod(None, fault="container 'worker' has no port named control"),
        ),
        (
            changed("spec", "containers", to=[{"name": "main"}]),
            Pod(None, fault="container 'worker' has no port named control, inference-grpc, inference-http"),
        ),
        # A restarted container is the same address: the worker's own report says that it is another process.
        (changed("status", "containerStatuses", 0, "restartCount", to=3), Pod(ADDRESS)),
    ],
)
def test_what_a_pod_says_of_its_replica(pod: dict[str, Any], expected: Pod) -> None:
    assert read_pod(pod) == expected


def test_addresses_of_the_sixth_version_are_bracketed() -> None:
    address = read_pod(changed("status", "podIP", to="fd00::7")).address
    assert address is not None
    assert address.control == "[fd00::7]:9000"


def test_a_pod_without_a_zone_has_none() -> None:
    address = read_pod(changed("metadata", "labels", "topology.kubernetes.io/zone", to=None)).address
    assert address is not None
    assert address.zone == ""


def test_the_selector_names_workers_of_the_cell() -> None:
    assert selector("eu-1").split(",") == [
        "app.kubernetes.io/name=berth",
        "app.kubernetes.io/component=worker",
        "berth.dev/cell=eu-1",
    ]


def workload(name: str, job: str, replicas: int = 2, **more: Any) -> PoolWorkload:
    return PoolWorkload(
        "deployment", name, job, replicas, more.pop("ready", replicas), more.pop("version", "1"), **more
    )


@pytest.mark.parametrize(
    ("spec", "status", "replicas", "ready"),
    [({"replicas": 3}, {"readyReplicas": 2}, 3, 2), ({}, {}, 1, 0), ({"replicas": 0}, {"readyReplicas": None}, 0, 0)],
)
def test_what_a_workload_says(spec: dict[str, Any], status: dict[str, Any], replicas: int, ready: int) -> None:
    metadata = {"name": "w", "labels": {"berth.dev/job": "a"}, "resourceVersion": "7"}
    read = reader("statefulset")({"metadata": metadata, "spec": spec, "status": status})
    assert read == PoolWorkload("statefulset", "w", "a", replicas, ready, "7")
    assert str(read) == "statefulset/w"


def test_pools_are_workloads_by_job() -> None:
    one, two, three = workload("x", "a", 2, ready=1), workload("z", "b", 3), workload("y", "b", 4)
    jobs = by_job([two, one, three, workload("old", "a", leaving=True), workload("stray", "")])
    assert jobs == {"a": (one,), "b": (three, two)}
    assert observe(jobs) == (
        ObservedPool("a", "deployment/x", 2, 1),
        ObservedPool("b", "deployment/y,deployment/z", 7, 7),
    )


def test_one_workload_that_differs_is_scaled() -> None:
    one = workload("x", "a", 2)
    assert next_scale("a", 5, (one,)) == ScaleWorkload(one, 5)
    assert next_scale("a", 0, (one,)) == ScaleWorkload(one, 0)
    assert next_scale("a", 2, (one,)) is None


def test_none_and_several_are_not() -> None:
    missing = next_scale("a", 5, ())
    assert isinstance(missing, Blocked)
    assert missing.reason == "missing"
    several = next_scale("a", 5, (workload("x", "a"), workload("y", "a")))
    assert isinstance(several, Blocked)
    assert several.reason == "ambiguous"
    assert "deployment/x, deployment/y" in several.detail
