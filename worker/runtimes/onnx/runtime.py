"""ONNX Runtime in this process: the embedded default.

**Loading** happens in two threads, one for artifacts below 32 MiB and one for larger ones, so that a big model does
not hold up small ones; both run at low priority, beside the threads that answer. A model is loaded from its path: from
bytes it would be held twice, and could read files in the current directory as weights. The artifact must lie alone in
its folder, for a model may name any file beside it.

**Memory** is measured as the growth of the C heap during the load, less what other loads and unloads accounted for
meanwhile (`worker.runtimes.onnx.heap`). Where the heap cannot be asked, the growth is implausible, or the weights go
to a GPU, what is likely counts (`berth.footprint.likely`). Sessions below 8 MiB get no arena and no memory
pattern: an arena takes a megabyte with the first run, and a tiny session 71 KiB in all. Above, it saves time and
memory.

**Running.** A hop to a thread costs 20 to 60 µs of CPU, many times a tiny run (5 µs). So a version whose warm-up, or
last run in the pool, took less than 100 µs is run on the event loop while its inputs are small, and everything else
in the pool. A model can be quick on zeros and endless on other values; such a run is ended by the watchdog after
20 ms and begun again in the pool, where the version stays from then on if it was computing all that time. Cancelling a
request that waits for the pool drops it; cancelling its run ends that within a millisecond, except inside a single
operator.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import onnxruntime as ort
import structlog

from berth.artifacts.intake import settle
from berth.errors import BerthError, Internal, InvalidArgument
from berth.model import Signature, VersionSpec
from berth.settings import SettingsError
from worker.cgroup import cores
from worker.runtimes.onnx.heap import Heap
from worker.runtimes.onnx.load import LoadJob, Made, Meter
from worker.runtimes.onnx.values import rejection, run_plain, run_values, to_runtime
from worker.runtimes.protocol import Array, Loaded, nobody
from worker.scheduling.watchdog import Watchdog

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LARGE = 32 * 2**20
_LOADER_NICENESS = 10
_TRIM_AFTER_S = 0.5

_INLINE_RUN_S = 100e-6
_INLINE_BYTES = 64 * 1024
_INLINE_LIMIT_S = 0.02
# A run on the loop that took this long was no tiny run; after three in a row the version goes back to the pool.
_SLOW_RUN_S = 1e-3
_SLOW_RUNS = 3


class OnnxRuntime:
    """Implements `ModelRuntime`. One per process is meant: its intra-op threads are the process's.

    `threads` answer requests at once, `intra_op_threads` work on one run; 0 chooses by the cores that this process may
    use. `providers` is `cpu`, `cuda` or `auto`: CUDA if this ONNX Runtime has it. Raises `SettingsError` if asked for a
    CUDA that it has not.
    """

    def __init__(self, *, threads: int = 0, intra_op_threads: int = 0, providers: str = "auto") -> None:
        usable = cores()
        _share_intra_op_threads(intra_op_threads or max(1, usable // 2))
        self._providers = _choose_providers(providers)
        self._pool = concurrent.futures.ThreadPoolExecutor(threads or usable, thread_name_prefix="infer")
        self._small = _loader("load-small")
        self._large = _loader("load-large")
        self._meter = Meter(Heap())
        self._watchdog = Watchdog()
        self._trim_due: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<OnnxRuntime {ort.get_version_string()} {self._providers[0]} {self._watchdog!r}>"

    in_container = True
    trouble = None

    @property
    def on_gpu(self) -> bool:
        return self._providers[0].startswith("CUDA")

    async def load(self, spec: VersionSpec, path: Path) -> Loaded:
        """Load the artifact at `path`, which lies alone in its folder. Raises `LoadFailed`."""
        lane = self._large if spec.artifact.size_bytes >= _LARGE else self._small
        job = LoadJob(spec, path, self._providers, self._meter, self._watchdog)
        try:
            made = await _in_thread(lane, job.run, stop=job.cancel)
        finally:
            self._trim_soon()
        return OnnxServable(self, made, lane)

    async def close(self) -> None:
        """End the threads. Runs under way are waited for: what could end them, cancelling, is their owner's to do."""
        if self._trim_due is not None:
            self._trim_due.cancel()
        for executor in (self._pool, self._small, self._large):
            await settle(asyncio.to_thread(executor.shutdown))
        await settle(asyncio.to_thread(self._watchdog.close))

    async def in_pool(self, work: Callable[[], T], stop: Callable[[], None]) -> T:
        """Run `work` in the serving threads. Cancelling calls `stop` and waits up to a second for it to take effect."""
        return await _in_thread(self._pool, work, stop=stop, patience=1.0)

    async def free(self, made: Made, lane: concurrent.futures.Executor) -> None:
        await settle(asyncio.wrap_future(lane.submit(self._meter.release, made)))
        self._trim_soon()

    @property
    def watchdog(self) -> Watchdog:
        return self._watchdog

    def _trim_soon(self) -> None:
        """Give freed memory back once for many loads: a trim walks the heap and may take 50 ms."""
        if self._trim_due is None:
            self._trim_due = asyncio.get_running_loop().call_later(_TRIM_AFTER_S, self._trim)

    def _trim(self) -> None:
        self._trim_due = None
        self._small.submit(self._meter.heap.trim)


