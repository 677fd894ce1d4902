"""The fake cluster as a whole: `async with FakeKubernetes() as api:` serves on loopback until the block ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from doubles.kubernetes.app import App, Call
from doubles.kubernetes.deletion import Deletion
from doubles.kubernetes.faults import Fault, Faults
from doubles.kubernetes.garbage import Garbage
from doubles.kubernetes.kinds import BY_NAME, Kind, Object, kind_of
from doubles.kubernetes.patches import MERGE_PATCH
from doubles.kubernetes.rbac import Access
from doubles.kubernetes.registry import Registry
from doubles.kubernetes.store import Store
from doubles.kubernetes.workloads import Workloads

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


def utc_now() -> datetime:
    return datetime.now(UTC)


class FakeKubernetes:
    """An API server with an empty cluster of four namespaces.

    `workloads` runs the controllers that make pods of workloads and bind them to nodes; `lost_after_s` is how long a
    node may be not ready before its pods are deleted.
    `enforce_rbac` refuses what no Role allows to requests with a token. `history` is how many events of a resource a
    watch may be behind. `watch_list` False: a server without streaming lists.
    """

    def __init__(
        self,
        *,
        workloads: bool = False,
        lost_after_s: float = 0.0,
        enforce_rbac: bool = False,
        bookmark_interval_s: float = 60.0,
        history: int = 20_000,
        watch_list: bool = True,
        port: int = 0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.store = Store(history)
        self.registry = Registry(self.store, clock)
        self.access = Access(self.store, enforce=enforce_rbac)
        self.faults = Faults()
        self.app = App(
            self.registry,
            self.access,
            self.faults,
            bookmark_interval_s=bookmark_interval_s,
            watch_list=watch_list,
        )
        self.url = ""
        self._port = port
        self._workloads = Workloads(self.registry, lost_after_s=lost_after_s) if workloads else None
        self._garbage = Garbage(self.registry)
        self._tasks: asyncio.TaskGroup | None = None
        self._running: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None

    def __repr__(self) -> str:
        return f"<FakeKubernetes {self.url} {self.store}>"

    async def __aenter__(self) -> Self:
        for name in NAMESPACES:
            self._ensure_namespace(name)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self.app.handle)
        app.on_shutdown.append(self._close_watches)
        # A watch whose client has gone is cancelled rather than left to find out at its next event.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._running.append(self._tasks.create_task(self._collect()))
        if self._workloads is not None:
            self._running.append(self._tasks.create_task(self._workloads.run()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        try:
            if self._tasks is not None:
                await self._tasks.__aexit__(kind, error, trace)
        finally:
            if self._runner is not None:
                await self._runner.cleanup()

    # ---- objects, without HTTP ----

    def put(self, value: Object) -> Object:
        """Create or replace an object together with its status; its namespace comes into being with it."""
        kind = kind_of(value)
        metadata = value["metadata"]
        namespace = metadata.get("namespace", "default") if kind.namespaced else ""
        if namespace:
            self._ensure_namespace(namespace)
        current = self.store.get(kind, namespace, metadata["name"])
        given = json.loads(json.dumps(value))
        given["metadata"] = {name: item for name, item in given["metadata"].items() if name != "resourceVersion"}
        if current is None:
            stored = self.registry.create(kind, namespace, given)
        else:
            stored = self.registry.change(kind, current, given)
        if kind.has_status and "status" in value:
            stored = self.registry.change(kind, stored, stored | {"status": given["status"]}, "status")
        return stored

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object by kind (`Pod`, `pods`, `deployments.apps`); None: there is none."""
        return self.store.get(BY_NAME[kind], namespace, name)

    def items(self, kind: str, namespace: str = "") -> list[Object]:
        return self.store.items(BY_NAME[kind], namespace)

    def delete(self, kind: str, namespace: str, name: str, grace_s: int | None = None) -> None:
        """Delete as a client does; with `grace_s` 0 a pod is gone at once. Raises `ApiError` 404."""
        self.registry.delete(BY_NAME[kind], namespace, name, Deletion(grace_s=grace_s, propagation="Background"))

    def patch(self, kind: str, namespace: str, name: str, patch: Any, subresource: str = "") -> Object:
        """Merge patch: a list is replaced as a whole. Raises `ApiError`."""
        return self.registry.patch(BY_NAME[kind], namespace, name, MERGE_PATCH, patch, subresource)

    def add_node(self, name: str, *, zone: str = "", **allocatable: str) -> Object:
        """A ready node; without `allocatable` it takes any number of pods."""
        labels = {"kubernetes.io/hostname": name} | ({"topology.kubernetes.io/zone": zone} if zone else {})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {"conditions": [ready], "allocatable": allocatable, "capacity": allocatable}
        metadata = {"name": name, "labels": labels}
        return self.put({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status})

    async def until(self, true: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until `true()`; looked at again after every write and every request. Raises `TimeoutError`."""
        await self.store.news.until(true, timeout)

    # ---- requests ----

    @property
    def calls(self) -> list[Call]:
        """Every request so far."""
        return self.app.calls

    def calls_of(self, verb: str = "*", resource: str = "*", subresource: str = "*") -> list[Call]:
        return [
            call
            for call in self.app.calls
            if verb in {"*", call.verb} and resource in {"*", call.resource} and subresource in {"*", call.subresource}
        ]

    def fault(self, action: str, verb: str = "*", resource: str = "*", **fields: Any) -> None:
        """Script a fault: see `doubles.kubernetes.faults`."""
        self.faults.add(Fault(action, verb, resource, **fields))

    def bookmark(self, resource: str = "*") -> None:
        """Send a bookmark now to the watches that allow it."""
        self.app.order("bookmark", resource)

    def reset_watches(self, resource: str = "*") -> None:
        """Cut the connection of every running watch."""
        self.app.order("reset", resource)

    def expire_watches(self, resource: str = "*") -> None:
        """End every running watch with a 410."""
        self.app.order("expire", resource)

    def compact(self, resource: str = "*") -> None:
        """Forget history: versions before this moment are too old for watches and for pages of lists."""
        self.app.order("compact", resource)

    def watches(self, resource: str = "*") -> int:
        """How many watches run."""
        return sum(resource in {"*", watch.kind.plural} for watch in self.app.watches)

    def kubeconfig(self, path: Path, *, token: str = "", namespace: str = "default") -> Path:
        """Write a kubeconfig for this server; with a token of `access.token`, for that service account."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
        }
        path.write_text(json.dumps(config, indent=2))  # JSON is YAML
        return path

    def grant(self, namespace: str, account: str, rules: list[Object]) -> str:
        """Give a service account a Role of these rules; returns a token of it."""
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
        rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": account, "namespace": namespace}}
        self.put(rbac | {"kind": "Role", "rules": rules})
        subjects = [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
        self.put(rbac | {"kind": "RoleBinding", "roleRef": reference, "subjects": subjects})
        return self.access.token(namespace, account)

    # ---- the parts ----

    def _ensure_namespace(self, name: str) -> None:
        kind: Kind = BY_NAME["namespaces"]
        if self.store.get(kind, "", name) is None:
            self.registry.create(kind, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    async def _collect(self) -> None:
        while True:
            self._garbage.collect()
            await self.store.news.next()

    async def _close_watches(self, _: web.Application) -> None:
        for watch in list(self.app.watches):
            watch.close()
