"""The peer's half of an HTTP/2 connection as far as it is body: DATA frames, and the windows that we grant for them.

Every byte of DATA is taken off two windows when it comes and given back to both when the shell has consumed it, or at
once where the shell never sees it.
"""

from __future__ import annotations

from abc import abstractmethod

from berth.http.errors import ConnectionFault, ErrorCode, LocalError
from berth.http.events import BodyTooLarge, DataReceived, Event
from berth.http.http2 import frames
from berth.http.http2.burden import Burden
from berth.http.http2.outbound import INITIAL_WINDOW, Outbound
from berth.http.http2.stream import Stream
from berth.http.limits import Http2Limits


class BodyIn(Outbound):
    """What has come of bodies, and how much more may."""

    def __init__(self, limits: Http2Limits, burden: Burden) -> None:
        super().__init__(burden)
        self._limits = limits
        # Ours to grant. Until our SETTINGS are acknowledged the peer may count on the initial values.
        self._credit = limits.connection_window
        self._unannounced = 0
        self._initial_credit = max(INITIAL_WINDOW, limits.stream_window)
        # A DATA frame of which a part has arrived: the stream (None: thrown away), body and padding still to come.
        self._data_stream: Stream | None = None
        self._data_left = 0
        self._pad_left = 0
        self._data_ends = False

    def _charge(self, stream_id: int, size: int, events: list[Event]) -> Stream | None:
        """Take a DATA frame off both windows. None: the frame is to be thrown away."""
        if size > self._credit:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more body than the connection's window")
        self._credit -= size
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_stray(stream_id, "DATA")
            return None
        if not stream.remote_open:
            self._fail_stream(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the end", events)
        elif not stream.head_received:
            self._fail_stream(stream_id, ErrorCode.PROTOCOL_ERROR, "DATA before the head", events)
        elif size > stream.credit:
            self._fail_stream(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more body than the stream's window", events)
        else:
            stream.credit -= size
            return stream
        return None

    def _begin_data(self, stream: Stream | None, flags: int, size: int, first: int, events: list[Event]) -> int:
        """A DATA frame that is padded, or of which only a part has arrived. Returns where its body starts: 0 or 1."""
        pad = skip = 0
        if flags & frames.PADDED:
            pad, skip = first, 1
            if pad >= size:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
            size -= 1
            self._release_padding(stream, 1)
        self._data_stream, self._data_left, self._pad_left = stream, size - pad, pad
        self._data_ends = bool(flags & frames.END_STREAM)
        if not self._data_left:
            self._deliver(stream, b"", self._data_ends, events)
        return skip

    def _continue_data(self, data: bytes, pos: int, events: list[Event]) -> int:
        stream = self._data_stream
        if stream is not None and self._streams.get(stream.id) is not stream:
            stream = self._data_stream = None
        if self._data_left:
            chunk = data[pos : pos + self._data_left]
            self._data_left -= len(chunk)
            ends = self._data_ends and not self._data_left
            self._deliver(stream, chunk, ends, events)
            return pos + len(chunk)
        size = min(self._pad_left, len(data) - pos)
        self._pad_left -= size
        self._release_padding(stream, size)
        return pos + size

    def _deliver(self, stream: Stream | None, chunk: bytes, ends: bool, events: list[Event]) -> None:
        size = len(chunk)
        if stream is None:
            self._release(size)
            return
        stream.received += size
        if stream.expected is not None and (
            stream.received > stream.expected or (ends and stream.received < stream.expected)
        ):
            self._release(size)
            self._fail_stream(stream.id, ErrorCode.PROTOCOL_ERROR, "the body is not as long as announced", events)
            return
        if not size and not ends:
            self._burden.control("empty DATA")
            return
        self._burden.useful += 1
        if stream.received > self._limits.body:
            if not stream.discards:
                stream.discards = True
                events.append(BodyTooLarge(stream.id))
            self._release_padding(stream, size)
        else:
            stream.held += size
            events.append(DataReceived(stream.id, chunk, ends))
        if ends:
            self._close_remote(stream)

    def _release_padding(self, stream: Stream | None, size: int) -> None:
        """Flow-controlled bytes that the shell never sees are consumed at once."""
        if stream is not None and self._streams.get(stream.id) is stream:
            stream.held += size
            self.consume(stream.id, size)
        else:
            self._release(size)

    def consume(self, stream_id: int, size: int) -> None:
        """The shell is done with `size` bytes of this stream's body. Nothing happens for a stream that is gone."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if size > stream.held:
            raise LocalError(f"{size} bytes consumed of {stream.held} on {stream!r}")
        stream.held -= size
        stream.unannounced += size
        self._release(size)
        if stream.unannounced * 2 >= self._initial_credit:
            self._announce(stream)

    def _announce(self, stream: Stream) -> None:
        if stream.remote_open and stream.unannounced:
            self._out.append(frames.window_update(stream.id, stream.unannounced))
            stream.credit += stream.unannounced
            stream.unannounced = 0

    def _release(self, size: int) -> None:
        self._unannounced += size
        # Half a window at a time: rare enough to cost nothing, early enough that the peer never stalls on it.
        if self._unannounced * 2 >= self._limits.connection_window:
            self._out.append(frames.window_update(0, self._unannounced))
            self._credit += self._unannounced
            self._unannounced = 0

    @abstractmethod
    def _close_remote(self, stream: Stream) -> None:
        """The peer's half of the stream is over."""

    @abstractmethod
    def _fail_stream(self, stream_id: int, code: ErrorCode, detail: str, events: list[Event]) -> None:
        """The peer broke a rule that costs this stream."""

    @abstractmethod
    def _check_stray(self, stream_id: int, what: str) -> None:
        """A frame for a stream that is not there. Raises `ConnectionFault` unless the peer could not know."""
