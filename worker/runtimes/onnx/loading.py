"""One load of a model into ONNX Runtime: the session, its signature, and a few runs on zeros.

All of it blocks, and is run in a loader thread; `cancel` and `stop` may be called from another.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnxruntime as ort
import structlog

from berth.model import Signature, VersionSpec
from worker.runtimes.onnx.values import (
    load_failure,
    rejection,
    runner,
    smallest,
    smallest_bytes,
    tensor_spec,
    to_runtime,
)
from worker.runtimes.protocol import LoadFailed

log = structlog.get_logger(__name__)

_ARENA_FROM = 8 * 2**20

_WARMUP_RUNS = 3
_WARMUP_BYTES = 64 * 2**20
# Whatever takes this long is no tiny run, however cold the first one is.
_LONG_RUN_S = 0.02


class SessionLoad:
    """Makes the session of an artifact that lies alone in its folder."""

    def __init__(self, spec: VersionSpec, path: Path, providers: list[str]) -> None:
        self._path = path
        self._providers = providers
        self._cancelled = False
        self._options = _session_options(spec.artifact.size_bytes)

    def cancel(self) -> None:
        self._cancelled = True
        self._options.set_load_cancellation_flag(True)

    def run(self) -> tuple[Any, Signature]:
        """The session and its signature. Raises `LoadFailed`."""
        self._check_alone()
        try:
            session = ort.InferenceSession(self._path, self._options, providers=self._providers, enable_fallback=False)
        except Exception as error:
            # As for runs: there is no narrower class that holds all that ONNX Runtime raises.
            raise load_failure(error) from None
        signature = Signature(
            tuple(tensor_spec("input", node) for node in session.get_inputs()),
            tuple(tensor_spec("output", node) for node in session.get_outputs()),
        )
        if self._cancelled:
            raise LoadFailed("cancelled", permanent=False)
        return session, signature

    def _check_alone(self) -> None:
        folder = self._path.parent
        if folder.is_dir() and any(entry.name != self._path.name for entry in folder.iterdir()):
            raise LoadFailed("the artifact does not lie alone in its folder", permanent=False)


class WarmUp:
    """A few runs on zeros. That they fail is no fault of the load: a sound model may reject zeros."""

    def __init__(self, name: str, session: Any, signature: Signature) -> None:
        self.best = float("inf")
        """Seconds of the quickest run so far."""
        self._name = name
        self._session = session
        self._signature = signature
        self._options = ort.RunOptions()

    def stop(self) -> None:
        self._options.terminate = True

    def run(self) -> float:
        """Seconds of the quickest run; infinity if they fail or are not tried. Never raises."""
        if smallest_bytes(self._signature.inputs) > _WARMUP_BYTES:
            return self.best
        names = [spec.name for spec in self._signature.outputs]
        run = runner(self._signature)
        try:
            feed = {spec.name: to_runtime(spec.name, smallest(spec)) for spec in self._signature.inputs}
            for _ in range(_WARMUP_RUNS):
                started = time.perf_counter()
                run(self._session, names, feed, self._options)
                self.best = min(self.best, time.perf_counter() - started)
                if self.best > _LONG_RUN_S:
                    break
        except Exception as error:
            log.info("warm-up failed", version=self._name, error=rejection(error) or type(error).__name__)
        return self.best


def _session_options(artifact_bytes: int) -> Any:
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.enable_cpu_mem_arena = options.enable_mem_pattern = artifact_bytes >= _ARENA_FROM
    options.log_severity_level = 4  # fatal only: what goes wrong arrives as an exception
    return options
