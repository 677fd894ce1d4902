"""How a Deployment moves from one template to the next: sizes of its ReplicaSets, step by step. Pure.

After the Deployment controller: grow the new one as far as the surge allows, take away what is broken of the old ones,
then as much of them as availability allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from doubles.kubernetes.budgets import portion
from doubles.kubernetes.kinds import Object


class Size(NamedTuple):
    """A ReplicaSet: how many it is told to hold, and how many of them are available."""

    name: str
    replicas: int
    available: int


class Bounds(NamedTuple):
    """How far from `desired` the total may go, in pods."""

    desired: int
    surge: int
    unavailable: int


def bounds_of(spec: Object) -> Bounds:
    """From a Deployment's spec. Surge rounds up, unavailability down, and one of them is at least one."""
    desired, strategy = spec["replicas"], spec.get("strategy", {})
    rolling = strategy.get("rollingUpdate") or {}
    surge = portion(rolling.get("maxSurge", "25%"), desired, up=True)
    unavailable = portion(rolling.get("maxUnavailable", "25%"), desired, up=False)
    if strategy.get("type") == "Recreate":
        return Bounds(desired, 0, desired)
    return Bounds(desired, surge, min(desired, unavailable if surge or unavailable else 1))


def next_sizes(bounds: Bounds, new: Size, old: Sequence[Size]) -> dict[str, int]:
    """New sizes of the ReplicaSets that are to change now. `old` is in order of age, the oldest first."""
    total = new.replicas + sum(size.replicas for size in old)
    grown = _grow(bounds, new, total)
    if grown != new.replicas:
        return {new.name: grown}
    least = bounds.desired - bounds.unavailable
    spare = total - least - (new.replicas - min(new.available, new.replicas))
    if spare <= 0:
        return {}
    sizes = {size.name: size.replicas for size in old}
    cut = 0
    for size in old:  # pods that are not available serve nobody: they go first
        less = min(spare - cut, size.replicas - min(size.available, size.replicas))
        sizes[size.name] -= less
        cut += less
    room = min(spare - cut, new.available + sum(size.available for size in old) - least)
    for size in old:
        less = max(0, min(room, sizes[size.name]))
        sizes[size.name] -= less
        room -= less
    return {size.name: sizes[size.name] for size in old if sizes[size.name] != size.replicas}


def _grow(bounds: Bounds, new: Size, total: int) -> int:
    if new.replicas >= bounds.desired:
        return bounds.desired
    room = bounds.desired + bounds.surge - total
    return new.replicas + max(0, min(room, bounds.desired - new.replicas))
