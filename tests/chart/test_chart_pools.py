"""Pools: sizes, who owns the number of replicas, and what the controller is told of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.loops.pools_file import parse
from tests.chart.rendering import (
    EXAMPLES,
    Object,
    Rendered,
    example,
    mebibytes,
    pods,
    render,
    rendered_example,
    variables,
)


def with_pool(**members: Any) -> Rendered:
    return render(example("minimal", {"workerPools": [{"name": "gpu", **members}]}))


def workloads(rendered: Rendered) -> list[Object]:
    """Those of workers, never none."""
    found = [
        item
        for item in rendered.of("Deployment", "StatefulSet")
        if item["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"
    ]
    assert found, "no worker would run"
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_replicas_are_not_in_the_manifest_unless_the_values_own_them(name: str) -> None:
    values = example(name)
    given = {pool["name"]: pool.get("replicas") for pool in values.get("workerPools", [{"name": "cpu"}])}
    for item in workloads(render(values)):
        owned = given[item["metadata"]["labels"]["berth.dev/job"]]
        # Not null either: that would be one.
        assert ("replicas" in item["spec"]) is (owned is not None)
        assert item["spec"].get("replicas") == owned


def test_zero_replicas_are_replicas() -> None:
    (workload,) = workloads(with_pool(replicas=0))
    assert workload["spec"]["replicas"] == 0


def test_routers_of_an_autoscaler() -> None:
    assert "replicas" not in rendered_example("production").one("Deployment", "berth-router")["spec"]
    assert rendered_example("minimal").one("Deployment", "berth-router")["spec"]["replicas"] == 2


def test_at_most_one_autoscaler_and_none_next_to_berths() -> None:
    rendered = rendered_example("external-scaling")
    targets = [
        item["spec"]["scaleTargetRef"]["name"] for item in rendered.of("HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert sorted(targets) == ["berth-pool-by-hpa", "berth-pool-by-keda"]
    kinds = {item["metadata"]["name"]: item["kind"] for item in workloads(rendered)}
    for item in rendered.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = item["spec"]["scaleTargetRef"]
        assert kinds[target["name"]] == target["kind"]


def test_the_number_that_autoscalers_follow() -> None:
    rendered = rendered_example("external-scaling")
    hpa = rendered.one("HorizontalPodAutoscaler", "berth-pool-by-hpa")["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (2, 12)
    assert hpa["metrics"][0]["external"] == {
        "metric": {"name": "berth_job_desired_replicas", "selector": {"matchLabels": {"job": "by-hpa"}}},
        "target": {"type": "AverageValue", "averageValue": "1"},
    }
    keda = rendered.one("ScaledObject", "berth-pool-by-keda")["spec"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (0, 12)
    assert keda["triggers"][0]["metadata"]["query"] == 'max(berth_job_desired_replicas{job="by-keda"})'


@pytest.mark.parametrize(
    ("size", "headroom", "limit"), [("1Gi", "512Mi", 1736), ("512Mi", "128Mi", 840), ("1Ti", "2Gi", 1050824)]
)
def test_memory_of_a_worker(size: str, headroom: str, limit: int) -> None:
    """What versions may take, what a load needs for a moment, and 200 MiB for the process (docs/limits.md)."""
    (workload,) = workloads(with_pool(memoryPerReplica=size, loadHeadroom=headroom))
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"] == f"{limit}Mi"


def test_memory_of_a_triton() -> None:
    (workload,) = workloads(with_pool(runtime="triton", memoryPerReplica="8Gi"))
    spec = workload["spec"]["template"]["spec"]
    (triton,) = spec["initContainers"]
    assert mebibytes(triton["resources"]["limits"]["memory"]) == 8192 + 512 + 1024 + 1024
    (shared,) = (volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shm")
    assert shared == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_given_memory_replaces_the_computed() -> None:
    (workload,) = workloads(with_pool(resources={"limits": {"memory": "9Gi"}}))
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "1736Mi"}, "limits": {"memory": "9Gi"}}


def test_triton_is_a_sidecar_on_loopback_that_outlives_the_worker() -> None:
    for pod in pods(rendered_example("gpu-triton")):
        if pod.component != "worker":
            continue
        (triton,) = pod.spec["initContainers"]
        assert triton["restartPolicy"] == "Always"
        assert "ports" not in triton
        flags = dict(flag.lstrip("-").split("=", 1) for flag in triton["command"][1:] if "=" in flag)
        assert {name: value for name, value in flags.items() if name.endswith("-address")} == {
            "grpc-address": "127.0.0.1",
            "http-address": "127.0.0.1",
        }
        assert flags["model-control-mode"] == "explicit"
        said = {name: entry.get("value") for name, entry in variables(pod.container()).items()}
        assert said["BERTH_TRITON_ADDRESS"] == f"127.0.0.1:{flags['grpc-port']}"
        assert said["BERTH_TRITON_REPOSITORY"] == flags["model-repository"]
        assert flags["http-port"] in " ".join(triton["livenessProbe"]["exec"]["command"])
        shared = [
            {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "triton"}
            for container in (triton, pod.container())
        ]
        assert shared == [{flags["model-repository"]}] * 2


@pytest.mark.parametrize(
    ("gpu", "asked"),
    [
        ({"count": 0}, {}),
        ({"count": 2}, {"nvidia.com/gpu": 2}),
        ({"count": 1, "resourceName": "nvidia.com/mig-1g.10gb"}, {"nvidia.com/mig-1g.10gb": 1}),
    ],
)
def test_devices(gpu: Object, asked: Object) -> None:
    (workload,) = workloads(with_pool(runtime="triton", gpu=gpu))
    (triton,) = workload["spec"]["template"]["spec"]["initContainers"]
    limits = triton["resources"]["limits"]
    assert {name: count for name, count in limits.items() if name != "memory"} == asked


def test_devices_go_to_the_container_that_runs_models() -> None:
    (workload,) = workloads(with_pool(image="registry/berth-cuda:1", gpu={"count": 1}))
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/berth-cuda:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_what_discovery_looks_for() -> None:
    rendered = rendered_example("gpu-triton")
    for item in workloads(rendered):
        labels = {"app.kubernetes.io/name": "berth", "app.kubernetes.io/component": "worker", "berth.dev/cell": "local"}
        for holder in (item, item["spec"]["template"]):
            assert labels.items() <= holder["metadata"]["labels"].items()
            assert holder["metadata"]["labels"]["berth.dev/runtime"] == "triton"
        job = item["metadata"]["labels"]["berth.dev/job"]
        assert item["metadata"]["name"] == f"berth-pool-{job}"
        (container,) = item["spec"]["template"]["spec"]["containers"]
        assert container["name"] == "worker"
        assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
            "control": 9000,
            "inference-grpc": 9001,
            "inference-http": 9002,
            "admin": 9100,
        }


def test_a_pool_of_a_zone_says_so_and_goes_there() -> None:
    (workload,) = workloads(with_pool(zone="eu-west-1a", nodeSelector={"disk": "ssd"}))
    template = workload["spec"]["template"]
    assert template["metadata"]["labels"]["topology.kubernetes.io/zone"] == "eu-west-1a"
    assert template["spec"]["nodeSelector"] == {"disk": "ssd", "topology.kubernetes.io/zone": "eu-west-1a"}
    assert "topology.kubernetes.io/zone" not in workload["spec"]["selector"]["matchLabels"]


def test_a_zero_of_a_pool_is_not_lost_under_the_defaults() -> None:
    members = {"rollout": {"maxSurge": 0, "maxUnavailable": 1}, "minReadySeconds": 0, "drainGraceSeconds": 0}
    (workload,) = workloads(with_pool(**members))
    assert workload["spec"]["minReadySeconds"] == 0
    assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 10 + 30 + 30


def test_defaults_are_for_all_pools() -> None:
    changes = {"workerPools": [{"name": "a"}, {"name": "b", "memoryPerReplica": "2Gi"}]}
    rendered = render(example("minimal", {**changes, "poolDefaults": {"memoryPerReplica": "3Gi", "zone": "z"}}))
    said = {
        pod.labels["berth.dev/job"]: variables(pod.container())["BERTH_MEMORY_LIMIT"]["value"]
        for pod in pods(rendered)
        if pod.component == "worker"
    }
    assert said == {"a": "3GiB", "b": "2GiB"}


def test_a_cell_installs_its_own_pools_and_the_hub_declares_all() -> None:
    pools = {"workerPools": [{"name": "here"}, {"name": "west", "cell": "eu-west"}]}
    hub = render(example("minimal", pools))
    assert [item["metadata"]["name"] for item in workloads(hub)] == ["berth-pool-here"]
    assert [(pool["job"], pool["cell"]) for pool in declared(hub)] == [("here", "local"), ("west", "eu-west")]
    cell = render(example("cell", pools))
    assert {item["metadata"]["name"] for item in workloads(cell)} == {"berth-pool-here", "berth-pool-west"}
    assert cell.of("ConfigMap") == []


def declared(rendered: Rendered) -> list[Object]:
    """BERTH_POOLS_FILE."""
    pools: list[Object] = json.loads(rendered.one("ConfigMap", "berth-pools")["data"]["pools.json"])["pools"]
    return pools


def test_what_the_controller_is_told() -> None:
    assert declared(rendered_example("production"))[2] == {
        "job": "bursts",
        "cell": "local",
        "runtime": "onnxruntime",
        "hardware": "cpu",
        "memory_per_replica": "4GiB",
        "service_class": "temporary",
        "dedicated_tenant": "acme",
        "scaling": {
            "mode": "berth",
            "min_replicas": 0,
            "max_replicas": 40,
            "target_queue_ms": 20,
            "stabilize_down_s": 120,
        },
    }
    assert declared(rendered_example("minimal"))[0]["dedicated_tenant"] is None


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "cell"])
def test_the_controller_understands_it(name: str) -> None:
    text = rendered_example(name).one("ConfigMap", "berth-pools")["data"]["pools.json"]
    told = {(pool.job, pool.cell, pool.runtime) for pool in parse(text.encode())}
    given = example(name).get("workerPools", [{"name": "cpu"}])
    assert told == {(pool["name"], "local", pool.get("runtime", "onnxruntime")) for pool in given}


def test_the_controller_takes_all_that_the_schema_takes() -> None:
    members: dict[str, dict[str, Any]] = {
        "least": {"minReplicas": 0, "maxReplicas": 1, "targetQueueMs": 0.5, "stabilizeDownSeconds": 0},
        "most": {"minReplicas": 10_000, "maxReplicas": 10_000, "targetQueueMs": 60_000, "stabilizeDownSeconds": 86_400},
    }
    pools: list[dict[str, Any]] = [
        {"name": name, "scaling": {"mode": "berth", **scaling}} for name, scaling in members.items()
    ]
    pools += [{"name": "small", "memoryPerReplica": "1Mi"}, {"name": "large", "memoryPerReplica": "1024Ti"}]
    text = render(example("minimal", {"workerPools": pools})).one("ConfigMap", "berth-pools")["data"]["pools.json"]
    assert [pool.memory_per_replica for pool in parse(text.encode())] == [2**30, 2**30, 2**20, 2**50]


def test_a_cache_that_outlives_pods() -> None:
    rendered = with_pool(kind="StatefulSet", cache={"size": "10Gi", "persistent": True})
    (workload,) = workloads(rendered)
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert mebibytes(claim["spec"]["resources"]["requests"]["storage"]) > 10 * 1024
    assert "cache" not in [volume["name"] for volume in workload["spec"]["template"]["spec"]["volumes"]]
    assert rendered.one("Service", "berth-pool-gpu")["spec"]["clusterIP"] == "None"


def test_no_pools() -> None:
    rendered = render(example("minimal", {"workerPools": []}))
    made = rendered.of("Deployment", "StatefulSet")
    assert {item["metadata"]["labels"]["app.kubernetes.io/component"] for item in made} == {
        "controller",
        "synchronizer",
        "router",
    }
    assert declared(rendered) == []
    names = {item["metadata"]["name"] for item in rendered.of("ServiceAccount", "NetworkPolicy", "Certificate")}
    assert not any("worker" in name for name in names)
