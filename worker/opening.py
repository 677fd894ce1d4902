"""The runtime that the settings ask for, and how much memory there is for versions in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from berth.auth.peer import PeerCredential
from berth.states import Runtime
from worker.cgroup import memory_limit
from worker.keeping.memory import device_memory, versions_limit
from worker.runtimes.protocol import ModelRuntime
from worker.settings import WorkerSettings


@asynccontextmanager
async def open_runtime(settings: WorkerSettings, credential: PeerCredential) -> AsyncIterator[ModelRuntime]:
    """A runtime, closed at the end. What it needs is imported only then. Raises `SettingsError`."""
    runtime = await _start_triton(settings, credential) if settings.runtime is Runtime.TRITON else _onnx(settings)
    try:
        yield runtime
    finally:
        await runtime.close()


def memory_for_versions(settings: WorkerSettings, runtime: ModelRuntime) -> int:
    """Bytes. Raises `SettingsError` where there are none."""
    return versions_limit(
        settings.memory_limit,
        settings.load_headroom,
        container=memory_limit() if runtime.in_container else None,
        device=device_memory() if runtime.on_gpu else None,
    )


def _onnx(settings: WorkerSettings) -> ModelRuntime:
    from worker.runtimes.onnx.runtime import OnnxRuntime
    from worker.scheduling.local import ScheduledRuntime

    return ScheduledRuntime(
        OnnxRuntime(intra_op_threads=settings.intra_op_threads, providers=settings.providers),
        threads=settings.inference_threads,
    )


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