class OnnxServable:
    """Implements `Loaded`: one session."""

    def __init__(self, runtime: OnnxRuntime, made: Made, lane: concurrent.futures.Executor) -> None:
        self._runtime = runtime
        self._made: Made | None = made
        self._lane = lane
        self.signature: Signature = made.signature
        self.measured_bytes: int = made.measured_bytes
        self._inputs = tuple(spec.name for spec in made.signature.inputs)
        self._outputs = tuple(spec.name for spec in made.signature.outputs)
        values = any(spec.datatype == "BF16" for spec in (*made.signature.inputs, *made.signature.outputs))
        self._run_session = run_values if values else run_plain
        # Whether it runs on the loop: the warm-up decides first, then each run corrects that in either direction,
        # until the watchdog had to end one.
        self._quick = made.run_seconds < _INLINE_RUN_S
        self._distrusted = False
        self._slow_runs = 0

    def __repr__(self) -> str:
        where = "loop" if self._quick else "pool"
        return f"<OnnxServable {self.measured_bytes} bytes, {where}{'' if self._made else ', unloaded'}>"

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array] | None:
        if not self._quick or not _is_small(inputs):
            return None
        session, names, feed = self._prepare(inputs, outputs)
        try:
            return self._run_inline(session, names, feed, ort.RunOptions())
        except BerthError:
            raise
        except Exception as error:
            raise _fault(error) from error

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], started: Callable[[], None] = nobody
    ) -> dict[str, Array]:
        answer = self.infer_now(inputs, outputs)
        if answer is not None:
            started()
            return answer
        session, names, feed = self._prepare(inputs, outputs)
        options = ort.RunOptions()

        def run() -> dict[str, Array]:
            started()
            return self._run_pooled(session, names, feed, options)

        try:
            return await self._runtime.in_pool(run, lambda: setattr(options, "terminate", True))
        except BerthError:
            raise
        except Exception as error:
            raise _fault(error) from error

    def _prepare(
        self, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> tuple[Any, Sequence[str], dict[str, Any]]:
        """Session, names of outputs and inputs as ONNX Runtime takes them."""
        if self._made is None:
            raise Internal("the version was unloaded while it was in use")
        for name in outputs:
            if name not in self._outputs:
                raise InvalidArgument(f"the model has no output {name!r}")
        feed = {name: to_runtime(name, array) for name, array in inputs.items()}
        return self._made.session, outputs or self._outputs, feed

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Never: it is lost with the process only."""

    async def unload(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            await self._runtime.free(made, self._lane)

    def _run_pooled(self, session: Any, names: Sequence[str], feed: dict[str, Any], options: Any) -> dict[str, Array]:
        started = time.monotonic()
        answer = self._run_session(session, names, feed, options)
        if time.monotonic() - started < _INLINE_RUN_S and not self._distrusted:
            self._quick = True
        return answer

    def _run_inline(
        self, session: Any, names: Sequence[str], feed: dict[str, Any], options: Any
    ) -> dict[str, Array] | None:
        """The outputs, or None if the run was ended for holding up the loop."""
        watchdog = self._runtime.watchdog
        started, cpu_started = time.monotonic(), time.thread_time()
        watchdog.arm(options, _INLINE_LIMIT_S)
        try:
            answer = self._run_session(session, names, feed, options)
        except Exception:
            if not options.terminate:
                raise
            self._quick = False
            # On a crowded machine the process itself may not have run for so long: that is not the model's fault.
            self._distrusted |= time.thread_time() - cpu_started >= _INLINE_LIMIT_S / 2
            return None
        finally:
            watchdog.disarm(options)
        if time.monotonic() - started < _SLOW_RUN_S:
            self._slow_runs = 0
        else:
            self._slow_runs += 1
            if self._slow_runs >= _SLOW_RUNS:
                self._slow_runs, self._quick = 0, False
        return answer


async def _in_thread(
    executor: concurrent.futures.Executor, work: Callable[[], T], *, stop: Callable[[], None], patience: float = 60.0
) -> T:
    """Run `work` in a thread of `executor`; cancelling drops it if it has not begun, else asks it to stop and waits."""
    running = executor.submit(work)
    future = asyncio.wrap_future(running)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not running.cancel():
            stop()
            await settle(asyncio.wait([future], timeout=patience))
        if future.done() and not future.cancelled():
            future.exception()  # read: nobody waits for it any more
        raise


def _fault(error: Exception) -> BerthError:
    """What a caller is told of a run that failed. ONNX Runtime's errors have no common class but `Exception`."""
    reason = rejection(error)
    if reason is not None:
        return InvalidArgument(reason)
    log.error("run failed", error=str(error))
    return Internal("the model failed while running")


def _is_small(inputs: Mapping[str, Array]) -> bool:
    """Whether the inputs are few enough for the loop. The size of an array of strings says nothing of theirs."""
    return (
        sum(array.nbytes if not array.dtype.hasobject else _INLINE_BYTES + 1 for array in inputs.values())
        <= _INLINE_BYTES
    )


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


def _loader(name: str) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_lower_priority)


def _lower_priority() -> None:
    """Nice to the threads that answer. On Linux niceness belongs to the thread; elsewhere this does nothing."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOADER_NICENESS)
