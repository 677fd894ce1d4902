"""Encoding then decoding gives the same tensors back, and tritonclient's own encoders are the oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from berth.headers import INFERENCE_HEADER_LENGTH_TEXT
from berth.oip import rest, rpc
from berth.oip.datatypes import NUMPY_DTYPES, Array, bytes_array, datatype_of, from_raw, to_raw
from berth.oip.request import InferRequest, InferResponse, OutputWish

NUMERIC = sorted(set(NUMPY_DTYPES) - {"BYTES"})


@st.composite
def tensors(draw: st.DrawFn, datatypes: list[str] | None = None, *, text: bool = False) -> Array:
    datatype = draw(st.sampled_from(datatypes or [*NUMERIC, "BYTES"]))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    count = math.prod(shape)
    if datatype == "BYTES":
        element = st.text(max_size=9).map(str.encode) if text else st.binary(max_size=9)
        return bytes_array(draw(st.lists(element, min_size=count, max_size=count)), shape)
    dtype = NUMPY_DTYPES[datatype]
    size = count * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if datatype == "BOOL":
        raw = bytes(octet & 1 for octet in raw)
    return np.frombuffer(raw, dtype).reshape(shape)


def assert_same(left: Array, right: Array) -> None:
    assert left.shape == right.shape
    assert left.dtype == right.dtype
    if left.dtype == object:
        assert left.ravel().tolist() == right.ravel().tolist()
    elif left.dtype.kind in "biu":
        assert np.array_equal(left, right)
    else:
        with np.errstate(invalid="ignore"):
            assert np.array_equal(left.astype(np.float64), right.astype(np.float64), equal_nan=True)


def names(count: int) -> list[str]:
    return [f"tensor {index}" for index in range(count)]


inputs = st.lists(tensors(), min_size=1, max_size=3).map(lambda arrays: dict(zip(names(3), arrays, strict=False)))
json_inputs = st.lists(tensors(text=True), min_size=1, max_size=3).map(
    lambda arrays: dict(zip(names(3), arrays, strict=False))
)


@settings(deadline=None)
@given(tensors())
def test_raw_bytes_give_the_tensor_back_bit_by_bit(tensor: Array) -> None:
    back = from_raw("input", datatype_of(tensor), tensor.shape, to_raw(tensor))

    assert to_raw(back) == to_raw(tensor)
    assert (back.shape, back.dtype) == (tensor.shape, tensor.dtype)


@settings(deadline=None)
@given(json_inputs, st.text(max_size=5))
def test_json_gives_the_tensors_back(tensors_: dict[str, Array], request_id: str) -> None:
    request = InferRequest(tensors_, (OutputWish("y"), OutputWish("z", binary=True)), request_id, binary_outputs=True)

    body = rest.encode_request(request, binary=False)
    back = rest.decode_request(body.content, body.headers.get(INFERENCE_HEADER_LENGTH_TEXT))

    assert (back.outputs, back.id, back.binary_outputs) == (request.outputs, request_id, True)
    assert list(back.inputs) == list(tensors_)
    for name, tensor in tensors_.items():
        assert_same(back.inputs[name], tensor)


@settings(deadline=None)
@given(inputs)
def test_binary_bodies_give_the_tensors_back(tensors_: dict[str, Array]) -> None:
    body = rest.encode_request(InferRequest(tensors_), binary=True)
    back = rest.decode_request(body.content, body.headers[INFERENCE_HEADER_LENGTH_TEXT])

    for name, tensor in tensors_.items():
        assert to_raw(back.inputs[name]) == to_raw(tensor)
        assert back.inputs[name].shape == tensor.shape
        assert back.inputs[name].flags.aligned


@settings(deadline=None)
@given(inputs)
def test_messages_give_the_tensors_back(tensors_: dict[str, Array]) -> None:
    message = rpc.encode_request("m", InferRequest(tensors_, (OutputWish("y"),), "seven"))
    back = rpc.decode_request(rpc.parse_request(message.SerializeToString()))

    assert (back.output_names, back.id) == (("y",), "seven")
    for name, tensor in tensors_.items():
        assert to_raw(back.inputs[name]) == to_raw(tensor)
        assert back.inputs[name].shape == tensor.shape


@settings(deadline=None)
@given(json_inputs, st.booleans())
def test_answers_are_read_by_tritonclient_http_and_by_us(tensors_: dict[str, Array], binary: bool) -> None:
    answer = InferResponse("digits", "3", tensors_, "id-1")
    body = rest.encode_response(answer, InferRequest({}, binary_outputs=binary))
    header = body.headers.get(INFERENCE_HEADER_LENGTH_TEXT)

    theirs = triton_http.InferenceServerClient.parse_response_body(
        body.content, header_length=None if header is None else int(header)
    )
    ours = rest.decode_response(body.content, header)

    assert theirs.get_response()["model_name"] == "digits"
    assert theirs.get_response()["id"] == "id-1"
    assert (ours.model, ours.version, ours.id) == ("digits", "3", "id-1")
    for name, tensor in tensors_.items():
        assert_same(ours.outputs[name], tensor)
        read = theirs.as_numpy(name)
        assert read.shape == tensor.shape
        if tensor.dtype != object:
            assert_same(read.astype(tensor.dtype), tensor)
        else:
            expected = [element if binary else element.decode() for element in tensor.ravel()]
            assert read.ravel().tolist() == expected


@settings(deadline=None)
@given(inputs)
def test_answers_are_read_by_tritonclient_grpc_and_by_us(tensors_: dict[str, Array]) -> None:
    message = rpc.encode_response(InferResponse("digits", "3", tensors_, "id-1"))
    message = service_pb2.ModelInferResponse.FromString(message.SerializeToString())

    theirs = triton_grpc.InferResult(message)
    ours = rpc.decode_response(message)

    assert (ours.model, ours.version, ours.id) == ("digits", "3", "id-1")
    for name, tensor in tensors_.items():
        assert to_raw(ours.outputs[name]) == to_raw(tensor)
        assert theirs.as_numpy(name).shape == tensor.shape
        assert to_raw(theirs.as_numpy(name).astype(tensor.dtype)) == to_raw(tensor)


def their_inputs(module: Any, tensors_: dict[str, Array]) -> list[Any]:
    given_ = []
    for name, tensor in tensors_.items():
        given_.append(module.InferInput(name, list(tensor.shape), datatype_of(tensor)))
    return given_


@settings(deadline=None)
@given(json_inputs, st.booleans())
def test_requests_of_tritonclient_http_are_read(tensors_: dict[str, Array], binary: bool) -> None:
    given_ = their_inputs(triton_http, tensors_)
    for theirs, tensor in zip(given_, tensors_.values(), strict=True):
        theirs.set_data_from_numpy(tensor, binary_data=binary or datatype_of(tensor) == "BF16")
    wishes = [triton_http.InferRequestedOutput("y", binary_data=binary), triton_http.InferRequestedOutput("z")]

    body, header = triton_http.InferenceServerClient.generate_request_body(given_, outputs=wishes, request_id="seven")
    back = rest.decode_request(body, None if header is None else str(header))

    assert back.id == "seven"
    assert back.output_names == ("y", "z")
    assert (back.wants_binary("y"), back.wants_binary("z")) == (binary, True)
    for name, tensor in tensors_.items():
        assert_same(back.inputs[name], tensor)


@settings(deadline=None)
@given(inputs)
def test_requests_of_tritonclient_grpc_are_read(tensors_: dict[str, Array]) -> None:
    given_ = their_inputs(triton_grpc, tensors_)
    message = service_pb2.ModelInferRequest(model_name="m")
    for theirs, tensor in zip(given_, tensors_.values(), strict=True):
        theirs.set_data_from_numpy(tensor)
        message.inputs.append(theirs._get_tensor())  # noqa: SLF001 - as their client does
        message.raw_input_contents.append(theirs._get_content())  # noqa: SLF001

    back = rpc.decode_request(message)

    for name, tensor in tensors_.items():
        assert to_raw(back.inputs[name]) == to_raw(tensor)


def test_binary_tensors_share_the_memory_of_an_aligned_body() -> None:
    body = rest.encode_request(InferRequest({"x": np.arange(4, dtype=np.uint8)}), binary=True)
    back = rest.decode_request(body.content, body.headers[INFERENCE_HEADER_LENGTH_TEXT])

    assert np.shares_memory(back.inputs["x"], np.frombuffer(body.content, np.uint8))


def test_outputs_without_a_wish_follow_the_request() -> None:
    request = InferRequest({}, (OutputWish("a", binary=False),), binary_outputs=True)
    assert not request.wants_binary("a")
    assert request.wants_binary("b")
