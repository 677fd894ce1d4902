"""The state machine of an HTTP/2 connection: the peer's frames, and what both roles make of them.

How errors end (RFC 9113 section 5.4): what a peer does wrong on one stream costs that stream, through `_fail_stream`;
what leaves the connection without a common state raises `ConnectionFault`, which `receive` turns into GOAWAY and
`ConnectionClosed`. Local misuse raises `LocalError`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, Malformed
from berth.http.events import Event, TrailersReceived
from berth.http.head import Field
from berth.http.http2 import frames, header_codec
from berth.http.http2.control import Control
from berth.http.http2.header_codec import CompressionError
from berth.http.http2.messages import Message, Trailers
from berth.http.http2.stream import Stream
from berth.http.limits import Http2Limits

_unpack_header: Final = frames.HEADER.unpack_from


class Http2Connection(Control):
    """What both roles share. Use `Http2Server` or `Http2Client`; `berth.http` describes the calls and the events."""

    @staticmethod
    def encode_fields(fields: Iterable[Field]) -> bytes:
        """As `header_codec.encode`."""
        return header_codec.encode(fields)

    @staticmethod
    def encode_request(
        method: bytes, scheme: bytes, authority: bytes, path: bytes, fields: Iterable[Field] = ()
    ) -> bytes:
        """As `header_codec.encode_request`."""
        return header_codec.encode_request(method, scheme, authority, path, fields)

    @staticmethod
    def encode_response(status: int, fields: Iterable[Field] = ()) -> bytes:
        """As `header_codec.encode_response`."""
        return header_codec.encode_response(status, fields)

    def __init__(self, limits: Http2Limits, *, keepalive: float | None, keepalive_timeout: float) -> None:
        super().__init__(limits, keepalive=keepalive, keepalive_timeout=keepalive_timeout)
        # Of a header block that has begun and not ended; its parts are in `_block`.
        self._block_stream_id = 0
        self._block_size = 0
        self._block_ends = False

    # ── Bytes in ───────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, data: bytes) -> list[Event]:
        """What the peer said with `data`. Never raises for what a peer can send; nothing after the end."""
        events: list[Event] = []
        if self._closed:
            return events
        self._heard = True
        try:
            self._parse(self._rest + data if self._rest else data, events)
        except ConnectionFault as fault:
            self._out.append(frames.goaway(self._last_peer_stream_id(), fault.code, fault.detail.encode()))
            self._end(events, fault.code, fault.detail, remote=False)
        return events

    def _parse(self, data: bytes, events: list[Event]) -> None:
        pos = self._skip_preface(data)
        end = len(data)
        max_frame = self._limits.max_frame
        while pos < end:
            if self._data_left or self._pad_left:
                pos = self._continue_data(data, pos, events)
                continue
            if end - pos < frames.HEADER_SIZE:
                break
            high, low, kind, flags, stream_id = _unpack_header(data, pos)
            size = high << 16 | low
            stream_id &= 0x7FFFFFFF
            if size > max_frame:
                self._refuse_size(kind, stream_id, size)
            start = pos + frames.HEADER_SIZE
            if kind == frames.DATA and self._peer_settings_seen and not self._block_stream_id:
                stop = start + size
                if stop <= end and not flags & frames.PADDED:
                    stream = self._charge(stream_id, size, events)
                    self._deliver(stream, data[start:stop], bool(flags & frames.END_STREAM), events)
                    pos = stop
                    continue
                if start == end:
                    break
                stream = self._charge(stream_id, size, events)
                pos = start + self._begin_data(stream, flags, size, data[start], events)
                continue
            self._check_early(kind, stream_id, size)
            stop = start + size
            if stop > end:
                break
            self._on_frame(kind, flags, stream_id, data[start:stop], events)
            pos = stop
        self._rest = data[pos:]

    def _skip_preface(self, data: bytes) -> int:
        """Where frames start in `data`."""
        return 0

    def _refuse_size(self, kind: int, stream_id: int, size: int) -> None:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes (kind {kind}, stream {stream_id})")

    def _check_early(self, kind: int, stream_id: int, size: int) -> None:
        """Refuse by its first nine bytes what would be refused in the end, and would have to be kept until then."""
        if not self._peer_settings_seen and kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block_stream_id and (kind != frames.CONTINUATION or stream_id != self._block_stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        # The other kinds are small, and unknown ones are not worth more room.
        if self._block_size + size > self._limits.header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block, or another frame, is too large")

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if kind == frames.HEADERS:
            self._on_headers(flags, stream_id, payload, events)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload, events)
        elif kind == frames.RST_STREAM:
            self._on_rst_stream(stream_id, payload, events)
        elif kind == frames.PING:
            self._on_ping(flags, stream_id, payload, events)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream_id, payload, events)
        elif kind == frames.CONTINUATION:
            self._on_continuation(flags, stream_id, payload, events)
        elif kind == frames.GOAWAY:
            self._on_goaway(stream_id, payload, events)
        elif kind == frames.PRIORITY:
            self._on_priority(stream_id, payload, events)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "push is not accepted")
        else:
            self._burden.control(f"unknown frame 0x{kind:x}")

    # ── Header blocks, received ────────────────────────────────────────────────────────────────────────────────

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (frames.PADDED | frames.WITH_PRIORITY):
            payload = _strip(payload, flags)
        ends = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, payload, ends, events)
            return
        self._block_stream_id, self._block, self._block_ends = stream_id, [payload], ends
        self._block_size = len(payload)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if not self._block_stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block.append(payload)
        self._block_size += len(payload)
        if flags & frames.END_HEADERS:
            block, ends = b"".join(self._block), self._block_ends
            self._block_stream_id, self._block, self._block_size = 0, [], 0
            self._on_block(stream_id, block, ends, events)
        elif len(self._block) > self._limits.continuations:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")

    def _on_block(self, stream_id: int, block: bytes, ends: bool, events: list[Event]) -> None:
        try:
            message = self._blocks.read(block)
        except CompressionError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        self._on_message(stream_id, message, ends, events)

    @abstractmethod
    def _on_message(self, stream_id: int, message: Message | Malformed, ends: bool, events: list[Event]) -> None:
        """A complete header block."""

    def _fail_malformed(self, stream_id: int, error: Malformed, events: list[Event]) -> None:
        code = ErrorCode.ENHANCE_YOUR_CALM if error.status == 431 else ErrorCode.PROTOCOL_ERROR
        self._fail_stream(stream_id, code, error.detail, events)

    def _on_trailers(self, stream: Stream, message: Message | Malformed, ends: bool, events: list[Event]) -> None:
        if not stream.remote_open:
            self._fail_stream(stream.id, ErrorCode.STREAM_CLOSED, "HEADERS after the end", events)
        elif isinstance(message, Malformed):
            self._fail_malformed(stream.id, message, events)
        elif not isinstance(message, Trailers) or not ends:
            self._fail_stream(stream.id, ErrorCode.PROTOCOL_ERROR, "a second head, or trailers before the end", events)
        elif stream.expected is not None and stream.received != stream.expected:
            self._fail_stream(stream.id, ErrorCode.PROTOCOL_ERROR, "the body is not as long as announced", events)
        else:
            self._burden.useful += 1
            if not stream.discards:
                events.append(TrailersReceived(stream.id, message.fields))
            self._close_remote(stream)

    def validate(self) -> None:
        """Raise `AssertionError` unless the state is consistent. For tests, after every step."""
        limits = self._limits
        assert self._credit >= 0
        if not self._closed:
            held = sum(stream.held for stream in self._streams.values()) + self._data_left + self._pad_left
            assert self._credit + self._unannounced + held == limits.connection_window, "connection credit leaked"
            assert self._unannounced * 2 < limits.connection_window, "the peer may stall"
        for stream_id, stream in self._streams.items():
            assert stream.id == stream_id
            assert not self._is_idle(stream_id)
            assert stream.local_open or stream.remote_open, "a closed stream was kept"
            partial = self._data_left + self._pad_left if self._data_stream is stream else 0
            if stream.remote_open:
                total = stream.credit + stream.held + stream.unannounced + partial
                assert total == self._initial_credit, f"credit leaked on {stream!r}: {total}"
                assert stream.unannounced * 2 < max(1, self._initial_credit), f"the peer may stall on {stream!r}"
        self._validate_outbound()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "draining" if self._draining else "open"
        return (
            f"<{type(self).__name__} {state} streams={len(self._streams)} ready={len(self._ready)} "
            f"window={self._window} credit={self._credit}{' paused' if self._paused else ''}>"
        )


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
