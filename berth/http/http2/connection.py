"""A connection of either role: its parts, and which part gets each of the peer's frames.

How errors end (RFC 9113 section 5.4): a peer's mistake on one stream costs that stream, through `StreamTable.fail`. A
mistake that leaves the two sides without a common state raises `ConnectionFault`; `receive` turns that into GOAWAY and
`ConnectionClosed`. Local misuse raises `LocalError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, Malformed, name_of
from berth.http.events import ConnectionClosed, Event, GoingAway, TrailersReceived
from berth.http.head import Field
from berth.http.http2 import frames, header_codec
from berth.http.http2.blocks import HeaderBlocks
from berth.http.http2.body_in import BodyIn
from berth.http.http2.burden import Burden
from berth.http.http2.credit import ConnectionCredit
from berth.http.http2.messages import Message, Trailers
from berth.http.http2.outbound import Outbound
from berth.http.http2.pings import Pings
from berth.http.http2.settings import SettingsExchange
from berth.http.http2.stream import Stream
from berth.http.http2.streams import StreamTable
from berth.http.limits import Http2Limits
from berth.http.output import Output

_unpack_header: Final = frames.HEADER.unpack_from


class Http2Connection(ABC):
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

    def __init__(
        self, limits: Http2Limits, burden: Burden, *, server: bool, keepalive: float | None, keepalive_timeout: float
    ) -> None:
        self._limits = limits
        self._burden = burden
        self._output = Output()
        self._credit = ConnectionCredit(limits.connection_window, self._output)
        self._streams = StreamTable(self._output, self._credit, burden)
        self._outbound = Outbound(self._output, self._streams, burden)
        self._body_in = BodyIn(limits, self._output, self._credit, self._streams, burden)
        self._blocks = HeaderBlocks(limits)
        self._settings = SettingsExchange(self._output, self._outbound, self._body_in, burden, by_client=server)
        self._pings = Pings(self._output, burden, keepalive, keepalive_timeout)
        # The part that has come of an incomplete frame.
        self._rest = b""
        self._draining = False
        self._closed = False
        self._cut_off = False
        # The last stream that the peer's GOAWAY lets live.
        self._peer_going_away: int | None = None

    # ── Bytes in ───────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, data: bytes) -> list[Event]:
        """What the peer said with `data`. Never raises for what a peer can send; nothing after the end."""
        events: list[Event] = []
        if self._closed:
            return events
        self._pings.heard = True
        try:
            self._parse(self._rest + data if self._rest else data, events)
        except ConnectionFault as fault:
            self._say_goodbye(fault.code, fault.detail)
            self._end(events, fault.code, fault.detail, remote=False)
        return events

    def _parse(self, data: bytes, events: list[Event]) -> None:
        pos = self._skip_preface(data)
        end = len(data)
        max_frame = self._limits.max_frame
        body_in, blocks, settings = self._body_in, self._blocks, self._settings
        while pos < end:
            if body_in.data_left or body_in.pad_left:
                pos = body_in.continue_data(data, pos, events)
                continue
            if end - pos < frames.HEADER_SIZE:
                break
            high, low, kind, flags, stream_id = _unpack_header(data, pos)
            size = high << 16 | low
            stream_id &= 0x7FFFFFFF
            if size > max_frame:
                self._refuse_size(kind, stream_id, size)
            start = pos + frames.HEADER_SIZE
            stop = start + size
            if kind == frames.DATA and settings.seen and not blocks.stream_id:
                if stop <= end and not flags & frames.PADDED:
                    body_in.on_data(stream_id, data[start:stop], bool(flags & frames.END_STREAM), events)
                    pos = stop
                    continue
                if start == end:
                    break
                pos = start + body_in.begin_data(stream_id, flags, size, data[start], events)
                continue
            self._check_early(kind, stream_id, size)
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
        blocks = self._blocks
        if not self._settings.seen and kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if blocks.stream_id and (kind != frames.CONTINUATION or stream_id != blocks.stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        # The other kinds are small, and unknown ones are not worth more room.
        if blocks.size + size > self._limits.header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block, or another frame, is too large")

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if kind in (frames.HEADERS, frames.CONTINUATION):
            message = self._blocks.on_frame(kind, flags, stream_id, payload)
            if message is not None:
                self._on_message(stream_id, message, self._blocks.ends, events)
        elif kind == frames.WINDOW_UPDATE:
            self._outbound.on_window_update(stream_id, payload, events)
        elif kind == frames.RST_STREAM:
            self._streams.on_rst_stream(stream_id, payload, events)
        elif kind == frames.PING:
            if self._pings.on_ping(flags, stream_id, payload, events):
                self._on_drain_acknowledged()
        elif kind == frames.SETTINGS:
            self._settings.on_settings(flags, stream_id, payload, events)
        elif kind == frames.GOAWAY:
            self._on_goaway(stream_id, payload, events)
        elif kind == frames.PRIORITY:
            self._streams.on_priority(stream_id, payload, events)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "push is not accepted")
        else:
            self._burden.control(f"unknown frame 0x{kind:x}")

    # ── Messages ───────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def _on_message(self, stream_id: int, message: Message | Malformed, ends: bool, events: list[Event]) -> None:
        """A complete header block."""

    def _fail_malformed(self, stream_id: int, error: Malformed, events: list[Event]) -> None:
        code = ErrorCode.ENHANCE_YOUR_CALM if error.status == 431 else ErrorCode.PROTOCOL_ERROR
        self._streams.fail(stream_id, code, error.detail, events)

    def _on_trailers(self, stream: Stream, message: Message | Malformed, ends: bool, events: list[Event]) -> None:
        streams = self._streams
        if not stream.remote_open:
            streams.fail(stream.id, ErrorCode.STREAM_CLOSED, "HEADERS after the end", events)
        elif isinstance(message, Malformed):
            self._fail_malformed(stream.id, message, events)
        elif not isinstance(message, Trailers) or not ends:
            streams.fail(stream.id, ErrorCode.PROTOCOL_ERROR, "a second head, or trailers before the end", events)
        elif stream.expected is not None and stream.received != stream.expected:
            streams.fail(stream.id, ErrorCode.PROTOCOL_ERROR, "the body is not as long as announced", events)
        else:
            self._burden.useful += 1
            if not stream.discards:
                events.append(TrailersReceived(stream.id, message.fields))
            streams.close_remote(stream)

    # ── Sending ────────────────────────────────────────────────────────────────────────────────────────────────

    def send_data(self, stream_id: int, data: bytes | memoryview, end: bool = False) -> int:
        """Send body; returns how many bytes went into the output (see `DataSent` for the rest).

        `data` must not change until it was sent. A memoryview must be one of bytes.
        """
        return self._outbound.send_data(stream_id, data, end)

    def send_trailers(self, stream_id: int, block: bytes) -> None:
        """Trailers, which end the message; they follow whatever body is still waiting. `block` comes from `encode`."""
        self._outbound.send_trailers(stream_id, block)

    def consume(self, stream_id: int, size: int) -> None:
        """The shell is done with `size` bytes of this stream's body. Nothing happens for a stream that is gone."""
        self._body_in.consume(stream_id, size)

    def pause(self) -> None:
        """The transport is full: body waits in its streams until `resume`. Everything else is small and still goes."""
        self._outbound.pause()

    def resume(self) -> list[Event]:
        """The transport has room again. Returns `DataSent` for the body that goes now."""
        events: list[Event] = []
        self._outbound.resume(events)
        return events

    def reset(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """Give the stream up, in both directions; body that waits is dropped. No event follows."""
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._streams.check_sendable(stream_id)
            return
        self._streams.put_reset(stream_id, code)
        self._streams.forget(stream)

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life: `PingAcknowledged` will carry the same 8 bytes."""
        self._pings.send(payload)

    def output(self) -> bytes:
        """All bytes to be written now, joined; they are the shell's from here on."""
        return self._output.join()

    def gather(self) -> bytes | list[bytes | memoryview]:
        """As `output`; in pieces where joining them would copy much."""
        return self._output.gather()

    # ── The end of the connection ──────────────────────────────────────────────────────────────────────────────

    def tick(self, now: float) -> list[Event]:
        """About once a second, with a monotonic time in seconds: forgives floods, and keeps the connection alive.

        With `keepalive` seconds of silence a PING goes out; after `keepalive_timeout` more the peer counts as gone.
        """
        events: list[Event] = []
        self._burden.tick()
        if not self._closed and self._pings.tick(now):
            self._end(events, ErrorCode.CONNECT_ERROR, "the peer does not answer PING", remote=True)
        return events

    def eof(self) -> list[Event]:
        """The transport has ended. Streams still open are lost."""
        events: list[Event] = []
        if not self._closed:
            code = ErrorCode.CONNECT_ERROR if self._streams.open else ErrorCode.NO_ERROR
            self._end(events, code, "the peer hung up", remote=True)
        return events

    def close(self, code: int = ErrorCode.NO_ERROR, detail: str = "") -> list[Event]:
        """End the connection at once, with GOAWAY; streams still open are lost."""
        events: list[Event] = []
        if not self._closed:
            self._say_goodbye(code, detail)
            self._end(events, code, detail, remote=False)
        return events

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

    @abstractmethod
    def _on_drain_acknowledged(self) -> None:
        """The peer has seen our first GOAWAY: only a server sends one."""

    def _last_peer_stream_id(self) -> int:
        """The newest stream of the peer that we looked at, for GOAWAY."""
        return 0

    def _say_goodbye(self, code: int, detail: str) -> None:
        self._output.pieces.append(frames.goaway(self._last_peer_stream_id(), code, detail.encode()))

    def _end(self, events: list[Event], code: int, detail: str, *, remote: bool) -> None:
        self._closed = True
        self._cut_off = not remote
        events.extend(self._streams.lose(code, detail, remote=remote))
        self._blocks.forget()
        self._rest = b""
        events.append(ConnectionClosed(code, detail, remote))

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
        return len(self._streams.open)

    @property
    def backlog(self) -> int:
        """Bytes that wait to be looked at: none, streams do not wait for each other."""
        return 0

    def unsent(self, stream_id: int) -> int:
        """Bytes of this stream's body that wait for a window or the transport."""
        return self._outbound.unsent(stream_id)

    def validate(self) -> None:
        """Raise `AssertionError` unless the state is consistent. For tests, after every step."""
        self._streams.validate()
        self._outbound.validate()
        if not self._closed:
            self._body_in.validate()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "draining" if self._draining else "open"
        return (
            f"<{type(self).__name__} {state} {self._streams!r} {self._outbound!r} {self._output!r} "
            f"{len(self._rest)} bytes of a frame {self._body_in!r} {self._blocks!r} {self._burden!r}>"
        )
