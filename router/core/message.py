"""Reading and replacing the model's name in a protobuf message without decoding it.

In ModelInferRequest, ModelMetadataRequest and ModelReadyRequest alike, field 1 is the model's name and field 2 its
version. Only the outermost fields are walked, their contents are skipped. A later occurrence of a field overrides an
earlier one, so appending two fields renames the model at the price of one join.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from berth.errors import InvalidArgument

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAME_TAG: Final = 1 << 3 | _BYTES
_VERSION_TAG: Final = 2 << 3 | _BYTES
_LARGEST_TAG: Final = 2**32 - 1
_TAG_BYTES, _VARINT_BYTES = 5, 10


class NamedModel(NamedTuple):
    name: str
    version: str


def read_target(message: bytes, start: int = 0) -> NamedModel:
    """The name and the version that a protobuf parser would read. Raises `InvalidArgument` for malformed bytes.

    The message begins at `start`. Stricter than a parser in one thing: groups, which proto3 cannot write, are refused.
    """
    name = version = ""
    at, end = start, len(message)
    try:
        while at < end:
            # Nearly every field: a tag of one byte, and contents of a length of one byte.
            tag = message[at]
            if tag & 0x87 == _BYTES and tag >= 8 and (size := message[at + 1]) < 0x80:
                content = at + 2
                at = content + size
                if at > end:
                    raise IndexError
                if tag == _NAME_TAG:
                    name = _text(message, content, at)
                elif tag == _VERSION_TAG:
                    version = _text(message, content, at)
                continue
            tag, start = _varint(message, at, _TAG_BYTES)
            if tag < 8 or tag > _LARGEST_TAG:
                raise InvalidArgument("the message is not valid protobuf: bad field number")
            at = _end_of_field(message, start, tag & 7)
            if tag == _NAME_TAG:
                name = _text(message, _varint(message, start)[1], at)
            elif tag == _VERSION_TAG:
                version = _text(message, _varint(message, start)[1], at)
    except IndexError:
        raise InvalidArgument("the message is not valid protobuf: it is cut short") from None
    return NamedModel(name, version)


@lru_cache(maxsize=8192)
def name_fields(name: str) -> bytes:
    """Appended to a message, this names the model `name` and no version. `read_target` must have passed it."""
    encoded = name.encode()
    return b"".join((b"\x0a", _encoded(len(encoded)), encoded, b"\x12\x00"))


def _end_of_field(message: bytes, start: int, kind: int) -> int:
    """Where the field whose value begins at `start` ends. Raises `IndexError` if that is beyond the message."""
    if kind == _BYTES:
        length, content = _varint(message, start)
        end = content + length
    elif kind == _VARINT:
        _, end = _varint(message, start)
    elif kind == _FIXED64:
        end = start + 8
    elif kind == _FIXED32:
        end = start + 4
    else:
        raise InvalidArgument("the message is not valid protobuf: bad wire type")
    if end > len(message):
        raise IndexError
    return end


def _text(message: bytes, start: int, end: int) -> str:
    try:
        # A parser refuses a string that is not UTF-8 even where a later one overrides it.
        return message[start:end].decode()
    except UnicodeDecodeError:
        raise InvalidArgument("the message is not valid protobuf: the model's name is not UTF-8") from None


def _varint(message: bytes, at: int, most: int = _VARINT_BYTES) -> tuple[int, int]:
    """The number at `at`, of at most `most` bytes, and where the next byte is. Raises `IndexError` at the end of the
    message."""
    byte = message[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for shift in range(7, 7 * most, 7):
        at += 1
        byte = message[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
    raise InvalidArgument("the message is not valid protobuf: a number is too long")


def _encoded(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
