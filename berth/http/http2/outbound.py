"""Our half of an HTTP/2 connection: heads, body and trailers on their way out, through the peer's windows.

Body bytes keep their order because there is one way out: a stream that has anything waiting never sends around it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from typing import Final

from berth.http.errors import LocalError
from berth.http.events import DataSent, Event
from berth.http.http2 import frames
from berth.http.http2.burden import Burden
from berth.http.http2.header_codec import NO_DYNAMIC_TABLE
from berth.http.http2.stream import Stream, Waiting
from berth.http.limits import BULKY, LARGEST_WINDOW, SMALL, SMALLEST_MAX_FRAME
from berth.http.output import Output

INITIAL_WINDOW: Final = 65_535
# However much a peer would take: a longer frame makes the other streams of the connection wait.
LARGEST_FRAME_SENT: Final = 2**16

_pack_header: Final = frames.HEADER.pack


class Outbound(Output, ABC):
    """The streams of a connection, and what is sent on them."""

    def __init__(self, burden: Burden) -> None:
        super().__init__()
        self._burden = burden
        self._paused = False
        self._streams: dict[int, Stream] = {}
        # Streams with something waiting that their own window would let go, in turn.
        self._ready: OrderedDict[int, Stream] = OrderedDict()
        self._window = INITIAL_WINDOW
        self._peer_initial_window = INITIAL_WINDOW
        self._max_frame = SMALLEST_MAX_FRAME
        self._first_block = True

    def send_data(self, stream_id: int, data: bytes | memoryview, end: bool = False) -> int:
        """Send body; returns how many bytes went into the output (see `DataSent` for the rest).

        `data` must not change until it was sent. A memoryview must be one of bytes.
        """
        stream = self._streams.get(stream_id)
        size = len(data)
        if stream is None:
            self._check_sendable(stream_id)
            return size
        if not stream.takes_body:
            return self._drop_body(stream, size, end)
        if stream.waiting:
            if size or end:
                self._append_waiting(stream.waiting, data, end)
                stream.takes_body = not end
            return 0
        if size <= self._window and size <= stream.window and size <= self._max_frame and not self._paused:
            if size or end:
                self._out.append(_pack_header(size >> 16, size & 0xFFFF, frames.DATA, end, stream_id))
                self._out.append(data)
                self._bulky = self._bulky or size >= BULKY
                self._window -= size
                stream.window -= size
                self._burden.useful += 1
                if end:
                    self._close_local(stream)
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
            self._close_local(stream)
        return size

    def _send_in_parts(self, stream: Stream, data: memoryview, end: bool) -> int:
        """What the windows allow, in frames no longer than the peer takes; the rest waits. An end alone needs none."""
        total = len(data)
        stream.takes_body = not end
        if not total:
            self._put_data(stream, data, end)
        allowed = 0 if self._paused else max(0, min(total, self._window, stream.window))
        pos = 0
        while pos < allowed:
            size = min(self._max_frame, allowed - pos)
            self._put_data(stream, data[pos : pos + size], end and pos + size == total)
            pos += size
        if pos < total:
            stream.waiting = deque([(data[pos:], end)])
            if stream.window > 0:
                self._ready[stream.id] = stream
        elif end:
            self._close_local(stream)
        return pos

    def _put_data(self, stream: Stream, data: bytes | memoryview, end: bool) -> None:
        size = len(data)
        self._out.append(_pack_header(size >> 16, size & 0xFFFF, frames.DATA, end, stream.id))
        self._out.append(data)
        self._bulky = self._bulky or size >= BULKY
        self._window -= size
        stream.window -= size
        self._burden.useful += 1

    def _drain(self, events: list[Event]) -> None:
        """Send what waits, a frame of each ready stream in turn, until a window, the transport or the work ends."""
        ready = self._ready
        sent: dict[int, int] = {}
        while ready and self._window > 0 and not self._paused:
            stream_id, stream = ready.popitem(last=False)
            waiting = stream.waiting
            if not waiting or stream.window <= 0:
                continue  # its own WINDOW_UPDATE will bring it back
            data, end = waiting[0]
            size = min(len(data), self._window, stream.window, self._max_frame)
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
            self._close_local(stream)
        elif stream.trailers is not None:
            stream.waiting = None
            self._out.append(stream.trailers)
            stream.trailers = None
            self._close_local(stream)
        return True

    def send_trailers(self, stream_id: int, block: bytes) -> None:
        """Trailers, which end the message; they follow whatever body is still waiting. `block` comes from `encode`."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_sendable(stream_id)
            return
        if not stream.takes_body:
            self._drop_body(stream, 0, end=True)
            return
        if not stream.waiting:
            self._put_block(stream_id, block, True)
            self._close_local(stream)
            return
        stream.takes_body = False
        stream.trailers = frames.headers(stream_id, block, end_stream=True, max_frame=self._max_frame)

    def _put_block(self, stream_id: int, block: bytes, end: bool) -> None:
        if self._first_block:
            self._first_block = False
            block = NO_DYNAMIC_TABLE + block
        size = len(block)
        if size <= self._max_frame:
            flags = frames.END_HEADERS | frames.END_STREAM if end else frames.END_HEADERS
            self._out.append(_pack_header(size >> 16, size & 0xFFFF, frames.HEADERS, flags, stream_id))
            self._out.append(block)
        else:
            self._out.append(frames.headers(stream_id, block, end_stream=end, max_frame=self._max_frame))
        self._burden.useful += 1

    def pause(self) -> None:
        """The transport is full: body waits in its streams until `resume`. Everything else is small and still goes."""
        self._paused = True

    def resume(self) -> list[Event]:
        """The transport has room again. Returns `DataSent` for the body that goes now."""
        events: list[Event] = []
        self._paused = False
        self._drain(events)
        return events

    def unsent(self, stream_id: int) -> int:
        """Bytes of this stream's body that wait for a window or the transport."""
        stream = self._streams.get(stream_id)
        return sum(len(data) for data, _ in stream.waiting) if stream is not None and stream.waiting else 0

    def _close_local(self, stream: Stream) -> None:
        stream.local_open = stream.takes_body = False
        if not stream.remote_open:
            self._burden.completed += 1
            self._forget(stream)

    @abstractmethod
    def _forget(self, stream: Stream) -> None:
        """The stream is closed."""

    @abstractmethod
    def _check_sendable(self, stream_id: int) -> None:
        """Raise `LocalError` for a stream that was never opened."""

    def _widen(self, stream: Stream, change: int) -> bool:
        """Change a stream's window; false where it grew larger than RFC 9113 allows."""
        if stream.window + change > LARGEST_WINDOW:
            return False
        stream.window += change
        if stream.waiting and stream.window > 0:
            self._ready.setdefault(stream.id, stream)
        return True

    def _validate_outbound(self) -> None:
        assert self._window <= LARGEST_WINDOW
        for stream_id, stream in self._streams.items():
            if stream.waiting:
                assert stream.local_open
                assert len(stream.waiting[0][0]), "an empty frame waits for a window"
                assert not any(end for _, end in list(stream.waiting)[:-1])
                assert stream.window <= 0 or stream_id in self._ready, f"{stream!r} was forgotten"
            else:
                assert stream.trailers is None
        assert self._paused or self._window <= 0 or not self._ready, "streams wait for nothing"
        assert self._ready.keys() <= self._streams.keys()
