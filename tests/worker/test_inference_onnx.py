"""From the wire into a real ONNX Runtime and back: what the codec hands over without copying, the runtime can read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import aiohttp
import grpc.aio
import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2_grpc

from berth.auth.peer import PeerCredential
from berth.headers import INFERENCE_HEADER_LENGTH_TEXT
from berth.ids import VersionKey
from berth.model import Artifact, VersionSpec
from berth.oip import rest, rpc
from berth.oip.datatypes import Array, bytes_array
from berth.oip.request import InferRequest
from berth.resources import Resources
from doubles import onnx_models
from worker.runtimes.onnx.runtime import OnnxRuntime
from worker.runtimes.protocol import Loaded
from worker.scheduling.local import ScheduledRuntime
from worker.serving.server import InferenceServer, serve_inference

CREDENTIAL = PeerCredential.from_token("t" * 40)

TENSORS: dict[str, tuple[int, Array]] = {
    "fp32": (TensorProto.FLOAT, np.array([0.1, -2, 3e38], np.float32)),
    "fp64": (TensorProto.DOUBLE, np.array([0.1, -2, 3e300])),
    "int64": (TensorProto.INT64, np.array([-(2**63), 0, 2**63 - 1])),
    "bool": (TensorProto.BOOL, np.array([True, False])),
    "fp16": (TensorProto.FLOAT16, np.array([0.5, -2], np.float16)),
    "bf16": (TensorProto.BFLOAT16, np.array([0.5, -2], ml_dtypes.bfloat16)),
    "bytes": (TensorProto.STRING, bytes_array([b"", "é".encode()], (2,))),
    "none": (TensorProto.FLOAT, np.zeros(0, np.float32)),
}


class Held:
    def __init__(self, versions: dict[VersionKey, Loaded]) -> None:
        self._versions = versions

    def held(self) -> frozenset[VersionKey]:
        return frozenset(self._versions)

    def acquire(self, key: VersionKey) -> AbstractContextManager[Loaded]:
        @contextlib.contextmanager
        def borrow() -> Iterator[Loaded]:
            yield self._versions[key]

        return borrow()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[InferenceServer]:
    runtime = ScheduledRuntime(OnnxRuntime(intra_op_threads=1), threads=1)
    versions: dict[VersionKey, Loaded] = {}
    for name, (element_type, _) in TENSORS.items():
        path = tmp_path / name / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(onnx_models.identity(element_type))
        key = VersionKey("acme", name, 1)
        versions[key] = await runtime.load(VersionSpec(key, Artifact("0" * 64, 1), Resources.host(1 << 20)), path)
        await versions[key].warm_up()
    try:
        async with serve_inference(
            Held(versions),
            credential=CREDENTIAL,
            grpc_address="127.0.0.1:0",
            http_address="127.0.0.1:0",
            replica="w-1",
            registry=CollectorRegistry(),
        ) as running:
            yield running
    finally:
        for loaded in versions.values():
            await loaded.unload()
        await runtime.close()


def same(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tolist() == right.tolist()


@pytest.mark.parametrize("binary", [True, False])
async def test_rest(server: InferenceServer, binary: bool) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.http_port}", headers=CREDENTIAL.headers()) as http:
        for name, (_, tensor) in TENSORS.items():
            # Ids of every length bring the raw tensors behind them to every alignment.
            for padding in range(1, 9):
                request = InferRequest({"x": tensor}, id="i" * padding, binary_outputs=binary)
                body = rest.encode_request(request, binary=binary)
                path = f"/v2/models/acme~{name}~1/infer"
                async with http.post(path, data=body.content, headers=body.headers) as response:
                    raw = await response.read()
                    assert response.status == 200, raw
                    answer = rest.decode_response(raw, response.headers.get(INFERENCE_HEADER_LENGTH_TEXT))
                assert same(answer.outputs["y"], tensor)
                assert (answer.model, answer.version, answer.id) == (name, "1", "i" * padding)


async def test_grpc(server: InferenceServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for name, (_, tensor) in TENSORS.items():
            message = rpc.encode_request(f"acme~{name}~1", InferRequest({"x": tensor}))
            answer = rpc.decode_response(await stub.ModelInfer(message, metadata=CREDENTIAL.metadata()))
            assert same(answer.outputs["y"], tensor)
