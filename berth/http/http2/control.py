"""Frames that carry no part of a message: settings, windows, pings, resets, GOAWAY, priorities."""

from __future__ import annotations

from abc import abstractmethod

from berth.http.errors import ConnectionFault, ErrorCode, name_of
from berth.http.events import Event, GoingAway, PingAcknowledged, StreamReset
from berth.http.http2 import frames
from berth.http.http2.life import DRAIN_PING, KEEPALIVE_PING, Life
from berth.http.http2.outbound import INITIAL_WINDOW, LARGEST_FRAME_SENT
from berth.http.limits import LARGEST_MAX_FRAME, LARGEST_WINDOW, SMALLEST_MAX_FRAME, Http2Limits


class Control(Life):
    """What the peer says of the connection, and what it means for streams."""

    def __init__(self, limits: Http2Limits, *, keepalive: float | None, keepalive_timeout: float) -> None:
        super().__init__(limits, keepalive=keepalive, keepalive_timeout=keepalive_timeout)
        self._settings_acknowledged = False
        self._peer_settings_seen = False
        self._peer_going_away: int | None = None
        self._draining = False

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
        elif payload != KEEPALIVE_PING:
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


def our_settings(limits: Http2Limits, more: dict[int, int]) -> bytes:
    values = {
        **more,
        frames.INITIAL_WINDOW_SIZE: limits.stream_window,
        frames.MAX_FRAME_SIZE: limits.max_frame,
        frames.MAX_HEADER_LIST_SIZE: limits.header_list,
    }
    grown = limits.connection_window - INITIAL_WINDOW
    return frames.settings(values) + (frames.window_update(0, grown) if grown else b"")
