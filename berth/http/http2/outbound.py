"""Our half of an HTTP/2 connection: heads, body and trailers on their way out, through the peer's windows.

Body bytes keep their order because there is one way out: a stream that has anything waiting never sends around it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, LocalError
from berth.http.events import DataSent, Event
from berth.http.http2 import frames
from berth.http.http2.burden import Burden
from berth.http.http2.header_codec import NO_DYNAMIC_TABLE
from berth.http.http2.stream import Stream, Waiting
from berth.http.http2.streams import StreamTable
from berth.http.limits import BULKY, LARGEST_WINDOW, SMALL, SMALLEST_MAX_FRAME
from berth.http.output import Output

INITIAL_WINDOW: Final = 65_535

_pack_header: Final = frames.HEADER.pack


class Outbound:
    """`window` is the connection's, `initial_window` that of streams to come, `max_frame` the longest frame to be
    sent: all three as the peer says."""

    __slots__ = ("_burden", "_first_block", "_output", "_paused", "_streams", "initial_window", "max_frame", "window")

    def __init__(self, output: Output, streams: StreamTable, burden: Burden) -> None:
        self._output = output
        self._streams = streams
        self._burden = burden
        self._paused = False
        self._first_block = True
        self.window = INITIAL_WINDOW
        self.initial_window = INITIAL_WINDOW
        self.max_frame = SMALLEST_MAX_FRAME

    # ── Heads and trailers ─────────────────────────────────────────────────────────────────────────────────────

    def put_block(self, stream_id: int, block: bytes, end: bool) -> None:
        """A header block, encoded. `end`: nothing follows on its stream."""
        if self._first_block:
            self._first_block = False
            block = NO_DYNAMIC_TABLE + block
        size = len(block)
        pieces = self._output.pieces
        if size <= self.max_frame:
            flags = frames.END_HEADERS | frames.END_STREAM if end else frames.END_HEADERS
            pieces.append(_pack_header(size >> 16, size & 0xFFFF, frames.HEADERS, flags, stream_id))
            pieces.append(block)
        else:
            pieces.append(frames.headers(stream_id, block, end_stream=end, max_frame=self.max_frame))
        self._burden.useful += 1

    def send_trailers(self, stream_id: int, block: bytes) -> None:
        """Trailers, which end the message; they follow whatever body is still waiting."""
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._streams.check_sendable(stream_id)
            return
        if not stream.takes_body:
            self._drop_body(stream, 0, end=True)
            return
        if not stream.waiting:
            self.put_block(stream_id, block, True)
            self._streams.close_local(stream)
            return
        stream.takes_body = False
        stream.trailers = frames.headers(stream_id, block, end_stream=True, max_frame=self.max_frame)

    # ── Body ───────────────────────────────────────────────────────────────────────────────────────────────────

    def send_data(self, stream_id: int, data: bytes | memoryview, end: bool) -> int:
        """Returns how many bytes went into the output; the others wait."""
        stream = self._streams.open.get(stream_id)
        size = len(data)
        if stream is None:
            self._streams.check_sendable(stream_id)
            return size
        if not stream.takes_body:
            return self._drop_body(stream, size, end)
        if stream.waiting:
            if size or end:
                self._append_waiting(stream.waiting, data, end)
                stream.takes_body = not end
            return 0
        if size <= self.window and size <= stream.window and size <= self.max_frame and not self._paused:
            if size or end:
                self._put_data(stream, data, end)
                if end:
                    self._streams.close_local(stream)
            return size
        if not size and not end:
            return 0
        return self._send_in_parts(stream, memoryview(data), end)

    def _append_waiting(self, waiting: deque[Waiting], data: bytes | memoryview, end: bool) -> None:
        """Small pieces become one: a peer that sends single bytes must not make us keep an object for each."""
        last, _ = waiting[-1]
        if len(last) + len(data) <= SMALL:
            waiting[-1] = (b"".join((last, data)), end)
        else:
            waiting.append((data, end))

    def _drop_body(self, stream: Stream, size: int, end: bool) -> int:
        """The answer to HEAD, a 204 and a 304 have no body, whatever the shell gives us for one; all else is misuse."""
        if not (stream.bodiless and stream.head_sent and stream.local_open):
            raise LocalError(f"neither body nor trailers can be sent now on {stream!r}")
        if end:
            self._put_data(stream, b"", end)
            self._streams.close_local(stream)
        return size

    def _send_in_parts(self, stream: Stream, data: memoryview, end: bool) -> int:
        """As much as the windows allow, in frames that the peer takes; the rest waits. An end alone needs none."""
        total = len(data)
        stream.takes_body = not end
        if not total:
            self._put_data(stream, data, end)
        allowed = 0 if self._paused else max(0, min(total, self.window, stream.window))
        pos = 0
        while pos < allowed:
            size = min(self.max_frame, allowed - pos)
            self._put_data(stream, data[pos : pos + size], end and pos + size == total)
            pos += size
        if pos < total:
            stream.waiting = deque([(data[pos:], end)])
            if stream.window > 0:
                self._streams.ready[stream.id] = stream
        elif end:
            self._streams.close_local(stream)
        return pos

    def _put_data(self, stream: Stream, data: bytes | memoryview, end: bool) -> None:
        size = len(data)
        output = self._output
        output.pieces.append(_pack_header(size >> 16, size & 0xFFFF, frames.DATA, end, stream.id))
        output.pieces.append(data)
        if size >= BULKY:
            output.bulky = True
        self.window -= size
        stream.window -= size
        self._burden.useful += 1

    # ── Body that waits ────────────────────────────────────────────────────────────────────────────────────────

    def pause(self) -> None:
        self._paused = True

    def resume(self, events: list[Event]) -> None:
        self._paused = False
        self._drain(events)

    def unsent(self, stream_id: int) -> int:
        """Bytes of this stream's body that wait for a window or the transport."""
        stream = self._streams.open.get(stream_id)
        return sum(len(data) for data, _ in stream.waiting) if stream is not None and stream.waiting else 0

    def _drain(self, events: list[Event]) -> None:
        """Send what waits, a frame of each ready stream in turn, until a window, the transport or the work ends."""
        ready = self._streams.ready
        sent: dict[int, int] = {}
        while ready and self.window > 0 and not self._paused:
            stream_id, stream = ready.popitem(last=False)
            waiting = stream.waiting
            if not waiting or stream.window <= 0:
                continue  # its own WINDOW_UPDATE will bring it back
            data, end = waiting[0]
            size = min(len(data), self.window, stream.window, self.max_frame)
            sent[stream_id] = sent.get(stream_id, 0) + size
            if size < len(data):
                view = memoryview(data)
                waiting[0] = (view[size:], end)
                self._put_data(stream, view[:size], False)
            else:
                waiting.popleft()
                self._put_data(stream, data, end)
                if self._finish_waiting(stream, waiting, end):
                    continue
            ready[stream_id] = stream
        events.extend([DataSent(stream_id, size) for stream_id, size in sent.items()])

    def _finish_waiting(self, stream: Stream, waiting: deque[Waiting], end: bool) -> bool:
        """After the front of the queue went: whether nothing is left that needs a window."""
        if not end and waiting:
            data, end = waiting[0]
            if len(data):
                return False
            self._put_data(stream, b"", end)
        if end:
            stream.waiting = None
            self._streams.close_local(stream)
        elif stream.trailers is not None:
            stream.waiting = None
            self._output.pieces.append(stream.trailers)
            stream.trailers = None
            self._streams.close_local(stream)
        return True

    # ── The peer's windows ─────────────────────────────────────────────────────────────────────────────────────

    def on_window_update(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not of 4 bytes")
        self._burden.control("WINDOW_UPDATE")
        increment = int.from_bytes(payload, "big") & LARGEST_WINDOW
        if stream_id == 0:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            if self.window + increment > LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window grew too large")
            self.window += increment
        else:
            stream = self._streams.open.get(stream_id)
            if stream is None:
                self._streams.check_not_idle(stream_id, "WINDOW_UPDATE")
                return
            if not increment:
                self._streams.fail(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0", events)
                return
            if not self._widen(stream, increment):
                self._streams.fail(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the window grew too large", events)
                return
        self.drain_ready(events)

    def drain_ready(self, events: list[Event]) -> None:
        """A window has grown: send what it lets go."""
        if self._streams.ready:
            self._drain(events)

    def set_initial_window(self, value: int) -> None:
        """The peer changes the window that its streams begin with, and those of open ones by the difference."""
        if value > LARGEST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        change = value - self.initial_window
        self.initial_window = value
        for stream in self._streams.open.values():
            if not self._widen(stream, change):
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window grew too large")

    def _widen(self, stream: Stream, change: int) -> bool:
        """Change a stream's window; false where it grew larger than RFC 9113 allows."""
        if stream.window + change > LARGEST_WINDOW:
            return False
        stream.window += change
        if stream.waiting and stream.window > 0:
            self._streams.ready.setdefault(stream.id, stream)
        return True

    def validate(self) -> None:
        """Raise `AssertionError` unless the state is consistent."""
        ready = self._streams.ready
        assert self.window <= LARGEST_WINDOW
        for stream_id, stream in self._streams.open.items():
            if stream.waiting:
                assert stream.local_open
                assert len(stream.waiting[0][0]), "an empty frame waits for a window"
                assert not any(end for _, end in list(stream.waiting)[:-1])
                assert stream.window <= 0 or stream_id in ready, f"{stream!r} was forgotten"
            else:
                assert stream.trailers is None
        assert self._paused or self.window <= 0 or not ready, "streams wait for nothing"

    def __repr__(self) -> str:
        return f"<Outbound window={self.window}{' paused' if self._paused else ''}>"
