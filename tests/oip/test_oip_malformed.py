"""Whatever arrives, decoding ends in a request or in `InvalidArgument` that says what is wrong."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from berth.errors import InvalidArgument
from berth.model import Signature, TensorSpec
from berth.oip import rest, rpc
from berth.oip.datatypes import NUMPY_DTYPES, bytes_array
from berth.oip.request import InferRequest, InferResponse, check_request


def body(tensor: dict[str, Any] | None = None, **members: Any) -> bytes:
    base = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
    merged = {**base, **(tensor or {})}
    return json.dumps(
        {"inputs": [{key: value for key, value in merged.items() if value is not ...}], **members}
    ).encode()


def binary(size: int, **tensor: Any) -> bytes:
    return body({"data": ..., "parameters": {"binary_data_size": size}, **tensor})


EMPTY = {"name": "x", "shape": [0], "datatype": "FP32", "data": []}
DEEP: list[Any] = []
for _ in range(400):
    DEEP = [DEEP]

JSON_ROWS = [
    ("not JSON", b"{", "not JSON"),
    ("empty", b"", "not JSON"),
    ("not UTF-8", b'{"inputs": "\xff"}', "not UTF-8 at byte 12"),
    ("a list", b"[]", "not a JSON object"),
    ("deep nesting", b"[" * 200_000, "nested too deeply"),
    ("deep data", body({"shape": [1], "data": DEEP}), "nested deeper than the 1 dimensions"),
    ("deep data in no dimension", body({"shape": [], "data": DEEP}), "nested deeper than the 0 dimensions"),
    ("endless integer", b'{"inputs":' + b"9" * 10_000 + b"}", "not JSON"),
    ("no inputs", b"{}", "inputs is a list"),
    ("inputs of numbers", b'{"inputs":[1]}', "inputs is a list of objects"),
    ("id is a number", body(id=7), "id is a string"),
    ("parameters is a list", body(parameters=[]), "parameters is an object"),
    ("sequence", body(parameters={"sequence_id": 7}), "sequences are not served"),
    ("flag is a string", body(parameters={"binary_data_output": "yes"}), "binary_data_output is true or false"),
    ("no name", body({"name": ...}), "name of an input"),
    ("empty name", body({"name": ""}), "name of an input"),
    ("duplicate input", body(inputs=[EMPTY, EMPTY]), "input 'x' is given twice"),
    ("no datatype", body({"datatype": ...}), "datatype is a string"),
    ("unknown datatype", body({"datatype": "FP31"}), "unknown datatype 'FP31'; known are BOOL"),
    ("no shape", body({"shape": ...}), "shape is a list"),
    ("negative dimension", body({"shape": [-1]}), "at least 0, not '-1'"),
    ("fraction dimension", body({"shape": [2.0]}), "at least 0, not '2.0'"),
    ("boolean dimension", body({"shape": [True]}), "at least 0, not 'True'"),
    ("too many dimensions", body({"shape": [1] * 33}), "33 dimensions"),
    ("huge product", body({"shape": [2**40, 2**40]}), "larger than any tensor"),
    ("huge product beside a zero", body({"shape": [0, 2**40, 2**40], "data": []}), "larger than any tensor"),
    ("count mismatch", body({"shape": [3]}), "asks for 3 elements, the data holds 2"),
    ("large count, little data", body({"shape": [2**40]}), "asks for 1099511627776 elements"),
    ("data is a number", body({"data": 7}), "data is a list, not an integer"),
    ("data is null", body({"data": None}), "data is a list, not null"),
    ("ragged", body({"shape": [2, 2], "data": [[1, 2], [3]]}), "at depth 1 the shape asks for 2 elements, found 1"),
    ("half nested", body({"shape": [2, 1], "data": [[1], 2]}), "found an integer"),
    ("nested too deep", body({"data": [[1], [2]]}), "nested deeper than the 1 dimensions"),
    ("transposed", body({"shape": [1, 2], "data": [[1], [2]]}), "at depth 0 the shape asks for 1"),
    ("string among floats", body({"data": [1, "2"]}), "a string is not an element of a FP32"),
    ("null among floats", body({"data": [1, None]}), "null is not an element"),
    ("object among floats", body({"data": [1, {}]}), "an object is not an element"),
    ("boolean among floats", body({"data": [1, True]}), "a boolean is not an element"),
    ("fraction among integers", body({"datatype": "INT64", "data": [1, 2.5]}), "a fraction is not an element"),
    ("integer among booleans", body({"datatype": "BOOL", "data": [True, 1]}), "an integer is not an element of a BOOL"),
    ("UINT8 overflow", body({"datatype": "UINT8", "data": [0, 256]}), "out of the range of UINT8"),
    ("negative UINT64", body({"datatype": "UINT64", "data": [0, -1]}), "out of the range of UINT64"),
    ("FP32 overflow", body({"data": [0, 1e39]}), "out of the range of FP32"),
    ("FP16 overflow", body({"datatype": "FP16", "data": [0, 70000]}), "out of the range of FP16"),
    ("integer too large for a float", body({"data": [0, 10**400]}), "out of the range of FP32"),
    ("number among BYTES", body({"datatype": "BYTES", "data": ["a", 1]}), "an integer is not an element of a BYTES"),
    ("half a surrogate", body({"datatype": "BYTES", "data": ["a", "\ud800"]}), "surrogate"),
    ("neither data nor binary", body({"data": ...}), "exactly one of data and binary_data_size"),
    ("both data and binary", body({"parameters": {"binary_data_size": 0}}), "exactly one of data and binary_data_size"),
    ("shared memory", body({"parameters": {"shared_memory_region": "r"}}), "shared memory is not served"),
    ("outputs is an object", body(outputs={}), "outputs is a list"),
    ("output without a name", body(outputs=[{}]), "name of an output"),
    ("duplicate output", body(outputs=[{"name": "y"}] * 2), "output 'y' is asked for twice"),
    ("classification", body(outputs=[{"name": "y", "parameters": {"classification": 3}}]), "classification"),
    ("shared memory out", body(outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}]), "shared memory"),
    ("binary flag is a number", body(outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), "true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), [row[1:] for row in JSON_ROWS], ids=[row[0] for row in JSON_ROWS])
def test_bad_json_says_what_is_wrong(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        rest.decode_request(raw, None)
    assert message in caught.value.detail
    assert len(caught.value.detail) < 600


BINARY_ROWS = [
    ("header beyond the body", binary(8), b"", "+1", "says"),
    ("header is not a number", binary(8), b"", "-1", "is a number of bytes, not '-1'"),
    ("header of another script", binary(8), b"", "\u0661", "is a number of bytes"),
    ("too few bytes", binary(8), b"\0" * 7, None, "binary_data_size is 8, but 7 bytes are left"),
    ("too many bytes", binary(8), b"\0" * 9, None, "1 bytes follow the last tensor"),
    ("size does not fit the shape", binary(4), b"\0" * 4, None, "FP32 of shape [2] takes 8 bytes, not 4"),
    ("size is negative", binary(-1), b"", None, "an integer of at least 0"),
    ("size is a boolean", binary(True), b"\0", None, "an integer of at least 0"),
    ("neither true nor false", binary(2, datatype="BOOL"), b"\0\2", None, "0 or 1, not 2"),
    ("length cut off", binary(3, datatype="BYTES"), b"\1\0\0", None, "element 0 is cut off in its length"),
    ("length overruns", binary(5, datatype="BYTES"), b"\2\0\0\0a", None, "element 0 claims 2 bytes where 1 are left"),
    ("huge length", binary(5, datatype="BYTES"), b"\xff\xff\xff\xffa", None, "claims 4294967295 bytes"),
    ("element missing", binary(5, datatype="BYTES"), b"\1\0\0\0a", None, "asks for 2 BYTES elements, the data holds 1"),
    ("element too many", binary(12, datatype="BYTES"), b"\0" * 12, None, "4 bytes follow the last of 2"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("head", "tail", "header", "message"), [row[1:] for row in BINARY_ROWS], ids=[row[0] for row in BINARY_ROWS]
)
def test_bad_binary_bodies_say_what_is_wrong(head: bytes, tail: bytes, header: str | None, message: str) -> None:
    length = str(len(head)) if header is None else str(len(head) + 1) if header == "+1" else header
    with pytest.raises(InvalidArgument) as caught:
        rest.decode_request(head + tail, length)
    assert message in caught.value.detail


def message(**tensor: Any) -> service_pb2.ModelInferRequest:
    raw = tensor.pop("raw", [])
    fields = {"name": "x", "datatype": "INT32", "shape": [2], **tensor}
    return service_pb2.ModelInferRequest(inputs=[fields], raw_input_contents=raw)


def parameter(**value: Any) -> Any:
    return service_pb2.InferParameter(**value)


RPC_ROWS = [
    ("raw entries", message(raw=[b"\0" * 8] * 2), "2 entries for 1 inputs"),
    ("raw size", message(raw=[b"\0"]), "takes 8 bytes, not 1"),
    ("raw and typed", message(raw=[b"\0" * 8], contents={"int_contents": [1, 2]}), "both contents and raw"),
    ("wrong field", message(contents={"fp32_contents": [1, 2]}), "INT32 elements go into int_contents"),
    ("FP16 typed", message(datatype="FP16", contents={"int_contents": [1, 2]}), "FP16 has no typed field"),
    ("nothing", message(), "asks for 2 elements, the data holds 0"),
    ("range", message(datatype="INT8", contents={"int_contents": [1, 200]}), "out of the range of INT8"),
    ("no name", message(name=""), "name of an input"),
    ("datatype", message(datatype="TENSOR"), "unknown datatype 'TENSOR'"),
    ("shape", message(shape=[-1]), "at least 0, not '-1'"),
    ("shared memory", message(parameters={"shared_memory_region": parameter(string_param="r")}), "shared memory"),
    (
        "duplicate input",
        service_pb2.ModelInferRequest(inputs=[{"name": "x", "datatype": "FP32", "shape": [0]}] * 2),
        "given twice",
    ),
    ("duplicate output", service_pb2.ModelInferRequest(outputs=[{"name": "y"}] * 2), "asked for twice"),
    (
        "classification",
        service_pb2.ModelInferRequest(
            outputs=[{"name": "y", "parameters": {"classification": parameter(int64_param=2)}}]
        ),
        "classification",
    ),
    (
        "sequence",
        service_pb2.ModelInferRequest(parameters={"sequence_id": parameter(int64_param=2)}),
        "sequences are not served",
    ),
]


@pytest.mark.parametrize(("request_", "text"), [row[1:] for row in RPC_ROWS], ids=[row[0] for row in RPC_ROWS])
def test_bad_messages_say_what_is_wrong(request_: service_pb2.ModelInferRequest, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        rpc.decode_request(request_)
    assert text in caught.value.detail


def test_bytes_that_are_no_message() -> None:
    with pytest.raises(InvalidArgument, match="not a ModelInferRequest"):
        rpc.parse_request(b"\xff\xff\xff")


def test_typed_fields_are_read() -> None:
    typed = {
        "BOOL": ("bool_contents", [True, False]),
        "INT8": ("int_contents", [-128, 127]),
        "INT16": ("int_contents", [-1, 1]),
        "INT32": ("int_contents", [-1, 1]),
        "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
        "UINT8": ("uint_contents", [0, 255]),
        "UINT16": ("uint_contents", [0, 65535]),
        "UINT32": ("uint_contents", [0, 2**32 - 1]),
        "UINT64": ("uint64_contents", [0, 2**64 - 1]),
        "FP32": ("fp32_contents", [0.5, float("inf")]),
        "FP64": ("fp64_contents", [0.1, -1e300]),
        "BYTES": ("bytes_contents", [b"\xff", b""]),
    }
    for datatype, (field, values) in typed.items():
        request = rpc.decode_request(message(datatype=datatype, contents={field: values}))
        assert request.inputs["x"].tolist() == values
        assert request.inputs["x"].dtype == NUMPY_DTYPES[datatype]


def test_nested_data_and_words_for_what_json_cannot_spell() -> None:
    nested = rest.decode_request(body({"shape": [2, 2], "data": [[1, 2], [3, 4]]}), None)
    assert nested.inputs["x"].tolist() == [[1, 2], [3, 4]]
    odd = rest.decode_request(body({"data": [float("nan"), float("-inf")]}), None).inputs["x"]
    assert np.isnan(odd[0])
    assert odd[1] == -np.inf
    scalar = rest.decode_request(body({"shape": [], "data": [7]}), None)
    assert scalar.inputs["x"].shape == ()


def test_an_output_that_is_not_text_has_no_json_form() -> None:
    answer = InferResponse("m", "1", {"y": bytes_array([b"\xff"], (1,))})
    with pytest.raises(InvalidArgument, match="output 'y' is not UTF-8"):
        rest.encode_response(answer, InferRequest({}))
    assert b"\xff" in rest.encode_response(answer, InferRequest({}, binary_outputs=True)).content


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=12,
)
tensor_values = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | json_values,
        "datatype": st.sampled_from(sorted(NUMPY_DTYPES)) | json_values,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | st.lists(st.integers(), max_size=3) | json_values,
        "data": st.lists(json_values, max_size=4) | json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 20) | json_values})
        | json_values,
    },
)
documents = st.fixed_dictionaries(
    {"inputs": st.lists(tensor_values, max_size=3) | json_values},
    optional={
        "id": json_values,
        "parameters": json_values,
        "outputs": st.lists(tensor_values, max_size=2) | json_values,
    },
)


@settings(deadline=None)
@given(documents, st.binary(max_size=24))
def test_any_document_is_a_request_or_invalid(document: Any, tail: bytes) -> None:
    head = json.dumps(document).encode()
    with contextlib.suppress(InvalidArgument):
        rest.decode_request(head + tail, str(len(head)))


@settings(deadline=None)
@given(st.binary(max_size=64), st.none() | st.text(max_size=4))
def test_any_bytes_are_a_request_or_invalid(raw: bytes, header: str | None) -> None:
    for decode in (rest.decode_request, rest.decode_response):
        with contextlib.suppress(InvalidArgument):
            decode(raw, header)
    with contextlib.suppress(InvalidArgument):
        rpc.decode_request(rpc.parse_request(raw))


@settings(deadline=None)
@given(
    st.sampled_from([*NUMPY_DTYPES, "?"]),
    st.lists(st.integers(-1, 2**63 - 1) | st.integers(0, 3), max_size=4),
    st.lists(st.binary(max_size=16), max_size=2),
)
def test_any_message_is_a_request_or_invalid(datatype: str, shape: list[int], raw: list[bytes]) -> None:
    with contextlib.suppress(InvalidArgument):
        rpc.decode_request(message(datatype=datatype, shape=shape, raw=raw))


SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("s", "BYTES", ())), (TensorSpec("y", "INT64", (-1,)),)
)
GOOD = {"x": np.zeros((2, 3), np.float32), "s": bytes_array([b""], ())}


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        ({"s": GOOD["s"]}, (), "missing input 'x'"),
        ({}, (), "missing input 'x', 's'"),
        ({**GOOD, "z": GOOD["x"]}, (), "unknown input 'z'; the model takes 'x', 's'"),
        ({**GOOD, "x": np.zeros((2, 3))}, (), "input 'x' is FP64, the model takes FP32"),
        ({**GOOD, "x": np.zeros((2, 4), np.float32)}, (), "input 'x' has shape [2, 4], the model takes [-1, 3]"),
        ({**GOOD, "x": np.zeros(3, np.float32)}, (), "has shape [3]"),
        ({**GOOD, "s": bytes_array([b""], (1,))}, (), "has shape [1], the model takes []"),
        (GOOD, ("q",), "unknown output 'q'; the model gives 'y'"),
    ],
)
def test_tensors_that_do_not_fit_the_signature(inputs: Any, outputs: tuple[str, ...], text: str) -> None:
    check_request(SIGNATURE, GOOD, ("y",))
    with pytest.raises(InvalidArgument) as caught:
        check_request(SIGNATURE, inputs, outputs)
    assert text in caught.value.detail


def test_element_lengths_are_little_endian() -> None:
    head = binary(4 + 300, shape=[1], datatype="BYTES")
    request = rest.decode_request(head + struct.pack("<I", 300) + b"a" * 300, str(len(head)))
    assert request.inputs["x"][0] == b"a" * 300
