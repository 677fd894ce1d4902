"""A Berth on Kubernetes: what was installed, whether it stands, and what would break it later.

`read` takes a snapshot with the caller's own kubeconfig; `judge` decides on nothing but that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from berth.doctor.findings import Finding, fail, ok, warn

Object = Mapping[str, Any]
OLDEST = (1, 30)
"""The oldest minor version that the chart is for."""
COMPONENTS = ("controller", "synchronizer", "router", "worker")
# A second one takes over when the first dies. Workers are the operator's to count.
_TWICE = frozenset({"controller", "synchronizer", "router"})
_SELECTOR = "app.kubernetes.io/name=berth"
_COMPONENT = "app.kubernetes.io/component"
_JOB = "berth.dev/job"
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was there. Objects are as the API sends them. `refused` names what could not be read, and why."""

    namespace: str
    version: tuple[int, int]
    workloads: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    disruption_budgets: Sequence[Object] = ()
    autoscalers: Sequence[Object] = ()
    config_maps: Sequence[Object] = ()
    nodes: Sequence[Object] = ()
    groups: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)


def read(namespace: str, kubeconfig: Path | None) -> Snapshot:
    """Ask the API server. Raises `OSError` if it cannot be reached, `ValueError` if the kubeconfig is no good."""
    import urllib3
    from kubernetes import client, config

    try:
        api: Any = config.new_client_from_config(str(kubeconfig) if kubeconfig else None)
    except config.ConfigException as error:
        raise ValueError(str(error)) from None
    refused: dict[str, str] = {}

    def items(name: str, call: Any, *args: Any, **kwargs: Any) -> list[Object]:
        try:
            found = call(*args, **kwargs, _request_timeout=_TIMEOUT_S)
        except client.ApiException as error:
            refused[name] = f"{error.status} {error.reason}"
            return []
        listed: list[Object] = api.sanitize_for_serialization(found)["items"]
        return listed

    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    ours = {"label_selector": _SELECTOR}
    with api:
        try:
            version = client.VersionApi(api).get_code(_request_timeout=_TIMEOUT_S)
            groups = client.ApisApi(api).get_api_versions(_request_timeout=_TIMEOUT_S)
            deployments = items("deployments", apps.list_namespaced_deployment, namespace, **ours)
            sets = items("statefulsets", apps.list_namespaced_stateful_set, namespace, **ours)
            budgets = client.PolicyV1Api(api).list_namespaced_pod_disruption_budget
            scalers = client.AutoscalingV2Api(api).list_namespaced_horizontal_pod_autoscaler
            return Snapshot(
                namespace=namespace,
                version=(_number(version.major), _number(version.minor)),
                workloads=[
                    *({"kind": "Deployment", **one} for one in deployments),
                    *({"kind": "StatefulSet", **one} for one in sets),
                ],
                pods=items("pods", core.list_namespaced_pod, namespace, **ours),
                disruption_budgets=items("poddisruptionbudgets", budgets, namespace, **ours),
                autoscalers=items("horizontalpodautoscalers", scalers, namespace),
                config_maps=items("configmaps", core.list_namespaced_config_map, namespace, **ours),
                nodes=items("nodes", core.list_node),
                groups=frozenset(group.name for group in groups.groups),
                refused=refused,
            )
        except urllib3.exceptions.HTTPError as error:
            raise OSError(f"the Kubernetes API cannot be reached: {error}") from None
        except client.ApiException as error:
            raise OSError(f"the Kubernetes API answers {error.status} {error.reason}") from None


def judge(seen: Snapshot) -> Iterator[Finding]:
    """All findings, in the order in which a person would look."""
    said = f"Kubernetes {seen.version[0]}.{seen.version[1]}"
    oldest = ".".join(map(str, OLDEST))
    yield (
        ok("cluster", said) if seen.version >= OLDEST else warn("cluster", said, f"the chart is for {oldest} and newer")
    )
    for what, why in seen.refused.items():
        yield warn(
            what, f"cannot be read: {why}", "run doctor as somebody who may list them; their checks are left out"
        )
    if not seen.workloads:
        if not _unreadable(seen, "deployments", "statefulsets"):
            remedy = f"helm install berth deploy/helm/berth --namespace {seen.namespace}, or name another namespace"
            yield fail("release", f"there is no Berth in namespace {seen.namespace}", remedy)
        return
    yield from _components(seen)
    for workload in seen.workloads:
        yield from _workload(workload)
    for pod in seen.pods:
        yield from _pod(pod)
    yield from _budgets(seen)
    yield from _owners(seen)
    yield from _devices(seen)


def _unreadable(seen: Snapshot, *whats: str) -> bool:
    """Whether any of these could not be read: what is not seen may be there all the same."""
    return not seen.refused.keys().isdisjoint(whats)


def _components(seen: Snapshot) -> Iterator[Finding]:
    if _unreadable(seen, "deployments", "statefulsets"):
        return
    there = {_label(workload, _COMPONENT) for workload in seen.workloads}
    # A cell of its own has no controller, and says so by having everything else.
    for component in COMPONENTS:
        if component in there:
            continue
        if component == "controller":
            yield ok(component, "not in this namespace: a cell of a controller elsewhere")
        elif component == "worker":
            yield warn(component, "there is no worker pool", "add one to workerPools in the chart's values")
        else:
            yield fail(component, "is missing", "helm upgrade with the chart's values")


