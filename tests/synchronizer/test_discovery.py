"""What every discovery does, whether it reads a folder or asks Kubernetes; then what is Kubernetes' own."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
from prometheus_client import CollectorRegistry

from berth.model import ReplicaAddress
from berth.reconcile import Backoff
from berth.registry import LocalRegistry
from doubles.kubernetes.server import FakeKubernetes
from doubles.news import News
from doubles.worker_pods import worker_pod
from synchronizer.cluster.api import KubernetesApi
from synchronizer.cluster.discovery import KubernetesDiscovery
from synchronizer.cluster.metrics import ClusterMetrics
from synchronizer.cluster.reflector import Reflector
from synchronizer.core.events import Discovered
from synchronizer.core.pods import Pod, read_pod, selector
from synchronizer.surroundings.ports import Discovery
from synchronizer.surroundings.registry import RegistryDiscovery


class Source(Protocol):
    """A place where replicas are found, and its hands behind the scenes."""

    discovery: Discovery

    def appear(self, name: str, *, job: str = "j", cell: str = "c", zone: str = "") -> None: ...

    def restart(self, name: str) -> None:
        """Another process of the same name, somewhere else."""

    def vanish(self, name: str) -> None: ...

    async def go_away(self) -> None:
        """The source cannot be asked, and has been asked in vain."""

    def come_back(self) -> None: ...


class Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._registry = LocalRegistry(path)
        self._entries: dict[str, ReplicaAddress] = {}
        self._asked = News()
        self.discovery: Discovery = RegistryDiscovery(self._registry, "c", interval=0.005)

    def appear(self, name: str, *, job: str = "j", cell: str = "c", zone: str = "") -> None:
        self._entries[name] = ReplicaAddress(name, job, cell, "1", "h:1", "h:2", "h:3", zone)
        self._registry.announce(self._entries[name])

    def restart(self, name: str) -> None:
        self._entries[name] = dataclasses.replace(self._entries[name], incarnation="2", control="h:9")
        self._registry.announce(self._entries[name])

    def vanish(self, name: str) -> None:
        self._registry.withdraw(self._entries.pop(name))

    async def go_away(self) -> None:
        self._path.rename(self._path.with_name("elsewhere"))
        # Its own reading meets the folder's absence too: a read after this one has begun after the folder was away.
        with pytest.raises(OSError, match="No such file"):
            await asyncio.to_thread(self._registry.read)

    def come_back(self) -> None:
        self._path.with_name("elsewhere").rename(self._path)


class Cluster:
    def __init__(self, api: FakeKubernetes, discovery: Discovery) -> None:
        self.api = api
        self.discovery = discovery

    def appear(self, name: str, *, job: str = "j", cell: str = "c", zone: str = "") -> None:
        self.api.put(worker_pod(name, job, cell, zone=zone))

    def restart(self, name: str) -> None:
        self.api.delete("Pod", "default", name, grace_s=0)
        self.api.put(worker_pod(name, control=9009))

    def vanish(self, name: str) -> None:
        self.api.delete("Pod", "default", name, grace_s=0)

    async def go_away(self) -> None:
        self.api.fault("status", resource="pods", times=0, code=503)
        self.api.reset_watches()
        asked = len(self.api.calls)
        await self.api.until(lambda: len(self.api.calls) > asked + 2)

    def come_back(self) -> None:
        self.api.faults.clear()


@asynccontextmanager
async def connected(api: FakeKubernetes, folder: Path, metrics: ClusterMetrics) -> AsyncIterator[KubernetesApi]:
    client = KubernetesApi(api.kubeconfig(folder / "kubeconfig"), metrics)
    await client.open()
    try:
        yield client
    finally:
        await client.close()


def pods_of(
    client: KubernetesApi, metrics: ClusterMetrics, *, lasts: float = 60.0, grace: float = 5.0
) -> Reflector[Pod]:
    return Reflector(
        client,
        "/api/v1/namespaces/default/pods",
        selector("c"),
        read_pod,
        metrics,
        page=2,
        lasts=lasts,
        grace=grace,
        backoff=Backoff(first=0.005, most=0.02),
    )


@pytest.fixture(params=["registry", "kubernetes"])
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Source]:
    if request.param == "registry":
        yield Folder(tmp_path / "registry")
        return
    metrics = ClusterMetrics(CollectorRegistry())
    async with FakeKubernetes() as api, connected(api, tmp_path, metrics) as client:
        yield Cluster(api, KubernetesDiscovery(pods_of(client, metrics)))


class Follower:
    """Everything that a discovery said, in order."""

    def __init__(self) -> None:
        self.said: list[Discovered] = []
        self.news = News()

    async def follow(self, discovery: Discovery) -> None:
        async for found in discovery.watch():
            self.said.append(found)
            self.news.tell()

    @property
    def names(self) -> set[str] | None:
        return set(self.said[-1].addresses) if self.said else None

    async def knows(self, *names: str) -> None:
        await self.news.until(lambda: self.names == set(names))

    async def until(self, true: Callable[[], bool]) -> None:
        await self.news.until(true)


@asynccontextmanager
async def following(discovery: Discovery) -> AsyncIterator[Follower]:
    follower = Follower()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follower.follow(discovery))
        try:
            yield follower
        finally:
            task.cancel()


async def test_what_is_there_is_said_at_once_even_if_it_is_nothing(source: Source) -> None:
    async with following(source.discovery) as follower:
        await follower.knows()
    source.appear("w1")
    source.appear("w2")
    source.appear("w3", job="other", zone="z1")
    async with following(source.discovery) as follower:
        await follower.knows("w1", "w2", "w3")
        assert len(follower.said) == 1, "complete from the first"
        found = follower.said[0].addresses["w3"]
        assert (found.replica, found.job, found.cell, found.zone) == ("w3", "other", "c", "z1")


async def test_replicas_appear_and_vanish(source: Source) -> None:
    async with following(source.discovery) as follower:
        await follower.knows()
        source.appear("w1")
        await follower.knows("w1")
        source.appear("w2")
        await follower.knows("w1", "w2")
        source.vanish("w1")
        await follower.knows("w2")


async def test_another_process_of_the_same_name_is_another_address(source: Source) -> None:
    source.appear("w1")
    async with following(source.discovery) as follower:
        await follower.knows("w1")
        first = follower.said[0].addresses["w1"]
        source.restart("w1")
        await follower.until(lambda: follower.said[-1].addresses.get("w1", first) != first)
        second = follower.said[-1].addresses["w1"]
        assert second.incarnation != first.incarnation
        assert second.control.endswith("9")


async def test_other_cells_are_not_seen(source: Source) -> None:
    source.appear("w1", cell="elsewhere")
    async with following(source.discovery) as follower:
        await follower.knows()
        source.appear("w2", cell="elsewhere")
        source.appear("w3")
        await follower.knows("w3")
    assert all("w1" not in said.addresses and "w2" not in said.addresses for said in follower.said)


async def test_while_the_source_is_away_what_was_known_stays_known(source: Source) -> None:
    source.appear("w1")
    async with following(source.discovery) as follower:
        await follower.knows("w1")
        await source.go_away()
        assert len(follower.said) == 1
        source.come_back()
        source.appear("w2")
        await follower.knows("w1", "w2")
    assert all("w1" in said.addresses for said in follower.said)


async def test_nothing_is_said_twice(source: Source) -> None:
    async with following(source.discovery) as follower:
        for name in ("w1", "w2", "w3"):
            source.appear(name)
            await follower.until(lambda name=name: name in (follower.names or ()))  # type: ignore[misc]
    assert all(one != other for one, other in zip(follower.said, follower.said[1:], strict=False))


# --- Kubernetes' own ------------------------------------------------------------------------------------------------


class Stage:
    def __init__(
        self, api: FakeKubernetes, client: KubernetesApi, registry: CollectorRegistry, metrics: ClusterMetrics
    ) -> None:
        self.api, self.client, self._registry, self.metrics = api, client, registry, metrics

    def discovery(self, *, lasts: float = 60.0, grace: float = 5.0) -> KubernetesDiscovery:
        return KubernetesDiscovery(pods_of(self.client, self.metrics, lasts=lasts, grace=grace))

    def value(self, name: str, **labels: str) -> float:
        return self._registry.get_sample_value(f"berth_{name}", {"collection": "pods", **labels}) or 0.0


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    registry = CollectorRegistry()
    metrics = ClusterMetrics(registry)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(FakeKubernetes())
        client = await stack.enter_async_context(connected(api, tmp_path, metrics))
        yield Stage(api, client, registry, metrics)


async def test_a_pod_is_a_replica_while_its_container_runs(stage: Stage) -> None:
    async with following(stage.discovery()) as follower:
        await follower.knows()
        stage.api.put(worker_pod("w1", running=False))
        stage.api.put(worker_pod("w2"))
        await follower.knows("w2")
        stage.api.put(worker_pod("w1"))
        await follower.knows("w1", "w2")
        stage.api.put(worker_pod("w2", running=False))
        await follower.knows("w1")


async def test_a_pod_that_is_being_deleted_is_leaving_until_it_is_gone(stage: Stage) -> None:
    stage.api.put(worker_pod("w1"))
    stage.api.put(worker_pod("w2"))
    async with following(stage.discovery()) as follower:
        await follower.knows("w1", "w2")
        stage.api.delete("Pod", "default", "w1", grace_s=30)
        await follower.until(lambda: follower.said[-1].leaving == {"w1"})
        assert follower.names == {"w1", "w2"}
        stage.api.delete("Pod", "default", "w1", grace_s=0)
        await follower.knows("w2")
        assert follower.said[-1].leaving == frozenset()


async def test_a_list_of_many_pages_is_one_set(stage: Stage) -> None:
    names = [f"w{number}" for number in range(7)]
    for name in names:
        stage.api.put(worker_pod(name))
    async with following(stage.discovery()) as follower:
        await follower.knows(*names)
        assert len(follower.said) == 1
    assert len(stage.api.calls_of("list", "pods")) == 4


async def test_a_list_that_is_gone_before_its_last_page_begins_again(stage: Stage) -> None:
    stage.api.fault("expired", "list", "pods")
    for number in range(5):
        stage.api.put(worker_pod(f"w{number}"))
    async with following(stage.discovery()) as follower:
        await follower.knows("w0", "w1", "w2", "w3", "w4")
        assert len(follower.said) == 1
    assert stage.value("discovery_watch_errors_total", reason="gone") == 1.0


@pytest.mark.parametrize("how", ["expire", "reset"])
async def test_a_watch_that_breaks_is_followed_by_a_list(stage: Stage, how: str) -> None:
    stage.api.put(worker_pod("w1"))
    async with following(stage.discovery()) as follower:
        await follower.knows("w1")
        await stage.api.until(lambda: stage.api.watches("pods") == 1)
        (stage.api.expire_watches if how == "expire" else stage.api.reset_watches)("pods")
        await stage.api.until(lambda: len(stage.api.calls_of("watch", "pods")) == 2)
        stage.api.put(worker_pod("w2"))
        await follower.knows("w1", "w2")
    assert stage.value("discovery_relists_total") == 2.0
    assert stage.value("discovery_watch_errors_total", reason="gone" if how == "expire" else "unreachable") == 1.0


async def test_events_lost_with_a_compaction_are_made_up_for(stage: Stage) -> None:
    stage.api.put(worker_pod("w1"))
    stage.api.fault("lose", "watch", "pods", after_events=1)
    async with following(stage.discovery()) as follower:
        await follower.knows("w1")
        await stage.api.until(lambda: stage.api.watches("pods") == 1)
        stage.api.put(worker_pod("w2"))
        await follower.knows("w1", "w2")
        stage.api.delete("Pod", "default", "w1", grace_s=0)
        await follower.knows("w2")


async def test_a_watch_that_ends_in_order_goes_on_without_a_list(stage: Stage) -> None:
    stage.api.put(worker_pod("w1"))
    async with following(stage.discovery(lasts=1.0)) as follower:
        await follower.knows("w1")
        await stage.api.until(lambda: len(stage.api.calls_of("watch", "pods")) >= 2)
        stage.api.put(worker_pod("w2"))
        await follower.knows("w1", "w2")
    assert stage.value("discovery_relists_total") == 1.0


async def test_a_watch_that_is_silent_for_too_long_is_given_up(stage: Stage) -> None:
    """The server has an event and does not send it: as on a connection of which the other end is gone."""
    stage.api.put(worker_pod("w1"))
    stage.api.fault("slow", "watch", "pods", delay_s=3600.0)
    async with following(stage.discovery(lasts=0.2, grace=0.1)) as follower:
        await follower.knows("w1")
        await stage.api.until(lambda: stage.api.watches("pods") == 1)
        stage.api.put(worker_pod("w2"))
        await follower.knows("w1", "w2")
    assert stage.value("discovery_watch_errors_total", reason="silent") >= 1.0


async def test_a_bookmark_moves_the_place_to_go_on_from(stage: Stage) -> None:
    stage.api.put(worker_pod("w1"))
    async with following(stage.discovery(lasts=1.0)) as follower:
        await follower.knows("w1")
        await stage.api.until(lambda: stage.api.watches("pods") == 1)
        for _ in range(5):
            stage.api.put(worker_pod("elsewhere", cell="other"))
        stage.api.bookmark("pods")
        await stage.api.until(lambda: len(stage.api.calls_of("watch", "pods")) >= 2)
        stage.api.put(worker_pod("w2"))
        await follower.knows("w1", "w2")
    assert stage.value("discovery_relists_total") == 1.0
    assert stage.value("discovery_watch_errors_total", reason="gone") == 0.0


async def test_an_api_that_is_away_for_long_is_asked_less_and_less_and_its_age_shows(stage: Stage) -> None:
    stage.api.put(worker_pod("w1"))
    source = Cluster(stage.api, stage.discovery())
    async with following(source.discovery) as follower:
        await follower.knows("w1")
        young = stage.value("discovery_age_seconds")
        await source.go_away()
        failed = stage.value("discovery_watch_errors_total", reason="http_503")
        assert failed >= 1.0
        assert stage.value("discovery_age_seconds") > young
        assert follower.names == {"w1"}
        source.come_back()
        stage.api.delete("Pod", "default", "w1", grace_s=0)
        await follower.knows()


async def test_credentials_that_are_refused_are_read_again(stage: Stage, tmp_path: Path) -> None:
    stage.api.fault("status", "list", "pods", code=401)
    async with following(stage.discovery()) as follower:
        await follower.knows()
    assert stage.value("discovery_watch_errors_total", reason="http_401") == 1.0
