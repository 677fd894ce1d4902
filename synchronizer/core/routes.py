"""The route table: what every replica holds, turned round into where every version can be answered.

`RouteTableBuilder` keeps the pieces by model and by replica, and remembers which of them changed. So publishing costs
what changed, not what exists: one replica's report must not rebuild the routes of a hundred thousand servables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from berth.ids import ModelKey, VersionKey
from berth.model import (
    NEVER,
    ApiKey,
    DesiredModel,
    DesiredState,
    ModelRoute,
    Order,
    ReplicaAddress,
    RouteDelta,
    RouteTable,
    ServableStatus,
    Serving,
    TenantLimits,
    VersionRoute,
)
from berth.route_delta import snapshot
from synchronizer.core.availability import default_version, describe, has_failed, state_of
from synchronizer.core.withdrawal import Route

K = TypeVar("K")
V = TypeVar("V")

_NOTHING: frozenset[VersionKey] = frozenset()


class Publication(NamedTuple):
    """A delta, and the routes that it adds and withdraws."""

    delta: RouteDelta
    on: tuple[Route, ...]
    off: tuple[Route, ...]


@dataclass(slots=True)
class _Replica:
    """One connected replica: the versions that can be queried there, and the state of its others."""

    address: ReplicaAddress
    routes: frozenset[VersionKey]
    others: Mapping[VersionKey, ServableStatus]


class RouteTableBuilder:
    """All that the route table is made from, the table as it is published, and what changed since."""

    def __init__(self) -> None:
        self._models: dict[ModelKey, DesiredModel] = {}
        self._assigned: dict[ModelKey, frozenset[int]] = {}
        self._replicas: dict[str, _Replica] = {}
        self._serving: dict[VersionKey, set[str]] = {}
        self._others: dict[VersionKey, dict[str, ServableStatus]] = {}
        self._keys: dict[bytes, ApiKey] = {}
        self._limits: dict[str, TenantLimits] = {}
        self._routers = 1
        self._dirty_models: set[ModelKey] = set()
        self._dirty_replicas: set[str] = set()
        self._dirty_access = False
        # What is published, kept apart so that a delta is read off the dirty pieces alone.
        self._order = NEVER
        self._table_models: dict[ModelKey, ModelRoute] = {}
        self._table_replicas: dict[str, ReplicaAddress] = {}
        self._table_routes: dict[str, frozenset[VersionKey]] = {}
        self._table_keys: dict[bytes, ApiKey] = {}
        self._table_limits: dict[str, TenantLimits] = {}
        self._table_routers = 1

    def __repr__(self) -> str:
        return (
            f"<RouteTableBuilder {tuple(self._order)} models={len(self._models)} replicas={len(self._replicas)} "
            f"dirty={len(self._dirty_models)}+{len(self._dirty_replicas)}>"
        )

    @property
    def order(self) -> Order:
        """The order of the table last published; `NEVER` before the first."""
        return self._order

    def set_desired(self, desired: DesiredState) -> None:
        """Take over how names resolve, who may ask, and which versions are assigned anywhere."""
        models = {entry.key: entry for entry in desired.models}
        assigned: dict[ModelKey, set[int]] = {}
        for job in desired.jobs:
            for spec in job.versions:
                assigned.setdefault(spec.key.model_key, set()).add(spec.key.version)
        frozen = {key: frozenset(versions) for key, versions in assigned.items()}
        for key in self._models.keys() | models.keys() | self._assigned.keys() | frozen.keys():
            if self._models.get(key) != models.get(key) or self._assigned.get(key) != frozen.get(key):
                self._dirty_models.add(key)
        self._models, self._assigned = models, frozen
        self._keys = {key.sha256: key for key in desired.keys}
        self._limits = {limits.tenant: limits for limits in desired.limits}
        self._dirty_access = True

    def set_routers(self, count: int) -> None:
        """How many routers share the tenants' limits, at least 1."""
        self._routers = max(1, count)

    def set_replica(
        self, address: ReplicaAddress, routes: frozenset[VersionKey], others: Mapping[VersionKey, ServableStatus]
    ) -> None:
        """What a connected replica can answer (`routes`), and what it says of its other versions."""
        name = address.replica
        was = self._replicas.get(name)
        if was is not None and was.routes == routes and was.others == others and was.address == address:
            return
        self._move(name, was.routes if was else _NOTHING, routes)
        self._note(name, was.others if was else {}, others)
        self._replicas[name] = _Replica(address, routes, others)
        self._dirty_replicas.add(name)

    def drop_replica(self, name: str) -> None:
        """The replica is not connected (any more): nothing can be sent there."""
        was = self._replicas.pop(name, None)
        if was is not None:
            self._move(name, was.routes, _NOTHING)
            self._note(name, was.others, {})
            self._dirty_replicas.add(name)

    def publish(self, order: Order, *, anew: bool = False) -> Publication | None:
        """Make the changes since the last call a table of `order`; None if the epoch's table has not changed.
        With `anew` it is given out again under the new order all the same.

        The first table of an epoch is a snapshot: all its routes are on, and which ones an earlier epoch had is not
        this board's business.
        """
        models, removed_models = self._refresh_models()
        on, off = self._turned()
        replicas, removed_replicas = self._refresh_replicas()
        keys, removed_keys = _replace(self._table_keys, self._keys) if self._dirty_access else ((), ())
        limits, removed_limits = _replace(self._table_limits, self._limits) if self._dirty_access else ((), ())
        self._dirty_access = False
        routers_changed, self._table_routers = self._table_routers != self._routers, self._routers
        if order.epoch != self._order.epoch:
            self._order = order
            every = (Route(name, key) for name, keys_ in self._table_routes.items() for key in sorted(keys_))
            return Publication(snapshot(self.table()), tuple(every), ())
        delta = RouteDelta(
            self._order.generation,
            order,
            models,
            removed_models,
            replicas,
            removed_replicas,
            keys,
            removed_keys,
            limits,
            removed_limits,
            self._routers,
        )
        nothing = RouteDelta(self._order.generation, order, routers=self._routers)
        if not anew and not routers_changed and delta == nothing:
            return None
        self._order = order
        return Publication(delta, on, off)

    def table(self) -> RouteTable:
        """The table last published, as a value of its own. Costs a copy: for routers that need a snapshot."""
        return RouteTable(
            self._order,
            dict(self._table_models),
            dict(self._table_replicas),
            dict(self._table_keys),
            dict(self._table_limits),
            self._table_routers,
        )

    def validate(self) -> None:
        """Raise AssertionError where the pieces contradict each other."""
        serving = {(key, name) for key, names in self._serving.items() for name in names}
        assert serving == {(key, name) for name, replica in self._replicas.items() for key in replica.routes}
        for model in self._table_models.values():
            for version in model.versions:
                for name in version.replicas:
                    assert name in self._table_replicas, f"{model.key} is routed to an unknown replica"
                    key = VersionKey(*model.key, version.version)
                    assert key in self._table_routes.get(name, ()), f"{key} on {name} is in the table only"

    def _move(self, name: str, old: frozenset[VersionKey], new: frozenset[VersionKey]) -> None:
        for key in old - new:
            names = self._serving[key]
            names.discard(name)
            if not names:
                del self._serving[key]
            self._dirty_models.add(key.model_key)
        for key in new - old:
            self._serving.setdefault(key, set()).add(name)
            self._dirty_models.add(key.model_key)

    def _note(
        self, name: str, old: Mapping[VersionKey, ServableStatus], new: Mapping[VersionKey, ServableStatus]
    ) -> None:
        for key in old.keys() - new.keys():
            statuses = self._others[key]
            del statuses[name]
            if not statuses:
                del self._others[key]
            self._dirty_models.add(key.model_key)
        for key, status in new.items():
            if old.get(key) != status:
                self._others.setdefault(key, {})[name] = status
                self._dirty_models.add(key.model_key)

    def _refresh_models(self) -> tuple[tuple[ModelRoute, ...], tuple[ModelKey, ...]]:
        changed, removed = [], []
        for key in sorted(self._dirty_models):
            old = self._table_models.get(key)
            new = self._model_route(key, old.serving.default if old else 0)
            if new is None and old is not None:
                del self._table_models[key]
                removed.append(key)
            elif new is not None and new != old:
                self._table_models[key] = new
                changed.append(new)
        self._dirty_models.clear()
        return tuple(changed), tuple(removed)

    def _model_route(self, key: ModelKey, previous: int) -> ModelRoute | None:
        model = self._models.get(key)
        if model is None:
            return None
        versions = []
        counts: dict[int, int] = {}
        for version in sorted(self._assigned.get(key, ())):
            version_key = VersionKey(*key, version)
            names = tuple(sorted(self._serving.get(version_key, ())))
            if names:
                counts[version] = len(names)
            others = () if names else tuple(self._others.get(version_key, {}).values())
            reason = "" if names else describe(others)
            versions.append(VersionRoute(version, names, reason, has_failed(others), state_of(others)))
        return ModelRoute(
            key,
            # Nobody divides a model yet. Whoever does will have to say here which shares can be routed, and when.
            Serving.only(default_version(model.serving.default, counts, previous), dict(model.serving.labels)),
            tuple(versions),
            model.default_answer,
            model.elsewhere,
        )

    def _turned(self) -> tuple[tuple[Route, ...], tuple[Route, ...]]:
        on: list[Route] = []
        off: list[Route] = []
        for name in sorted(self._dirty_replicas):
            old = self._table_routes.pop(name, _NOTHING)
            new = self._replicas[name].routes if name in self._replicas else _NOTHING
            on += (Route(name, key) for key in sorted(new - old))
            off += (Route(name, key) for key in sorted(old - new))
            if new:
                self._table_routes[name] = new
        return tuple(on), tuple(off)

    def _refresh_replicas(self) -> tuple[tuple[ReplicaAddress, ...], tuple[str, ...]]:
        changed, removed = [], []
        for name in sorted(self._dirty_replicas):
            old = self._table_replicas.get(name)
            new = self._replicas[name].address if name in self._replicas else None
            if new is None and old is not None:
                del self._table_replicas[name]
                removed.append(name)
            elif new is not None and new != old:
                self._table_replicas[name] = new
                changed.append(new)
        self._dirty_replicas.clear()
        return tuple(changed), tuple(removed)


def _replace(table: dict[K, V], new: Mapping[K, V]) -> tuple[tuple[V, ...], tuple[K, ...]]:
    """Make `table` equal to `new`; returns the values that changed and the keys that went."""
    changed = tuple(value for key, value in new.items() if table.get(key) != value)
    removed = tuple(key for key in table if key not in new)
    table.clear()
    table.update(new)
    return changed, removed
