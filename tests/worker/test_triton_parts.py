"""The parts of the Triton runtime that need no Triton: what is written, read and concluded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2

from berth.errors import BerthError, Internal, InvalidArgument, Unavailable
from berth.model import Signature, TensorSpec
from berth.oip.datatypes import bytes_array
from berth.settings import SettingsError
from doubles import onnx_models
from worker.runtimes.protocol import LoadFailed
from worker.runtimes.triton import canary
from worker.runtimes.triton.faults import load_failure, run_failure
from worker.runtimes.triton.installation import FACTS, locate
from worker.runtimes.triton.onnx_signature import read_signature
from worker.runtimes.triton.repository import Repository
from worker.runtimes.triton.shared_memory import clean_shared_memory, remove_region
from worker.runtimes.triton.stubs import ProcessWatch, find_stubs, own_bytes

NAME = "acme~digits~3"


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


ORT_NODE = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Reshape node. "
    "Name:'' Status Message: /src/onnxruntime/core/reshape.h:39 onnxruntime::Reshape(x) size == 6 was false. "
    "The input tensor cannot be reshaped to the requested shape."
)


@pytest.mark.parametrize(
    ("code", "details", "kind", "text"),
    [
        ("INTERNAL", ORT_NODE, InvalidArgument, "rejects the inputs in a Reshape node: The input"),
        ("INVALID_ARGUMENT", "[request id: <id_unknown>] unexpected shape", InvalidArgument, "unexpected shape"),
        ("INVALID_ARGUMENT", "a string is not UTF-8 text", InvalidArgument, "not UTF-8"),
        ("INTERNAL", "std::bad_alloc", Internal, "ran out of memory"),
        ("INTERNAL", "Stub process 'acme~digits~3_0_0' is not healthy.", Unavailable, "started again"),
        ("UNAVAILABLE", "Socket closed", Unavailable, "started again"),
        ("INTERNAL", "failed in /srv/models/a/1/model.py", Internal, "the model failed while running"),
    ],
)  # fmt: skip
def test_failed_runs(code: str, details: str, kind: type[BerthError], text: str) -> None:
    fault = run_failure(rpc_error(grpc.StatusCode[code], details))
    assert type(fault) is kind
    assert text in fault.detail
    assert "/" not in fault.detail


@pytest.mark.parametrize(
    ("details", "permanent", "text"),
    [
        (
            "load failed for model 'x': version 1 is at UNAVAILABLE state: Internal: TritonModelException: "
            "[berth:permanent] [ONNXRuntimeError] : 1 : FAIL : Load model from /w/models/x/1/model.onnx failed:"
            "This is an invalid model.\n\nAt:\n  /w/models/x/1/model.py(41): initialize\n;\n",
            True,
            "ONNX Runtime cannot load the model: This is an invalid model.",
        ),
        ("… [berth:transient] std::bad_alloc\n\nAt:\n", False, "not enough memory or disk to load the model"),
        ("Stub process 'x_0_0' is not healthy.", False, "Triton could not load the model: Stub process 'x_0_0'"),
    ],
)
def test_failed_loads(details: str, permanent: bool, text: str) -> None:
    failure = load_failure(rpc_error(grpc.StatusCode.INVALID_ARGUMENT, details))
    assert failure.permanent is permanent
    assert failure.reason.startswith(text)
    assert "/" not in failure.reason


def written(folder: Path, signature: Signature, *, native: bool = False) -> model_config_pb2.ModelConfig:
    (folder / "artifact").write_bytes(b"model")
    repository = Repository(folder / "models", native_onnx=native, threads=2)
    repository.clear()
    repository.write(NAME, signature, folder / "artifact")
    assert (folder / "models" / NAME / "1/model.onnx").read_bytes() == b"model"
    assert repository.script(NAME).exists() is not native
    assert [entry.name for entry in (folder / "models").iterdir()] == [NAME]
    config = text_format.Parse((folder / "models" / NAME / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    repository.remove(NAME)
    assert list((folder / "models").iterdir()) == []
    return config


def test_what_triton_is_told(tmp_path: Path) -> None:
    signature = Signature(
        (TensorSpec('the "x"\n', "FP32", (-1, 64)), TensorSpec("b", "BF16", ())),
        (TensorSpec("é", "BYTES", (-1,)),),
    )
    config = written(tmp_path, signature)
    assert (config.name, config.backend, config.max_batch_size) == (NAME, "python", 0)
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [
        ('the "x"\n', model_config_pb2.TYPE_FP32, [-1, 64]),
        ("b", model_config_pb2.TYPE_UINT16, [1]),
    ]
    assert config.output[0].data_type == model_config_pb2.TYPE_STRING
    assert config.parameters["threads"].string_value == "2"

    native = written(tmp_path, signature, native=True)
    assert native.backend == "onnxruntime"
    assert native.input[1].data_type == model_config_pb2.TYPE_BF16
    assert native.input[1].HasField("reshape")


def test_signatures_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_models.double())
    assert read_signature(path).inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert [spec.name for spec in read_signature(path).outputs] == ["y", "z"]

    # An old model: the constant is listed as an input, and nothing is said of the output's shape.
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "w")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value, [output], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    assert read_signature(path) == Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),))


@pytest.mark.parametrize(
    ("model", "permanent", "text"),
    [
        (onnx_models.sequence(), True, "output 'y' has a type"),
        (onnx_models.external("../secret"), True, "weights in other files"),
        (b"\xff\xff", True, "not an ONNX model"),
        (None, False, "cannot be read"),
    ],
)
def test_signatures_that_cannot_be_served(tmp_path: Path, model: bytes | None, permanent: bool, text: str) -> None:
    path = tmp_path / "model.onnx"
    if model is not None:
        path.write_bytes(model)
    with pytest.raises(LoadFailed) as caught:
        read_signature(path)
    assert text in caught.value.reason
    assert caught.value.permanent is permanent


def test_the_canary_sees_wrong_values(tmp_path: Path) -> None:
    given = canary.inputs()
    right = {"y": given["x"] * 2, "t": given["s"]}
    assert canary.is_sound(right)
    for wrong in (
        {},
        {"y": right["y"]},
        {**right, "y": np.zeros((2, 3), np.float32)},
        {**right, "y": right["y"].astype(np.float64)},
        {**right, "y": np.zeros((0, 3), np.float32)},
        {**right, "t": bytes_array([], (0,))},
    ):
        assert not canary.is_sound(wrong)
    canary.write_model(tmp_path / "canary.onnx")
    assert read_signature(tmp_path / "canary.onnx") == canary.SIGNATURE


def test_where_triton_is(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="make one with"):
        locate(tmp_path)

    (tmp_path / FACTS).write_text(json.dumps({"root": "lib/triton", "library_path": "/py/lib"}))
    with pytest.raises(SettingsError, match="tritonserver is missing"):
        locate(tmp_path)
    for name in ("bin/tritonserver", "backends/python/triton_python_backend_stub"):
        file = tmp_path / "lib/triton" / name
        file.parent.mkdir(parents=True)
        file.touch()
    found = locate(tmp_path)
    assert not found.native_onnx
    environment = found.environment({"BERTH_SECRET": "s", "CUDA_VISIBLE_DEVICES": "0", "PATH": "/evil"})
    assert environment == {
        "CUDA_VISIBLE_DEVICES": "0",
        "PATH": f"{tmp_path}/bin:/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": "/py/lib",
        "LANG": "C.UTF-8",
    }

    image = tmp_path / "image"
    for name in ("bin", "backends/onnxruntime"):
        (image / name).mkdir(parents=True)
    (image / "bin/tritonserver").touch()
    assert locate(image).native_onnx


def test_shared_memory_of_others_is_left_alone(tmp_path: Path) -> None:
    mine, others = f"berth_test{tmp_path.name}_a", f"berth_tesx{tmp_path.name}_a"
    folder = Path("/dev/shm")
    for name in (mine, others):
        (folder / name).touch()
    try:
        remove_region(f"berth_test{tmp_path.name}_", others)
        clean_shared_memory(f"berth_test{tmp_path.name}_")
        assert not (folder / mine).exists()
        assert (folder / others).exists()
    finally:
        with contextlib.suppress(FileNotFoundError):
            (folder / others).unlink()


async def test_processes_are_found_measured_and_watched(tmp_path: Path) -> None:
    script = tmp_path / "model (1) x.py"
    script.write_text("import sys\ndata = bytearray(b'x' * (8 << 20))\nprint(flush=True)\nsys.stdin.read()\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, "berth_region",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    over = asyncio.Event()
    async with asyncio.timeout(20):
        await process.stdout.readline()
        (stub,) = find_stubs(os.getpid(), script)
        assert (stub.pid, stub.region) == (process.pid, "berth_region")
        assert find_stubs(1, script) == []
        assert own_bytes(stub.pid) > 8 << 20
        watch = ProcessWatch(stub.pid, over.set)
        stub.kill()
        await watch.over.wait()
        await process.wait()
        assert over.is_set()
        stub.kill()
        late = ProcessWatch(stub.pid, lambda: None)
        await late.over.wait()
        assert own_bytes(stub.pid) == 0
