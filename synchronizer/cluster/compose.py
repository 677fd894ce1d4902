"""What a synchronizer uses of its cluster, put together from its settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from berth.errors import Unavailable
from synchronizer.cluster.api import KubernetesApi
from synchronizer.cluster.discovery import KubernetesDiscovery
from synchronizer.cluster.lease import EpochFile, KubernetesLease
from synchronizer.cluster.metrics import ClusterMetrics
from synchronizer.cluster.pools import KubernetesPools
from synchronizer.cluster.reflector import Reflector
from synchronizer.controllers.client import Controllers
from synchronizer.core.leadership import Leadership
from synchronizer.core.pods import read_pod, selector
from synchronizer.core.pools import reader
from synchronizer.settings import SynchronizerSettings
from synchronizer.surroundings.ports import Discovery, Pools, Surroundings

_WORKLOADS = {"deployments": "deployment", "statefulsets": "statefulset"}


@asynccontextmanager
async def open_cluster(
    settings: SynchronizerSettings,
    controllers: Controllers,
    disk: EpochFile,
    registry: CollectorRegistry,
    *,
    otherwise: Callable[[], Discovery],
) -> AsyncIterator[Surroundings]:
    """What the settings ask for; `otherwise` finds the replicas if not the cluster. Raises `SettingsError` if the
    cluster's configuration cannot be used."""
    metrics = ClusterMetrics(registry)
    api = KubernetesApi(settings.kubernetes_config, metrics)
    await api.open()
    namespace = settings.kubernetes_namespace or api.namespace

    def lease(leadership: Leadership) -> KubernetesLease:
        async def floor() -> int:
            return max(leadership.fence, await _controllers_epoch(controllers, settings))

        return KubernetesLease(api, namespace, disk, floor)

    try:
        found, pools = (
            _watches(api, namespace, settings, metrics) if settings.discovery == "kubernetes" else (otherwise(), None)
        )
        yield Surroundings(found, lease if settings.lease == "kubernetes" else None, pools)
    finally:
        await api.close()


def _watches(
    api: KubernetesApi, namespace: str, settings: SynchronizerSettings, metrics: ClusterMetrics
) -> tuple[Discovery, Pools]:
    labels = selector(settings.cell)
    pods = Reflector(api, f"/api/v1/namespaces/{namespace}/pods", labels, read_pod, metrics)
    folder = f"/apis/apps/v1/namespaces/{namespace}"
    workloads = {
        plural: Reflector(api, f"{folder}/{plural}", labels, reader(kind), metrics)
        for plural, kind in _WORKLOADS.items()
    }
    pools = KubernetesPools(api, folder, workloads, metrics, may_scale=settings.kubernetes_scale)
    return KubernetesDiscovery(pods), pools


async def _controllers_epoch(controllers: Controllers, settings: SynchronizerSettings) -> int:
    """The last epoch that a controller knows of this cell; 0 if none answers soon. Giving up a lease that one does not
    have changes nothing, and is answered with it."""
    try:
        _, epoch, _ = await controllers.lease(
            settings.cell, settings.instance, settings.lease_ttl_s, release=True, timeout=settings.lease_ttl_s / 6
        )
    except Unavailable:
        return 0
    return epoch
