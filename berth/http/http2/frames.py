"""Frames of RFC 9113 section 6: numbers, layouts, and functions that build them. Nothing here keeps state."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

HEADER_SIZE: Final = 9
LARGEST_STREAM_ID: Final = 2**31 - 1

# A length of 24 bits is read as one byte and one short: faster than slicing and int.from_bytes.
HEADER: Final = struct.Struct(">BHBBI")
SETTING: Final = struct.Struct(">HI")
_HEADER_AND_LONG: Final = struct.Struct(">BHBBII")
_HEADER_AND_TWO_LONGS: Final = struct.Struct(">BHBBIII")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def settings(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(key, value) for key, value in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    return _HEADER_AND_LONG.pack(0, 4, WINDOW_UPDATE, 0, stream_id, increment)


def rst_stream(stream_id: int, code: int) -> bytes:
    return _HEADER_AND_LONG.pack(0, 4, RST_STREAM, 0, stream_id, code)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, code: int, detail: bytes = b"") -> bytes:
    size = 8 + len(detail)
    return _HEADER_AND_TWO_LONGS.pack(size >> 16, size & 0xFFFF, GOAWAY, 0, 0, last_stream_id, code) + detail


def headers(stream_id: int, block: bytes, *, end_stream: bool, max_frame: int) -> bytes:
    """One HEADERS frame, followed by as many CONTINUATION frames as `block` needs."""
    flags = END_STREAM if end_stream else 0
    size = len(block)
    if size <= max_frame:
        return HEADER.pack(size >> 16, size & 0xFFFF, HEADERS, flags | END_HEADERS, stream_id) + block
    pieces = [frame(HEADERS, flags, stream_id, block[:max_frame])]
    for start in range(max_frame, size, max_frame):
        last = END_HEADERS if start + max_frame >= size else 0
        pieces.append(frame(CONTINUATION, last, stream_id, block[start : start + max_frame]))
    return b"".join(pieces)


def speaks_http2(first_bytes: bytes) -> bool | None:
    """Whether a client that has sent `first_bytes` speaks HTTP/2 with prior knowledge; None while it may be either."""
    if first_bytes.startswith(PREFACE):
        return True
    return None if PREFACE.startswith(first_bytes) else False
