"""Composition root of the worker: `python -m worker`.

Start: everything listens before the replica announces itself. Stop, in this order, so that no client notices: say
"draining" and keep serving until the routes are gone; stop accepting and finish what is under way; unload; leave the
registry; end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry

from berth.admin import serve_admin
from berth.artifacts.opening import open_store
from berth.auth.peer import PeerCredential
from berth.errors import InvalidArgument
from berth.ids import check_name
from berth.model import ReplicaAddress
from berth.process import run
from berth.registry import LocalRegistry
from berth.resources import Resources
from berth.settings import SettingsError, environment
from berth.states import Runtime
from berth.tracing import open_tracing
from worker.cgroup import memory_limit
from worker.control.channel import WorkerControl, serve_control
from worker.control.readiness import Probed
from worker.core.capacity import MemoryLimits
from worker.core.loads import Loads
from worker.keeping.artifacts import ArtifactCache
from worker.keeping.execution import Patience
from worker.keeping.keeper import Keeper
from worker.keeping.memory import device_memory, versions_limit
from worker.metrics import WorkerMetrics
from worker.runtimes.protocol import ModelRuntime
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

_INFLIGHT_DRAIN_S = 10.0
# Unloading when nobody has anything any more; what takes longer ends with the process.
_LETTING_GO_S = 15.0
# Without a synchronizer nobody withdraws the routes; routers notice by themselves that the ports close.
_GRACE_WITHOUT_SYNCHRONIZER_S = 1.0
_LOOK_AGAIN_S = 0.1


async def serve(settings: WorkerSettings, stop: asyncio.Event) -> None:
    """Run a worker until `stop` is set. Raises `SettingsError`."""
    try:
        await _serve(settings, stop)
    except BaseExceptionGroup as group:
        # A wrong address is found when the keeper runs already, and comes out of its task group.
        wrong = group.subgroup(SettingsError)
        if wrong is None:
            raise
        raise SettingsError("; ".join(map(str, wrong.exceptions))) from None


async def _serve(settings: WorkerSettings, stop: asyncio.Event) -> None:
    from worker.serving.server import serve_inference

    _check_instance(settings.instance)
    credential = PeerCredential.from_settings(settings)
    tracing = open_tracing(settings, "worker")
    metrics_registry = CollectorRegistry()
    credential.register(metrics_registry)
    metrics = WorkerMetrics(metrics_registry)
    aws = {name: value for name, value in environment().items() if name.startswith("AWS_")}
    store = open_store(settings.artifact_store, aws)
    probed = Probed(stop)
    async with AsyncExitStack() as stack:
        if tracing is not None:
            stack.push_async_callback(tracing.close)
        # First to come and last to go: whoever probes is answered as long as there is a process.
        await stack.enter_async_context(serve_admin(settings.admin_address, probed.readiness, metrics_registry))
        cache = ArtifactCache(settings.cache_dir / "artifacts", store, max_bytes=settings.cache_bytes)
        stack.callback(cache.close)
        runtime = await stack.enter_async_context(_open_runtime(settings, credential))
        keeper = Keeper(
            runtime,
            cache,
            MemoryLimits(
                Resources.host(_memory_limit(settings, runtime)),
                Resources.host(settings.load_headroom),
                settings.max_loads,
            ),
            metrics=metrics,
            patience=Patience(load=settings.load_timeout_s, drain=settings.drain_timeout_s),
        )
        loads = Loads()
        control = WorkerControl(keeper, lambda: inference.in_flight, loads)
        control_port = await stack.enter_async_context(serve_control(control, credential, settings.control_address))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        keeping = tasks.create_task(keeper.run(), name="keeper")
        beating = tasks.create_task(probed.pulse.beat(), name="pulse")
        stack.callback(beating.cancel)
        stack.push_async_callback(_empty, keeper, keeping)
        inference = await stack.enter_async_context(
            serve_inference(
                keeper.lending,
                credential=credential,
                grpc_address=settings.grpc_address,
                http_address=settings.http_address,
                replica=settings.instance,
                registry=metrics_registry,
                loads=loads,
                tracing=tracing,
                max_body_bytes=settings.max_body_bytes,
                drain_s=_INFLIGHT_DRAIN_S,
            )
        )
        metrics.gauge("held_versions", "Versions that can be queried.", lambda: len(keeper.lending.held()))
        metrics.gauge(
            "memory_used_bytes", "Measured bytes of versions held or being loaded.", lambda: keeper.memory_used
        )
        metrics.gauge("memory_limit_bytes", "Bytes that versions may take.", lambda: keeper.memory_limit)
        metrics.gauge("synchronizers", "Synchronizers connected.", lambda: control.synchronizers)
        metrics.gauge(
            "loop_late_seconds",
            "The longest that the event loop was late since the last scrape.",
            probed.pulse.worst_since_asked,
        )
        address = ReplicaAddress(
            replica=settings.instance,
            job=settings.job,
            cell=settings.cell,
            incarnation=secrets.token_hex(8),
            control=_reachable(settings, settings.control_address, control_port),
            grpc=_reachable(settings, settings.grpc_address, inference.grpc_port),
            http=_reachable(settings, settings.http_address, inference.http_port),
            zone=settings.zone,
        )
        control.announce(address)
        if settings.registry_dir is not None:
            replicas = LocalRegistry(settings.registry_dir)
            stack.callback(replicas.withdraw, address)
            replicas.announce(address)
        probed.listening(keeper, runtime, settings.ready_wait_s)
        # What was imported stays: collections need not walk it, and pause requests less.
        gc.freeze()
        log.info("ready", job=address.job, control=address.control, grpc=address.grpc, http=address.http)
        await stop.wait()
        control.drain()
        await _wait_until_routes_are_gone(keeper, control, settings.drain_grace_s)
        log.info("no longer accepting requests", in_flight=inference.in_flight)


def _memory_limit(settings: WorkerSettings, runtime: ModelRuntime) -> int:
    """Raises `SettingsError`."""
    return versions_limit(
        settings.memory_limit,
        settings.load_headroom,
        container=memory_limit() if runtime.in_container else None,
        device=device_memory() if runtime.on_gpu else None,
    )


@asynccontextmanager
async def _open_runtime(settings: WorkerSettings, credential: PeerCredential) -> AsyncIterator[ModelRuntime]:
    """The runtime that the settings ask for; what it needs is imported only then."""
    runtime: ModelRuntime
    if settings.runtime is Runtime.TRITON:
        runtime = await _start_triton(settings, credential)
    else:
        from worker.runtimes.onnx.runtime import OnnxRuntime
        from worker.scheduling.local import ScheduledRuntime

        runtime = ScheduledRuntime(
            OnnxRuntime(intra_op_threads=settings.intra_op_threads, providers=settings.providers),
            threads=settings.inference_threads,
        )
    try:
        yield runtime
    finally:
        await runtime.close()


async def _start_triton(settings: WorkerSettings, credential: PeerCredential) -> ModelRuntime:
    threads = max(1, settings.intra_op_threads)
    if settings.triton_repository is not None:
        from worker.runtimes.triton.sidecar import SidecarTriton

        return await SidecarTriton.attach(
            settings.triton_address, settings.triton_repository, backend=settings.triton_backend, threads=threads
        )
    from worker.runtimes.triton.child import ChildTriton

    assert settings.triton_home is not None, "the settings see to that"
    return await ChildTriton.start(
        settings.triton_home,
        settings.cache_dir / "triton",
        instance=settings.instance,
        credential=credential,
        backend=settings.triton_backend,
        threads=threads,
    )


async def _wait_until_routes_are_gone(keeper: Keeper, control: WorkerControl, grace_s: float) -> None:
    """Wait for the empty aspired set: a synchronizer sends it once no router sends requests here any more."""
    clock = asyncio.get_running_loop().time
    log.info("draining", synchronizers=control.synchronizers, at_most_s=grace_s)
    end, alone_until = clock() + grace_s, clock() + _GRACE_WITHOUT_SYNCHRONIZER_S
    while keeper.aspires:
        if control.synchronizers:
            alone_until = clock() + _GRACE_WITHOUT_SYNCHRONIZER_S
        if clock() >= min(end, alone_until):
            log.warning("stopping although routes may be left", synchronizers=control.synchronizers)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await keeper.changed(keeper.revision)


async def _empty(keeper: Keeper, keeping: asyncio.Task[None]) -> None:
    """Unload everything. Nobody has anything any more; what takes too long all the same ends with the process."""
    keeper.close()
    await asyncio.wait([keeping], timeout=_LETTING_GO_S)
    keeping.cancel()


def _check_instance(instance: str) -> None:
    """The name becomes a file in the registry and a header in answers."""
    try:
        check_name("instance", instance)
    except InvalidArgument as error:
        raise SettingsError(f"BERTH_INSTANCE: {error.detail}") from None


def _reachable(settings: WorkerSettings, address: str, port: int) -> str:
    """Where peers reach what listens on `address`. Raises `SettingsError` if that only says "everywhere"."""
    host = (settings.advertise_host or address.rpartition(":")[0]).strip("[]")
    if host in ("", "0.0.0.0", "::"):
        raise SettingsError(f"BERTH_ADVERTISE_HOST: needed, since {address} is no address to be reached at")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(run("worker", WorkerSettings, serve, environment(), sys.argv[1:]))
