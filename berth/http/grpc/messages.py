"""Messages in the body of a call: what goes before each, and how they are found again however the body is cut."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

CONTENT_TYPE: Final = b"application/grpc"
PREFIX_SIZE: Final = 5

_PREFIX: Final = struct.Struct(">BI")
_pack_prefix: Final = _PREFIX.pack


def is_grpc(content_type: bytes | None) -> bool:
    """Whether this is the content-type of a gRPC call, whatever its message format."""
    return content_type is not None and content_type.startswith(CONTENT_TYPE)


def prefix(size: int, *, compressed: bool = False) -> bytes:
    """What goes before a message of `size` bytes."""
    return _pack_prefix(compressed, size)


def size_after(prefix: bytes) -> int:
    """The size of the message that this prefix, or whatever begins with it, announces."""
    return int.from_bytes(prefix[1:PREFIX_SIZE], "big")


class GrpcMessage(NamedTuple):
    data: bytes
    compressed: bool


class MessageTooLarge(Exception):
    """A prefix announces a message of `size` bytes, more than the reader takes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"a message of {size} bytes")
        self.size = size


class MessageReader:
    """Finds the messages in the body of one direction of a call. `limit` is in bytes of one message."""

    __slots__ = ("_compressed", "_limit", "_need", "_pieces", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        # The message being read: its size, -1 before its prefix is here.
        self._need = -1
        self._compressed = False

    def __repr__(self) -> str:
        return f"<MessageReader {self._size} of {self._need} bytes>"

    @property
    def buffered(self) -> int:
        """Bytes that are kept, prefixes read apart."""
        return self._size

    @property
    def inside(self) -> bool:
        """Whether a message has begun and not ended: the end of the call would cut it off."""
        return self._need >= 0 or self._size > 0

    def feed(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self._size += len(data)

    def next(self) -> GrpcMessage | None:
        """The next complete message. Raises `MessageTooLarge`, `ValueError` for a prefix that is none."""
        if self._need < 0 and not self._read_prefix():
            return None
        need = self._need
        if self._size < need:
            return None
        pieces = self._pieces
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        # The usual message ends with its last piece, and is not copied again.
        message = joined if self._size == need else joined[:need]
        rest = joined[need:]
        self._pieces = [rest] if rest else []
        self._size -= need
        self._need = -1
        return GrpcMessage(message, self._compressed)

    def _read_prefix(self) -> bool:
        if self._size < PREFIX_SIZE:
            return False
        pieces = self._pieces
        if len(pieces[0]) < PREFIX_SIZE:
            pieces = [b"".join(pieces)]
        flag, need = _PREFIX.unpack_from(pieces[0])
        if flag > 1:
            raise ValueError(f"a message's first byte is {flag}, not 0 or 1")
        if need > self._limit:
            raise MessageTooLarge(need)
        pieces[0] = pieces[0][PREFIX_SIZE:]
        self._pieces, self._size, self._need, self._compressed = pieces, self._size - PREFIX_SIZE, need, bool(flag)
        return True
