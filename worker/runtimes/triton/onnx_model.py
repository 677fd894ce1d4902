"""Runs one ONNX model inside Triton's Python backend. Triton starts a process with this file for each servable.

Not part of the worker's process: it is copied beside the model and sees only the packages of Triton's own venv. What
it says in errors is read by `worker.runtimes.triton.faults`.
"""

import ctypes
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it

_STATE = ort.capi.onnxruntime_pybind11_state
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
# How often a long run is asked whether its client has given up; shorter runs are never asked.
_PATIENCE_S = 0.05


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["threads"]["string_value"])
        options.inter_op_num_threads = 1
        # An arena keeps the memory of the largest request for ever; hundreds of models share this machine.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.log_severity_level = 4
        path = Path(__file__).with_name("model.onnx")
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            text = str(error)
            passing = isinstance(error, (MemoryError, _STATE.NoSuchFile)) or "bad_alloc" in text
            kind = "transient" if passing else "permanent"
            raise pb_utils.TritonModelException(f"[berth:{kind}] {text}") from None
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        self._types = {node.name: node.type for node in nodes}
        self._scalars = {node.name for node in self._session.get_inputs() if node.shape == []}
        self._has_bfloat16 = "tensor(bfloat16)" in self._types.values()
        # The request that runs now and the options it runs with; `_watch` ends it when its client has given up.
        self._running: tuple[Any, Any] | None = None
        self._busy = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        if request.is_cancelled():
            return _failed("the request was cancelled", pb_utils.TritonError.CANCELLED)
        options = ort.RunOptions()
        try:
            feed = {tensor.name(): self._to_session(tensor) for tensor in request.inputs()}
        except UnicodeDecodeError:
            return _failed("a string is not UTF-8 text", pb_utils.TritonError.INVALID_ARG)
        names = request.requested_output_names()
        self._running = (request, options)
        self._busy.set()
        try:
            outputs = self._run(names, feed, options)
        except (_STATE.InvalidArgument, ValueError) as error:
            return _failed(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            # ONNX Runtime's errors have no common class but this one.
            code = pb_utils.TritonError.CANCELLED if options.terminate else pb_utils.TritonError.INTERNAL
            return _failed(str(error), code)
        finally:
            self._busy.clear()
            self._running = None
        return pb_utils.InferenceResponse([_to_triton(name, array) for name, array in zip(names, outputs, strict=True)])

    def _run(self, names: list[str], feed: dict[str, Any], options: Any) -> list[Any]:
        if not self._has_bfloat16:
            outputs: list[Any] = self._session.run(names, feed, options)
            return outputs
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
            if self._types[name] == "tensor(bfloat16)"
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feed.items()
        }
        return [_bits(value) for value in self._session.run_with_ort_values(names, values, options)]

    def _to_session(self, tensor: Any) -> Any:
        array = tensor.as_numpy()
        if array.dtype == np.object_:
            texts = np.empty(array.size, dtype=np.object_)
            texts[:] = [element.decode() for element in array.ravel()]
            array = texts.reshape(array.shape)
        return array.reshape(()) if tensor.name() in self._scalars else array

    def _watch(self) -> None:
        while True:
            self._busy.wait()
            before = self._running
            time.sleep(_PATIENCE_S)
            if before is None or self._running is not before:
                continue
            request, options = before
            if request.is_cancelled():
                options.terminate = True


def _to_triton(name: str, array: Any) -> Any:
    if array.dtype == np.object_:
        encoded = np.empty(array.size, dtype=np.object_)
        encoded[:] = [element.encode() for element in array.ravel()]
        array = encoded.reshape(array.shape)
    # Triton has no tensors without dimensions.
    return pb_utils.Tensor(name, array.reshape(array.shape or (1,)))


def _bits(value: Any) -> Any:
    """The bits of a bfloat16 tensor as integers: numpy has no type for it."""
    if value.element_type() != _BFLOAT16:
        return value.numpy()
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, dtype=np.uint16).reshape(value.shape())


def _failed(text: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(text, code))
