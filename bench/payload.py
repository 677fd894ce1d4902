"""What is sent and answered: real messages of the Open Inference Protocol, 1 KiB or 600 KB of tensor in them."""

from __future__ import annotations

from tritonclient.grpc import service_pb2

from bench import framing

TENANT = "bench"
MODEL = "digits"
VERSION = 1
KEY = "bench-key-of-the-only-tenant-0123456789abcde"
SMALL, LARGE = 1024, 600_000
LARGE_FROM = 100_000
"""Requests of at least this many bytes get a large answer."""

GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
HTTP_PATH = f"/v2/models/{MODEL}/infer"


def grpc_request(size: int) -> bytes:
    """A ModelInferRequest with its gRPC prefix."""
    request = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(size)])
    request.inputs.add(name="x", datatype="UINT8", shape=[size])
    return framing.message(request.SerializeToString())


def http_request(size: int) -> tuple[bytes, dict[str, str]]:
    """The body of an infer request with one binary tensor, and the headers that go with it."""
    head = f'{{"inputs":[{_tensor(size)}]}}'.encode()
    return head + bytes(size), {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(head)),
    }


def http_reply(replica: str, *, large: bool) -> bytes:
    """A whole HTTP/1.1 response."""
    size = LARGE if large else SMALL
    head = f'{{"model_name":"{MODEL}","model_version":"{VERSION}","outputs":[{_tensor(size)}]}}'.encode()
    lines = (
        "HTTP/1.1 200 OK",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + size}",
        f"berth-replica: {replica}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + head + bytes(size)


def grpc_reply(replica: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Header block, small message, large message, block of trailers."""
    bodies = []
    for size in (SMALL, LARGE):
        response = service_pb2.ModelInferResponse(
            model_name=MODEL, model_version=str(VERSION), raw_output_contents=[bytes(size)]
        )
        response.outputs.add(name="x", datatype="UINT8", shape=[size])
        bodies.append(framing.message(response.SerializeToString()))
    head = framing.header_block(
        ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"berth-replica", replica.encode()))
    )
    return head, bodies[0], bodies[1], framing.header_block(((b"grpc-status", b"0"),))


def _tensor(size: int) -> str:
    return f'{{"name":"x","datatype":"UINT8","shape":[{size}],"parameters":{{"binary_data_size":{size}}}}}'
