"""The peer's half of an HTTP/2 connection as far as it is body: DATA frames, and the windows that we grant for them.

Every byte of DATA is taken off two windows when it comes and given back to both when the shell has consumed it, or at
once where the shell never sees it.
"""

from __future__ import annotations

from berth.http.errors import ConnectionFault, ErrorCode, LocalError
from berth.http.events import BodyTooLarge, DataReceived, Event
from berth.http.http2 import frames
from berth.http.http2.burden import Burden
from berth.http.http2.credit import ConnectionCredit
from berth.http.http2.outbound import INITIAL_WINDOW
from berth.http.http2.stream import Stream
from berth.http.http2.streams import StreamTable
from berth.http.limits import Http2Limits
from berth.http.output import Output


class BodyIn:
    """What has come of bodies, and how much more may. `initial_credit` is the window that streams begin with.

    When only a part of a DATA frame has arrived, `data_left` bytes of body and `pad_left` of padding are to come.
    """

    __slots__ = (
        "_burden", "_credit", "_data_ends", "_data_stream", "_limit", "_output", "_stream_window", "_streams",
        "data_left", "initial_credit", "pad_left",
    )  # fmt: skip

    def __init__(
        self, limits: Http2Limits, output: Output, credit: ConnectionCredit, streams: StreamTable, burden: Burden
    ) -> None:
        self._limit = limits.body
        self._stream_window = limits.stream_window
        self._output = output
        self._credit = credit
        self._streams = streams
        self._burden = burden
        # Until our SETTINGS are acknowledged the peer may count on the initial value.
        self.initial_credit = max(INITIAL_WINDOW, limits.stream_window)
        # Of the frame that has arrived in part: the stream (None: thrown away), and whether it ends it.
        self._data_stream: Stream | None = None
        self._data_ends = False
        self.data_left = 0
        self.pad_left = 0

    def on_data(self, stream_id: int, chunk: bytes, ends: bool, events: list[Event]) -> None:
        """A DATA frame, whole and without padding."""
        self._deliver(self._charge(stream_id, len(chunk), events), chunk, ends, events)

    def begin_data(self, stream_id: int, flags: int, size: int, first: int, events: list[Event]) -> int:
        """A DATA frame that is padded or incomplete. Returns where its body starts: 0 or 1."""
        stream = self._charge(stream_id, size, events)
        pad = skip = 0
        if flags & frames.PADDED:
            pad, skip = first, 1
            if pad >= size:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
            size -= 1
            self._release_unseen(stream, 1)
        self._data_stream, self.data_left, self.pad_left = stream, size - pad, pad
        self._data_ends = bool(flags & frames.END_STREAM)
        if not self.data_left:
            self._deliver(stream, b"", self._data_ends, events)
        return skip

    def continue_data(self, data: bytes, pos: int, events: list[Event]) -> int:
        """More of the frame that has arrived in part, from `pos` on. Returns where the rest of `data` starts."""
        stream = self._data_stream
        if stream is not None and self._streams.open.get(stream.id) is not stream:
            stream = self._data_stream = None
        if self.data_left:
            chunk = data[pos : pos + self.data_left]
            self.data_left -= len(chunk)
            ends = self._data_ends and not self.data_left
            self._deliver(stream, chunk, ends, events)
            return pos + len(chunk)
        size = min(self.pad_left, len(data) - pos)
        self.pad_left -= size
        self._release_unseen(stream, size)
        return pos + size

    def _charge(self, stream_id: int, size: int, events: list[Event]) -> Stream | None:
        """Take a DATA frame off both windows. None: the frame is to be thrown away."""
        self._credit.charge(size)
        streams = self._streams
        stream = streams.open.get(stream_id)
        if stream is None:
            streams.check_stray(stream_id, "DATA")
            return None
        if not stream.remote_open:
            streams.fail(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the end", events)
        elif not stream.head_received:
            streams.fail(stream_id, ErrorCode.PROTOCOL_ERROR, "DATA before the head", events)
        elif size > stream.credit:
            streams.fail(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more body than the stream's window", events)
        else:
            stream.credit -= size
            return stream
        return None

    def _deliver(self, stream: Stream | None, chunk: bytes, ends: bool, events: list[Event]) -> None:
        size = len(chunk)
        if stream is None:
            self._credit.release(size)
            return
        stream.received += size
        if stream.expected is not None and (
            stream.received > stream.expected or (ends and stream.received < stream.expected)
        ):
            self._credit.release(size)
            self._streams.fail(stream.id, ErrorCode.PROTOCOL_ERROR, "the body is not as long as announced", events)
            return
        if not size and not ends:
            self._burden.control("empty DATA")
            return
        self._burden.useful += 1
        if stream.received > self._limit:
            if not stream.discards:
                stream.discards = True
                events.append(BodyTooLarge(stream.id))
            self._release_unseen(stream, size)
        else:
            stream.held += size
            events.append(DataReceived(stream.id, chunk, ends))
        if ends:
            self._streams.close_remote(stream)

    def _release_unseen(self, stream: Stream | None, size: int) -> None:
        """Flow-controlled bytes that the shell never sees are consumed at once."""
        if stream is not None and self._streams.open.get(stream.id) is stream:
            stream.held += size
            self.consume(stream.id, size)
        else:
            self._credit.release(size)

    def consume(self, stream_id: int, size: int) -> None:
        """The shell is done with `size` bytes of this stream's body. Nothing happens for a stream that is gone."""
        stream = self._streams.open.get(stream_id)
        if stream is None:
            return
        if size > stream.held:
            raise LocalError(f"{size} bytes consumed of {stream.held} on {stream!r}")
        stream.held -= size
        stream.unannounced += size
        self._credit.release(size)
        if stream.unannounced * 2 >= self.initial_credit:
            self._announce(stream)

    def _announce(self, stream: Stream) -> None:
        if stream.remote_open and stream.unannounced:
            self._output.pieces.append(frames.window_update(stream.id, stream.unannounced))
            stream.credit += stream.unannounced
            stream.unannounced = 0

    def settings_acknowledged(self) -> None:
        """The peer knows our window. If the window is smaller than the initial one, the credit shrinks only now: until
        then it was not ours to take back."""
        change = self._stream_window - self.initial_credit
        self.initial_credit = self._stream_window
        for stream in self._streams.open.values():
            stream.credit += change
            # Measured by the new window this may be much: the peer could be waiting for it already.
            if stream.unannounced * 2 >= self.initial_credit:
                self._announce(stream)

    def validate(self) -> None:
        """Raise `AssertionError` unless the state is consistent. Of a connection that has not ended."""
        left = self.data_left + self.pad_left
        self._credit.validate(sum(stream.held for stream in self._streams.open.values()) + left)
        for stream in self._streams.open.values():
            if stream.remote_open:
                total = stream.credit + stream.held + stream.unannounced + (left if self._data_stream is stream else 0)
                assert total == self.initial_credit, f"credit leaked on {stream!r}: {total}"
                assert stream.unannounced * 2 < max(1, self.initial_credit), f"the peer may stall on {stream!r}"

    def __repr__(self) -> str:
        return f"<BodyIn {self._credit!r}, {self.data_left}+{self.pad_left} bytes of a frame to come>"
