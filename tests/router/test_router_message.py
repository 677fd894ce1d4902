"""The model's name in a protobuf message, with the real parser as the oracle."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from berth.errors import InvalidArgument
from router.core.message import NamedModel, name_fields, read_target

Request = service_pb2.ModelReadyRequest


def varint(number: int, padding: int = 0) -> bytes:
    out = bytearray()
    while number > 0x7F or padding:
        out.append(number & 0x7F | 0x80)
        number >>= 7
        if not number and padding:
            padding -= 1
    out.append(number)
    return bytes(out)


def bytes_field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


fields = st.one_of(
    st.builds(bytes_field, st.sampled_from([1, 2, 2, 1, 3, 7, 2000]), st.binary(max_size=40)),
    st.builds(lambda text: bytes_field(1, text.encode()), st.text(max_size=20)),
    st.builds(lambda text: bytes_field(2, text.encode()), st.text(max_size=20)),
    st.builds(lambda n, v: varint(n << 3) + varint(v), st.integers(1, 40), st.integers(0, 2**64 - 1)),
    st.builds(lambda n, v: varint(n << 3 | 1) + v, st.integers(1, 40), st.binary(min_size=8, max_size=8)),
    st.builds(lambda n, v: varint(n << 3 | 5) + v, st.integers(1, 40), st.binary(min_size=4, max_size=4)),
)
messages = st.lists(fields, max_size=6).map(b"".join)
damaged = st.builds(
    lambda message, cut, at, byte: (message[:at] + bytes([byte]) + message[at + 1 :])[: len(message) - cut],
    messages,
    st.integers(0, 3),
    st.integers(0, 60),
    st.integers(0, 255),
)


def oracle(message: bytes) -> NamedModel | None:
    """What a parser reads: name and version are fields 1 and 2 of this message as of ModelInferRequest."""
    try:
        parsed = Request.FromString(message)
    except DecodeError:
        return None
    return NamedModel(parsed.name, parsed.version)


def scanned(message: bytes) -> NamedModel | None:
    try:
        return read_target(message)
    except InvalidArgument:
        return None


@given(messages)
@settings(max_examples=300)
def test_well_formed_fields_are_read_as_the_parser_reads_them(message: bytes) -> None:
    assert scanned(message) == oracle(message)


@given(st.one_of(st.binary(max_size=60), damaged))
@settings(max_examples=600)
@example(b"\x0b\x0c")
@example(b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x0a\x80\x80\x80\x80\x80\x00")
@example(b"\x8a\x80\x80\x80\x80\x00\x01a")
def test_what_is_accepted_is_what_the_parser_reads(message: bytes) -> None:
    """Never do the two read different names, and what the parser refuses never passes."""
    target = scanned(message)
    assert target is None or target == oracle(message)


@given(messages, st.from_regex(r"[a-z]{1,20}~[a-z]{1,150}~[0-9]{1,9}", fullmatch=True))
@settings(max_examples=300)
def test_replacing_changes_the_name_and_nothing_else(message: bytes, servable: str) -> None:
    before = oracle(message)
    if before is None:
        return
    after = Request.FromString(message + name_fields(servable))
    assert (after.name, after.version) == (servable, "")
    renamed = Request.FromString(message)
    renamed.name, renamed.version = servable, ""
    assert after == renamed


def test_tensors_are_untouched() -> None:
    request = service_pb2.ModelInferRequest(model_name="digits", model_version="3", id="7")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 300])
    request.raw_input_contents.append(bytes(1200))
    message = request.SerializeToString()
    assert read_target(message) == NamedModel("digits", "3")
    renamed = service_pb2.ModelInferRequest.FromString(message + name_fields("t~digits~3"))
    request.model_name, request.model_version = "t~digits~3", ""
    assert renamed == request


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",
        b"\x0a\x05abc",
        b"\x08",
        b"\x08\x80",
        b"\x09\x01",
        b"\x0d\x01",
        b"\x00\x01",
        b"\x02\x01a",
        b"\x0e",
        b"\x0f",
        b"\x0b",
        b"\x0c",
        b"\x0a\x02\xff\xfe",
        b"\x0a\x02\xff\xfe\x0a\x01a",
        b"\xff" * 20,
        b'{"inputs": []}',
    ],
)
def test_malformed(message: bytes) -> None:
    assert oracle(message) is None or message[0] in (0x0B, 0x0F)
    with pytest.raises(InvalidArgument, match="not valid protobuf"):
        read_target(message)
