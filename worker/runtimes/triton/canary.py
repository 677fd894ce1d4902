"""A model whose answers are known, run once whenever Triton has started.

With a wrong numpy in its venv, Triton's Python backend corrupts inputs and returns empty outputs without an error.
What is at stake are wrong answers, so it is the values that are checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from berth.model import Signature, TensorSpec
from worker.runtimes.protocol import Array

# No servable's name: it lacks the separator.
NAME = "berth-canary"
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("s", "BYTES", (-1,))),
    (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("t", "BYTES", (-1,))),
)


def write_model(path: Path) -> None:
    """Write the model: y = x + x, t = s."""
    from onnx import TensorProto, helper

    def values(first: str, second: str) -> list[Any]:
        return [
            helper.make_tensor_value_info(first, TensorProto.FLOAT, [None, 3]),
            helper.make_tensor_value_info(second, TensorProto.STRING, [None]),
        ]

    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Identity", ["s"], ["t"])]
    graph = helper.make_graph(nodes, "canary", values("x", "s"), values("y", "t"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def inputs() -> dict[str, Array]:
    strings = np.empty(2, dtype=object)
    strings[:] = [b"berth", b"\xc3\xa9"]
    return {"x": np.array([[1.5, -2, 1e30], [0, 7, -0.25]], np.float32), "s": strings}


def is_sound(outputs: Mapping[str, Array]) -> bool:
    """Whether the answers to `inputs()` are right, to the last bit."""
    given = inputs()
    return (
        set(outputs) == {"y", "t"}
        and outputs["y"].dtype == np.float32
        and np.array_equal(outputs["y"], given["x"] + given["x"])
        and outputs["t"].tolist() == given["s"].tolist()
    )