def _workload(workload: Object) -> Iterator[Finding]:
    name = f"{workload['kind'].lower()}/{workload['metadata']['name']}"
    wanted = workload["spec"].get("replicas", 1)
    ready = workload.get("status", {}).get("readyReplicas", 0)
    said = f"{ready} of {wanted} are ready"
    if ready < wanted:
        yield fail(name, said, f"kubectl describe {name}")
    elif wanted < 2 and _label(workload, _COMPONENT) in _TWICE:
        yield warn(name, f"{said}: nothing takes over when it dies", "two replicas or more")
    else:
        yield ok(name, said)
    for container in _containers(workload["spec"]["template"]["spec"]):
        image = container["image"]
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@" not in image and tag in {"", "latest"}:
            yield warn(name, f"image {image} can change under it", "name a version or a digest")


def _pod(pod: Object) -> Iterator[Finding]:
    name = f"pod/{pod['metadata']['name']}"
    status = pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield fail(
                name, f"finds no node: {condition.get('message', 'no reason given')}", f"kubectl describe {name}"
            )
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
            said = f"container {container['name']}: {waiting['reason']} {waiting.get('message', '')}".strip()
            yield fail(name, said, f"kubectl logs {name} -c {container['name']} --previous")
        ended = container.get("lastState", {}).get("terminated")
        if ended and ended.get("reason") == "OOMKilled":
            said = (
                f"container {container['name']} was killed for its memory, {container.get('restartCount', 0)} restarts"
            )
            yield fail(name, said, "raise its memory limit; for workers, see docs/limits.md on headroom")


def _budgets(seen: Snapshot) -> Iterator[Finding]:
    if _unreadable(seen, "poddisruptionbudgets"):
        return
    kept = {_label(budget, _COMPONENT) for budget in seen.disruption_budgets}
    for component in sorted({_label(workload, _COMPONENT) for workload in seen.workloads} - kept - {""}):
        yield warn(
            component, "has no PodDisruptionBudget", "a drained node may take all of them; see the chart's values"
        )
    for budget in seen.disruption_budgets:
        status = budget.get("status", {})
        if status.get("expectedPods", 0) > 0 and status.get("disruptionsAllowed", 0) == 0:
            yield warn(
                f"pdb/{budget['metadata']['name']}", "allows no disruption now", "nodes cannot be drained until it does"
            )


def _owners(seen: Snapshot) -> Iterator[Finding]:
    """Two owners of one number of replicas pull it back and forth."""
    if _unreadable(seen, "configmaps", "horizontalpodautoscalers"):
        return
    # Not for pools that the API scales, nor in a cell whose controller is elsewhere: there the file says nothing of
    # them.
    modes = {pool["job"]: scaling["mode"] for pool in _pools(seen) if (scaling := pool.get("scaling"))}
    scaled = {
        (target["kind"], target["name"]): autoscaler["metadata"]["name"]
        for autoscaler in seen.autoscalers
        if (target := autoscaler["spec"]["scaleTargetRef"])
    }
    for workload in seen.workloads:
        job = _label(workload, _JOB)
        mode = modes.get(job)
        if mode is None:
            continue
        hpa = scaled.get((workload["kind"], workload["metadata"]["name"]))
        if hpa and mode != "external":
            said = f"scaling mode is {mode}, and hpa/{hpa} scales it too"
            yield fail(f"pool {job}", said, "scaling.mode: external in the pool's values, or delete the autoscaler")
        elif mode == "external" and not hpa and "keda.sh" not in seen.groups:
            said = "scaling mode is external, and nothing scales it"
            yield warn(f"pool {job}", said, "an HPA or a ScaledObject for it, or scaling.mode: berth")


def _devices(seen: Snapshot) -> Iterator[Finding]:
    if _unreadable(seen, "nodes"):
        return
    offered = {name for node in seen.nodes for name in node.get("status", {}).get("allocatable", {})}
    for workload in seen.workloads:
        name = f"{workload['kind'].lower()}/{workload['metadata']['name']}"
        for container in _containers(workload["spec"]["template"]["spec"]):
            # Names with a domain are extended resources: devices that a plugin on the node offers.
            for resource in container.get("resources", {}).get("limits", {}):
                if "/" in resource and resource not in offered:
                    yield fail(
                        name, f"asks for {resource}, which no node offers", "install the device plugin, or add nodes"
                    )


def _pools(seen: Snapshot) -> Iterator[Mapping[str, Any]]:
    for config_map in seen.config_maps:
        for key, text in config_map.get("data", {}).items():
            if key == "pools.json":
                yield from json.loads(text)["pools"]


def _containers(spec: Object) -> Iterator[Object]:
    yield from spec.get("initContainers", ())
    yield from spec["containers"]


def _label(value: Object, name: str) -> str:
    return str(value["metadata"].get("labels", {}).get(name, ""))


def _number(text: str) -> int:
    # Some providers write "31+".
    return int("".join(letter for letter in text if letter.isdigit()) or 0)
