"""Tiny ONNX models as bytes, each named for what it does. Imports `onnx`, so only tests and benchmarks use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET = 17
_IR_VERSION = 8

Dims = Sequence[int | str | None]


def linear(weights: npt.ArrayLike, bias: npt.ArrayLike | None = None) -> bytes:
    """`y = x @ weights [+ bias]` in FP32: x is [-1, rows of weights], y is [-1, columns of weights]."""
    matrix = np.asarray(weights, np.float32)
    constants = [numpy_helper.from_array(matrix, "weights")]
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["y" if bias is None else "product"])]
    if bias is not None:
        constants.append(numpy_helper.from_array(np.asarray(bias, np.float32), "bias"))
        nodes.append(helper.make_node("Add", ["product", "bias"], ["y"]))
    return _model(
        nodes,
        [_value("x", TensorProto.FLOAT, (None, matrix.shape[0]))],
        [_value("y", TensorProto.FLOAT, (None, matrix.shape[1]))],
        constants,
    )


def mlp(width: int, layers: int, seed: int = 0) -> bytes:
    """`layers` square FP32 layers of `width` with ReLU, about 4 · width² · layers bytes: x and y are [-1, width]."""
    rng = np.random.default_rng(seed)
    nodes, constants, last = [], [], "x"
    for layer in range(layers):
        values = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        constants.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
        last = "y" if layer == layers - 1 else f"r{layer}"
        nodes.append(helper.make_node("Relu", [f"h{layer}"], [last]))
    shape = (None, width)
    return _model(nodes, [_value("x", TensorProto.FLOAT, shape)], [_value("y", TensorProto.FLOAT, shape)], constants)


def identity(element_type: int = TensorProto.FLOAT, shape: Dims = (None,)) -> bytes:
    """`y = x` of one ONNX element type (`onnx.TensorProto.FLOAT`, `STRING`, `BFLOAT16`, …)."""
    return _model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [_value("x", element_type, shape)],
        [_value("y", element_type, shape)],
    )


def double(columns: int = 2) -> bytes:
    """`y = x + x` and `z = -x` in FP32, each [-1, columns]."""
    shape = (None, columns)
    return _model(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])],
        [_value("x", TensorProto.FLOAT, shape)],
        [_value("y", TensorProto.FLOAT, shape), _value("z", TensorProto.FLOAT, shape)],
    )


def slow_loop(rounds: int | None = None) -> bytes:
    """`y = x + rounds`, one addition at a time (about 0.5 µs each): x and y are FP32 scalars.

    Without `rounds` the caller chooses them: a second input `n`, an INT64 scalar. Quick at `n` = 0, endless at 2**62.
    """
    scalar: Dims = ()
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["sum_in", "one"], ["sum_out"]),
        ],
        "body",
        [
            _value("i", TensorProto.INT64, scalar),
            _value("go_in", TensorProto.BOOL, scalar),
            _value("sum_in", TensorProto.FLOAT, scalar),
        ],
        [_value("go_out", TensorProto.BOOL, scalar), _value("sum_out", TensorProto.FLOAT, scalar)],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    inputs = [_value("x", TensorProto.FLOAT, scalar)]
    constants = []
    if rounds is None:
        inputs.append(_value("n", TensorProto.INT64, scalar))
    else:
        constants.append(numpy_helper.from_array(np.array(rounds, np.int64), "n"))
    return _model(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        inputs,
        [_value("y", TensorProto.FLOAT, scalar)],
        constants,
    )


def reshape() -> bytes:
    """`y = x` reshaped to `shape`: fits its signature with any values, and rejects shapes of another size itself."""
    return _model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [_value("x", TensorProto.FLOAT, (None,)), _value("shape", TensorProto.INT64, (2,))],
        [_value("y", TensorProto.FLOAT, (None, None))],
    )


def fill() -> bytes:
    """`y` is a FP32 tensor of the `shape` (INT64 [2]) that the caller asks for: a request can ask for any memory."""
    return _model(
        [helper.make_node("ConstantOfShape", ["shape"], ["y"])],
        [_value("shape", TensorProto.INT64, (2,))],
        [_value("y", TensorProto.FLOAT, (None, None))],
    )


def sequence() -> bytes:
    """A model whose output is a sequence of tensors, which no inference protocol of ours can carry."""
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    return _model(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])], [_value("x", TensorProto.FLOAT, (None,))], [output]
    )


def external(location: str, rows: int = 4, columns: int = 3) -> bytes:
    """`linear` whose FP32 weights lie in the file `location`: hostile, since the file is not the tenant's."""
    weights = onnx.TensorProto(
        name="weights", data_type=TensorProto.FLOAT, dims=[rows, columns], data_location=TensorProto.EXTERNAL
    )
    weights.external_data.add(key="location", value=location)
    return _model(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        [_value("x", TensorProto.FLOAT, (None, rows))],
        [_value("y", TensorProto.FLOAT, (None, columns))],
        [weights],
    )


def _value(name: str, element_type: int, shape: Dims) -> Any:
    return helper.make_tensor_value_info(name, element_type, shape)


def _model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: Sequence[Any] = ()) -> bytes:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    data: bytes = model.SerializeToString()
    return data
