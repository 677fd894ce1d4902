"""Values that are refused, and that the refusal can be understood."""

from __future__ import annotations

from typing import Any

import helm_python as helm
import pytest
import yaml

from tests.chart.rendering import CHART, Object, example, render

# Changes to the minimal values, and what the error must say.
WRONG_BY_ITSELF: list[tuple[Object, str]] = [
    ({"replicas": 3}, "additional properties 'replicas' not allowed"),
    ({"router": {"replcias": 3}}, "'/router'.*'replcias' not allowed"),
    ({"router": {"replicas": "three"}}, "'/router/replicas'.*want integer or null|'/router/replicas'.*want null or"),
    ({"router": {"replicas": 0}}, "'/router/replicas'.*minimum"),
    ({"controller": {"replicas": 0}}, "'/controller/replicas'.*minimum"),
    ({"logLevel": "loud"}, "'/logLevel'.*'debug', 'info', 'warning', 'error'"),
    ({"cell": "EU West"}, "'/cell'.*does not match"),
    ({"controllers": ["berth-feed"]}, "'/controllers/0'.*does not match"),
    ({"otherCells": [{"cell": "a", "rest": "a:1"}]}, "'/otherCells/0'.*missing property 'grpc'"),
    ({"otherCells": [{"cell": "a", "rest": "a:1", "grpc": "https://a:1"}]}, "'/otherCells/0/grpc'.*does not match"),
    ({"artifacts": {"url": "https://bucket"}}, "'/artifacts/url'.*does not match"),
    ({"tls": {"mode": "off"}}, "'/tls/mode'.*'certManager', 'secret'"),
    ({"tls": {"enabled": False}}, "'/tls'.*'enabled' not allowed"),
    ({"image": {"digest": "9f86d081"}}, "'/image/digest'.*does not match"),
    ({"router": {"settings": {"BERTH_HEDGE_SHERE": 0.1}}}, "BERTH_HEDGE_SHERE"),
    ({"router": {"settings": {"BERTH_ROUTE_FEEDS": "x:1"}}}, "BERTH_ROUTE_FEEDS"),
    ({"controller": {"settings": {"BERTH_DATABASE_URL": "postgresql://u:p@h/d"}}}, "BERTH_DATABASE_URL"),
    ({"controller": {"resources": {"limit": {"memory": "1Gi"}}}}, "'/controller/resources'.*'limit' not allowed"),
    ({"networkPolicy": {"clients": ["10.0.0.0/8"]}}, "'/networkPolicy/clients/0'.*want object"),
    ({"networkPolicy": {"clients": [{}]}}, "'/networkPolicy/clients/0'.*minProperties"),
    ({"workerPools": [{}]}, "'/workerPools/0'.*missing property 'name'"),
    ({"workerPools": [{"name": "GPU"}]}, "'/workerPools/0/name'.*does not match"),
    ({"workerPools": [{"name": "a", "memory": "1Gi"}]}, "'/workerPools/0'.*'memory' not allowed"),
    ({"workerPools": [{"name": "a", "memoryPerReplica": 1024}]}, "'/workerPools/0/memoryPerReplica'.*want string"),
    ({"workerPools": [{"name": "a", "memoryPerReplica": "1GB"}]}, "'/workerPools/0/memoryPerReplica'.*does not match"),
    ({"workerPools": [{"name": "a", "runtime": "torch"}]}, "'/workerPools/0/runtime'.*'onnxruntime', 'triton'"),
    ({"workerPools": [{"name": "a", "kind": "DaemonSet"}]}, "'/workerPools/0/kind'.*'Deployment', 'StatefulSet'"),
    ({"workerPools": [{"name": "a", "replicas": None}]}, "'/workerPools/0/replicas'.*want integer"),
    ({"workerPools": [{"name": "a", "scaling": {"mode": "auto"}}]}, "scaling/mode'.*'manual', 'berth', 'external'"),
    ({"externalMetrics": {"frontProxy": {"ca": "ca.pem"}}}, "'/externalMetrics/frontProxy/ca'.*does not match"),
    ({"externalMetrics": {"frontProxy": {"allowedNames": "proxy"}}}, "allowedNames'.*want array or null|want null or"),
    ({"externalMetrics": {"frontProxy": {"allowedNames": ["a,b"]}}}, "allowedNames/0'.*does not match"),
    ({"externalMetrics": {"readers": []}}, "'/externalMetrics/readers'.*minItems"),
    ({"poolDefaults": {"replicas": 2}}, "'/poolDefaults'.*'replicas' not allowed"),
]


def pool(**members: Any) -> Object:
    return {"workerPools": [{"name": "gpu", **members}]}


PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"


def external(**members: Any) -> Object:
    return {"externalMetrics": {"enabled": True, **members}}


def other(cell: str) -> Object:
    return {"cell": cell, "rest": "a:1", "grpc": "a:2"}


