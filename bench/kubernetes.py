"""`python -m bench.kubernetes`: a thousand pods on the fake API server, seen by the synchronizer's own discovery.

From a pod that is written ready to the set that has it; from a watch that breaks, with pods changed meanwhile, to the
set that is right again; a start from nothing; and how often the API is asked while nothing happens. The fake server
runs as a process of its own, so that its work is not counted as ours; pods are written through its API, and their time
begins when that write is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from bench.results import Row, show, write
from berth.reconcile import Backoff
from doubles.news import News
from doubles.worker_pods import worker_pod, worker_pool
from synchronizer.cluster.api import KubernetesApi
from synchronizer.cluster.discovery import KubernetesDiscovery
from synchronizer.cluster.metrics import ClusterMetrics
from synchronizer.cluster.reflector import Reflector
from synchronizer.core.events import Discovered
from synchronizer.core.pods import read_pod, selector
from synchronizer.core.pools import reader

_PODS = "/api/v1/namespaces/default/pods"
_APPS = "/apis/apps/v1/namespaces/default"


class Seen:
    """The last set of a discovery, and when each replica was first in one."""

    def __init__(self) -> None:
        self.found = Discovered({})
        self.first: dict[str, float] = {}
        self.sets = 0
        self.news = News()

    async def follow(self, discovery: KubernetesDiscovery) -> None:
        async for found in discovery.watch():
            now = time.perf_counter()
            for name in found.addresses.keys() - self.found.addresses.keys():
                self.first[name] = now
            self.found, self.sets = found, self.sets + 1
            self.news.tell()

    async def count(self, pods: int) -> None:
        await self.news.until(lambda: len(self.found.addresses) == pods, 120.0)


@asynccontextmanager
async def fake_server(folder: Path) -> AsyncIterator[Path]:
    """The API as a process; yields a kubeconfig of it."""
    config = folder / "kubeconfig"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "doubles.kubernetes", "--no-workloads", "--kubeconfig", str(config),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        json.loads(await asyncio.wait_for(process.stdout.readline(), 30.0))
        yield config
    finally:
        process.terminate()
        await process.wait()


async def create(api: KubernetesApi, names: list[str]) -> dict[str, float]:
    """Write pods, and then their status; when each of these writes was sent."""
    slots = asyncio.Semaphore(16)
    sent: dict[str, float] = {}

    async def one(name: str) -> None:
        async with slots:
            pod = worker_pod(name)
            await api.call("POST", _PODS, body={key: value for key, value in pod.items() if key != "status"})
            sent[name] = time.perf_counter()
            await api.call("PUT", f"{_PODS}/{name}/status", body=pod)

    await asyncio.gather(*(one(name) for name in names))
    return sent


@asynccontextmanager
async def following(api: KubernetesApi, metrics: ClusterMetrics) -> AsyncIterator[Seen]:
    seen = Seen()
    reflector = Reflector(api, _PODS, selector("c"), read_pod, metrics, backoff=Backoff(first=0.1, most=10.0))
    task = asyncio.create_task(seen.follow(KubernetesDiscovery(reflector)))
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


async def measure(pods: int, steady_s: float) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        async with fake_server(Path(folder)) as config:
            metrics = ClusterMetrics(CollectorRegistry())
            writer, api = KubernetesApi(config, metrics), KubernetesApi(config, metrics)
            await writer.open()
            await api.open()
            try:
                return [*await _measure(writer, api, pods), await _steady(config, writer, steady_s)]
            finally:
                await writer.close()
                await api.close()


async def _measure(writer: KubernetesApi, api: KubernetesApi, pods: int) -> list[Row]:
    names = [f"worker-{number:04}" for number in range(pods)]
    metrics = ClusterMetrics(CollectorRegistry())
    async with following(api, metrics) as seen:
        await seen.news.until(lambda: seen.sets > 0)
        written = await create(writer, names)
        await seen.count(pods)
        waits = [seen.first[name] - written[name] for name in names]
        burst_sets = seen.sets
        alone = [await _one_alone(writer, seen, f"alone-{number}") for number in range(20)]
        broken = await _after_a_break(writer, seen, pods + len(alone))
    async with following(api, metrics) as anew:
        began = time.perf_counter()
        await anew.count(len(seen.found.addresses))
        start = time.perf_counter() - began
    return [
        Row("one pod ready to seen (median)", 1e3 * statistics.median(alone), "ms", 100.0),
        Row(
            f"{pods:,} pods at once, ready to seen (p99)",
            1e3 * statistics.quantiles(waits, n=100)[98],
            "ms",
            1000.0,
            sides={"median": 1e3 * statistics.median(waits), "sets": float(burst_sets)},
        ),
        Row(f"{pods:,} pods: broken watch to a set that is right", 1e3 * broken, "ms", 2000.0),
        Row(f"{pods:,} pods: first set after a start", 1e3 * start, "ms", 2000.0),
    ]


async def _one_alone(writer: KubernetesApi, seen: Seen, name: str) -> float:
    written = await create(writer, [name])
    await seen.news.until(lambda: name in seen.first)
    return seen.first[name] - written[name]


async def _after_a_break(writer: KubernetesApi, seen: Seen, pods: int) -> float:
    """The watch ends in a 410, and a pod goes while nobody watches."""
    began = time.perf_counter()
    await writer.call("POST", "/_watches", body={"do": "expire", "resource": "pods"})
    await writer.call("DELETE", f"{_PODS}/alone-0", query={"gracePeriodSeconds": "0"})
    await writer.call("POST", "/_watches", body={"do": "compact", "resource": "pods"})
    await seen.count(pods - 1)
    return time.perf_counter() - began


async def _steady(config: Path, writer: KubernetesApi, seconds: float) -> Row:
    """Requests of everything that a synchronizer watches, while nothing happens."""
    await writer.call("POST", f"{_APPS}/deployments", body=worker_pool("pool"))
    registry = CollectorRegistry()
    metrics = ClusterMetrics(registry)
    api = KubernetesApi(config, metrics)
    await api.open()
    watched: list[Reflector[Any]] = [
        Reflector(api, _PODS, selector("c"), read_pod, metrics),
        *(
            Reflector(api, f"{_APPS}/{kind}s", selector("c"), reader(kind), metrics)
            for kind in ("deployment", "statefulset")
        ),
    ]

    async def drain(reflector: Reflector[Any]) -> None:
        async for _ in reflector.watch():
            pass

    tasks = [asyncio.create_task(drain(reflector)) for reflector in watched]
    await asyncio.sleep(5.0)  # past the first lists
    before = _requests(registry)
    await asyncio.sleep(seconds)
    asked = _requests(registry) - before
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await api.close()
    return Row("requests while nothing happens, without a Lease", asked * 60.0 / seconds, "per minute", 6.0)


def _requests(registry: CollectorRegistry) -> float:
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "berth_kubernetes_requests_total"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--steady", type=float, default=180.0, metavar="SECONDS", help="how long nothing happens")
    given = parser.parse_args()
    rows = asyncio.run(measure(given.pods, given.steady))
    write("kubernetes", 1, rows, ["The API server is the fake in `doubles/`: a process of Python on the same machine."])
    show("Kubernetes", rows)


if __name__ == "__main__":
    main()
