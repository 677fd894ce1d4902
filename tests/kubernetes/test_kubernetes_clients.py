"""The clients that operators and Berth use, against the fake: kubectl where it is installed, and the Python client."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from kubernetes.aio import client, watch
from kubernetes.aio.config import load_kube_config

from doubles.kubernetes.kinds import Object
from doubles.kubernetes.server import FakeKubernetes

KUBECTL = shutil.which("kubectl")


class Operator(Protocol):
    async def apply(self, value: Object) -> None: ...
    async def replicas(self, name: str) -> int: ...
    async def scale(self, name: str, replicas: int) -> None: ...
    async def set_image(self, name: str, image: str) -> None: ...
    async def wait_rolled_out(self, name: str) -> None: ...
    async def drain(self, node: str) -> None: ...
    async def delete(self, name: str) -> None: ...


class Kubectl:
    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    async def __call__(self, *arguments: str, given: str = "") -> str:
        process = await asyncio.create_subprocess_exec(
            str(KUBECTL),
            f"--kubeconfig={self._kubeconfig}",
            f"--cache-dir={self._kubeconfig.parent / 'cache'}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(given.encode()), 60)
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def apply(self, value: Object) -> None:
        await self("apply", "--validate=false", "-f", "-", given=json.dumps(value))

    async def replicas(self, name: str) -> int:
        return int(await self("get", "deployment", name, "-o", "jsonpath={.status.readyReplicas}") or 0)

    async def scale(self, name: str, replicas: int) -> None:
        await self("scale", f"deployment/{name}", f"--replicas={replicas}")

    async def set_image(self, name: str, image: str) -> None:
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}}
        await self("patch", "deployment", name, "-p", json.dumps(patch))

    async def wait_rolled_out(self, name: str) -> None:
        await self("rollout", "status", f"deployment/{name}", "--timeout=30s")

    async def drain(self, node: str) -> None:
        await self("drain", node, "--timeout=30s", "--ignore-daemonsets")

    async def delete(self, name: str) -> None:
        await self("delete", "deployment", name, "--wait", "--cascade=foreground", "--timeout=30s")


class PythonClient:
    def __init__(self, api: client.ApiClient) -> None:
        self._apps: Any = client.AppsV1Api(api)
        self._core: Any = client.CoreV1Api(api)

    async def apply(self, value: Object) -> None:
        await self._apps.create_namespaced_deployment("default", value)

    async def replicas(self, name: str) -> int:
        found = await self._apps.read_namespaced_deployment(name, "default")
        return int(found.status.ready_replicas or 0)

    async def scale(self, name: str, replicas: int) -> None:
        await self._apps.patch_namespaced_deployment_scale(name, "default", {"spec": {"replicas": replicas}})

    async def set_image(self, name: str, image: str) -> None:
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}}
        await self._apps.patch_namespaced_deployment(name, "default", patch)

    async def wait_rolled_out(self, name: str) -> None:
        list_ = self._apps.list_namespaced_deployment
        query = {"field_selector": f"metadata.name={name}", "timeout_seconds": 30}
        async with watch.Watch().stream(list_, "default", **query) as stream:
            async for event in stream:
                found = event["object"]
                status, desired = found.status, found.spec.replicas
                counts = (status.updated_replicas or 0, status.replicas or 0, status.available_replicas or 0)
                if status.observed_generation == found.metadata.generation and counts == (desired,) * 3:
                    return
        raise AssertionError("not rolled out")

    async def drain(self, node: str) -> None:
        await self._core.patch_node(node, {"spec": {"unschedulable": True}})
        pods = await self._core.list_pod_for_all_namespaces(field_selector=f"spec.nodeName={node}")
        for pod in pods.items:
            metadata = {"name": pod.metadata.name, "namespace": pod.metadata.namespace}
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
            await self._core.create_namespaced_pod_eviction(pod.metadata.name, pod.metadata.namespace, eviction)

    async def delete(self, name: str) -> None:
        await self._apps.delete_namespaced_deployment(name, "default", propagation_policy="Background")


@pytest.fixture(params=["python", *(["kubectl"] if KUBECTL else [])])
async def operator(request: pytest.FixtureRequest, cluster: FakeKubernetes, tmp_path: Path) -> AsyncIterator[Operator]:
    kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
    if request.param == "kubectl":
        yield Kubectl(kubeconfig)
        return
    configuration = client.Configuration()
    await load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with client.ApiClient(configuration) as api:
        yield PythonClient(api)


async def test_the_life_of_a_deployment(operator: Operator, cluster: FakeKubernetes, workloads: Any) -> None:
    spec = workloads(replicas=2)
    await operator.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
    await operator.wait_rolled_out("web")
    assert await operator.replicas("web") == 2
    await operator.scale("web", 6)
    await operator.wait_rolled_out("web")
    assert await operator.replicas("web") == 6
    await operator.set_image("web", "example.test/main:2")
    await operator.wait_rolled_out("web")
    assert {pod["spec"]["containers"][0]["image"] for pod in cluster.items("pods")} == {"example.test/main:2"}
    await operator.drain("node-0")
    await operator.wait_rolled_out("web")
    assert {pod["spec"]["nodeName"] for pod in cluster.items("pods")} == {"node-1", "node-2"}
    await operator.delete("web")
    await cluster.until(lambda: not cluster.items("pods"))


async def test_it_runs_as_a_process(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    arguments = ("-m", "doubles.kubernetes", "--port", "0", "--kubeconfig", str(kubeconfig), "--nodes", "2")
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        configuration = client.Configuration()
        await load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
        assert configuration.host == line["url"]
        async with client.ApiClient(configuration) as api:
            core: Any = client.CoreV1Api(api)
            nodes = await core.list_node()
        assert [node.metadata.name for node in nodes.items] == ["node-0", "node-1"]
    finally:
        process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 0
