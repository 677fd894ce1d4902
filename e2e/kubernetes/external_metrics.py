"""Kubernetes' API server told by the chart that the controllers answer for external.metrics.k8s.io.

In a cluster the APIService leads to the chart's service. Here the API server cannot reach a service's cluster address,
and endpoints may not be on loopback: so the service is made one of type ExternalName, whose name is the address of the
forwarder that stands for it. The request, its certificates, its path and who may make it are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import yaml

from e2e.kubernetes.api import Api, Object, Refused, open_api
from e2e.kubernetes.installation import EXTERNAL_METRICS, RELEASE, Installation

GROUP = "external.metrics.k8s.io"
METRIC = "berth_job_desired_replicas"
READER, STRANGER = "reader", "stranger"
"""Service accounts of the namespace: the chart's values name the first."""
_HPA: Object = {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}
_LIMIT_S = 60.0


@asynccontextmanager
async def external_metrics(berth: Installation) -> AsyncIterator[None]:
    """HPAs of the cluster are answered by the release's controllers while the context is open."""
    accounts = f"/api/v1/namespaces/{berth.namespace}/serviceaccounts"
    for name in (READER, STRANGER):
        await berth.api.apply(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    before = {run.uid for run in berth.of("controller")}
    reader = {"kind": "ServiceAccount", "name": READER, "namespace": berth.namespace}
    try:
        # Whom to believe, and who believes us, the chart reads from the cluster.
        await berth.upgrade({"externalMetrics": {"enabled": True, "readers": [_HPA, reader]}})
        await berth.renewed("controller", before, 1)
        address = berth.service(EXTERNAL_METRICS)
        service = f"/api/v1/namespaces/{berth.namespace}/services/{RELEASE}-{EXTERNAL_METRICS}"
        await berth.api.patch(service, {"spec": {"type": "ExternalName", "externalName": address}})
        await _available(berth.api)
        yield
    finally:
        # Also where something failed: an API that does not answer holds up the end of every namespace.
        berth.values.pop("externalMetrics")
        await berth.deploy()


async def read_as(berth: Installation, account: str, job: str) -> list[Object]:
    """What a service account of the namespace is told of a job. Raises `Refused`."""
    path = f"/api/v1/namespaces/{berth.namespace}/serviceaccounts/{account}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = (await berth.api.create(path, request))["status"]["token"]
    kubeconfig = berth.folder / f"{account}.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(berth.api.access.document(token, berth.namespace)))
    async with open_api(kubeconfig) as api:
        found = await api.get(_values(berth.namespace), labelSelector=f"job={job}")
    items: list[Object] = found["items"]
    return items


def _values(namespace: str) -> str:
    return f"/apis/{GROUP}/v1beta1/namespaces/{namespace}/{METRIC}"


async def _available(api: Api) -> None:
    """Wait until the API server answers for the group by asking the controller."""
    problem = ""
    try:
        async with asyncio.timeout(_LIMIT_S):
            while True:
                try:
                    await api.get(_values("default"))
                except Refused as refusal:
                    problem = str(refusal)
                    await asyncio.sleep(0.2)
                else:
                    return
    except TimeoutError:
        api_service = f"/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.{GROUP}"
        status = (await api.get(api_service)).get("status")
        raise AssertionError(f"the external metrics API does not answer: {problem}; {status}") from None
