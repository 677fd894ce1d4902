"""What an ONNX file takes and gives, read without running it: Triton wants to be told before it loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from berth.model import Signature, TensorSpec
from worker.runtimes.protocol import LoadFailed

# onnx.TensorProto's element types.
_DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}


def read_signature(path: Path) -> Signature:
    """Blocks for as long as it takes to read the file. Raises `LoadFailed`, for good unless the file cannot be read."""
    import onnx  # 0.3 s and 20 MB, for workers with Triton only
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise LoadFailed(f"the artifact cannot be read: {error.strerror}", permanent=False) from None
    except DecodeError:
        raise LoadFailed("the artifact is not an ONNX model", permanent=True) from None
    graph = model.graph
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise LoadFailed("the model keeps weights in other files, which are not served", permanent=True)
    if not all(_has_shape(value) for value in graph.output):
        graph = onnx.shape_inference.infer_shapes(model).graph
    # In old models constants are listed as inputs too, and need not be given.
    constants = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in constants]
    for value in given:
        if not _has_shape(value):
            raise LoadFailed(f"input {value.name!r} has no number of dimensions, which Triton needs", permanent=True)
    return Signature(
        tuple(_spec("input", value) for value in given), tuple(_spec("output", value) for value in graph.output)
    )


def _has_shape(value: Any) -> bool:
    return bool(value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"))


def _spec(kind: str, value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    datatype = _DATATYPES.get(tensor.elem_type) if value.type.HasField("tensor_type") else None
    if datatype is None:
        raise LoadFailed(f"{kind} {value.name!r} has a type that inference requests cannot carry", permanent=True)
    if not _has_shape(value):
        return TensorSpec(value.name, datatype, (-1,))
    dims = tensor.shape.dim
    return TensorSpec(value.name, datatype, tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims))
