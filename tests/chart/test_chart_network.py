"""Network policies: the arrows of ARCHITECTURE.md and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.chart.rendering import (
    EXAMPLES,
    RELEASE,
    Object,
    Rendered,
    example,
    lay_over,
    pods,
    render,
    rendered_example,
    variables,
)

ANYBODY = "anybody"
# Where the API server comes from in the example.
TOLD = {"ipBlock": {"cidr": "10.0.0.1/32"}}

Arrow = tuple[str, str, int]
"""From, to, port. Ends outside of the release are `anybody`, or the value of `NAMES` they were given as."""

# Peers that the values below give.
NAMES = {
    name: {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    for name in (
        "clients",
        "operators",
        "monitoring",
        "cells",
        "database",
        "store",
        "api-server",
        "dns",
        "far-controllers",
        "far-routers",
    )
}

DNS: set[Arrow] = {(part, "dns", 53) for part in ("controller", "synchronizer", "router", "worker", "migrations")}
INSIDE: set[Arrow] = {
    ("synchronizer", "controller", 8081),
    ("synchronizer", "worker", 9000),
    ("router", "synchronizer", 8082),
    ("router", "worker", 9001),
    ("router", "worker", 9002),
}
OUTWARD: set[Arrow] = {
    ("controller", "database", 5432),
    ("migrations", "database", 5432),
    ("controller", "store", 9000),
    ("worker", "store", 9000),
    ("synchronizer", "api-server", 6443),
}
INWARD: set[Arrow] = {
    ("clients", "router", 8000),
    ("clients", "router", 8001),
    ("operators", "controller", 8080),
    ("cells", "controller", 8081),
    ("monitoring", "controller", 8080),
    *(("monitoring", part, 9100) for part in ("synchronizer", "router", "worker")),
}

EVERYBODY_NAMED: Object = {
    "networkPolicy": {
        **{name: [NAMES[name]] for name in ("clients", "operators", "monitoring", "cells")},
        "database": {"to": [NAMES["database"]], "port": 5432},
        "artifactStore": {"to": [NAMES["store"]], "port": 9000},
        "apiServer": {"to": [NAMES["api-server"]], "ports": [6443]},
        "dns": {"to": [NAMES["dns"]]},
        "controllers": {"to": [NAMES["far-controllers"]]},
        "otherCells": {"to": [NAMES["far-routers"]]},
    }
}


def arrows(rendered: Rendered) -> tuple[set[Arrow], set[Arrow]]:
    """What may come in, and what may go out."""
    inward: set[Arrow] = set()
    outward: set[Arrow] = set()
    for policy in rendered.of("NetworkPolicy"):
        component = policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        for rule in policy["spec"].get("ingress") or ():
            inward |= {(peer, component, port) for peer in _peers(rule.get("from")) for port in _ports(rule)}
        for rule in policy["spec"].get("egress") or ():
            outward |= {(component, peer, port) for peer in _peers(rule.get("to")) for port in _ports(rule)}
    return inward, outward


def _ports(rule: Mapping[str, Any]) -> set[int]:
    assert rule["ports"], "a rule without ports is for all of them"
    return {port["port"] for port in rule["ports"]}


def _peers(peers: Sequence[Object] | None) -> Iterator[str]:
    if peers is None:
        yield ANYBODY
        return
    assert peers, "a rule for nobody"
    for peer in peers:
        labels = peer.get("podSelector", {}).get("matchLabels", {})
        if labels.get("app.kubernetes.io/instance") == RELEASE:
            assert peer.keys() == {"podSelector"}
            yield labels["app.kubernetes.io/component"]
        else:
            yield next((name for name, known in NAMES.items() if known == peer), str(peer))


def test_the_arrows_and_no_others() -> None:
    inward, outward = arrows(render(example("minimal", EVERYBODY_NAMED)))
    assert inward == INSIDE | INWARD
    assert outward == INSIDE | OUTWARD | DNS


def test_unnamed_outsiders_are_anybody_but_for_metrics_and_cells() -> None:
    inward, outward = arrows(rendered_example("minimal"))
    anybody = {(ANYBODY, to, port) for source, to, port in INWARD if source in {"clients", "operators"}}
    assert inward == INSIDE | anybody
    assert outward - INSIDE == {
        *((source, ANYBODY, 443 if to == "store" else port) for source, to, port in OUTWARD | DNS),
        ("synchronizer", ANYBODY, 443),
    }


def test_the_api_server_reads_external_metrics_where_they_are_served() -> None:
    inward, _ = arrows(render(example("external-metrics", {**EVERYBODY_NAMED, "monitoring": {}})))
    named = {"networkPolicy": {"apiServer": {"from": [NAMES["api-server"]]}}}
    inward_named, _ = arrows(render(lay_over(example("external-metrics", EVERYBODY_NAMED), named)))
    assert inward_named - INSIDE - INWARD == {("api-server", "controller", 8443)}
    assert {arrow for arrow in inward if arrow[2] == 8443} == {(str(TOLD), "controller", 8443)}
    unnamed, _ = arrows(render(example("external-metrics", {"networkPolicy": {"apiServer": {"from": []}}})))
    assert {arrow for arrow in unnamed if arrow[2] == 8443} == {(ANYBODY, "controller", 8443)}


def test_a_cell_of_controllers_elsewhere() -> None:
    inward, outward = arrows(render(example("cell", EVERYBODY_NAMED)))
    assert {arrow for arrow in inward | outward if "controller" in arrow} == set()
    assert ("synchronizer", "far-controllers", 8081) in outward
    assert {arrow for arrow in outward if arrow[1] == "far-routers"} == {("router", "far-routers", 443)}


def test_every_port_of_other_cells_is_open_to_routers() -> None:
    cells = [{"cell": "a", "rest": "a:80", "grpc": "a:81"}, {"cell": "b", "rest": "b:80", "grpc": "b:82"}]
    _, outward = arrows(render(example("minimal", EVERYBODY_NAMED | {"otherCells": cells})))
    assert {arrow for arrow in outward if arrow[1] == "far-routers"} == {
        ("router", "far-routers", port) for port in (80, 81, 82)
    }


def test_trying_out_opens_the_database_to_controllers_alone() -> None:
    inward, outward = arrows(render(example("tryout", EVERYBODY_NAMED)))
    assert {arrow for arrow in inward | outward if "postgresql" in arrow} == {("controller", "postgresql", 5432)}
    assert {arrow for arrow in outward if arrow[1] in {"database", "store"}} == set()


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_has_no_rule_is_denied(name: str) -> None:
    rendered = rendered_example(name)
    deny = rendered.one("NetworkPolicy", "berth-default-deny")["spec"]
    assert deny.keys() == {"podSelector", "policyTypes"}
    for pod in pods(rendered):
        assert deny["podSelector"]["matchLabels"].items() <= pod.labels.items()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_arrow_inside_has_both_ends_and_a_port_that_listens(name: str) -> None:
    rendered = rendered_example(name)
    listening = {
        (pod.component, port["containerPort"])
        for pod in pods(rendered)
        for container in pod.containers()
        for port in container.get("ports", ())
    }
    components = {component for component, _ in listening} | {"migrations"}
    inward, outward = arrows(rendered)
    inside = {arrow for arrow in inward | outward if arrow[0] in components and arrow[1] in components}
    assert inside <= inward & outward
    assert {(to, port) for _, to, port in inside} <= listening


def test_addresses_name_the_services_that_there_are() -> None:
    rendered = rendered_example("minimal")
    services = {item["metadata"]["name"]: item for item in rendered.of("Service")}
    said = {
        name: entry.get("value", "") for pod in pods(rendered) for name, entry in variables(pod.container()).items()
    }
    assert said["BERTH_CONTROLLERS"] == "berth-controller-feed.serving.svc:8081"
    assert said["BERTH_ROUTE_FEEDS"] == ",".join(
        f"berth-synchronizer-{number}.berth-synchronizer.serving.svc:8082" for number in range(2)
    )
    assert services["berth-synchronizer"]["spec"]["clusterIP"] == "None"
    assert services["berth-synchronizer"]["spec"]["publishNotReadyAddresses"] is True
    ports = {name: {port["port"] for port in item["spec"]["ports"]} for name, item in services.items()}
    assert ports == {
        "berth-controller": {8080},
        "berth-controller-feed": {8081},
        "berth-synchronizer": {8082},
        "berth-router": {8000, 8001},
    }


def test_it_can_be_left_out() -> None:
    assert render(example("production", {"networkPolicy": {"enabled": False}})).of("NetworkPolicy") == []
