"""The external metrics API as the chart sets it up: who is asked, who is believed, and who may read."""

from __future__ import annotations

from base64 import b64decode

from tests.chart.rendering import (
    NAMESPACE,
    Object,
    Rendered,
    example,
    pods,
    render,
    rendered_example,
    variables,
)
from tests.chart.test_chart_values import PEM

NAME = "berth-external-metrics"
GROUP = "external.metrics.k8s.io"
GIVEN: Object = {
    "tls": {"mode": "secret", "existingSecret": "tls"},
    "externalMetrics": {"caBundle": PEM, "frontProxy": {"existingConfigMap": "", "ca": PEM, "allowedNames": []}},
}


def controller(rendered: Rendered) -> Object:
    (spec,) = (pod.spec for pod in pods(rendered) if pod.component == "controller")
    return spec


def environment(rendered: Rendered) -> dict[str, str]:
    (container,) = controller(rendered)["containers"]
    return {
        name: str(entry.get("value"))
        for name, entry in variables(container).items()
        if name.startswith("BERTH_EXTERNAL_METRICS_")
    }


def files(rendered: Rendered) -> dict[str, str]:
    """What lies where in the controller's pod, as KIND/NAME/KEY by path."""
    spec = controller(rendered)
    (container,) = spec["containers"]
    at = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    found: dict[str, str] = {}
    for volume in spec["volumes"]:
        for kind, name in (("secret", "secretName"), ("configMap", "name")):
            source = volume.get(kind)
            if source is not None:
                keys = {item["path"]: item["key"] for item in source.get("items", ())} or {"ca.crt": "ca.crt"}
                found |= {f"{at[volume['name']]}/{path}": f"{kind}/{source[name]}/{key}" for path, key in keys.items()}
    return found


def test_it_is_off_until_asked_for() -> None:
    rendered = rendered_example("minimal")
    assert rendered.of("APIService", "ClusterRole", "ClusterRoleBinding") == []
    assert environment(rendered) == {}
    assert not any("metrics" in item["metadata"]["name"] for item in rendered.of("Service", "Certificate"))


def test_the_api_server_finds_the_controllers() -> None:
    rendered = rendered_example("external-metrics")
    (api,) = rendered.of("APIService")
    assert api["metadata"]["name"] == f"v1beta1.{GROUP}"
    assert (api["spec"]["group"], api["spec"]["version"]) == (GROUP, "v1beta1")
    asked = api["spec"]["service"]
    service = rendered.one("Service", asked["name"])
    (port,) = service["spec"]["ports"]
    assert (asked["namespace"], asked["port"]) == (NAMESPACE, port["port"])
    (pod,) = (pod for pod in pods(rendered) if pod.component == "controller")
    assert service["spec"]["selector"].items() <= pod.labels.items()
    listening = {each["name"]: each["containerPort"] for each in pod.container()["ports"]}
    assert environment(rendered)["BERTH_EXTERNAL_METRICS_ADDRESS"] == f"$(POD_IP):{listening[port['targetPort']]}"


def test_it_never_goes_unverified() -> None:
    for rendered in (rendered_example("external-metrics"), render(example("external-metrics", GIVEN))):
        (api,) = rendered.of("APIService")
        assert "insecureSkipTLSVerify" not in api["spec"]
        injected = "cert-manager.io/inject-ca-from" in api["metadata"].get("annotations", {})
        assert injected is not ("caBundle" in api["spec"])


def test_cert_manager_signs_for_the_services_name_and_says_by_whom() -> None:
    rendered = rendered_example("external-metrics")
    certificate = rendered.one("Certificate", f"{NAME}-tls")
    (api,) = rendered.of("APIService")
    assert certificate["spec"]["dnsNames"] == [f"{NAME}.{NAMESPACE}.svc"]
    assert certificate["spec"]["usages"] == ["server auth"]
    assert certificate["spec"]["issuerRef"] == rendered.one("Certificate", "berth-controller-tls")["spec"]["issuerRef"]
    injected = api["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert injected == f"{NAMESPACE}/{certificate['metadata']['name']}"
    found, said = files(rendered), environment(rendered)
    secret = certificate["spec"]["secretName"]
    assert found[said["BERTH_EXTERNAL_METRICS_CERT"]] == f"secret/{secret}/tls.crt"
    assert found[said["BERTH_EXTERNAL_METRICS_KEY"]] == f"secret/{secret}/tls.key"


def test_given_certificates_are_shown_and_their_authority_is_told() -> None:
    rendered = render(example("external-metrics", GIVEN))
    (api,) = rendered.of("APIService")
    assert b64decode(api["spec"]["caBundle"]).decode() == PEM
    assert rendered.of("Certificate") == []
    found, said = files(rendered), environment(rendered)
    assert found[said["BERTH_EXTERNAL_METRICS_CERT"]] == "secret/tls/tls.crt"
    own = example("external-metrics", GIVEN)
    own["externalMetrics"]["existingSecret"] = "metrics"
    assert files(render(own))[said["BERTH_EXTERNAL_METRICS_KEY"]] == "secret/metrics/tls.key"


def test_only_the_front_proxy_is_believed() -> None:
    rendered = rendered_example("external-metrics")
    found, said = files(rendered), environment(rendered)
    authority = found[said["BERTH_EXTERNAL_METRICS_CLIENT_CA"]]
    assert authority == "configMap/front-proxy/requestheader-client-ca-file"
    assert said["BERTH_EXTERNAL_METRICS_CLIENT_NAMES"] == "front-proxy-client"
    given = render(example("external-metrics", GIVEN))
    found, said = files(given), environment(given)
    assert found[said["BERTH_EXTERNAL_METRICS_CLIENT_CA"]] == "configMap/berth-front-proxy/ca.crt"
    assert given.one("ConfigMap", "berth-front-proxy")["data"] == {"ca.crt": PEM}
    # As Kubernetes has it: none named means any.
    assert said["BERTH_EXTERNAL_METRICS_CLIENT_NAMES"] == ""


def test_nobody_reads_but_who_may() -> None:
    rendered = rendered_example("external-metrics")
    (role,), (binding,) = rendered.of("ClusterRole"), rendered.of("ClusterRoleBinding")
    (rule,) = role["rules"]
    assert rule == {"apiGroups": [GROUP], "resources": ["berth_job_desired_replicas"], "verbs": ["list"]}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}
    ]


def test_hpas_ask_for_what_is_served_here() -> None:
    rendered = rendered_example("external-metrics")
    (hpa,) = rendered.of("HorizontalPodAutoscaler")
    (metric,) = hpa["spec"]["metrics"]
    (role,) = rendered.of("ClusterRole")
    assert [metric["external"]["metric"]["name"]] == role["rules"][0]["resources"]
    assert "of which a cluster has one: not next to KEDA" in rendered.notes
    assert "set externalMetrics.enabled" not in rendered.notes
    assert (
        "set externalMetrics.enabled, or have a metrics adapter serve it" in rendered_example("external-scaling").notes
    )