WRONG_TOGETHER: list[tuple[Object, str]] = [
    ({"database": {"existingSecret": ""}}, "The controller needs PostgreSQL: set database.existingSecret"),
    (
        {"postgresql": {"tryout": {"enabled": True}}},
        "database.existingSecret and postgresql.tryout.enabled: choose one",
    ),
    ({"components": {"controller": False}}, "name the controllers' desired feeds in `controllers`"),
    ({"components": {"synchronizer": False}}, "name the route feeds in `synchronizers`"),
    ({"artifacts": {"url": ""}}, "need an artifact store: set artifacts.url"),
    ({"artifacts": {"claim": {"create": True}}}, "artifacts.url and artifacts.claim: choose one"),
    ({"tls": {"mode": "secret"}}, "set tls.existingSecret to a secret with tls.crt, tls.key and ca.crt"),
    ({"image": {"tag": "latest"}}, "latest says nothing about what runs"),
    ({"router": {"env": [{"name": "BERTH_HEDGE_SHARE", "value": "1"}]}}, "router env: BERTH_HEDGE_SHARE belongs into"),
    ({"router": {"ingress": {"enabled": True}}}, "router.ingress needs a host"),
    ({"router": {"gateway": {"enabled": True}}}, "router.gateway needs parentRefs"),
    ({"workerPools": [{"name": "a"}, {"name": "a"}]}, "workerPools: a is there twice"),
    ({"otherCells": [other("local")]}, "otherCells: local is this release's own cell"),
    ({"otherCells": [other("a"), other("a")]}, "otherCells: a is there twice"),
    ({"otherCellsTls": {"existingSecret": "x"}}, "of no use in cleartext: set otherCellsTls.enabled"),
    (pool(image="registry/berth:latest"), "latest says nothing"),
    (pool(triton={"image": "registry/triton:latest"}), "latest says nothing"),
    (pool(env=[{"name": "BERTH_X", "value": "1"}]), "gpu: env: BERTH_X belongs into settings"),
    (pool(replicas=2, scaling={"mode": "berth"}), "scaling.mode berth would both own its replicas: leave replicas out"),
    (pool(replicas=2, scaling={"mode": "external"}), "would both own its replicas"),
    (pool(hpa={"enabled": True}), "an autoscaler of Kubernetes owns its replicas: set scaling.mode to external"),
    (
        pool(scaling={"mode": "external"}, hpa={"enabled": True}, keda={"enabled": True, "prometheusAddress": "x"}),
        "hpa and keda would both own its replicas",
    ),
    (pool(scaling={"mode": "external", "minReplicas": 0}, hpa={"enabled": True}), "an HPA cannot scale to zero"),
    (pool(scaling={"mode": "external"}, keda={"enabled": True}), "keda needs prometheusAddress, or triggers"),
    (pool(scaling={"minReplicas": 5, "maxReplicas": 4}), "minReplicas is above scaling.maxReplicas"),
    (pool(cache={"persistent": True}), "cache.persistent needs kind StatefulSet"),
    (pool(rollout={"maxSurge": 0, "maxUnavailable": 0}), "nothing could ever be replaced"),
    (pool(gpu={"count": 1}), "ONNX Runtime for CPUs: set image to one with CUDA, or runtime to triton"),
    (
        {"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
        "podMonitor and monitoring.serviceMonitor would both scrape every pod: choose one",
    ),
    (external(), "kube-system/extension-apiserver-authentication cannot be read.: give externalMetrics.frontProxy"),
    (external(frontProxy={"ca": PEM}), "allowedNames: with an authority of your own, say which common names"),
    (
        external(frontProxy={"ca": PEM, "allowedNames": []}) | {"tls": {"mode": "secret", "existingSecret": "mine"}},
        "caBundle: give the authority that signed the certificate in secret mine",
    ),
    (
        external() | {"components": {"controller": False}, "controllers": ["far:8081"]},
        "controllers answer it, and components.controller is false",
    ),
    (
        external(frontProxy={"ca": PEM, "allowedNames": []})
        | pool(scaling={"mode": "external"}, keda={"enabled": True, "prometheusAddress": "x"}),
        "gpu: KEDA serves external.metrics.k8s.io itself, and a cluster has one such API",
    ),
    ({"workerPools": [{"name": "a" * 40}]}, "has more than 52 characters"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG_BY_ITSELF, ids=lambda case: str(case)[:60])
def test_the_schema_refuses(changes: Object, said: str) -> None:
    with pytest.raises(helm.HelmError, match=f"(?s){said}"):
        render(example("minimal", changes))


@pytest.mark.parametrize(("changes", "said"), WRONG_TOGETHER, ids=lambda case: str(case)[:60])
def test_the_chart_refuses(changes: Object, said: str) -> None:
    release = "a-long-name" if "52" in said else "berth"
    with pytest.raises(helm.HelmError, match=said):
        render(example("minimal", changes), release=release)


def test_names_are_made_from_the_release() -> None:
    with pytest.raises(helm.HelmError, match="35 characters"):
        render(example("minimal"), release="b" * 36)


def test_every_value_is_in_the_schema_and_explained() -> None:
    """values.yaml is the reference: what the schema allows is there, but what belongs to a pool alone."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    with helm.Chart.load(CHART) as chart:
        schema = chart.schema
    assert schema is not None
    assert _missing(schema, values) == {"global"}


def _missing(schema: Object, values: Any, path: str = "") -> set[str]:
    missing = set()
    for name, below in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        if not isinstance(values, dict) or name not in values:
            missing.add(here)
        elif "properties" in below:
            missing |= _missing(below, values[name], here)
    return missing
