"""What a snapshot of a cluster says: a table of what can be wrong, each alone in a release that is well."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from berth.doctor.cluster import COMPONENTS, Snapshot, judge
from berth.doctor.findings import Level, worst


def workload(component: str, **labels: str) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {
            "name": f"berth-{component}",
            "labels": {"app.kubernetes.io/component": component, **labels},
        },
        "spec": {
            "replicas": 2,
            "template": {"spec": {"containers": [{"name": component, "image": "registry.test/berth:1.2"}]}},
        },
        "status": {"readyReplicas": 2},
    }


def well() -> Snapshot:
    pools = {"pools": [{"job": "cpu", "scaling": {"mode": "manual"}}]}
    return Snapshot(
        namespace="serving",
        version=(1, 35),
        workloads=[
            workload(component, **({"berth.dev/job": "cpu"} if component == "worker" else {}))
            for component in COMPONENTS
        ],
        pods=[{"metadata": {"name": "berth-router-0"}, "status": {"phase": "Running"}}],
        disruption_budgets=[
            {
                "metadata": {"name": component, "labels": {"app.kubernetes.io/component": component}},
                "status": {"expectedPods": 2, "disruptionsAllowed": 1},
            }
            for component in COMPONENTS
        ],
        config_maps=[{"metadata": {"name": "berth-pools"}, "data": {"pools.json": json.dumps(pools)}}],
        nodes=[{"metadata": {"name": "node"}, "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": "1"}}}],
    )


def test_a_release_that_is_well() -> None:
    assert worst(judge(well())) is Level.OK


def hpa() -> dict[str, Any]:
    target = {"kind": "Deployment", "name": "berth-worker"}
    return {"metadata": {"name": "cpu"}, "spec": {"scaleTargetRef": target}}


def changed(index: int, change: Callable[[dict[str, Any]], object]) -> Snapshot:
    """A release whose workload of COMPONENTS[index] is another."""
    seen = well()
    workloads = [copy.deepcopy(dict(one)) for one in seen.workloads]
    change(workloads[index])
    return replace(seen, workloads=workloads)


def one_container(workload: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = workload["spec"]["template"]["spec"]["containers"][0]
    return container


def pod(**status: Any) -> Snapshot:
    return replace(well(), pods=[{"metadata": {"name": "berth-router-0"}, "status": status}])


def container_status(**members: Any) -> Snapshot:
    return pod(containerStatuses=[{"name": "router", **members}])


def external() -> Snapshot:
    pools = {"pools": [{"job": "cpu", "scaling": {"mode": "external"}}]}
    return replace(well(), config_maps=[{"metadata": {"name": "x"}, "data": {"pools.json": json.dumps(pools)}}])


def waiting(reason: str) -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": "back-off"}}


WRONG: list[tuple[str, Snapshot, Level, str, str]] = [
    ("old cluster", replace(well(), version=(1, 20)), Level.WARN, "cluster", "1.20"),
    ("nothing there", replace(well(), workloads=[]), Level.FAIL, "release", "no Berth in namespace serving"),
    ("no controller: a cell", replace(well(), workloads=well().workloads[1:]), Level.OK, "controller", "elsewhere"),
    ("no routers", replace(well(), workloads=[well().workloads[0]]), Level.FAIL, "router", "is missing"),
    ("no workers", replace(well(), workloads=well().workloads[:3]), Level.WARN, "worker", "no worker pool"),
    (
        "not all ready",
        changed(2, lambda one: one["status"].update(readyReplicas=1)),
        Level.FAIL,
        "deployment/berth-router",
        "1 of 2",
    ),
    (
        "alone",
        changed(0, lambda one: one["spec"].update(replicas=1)),
        Level.WARN,
        "deployment/berth-controller",
        "nothing takes over",
    ),
    (
        "moving tag",
        changed(1, lambda one: one_container(one).update(image="host:5000/berth")),
        Level.WARN,
        "deployment/berth-synchronizer",
        "can change under it",
    ),
    (
        "no such device",
        changed(3, lambda one: one_container(one).update(resources={"limits": {"nvidia.com/mig-1g.5gb": 1}})),
        Level.FAIL,
        "deployment/berth-worker",
        "which no node offers",
    ),
    (
        "no node",
        pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]),
        Level.FAIL,
        "pod/berth-router-0",
        "0/3 nodes",
    ),
    (
        "crashes",
        container_status(state=waiting("CrashLoopBackOff")),
        Level.FAIL,
        "pod/berth-router-0",
        "CrashLoopBackOff",
    ),
    (
        "out of memory",
        container_status(lastState={"terminated": {"reason": "OOMKilled"}}, restartCount=3),
        Level.FAIL,
        "pod/berth-router-0",
        "killed for its memory, 3 restarts",
    ),
    ("no budget", replace(well(), disruption_budgets=[]), Level.WARN, "router", "no PodDisruptionBudget"),
    (
        "spent budget",
        replace(
            well(),
            disruption_budgets=[
                *well().disruption_budgets,
                {"metadata": {"name": "mine"}, "status": {"expectedPods": 2, "disruptionsAllowed": 0}},
            ],
        ),
        Level.WARN,
        "pdb/mine",
        "no disruption",
    ),
    ("two owners", replace(well(), autoscalers=[hpa()]), Level.FAIL, "pool cpu", "hpa/cpu scales it too"),
    ("no owner", external(), Level.WARN, "pool cpu", "nothing scales it"),
    ("may not look", replace(well(), nodes=(), refused={"nodes": "403 Forbidden"}), Level.WARN, "nodes", "403"),
]


@pytest.mark.parametrize(("seen", "level", "check", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_is_said_and_nothing_else_is(seen: Snapshot, level: Level, check: str, said: str) -> None:
    findings = list(judge(seen))
    (found,) = [finding for finding in findings if finding.check == check and said in finding.said]
    assert found.level is level
    assert bool(found.remedy) is (level is not Level.OK)
    assert worst(findings) is level


def test_an_owner_from_outside_is_well() -> None:
    assert worst(judge(replace(external(), autoscalers=[hpa()]))) is Level.OK
    assert worst(judge(replace(external(), groups=frozenset({"keda.sh"})))) is Level.OK


@pytest.mark.parametrize(
    ("what", "unseen"),
    [
        ("configmaps", {"config_maps": (), "autoscalers": [hpa()]}),
        ("statefulsets", {"workloads": [one for one in well().workloads if one["kind"] == "StatefulSet"]}),
        ("statefulsets", {"workloads": [workload("router")]}),
        ("horizontalpodautoscalers", {"config_maps": external().config_maps}),
    ],
)
def test_what_may_not_be_read_is_not_said_to_be_wrong(what: str, unseen: dict[str, Any]) -> None:
    seen = replace(well(), **unseen, refused={what: "403 Forbidden"})
    assert [finding.check for finding in judge(seen) if finding.level is not Level.OK] == [what]


def test_a_pool_that_the_file_does_not_name_may_have_any_owner() -> None:
    assert worst(judge(replace(well(), config_maps=(), autoscalers=[hpa()]))) is Level.OK


def test_starting_containers_are_no_fault() -> None:
    assert worst(judge(container_status(state=waiting("ContainerCreating")))) is Level.OK
