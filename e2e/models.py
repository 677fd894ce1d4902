"""Models that whole-process tests upload: small, real ONNX, with answers that can be checked by hand."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

WIDTH = 4


def multiplier(factor: float) -> bytes:
    """Outputs `product` and `again`, each `x` times `factor`: an answer mixed from two versions shows at once."""
    shape = [None, WIDTH]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["product"]), helper.make_node("Mul", ["factor", "x"], ["again"])],
        "multiplier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("product", "again")],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])],
    )
    return _serialize(graph)


def slow(rounds: int) -> bytes:
    """Outputs `product`, `x` itself, after so many rounds of a loop: something like 0.8 µs of one core each."""
    shape = [None, WIDTH]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes_on"]), helper.make_node("Mul", ["state", "one"], ["next"])],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, shape),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "", "x"], ["product"], body=body)],
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, shape)],
        [helper.make_tensor("rounds", TensorProto.INT64, [], [rounds])],
    )
    return _serialize(graph)


def heavy(megabytes: int) -> bytes:
    """A model whose weights take about `megabytes` MiB: fills jobs."""
    side = megabytes * (1 << 20) // 4 // WIDTH
    weights = np.zeros((WIDTH, side), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["wide"]), helper.make_node("ReduceSum", ["wide"], ["y"])],
        "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    return _serialize(graph)


def broken_when_loaded() -> bytes:
    """Well-formed for a parser, refused by every runtime: the shapes of its MatMul cannot meet."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "broken",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor("weights", TensorProto.FLOAT, [WIDTH + 1, 1], [1.0] * (WIDTH + 1))],
    )
    return _serialize(graph)


@functools.cache
def digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The handwritten digits that scikit-learn ships: 1,797 images of 64 pixels, and what they show."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target.astype(np.int64)


def _serialize(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized
