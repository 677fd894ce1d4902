"""SETTINGS (RFC 9113 section 6.5): ours, and what the peer's mean for what we send."""

from __future__ import annotations

from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode
from berth.http.events import Event
from berth.http.http2 import frames
from berth.http.http2.body_in import BodyIn
from berth.http.http2.burden import Burden
from berth.http.http2.outbound import INITIAL_WINDOW, Outbound
from berth.http.limits import LARGEST_MAX_FRAME, LARGEST_WINDOW, SMALLEST_MAX_FRAME, Http2Limits
from berth.http.output import Output

# However much a peer would take: a longer frame makes the other streams of the connection wait.
_LARGEST_FRAME_SENT: Final = 2**16
# Before the peer's SETTINGS arrive: RFC 9113 section 6.5.2 recommends that no peer allows fewer.
_STREAMS_BEFORE_SETTINGS: Final = 100


class SettingsExchange:
    """`acknowledged`: the peer knows ours. `seen`: we know the peer's. `max_streams`: how many it lets us open.

    `by_client`: whether the peer is a client. Only a client may allow push, which we never use.
    """

    __slots__ = ("_body_in", "_burden", "_by_client", "_outbound", "_output", "acknowledged", "max_streams", "seen")

    def __init__(self, output: Output, outbound: Outbound, body_in: BodyIn, burden: Burden, *, by_client: bool) -> None:
        self._output = output
        self._outbound = outbound
        self._body_in = body_in
        self._burden = burden
        self._by_client = by_client
        self.acknowledged = False
        self.seen = False
        self.max_streams = _STREAMS_BEFORE_SETTINGS

    def send(self, limits: Http2Limits, more: dict[int, int]) -> None:
        """Ours; the connection's window grows with them."""
        values = {
            **more,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window,
            frames.MAX_FRAME_SIZE: limits.max_frame,
            frames.MAX_HEADER_LIST_SIZE: limits.header_list,
        }
        self._output.pieces.append(frames.settings(values))
        grown = limits.connection_window - INITIAL_WINDOW
        if grown:
            self._output.pieces.append(frames.window_update(0, grown))

    def on_settings(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        self._burden.control("SETTINGS")
        if flags & frames.ACK:
            if not self.seen:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is an acknowledgement")
            if not self.acknowledged:
                self.acknowledged = True
                self._body_in.settings_acknowledged()
            return
        if not self.seen:
            self.seen = True
            self.max_streams = LARGEST_WINDOW  # no limit, unless these settings name one
        for key, value in frames.SETTING.iter_unpack(payload):
            self._adopt(key, value)
        self._output.pieces.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._outbound.drain_ready(events)

    def _adopt(self, key: int, value: int) -> None:
        if key == frames.INITIAL_WINDOW_SIZE:
            self._outbound.set_initial_window(value)
        elif key == frames.MAX_FRAME_SIZE:
            if not SMALLEST_MAX_FRAME <= value <= LARGEST_MAX_FRAME:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
            self._outbound.max_frame = min(value, _LARGEST_FRAME_SENT)
        elif key == frames.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif key == frames.ENABLE_PUSH:
            if value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
            if value and not self._by_client:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a server cannot enable push")
        # HEADER_TABLE_SIZE needs nothing: we use no table. MAX_HEADER_LIST_SIZE is advice, and the peer will tell.

    def __repr__(self) -> str:
        return f"<SettingsExchange seen={self.seen} acknowledged={self.acknowledged} max_streams={self.max_streams}>"
