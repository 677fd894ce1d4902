"""The difference between two route tables, and how a router applies it.

Synchronizer and router share this module, so that `apply_delta(old, difference(old, new)) == new` is one property of
one file. Both functions are pure; parts that a delta does not touch are shared between the old table and the new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from berth.model import RouteDelta, RouteTable

K = TypeVar("K")
V = TypeVar("V")


class DeltaRefused(Exception):
    """The delta does not fit the table; the table stays as it is."""


class GapError(DeltaRefused):
    """An update is missing between the table and the delta: ask for a snapshot (reconnect, saying what you have)."""


class StaleDelta(DeltaRefused):
    """The delta is older than the table: its sender is deposed, or lags behind another one."""


def difference(old: RouteTable, new: RouteTable) -> RouteDelta:
    """What turns `old` into `new`. Both must be of one epoch: across epochs routers are sent `snapshot(new)`."""
    if old.order.epoch != new.order.epoch:
        raise ValueError(f"no delta leads from epoch {old.order.epoch} to {new.order.epoch}")
    return RouteDelta(
        base=old.order.generation,
        order=new.order,
        models=_changed(old.models, new.models),
        removed_models=_removed(old.models, new.models),
        replicas=_changed(old.replicas, new.replicas),
        removed_replicas=_removed(old.replicas, new.replicas),
        keys=_changed(old.keys, new.keys),
        removed_keys=_removed(old.keys, new.keys),
        limits=_changed(old.limits, new.limits),
        removed_limits=_removed(old.limits, new.limits),
        routers=new.routers,
    )


def snapshot(table: RouteTable) -> RouteDelta:
    """The whole of `table` as a delta with base 0, which fits every older table."""
    return RouteDelta(
        base=0,
        order=table.order,
        models=tuple(table.models.values()),
        replicas=tuple(table.replicas.values()),
        keys=tuple(table.keys.values()),
        limits=tuple(table.limits.values()),
        routers=table.routers,
    )


def apply_delta(table: RouteTable, delta: RouteDelta) -> RouteTable:
    """The table that follows from `table` by `delta`; `table` itself is left as it is.

    Raises `StaleDelta` when `delta` is older than `table` (an earlier epoch, or the same epoch and an earlier
    generation), and `GapError` when it is no snapshot and does not start at the generation of `table`.
    """
    if delta.order < table.order:
        raise StaleDelta(f"{delta.order} is older than {table.order}")
    if delta.base == 0:
        table = RouteTable()
    elif (delta.order.epoch, delta.base) != table.order:
        raise GapError(f"a delta from {delta.order.epoch}, {delta.base} does not fit {table.order}")
    return RouteTable(
        order=delta.order,
        models=_patched(table.models, ((route.key, route) for route in delta.models), delta.removed_models),
        replicas=_patched(
            table.replicas, ((address.replica, address) for address in delta.replicas), delta.removed_replicas
        ),
        keys=_patched(table.keys, ((key.sha256, key) for key in delta.keys), delta.removed_keys),
        limits=_patched(table.limits, ((limits.tenant, limits) for limits in delta.limits), delta.removed_limits),
        routers=delta.routers,
    )


def _changed(old: Mapping[K, V], new: Mapping[K, V]) -> tuple[V, ...]:
    if old is new:
        return ()
    # Tables share what did not change, so identity settles most entries without comparing them.
    return tuple(value for key, value in new.items() if (was := old.get(key)) is not value and was != value)


def _removed(old: Mapping[K, V], new: Mapping[K, V]) -> tuple[K, ...]:
    return () if old is new else tuple(key for key in old if key not in new)


def _patched(old: Mapping[K, V], changed: Iterable[tuple[K, V]], removed: Iterable[K]) -> Mapping[K, V]:
    patch = dict(changed)
    gone = set(removed)
    if not patch and not gone:
        return old
    patched = {**old, **patch}
    for key in gone:
        patched.pop(key, None)
    return patched
