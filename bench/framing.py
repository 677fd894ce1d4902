"""Just enough HTTP/2 for a load generator and a scripted upstream of our own: frames, fixed header blocks, windows.

Not `berth.http`, on purpose: a measuring instrument must not change when what it measures does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
INITIAL_WINDOW_SIZE = 4
CANCEL = 8
MOST_DATA = 16384
"""Bytes of a frame that every peer must accept."""

_HUGE = 2**30
_HEAD = struct.Struct(">HBBBI")


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def opening() -> bytes:
    """What either side says first: whatever the other sends, no window of ours will stop it."""
    settings = struct.pack(">HIHI", 3, 2**20, INITIAL_WINDOW_SIZE, _HUGE)
    return frame(SETTINGS, 0, 0, settings) + window_update(0, _HUGE)


def window_update(stream: int, by: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", by))


def header_block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Fields as literals that enter no dynamic table (RFC 7541, 6.2.2), so the block is the same for ever."""
    return b"".join(b"\0" + _length(name) + name + _length(value) + value for name, value in fields)


def message(payload: bytes) -> bytes:
    """A gRPC message: not compressed."""
    return b"\0" + struct.pack(">I", len(payload)) + payload


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    yield from struct.iter_unpack(">HI", payload)


class Reader:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def frames(self, data: bytes) -> Iterator[Frame]:
        """Frames completed by `data`. Exhaust it before the next call."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            stop = at + 9 + (high << 8 | low)
            if stop > end:
                break
            yield Frame(kind, flags, stream & 0x7FFFFFFF, data[at + 9 : stop])
            at = stop
        self._rest = data[at:]


def _length(text: bytes) -> bytes:
    """The length of a string literal, in HPACK's integers with a prefix of 7 bits."""
    size = len(text)
    if size < 127:
        return bytes((size,))
    size -= 127
    out = bytearray((127,))
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)
