"""From a request that waits in a router to the replica that answers it: a router's feed, a synchronizer on a cluster,
and a controller with its database, each the real one, over real gRPC and HTTP."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from doubles.kubernetes.server import FakeKubernetes
from doubles.scripted_worker import ScriptedWorker, serve_worker
from doubles.worker_pods import worker_pod, worker_pool
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.control.route_feed import RouteFeed
from router.control.wishes import Wishes
from synchronizer.__main__ import serve
from synchronizer.settings import SynchronizerSettings

CELL, KEY = "c", VersionKey("acme", "digits", 1)
ASLEEP = {"mode": "berth", "min_replicas": 0, "max_replicas": 5, "stabilize_down_s": 1}
VERSION = "/v1/tenants/acme/models/digits/versions/1"


class Router:
    """What a router hears, and what its requests wait for."""

    def __init__(self) -> None:
        self.board, self.wishes = RouteBoard(), Wishes()

    @asynccontextmanager
    async def following(self, feed: str, credential: PeerCredential) -> AsyncIterator[None]:
        metrics = RouterMetrics(CollectorRegistry())
        following = RouteFeed((feed,), self.board, credential, name="r1", metrics=metrics, wishes=self.wishes)
        task = asyncio.create_task(following.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def replicas(self) -> set[str]:
        route = self.board.table.models.get(KEY.model_key)
        versions = route.versions if route is not None else ()
        return {name for entry in versions if entry.version == KEY.version for name in entry.replicas}

    async def knows_the_model(self) -> None:
        await self._until(lambda: KEY.model_key in self.board.table.models)

    async def reaches(self, replica: str) -> None:
        await self._until(lambda: replica in self.replicas())

    async def misses(self, replica: str) -> None:
        await self._until(lambda: replica not in self.replicas())

    async def _until(self, true: Any) -> None:
        async with asyncio.timeout(20):
            changes = self.board.changes.waiter()
            while not true():
                await changes.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
async def cluster() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes() as cluster:
        yield cluster


@asynccontextmanager
async def synchronizer(controller: Any, cluster: FakeKubernetes, folder: Path, **more: Any) -> AsyncIterator[str]:
    """A whole one; yields the address of its route feed."""
    settings = SynchronizerSettings(
        instance="s1",
        cell=CELL,
        controllers=controller.feed_target,
        route_feed_address=f"127.0.0.1:{free_port()}",
        admin_address="127.0.0.1:0",
        state_dir=folder / "state",
        credential_file=controller.settings.credential_file,
        discovery="kubernetes",
        kubernetes_config=cluster.kubeconfig(folder / "kubeconfig"),
        **more,
    )
    stop = asyncio.Event()
    process = asyncio.create_task(serve(settings, stop))
    try:
        yield settings.route_feed_address
    finally:
        stop.set()
        await process


@asynccontextmanager
async def replica(controller: Any, cluster: FakeKubernetes, name: str) -> AsyncIterator[None]:
    """A pod of the job, whose worker loads what it is told to, while the context is open."""
    async with serve_worker(ScriptedWorker(name, "j"), controller.credential) as address:
        cluster.put(worker_pod(name, control=int(address.control.rpartition(":")[2])))
        yield


def told(cluster: FakeKubernetes) -> int:
    """How many replicas the job's workload is told to have."""
    workload = cluster.get("Deployment", "default", "pool-j")
    assert workload is not None
    return int(workload["spec"]["replicas"])


@pytest.mark.parametrize("lease", ["controller", "kubernetes"])
async def test_a_request_wakes_the_job_that_sleeps(
    start_controller: Any, cluster: FakeKubernetes, tmp_path: Path, lease: str
) -> None:
    controller = await start_controller()
    await controller.tenant("acme")
    await controller.job("j", cell=CELL, service_class="temporary", dedicated_tenant="acme", replicas=0, scaling=ASLEEP)
    assert (await controller.upload("acme/digits")).json()["job"] == "j"
    cluster.put(worker_pool("pool-j", replicas=0))
    router = Router()
    async with (
        synchronizer(controller, cluster, tmp_path, lease=lease) as feed,
        router.following(feed, controller.credential),
    ):
        await router.knows_the_model()
        assert router.replicas() == set()
        # Nobody asks for it yet: it is new, and has to be loaded once to be known to work.
        await cluster.until(lambda: told(cluster) == 1, 20.0)
        assert (await controller.get("/v1/jobs/j"))["desired_reason"].startswith("a version has yet to be loaded")
        async with replica(controller, cluster, "w1"):
            await router.reaches("w1")
            await controller.until(VERSION, lambda version: version["state"] == "available")
            await cluster.until(lambda: told(cluster) == 0, 20.0)
            cluster.delete("Pod", "default", "w1")
        await router.misses("w1")
        await controller.until(VERSION, lambda version: version["state"] == "pending")
        assert told(cluster) == 0
        router.wishes.ask(KEY, until=math.inf)
        await cluster.until(lambda: told(cluster) == 1, 20.0)
        found = await controller.get("/v1/jobs/j")
        assert found["desired_reason"] == "requests wait for a model, and no replica runs"
        async with replica(controller, cluster, "w2"):
            await router.reaches("w2")
            await controller.until(VERSION, lambda version: version["state"] == "available")
            assert told(cluster) == 1
            router.wishes.fulfilled(KEY)
