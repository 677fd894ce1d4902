"""Policies that every pod of the chart keeps, whatever the values: Pod Security "restricted" and then some."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest

from berth.settings import ProcessSettings
from router.settings import RouterSettings
from tests.chart.rendering import (
    EXAMPLES,
    SETTINGS,
    Object,
    Pod,
    example,
    mebibytes,
    pods,
    render,
    rendered_example,
    variables,
)
from worker.settings import WorkerSettings

# What Pod Security "restricted" allows (Kubernetes 1.37).
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}

# What a pod's own fields stand for when a process is to read them.
FIELDS = {
    "status.podIP": "10.1.2.3",
    "metadata.name": "berth-pool-cpu-5d8c7b9f4-x2x7q",
    "metadata.namespace": "serving",
    "metadata.labels['topology.kubernetes.io/zone']": "",
}

# How long the worker takes at most beyond what its settings say: for requests under way, and for unloading.
WORKER_END_S = 10 + 30


def all_pods() -> Iterator[tuple[str, Pod]]:
    for name in EXAMPLES:
        for pod in pods(rendered_example(name)):
            yield f"{name}: {pod.owner['metadata']['name']}", pod


PODS = dict(all_pods())
BERTHS = {name: pod for name, pod in PODS.items() if pod.is_berth}
SERVING = {name: pod for name, pod in PODS.items() if pod.owner["kind"] != "Job"}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_pod_security_restricted(pod: Pod) -> None:
    spec = pod.spec
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"))
    assert {kind for volume in spec.get("volumes", ()) for kind in volume if kind != "name"} <= VOLUMES
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 65532
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "sysctls" not in context
    for container in pod.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", ()))


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_only_the_synchronizer_gets_a_token(pod: Pod) -> None:
    assert pod.spec["automountServiceAccountToken"] is (pod.component == "synchronizer")


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_images_say_what_runs(pod: Pod) -> None:
    for container in pod.containers():
        assert re.search(r":[^/:@]+$|@sha256:[0-9a-f]{64}$", container["image"])
        assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_every_container_asks_for_memory_and_is_bounded(pod: Pod) -> None:
    for container in pod.containers():
        resources = container["resources"]
        assert mebibytes(resources["requests"]["memory"]) <= mebibytes(resources["limits"]["memory"])
        # A limit on CPU would throttle what has to answer; a request shares it out.
        assert "cpu" in resources["requests"]
        assert "cpu" not in resources["limits"]


@pytest.mark.parametrize("pod", SERVING.values(), ids=SERVING)
def test_probes(pod: Pod) -> None:
    container = pod.container()
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
    if pod.is_berth:
        ports = {port["name"] for port in container["ports"]}
        for probe, path in (("startupProbe", "healthz"), ("livenessProbe", "healthz"), ("readinessProbe", "readyz")):
            request = container[probe]["httpGet"]
            assert request["path"] == f"/{path}"
            assert request["port"] in ports


@pytest.mark.parametrize("pod", SERVING.values(), ids=SERVING)
def test_what_is_written_has_a_volume(pod: Pod) -> None:
    """The root file system is read-only: folders in the settings, and /tmp, must be on volumes that can be written."""
    for container in pod.containers():
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        written = [
            entry["value"]
            for name, entry in variables(container).items()
            if name.endswith(("_DIR", "_REPOSITORY")) and "value" in entry
        ]
        for path in ("/tmp", *written):
            found = [mount for root, mount in mounts.items() if path == root or path.startswith(f"{root}/")]
            assert [mount.get("readOnly", False) for mount in found] == [False], path
        given = {volume["name"] for volume in pod.spec.get("volumes", ())}
        given |= {claim["metadata"]["name"] for claim in pod.owner["spec"].get("volumeClaimTemplates", ())}
        assert {mount["name"] for mount in mounts.values()} <= given


@pytest.mark.parametrize("pod", BERTHS.values(), ids=BERTHS)
def test_variables_are_settings_with_right_values(pod: Pod) -> None:
    """Every BERTH_ variable is one that the process reads, and it would start with them."""
    known = {variable.name for variable in SETTINGS[pod.component].variables()}
    given = variables(pod.container())
    assert {name for name in given if name.startswith("BERTH_")} <= known
    settings = load(pod)
    assert settings.instance == FIELDS["metadata.name"] or pod.component == "migrations"


def load(pod: Pod) -> ProcessSettings:
    """The process's settings from the pod's variables. Raises `SettingsError`, as the process would."""
    environ: dict[str, str] = {}
    for name, entry in variables(pod.container()).items():
        if "value" in entry:
            value = entry["value"]
        elif "fieldRef" in entry["valueFrom"]:
            value = FIELDS[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            value = "postgresql://berth:secret@database/berth"
        # As the kubelet does: only what is defined further up.
        environ[name] = re.sub(r"\$\((\w+)\)", lambda found: environ[found[1]], value)
    return SETTINGS[pod.component].load(environ)


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_secrets_come_from_secrets(pod: Pod) -> None:
    for container in pod.containers():
        said = " ".join((*container.get("command", ()), *container.get("args", ())))
        assert not re.search(r"(?i)password|secret|token|BERTH_", said)
        for name, entry in variables(container).items():
            if re.search(r"PASSWORD|SECRET|KEY|TOKEN|DATABASE_URL", name) and not re.search(r"_(FILE|KEY)$", name):
                assert "secretKeyRef" in entry.get("valueFrom", {}), name
            if name in {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}:
                assert "secretKeyRef" in entry["valueFrom"]
            if name.endswith(("_FILE", "_KEY")) and "value" in entry:
                assert entry["value"].startswith("/etc/"), name


@pytest.mark.parametrize("pod", SERVING.values(), ids=SERVING)
def test_there_is_time_to_end(pod: Pod) -> None:
    grace = pod.spec["terminationGracePeriodSeconds"]
    if not pod.is_berth:
        return
    sleep = pod.container().get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    settings = load(pod)
    if isinstance(settings, RouterSettings):
        # Nobody may be told that it is gone sooner than it stops to accept.
        assert sleep > 0
        assert grace > sleep + settings.drain_s
    elif isinstance(settings, WorkerSettings):
        assert grace >= settings.drain_grace_s + settings.drain_timeout_s + WORKER_END_S
    else:
        assert grace >= sleep + 10


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_disruption_budget_for_all_that_serves(name: str) -> None:
    rendered = rendered_example(name)
    budgets = {
        tuple(sorted(item["spec"]["selector"]["matchLabels"].items())): item
        for item in rendered.of("PodDisruptionBudget")
    }
    serving = {
        tuple(sorted(item["spec"]["selector"]["matchLabels"].items()))
        for item in rendered.of("Deployment", "StatefulSet")
        if item["metadata"]["labels"]["app.kubernetes.io/component"] in SETTINGS
    }
    assert budgets.keys() == serving
    assert all(item["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for item in budgets.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_selectors_find_their_own_pods_and_no_others(name: str) -> None:
    rendered = rendered_example(name)
    found = [
        (pod.owner["spec"]["selector"]["matchLabels"], pod) for pod in pods(rendered) if "selector" in pod.owner["spec"]
    ]
    for (selector, owner), (_, pod) in itertools.product(found, found):
        matches = selector.items() <= pod.labels.items()
        assert matches is (owner is pod)


@pytest.mark.parametrize("name", EXAMPLES)
def test_rollouts_never_have_fewer(name: str) -> None:
    given = {pool["name"]: pool.get("rollout") for pool in example(name).get("workerPools", ())}
    strategies = [
        item["spec"]["strategy"]["rollingUpdate"]
        for item in rendered_example(name).of("Deployment")
        if given.get(item["metadata"]["labels"].get("berth.dev/job", "")) is None
    ]
    assert strategies
    assert all(strategy == {"maxSurge": 1, "maxUnavailable": 0} for strategy in strategies)


@pytest.mark.parametrize("name", EXAMPLES)
def test_spread_over_zones_and_nodes(name: str) -> None:
    for pod in pods(rendered_example(name)):
        if pod.is_berth and pod.owner["kind"] != "Job":
            keys = [constraint["topologyKey"] for constraint in pod.spec["topologySpreadConstraints"]]
            assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
            for constraint in pod.spec["topologySpreadConstraints"]:
                assert constraint["labelSelector"] == pod.owner["spec"]["selector"]


def test_a_list_replaces_the_usual_spread() -> None:
    only = [{"topologyKey": "rack", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]
    rendered = render(example("minimal", {"router": {"topologySpreadConstraints": only}}))
    assert spec_of(rendered.one("Deployment", "berth-router"))["topologySpreadConstraints"] == only
    rendered = render(example("minimal", {"router": {"topologySpreadConstraints": []}}))
    assert "topologySpreadConstraints" not in spec_of(rendered.one("Deployment", "berth-router"))


def spec_of(workload: Object) -> Object:
    return dict(workload["spec"]["template"]["spec"])


@pytest.mark.parametrize(
    ("changes", "people", "components"),
    [
        ({}, "0.0.0.0", "$(POD_IP)"),
        ({"listen": "podIP"}, "$(POD_IP)", "$(POD_IP)"),
        ({"ipFamily": "IPv6"}, "[::]", "[$(POD_IP)]"),
        ({"listen": "podIP", "ipFamily": "IPv6"}, "[$(POD_IP)]", "[$(POD_IP)]"),
    ],
)
def test_where_ports_listen(changes: Object, people: str, components: str) -> None:
    for pod in pods(render(example("minimal", changes))):
        given = {name: entry.get("value", "") for name, entry in variables(pod.container()).items()}
        hosts = {name: value.rpartition(":")[0] for name, value in given.items() if name.endswith("_ADDRESS")}
        for name, host in hosts.items():
            for_people = name in {"BERTH_ADMIN_ADDRESS", "BERTH_REST_ADDRESS"} or pod.component == "router"
            assert host == (people if for_people else components), (pod.component, name)
        if pod.component == "worker":
            assert given["BERTH_ADVERTISE_HOST"] == components


def test_variables_come_before_those_that_name_them() -> None:
    for name, pod in BERTHS.items():
        seen: set[str] = set()
        for variable, entry in variables(pod.container()).items():
            assert set(re.findall(r"\$\((\w+)\)", entry.get("value", ""))) <= seen, name
            seen.add(variable)


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ({}, None),
        ({"enabled": True}, "system"),
        ({"enabled": True, "existingSecret": "authorities"}, "/etc/berth/other-cells/ca.crt"),
    ],
)
def test_how_routers_know_other_cells(tls: Object, expected: str | None) -> None:
    cells = [{"cell": "b", "rest": "b:80", "grpc": "b:81"}, {"cell": "a", "rest": "a:80", "grpc": "a:81"}]
    rendered = render(example("minimal", {"otherCells": cells, "otherCellsTls": tls}))
    (pod,) = [pod for pod in pods(rendered) if pod.component == "router"]
    said = variables(pod.container())
    assert said["BERTH_OTHER_CELLS"]["value"] == "b=b:80/b:81,a=a:80/a:81"
    assert said.get("BERTH_OTHER_CELLS_TLS", {}).get("value") == expected
    settings = RouterSettings.load(
        {name: entry["value"] for name, entry in said.items() if "OTHER" in name} | {"BERTH_ROUTE_FEEDS": "a:1"}
    )
    assert list(settings.others) == ["b", "a"]
    mounted = {mount["mountPath"] for mount in pod.container()["volumeMounts"]}
    assert ("/etc/berth/other-cells" in mounted) is (expected is not None and expected != "system")
