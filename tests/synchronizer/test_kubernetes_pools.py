"""Workloads as pools, and their scaling, against the fake API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from berth.model import DesiredJob, DesiredState, ObservedPool
from berth.reconcile import Backoff
from berth.states import Runtime
from doubles.kubernetes.server import FakeKubernetes
from doubles.news import News
from doubles.worker_pods import worker_pool
from synchronizer.cluster.api import ApiFailure, KubernetesApi
from synchronizer.cluster.metrics import ClusterMetrics
from synchronizer.cluster.pools import KubernetesPools
from synchronizer.cluster.reflector import Reflector
from synchronizer.core.pods import selector
from synchronizer.core.pools import reader

FOLDER = "/apis/apps/v1/namespaces/default"
FAST = Backoff(first=0.005, most=0.02)


def desired(generation: int = 1, **replicas: int | None) -> DesiredState:
    jobs = tuple(DesiredJob(name, Runtime.ONNXRUNTIME, (), count) for name, count in replicas.items())
    return DesiredState("c", generation, jobs)


class Lossy(KubernetesApi):
    """Loses the answer to one request of the method `losing`: what was asked is done."""

    losing = ""

    async def call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = await super().call(method, path, **more)
        if method == self.losing:
            self.losing = ""
            raise ApiFailure(0, "the answer is lost")
        return answer


class Leader:
    """A synchronizer's pools, as far as they matter here: whether it leads is said by the test."""

    def __init__(self, client: KubernetesApi, *, may_scale: bool = True) -> None:
        self.registry = CollectorRegistry()
        metrics = ClusterMetrics(self.registry)
        workloads = {
            f"{kind}s": Reflector(client, f"{FOLDER}/{kind}s", selector("c"), reader(kind), metrics, backoff=FAST)
            for kind in ("deployment", "statefulset")
        }
        self.pools = KubernetesPools(client, FOLDER, workloads, metrics, may_scale=may_scale)
        self.lease_left = 3.0
        self.asked = 0
        self.news = News()

    def ask(self) -> float:
        self.asked += 1
        self.news.tell()
        return self.lease_left

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"berth_{name}", labels) or 0.0

    async def sees(self, *pools: ObservedPool) -> None:
        await self.news.until(lambda: self.pools.observe() == pools)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Leader]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.pools.run(self.ask, self.news.tell))
            try:
                yield self
            finally:
                task.cancel()


@pytest.fixture
async def api() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes() as api:
        yield api


@pytest.fixture
async def client(api: FakeKubernetes, tmp_path: Path) -> AsyncIterator[Lossy]:
    client = Lossy(api.kubeconfig(tmp_path / "kubeconfig"), ClusterMetrics(CollectorRegistry()))
    await client.open()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        yield client


def replicas(api: FakeKubernetes, name: str, kind: str = "Deployment") -> Any:
    found = api.get(kind, "default", name)
    return found and found["spec"]["replicas"]


def writes(api: FakeKubernetes) -> int:
    return len(api.calls_of("patch", subresource="scale"))


