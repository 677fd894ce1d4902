"""The chart as Helm and Kubernetes see it. `python -m tests.chart.regenerate` writes the golden files anew."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any

import helm_python as helm
import jsonschema
import pytest
import referencing
from kubernetes_validate import utils as kubernetes_schemas

from tests.chart.rendering import (
    BASE,
    CHART,
    EXAMPLES,
    GOLDEN,
    ROOT,
    SCHEMA,
    Object,
    allowed_settings,
    example,
    golden,
    render,
    rendered_example,
    schema_with,
)

# The oldest that Chart.yaml allows, and the newest two that there are schemas of.
VERSIONS = ("1.30.0", "1.36.0", "1.37.0")

# Kinds of others, which Kubernetes' own schemas do not know.
CUSTOM = {
    "Certificate",
    "GRPCRoute",
    "HTTPRoute",
    "Issuer",
    "PodMonitor",
    "PrometheusRule",
    "ScaledObject",
    "ServiceMonitor",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_lints(name: str) -> None:
    report = helm.lint(CHART, example(name), strict=True, kube_version=f"v{VERSIONS[0]}")
    worse_than_advice = [message for message in report["messages"] if message["severity"] > 1]
    assert report["errors"] == worse_than_advice == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_renders_what_it_did(name: str) -> None:
    assert golden(name) == (GOLDEN / f"{name}.yaml").read_text(), "python -m tests.chart.regenerate, and read the diff"


def test_there_is_no_golden_file_of_nothing() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(EXAMPLES)


def test_settings_may_name_what_processes_read() -> None:
    assert schema_with(allowed_settings()) == SCHEMA.read_text(), "python -m tests.chart.regenerate"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_kubernetes_would_take_it(name: str, version: str) -> None:
    for item in rendered_example(name).objects:
        if item["kind"] not in CUSTOM:
            validator(version, item["kind"], item["apiVersion"]).validate(item)


def test_validation_would_notice() -> None:
    wrong: Object = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": 1}}
    with pytest.raises(jsonschema.ValidationError, match="port"):
        validator(VERSIONS[0], "Service", "v1").validate(wrong)


def test_the_oldest_kubernetes_is_the_one_that_is_tested() -> None:
    with helm.Chart.load(CHART) as chart:
        assert chart.metadata["kubeVersion"] == f">={VERSIONS[0]}-0"


def test_names_are_unique() -> None:
    for name in EXAMPLES:
        objects = rendered_example(name).objects
        identities = [(item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in objects]
        assert len(identities) == len(set(identities))


def test_a_rendering_does_not_depend_on_chance() -> None:
    once, again = (golden(BASE) for _ in range(2))
    assert once == again


def test_numbers_as_names_stay_text() -> None:
    values = example("minimal", {"cell": "7", "workerPools": [{"name": "42"}]})
    rendered = render(values, release="1")
    for item in rendered.objects:
        labels = item["metadata"]["labels"]
        assert all(isinstance(value, str) for value in labels.values()), item["metadata"]["name"]
        if item["kind"] not in CUSTOM:
            validator(VERSIONS[-1], item["kind"], item["apiVersion"]).validate(item)


def test_the_chart_has_the_version_of_the_package() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    with helm.Chart.load(CHART) as chart:
        assert chart.metadata["appVersion"] == declared[1]


def test_two_releases_share_a_namespace() -> None:
    one, other = (render(example("minimal"), release=name) for name in ("blue", "green"))
    names = [{(item["kind"], item["metadata"]["name"]) for item in release.objects} for release in (one, other)]
    assert names[0].isdisjoint(names[1])
    selected = [
        {frozenset(item["spec"]["selector"]["matchLabels"].items()) for item in release.of("Deployment", "StatefulSet")}
        for release in (one, other)
    ]
    assert all(a != b for a, b in itertools.product(*selected))


@functools.cache
def validator(version: str, kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    """kubernetes-validate reads megabytes for each object; this reads them once."""
    group, _, number = api_version.rpartition("/")
    where = f"kubernetes-json-schema/v{version}-local-strict"
    file = "-".join(part for part in (kind.lower(), group.partition(".")[0], number) if part)
    schema: Any = kubernetes_schemas.schema_contents(f"{where}/{file}.json", version)
    return jsonschema.Draft202012Validator(schema, registry=_registry(where, version).with_resource("", _of(schema)))


@functools.cache
def _registry(where: str, version: str) -> referencing.Registry[Any]:
    definitions = kubernetes_schemas.schema_contents(f"{where}/_definitions.json", version)
    return _of(definitions) @ referencing.Registry()


def _of(schema: Any) -> referencing.Resource[Any]:
    return referencing.Resource.from_contents(schema)
