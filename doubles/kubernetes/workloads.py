"""The controllers at work: they look at what changed, and go on until nothing is left to do.

Level-triggered: an event only names the objects to look at again. Everything between two waits is synchronous, so that
a request never sees half a step. What they do is not recorded as calls: only requests over HTTP are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta

import structlog

from doubles.kubernetes.budgets import covers
from doubles.kubernetes.controllers import deployments, endpoints, jobs, nodes, replicasets, statefulsets
from doubles.kubernetes.controllers.cluster import PODS, Cluster
from doubles.kubernetes.kinds import BY_NAME, Kind, Object
from doubles.kubernetes.registry import Registry
from doubles.kubernetes.status import ApiError
from doubles.kubernetes.store import Event, Key
from doubles.kubernetes.subresources import budget_health

log = structlog.get_logger(__name__)

_RETRY = timedelta(seconds=1)
_BY_CONTROLLER: dict[str, Callable[[Cluster, Object], None]] = {
    "deployments.apps": deployments.reconcile,
    "replicasets.apps": replicasets.reconcile,
    "statefulsets.apps": statefulsets.reconcile,
    "jobs.batch": jobs.reconcile,
    "services": endpoints.reconcile,
}
_OWNERS = {kind.kind: kind for kind in (BY_NAME[name] for name in _BY_CONTROLLER)}
_SERVICES, _BUDGETS = BY_NAME["services"], BY_NAME["poddisruptionbudgets"]
_WATCHED = (*_OWNERS.values(), PODS, nodes.NODES, _BUDGETS)


class Workloads:
    """All controllers of the cluster. `lost_after_s`: how long a node may be not ready before its pods are deleted.

    A real cluster waits 300 s by default. `kubelets`: pods run in name, see `controllers.kubelet`."""

    def __init__(self, registry: Registry, *, lost_after_s: float = 0.0) -> None:
        self._registry = registry
        self._store = registry.store
        self._cluster = Cluster(registry)
        self._lost_after_s = lost_after_s
        self._seen = dict.fromkeys((kind.resource for kind in _WATCHED), 0)
        self._again: dict[Key, None] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self.reconcile()
            # As much time for everybody else: a thousand pods that report one by one are then looked at together.
            rest = loop.time() - began
            await self._wait()
            await asyncio.sleep(rest)

    def reconcile(self) -> None:
        """Bring everything as far as it gets without time passing or anybody else acting."""
        while keys := self._dirty():
            for key in keys:
                try:
                    self._look(key)
                except ApiError as error:  # as when a namespace is going: the others go on, this one is tried again
                    log.warning("a controller was refused", key="/".join(key), reason=error.reason, why=error.message)
                    self._cluster.wake(self._cluster.now + _RETRY)
            self._schedule()

    async def _wait(self) -> None:
        """Until the next write, or until something is due."""
        due = self._cluster.wake_at
        seconds = None if due is None else max(0.0, (due - self._cluster.now).total_seconds())
        try:
            async with asyncio.timeout(seconds):
                await self._store.news.next()
        except TimeoutError:
            # Only now: what happens meanwhile looks at other objects, and must not forget what is due.
            self._cluster.wake_at = None
            self._again = dict.fromkeys(self._all())

    def _all(self) -> Iterator[Key]:
        for kind in _WATCHED:
            for value in self._store.items(kind):
                yield _key(kind, value)

    def _dirty(self) -> list[Key]:
        """What is to be looked at because of what happened since the last look."""
        found, self._again = self._again, {}
        version = self._store.version
        for kind in _WATCHED:
            for event in self._store.recent(kind, self._seen[kind.resource]):
                for key in self._concerned(event):
                    found[key] = None
            self._seen[kind.resource] = version
        return list(found)

    def _concerned(self, event: Event) -> Iterator[Key]:
        metadata = event.object["metadata"]
        namespace = metadata.get("namespace", "")
        yield _key(event.kind, event.object)
        yield from self._owners(event.object)
        if event.kind is PODS:
            states = [value for value in (event.previous, event.object) if value is not None]
            for service in self._store.items(_SERVICES, namespace):
                if any(endpoints.selected(service, value) for value in states):
                    yield _key(_SERVICES, service)
            yield from self._budgets(namespace, states)
            # A kubelet's last words may arrive after it was found to be lost.
            if node := event.object["spec"].get("nodeName"):
                yield Key(nodes.NODES.resource, "", node)
        elif event.kind.has_scale:
            yield from (_key(_BUDGETS, budget) for budget in self._store.items(_BUDGETS, namespace))
        elif event.kind is nodes.NODES and event.deleted:
            nodes.forget(self._cluster, metadata["name"])

    def _owners(self, value: Object) -> Iterator[Key]:
        """Workloads above an object: of a pod, the Deployment too, which may wait for the last one to go."""
        for reference in value["metadata"].get("ownerReferences") or ():
            found = self._store.find(reference["uid"])
            if found is not None and found[0].kind in _OWNERS:
                yield _key(*found)
                yield from self._owners(found[1])

    def _budgets(self, namespace: str, pods: list[Object]) -> Iterator[Key]:
        for budget in self._store.items(_BUDGETS, namespace):
            if any(covers(budget, pod) for pod in pods):
                yield _key(_BUDGETS, budget)

    def _look(self, key: Key) -> None:
        kind = BY_NAME[key.resource]
        value = self._store.get(kind, key.namespace, key.name)
        if value is None:
            return
        if reconcile := _BY_CONTROLLER.get(key.resource):
            reconcile(self._cluster, value)
        elif kind is nodes.NODES:
            nodes.lose(self._cluster, value, self._lost_after_s)
        elif kind is _BUDGETS:
            health = budget_health(self._registry, value)
            self._cluster.set_status(value, health.status(value["metadata"]["generation"]))

    def _schedule(self) -> None:
        waiting = [pod for pod in self._store.items(PODS) if nodes.is_waiting(pod)]
        if waiting:
            nodes.schedule(self._cluster, waiting)


def _key(kind: Kind, value: Object) -> Key:
    metadata = value["metadata"]
    return Key(kind.resource, metadata.get("namespace", ""), metadata["name"])
