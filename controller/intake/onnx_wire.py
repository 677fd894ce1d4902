"""Reads an ONNX file on the level of protobuf's wire format, before anything is built from it.

Two dangers are met here. A file may be gigabytes of weights. The controller needs only their sizes: they are left out,
and what remains is small. And two bytes of a hostile file can become 200 in memory (an empty node costs that much):
messages are counted first.

Only the initializers of the main graph are left out; exporters keep weights there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol

from berth.errors import UnsupportedArtifact

# Together they bound an inspection to about 800 MB and 10 s; a graph of 100,000 nodes takes 160 MB and 1.2 s.
MAX_MESSAGES = 1_000_000
MAX_FIELDS = 20_000_000
MAX_STRUCTURE_BYTES = 64 << 20
# ONNX Runtime's protobuf stops at 100.
MAX_DEPTH = 96

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_GRAPH = 7 << 3 | _DELIMITED  # ModelProto.graph
_INITIALIZER = 5 << 3 | _DELIMITED  # GraphProto.initializer
_RAW_DATA = 9 << 3 | _DELIMITED  # TensorProto.raw_data
# TensorProto's float_data, int32_data, string_data, int64_data, double_data, uint64_data: packed or not.
_TYPED_DATA = frozenset({4, 5, 6, 7, 10, 11})
_ATTRIBUTE_FLOAT = 7 << 3 | _FIXED32  # AttributeProto.floats, not packed: 5 bytes each, millions in a tree ensemble
_FLOATS_AT_ONCE = 1 << 16


class Bytes(Protocol):
    """What `bytes` and `mmap` have in common."""

    def __getitem__(self, index: Any, /) -> Any: ...
    def __len__(self) -> int: ...


class Weights(NamedTuple):
    """The payload of an initializer: bytes of `raw_data` (None if it has none), and of typed fields on the wire."""

    raw_bytes: int | None
    typed_bytes: int


class Stripped(NamedTuple):
    """A model without the payload of its main graph's initializers, and those payloads' sizes in order."""

    model: bytes
    weights: list[Weights]


@dataclass(slots=True)
class _Schema:
    """Which fields of a message are messages themselves, by tag."""

    name: str
    children: dict[int, _Schema] = field(default_factory=dict)


def strip(data: Bytes) -> Stripped:
    """Take the weights out of the ONNX model in `data`. Raises `UnsupportedArtifact`."""
    walk = _Walk(data)
    schema = _model_schema()
    model = bytearray()
    weights: list[Weights] = []
    for tag, begin, start, stop in walk.fields(0, len(data)):
        if tag == _GRAPH:
            graph = _strip_graph(walk, schema.children[_GRAPH], start, stop, weights)
            model += _encode_head(_GRAPH, len(graph)) + graph
        else:
            _check_structure(len(model) + stop - begin)
            walk.skim_field(schema, tag, start, stop, depth=1)
            model += data[begin:stop]
        _check_structure(len(model))
    return Stripped(bytes(model), weights)


def _strip_graph(walk: _Walk, schema: _Schema, start: int, stop: int, weights: list[Weights]) -> bytearray:
    graph = bytearray()
    for tag, begin, inner_start, inner_stop in walk.fields(start, stop):
        if tag == _INITIALIZER:
            tensor, weight = _strip_tensor(walk, schema.children[_INITIALIZER], inner_start, inner_stop)
            weights.append(weight)
            graph += _encode_head(_INITIALIZER, len(tensor)) + tensor
        else:
            _check_structure(len(graph) + inner_stop - begin)
            walk.skim_field(schema, tag, inner_start, inner_stop, depth=2)
            graph += walk.data[begin:inner_stop]
        _check_structure(len(graph))
    return graph


def _strip_tensor(walk: _Walk, schema: _Schema, start: int, stop: int) -> tuple[bytearray, Weights]:
    walk.count_message()
    tensor = bytearray()
    raw: int | None = None
    typed = 0
    for tag, begin, inner_start, inner_stop in walk.fields(start, stop):
        if tag == _RAW_DATA:
            raw = inner_stop - inner_start  # of several, protobuf takes the last
        elif tag >> 3 in _TYPED_DATA:
            typed += inner_stop - begin
        else:
            _check_structure(len(tensor) + inner_stop - begin)
            walk.skim_field(schema, tag, inner_start, inner_stop, depth=3)
            tensor += walk.data[begin:inner_stop]
    return tensor, Weights(raw, typed)


class _Walk:
    """Goes through a file once, counting. Fields are (tag, begin, start, stop): `start` is where the payload begins."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self._messages = 0
        self._fields = 0

    def fields(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        at = start
        while at < stop:
            begin = at
            tag, at = self._read_varint(at, stop)
            at, end = self._find_payload(tag, at, stop)
            self._count_fields(1)
            yield tag, begin, at, end
            at = end

    def skim_field(self, schema: _Schema, tag: int, start: int, stop: int, depth: int) -> None:
        """Count what the field holds if it is a message."""
        child = schema.children.get(tag)
        if child is not None:
            self._skim(child, start, stop, depth)

    def count_message(self) -> None:
        self._messages += 1
        if self._messages > MAX_MESSAGES:
            raise UnsupportedArtifact(f"the graph is too complex: it has more than {MAX_MESSAGES} elements")

    def _skim(self, schema: _Schema, start: int, stop: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UnsupportedArtifact(f"the graph is nested more than {MAX_DEPTH} levels deep")
        self.count_message()
        floats = schema.name == "onnx.AttributeProto"
        at = start
        while at < stop:
            tag, at = self._read_varint(at, stop)
            if floats and tag == _ATTRIBUTE_FLOAT:
                at = self._skip_floats(at, stop)
                continue
            at, end = self._find_payload(tag, at, stop)
            self._count_fields(1)
            child = schema.children.get(tag)
            if child is not None:
                self._skim(child, at, end, depth + 1)
            at = end

    def _skip_floats(self, at: int, stop: int) -> int:
        """Past the float at `at` and those that follow it, whose tags are every fifth byte from here."""
        at += 4
        while at < stop:
            tags = self.data[at : min(stop, at + 5 * _FLOATS_AT_ONCE) : 5]
            run = len(tags) - len(tags.lstrip(bytes([_ATTRIBUTE_FLOAT])))
            at += 5 * run
            if run < len(tags) or run == 0:
                break
        if at > stop:
            raise _truncated()
        return at

    def _find_payload(self, tag: int, at: int, stop: int) -> tuple[int, int]:
        """Where the payload of a field begins and ends whose tag ends at `at`."""
        wire = tag & 7
        if wire == _DELIMITED:
            length, at = self._read_varint(at, stop)
            end = at + length
        elif wire == _VARINT:
            _, end = self._read_varint(at, stop)
        elif wire == _FIXED32:
            end = at + 4
        elif wire == _FIXED64:
            end = at + 8
        else:
            raise UnsupportedArtifact("the file is not an ONNX model: its bytes are not a protobuf message")
        if end > stop:
            raise _truncated()
        return at, end

    def _read_varint(self, at: int, stop: int) -> tuple[int, int]:
        value = shift = 0
        while at < stop and shift < 70:
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise _truncated()

    def _count_fields(self, number: int) -> None:
        self._fields += number
        if self._fields > MAX_FIELDS:
            raise UnsupportedArtifact(f"the graph is too complex: it has more than {MAX_FIELDS} fields")


def _truncated() -> UnsupportedArtifact:
    return UnsupportedArtifact("the file is not an ONNX model, or it is truncated: a part of it ends after its whole")


def _check_structure(size: int) -> None:
    if size > MAX_STRUCTURE_BYTES:
        raise UnsupportedArtifact(
            f"the graph without its initializers exceeds {MAX_STRUCTURE_BYTES} bytes: keep weights in initializers"
        )


def _encode_head(tag: int, length: int) -> bytes:
    head = bytearray([tag])
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


@cache
def _model_schema() -> _Schema:
    from onnx import ModelProto

    known: dict[str, _Schema] = {}

    def build(descriptor: Any) -> _Schema:
        name: str = descriptor.full_name
        if name not in known:
            known[name] = schema = _Schema(name)
            for entry in descriptor.fields:
                if entry.message_type is not None:
                    schema.children[entry.number << 3 | _DELIMITED] = build(entry.message_type)
        return known[name]

    return build(ModelProto.DESCRIPTOR)