async def turns() -> None:
    """Let whatever can go on without I/O go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_pools_are_seen_as_they_change(api: FakeKubernetes, client: KubernetesApi) -> None:
    leader = Leader(client)
    api.put(worker_pool("pool-a", "a", replicas=2, ready=1))
    api.put(worker_pool("pool-x", "x", cell="elsewhere"))
    assert leader.pools.observe() == ()
    async with leader.running():
        await leader.sees(ObservedPool("a", "deployment/pool-a", 2, 1))
        api.put(worker_pool("pool-b", "b", replicas=3, kind="StatefulSet"))
        await leader.sees(ObservedPool("a", "deployment/pool-a", 2, 1), ObservedPool("b", "statefulset/pool-b", 3, 0))
        api.delete("Deployment", "default", "pool-a")
        await leader.sees(ObservedPool("b", "statefulset/pool-b", 3, 0))


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
async def test_what_the_controller_asks_for_is_written_once(
    api: FakeKubernetes, client: KubernetesApi, kind: str
) -> None:
    api.put(worker_pool("pool-a", "a", replicas=2, kind=kind))
    leader = Leader(client)
    async with leader.running():
        await leader.sees(ObservedPool("a", f"{kind.lower()}/pool-a", 2, 0))
        for generation in range(1, 4):
            leader.pools.hear(desired(generation, a=5, other=None))
        await leader.sees(ObservedPool("a", f"{kind.lower()}/pool-a", 5, 0))
        leader.pools.hear(desired(4, a=5))
        leader.pools.hear(desired(5, a=0))
        await leader.sees(ObservedPool("a", f"{kind.lower()}/pool-a", 0, 0))
    assert writes(api) == 2
    assert leader.value("pool_scalings_total", job="a") == 2.0


async def test_without_a_word_of_the_controller_nothing_is_touched(api: FakeKubernetes, client: KubernetesApi) -> None:
    """`replicas` None: an operator, HPA or KEDA decides."""
    api.put(worker_pool("pool-a", "a", replicas=2))
    leader = Leader(client)
    async with leader.running():
        leader.pools.hear(desired(a=None))
        await leader.sees(ObservedPool("a", "deployment/pool-a", 2, 0))
        api.patch("Deployment", "default", "pool-a", {"spec": {"replicas": 7}})
        await leader.sees(ObservedPool("a", "deployment/pool-a", 7, 0))
    assert writes(api) == 0


async def test_where_it_may_not_scale_it_only_looks(api: FakeKubernetes, client: KubernetesApi) -> None:
    api.put(worker_pool("pool-a", "a", replicas=2))
    leader = Leader(client, may_scale=False)
    async with leader.running():
        leader.pools.hear(desired(a=5))
        await leader.sees(ObservedPool("a", "deployment/pool-a", 2, 0))
    assert leader.asked == writes(api) == 0


async def test_a_conflict_is_looked_at_again(api: FakeKubernetes, client: KubernetesApi) -> None:
    api.put(worker_pool("pool-a", "a", replicas=2))
    api.fault("conflict", "patch", "deployments", times=2)
    leader = Leader(client)
    async with leader.running():
        leader.pools.hear(desired(a=5))
        await leader.sees(ObservedPool("a", "deployment/pool-a", 5, 0))
    assert leader.value("pool_scalings_total", job="a") == 1.0


async def test_a_write_whose_answer_is_lost_is_not_done_twice(api: FakeKubernetes, client: Lossy) -> None:
    api.put(worker_pool("pool-a", "a", replicas=2))
    client.losing = "PATCH"
    leader = Leader(client)
    async with leader.running():
        leader.pools.hear(desired(a=5))
        await leader.sees(ObservedPool("a", "deployment/pool-a", 5, 0))
        assert client.losing == ""
        written = api.get("Deployment", "default", "pool-a")
        # Somebody scales by hand before the retry: what was lost must not come back over it.
        leader.pools.hear(desired(a=None))
        api.patch("Deployment", "default", "pool-a", {"spec": {"replicas": 8}})
        await leader.sees(ObservedPool("a", "deployment/pool-a", 8, 0))
    assert written is not None
    assert written["metadata"]["generation"] == 2, "created, and scaled once"
    assert replicas(api, "pool-a") == 8


async def test_a_write_that_did_not_arrive_is_done_again(api: FakeKubernetes, client: KubernetesApi) -> None:
    api.put(worker_pool("pool-a", "a", replicas=2))
    api.fault("reset", "patch", "deployments")
    leader = Leader(client)
    async with leader.running():
        leader.pools.hear(desired(a=5))
        await leader.sees(ObservedPool("a", "deployment/pool-a", 5, 0))
    assert writes(api) == 2


async def test_only_who_holds_the_lease_writes(api: FakeKubernetes, client: KubernetesApi) -> None:
    api.put(worker_pool("pool-a", "a", replicas=2))
    leader = Leader(client)
    leader.lease_left = 0.0
    async with leader.running():
        leader.pools.hear(desired(a=5))
        await leader.news.until(lambda: leader.asked >= 2)
        assert writes(api) == 0
        assert replicas(api, "pool-a") == 2
        leader.lease_left = 3.0
        await leader.sees(ObservedPool("a", "deployment/pool-a", 5, 0))


async def test_a_deposed_leader_does_not_undo_what_its_successor_wrote(
    api: FakeKubernetes, client: KubernetesApi
) -> None:
    """It still believes to lead, and its watch is late: what it decides is based on the workload as it was before."""
    api.put(worker_pool("pool-a", "a", replicas=2))
    api.fault("slow", "watch", "deployments", delay_s=3600.0)
    old, new = Leader(client), Leader(client)
    async with old.running():
        await old.sees(ObservedPool("a", "deployment/pool-a", 2, 0))
        await api.until(lambda: api.watches("deployments") == 1)
        async with new.running():
            new.pools.hear(desired(2, a=9))
            await new.sees(ObservedPool("a", "deployment/pool-a", 9, 0))
            written = writes(api)
            old.pools.hear(desired(1, a=5))
            await api.until(lambda: writes(api) >= written + 2)
            assert replicas(api, "pool-a") == 9
            assert old.pools.observe() == (ObservedPool("a", "deployment/pool-a", 2, 0),)
    assert old.value("pool_scalings_total", job="a") == 0.0


async def test_the_lease_may_be_lost_while_a_write_waits_for_its_turn(
    api: FakeKubernetes, client: KubernetesApi
) -> None:
    api.put(worker_pool("pool-a", "a", replicas=2))
    leader = Leader(client)
    async with leader.running():
        leader.pools.hear(desired(1, a=5))
        await leader.sees(ObservedPool("a", "deployment/pool-a", 5, 0))
        leader.pools.hear(desired(2, a=6))
        leader.lease_left = 0.0
        asked = leader.asked
        await leader.news.until(lambda: leader.asked >= asked + 3)
    assert replicas(api, "pool-a") == 5


async def test_no_workload_and_several_are_said(api: FakeKubernetes, client: KubernetesApi) -> None:
    leader = Leader(client)
    blocked = leader.value
    async with leader.running():
        await api.until(lambda: api.watches("deployments") == api.watches("statefulsets") == 1)
        leader.pools.hear(desired(a=5))
        await turns()
        assert blocked("pool_blocked", job="a", reason="missing") == 1.0
        api.put(worker_pool("one", "a"))
        await leader.sees(ObservedPool("a", "deployment/one", 5, 0))
        assert blocked("pool_blocked", job="a", reason="missing") == 0.0
        api.put(worker_pool("two", "a", kind="StatefulSet"))
        await leader.sees(ObservedPool("a", "deployment/one,statefulset/two", 7, 0))
        leader.pools.hear(desired(a=6))
        await turns()
        assert blocked("pool_blocked", job="a", reason="ambiguous") == 1.0
        assert (replicas(api, "one"), replicas(api, "two", "StatefulSet")) == (5, 2)
        api.delete("Deployment", "default", "one")
        await leader.sees(ObservedPool("a", "statefulset/two", 6, 0))
        await turns()
        assert blocked("pool_blocked", job="a", reason="ambiguous") == 0.0


async def test_a_role_that_forbids_it_is_said(api: FakeKubernetes, client: KubernetesApi) -> None:
    api.put(worker_pool("pool-a", "a"))
    api.fault("status", "patch", "deployments", code=403, times=0)
    leader = Leader(client)
    async with leader.running():
        leader.pools.hear(desired(a=5))
        await api.until(lambda: writes(api) >= 2)
        assert leader.value("pool_blocked", job="a", reason="forbidden") == 1.0
        api.faults.clear()
        await leader.sees(ObservedPool("a", "deployment/pool-a", 5, 0))
        leader.pools.hear(desired(a=5))
        await turns()
        assert leader.value("pool_blocked", job="a", reason="forbidden") == 0.0


async def test_while_the_api_is_away_pools_stay_as_they_were(api: FakeKubernetes, client: KubernetesApi) -> None:
    api.put(worker_pool("pool-a", "a", replicas=2))
    leader = Leader(client)
    async with leader.running():
        await leader.sees(ObservedPool("a", "deployment/pool-a", 2, 0))
        api.fault("status", times=0, code=503)
        api.reset_watches()
        leader.pools.hear(desired(a=5))
        before = len(api.calls)
        await api.until(lambda: len(api.calls) > before + 6)
        assert leader.pools.observe() == (ObservedPool("a", "deployment/pool-a", 2, 0),)
        api.faults.clear()
        await leader.sees(ObservedPool("a", "deployment/pool-a", 5, 0))
