"""What a server and a model say of themselves, the same over REST and gRPC."""

from __future__ import annotations

import importlib.metadata
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from berth.model import Signature, TensorSpec

if TYPE_CHECKING:
    from tritonclient.grpc import service_pb2

SERVER_NAME = "berth"
PLATFORM = "onnx"
EXTENSIONS = ("binary_tensor_data",)
# How the paths of the gRPC service begin.
GRPC_METHODS = b"/inference.GRPCInferenceService/"


@cache
def server_version() -> str:
    return importlib.metadata.version("berth")


def server_metadata_json() -> bytes:
    return _dump({"name": SERVER_NAME, "version": server_version(), "extensions": EXTENSIONS})


def server_metadata_message() -> service_pb2.ServerMetadataResponse:
    # Imported late, here and below: it brings numpy, which a router needs only if someone asks for this.
    from tritonclient.grpc import service_pb2

    return service_pb2.ServerMetadataResponse(name=SERVER_NAME, version=server_version(), extensions=EXTENSIONS)


def live_json(live: bool) -> bytes:
    return _dump({"live": live})


def ready_json(ready: bool) -> bytes:
    return _dump({"ready": ready})


def yes_message(answer: bool) -> bytes:
    """A `ServerLiveResponse`, `ServerReadyResponse` or `ModelReadyResponse`: each is one boolean, field 1."""
    return b"\x08\x01" if answer else b""


def model_ready_json(model: str, ready: bool) -> bytes:
    return _dump({"name": model, "ready": ready})


def model_metadata_json(model: str, version: str, signature: Signature) -> bytes:
    return _dump(
        {
            "name": model,
            "versions": [version],
            "platform": PLATFORM,
            "inputs": [_spec_json(spec) for spec in signature.inputs],
            "outputs": [_spec_json(spec) for spec in signature.outputs],
        }
    )


def model_metadata_message(model: str, version: str, signature: Signature) -> service_pb2.ModelMetadataResponse:
    from tritonclient.grpc import service_pb2

    tensor = service_pb2.ModelMetadataResponse.TensorMetadata
    return service_pb2.ModelMetadataResponse(
        name=model,
        versions=[version],
        platform=PLATFORM,
        inputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in signature.inputs],
        outputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in signature.outputs],
    )


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
