"""One suite for the fake API server and for a real one.

Every test that takes `api` runs against the fake, and against the cluster of KUBECONFIG where that is set. Each gets a
namespace of its own and touches nothing outside it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config

from berth.settings import environment
from doubles.kubernetes.kinds import BY_NAME, Object
from doubles.kubernetes.server import FakeKubernetes

REAL = environment().get("KUBECONFIG", "")


class Answer(NamedTuple):
    status: int
    body: Any
    headers: httpx.Headers


class Stream:
    """A watch as its client sees it."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Object:
        """The next event. Raises `StopAsyncIteration` at the end of the stream."""
        async with asyncio.timeout(20):
            found: Object = json.loads(await anext(self._lines))
            return found

    async def names(self, count: int) -> list[tuple[str, str]]:
        """Types and names of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in events]

    async def rest(self) -> list[Object]:
        async with asyncio.timeout(20):
            return [json.loads(line) async for line in self._lines]


class Api:
    """Requests in the test's namespace, by nothing but HTTP."""

    def __init__(self, http: httpx.AsyncClient, namespace: str, kubeconfig: Path) -> None:
        self.http = http
        self.namespace = namespace
        self.kubeconfig = kubeconfig

    def path(self, kind: str, name: str = "", subresource: str = "") -> str:
        found = BY_NAME[kind]
        parts = [f"/apis/{found.group}" if found.group else "/api", found.version]
        parts += ["namespaces", self.namespace] if found.namespaced else []
        return "/".join([*parts, found.plural, *filter(None, (name, subresource))])

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        **query: str,
    ) -> Answer:
        content = None if body is None else json.dumps(body)
        headers = {"content-type": content_type} if content else {}
        response = await self.http.request(method, path, content=content, headers=headers, params=query)
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return Answer(response.status_code, response.json() if is_json else response.text, response.headers)

    async def create(self, kind: str, name: str, **content: Any) -> Object:
        """Create an object that must not be refused. `content` may hold metadata."""
        found = BY_NAME[kind]
        metadata = {"name": name} | content.pop("metadata", {})
        value = {"apiVersion": found.api_version, "kind": found.kind, "metadata": metadata} | content
        answer = await self.ask("POST", self.path(kind), value)
        assert answer.status == 201, answer.body
        created: Object = answer.body
        return created

    async def get(self, kind: str, name: str) -> Object:
        answer = await self.ask("GET", self.path(kind, name))
        assert answer.status == 200, answer.body
        found: Object = answer.body
        return found

    async def patch(self, kind: str, name: str, patch: Any, subresource: str = "") -> Answer:
        return await self.ask("PATCH", self.path(kind, name, subresource), patch, "application/merge-patch+json")

    async def version(self, kind: str = "configmaps") -> str:
        """The resourceVersion of a list now."""
        answer = await self.ask("GET", self.path(kind))
        return str(answer.body["metadata"]["resourceVersion"])

    @asynccontextmanager
    async def watch(self, kind: str, name: str = "", **query: str) -> AsyncIterator[Stream]:
        params = {"watch": "1", **query}
        async with self.http.stream("GET", self.path(kind, name), params=params) as response:
            assert response.status_code == 200, await response.aread()
            yield Stream(response)


def pod_spec(**fields: Any) -> Object:
    return {"containers": [{"name": "main", "image": "example.test/main:1"}]} | fields


def workload_spec(replicas: int = 0, app: str = "web", **fields: Any) -> Object:
    template = {"metadata": {"labels": {"app": app}}, "spec": pod_spec()}
    return {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template} | fields


async def connect(kubeconfig: Path) -> httpx.AsyncClient:
    """A client with the address and the credentials of a kubeconfig."""
    configuration = Configuration()
    await load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    verify: ssl.SSLContext | bool = True
    if configuration.host.startswith("https"):
        verify = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            verify.load_cert_chain(configuration.cert_file, configuration.key_file)
    token = configuration.api_key.get("BearerToken") or configuration.api_key.get("authorization")
    headers = {"authorization": token} if token else {}
    return httpx.AsyncClient(base_url=configuration.host, verify=verify, headers=headers, timeout=20)


@asynccontextmanager
async def in_own_namespace(kubeconfig: Path) -> AsyncIterator[Api]:
    name = f"berth-test-{uuid.uuid4().hex[:10]}"
    async with await connect(kubeconfig) as http:
        api = Api(http, name, kubeconfig)
        await api.create("namespaces", name)
        # Admission of pods needs it, and the controller that makes it is slow or not there.
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        await api.ask("POST", api.path("serviceaccounts"), account)
        try:
            yield api
        finally:
            await api.ask("DELETE", api.path("namespaces", name))


@pytest.fixture
async def fake() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes() as server:
        yield server


@pytest.fixture(params=["fake", *(["real"] if REAL else [])])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    if request.param == "real":
        async with in_own_namespace(Path(REAL)) as api:
            yield api
        return
    async with (
        FakeKubernetes(workloads=True) as server,
        in_own_namespace(server.kubeconfig(tmp_path / "kubeconfig")) as api,
    ):
        yield api


@pytest.fixture
async def fake_api(fake: FakeKubernetes, tmp_path: Path) -> AsyncIterator[Api]:
    """Requests to `fake`."""
    async with in_own_namespace(fake.kubeconfig(tmp_path / "kubeconfig")) as api:
        yield api


@pytest.fixture
def pods() -> Any:
    """Makes pod specs."""
    return pod_spec


@pytest.fixture
def workloads() -> Any:
    """Makes specs of Deployments and StatefulSets."""
    return workload_spec
