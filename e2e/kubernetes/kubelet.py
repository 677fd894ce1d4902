"""Fake nodes: pods that a cluster assigns to them run as processes on this machine, each on a loopback address
of its own.

A node is what the control plane sees of one: a Node object, heartbeats, a Lease, and pods whose status follows what
really happens. `lose` is a power cut: every process of the node is killed and nobody reports it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import structlog

from e2e.kubernetes.api import Api, Key, Mirror, Object, Refused, key_of
from e2e.kubernetes.container import now
from e2e.kubernetes.names import Addresses, resolve_names
from e2e.kubernetes.pod import PodRun
from e2e.kubernetes.pod_spec import Sources
from e2e.kubernetes.services import Forwarder, endpoints
from e2e.kubernetes.volumes import data_of

log = structlog.get_logger(__name__)

_HEARTBEAT_S = 1.0
_LOOK_AGAIN_S = 5.0
_CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "512Gi", "pods": "200", "nvidia.com/gpu": "8"}
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_WELL = ("MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(slots=True)
class _Namespace:
    """What the kubelet follows of one namespace."""

    pods: Mirror
    services: Mirror
    config_maps: Mirror
    secrets: Mirror

    @classmethod
    def of(cls, api: Api, name: str) -> _Namespace:
        path = f"/api/v1/namespaces/{name}"
        return cls(*(Mirror(api, f"{path}/{kind}") for kind in ("pods", "services", "configmaps", "secrets")))

    @property
    def mirrors(self) -> tuple[Mirror, ...]:
        return self.pods, self.services, self.config_maps, self.secrets

    def sources(self) -> Sources:
        return Sources(
            {key[1]: data_of(item, encoded=False) for key, item in self.config_maps.objects.items()},
            {key[1]: data_of(item, encoded=True) for key, item in self.secrets.objects.items()},
        )


@dataclass(slots=True)
class Kubelet:
    """All nodes of one test."""

    api: Api
    root: Path
    nodes: Mapping[str, Mapping[str, str]]
    addresses: Addresses
    runs: dict[str, PodRun] = field(default_factory=dict)
    """By uid: the pods that have processes here."""
    _spaces: dict[str, _Namespace] = field(default_factory=dict)
    _lost: set[str] = field(default_factory=set)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _forwarders: dict[tuple[Key, int], Forwarder] = field(default_factory=dict)
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)
    _registered: set[str] = field(default_factory=set)
    # Held, for each node, while its heartbeat is on its way: one that comes after the loss would tell of a node that
    # lives.
    _beating: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    @classmethod
    def of(cls, api: Api, root: Path, nodes: Mapping[str, Mapping[str, str]], namespaces: Iterable[str]) -> Kubelet:
        """`nodes` are labels by name; only pods of `namespaces` are run, wherever others may be assigned."""
        return cls(api, root, nodes, Addresses(), _spaces={name: _Namespace.of(api, name) for name in namespaces})

    async def lose(self, node: str) -> list[str]:
        """Cut the node's power. Returns the names of the pods that ran there."""
        self._lost.add(node)
        async with self._beating[node]:
            pass
        victims = [run for run in self.runs.values() if run.pod["spec"]["nodeName"] == node]
        for run in victims:
            run.kill()
            self._tasks[run.uid].cancel()
        return [run.name for run in victims]

    def restore(self, node: str) -> None:
        """The node is back, with the pods that the API server still assigns to it."""
        self._lost.discard(node)
        self._stirred.set()

    def pods(self, labels: Mapping[str, str]) -> list[PodRun]:
        """The pods with processes here that have all `labels`, by name."""
        found = [
            run for run in self.runs.values() if labels.items() <= (run.pod["metadata"].get("labels") or {}).items()
        ]
        return sorted(found, key=lambda run: run.name)

    def mirror(self, namespace: str) -> Mirror:
        """The pods of a namespace as the API server has them."""
        return self._spaces[namespace].pods

    def said(self, lines: int = 15) -> str:
        """The last lines of every log, for a test that failed."""
        parts = []
        for log_file in sorted(self.root.glob("pods/*/logs/*.log")):
            tail = log_file.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"--- {log_file.parent.parent.name} {log_file.stem}", *tail]))
        return "\n".join(parts)

    # --- what runs ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be the nodes until cancelled; then every process of theirs is killed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._follow(tasks)
                for name in self.nodes:
                    tasks.create_task(self._be_node(name))
                while True:
                    self._reconcile(tasks)
                    await self._serve()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_AGAIN_S):
                            await self._stirred.wait()
                    self._stirred.clear()
        finally:
            for forwarder in self._forwarders.values():
                await forwarder.close()

    def _follow(self, tasks: asyncio.TaskGroup) -> None:
        for space in self._spaces.values():
            for mirror in space.mirrors:
                tasks.create_task(mirror.run())
            for mirror in (space.pods, space.services):
                tasks.create_task(self._stir(mirror, self._stirred.set))
            for mirror in (space.config_maps, space.secrets):
                tasks.create_task(self._stir(mirror, self._refresh))

    async def _stir(self, mirror: Mirror, then: Callable[[], None]) -> None:
        while True:
            await mirror.next_change(_LOOK_AGAIN_S)
            then()

    def _refresh(self) -> None:
        for run in self.runs.values():
            run.refresh()

    def _reconcile(self, tasks: asyncio.TaskGroup) -> None:
        """Start what has come, and tell what runs how its object looks now."""
        seen: dict[str, Object] = {}
        for space in self._spaces.values():
            if not all(mirror.listed for mirror in space.mirrors):
                return
            seen |= {item["metadata"]["uid"]: item for item in space.pods.objects.values()}
        for uid, pod in seen.items():
            node = pod["spec"].get("nodeName")
            over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
            leaving = pod["metadata"].get("deletionTimestamp")
            if uid not in self.runs and node in self.nodes and node not in self._lost and (leaving or not over):
                self._start(pod, tasks)
        for uid, run in self.runs.items():
            run.observe(seen.get(uid))

    def _start(self, pod: Object, tasks: asyncio.TaskGroup) -> None:
        namespace, _ = key = key_of(pod)
        run = PodRun(
            self.api,
            pod,
            self.addresses.pod(key),
            self.addresses.node(pod["spec"]["nodeName"]),
            self.root,
            lambda space: self._spaces[space].sources(),
            lambda text: resolve_names(text, namespace, self._services(), self.addresses),
        )
        task = tasks.create_task(run.run(), name=run.name)
        self.runs[run.uid], self._tasks[run.uid] = run, task
        task.add_done_callback(lambda _: self._forget(run.uid))

    def _forget(self, uid: str) -> None:
        self.runs.pop(uid, None)
        self._tasks.pop(uid, None)
        self._stirred.set()

    # --- services ---------------------------------------------------------------------------------------------------

    def _services(self) -> dict[Key, Object]:
        return {key: item for space in self._spaces.values() for key, item in space.services.objects.items()}

    async def _serve(self) -> None:
        """Listen for each port of each service, and for no other."""
        services = self._services()
        wanted = {
            (key, port["port"]): port for key, item in services.items() for port in item["spec"].get("ports") or ()
        }
        for gone in self._forwarders.keys() - wanted.keys():
            await self._forwarders.pop(gone).close()
        for (key, number), port in wanted.items():
            if (key, number) not in self._forwarders:
                choose = self._chooser(key, port["port"])
                self._forwarders[key, number] = forwarder = Forwarder(self.addresses.service(key), number, choose)
                await forwarder.start()

    def _chooser(self, key: Key, number: int) -> Callable[[], Sequence[tuple[str, int]]]:
        def choose() -> Sequence[tuple[str, int]]:
            service = self._services().get(key)
            ports = service["spec"]["ports"] if service else ()
            port = next((each for each in ports if each["port"] == number), None)
            return endpoints(service, port, self._spaces[key[0]].pods.objects) if service and port else ()

        return choose

    # --- nodes ------------------------------------------------------------------------------------------------------

    async def _be_node(self, name: str) -> None:
        """Register the node and keep it alive in the eyes of the control plane."""
        while True:
            async with self._beating[name]:
                if name not in self._lost:
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                        if name not in self._registered:
                            await self._register(name)
                        await self._beat(name)
                        self._registered.add(name)
            await asyncio.sleep(_HEARTBEAT_S)

    async def _register(self, name: str) -> None:
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **self.nodes[name]}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        await self.api.apply("/api/v1/nodes", node)
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}
        await self.api.apply(_LEASES, lease | {"spec": {"holderIdentity": name, "leaseDurationSeconds": 40}})

    async def _beat(self, name: str) -> None:
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        at = now()
        conditions = [_node_condition("Ready", "True", at), *(_node_condition(kind, "False", at) for kind in _WELL)]
        address = {"type": "InternalIP", "address": self.addresses.node(name)}
        status = {"capacity": _CAPACITY, "allocatable": _CAPACITY, "conditions": conditions, "addresses": [address]}
        try:
            await self.api.patch(f"{_LEASES}/{name}", {"spec": {"renewTime": renewed}})
            await self.api.patch(f"/api/v1/nodes/{name}/status", {"status": status})
        except Refused as refusal:
            log.warning("heartbeat refused", node=name, error=str(refusal))


def _node_condition(kind: str, status: str, at: str) -> Object:
    return {"type": kind, "status": status, "lastHeartbeatTime": at, "reason": "Kubelet"}


@asynccontextmanager
async def running(
    api: Api, root: Path, nodes: Mapping[str, Mapping[str, str]], namespaces: Iterable[str]
) -> AsyncIterator[Kubelet]:
    """Nodes that run pods while the context is open. Afterwards their processes are gone, and so are they."""
    kubelet = Kubelet.of(api, root, nodes, namespaces)
    main = asyncio.create_task(kubelet.run(), name="kubelet")
    try:
        yield kubelet
    finally:
        main.cancel()
        ended = await asyncio.gather(main, return_exceptions=True)
        kubelet.addresses.close()
        for name in nodes:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, Refused):
                await api.delete(f"/api/v1/nodes/{name}")
    if not isinstance(ended[0], asyncio.CancelledError):
        raise ended[0] or AssertionError("the kubelet ended unasked")
