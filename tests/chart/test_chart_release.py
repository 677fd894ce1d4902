"""What a release brings along: certificates, secrets, migrations, monitoring, and the next commands."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from berth.auth.keys import PREFIX
from tests.chart.rendering import (
    CHART,
    EXAMPLES,
    Object,
    Pod,
    Rendered,
    example,
    pods,
    render,
    rendered_example,
    variables,
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_certificate_carries_the_name_that_peers_ask_for(name: str) -> None:
    rendered = rendered_example(name)
    made = {item["spec"]["secretName"]: item["spec"] for item in rendered.of("Certificate")}
    for pod in pods(rendered):
        if not pod.is_berth or pod.component == "migrations":
            continue
        (mounted,) = (volume["secret"]["secretName"] for volume in pod.spec["volumes"] if volume["name"] == "tls")
        peer = variables(pod.container())["BERTH_TLS_PEER_NAME"]["value"]
        if mounted in made:
            assert peer in made[mounted]["dnsNames"]
            assert {"server auth", "client auth"} <= set(made[mounted]["usages"])
        else:
            assert mounted == example(name)["tls"]["existingSecret"]
        # A folder, not a file of it: only folders follow when a secret changes.
        (mount,) = (mount for mount in pod.container()["volumeMounts"] if mount["name"] == "tls")
        assert "subPath" not in mount


def test_one_certificate_for_each_component() -> None:
    rendered = rendered_example("minimal")
    secrets = {item["spec"]["secretName"] for item in rendered.of("Certificate") if not item["spec"].get("isCA")}
    assert secrets == {f"berth-{part}-tls" for part in ("controller", "synchronizer", "router", "worker")}


def test_a_given_authority_signs() -> None:
    rendered = rendered_example("cell")
    assert rendered.of("Issuer") == []
    certificates = rendered.of("Certificate")
    assert certificates
    for certificate in certificates:
        assert certificate["spec"]["issuerRef"] == {
            "name": "berth",
            "kind": "ClusterIssuer",
            "group": "cert-manager.io",
        }


def test_given_certificates_need_no_cert_manager() -> None:
    assert rendered_example("tls-secret").of("Issuer", "Certificate") == []


def test_the_first_key_is_one_that_controllers_take() -> None:
    secret = rendered_example("minimal").one("Secret", "berth-bootstrap")
    key = b64decode(secret["data"]["key"]).decode()
    assert key.startswith(PREFIX)
    assert len(key) >= 32 + len(PREFIX)
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_given_key_is_used() -> None:
    rendered = rendered_example("production")
    assert rendered.of("Secret") == []
    (volume,) = (
        volume["secret"]
        for pod in pods(rendered)
        if pod.component == "controller"
        for volume in pod.spec["volumes"]
        if volume["name"] == "bootstrap"
    )
    assert volume["secretName"] == "berth-admin"
    assert volume["items"] == [{"key": "key", "path": "key"}]


def migrating(rendered: Rendered) -> tuple[int, str]:
    """How many jobs migrate, and whether controllers do."""
    (controller,) = (pod for pod in pods(rendered) if pod.component == "controller")
    return len(rendered.of("Job")), variables(controller.container())["BERTH_MIGRATE"]["value"]


def test_somebody_migrates_and_nobody_else() -> None:
    assert migrating(rendered_example("minimal")) == (1, "false")
    assert migrating(rendered_example("tryout")) == (0, "true")
    assert migrating(render(example("minimal", {"controller": {"migrationJob": False}}))) == (0, "true")


def test_what_migration_needs_is_there_before_it() -> None:
    """Before an installation nothing of the release exists: what the job refers to is an earlier hook."""
    rendered = rendered_example("minimal")
    hooks = {
        item["kind"]: item["metadata"]["annotations"]
        for item in rendered.objects
        if "helm.sh/hook" in item["metadata"].get("annotations", {})
    }
    assert {notes["helm.sh/hook"] for notes in hooks.values()} == {"pre-install,pre-upgrade"}
    assert hooks.keys() == {"ServiceAccount", "NetworkPolicy", "Job"}
    weights = {kind: int(notes["helm.sh/hook-weight"]) for kind, notes in hooks.items()}
    assert max(weights["ServiceAccount"], weights["NetworkPolicy"]) < weights["Job"]
    (job,) = (pod for pod in pods(rendered) if pod.component == "migrations")
    assert job.spec["serviceAccountName"] == "berth-migrations"
    assert [volume for volume in job.spec["volumes"] if "emptyDir" not in volume] == []


def test_trying_out_says_so() -> None:
    assert "WARNING: postgresql.tryout is for trying out" in rendered_example("tryout").notes
    assert "WARNING" not in rendered_example("minimal").notes


def test_the_next_commands_name_what_there_is() -> None:
    rendered = rendered_example("external-scaling")
    for said in (
        "svc/berth-controller 8080",
        "get secret berth-bootstrap -o jsonpath='{.data.key}'",
        "Pool by-hpa is deployment/berth-pool-by-hpa; an HPA owns its replicas.",
        "Pool by-keda is statefulset/berth-pool-by-keda; KEDA owns its replicas.",
        'autoscaler of yours on berth_job_desired_replicas{job="by-others"}',
        "Pool by-berth is deployment/berth-pool-by-berth; Berth scales it from 1 to 10.",
    ):
        assert said in rendered.notes
    assert "Log in" not in rendered_example("cell").notes
    assert "scale deployment/berth-pool-cpu --replicas=2" in rendered_example("minimal").notes


def test_monitoring_is_off_until_asked_for() -> None:
    assert rendered_example("minimal").of("PodMonitor", "ServiceMonitor", "PrometheusRule") == []
    assert [item["metadata"]["name"] for item in rendered_example("minimal").of("ConfigMap")] == ["berth-pools"]


MONITORS = {
    kind: render(example("production", {"monitoring": {"podMonitor": {"enabled": False}, kind: {"enabled": True}}}))
    for kind in ("podMonitor", "serviceMonitor")
}
"""Production values with either."""


def means(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


def scraped(rendered: Rendered, pod: Pod) -> list[tuple[str, Object]]:
    """The ports of a pod that monitors lead to, each with the endpoint that says so, as often as they do."""
    found = []
    for monitor in rendered.of("PodMonitor"):
        if means(monitor["spec"]["selector"]["matchLabels"], pod.labels):
            found += [(endpoint["port"], endpoint) for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    for monitor in rendered.of("ServiceMonitor"):
        for service in rendered.of("Service"):
            leads = means(service["spec"]["selector"], pod.labels)
            if leads and means(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"]):
                targets = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
                found += [(targets[endpoint["port"]], endpoint) for endpoint in monitor["spec"]["endpoints"]]
    return found


@pytest.mark.parametrize("kind", MONITORS)
def test_metrics_of_every_pod_are_collected_once(kind: str) -> None:
    rendered = MONITORS[kind]
    assert len(rendered.of("PodMonitor", "ServiceMonitor")) == 4
    for pod in pods(rendered):
        if pod.is_berth and pod.component != "migrations":
            ((port, endpoint),) = scraped(rendered, pod)
            assert port == ("rest" if pod.component == "controller" else "admin")
            assert port in {port["name"] for port in pod.container()["ports"]}
            # `job` is a serving job in our series.
            assert endpoint["honorLabels"] is True
            assert {rule["targetLabel"] for rule in endpoint["relabelings"]} == {"cell", "component"}


def test_pods_that_are_not_ready_are_scraped_too() -> None:
    made = [
        item for item in MONITORS["serviceMonitor"].of("Service") if "berth.dev/metrics" in item["metadata"]["labels"]
    ]
    assert len(made) == 4
    for service in made:
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True
    others = MONITORS["podMonitor"].of("Service")
    assert not any("berth.dev/metrics" in item["metadata"]["labels"] for item in others)


def test_dashboards_and_alerts_are_those_of_the_chart(tmp_path: Path) -> None:
    chart = tmp_path / "berth"
    shutil.copytree(CHART, chart)
    (chart / "dashboards/berth-more.json").write_text(json.dumps({"title": "{{ not a template }}"}))
    (chart / "files/alerts.yaml").write_text('groups: [{name: one, rules: [{alert: A, expr: "{{ $value }}"}]}]\n')
    rendered = render(example("production"), chart=chart)
    board = rendered.one("ConfigMap", "berth-berth-more")
    assert json.loads(board["data"]["berth-more.json"]) == {"title": "{{ not a template }}"}
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    rule = rendered.one("PrometheusRule", "berth-alerts")
    assert rule["spec"] == yaml.safe_load((chart / "files/alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_artifacts_on_a_volume() -> None:
    rendered = rendered_example("tryout")
    claim = rendered.one("PersistentVolumeClaim", "berth-artifacts")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for pod in pods(rendered):
        if pod.component in {"controller", "worker"}:
            assert variables(pod.container())["BERTH_ARTIFACT_STORE"]["value"] == "file:///artifacts"
            (mount,) = (mount for mount in pod.container()["volumeMounts"] if mount["name"] == "artifacts")
            # Workers fetch; only controllers write.
            assert mount.get("readOnly", False) is (pod.component == "worker")


@pytest.mark.parametrize("part", ["controller", "synchronizer", "router", "workers"])
def test_each_component_can_be_left_out(part: str) -> None:
    elsewhere = {"controllers": ["far:8081"], "synchronizers": ["far:8082"]}
    rendered = render(example("minimal", {"components": {part: False}, **elsewhere}))
    component = part.removesuffix("s")
    owned = [
        item["metadata"]["name"]
        for item in rendered.objects
        if item["metadata"]["labels"].get("app.kubernetes.io/component") in {component, "migrations"}
        and (component == "controller" or item["metadata"]["labels"]["app.kubernetes.io/component"] == component)
    ]
    assert owned == []


def test_clients_tls() -> None:
    (router,) = (pod for pod in pods(rendered_example("production")) if pod.component == "router")
    said = {name: str(entry.get("value")) for name, entry in variables(router.container()).items()}
    folder = said["BERTH_CLIENT_TLS_CERT"].rpartition("/")[0]
    assert said["BERTH_CLIENT_TLS_KEY"] == f"{folder}/tls.key"
    (mount,) = (mount for mount in router.container()["volumeMounts"] if mount["mountPath"] == folder)
    assert mount["readOnly"] is True
