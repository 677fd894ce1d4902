"""Berth in a cluster: the chart installed with its own settings for other people's things (database, secrets, volumes),
and what an operator and a tenant do with it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from berth.client import Berth
from berth.demo.load import SteadyLoad
from berth.local.postgres import PostgresServer
from berth.states import Role
from doubles.certificates import Authority, Files
from e2e.conftest import Tenant
from e2e.kubernetes.api import Api, Key, Object, Refused
from e2e.kubernetes.cluster import Cluster
from e2e.kubernetes.kubelet import Kubelet
from e2e.kubernetes.kubelet import running as nodes_running
from e2e.kubernetes.pod import PodRun
from e2e.kubernetes.release import deploy, deploy_rendered
from e2e.kubernetes.routed import RouteWatch, watching
from e2e.kubernetes.traffic import load_on
from e2e.waiting import until

T = TypeVar("T")
RELEASE = "berth"
POOL = "cpu"
PEER_NAME = "berth.internal"
EXTERNAL_METRICS = "external-metrics"
"""The service that the API server finds the external metrics API by: certificates carry its name too."""
_MARK = "berth.dev/e2e"
_CLAIMS = ("artifacts", f"state-{RELEASE}-synchronizer-0", f"state-{RELEASE}-synchronizer-1")
_START_LIMIT_S = 40.0
_NOTICED_AGAIN_S = 1.0

VALUES: Object = {
    "listen": "podIP",
    "image": {"repository": "not.pulled/berth"},
    "tls": {"mode": "secret", "existingSecret": "tls", "peerName": PEER_NAME},
    "database": {"existingSecret": "database"},
    "bootstrap": {"existingSecret": "bootstrap"},
    "artifacts": {"claim": {"existingClaim": "artifacts"}},
    "controller": {"replicas": 1},
    "synchronizer": {"replicas": 2},
    # A pool that sleeps takes as long to wake up as a pod takes to start.
    "router": {"replicas": 2, "preStopSeconds": 2, "settings": {"BERTH_COLD_HOLD_S": "30"}},
    "workerPools": [{"name": POOL}],
    "poolDefaults": {
        "memoryPerReplica": "256Mi",
        "loadHeadroom": "64Mi",
        "minReadySeconds": 1,
        "resources": {"requests": {"cpu": "50m"}},
    },
}


@dataclass(slots=True)
class Installation:
    """One release in one namespace, on nodes of its own."""

    cluster: Cluster
    kubelet: Kubelet
    namespace: str
    folder: Path
    values: Object
    admin_key: str = field(repr=False)
    certificates: Files
    """What all its processes show and trust."""
    _clients: list[Berth] = field(default_factory=list)

    # --- addresses ------------------------------------------------------------------------------------------------

    def service(self, name: str) -> str:
        """The address of a service of the release."""
        return self.kubelet.addresses.service((self.namespace, f"{RELEASE}-{name}"))

    def client(self, key: str = "") -> Berth:
        client = Berth(
            key or self.admin_key,
            controller=f"http://{self.service('controller')}:8080",
            router=f"http://{self.service('router')}:8000",
        )
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()

    # --- what runs ------------------------------------------------------------------------------------------------

    def of(self, component: str) -> list[PodRun]:
        """The pods of a component that are here and not leaving."""
        labels = {"app.kubernetes.io/component": component}
        return [run for run in self.kubelet.pods(labels) if not run.pod["metadata"].get("deletionTimestamp")]

    def zone(self, run: PodRun) -> str:
        """The availability zone of the node that a pod is on."""
        return self.kubelet.nodes[run.pod["spec"]["nodeName"]]["topology.kubernetes.io/zone"]

    async def ready(self, component: str, count: int, within: float = _START_LIMIT_S) -> list[str]:
        """Wait until exactly `count` pods of a component are ready, and no other of it exists. Returns their names."""

        def settled(pods: Mapping[Key, Object]) -> list[str] | None:
            ours = [pod for pod in pods.values() if _component(pod) == component]
            if len(ours) != count or any(pod["metadata"].get("deletionTimestamp") for pod in ours):
                return None
            return sorted(pod["metadata"]["name"] for pod in ours) if all(map(is_ready, ours)) else None

        return await self._until(settled, f"{count} pods of {component} ready and no other", within)

    async def in_pool(self, pool: str, count: int) -> None:
        """Wait until a pool has exactly `count` pods, all of them ready."""

        def settled(pods: Mapping[Key, Object]) -> bool:
            ours = [pod for pod in pods.values() if (pod["metadata"].get("labels") or {}).get("berth.dev/job") == pool]
            return len(ours) == sum(map(is_ready, ours)) == count

        await self._until(settled, f"{count} pods in pool {pool}, all ready")

    async def job_known(self, name: str) -> None:
        """Wait until the controller has read of a job in the pools file."""
        jobs = self.client().jobs

        def known() -> bool:
            return any(job.name == name for job in jobs.list())

        await asyncio.to_thread(until, known, within=_START_LIMIT_S, what=f"there is a job {name}")

    async def renewed(self, component: str, before: Collection[str], count: int) -> None:
        """Wait until `count` pods of a component are ready, none with a uid of `before`, and no other exists."""

        def settled(pods: Mapping[Key, Object]) -> bool:
            ours = [pod for pod in pods.values() if _component(pod) == component]
            fresh = [pod for pod in ours if pod["metadata"]["uid"] not in before and is_ready(pod)]
            return len(ours) == len(fresh) == count

        await self._until(settled, f"{count} new pods of {component} ready and no other")

    async def replaced(self, component: str, victims: Collection[str]) -> None:
        """Wait until others are ready in place of the pods of a component among `victims`, which may still be there."""
        lost = [run.name for run in self.of(component) if run.name in victims]
        count = len(self.of(component))

        def settled(pods: Mapping[Key, Object]) -> bool:
            ours = [pod for (_, name), pod in pods.items() if _component(pod) == component and name not in lost]
            return sum(map(is_ready, ours)) == count

        await self._until(settled, f"others in place of {lost} are ready")

    async def dark(self) -> None:
        """Wait until the cluster has noticed that no pod is ready any more."""

        def ready(pods: Mapping[Key, Object]) -> list[str]:
            return [f"{name} on {pod['spec'].get('nodeName')}" for (_, name), pod in pods.items() if is_ready(pod)]

        deadline = time.monotonic() + _START_LIMIT_S
        while found := ready(self.kubelet.mirror(self.namespace).objects):
            assert time.monotonic() < deadline, f"still ready: {found}"
            # As Kubernetes' node controller does, which looks again and again.
            for node in self.kubelet.nodes:
                self.cluster.notice_loss(node)
            await self.kubelet.mirror(self.namespace).next_change(_NOTICED_AGAIN_S)

    async def _until(
        self, reached: Callable[[Mapping[Key, Object]], T | None], what: str, within: float = _START_LIMIT_S
    ) -> T:
        """Wait for the namespace's pods to be so; what fails shows what processes said."""
        try:
            return await self.kubelet.mirror(self.namespace).until(reached, within, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubelet.said()}") from None

    def leader(self) -> PodRun | None:
        """The synchronizer that says of itself that it leads. Blocks."""
        for run in self.of("synchronizer"):
            if run.ready:
                with contextlib.suppress(httpx.TransportError):  # it ended since
                    text = httpx.get(f"http://{run.address}:9100/metrics", timeout=5).text
                    if "berth_synchronizer_leading 1.0" in text:
                        return run
        return None

    def routes(self, model: str) -> AbstractAsyncContextManager[RouteWatch]:
        """Which replicas routers send requests for `model` to, while the context is open."""
        return watching(lambda: self.of("router"), model)

    # --- what an operator does ------------------------------------------------------------------------------------

    @property
    def api(self) -> Api:
        return self.cluster.api

    def workload(self, name: str, kind: str = "deployments") -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/{kind}/{RELEASE}-{name}"

    async def scale(self, replicas: int, pool: str = POOL) -> None:
        """`kubectl scale`."""
        await self.api.patch(f"{self.workload(f'pool-{pool}')}/scale", {"spec": {"replicas": replicas}})

    async def restart(self, name: str, kind: str = "deployments") -> None:
        """`kubectl rollout restart`."""
        stamp = {"kubectl.kubernetes.io/restartedAt": str(time.time())}
        await self.api.patch(self.workload(name, kind), {"spec": {"template": {"metadata": {"annotations": stamp}}}})

    async def drain(self, node: str) -> list[str]:
        """`kubectl drain`: cordon, then evict every pod, asking again where a budget says no. Returns their names."""
        await self.api.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": True}})
        names = [run.name for run in self.kubelet.runs.values() if run.pod["spec"]["nodeName"] == node]
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(self._evict(name))
        await self._until(lambda pods: not _on(pods, node, names), f"{node} is empty")
        return names

    async def uncordon(self, node: str) -> None:
        await self.api.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": None}})

    async def lose(self) -> None:
        """Every node of the installation is lost at once, and every process on them: kill -9."""
        for node in self.kubelet.nodes:
            await self.kubelet.lose(node)
            self.cluster.notice_loss(node)

    def restore(self) -> None:
        """The nodes are back."""
        for node in self.kubelet.nodes:
            self.kubelet.restore(node)

    async def _evict(self, name: str) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/eviction"
        metadata = {"name": name, "namespace": self.namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        mirror = self.kubelet.mirror(self.namespace)
        async with asyncio.timeout(_START_LIMIT_S):
            while True:
                try:
                    await self.api.create(path, eviction)
                except Refused as refusal:
                    if refusal.code == 404:
                        return
                    if refusal.code != 429:
                        raise
                else:
                    return
                await mirror.next_change(1.0)

    async def upgrade(self, changes: Mapping[str, Any]) -> None:
        """`helm upgrade` with further values."""
        self.values = _over(self.values, changes)
        await self.deploy()

    async def deploy(self) -> None:
        """`helm upgrade --install` with the values as they are."""
        if self.cluster.fake is not None:
            await deploy_rendered(self.api, self.cluster.kubeconfig, self.namespace, RELEASE, self.values)
        else:
            await deploy(self.cluster.kubeconfig, self.namespace, RELEASE, self.values)

    # --- what a tenant does ---------------------------------------------------------------------------------------

    def make_tenant(self, name: str) -> Tenant:
        """A fresh tenant with a developer key. Blocks."""
        admin = self.client()
        admin.tenants.create(name)
        key = admin.of(name).keys.create(Role.DEVELOPER).secret
        return Tenant(name, key, self.client(key))

    def load(
        self, tenant: Tenant, model: str, rate: float = 40, most_in_flight: int = 256
    ) -> AbstractAsyncContextManager[SteadyLoad]:
        """Requests at the routers' service, as long as the context is open."""
        return load_on(self.service("router"), tenant.key, model, rate, most_in_flight)


def _on(pods: Mapping[Key, Object], node: str, names: Collection[str]) -> list[str]:
    """Those of `names` that are still on a node: a StatefulSet's pod comes back by the same name elsewhere."""
    return [name for (_, name), pod in pods.items() if name in names and pod["spec"].get("nodeName") == node]


def is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _component(pod: Object) -> str | None:
    return (pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component")


@asynccontextmanager
async def installed(
    cluster: Cluster, folder: Path, namespace: str, changes: Mapping[str, Any] | None = None
) -> AsyncIterator[Installation]:
    """The chart in a new namespace with everything it needs, ready, while the context is open."""
    database = PostgresServer(folder / "postgres" / "data", durable=False)
    await asyncio.to_thread(database.start)
    try:
        admin_key = f"berth_{secrets.token_urlsafe(32)}"
        names = (PEER_NAME, f"{RELEASE}-{EXTERNAL_METRICS}.{namespace}.svc")
        certificates = Authority(folder / "certificates").issue("berth", names=names, addresses=())
        made = {"tls": _tls(certificates), "database": {"url": database.url}, "bootstrap": {"key": admin_key}}
        await _make_namespace(cluster.api, namespace, made)
        async with _released(
            cluster, folder, namespace, _over(VALUES, changes or {}), admin_key, certificates
        ) as installation:
            yield installation
    finally:
        await asyncio.to_thread(database.stop)


@asynccontextmanager
async def joined(
    hub: Installation, namespace: str, cell: str, changes: Mapping[str, Any]
) -> AsyncIterator[Installation]:
    """A release for another cell under the controllers of `hub`, on nodes of its own, ready, while the context is open.

    Its volume of artifacts is the hub's, as a file server's would be.
    """
    folder = hub.folder / namespace
    shared = hub.folder / "kubelet" / "claims" / hub.namespace / "artifacts"
    claims = folder / "kubelet" / "claims" / namespace
    claims.mkdir(parents=True)
    (claims / "artifacts").symlink_to(shared)
    await _make_namespace(hub.api, namespace, {"tls": _tls(hub.certificates)})
    values = _over(VALUES, {"cell": cell, "components": {"controller": False}, "synchronizer": {"lease": "kubernetes"}})
    values |= {"controllers": [f"{hub.service('controller-feed')}:8081"]}
    async with _released(
        hub.cluster, folder, namespace, _over(values, changes), hub.admin_key, hub.certificates
    ) as berth:
        yield berth


@asynccontextmanager
async def _released(
    cluster: Cluster, folder: Path, namespace: str, values: Object, admin_key: str, certificates: Files
) -> AsyncIterator[Installation]:
    """The chart in a namespace that has what it refers to. On leaving, the namespace goes."""
    async with nodes_running(cluster.api, folder / "kubelet", nodes_of(namespace), [namespace]) as kubelet:
        placed = _over(values, _placed(namespace))
        installation = Installation(cluster, kubelet, namespace, folder, placed, admin_key, certificates)
        try:
            await installation.deploy()
            for component in ("controller", "synchronizer", "router"):
                if (placed.get("components") or {}).get(component, True):
                    await installation.ready(component, placed[component]["replicas"])
            yield installation
        finally:
            installation.close()
            await _remove(cluster.api, namespace)


def nodes_of(namespace: str) -> dict[str, dict[str, str]]:
    """Three nodes in three zones, marked so that only pods of this installation choose them."""
    return {f"{namespace}-{zone}": {"topology.kubernetes.io/zone": f"zone-{zone}", _MARK: namespace} for zone in "abc"}


def _placed(namespace: str) -> Object:
    chosen = {"nodeSelector": {_MARK: namespace}}
    return dict.fromkeys(("controller", "synchronizer", "router", "poolDefaults"), chosen)


def _tls(files: Files) -> dict[str, str]:
    return {"tls.crt": files.cert.read_text(), "tls.key": files.key.read_text(), "ca.crt": files.ca.read_text()}


async def _make_namespace(api: Api, name: str, made: Mapping[str, Mapping[str, str]]) -> None:
    """A namespace with what the chart leaves to others: secrets (by name, with their text) and volumes."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    await api.create("/api/v1/namespaces", namespace)
    for secret_name, data in made.items():
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret_name}, "data": encoded}
        await api.create(f"/api/v1/namespaces/{name}/secrets", secret)
    size = {"storage": "1Gi"}
    for claimed in _CLAIMS:
        await _make_volume(api, name, claimed, size)
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": size}, "storageClassName": ""}
    artifacts = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "artifacts"}, "spec": claim}
    await api.create(f"/api/v1/namespaces/{name}/persistentvolumeclaims", artifacts)


async def _make_volume(api: Api, namespace: str, claim: str, size: Object) -> None:
    """A volume for one claim. The kubelet keeps the files; the path is only there because a volume has one."""
    spec = {
        "capacity": size,
        "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim},
        "hostPath": {"path": f"/e2e/{namespace}/{claim}"},
    }
    metadata = {"name": f"{namespace}-{claim}", "labels": {_MARK: namespace}}
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}
    try:
        await api.create("/api/v1/persistentvolumes", volume)
    except Refused as refusal:
        if refusal.code != 404:  # the fake API server binds no claims and needs no volumes
            raise


async def _remove(api: Api, namespace: str) -> None:
    """Leave a cluster that outlives the test as it was."""
    for claim in _CLAIMS:
        await api.delete(f"/api/v1/persistentvolumes/{namespace}-{claim}")
    await api.delete(f"/api/v1/namespaces/{namespace}")


def _over(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Object:
    """`changes` laid over `values`, member by member."""
    result = dict(values)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = _over(result[name], value) if both else value
    return result
