"""What Triton, its Python backend and the ONNX Runtime inside say, in the terms of `worker.runtimes.protocol`."""

from __future__ import annotations

import re

import grpc
import grpc.aio

from berth.errors import BerthError, Internal, InvalidArgument, Unavailable
from worker.runtimes.protocol import LoadFailed

_OURS = re.compile(r"\[berth:(permanent|transient)\] (.*?)(?:\n\nAt:|$)", re.DOTALL)
# "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ", and where the file was.
_REQUEST = re.compile(r"^\[request id: [^\]]*\] ")
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed:\s*)?")
_NODE = re.compile(r"Non-zero status code returned while running (\w+) node\..*?Status Message: (.*)$", re.DOTALL)
_SOURCE = re.compile(r"\S*\.(?:cc|h|cpp|hpp|cu):\d+ .*?was false\.\s*", re.DOTALL)
_PATH = re.compile(r"(?<![\w.])/(?:[\w.~+-]+/)+[\w.~+-]*")
_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate", "out of memory")
_LONGEST = 500


def load_failure(error: grpc.aio.AioRpcError) -> LoadFailed:
    """Why a load failed. What our script does not explain is a matter of this machine, and may pass."""
    details = error.details() or ""
    found = _OURS.search(details)
    if found is None:
        return LoadFailed(f"Triton could not load the model: {_safe(details)}", permanent=False)
    if found[1] == "transient":
        return LoadFailed("not enough memory or disk to load the model", permanent=False)
    return LoadFailed(f"ONNX Runtime cannot load the model: {_safe(found[2])}", permanent=True)


def run_failure(error: grpc.aio.AioRpcError) -> BerthError:
    """Why a run failed: the request's fault, one of the moment, or one of ours."""
    details = error.details() or ""
    code = error.code()
    text = _PREFIX.sub("", _REQUEST.sub("", details))
    node = _NODE.search(text)
    if any(sign in details for sign in _OUT_OF_MEMORY):
        return Internal("the model ran out of memory")
    if node is not None:
        return InvalidArgument(f"the model rejects the inputs in a {node[1]} node: {_safe(node[2])}")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidArgument(_safe(text))
    if code is grpc.StatusCode.UNAVAILABLE or "Stub process" in details:
        return Unavailable("the model's process ended while it ran the request; it is being started again")
    return Internal("the model failed while running")


def _safe(text: str) -> str:
    """`text` on one line, without the paths of this machine, of bounded length."""
    text = " ".join(_PATH.sub("…", _SOURCE.sub("", _PREFIX.sub("", text))).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
