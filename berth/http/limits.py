"""How much a peer may ask of us. Sizes are in bytes; every limit has a default that suits the open internet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LARGEST_WINDOW: Final = 2**31 - 1
SMALLEST_MAX_FRAME: Final = 2**14
# Pieces of body that have to wait are joined up to this size.
SMALL: Final = 4096
# Joining pieces of this size costs more than writing one by one.
BULKY: Final = 8192
LARGEST_MAX_FRAME: Final = 2**24 - 1


@dataclass(frozen=True, slots=True)
class Http1Limits:
    """`head`: request or status line and fields together. `trailers`: likewise, after a chunked body.

    `body`: a longer one yields `BodyTooLarge`. `buffer`: bytes of body not yet consumed, or of pipelined requests,
    above which `wants_data` is false. `discard`: how much of an unread request body is skipped to keep the connection
    alive. `chunk_extensions`: over one body. `memo`: bytes of heads remembered with their meaning.
    """

    head: int = 32 * 1024
    fields: int = 128
    trailers: int = 8 * 1024
    body: int = 2**63 - 1
    buffer: int = 256 * 1024
    discard: int = 256 * 1024
    chunk_extensions: int = 4 * 1024
    memo: int = 16 * 1024


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """`stream_window` and `connection_window` bound what a peer may send before the shell has consumed it.

    A connection shared by strangers (router to worker) needs a connection window of at least the stream window times
    the streams, or else a few slow readers use it up for all.

    `header_block`: compressed size, with CONTINUATION. `header_list`: RFC 9113's measure, 32 + name + value for each
    field. `body`: a longer one yields `BodyTooLarge`. `memo`: bytes of header blocks remembered with their meaning.
    `control_frames`: frames that move nothing (PING, SETTINGS, empty DATA, …) accepted between two ticks, plus 4 for
    each frame that does. `resets`: streams that the peer may reset or get reset between two ticks, plus one for each
    stream that ended well. Beyond either the peer is told to calm down and the connection ends.
    """

    max_streams: int = 256
    stream_window: int = 256 * 1024
    connection_window: int = 1024 * 1024
    max_frame: int = 64 * 1024
    header_block: int = 32 * 1024
    header_list: int = 64 * 1024
    continuations: int = 16
    body: int = 2**63 - 1
    memo: int = 16 * 1024
    control_frames: int = 1000
    resets: int = 200

    def __post_init__(self) -> None:
        if not SMALLEST_MAX_FRAME <= self.max_frame <= LARGEST_MAX_FRAME:
            raise ValueError(f"max_frame {self.max_frame} is not between 2**14 and 2**24 - 1")
        if not 0 <= self.stream_window <= LARGEST_WINDOW:
            raise ValueError(f"stream_window {self.stream_window} is not between 0 and 2**31 - 1")
        # The connection's window starts at 65,535 and can only be raised (RFC 9113 section 6.9.2).
        if not 65_535 <= self.connection_window <= LARGEST_WINDOW:
            raise ValueError(f"connection_window {self.connection_window} is not between 65,535 and 2**31 - 1")
