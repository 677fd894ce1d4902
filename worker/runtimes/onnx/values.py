"""Between ONNX Runtime's tensors and Berth's: types, shapes, strings, bfloat16, and the words for what went wrong."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from berth.errors import InvalidArgument
from berth.model import Signature, TensorSpec
from worker.runtimes.protocol import Array, LoadFailed

# ONNX Runtime's name of a tensor type -> OIP's, and numpy's dtype for it.
_TYPES: dict[str, tuple[str, Any]] = {
    "bool": ("BOOL", np.bool_),
    "uint8": ("UINT8", np.uint8),
    "uint16": ("UINT16", np.uint16),
    "uint32": ("UINT32", np.uint32),
    "uint64": ("UINT64", np.uint64),
    "int8": ("INT8", np.int8),
    "int16": ("INT16", np.int16),
    "int32": ("INT32", np.int32),
    "int64": ("INT64", np.int64),
    "float16": ("FP16", np.float16),
    "float": ("FP32", np.float32),
    "double": ("FP64", np.float64),
    "bfloat16": ("BF16", ml_dtypes.bfloat16),
    "string": ("BYTES", np.object_),
}
_DTYPES = dict(_TYPES.values())
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16

# "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : " and what follows in the text of every ONNX Runtime error.
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_FROM_PATH = re.compile(r"^Load model from .*? failed:\s*")
_NODE = re.compile(r"^Non-zero status code returned while running (\w+) node\..*?Status Message: (.*)$", re.DOTALL)
# Where in ONNX Runtime's own sources a check failed, and which: "/onnxruntime_src/….h:91 ns::F(…) a == b was false. ".
_SOURCE = re.compile(r"\S*\.(?:cc|h|cpp|hpp|cu):\d+ .*?was false\.\s*", re.DOTALL)
_PATH = re.compile(r"(?<![\w.])/(?:[\w.~+-]+/)+[\w.~+-]*")
_LONGEST = 500


def tensor_spec(kind: str, node: Any) -> TensorSpec:
    """The specification of a session's input or output. Raises `LoadFailed` for what OIP cannot carry."""
    found = re.fullmatch(r"tensor\((\w+)\)", node.type)
    if found is None or found[1] not in _TYPES:
        raise LoadFailed(
            f"{kind} {node.name!r} has the type {node.type}, which inference requests cannot carry", permanent=True
        )
    shape = tuple(extent if isinstance(extent, int) and extent >= 0 else -1 for extent in node.shape)
    return TensorSpec(node.name, _TYPES[found[1]][0], shape)


def smallest(spec: TensorSpec) -> Array:
    """A tensor of zeros or empty strings that fits `spec`, with one element along each free dimension."""
    shape = tuple(1 if extent < 0 else extent for extent in spec.shape)
    fill = b"" if spec.datatype == "BYTES" else 0
    return np.full(shape, fill, dtype=_DTYPES[spec.datatype])


def smallest_bytes(specs: Sequence[TensorSpec]) -> int:
    """What the `smallest` tensors of `specs` take together."""
    return sum(
        np.dtype(_DTYPES[spec.datatype]).itemsize * math.prod(1 if extent < 0 else extent for extent in spec.shape)
        for spec in specs
    )


def to_runtime(name: str, array: Array) -> Any:
    """`array` as ONNX Runtime takes it: strings as text, bfloat16 as a value of its own."""
    if array.dtype == np.object_:
        try:
            texts = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
        except UnicodeDecodeError:
            raise InvalidArgument(f"input {name!r} has an element that is not UTF-8 text") from None
        text = np.empty(array.size, dtype=np.object_)
        text[:] = texts
        return text.reshape(array.shape)
    if array.dtype == ml_dtypes.bfloat16:
        bits = np.ascontiguousarray(array).view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _ONNX_BFLOAT16)
    return array


Runner = Callable[[Any, Sequence[str], Mapping[str, Any], Any], dict[str, Array]]
"""Runs a session: names of outputs, inputs as `to_runtime` makes them, RunOptions."""


def runner(signature: Signature) -> Runner:
    """What runs a session with this signature."""
    values = any(spec.datatype == "BF16" for spec in (*signature.inputs, *signature.outputs))
    return run_values if values else run_plain


def run_plain(session: Any, names: Sequence[str], feed: Mapping[str, Any], options: Any) -> dict[str, Array]:
    """Run a session without bfloat16."""
    answers = session.run(names, feed, options)
    return {name: _from_text(answer) for name, answer in zip(names, answers, strict=True)}


def run_values(session: Any, names: Sequence[str], feed: Mapping[str, Any], options: Any) -> dict[str, Array]:
    """Run a session that has bfloat16 tensors, for which ONNX Runtime has no numpy type."""
    values = {
        name: value if isinstance(value, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(value)
        for name, value in feed.items()
    }
    answers = session.run_with_ort_values(names, values, options)
    return {name: _from_value(answer) for name, answer in zip(names, answers, strict=True)}


def rejection(error: Exception) -> str | None:
    """What a failed run says about the request, or None if it is not the request's fault."""
    text = _PREFIX.sub("", str(error))
    node = _NODE.match(text)
    if node is not None:
        if "bad_alloc" in node[2] or "Failed to allocate" in node[2] or "out of memory" in node[2].lower():
            return None
        return f"the model rejects the inputs in a {node[1]} node: {safe_text(node[2])}"
    if isinstance(error, _rejections()):
        return safe_text(text)
    return None


def load_failure(error: Exception) -> LoadFailed:
    """Why a session could not be made. Lack of memory, or of the file, may pass; everything else is the model's."""
    text = _FROM_PATH.sub("", _PREFIX.sub("", str(error)))
    state = ort.capi.onnxruntime_pybind11_state
    if isinstance(error, MemoryError) or "bad_alloc" in text or "Failed to allocate" in text:
        return LoadFailed("not enough memory to load the model", permanent=False)
    if isinstance(error, state.NoSuchFile):
        return LoadFailed("the artifact is no longer on disk", permanent=False)
    return LoadFailed(f"ONNX Runtime cannot load the model: {safe_text(text)}", permanent=True)


def safe_text(text: str) -> str:
    """`text` without the paths of this machine and ONNX Runtime's sources, on one line, of bounded length."""
    text = _PATH.sub("…", _SOURCE.sub("", text))
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _rejections() -> tuple[type[Exception], ...]:
    state = ort.capi.onnxruntime_pybind11_state
    # ValueError: the Python layer found an input missing.
    return (state.InvalidArgument, ValueError)


def _from_text(array: Array) -> Array:
    if array.dtype != np.object_:
        return array
    encoded = np.empty(array.size, dtype=np.object_)
    encoded[:] = [item.encode() for item in array.ravel()]
    return encoded.reshape(array.shape)


def _from_value(value: Any) -> Array:
    if value.element_type() != _ONNX_BFLOAT16:
        return _from_text(value.numpy())
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, dtype=ml_dtypes.bfloat16).reshape(value.shape())
