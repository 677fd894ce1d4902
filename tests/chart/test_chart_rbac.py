"""What Berth may ask of the API server: as much as the synchronizer's code asks, and no more."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import helm_python as helm
import pytest

from synchronizer.cluster.lease import lease_name
from tests.chart.rendering import EXAMPLES, ROOT, Object, example, pods, render, rendered_example

Access = tuple[str, str, str]
"""Group, resource, verb."""

LOOK: frozenset[Access] = frozenset(
    (group, resource, verb)
    for group, resource in (("", "pods"), ("apps", "deployments"), ("apps", "statefulsets"))
    for verb in ("list", "watch")
)
SCALE: frozenset[Access] = frozenset({("apps", "deployments/scale", "patch"), ("apps", "statefulsets/scale", "patch")})
LEAD: frozenset[Access] = frozenset(("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "update"))
"""The constant that the chart and the code are held to."""


def granted(role: Object) -> Iterator[Access]:
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield group, resource, verb


def role_of(values: Object) -> Object:
    (role,) = render(values).of("Role")
    return role


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_role_for_the_synchronizer_alone(name: str) -> None:
    rendered = rendered_example(name)
    (role,), (binding,) = rendered.of("Role"), rendered.of("RoleBinding")
    # Nothing of the cluster's: what there is of that is for others, and lets them read our numbers alone.
    for cluster_role in rendered.of("ClusterRole"):
        assert {group for rule in cluster_role["rules"] for group in rule["apiGroups"]} == {"external.metrics.k8s.io"}
    readers = [subject for one in rendered.of("ClusterRoleBinding") for subject in one["subjects"]]
    assert not any(subject["name"].startswith("berth") for subject in readers)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (account,) = {pod.spec["serviceAccountName"] for pod in pods(rendered) if pod.component == "synchronizer"}
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    assert "*" not in str(role["rules"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_account_for_each_component(name: str) -> None:
    rendered = rendered_example(name)
    accounts = {pod.component: pod.spec["serviceAccountName"] for pod in pods(rendered) if pod.is_berth}
    assert len(set(accounts.values())) == len(accounts)
    made = {item["metadata"]["name"]: item for item in rendered.of("ServiceAccount")}
    assert set(accounts.values()) == made.keys()
    assert all(item["automountServiceAccountToken"] is False for item in made.values())


def test_all_that_may_be_asked() -> None:
    pools = [{"name": "a"}, {"name": "b", "kind": "StatefulSet"}]
    values = example("minimal", {"workerPools": pools, "synchronizer": {"lease": "kubernetes"}})
    assert set(granted(role_of(values))) == LOOK | SCALE | LEAD


def test_leases_only_where_they_are_used() -> None:
    assert LEAD.isdisjoint(granted(role_of(example("minimal"))))


@pytest.mark.parametrize("cell", ["eu-west", "a-b", "7", "a--b", "a" * 44])
def test_only_its_own_lease(cell: str) -> None:
    role = role_of(example("minimal", {"cell": cell, "synchronizer": {"lease": "kubernetes"}}))
    named = [rule["resourceNames"] for rule in role["rules"] if "update" in rule["verbs"]]
    assert named == [[lease_name(cell)]]


@pytest.mark.parametrize("cell", ["a_b", "a.b", "a-", "a" * 45])
def test_only_cells_that_are_dns_labels_are_taken(cell: str) -> None:
    with pytest.raises(helm.HelmError, match=r"'/cell'.*does not match"):
        render(example("minimal", {"cell": cell}))


def test_only_pools_that_nobody_else_owns_may_be_scaled() -> None:
    pools = [
        {"name": "by-hand"},
        {"name": "by-berth", "scaling": {"mode": "berth"}},
        {"name": "by-others", "scaling": {"mode": "external"}},
        {"name": "by-values", "replicas": 3},
        {"name": "kept", "kind": "StatefulSet"},
        {"name": "elsewhere", "cell": "other"},
    ]
    role = role_of(example("minimal", {"workerPools": pools}))
    named = {rule["resources"][0]: rule["resourceNames"] for rule in role["rules"] if "patch" in rule["verbs"]}
    assert named == {
        "deployments/scale": ["berth-pool-by-hand", "berth-pool-by-berth"],
        "statefulsets/scale": ["berth-pool-kept"],
    }


@pytest.mark.parametrize(("mode", "may"), [("manual", "true"), ("berth", "true"), ("external", "false")])
def test_the_synchronizer_knows_whether_it_may_scale(mode: str, may: str) -> None:
    rendered = render(example("minimal", {"workerPools": [{"name": "a", "scaling": {"mode": mode}}]}))
    (synchronizer,) = (pod for pod in pods(rendered) if pod.component == "synchronizer")
    said = {entry["name"]: entry.get("value") for entry in synchronizer.container()["env"]}
    assert said["BERTH_KUBERNETES_SCALE"] == may
    assert (
        not SCALE.isdisjoint(
            granted(role_of(example("minimal", {"workerPools": [{"name": "a", "scaling": {"mode": mode}}]})))
        )
    ) is (may == "true")


def test_the_code_asks_for_nothing_else() -> None:
    """The methods of its calls, and the collections that it names."""
    calls: set[str] = set()
    collections: set[tuple[str, str]] = set()
    for path in sorted((ROOT / "synchronizer/cluster").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"call", "_attempt"}
            ):
                calls |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
        collections |= set(re.findall(r"/(pods|leases|scale)\"|\"(deployments|statefulsets)\"", path.read_text()))
    verbs = {"GET": {"get", "list", "watch"}, "PATCH": {"patch"}, "PUT": {"update"}, "POST": {"create"}}
    assert set().union(*(verbs[method] for method in calls)) == {verb for _, _, verb in LOOK | SCALE | LEAD}
    named = {name for pair in collections for name in pair if name}
    assert named == {part for _, resource, _ in LOOK | SCALE | LEAD for part in resource.split("/")}
