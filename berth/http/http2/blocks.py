"""Header blocks of one direction of a connection, joined from their frames and read with two memories: of whole blocks,
and of how they begin.

Most blocks repeat, so a dict of bytes answers for them. Others differ only at their end, by a request id or a deadline.
When two blocks in a row share their first fields, these become the *prefix*; of further blocks that begin with it, only
the rest is decoded and checked. The head that results has the prefix's head as its `base`.

Both memories hold only as long as indices mean the same: any change of the dynamic table empties them.
"""

from __future__ import annotations

from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, Malformed
from berth.http.head import Field
from berth.http.http2 import frames
from berth.http.http2.header_codec import CompressionError, HeaderDecoder
from berth.http.http2.messages import Message, are_plain, parse
from berth.http.limits import Http2Limits
from berth.http.memo import Memo

# A longer tail is decoded no faster than the whole.
_MOST_TAIL_FIELDS: Final = 4


class BlockReader:
    """`read` must see every block of the connection, in order, whatever becomes of its stream (RFC 9113, 4.3)."""

    __slots__ = ("_base", "_decoder", "_last", "_memo", "_prefix", "_prefix_fields")

    def __init__(self, limits: Http2Limits) -> None:
        self._decoder = HeaderDecoder(limits.header_list)
        self._memo: Memo[Message] = Memo(limits.memo)
        self._last = b""
        self._prefix = b""
        self._prefix_fields: list[Field] = []
        self._base: Message | None = None

    @property
    def remembered(self) -> int:
        """How many bytes of blocks it knows the meaning of."""
        return sum(len(block) for block in self._memo)

    def read(self, block: bytes) -> Message | Malformed:
        """The block's meaning, or why it has none. Raises `CompressionError` where the connection is lost."""
        message = self._memo.get(block)
        if message is not None:
            return message
        base = self._base
        if base is None or not block.startswith(self._prefix):
            return self._read_whole(block)
        tail, pure, cut = self._decoder.decode(block[len(self._prefix) :], self._prefix_fields)
        if pure and not cut and tail:
            try:
                if are_plain(tail):
                    return base.extended(tuple(tail))
            except Malformed as error:
                return error
        return self._conclude(self._prefix_fields + tail, b"", pure=pure, cut=cut)

    def _read_whole(self, block: bytes) -> Message | Malformed:
        starts: list[int] = []
        fields, pure, cut = self._decoder.decode(block, (), starts)
        message = self._conclude(fields, block, pure=pure, cut=cut)
        if pure and not cut and not isinstance(message, Malformed):
            self._find_prefix(block, fields, starts)
        return message

    def _conclude(self, fields: list[Field], block: bytes, *, pure: bool, cut: bool) -> Message | Malformed:
        if not pure:
            # The meaning of blocks has moved, and a block that moves it must be decoded each time.
            self.forget()
        if cut:
            return Malformed("the header list is too large", 431)
        try:
            message = parse(fields)
        except Malformed as error:
            return error
        if pure and block:
            self._memo.keep(block, message)
        return message

    def _find_prefix(self, block: bytes, fields: list[Field], starts: list[int]) -> None:
        """The fields that `block` shares with the block before it, if all but a few."""
        last, self._last = self._last, block if len(block) <= self._memo.longest else b""
        for back in range(1, min(_MOST_TAIL_FIELDS, len(fields) - 1) + 1):
            prefix = block[: starts[-back]]
            if last.startswith(prefix):
                try:
                    self._base = parse(fields[:-back])
                except Malformed:
                    return
                self._prefix, self._prefix_fields = prefix, fields[:-back]
                return

    def forget(self) -> None:
        self._memo.forget()
        self._last = self._prefix = b""
        self._prefix_fields = []
        self._base = None

    def __repr__(self) -> str:
        return f"<BlockReader {len(self._memo)} blocks, prefix of {len(self._prefix_fields)} fields, {self._decoder!r}>"


class HeaderBlocks:
    """HEADERS and CONTINUATION frames, up to what they say. `stream_id`: the stream of a block that has begun and not
    ended, else 0. `size`: its bytes so far. `ends`: nothing follows it on its stream."""

    __slots__ = ("_continuations", "_pieces", "_reader", "ends", "size", "stream_id")

    def __init__(self, limits: Http2Limits) -> None:
        self._continuations = limits.continuations
        self._reader = BlockReader(limits)
        self._pieces: list[bytes] = []
        self.stream_id = 0
        self.size = 0
        self.ends = False

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> Message | Malformed | None:
        """HEADERS or CONTINUATION. None: the block is not complete."""
        if kind == frames.CONTINUATION:
            return self._continue(flags, payload)
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (frames.PADDED | frames.WITH_PRIORITY):
            payload = _strip(payload, flags)
        self.ends = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            return self._read(payload)
        self.stream_id, self._pieces, self.size = stream_id, [payload], len(payload)
        return None

    def _continue(self, flags: int, payload: bytes) -> Message | Malformed | None:
        if not self.stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._pieces.append(payload)
        self.size += len(payload)
        if flags & frames.END_HEADERS:
            block = b"".join(self._pieces)
            self.stream_id, self._pieces, self.size = 0, [], 0
            return self._read(block)
        if len(self._pieces) > self._continuations:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        return None

    def _read(self, block: bytes) -> Message | Malformed:
        try:
            return self._reader.read(block)
        except CompressionError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None

    def forget(self) -> None:
        """The connection has ended."""
        self._pieces = []
        self._reader.forget()

    def __repr__(self) -> str:
        return f"<HeaderBlocks {self.size} bytes of a block, {self._reader!r}>"


def _strip(payload: bytes, flags: int) -> bytes:
    """A HEADERS payload without padding and priority (RFC 9113 section 6.2)."""
    start, end = 0, len(payload)
    if flags & frames.PADDED:
        if not payload:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its padding's length")
        start, end = 1, end - payload[0]
    if flags & frames.WITH_PRIORITY:
        start += 5
    if start > end:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[start:end]
