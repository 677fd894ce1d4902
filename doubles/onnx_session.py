"""A plain session of ONNX Runtime, for tests that ask the runtime itself.

A process has one kind of session: those with threads of their own, or those that share the process's. A worker's share
them, and one process runs many tests.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import onnxruntime


def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Raises what ONNX Runtime raises."""
    with suppress(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
        # Refused when they are there already.
        onnxruntime.set_global_thread_pool_sizes(1, 1)
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
