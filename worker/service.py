"""Puts the worker's parts together and runs them: the one composition root.

Start: everything listens before the replica announces itself. Stop, in this order, so that no client notices: say
"draining" and keep serving until the routes are gone; leave the registry; stop accepting and finish what is under way;
unload; end.
"""

from __future__ import annotations

import asyncio
import gc

import structlog

from berth.artifacts.opening import open_store
from berth.composition import Composition, composing
from berth.model import ReplicaAddress
from berth.registry import LocalRegistry
from berth.resources import Resources
from berth.settings import environment
from berth.tracing import Tracing, open_tracing
from worker.control.address import OpenPorts, check_instance, own_address
from worker.control.channel import WorkerControl, serve_control
from worker.control.draining import until_routes_are_gone
from worker.control.readiness import Probed
from worker.core.capacity import MemoryLimits
from worker.core.loads import Loads
from worker.keeping.artifacts import ArtifactCache
from worker.keeping.execution import Patience
from worker.keeping.keeper import Keeper
from worker.metrics import WorkerMetrics
from worker.opening import memory_for_versions, open_runtime
from worker.runtimes.protocol import ModelRuntime
from worker.serving.server import InferenceServer, serve_inference
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

_INFLIGHT_DRAIN_S = 10.0
# Unloading when nobody has anything any more; what takes longer ends with the process.
_LETTING_GO_S = 15.0


async def run(settings: WorkerSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises `SettingsError`."""
    check_instance(settings.instance)
    async with composing(settings, stop) as process:
        process.credential.register(process.registry)
        metrics, probed, loads = WorkerMetrics(process.registry), Probed(stop), Loads()
        tracing = open_tracing(settings, "worker")
        if tracing is not None:
            process.at_end(tracing.close)
        # First to come and last to go: whoever probes is answered as long as there is a process.
        await process.serve_admin(probed.readiness)
        cache = _open_cache(process, settings)
        runtime = await process.open(open_runtime(settings, process.credential))
        keeper = _keep(settings, runtime, cache, metrics)
        control = WorkerControl(keeper, lambda: inference.in_flight, loads)
        control_port = await process.open(serve_control(control, process.credential, settings.control_address))
        process.beside("pulse", probed.pulse.beat())
        keeping = process.beside("keeper", keeper.run())
        process.at_end(_empty, keeper, keeping)
        inference = await _serve(process, settings, keeper, loads, tracing)
        _show(metrics, keeper, control, probed)
        address = own_address(settings, OpenPorts(control_port, inference.grpc_port, inference.http_port))
        _announce(process, settings, control, address)
        probed.listening(keeper, runtime, settings.ready_wait_s)
        # What was imported stays: collections need not walk it, and pause requests less.
        gc.freeze()
        log.info("ready", job=address.job, control=address.control, grpc=address.grpc, http=address.http)
        await stop.wait()
        control.drain()
        await until_routes_are_gone(keeper, control, settings.drain_grace_s)
        log.info("no longer accepting requests", in_flight=inference.in_flight)


def _open_cache(process: Composition, settings: WorkerSettings) -> ArtifactCache:
    aws = {name: value for name, value in environment().items() if name.startswith("AWS_")}
    store = open_store(settings.artifact_store, aws)
    cache = ArtifactCache(settings.cache_dir / "artifacts", store, max_bytes=settings.cache_bytes)
    process.at_end(cache.close)
    return cache


def _keep(settings: WorkerSettings, runtime: ModelRuntime, cache: ArtifactCache, metrics: WorkerMetrics) -> Keeper:
    limits = MemoryLimits(
        Resources.host(memory_for_versions(settings, runtime)),
        Resources.host(settings.load_headroom),
        settings.max_loads,
    )
    patience = Patience(load=settings.load_timeout_s, drain=settings.drain_timeout_s)
    return Keeper(runtime, cache, limits, metrics=metrics, patience=patience)


async def _empty(keeper: Keeper, keeping: asyncio.Task[None]) -> None:
    """Unload everything. Nobody has anything any more; what takes too long all the same ends with the process."""
    keeper.close()
    await asyncio.wait([keeping], timeout=_LETTING_GO_S)


async def _serve(
    process: Composition, settings: WorkerSettings, keeper: Keeper, loads: Loads, tracing: Tracing | None
) -> InferenceServer:
    return await process.open(
        serve_inference(
            keeper.lending,
            credential=process.credential,
            grpc_address=settings.grpc_address,
            http_address=settings.http_address,
            replica=settings.instance,
            registry=process.registry,
            loads=loads,
            tracing=tracing,
            max_body_bytes=settings.max_body_bytes,
            drain_s=_INFLIGHT_DRAIN_S,
        )
    )


def _show(metrics: WorkerMetrics, keeper: Keeper, control: WorkerControl, probed: Probed) -> None:
    metrics.gauge("held_versions", "Versions that can be queried.", lambda: len(keeper.lending))
    metrics.gauge("memory_used_bytes", "Measured bytes of versions held or being loaded.", lambda: keeper.memory_used)
    metrics.gauge("memory_limit_bytes", "Bytes that versions may take.", lambda: keeper.memory_limit)
    metrics.gauge("synchronizers", "Synchronizers connected.", lambda: control.synchronizers)
    metrics.gauge(
        "loop_late_seconds",
        "The longest that the event loop was late since the last scrape.",
        probed.pulse.worst_since_asked,
    )


def _announce(process: Composition, settings: WorkerSettings, control: WorkerControl, address: ReplicaAddress) -> None:
    control.announce(address)
    if settings.registry_dir is not None:
        replicas = LocalRegistry(settings.registry_dir)
        process.at_end(replicas.withdraw, address)
        replicas.announce(address)
