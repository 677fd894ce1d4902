"""Kubernetes' API server told that the controller answers for external.metrics.k8s.io, as an operator would do it.

In a cluster the APIService names the service itself. Here the API server cannot reach a service's cluster address, and
endpoints may not be on loopback: so the APIService names one of type ExternalName, whose name is the address of the
forwarder that stands for the service. The request, its certificates and its path are the same.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from e2e.kubernetes.api import Api, Object, Refused
from e2e.kubernetes.installation import EXTERNAL_METRICS, RELEASE, Installation

GROUP = "external.metrics.k8s.io"
METRIC = "berth_job_desired_replicas"
_PORT = 6443
_LIMIT_S = 60.0
_API_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
_CA = "front-proxy-ca.crt"


@asynccontextmanager
async def external_metrics(berth: Installation) -> AsyncIterator[None]:
    """HPAs of the cluster are answered by the release's controller while the context is open."""
    plane = berth.cluster.plane
    assert plane is not None
    authority = base64.b64encode(plane.front_proxy_ca.read_bytes()).decode()
    await berth.api.patch(f"/api/v1/namespaces/{berth.namespace}/secrets/tls", {"data": {_CA: authority}})
    before = {run.uid for run in berth.of("controller")}
    settings = {
        "BERTH_EXTERNAL_METRICS_ADDRESS": f"$(POD_IP):{_PORT}",
        "BERTH_EXTERNAL_METRICS_CLIENT_CA": f"/etc/berth/tls/{_CA}",
    }
    await berth.upgrade({"controller": {"settings": settings}})
    await berth.renewed("controller", before, 1)
    await _register(berth)
    try:
        await _available(berth.api)
        yield
    finally:
        await berth.api.delete(f"{_API_SERVICES}/v1beta1.{GROUP}")
    berth.values["controller"].pop("settings")
    await berth.deploy()


async def _register(berth: Installation) -> None:
    services = f"/api/v1/namespaces/{berth.namespace}/services"
    ports = [{"name": "https", "port": _PORT, "targetPort": _PORT}]
    selector = {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": "controller"}
    inside = {"selector": selector, "ports": ports}
    await berth.api.apply(services, _service(f"{EXTERNAL_METRICS}-pods", inside))
    address = berth.kubelet.addresses.service((berth.namespace, f"{EXTERNAL_METRICS}-pods"))
    await berth.api.apply(services, _service(EXTERNAL_METRICS, {"type": "ExternalName", "externalName": address}))
    spec = {
        "group": GROUP,
        "version": "v1beta1",
        "service": {"namespace": berth.namespace, "name": EXTERNAL_METRICS, "port": _PORT},
        "caBundle": base64.b64encode(berth.certificates.ca.read_bytes()).decode(),
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    metadata = {"name": f"v1beta1.{GROUP}"}
    await berth.api.apply(
        _API_SERVICES,
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": metadata, "spec": spec},
    )


async def _available(api: Api) -> None:
    """Wait until the API server answers for the group by asking the controller."""
    problem = ""
    try:
        async with asyncio.timeout(_LIMIT_S):
            while True:
                try:
                    await api.get(f"/apis/{GROUP}/v1beta1/namespaces/default/{METRIC}")
                except Refused as refusal:
                    problem = str(refusal)
                    await asyncio.sleep(0.2)
                else:
                    return
    except TimeoutError:
        status = (await api.get(f"{_API_SERVICES}/v1beta1.{GROUP}")).get("status")
        raise AssertionError(f"the external metrics API does not answer: {problem}; {status}") from None


def _service(name: str, spec: Object) -> Object:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
