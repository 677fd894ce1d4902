"""OIP over gRPC: `ModelInferRequest` and `ModelInferResponse` from and to tensors. Messages are tritonclient's.

Requests may carry tensors raw or in typed fields; what is sent from here is always raw, as Triton does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from berth.errors import InvalidArgument
from berth.oip.datatypes import Array, check_shape, datatype_of, from_raw, to_raw
from berth.oip.numbers import from_flat
from berth.oip.request import InferRequest, InferResponse, OutputWish

_FIELDS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def parse_request(raw: bytes) -> service_pb2.ModelInferRequest:
    """The message that `raw` spells. Raises `InvalidArgument` for bytes that spell none."""
    try:
        return service_pb2.ModelInferRequest.FromString(raw)
    except DecodeError:
        raise InvalidArgument("the message is not a ModelInferRequest") from None


def decode_request(message: service_pb2.ModelInferRequest) -> InferRequest:
    """Read the tensors of a request. Raises `InvalidArgument`, and nothing else, where they are wrong."""
    # Reading a key that a protobuf map lacks would add it.
    sequence = message.parameters.get("sequence_id")
    if sequence is not None and (sequence.int64_param or sequence.string_param):
        raise InvalidArgument("sequences are not served: leave out sequence_id")
    wishes: dict[str, OutputWish] = {}
    for output in message.outputs:
        what = f"output {output.name[:200]!r}"
        _refuse_extensions(what, output.parameters)
        if output.name in wishes:
            raise InvalidArgument(f"{what} is asked for twice")
        wishes[output.name] = OutputWish(output.name)
    inputs = _read_tensors("input", message.inputs, message.raw_input_contents)
    return InferRequest(inputs, tuple(wishes.values()), message.id)


def encode_request(model: str, request: InferRequest) -> service_pb2.ModelInferRequest:
    """What a client sends."""
    message = service_pb2.ModelInferRequest(model_name=model, id=request.id)
    for name, array in request.inputs.items():
        message.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        message.raw_input_contents.append(to_raw(array))
    for wish in request.outputs:
        message.outputs.add(name=wish.name)
    return message


def encode_response(response: InferResponse) -> service_pb2.ModelInferResponse:
    message = service_pb2.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for name, array in response.outputs.items():
        message.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        message.raw_output_contents.append(to_raw(array))
    return message


def decode_response(message: service_pb2.ModelInferResponse) -> InferResponse:
    """Read the tensors of an answer. Raises `InvalidArgument` where they are wrong."""
    outputs = _read_tensors("output", message.outputs, message.raw_output_contents)
    return InferResponse(message.model_name, message.model_version, outputs, message.id)


def _read_tensors(kind: str, tensors: Any, raw: Any) -> dict[str, Array]:
    if raw and len(raw) != len(tensors):
        raise InvalidArgument(f"raw_{kind}_contents has {len(raw)} entries for {len(tensors)} {kind}s")
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        if not tensor.name:
            raise InvalidArgument(f"the name of an {kind} is a string that is not empty")
        what = f"{kind} {tensor.name[:200]!r}"
        if tensor.name in arrays:
            raise InvalidArgument(f"{what} is given twice")
        _refuse_extensions(what, tensor.parameters)
        shape = check_shape(what, tensor.shape, tensor.datatype)
        if raw:
            if tensor.HasField("contents") and tensor.contents.ListFields():
                raise InvalidArgument(f"{what}: both contents and raw_{kind}_contents are given")
            arrays[tensor.name] = from_raw(what, tensor.datatype, shape, raw[index])
        else:
            arrays[tensor.name] = _read_contents(what, tensor.datatype, shape, tensor.contents)
    return arrays


def _read_contents(what: str, datatype: str, shape: tuple[int, ...], contents: Any) -> Array:
    field = _FIELDS.get(datatype)
    if field is None:
        raise InvalidArgument(f"{what}: {datatype} has no typed field, send it raw")
    for descriptor, _ in contents.ListFields():
        if descriptor.name != field:
            raise InvalidArgument(f"{what}: {datatype} elements go into {field}, not {descriptor.name}")
    return from_flat(what, datatype, shape, list(getattr(contents, field)))


def _refuse_extensions(what: str, parameters: Mapping[str, Any]) -> None:
    if "shared_memory_region" in parameters:
        raise InvalidArgument(f"{what}: shared memory is not served; send the data")
    if "classification" in parameters and parameters["classification"].int64_param:
        raise InvalidArgument(f"{what}: the classification extension is not served")
