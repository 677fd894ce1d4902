"""One load of a model into ONNX Runtime: the session, its signature, a few runs on zeros, and what it takes.

Everything here runs in a loader thread.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import onnxruntime as ort
import structlog

from berth.footprint import likely
from berth.model import Signature, VersionSpec
from worker.runtimes.onnx.heap import Heap
from worker.runtimes.onnx.values import (
    load_failure,
    rejection,
    run_plain,
    run_values,
    smallest,
    smallest_bytes,
    tensor_spec,
    to_runtime,
)
from worker.runtimes.protocol import LoadFailed
from worker.scheduling.watchdog import Watchdog

log = structlog.get_logger(__name__)

_ARENA_FROM = 8 * 2**20

_WARMUP_RUNS = 3
_WARMUP_S = 10.0
_WARMUP_BYTES = 64 * 2**20
# Whatever takes this long is no tiny run, however cold the first one is.
_LONG_RUN_S = 0.02


class Made:
    """What a load made: the session, and what is known of it."""

    __slots__ = ("measured_bytes", "run_seconds", "session", "signature")

    def __init__(self, session: Any, signature: Signature, run_seconds: float) -> None:
        self.session = session
        self.signature = signature
        self.run_seconds = run_seconds
        self.measured_bytes = 0


class LoadJob:
    """One load, run in a loader thread; `cancel` may be called from another."""

    def __init__(self, spec: VersionSpec, path: Path, providers: list[str], meter: Meter, watchdog: Watchdog) -> None:
        self._spec = spec
        self._path = path
        self._providers = providers
        self._meter = meter
        self._watchdog = watchdog
        self._cancelled = False
        self._session_options = _session_options(spec.artifact.size_bytes)
        self._run_options = ort.RunOptions()

    def cancel(self) -> None:
        self._cancelled = True
        self._session_options.set_load_cancellation_flag(True)
        self._run_options.terminate = True

    def run(self) -> Made:
        """Raises `LoadFailed`."""
        self._check_alone()
        before = self._meter.begin()
        try:
            session = ort.InferenceSession(
                self._path, self._session_options, providers=self._providers, enable_fallback=False
            )
        except Exception as error:
            # As for runs: there is no narrower class that holds all that ONNX Runtime raises.
            raise load_failure(error) from None
        signature = Signature(
            tuple(tensor_spec("input", node) for node in session.get_inputs()),
            tuple(tensor_spec("output", node) for node in session.get_outputs()),
        )
        made = Made(session, signature, self._warm_up(session, signature))
        if self._cancelled:
            raise LoadFailed("cancelled", permanent=False)
        estimate = likely(self._spec.artifact.size_bytes)
        made.measured_bytes = self._meter.end(before, estimate, on_gpu=self._providers[0].startswith("CUDA"))
        return made

    def _check_alone(self) -> None:
        folder = self._path.parent
        if folder.is_dir() and any(entry.name != self._path.name for entry in folder.iterdir()):
            raise LoadFailed("the artifact does not lie alone in its folder", permanent=False)

    def _warm_up(self, session: Any, signature: Signature) -> float:
        """Seconds of the quickest of a few runs on zeros; infinity if they fail or are not tried.

        A failure is not one of the load: zeros may be values that a sound model rejects.
        """
        if smallest_bytes(signature.inputs) > _WARMUP_BYTES:
            return float("inf")
        names = [spec.name for spec in signature.outputs]
        feed = {spec.name: to_runtime(spec.name, smallest(spec)) for spec in signature.inputs}
        values = any(spec.datatype == "BF16" for spec in (*signature.inputs, *signature.outputs))
        best = float("inf")
        try:
            with self._watchdog.limit(self._run_options, _WARMUP_S):
                for _ in range(_WARMUP_RUNS):
                    started = time.perf_counter()
                    (run_values if values else run_plain)(session, names, feed, self._run_options)
                    best = min(best, time.perf_counter() - started)
                    if best > _LONG_RUN_S:
                        break
        except Exception as error:
            log.info("warm-up failed", version=str(self._spec.key), error=rejection(error) or type(error).__name__)
        return best


class Meter:
    """Measures what loads take, also when two overlap: each leaves out what the other has accounted for meanwhile."""

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self._accounted = 0
        self._lock = threading.Lock()

    def begin(self) -> tuple[int, int] | None:
        with self._lock:
            allocated = self.heap.allocated()
            return None if allocated is None else (allocated, self._accounted)

    def end(self, before: tuple[int, int] | None, estimate: int, *, on_gpu: bool) -> int:
        """Bytes taken since `before`; `estimate` if that cannot be known or cannot be true."""
        with self._lock:
            measured = estimate
            allocated = None if before is None or on_gpu else self.heap.allocated()
            if before is not None and allocated is not None:
                growth = (allocated - before[0]) - (self._accounted - before[1])
                # Requests allocate too. Far from the estimate is not a measurement of this load.
                if estimate // 8 <= growth <= 4 * estimate:
                    measured = growth
            self._accounted += measured
            return measured

    def release(self, made: Made) -> None:
        """Free the session, in the thread that calls."""
        made.session = None
        with self._lock:
            self._accounted -= made.measured_bytes


def _session_options(artifact_bytes: int) -> Any:
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.enable_cpu_mem_arena = options.enable_mem_pattern = artifact_bytes >= _ARENA_FROM
    options.log_severity_level = 4  # fatal only: what goes wrong arrives as an exception
    return options
