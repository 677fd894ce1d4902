"""ONNX Runtime in this process: the embedded default.

**Loading** happens in two threads, one for artifacts below 32 MiB and one for larger ones: a big model does not hold up
small ones. Both run at low priority, beside the threads that answer. A model is loaded from its path: from bytes it
would be held twice, and could read files in the current directory as weights. The artifact must lie alone in its
folder, for a model may name any file beside it.

**Memory** is measured as the growth of the C heap during the load, less what other loads and unloads accounted for
meanwhile (`worker.runtimes.onnx.heap`). If the heap cannot be asked, the growth is implausible, or the weights go to a
GPU, the likely size counts (`berth.footprint.likely`). Sessions below 8 MiB get no arena and no memory pattern: an
arena takes a megabyte with the first run, and a tiny session 71 KiB in all. Above, it saves time and memory.

**Running** is prepared here. Where a run takes place is decided in `worker.scheduling`.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import onnxruntime as ort
import structlog

from berth.footprint import likely
from berth.model import Signature, VersionSpec
from berth.settings import SettingsError
from worker.cgroup import cores
from worker.runtimes.onnx.heap import Heap
from worker.runtimes.onnx.lanes import LoadLane
from worker.runtimes.onnx.loading import SessionLoad
from worker.runtimes.onnx.meter import Measurement, Meter
from worker.runtimes.onnx.version import OnnxVersion

log = structlog.get_logger(__name__)

_LARGE = 32 * 2**20
_TRIM_AFTER_S = 0.5


class OnnxRuntime:
    """Implements `LocalRuntime`. One per process is meant: its intra-op threads are the process's.

    `intra_op_threads` work on one run; 0: half of the cores that this process may use. `providers` is `cpu`, `cuda` or
    `auto`: CUDA if this ONNX Runtime has it. Raises `SettingsError` if asked for a CUDA that it has not.
    """

    def __init__(self, *, intra_op_threads: int = 0, providers: str = "auto") -> None:
        _share_intra_op_threads(intra_op_threads or max(1, cores() // 2))
        self._providers = _choose_providers(providers)
        self._small = LoadLane("load-small")
        self._large = LoadLane("load-large")
        self._meter = Meter(Heap())
        self._trim_due: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<OnnxRuntime {ort.get_version_string()} {self._providers[0]}>"

    @property
    def on_gpu(self) -> bool:
        return self._providers[0].startswith("CUDA")

    def turn(self, spec: VersionSpec) -> AbstractAsyncContextManager[None]:
        return self._lane(spec).turn

    async def load(self, spec: VersionSpec, path: Path) -> OnnxVersion:
        """Load the artifact at `path`, which lies alone in its folder. Raises `LoadFailed`."""
        lane = self._lane(spec)
        estimate = likely(spec.artifact.size_bytes)
        load = SessionLoad(spec, path, self._providers)

        def measured_load() -> tuple[Measurement, Any, Signature]:
            return self._meter.begin(estimate, by_estimate=self.on_gpu), *load.run()

        try:
            measurement, session, signature = await lane.run(measured_load, load.cancel)
        finally:
            self._trim_soon()
        return OnnxVersion(str(spec.key), session, signature, measurement=measurement, lane=lane, freed=self._trim_soon)

    async def close(self) -> None:
        """End the threads. Loads under way are waited for: what could end them, cancelling, is their owner's to do."""
        if self._trim_due is not None:
            self._trim_due.cancel()
        for lane in (self._small, self._large):
            await lane.close()

    def _lane(self, spec: VersionSpec) -> LoadLane:
        return self._large if spec.artifact.size_bytes >= _LARGE else self._small

    def _trim_soon(self) -> None:
        """Give freed memory back once for many loads: a trim walks the heap and may take 50 ms."""
        if self._trim_due is None:
            self._trim_due = asyncio.get_running_loop().call_later(_TRIM_AFTER_S, self._trim)

    def _trim(self) -> None:
        self._trim_due = None
        self._small.post(self._meter.heap.trim)


def _share_intra_op_threads(threads: int) -> None:
    """Size the process's one thread pool; sessions with threads of their own would bring them in thousands."""
    try:
        ort.set_global_thread_pool_sizes(threads, 1)
    except ort.capi.onnxruntime_pybind11_state.Fail:
        log.info("ONNX Runtime's threads exist already in this process")


def _choose_providers(wanted: str) -> list[str]:
    available = ort.get_available_providers()
    if wanted in ("auto", "cuda") and "CUDAExecutionProvider" in available:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if wanted == "cuda":
        raise SettingsError("BERTH_PROVIDERS is cuda, but this ONNX Runtime has none: install onnxruntime-gpu")
    return ["CPUExecutionProvider"]
