"""The state machine of an HTTP/2 connection: the peer's frames, and what both roles make of them.

How errors end (RFC 9113 section 5.4): what a peer does wrong on one stream costs that stream, through `_fail_stream`;
what leaves the connection without a common state raises `ConnectionFault`, which `receive` turns into GOAWAY and
`ConnectionClosed`. Local misuse raises `LocalError`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, LocalError, Malformed, name_of
from berth.http.events import (
    ConnectionClosed,
    Event,
    GoingAway,
    PingAcknowledged,
    StreamReset,
    TrailersReceived,
)
from berth.http.head import Field
from berth.http.http2 import frames, header_codec
from berth.http.http2.blocks import BlockReader
from berth.http.http2.body_in import BodyIn
from berth.http.http2.burden import Burden
from berth.http.http2.header_codec import CompressionError
from berth.http.http2.messages import Message, Trailers
from berth.http.http2.outbound import INITIAL_WINDOW, LARGEST_FRAME_SENT
from berth.http.http2.stream import Stream
from berth.http.limits import LARGEST_MAX_FRAME, LARGEST_WINDOW, SMALLEST_MAX_FRAME, Http2Limits

# Streams we reset, on which the peer may not have heard of it yet. Older ones are forgotten.
_RESETS_REMEMBERED: Final = 1024
DRAIN_PING: Final = b"draining"
_KEEPALIVE_PING: Final = b"berth-ka"

_unpack_header: Final = frames.HEADER.unpack_from


class Http2Connection(BodyIn):
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
        super().__init__(limits, Burden(limits.control_frames, limits.resets))
        self._rest = b""
        self._closed = False
        self._reset_here: OrderedDict[int, None] = OrderedDict()
        self._settings_acknowledged = False
        # A header block of which HEADERS, but not END_HEADERS, has arrived.
        self._block_stream_id = 0
        self._block: list[bytes] = []
        self._block_size = 0
        self._block_ends = False
        self._blocks = BlockReader(limits)
        self._peer_settings_seen = False
        self._peer_going_away: int | None = None
        self._draining = False
        self._keepalive = keepalive
        self._keepalive_timeout = keepalive_timeout
        self._heard = True
        self._heard_at: float | None = None
        self._pinged_at: float | None = None

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

    def eof(self) -> list[Event]:
        """The transport has ended. Streams still open are lost."""
        events: list[Event] = []
        if not self._closed:
            clean = not self._streams
            self._end(events, ErrorCode.NO_ERROR if clean else ErrorCode.CONNECT_ERROR, "the peer hung up", remote=True)
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

    # ── Other frames, received ─────────────────────────────────────────────────────────────────────────────────

    def _on_window_update(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not of 4 bytes")
        self._burden.control("WINDOW_UPDATE")
        increment = int.from_bytes(payload, "big") & LARGEST_WINDOW
        if stream_id == 0:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            if self._window + increment > LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window grew too large")
            self._window += increment
        else:
            stream = self._streams.get(stream_id)
            if stream is None:
                self._check_not_idle(stream_id, "WINDOW_UPDATE")
                return
            if not increment:
                self._fail_stream(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0", events)
                return
            if not self._widen(stream, increment):
                self._fail_stream(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the window grew too large", events)
                return
        if self._ready:
            self._drain(events)

    def _on_rst_stream(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not of 4 bytes")
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id, "RST_STREAM")
            self._burden.control("RST_STREAM")
            return
        code = int.from_bytes(payload, "big")
        self._forget(stream)
        refused = code == ErrorCode.REFUSED_STREAM
        events.append(StreamReset(stream_id, code, f"reset by the peer: {name_of(code)}", True, refused))
        self._burden.reset()

    def _on_ping(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not of 8 bytes")
        self._burden.control("PING")
        if not flags & frames.ACK:
            self._out.append(frames.ping(payload, ack=True))
        elif payload == DRAIN_PING:
            self._on_drain_acknowledged()
        elif payload != _KEEPALIVE_PING:
            events.append(PingAcknowledged(payload))

    @abstractmethod
    def _on_drain_acknowledged(self) -> None:
        """The peer has seen our first GOAWAY: only a server sends one."""

    def _on_settings(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        self._burden.control("SETTINGS")
        if flags & frames.ACK:
            if not self._peer_settings_seen:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is an acknowledgement")
            self._on_settings_acknowledged()
            return
        self._peer_settings_seen = True
        for key, value in frames.SETTING.iter_unpack(payload):
            self._apply_setting(key, value)
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if self._ready:
            self._drain(events)

    def _on_settings_acknowledged(self) -> None:
        if self._settings_acknowledged:
            return
        self._settings_acknowledged = True
        # Where our window is smaller than the initial one, credit that was never ours to take back shrinks only now.
        change = self._limits.stream_window - self._initial_credit
        self._initial_credit = self._limits.stream_window
        for stream in self._streams.values():
            stream.credit += change
            # Measured by the new window this may be much: the peer could be waiting for it already.
            if stream.unannounced * 2 >= self._initial_credit:
                self._announce(stream)

    def _apply_setting(self, key: int, value: int) -> None:
        if key == frames.INITIAL_WINDOW_SIZE:
            if value > LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
            change = value - self._peer_initial_window
            self._peer_initial_window = value
            for stream in self._streams.values():
                if not self._widen(stream, change):
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window grew too large")
        elif key == frames.MAX_FRAME_SIZE:
            if not SMALLEST_MAX_FRAME <= value <= LARGEST_MAX_FRAME:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
            self._max_frame = min(value, LARGEST_FRAME_SENT)
        elif key == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        # HEADER_TABLE_SIZE needs nothing: we use no table. MAX_HEADER_LIST_SIZE is advice, and the peer will tell.

    def _on_goaway(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")
        self._burden.control("GOAWAY")
        last = int.from_bytes(payload[:4], "big") & frames.LARGEST_STREAM_ID
        code = int.from_bytes(payload[4:8], "big")
        if self._peer_going_away is not None and last > self._peer_going_away:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY takes back what an earlier one said")
        self._peer_going_away = last
        detail = payload[8:264].decode("utf-8", "replace") or name_of(code)
        events.append(GoingAway(last, code, detail))
        self._abandon_streams(last, code, detail, events)

    @abstractmethod
    def _abandon_streams(self, last: int, code: int, detail: str, events: list[Event]) -> None:
        """The peer will not look at our streams above `last`: only a client has any."""

    def _on_priority(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._burden.control("PRIORITY")
        if len(payload) != 5 and self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not of 5 bytes")
        if len(payload) != 5:
            self._fail_stream(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not of 5 bytes", events)

    # ── Ends, and signs of life ────────────────────────────────────────────────────────────────────────────────

    def reset(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """Give the stream up, in both directions; body that waits is dropped. No event follows."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_sendable(stream_id)
            return
        self._put_reset(stream_id, code)
        self._forget(stream)

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life: `PingAcknowledged` will carry the same 8 bytes."""
        if len(payload) != 8 or payload in (DRAIN_PING, _KEEPALIVE_PING):
            raise LocalError(f"{payload!r} cannot be a PING's payload here")
        self._out.append(frames.ping(payload))

    def tick(self, now: float) -> list[Event]:
        """About once a second, with a monotonic time in seconds: forgives floods, and keeps the connection alive.

        With `keepalive` seconds of silence a PING goes out; after `keepalive_timeout` more the peer counts as gone.
        """
        events: list[Event] = []
        self._burden.tick()
        if self._heard or self._heard_at is None:
            self._heard = False
            self._heard_at, self._pinged_at = now, None
        elif self._keepalive is None or self._closed:
            pass
        elif self._pinged_at is None:
            if now - self._heard_at >= self._keepalive:
                self._pinged_at = now
                self._out.append(frames.ping(_KEEPALIVE_PING))
        elif now - self._pinged_at >= self._keepalive_timeout:
            self._end(events, ErrorCode.CONNECT_ERROR, "the peer does not answer PING", remote=True)
        return events

    def close(self, code: int = ErrorCode.NO_ERROR, detail: str = "") -> list[Event]:
        """End the connection at once, with GOAWAY; streams still open are lost."""
        events: list[Event] = []
        if not self._closed:
            self._out.append(frames.goaway(self._last_peer_stream_id(), code, detail.encode()))
            self._end(events, code, detail, remote=False)
        return events

    # ── State ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def closed(self) -> bool:
        """Nothing more will come or go, apart from what `output()` still has."""
        return self._closed

    @property
    def wants_data(self) -> bool:
        """Whether the shell should read on: always, because the windows hold back what must not come."""
        return not self._closed

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def backlog(self) -> int:
        """Bytes that wait to be looked at: none, streams do not wait for each other."""
        return 0

    def _close_remote(self, stream: Stream) -> None:
        stream.remote_open = False
        if not stream.local_open:
            self._burden.completed += 1
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        """The stream is closed. Bytes the shell still holds of it no longer burden the connection's window: they are
        bounded by the stream's, and a shell that forgets to give them back must not be able to stall the rest."""
        del self._streams[stream.id]
        self._ready.pop(stream.id, None)
        if stream.held:
            self._release(stream.held)
            stream.held = 0

    def _put_reset(self, stream_id: int, code: int) -> None:
        self._out.append(frames.rst_stream(stream_id, code))
        self._ignore(stream_id)

    def _ignore(self, stream_id: int) -> None:
        """What still comes for this stream was sent before the peer could know better."""
        self._reset_here[stream_id] = None
        if len(self._reset_here) > _RESETS_REMEMBERED:
            self._reset_here.popitem(last=False)

    def _fail_stream(self, stream_id: int, code: ErrorCode, detail: str, events: list[Event]) -> None:
        """The peer broke a rule that costs this stream, which it may never have opened."""
        self._put_reset(stream_id, code)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._forget(stream)
            events.append(StreamReset(stream_id, code, detail, False))
        self._burden.reset()

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on a stream that was never opened")

    def _check_stray(self, stream_id: int, what: str) -> None:
        """A frame for a stream we no longer have: fine only where the peer cannot know that yet."""
        self._check_not_idle(stream_id, what)
        if stream_id not in self._reset_here:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"{what} on a closed stream")
        self._burden.control(f"{what} on a stream that was reset")

    def _check_sendable(self, stream_id: int) -> None:
        if stream_id == 0 or self._is_idle(stream_id):
            raise LocalError(f"stream {stream_id} was never opened")

    @abstractmethod
    def _is_idle(self, stream_id: int) -> bool:
        """Whether this stream was never opened."""

    def _last_peer_stream_id(self) -> int:
        """The newest stream of the peer that we looked at, for GOAWAY."""
        return 0

    def _end(self, events: list[Event], code: int, detail: str, *, remote: bool) -> None:
        self._closed = True
        events.extend([StreamReset(stream_id, code, detail, remote) for stream_id in self._streams])
        self._streams.clear()
        self._ready.clear()
        self._block.clear()
        self._rest = b""
        self._blocks.forget()
        events.append(ConnectionClosed(code, detail, remote))

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


def our_settings(limits: Http2Limits, more: dict[int, int]) -> bytes:
    values = {
        **more,
        frames.INITIAL_WINDOW_SIZE: limits.stream_window,
        frames.MAX_FRAME_SIZE: limits.max_frame,
        frames.MAX_HEADER_LIST_SIZE: limits.header_list,
    }
    grown = limits.connection_window - INITIAL_WINDOW
    return frames.settings(values) + (frames.window_update(0, grown) if grown else b"")


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
