"""The rules of controllers, as tables and properties: no server."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.kubernetes.budgets import covers, health, refusal
from doubles.kubernetes.controllers.nodes import accepts, quantity
from doubles.kubernetes.controllers.replicasets import expendable
from doubles.kubernetes.controllers.rollout import Bounds, Size, bounds_of, next_sizes


@pytest.mark.parametrize(
    ("replicas", "rolling", "bounds"),
    [
        (4, {}, Bounds(4, 1, 1)),
        (3, {}, Bounds(3, 1, 0)),
        (10, {"maxSurge": 0, "maxUnavailable": 0}, Bounds(10, 0, 1)),
        (10, {"maxSurge": "25%", "maxUnavailable": "25%"}, Bounds(10, 3, 2)),
        (10, {"maxSurge": 2, "maxUnavailable": 0}, Bounds(10, 2, 0)),
        (0, {}, Bounds(0, 0, 0)),
    ],
)
def test_bounds(replicas: int, rolling: dict[str, Any], bounds: Bounds) -> None:
    assert bounds_of({"replicas": replicas, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}) == bounds


@given(
    desired=st.integers(0, 12),
    surge=st.integers(0, 4),
    unavailable=st.integers(0, 4),
    held=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    choices=st.randoms(use_true_random=False),
)
def test_a_rollout_keeps_its_bounds_and_ends(
    desired: int, surge: int, unavailable: int, held: list[int], choices: Any
) -> None:
    """Pods become available in any order, one at a time; the total and what is available stay within bounds."""
    bounds = Bounds(desired, surge, min(desired, unavailable if surge or unavailable else 1))
    sizes = {"new": 0} | {f"old-{number}": count for number, count in enumerate(held)}
    available = dict(sizes)
    for _ in range(400):
        ready_before, total_before = sum(available.values()), sum(sizes.values())
        old = [Size(name, sizes[name], available[name]) for name in sizes if name != "new"]
        changes = next_sizes(bounds, Size("new", sizes["new"], available["new"]), old)
        for name, replicas in changes.items():
            # Those that are not available go first, as the ReplicaSet does it.
            available[name] = min(available[name], replicas)
            sizes[name] = replicas
        assert sum(sizes.values()) <= max(desired + surge, total_before)
        assert sum(available.values()) >= min(ready_before, desired - bounds.unavailable)
        pending = [name for name in sizes if available[name] < sizes[name]]
        if pending:
            available[choices.choice(pending)] += 1
        elif not changes:
            break
    assert sizes == {"new": desired} | {name: 0 for name in sizes if name != "new"}


def test_a_template_that_never_gets_ready_takes_nothing_that_works() -> None:
    bounds = Bounds(4, 1, 1)
    sizes = {"new": 0, "old": 4}
    for _ in range(20):
        changes = next_sizes(bounds, Size("new", sizes["new"], 0), [Size("old", sizes["old"], sizes["old"])])
        sizes |= changes
    assert sizes == {"new": 2, "old": 3}


def _pod(name: str, *, node: str = "n", phase: str = "Running", ready: str = "", cost: str = "0") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": ready}] if ready else []
    return {
        "metadata": {
            "name": name,
            "namespace": "d",
            "labels": {"app": "a"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost},
        },
        "spec": {"nodeName": node},
        "status": {"phase": phase, "conditions": conditions},
    }


def test_a_scale_down_takes_what_is_worth_least() -> None:
    pods = [
        _pod("old", ready="2026-01-01T00:01:00Z"),
        _pod("new", ready="2026-01-01T00:09:00Z"),
        _pod("dear", ready="2026-01-01T00:09:00Z", cost="9"),
        _pod("running"),
        _pod("pending", phase="Pending"),
        _pod("unbound", node="", phase="Pending"),
    ]
    ranked = [pod["metadata"]["name"] for pod in sorted(pods, key=expendable)]
    assert ranked == ["unbound", "pending", "running", "new", "old", "dear"]


@pytest.mark.parametrize(
    ("spec", "ready", "expected", "allowed"),
    [
        ({"minAvailable": 2}, 3, 3, 1),
        ({"minAvailable": "50%"}, 3, 3, 1),
        ({"maxUnavailable": 1}, 3, 3, 1),
        ({"maxUnavailable": 1}, 2, 3, 0),
        ({"maxUnavailable": "30%"}, 3, 3, 1),
        ({"maxUnavailable": 0}, 3, 3, 0),
    ],
)
def test_budgets(spec: dict[str, Any], ready: int, expected: int, allowed: int) -> None:
    budget = {
        "metadata": {"name": "b", "namespace": "d"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}} | spec,
    }
    pods = [_pod(str(number), ready="2026-01-01T00:00:00Z" if number < ready else "") for number in range(expected)]
    assert all(covers(budget, pod) for pod in pods)
    numbers = health(budget, pods, expected)
    assert numbers.allowed == allowed
    refused = refusal(pods[0], [(budget, numbers)])
    assert (refused is None) == (allowed > 0)
    assert refusal(_pod("waiting", phase="Pending"), [(budget, numbers)]) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("250m", "0.25"),
        ("8Gi", str(8 * 1024**3)),
        ("2", "2"),
        ("1k", "1000"),
        ("0.5", "0.5"),
        (3, "3"),
        ("1Mi", "1048576"),
    ],
)
def test_quantities(text: str | int, value: str) -> None:
    assert quantity(text) == Decimal(value)


@pytest.mark.parametrize(
    ("node", "pod", "fits"),
    [
        ({}, {}, True),
        ({"unschedulable": True}, {}, False),
        ({"taints": [{"key": "gpu", "value": "y", "effect": "NoSchedule"}]}, {}, False),
        ({"taints": [{"key": "gpu", "value": "y", "effect": "PreferNoSchedule"}]}, {}, True),
        (
            {"taints": [{"key": "gpu", "value": "y", "effect": "NoSchedule"}]},
            {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
            True,
        ),
        ({}, {"nodeSelector": {"zone": "a"}}, True),
        ({}, {"nodeSelector": {"zone": "b"}}, False),
        ({}, {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "1"}}}]}, True),
        ({}, {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "2"}}}]}, False),
        ({}, {"containers": [{"resources": {"requests": {"example.test/none": "1"}}}]}, False),
    ],
)
def test_where_a_pod_fits(node: dict[str, Any], pod: dict[str, Any], fits: bool) -> None:
    full = {
        "metadata": {"name": "n", "labels": {"zone": "a"}},
        "spec": node,
        "status": {"allocatable": {"nvidia.com/gpu": "2"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    assert accepts(full, {"spec": pod}, {"nvidia.com/gpu": Decimal(1)}) is fits
    full["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert not accepts(full, {"spec": pod}, {})
