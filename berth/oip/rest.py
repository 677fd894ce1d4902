"""OIP over REST: JSON, and the binary tensor data extension, where raw tensors follow the JSON in the same body.

The header `Inference-Header-Content-Length` says how long the JSON is where tensors follow. NaN and infinities are
spelled NaN, Infinity and -Infinity, as Triton and its clients do, though strict JSON has no word for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from berth.errors import InvalidArgument
from berth.headers import CONTENT_TYPE_TEXT, INFERENCE_HEADER_LENGTH_TEXT
from berth.oip.datatypes import Array, check_shape, datatype_of, from_raw, to_raw
from berth.oip.numbers import from_nested, to_flat
from berth.oip.request import InferRequest, InferResponse, OutputWish

_JSON = "application/json"
_BINARY = "application/octet-stream"

_Object = dict[str, Any]

# `json.dumps` makes a new one for each call that is not of the default form.
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Body(NamedTuple):
    """A body and the headers that describe it."""

    content: bytes
    headers: dict[str, str]


def decode_request(body: bytes, header_length: str | None) -> InferRequest:
    """Read a request body. Raises `InvalidArgument`, and nothing else, for every body that is not one."""
    document, tensors = _split(body, header_length)
    parameters = _parameters("the request", document)
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise InvalidArgument("sequences are not served: leave out sequence_id")
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidArgument("id is a string")
    inputs = _read_tensors("input", _objects(document, "inputs"), tensors)
    wishes: dict[str, OutputWish] = {}
    for item in _objects(document, "outputs") if "outputs" in document else ():
        wish = _read_wish(item)
        if wish.name in wishes:
            raise InvalidArgument(f"output {wish.name[:200]!r} is asked for twice")
        wishes[wish.name] = wish
    binary = _flag("the request", parameters, "binary_data_output")
    return InferRequest(inputs, tuple(wishes.values()), request_id, binary or False)


def encode_request(request: InferRequest, *, binary: bool) -> Body:
    """What a client sends. `binary` sends the inputs as raw bytes."""
    document: _Object = {"id": request.id} if request.id else {}
    if request.binary_outputs:
        document["parameters"] = {"binary_data_output": True}
    tensors = [_write_tensor("input", name, array, binary=binary) for name, array in request.inputs.items()]
    document["inputs"] = [head for head, _ in tensors]
    if request.outputs:
        document["outputs"] = [
            {"name": wish.name}
            if wish.binary is None
            else {"name": wish.name, "parameters": {"binary_data": wish.binary}}
            for wish in request.outputs
        ]
    return _join(document, [raw for _, raw in tensors])


def encode_response(response: InferResponse, request: InferRequest) -> Body:
    """The answer in the encoding that `request` asks for, output by output.

    Raises `InvalidArgument` where an output of bytes that are not text was asked for as JSON.
    """
    document: _Object = {"id": response.id} if response.id else {}
    document |= {"model_name": response.model, "model_version": response.version}
    tensors = [
        _write_tensor("output", name, array, binary=request.wants_binary(name))
        for name, array in response.outputs.items()
    ]
    document["outputs"] = [head for head, _ in tensors]
    return _join(document, [raw for _, raw in tensors])


def decode_response(body: bytes, header_length: str | None) -> InferResponse:
    """Read an answer. Raises `InvalidArgument` for a body that is not one."""
    document, tensors = _split(body, header_length)
    texts = {name: document.get(name, "") for name in ("model_name", "model_version", "id")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise InvalidArgument(f"{name} is a string")
    outputs = _read_tensors("output", _objects(document, "outputs"), tensors)
    return InferResponse(texts["model_name"], texts["model_version"], outputs, texts["id"])


def load_object(
    text: bytes, parse_float: Callable[[str], float] | None = None, parse_int: Callable[[str], int] | None = None
) -> dict[str, Any]:
    """The JSON object that `text` spells, its numbers read as `json.loads` reads them. Raises `InvalidArgument`."""
    try:
        document = json.loads(text.decode(), parse_float=parse_float, parse_int=parse_int)
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the body is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise InvalidArgument("the body is nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument("the body is not a JSON object")
    return document


def _split(body: bytes, header_length: str | None) -> tuple[_Object, memoryview]:
    """The JSON object at the start of `body`, and the bytes behind it."""
    end = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 18:
            raise InvalidArgument(f"{INFERENCE_HEADER_LENGTH_TEXT} is a number of bytes, not {header_length[:40]!r}")
        end = int(header_length)
        if end > len(body):
            raise InvalidArgument(f"{INFERENCE_HEADER_LENGTH_TEXT} says {end} bytes, but the body has {len(body)}")
    return load_object(body[:end]), memoryview(body)[end:]


def _join(document: _Object, tensors: list[bytes | None]) -> Body:
    head = _encode(document).encode()
    raw = [tensor for tensor in tensors if tensor is not None]
    if not raw:
        return Body(head, {CONTENT_TYPE_TEXT: _JSON})
    return Body(b"".join((head, *raw)), {CONTENT_TYPE_TEXT: _BINARY, INFERENCE_HEADER_LENGTH_TEXT: str(len(head))})


def _read_tensors(kind: str, items: list[_Object], tensors: memoryview) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for item in items:
        name = _name(kind, item)
        if name in arrays:
            raise InvalidArgument(f"{kind} {name[:200]!r} is given twice")
        arrays[name], tensors = _read_tensor(f"{kind} {name[:200]!r}", item, tensors)
    if len(tensors):
        raise InvalidArgument(f"{len(tensors)} bytes follow the last tensor of the body")
    return arrays


def _read_tensor(what: str, item: _Object, tensors: memoryview) -> tuple[Array, memoryview]:
    """One tensor, and what is left of the raw ones behind it."""
    datatype, shape = item.get("datatype"), item.get("shape")
    if not isinstance(datatype, str):
        raise InvalidArgument(f"{what}: datatype is a string")
    if not isinstance(shape, list):
        raise InvalidArgument(f"{what}: shape is a list of integers")
    dims = check_shape(what, shape, datatype)
    parameters = _parameters(what, item)
    _refuse_shared_memory(what, parameters)
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in item):
        raise InvalidArgument(f"{what}: exactly one of data and binary_data_size is to be given")
    if size is None:
        return from_nested(what, datatype, dims, item["data"]), tensors
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidArgument(f"{what}: binary_data_size is an integer of at least 0")
    if size > len(tensors):
        raise InvalidArgument(f"{what}: binary_data_size is {size}, but {len(tensors)} bytes are left in the body")
    return from_raw(what, datatype, dims, tensors[:size]), tensors[size:]


def _write_tensor(kind: str, name: str, array: Array, *, binary: bool) -> tuple[_Object, bytes | None]:
    head: _Object = {"name": name, "datatype": datatype_of(array), "shape": list(array.shape)}
    if not binary:
        return head | {"data": to_flat(f"{kind} {name!r}", array)}, None
    raw = to_raw(array)
    return head | {"parameters": {"binary_data_size": len(raw)}}, raw


def _read_wish(item: _Object) -> OutputWish:
    name = _name("output", item)
    what = f"output {name[:200]!r}"
    parameters = _parameters(what, item)
    _refuse_shared_memory(what, parameters)
    if parameters.get("classification") not in (None, 0):
        raise InvalidArgument(f"{what}: the classification extension is not served")
    return OutputWish(name, _flag(what, parameters, "binary_data"))


def _objects(document: _Object, key: str) -> list[_Object]:
    items = document.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidArgument(f"{key} is a list of objects")
    return items


def _name(kind: str, item: _Object) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"the name of an {kind} is a string that is not empty")
    return name


def _parameters(what: str, item: _Object) -> _Object:
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidArgument(f"{what}: parameters is an object")
    return parameters


def _flag(what: str, parameters: _Object, key: str) -> bool | None:
    value = parameters.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidArgument(f"{what}: {key} is true or false")
    return value


def _refuse_shared_memory(what: str, parameters: Mapping[str, Any]) -> None:
    if "shared_memory_region" in parameters:
        raise InvalidArgument(f"{what}: shared memory is not served; send the data")
