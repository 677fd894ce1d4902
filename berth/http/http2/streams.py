"""The streams of a connection: which are open, which were reset, and how each ends (RFC 9113 section 5)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, LocalError, name_of
from berth.http.events import Event, StreamReset
from berth.http.http2 import frames
from berth.http.http2.burden import Burden
from berth.http.http2.credit import ConnectionCredit
from berth.http.http2.stream import Stream
from berth.http.output import Output

# Streams we reset, on which the peer may not have heard of it yet. Older ones are forgotten.
_RESETS_REMEMBERED: Final = 1024


class StreamTable:
    """`open` has every stream that is not closed. `newest` is the highest number that a client opened; 0: none yet.

    `ready` are the streams with body waiting that their own window would let go, in turn.
    """

    __slots__ = ("_burden", "_credit", "_output", "_reset_here", "newest", "open", "ready")

    def __init__(self, output: Output, credit: ConnectionCredit, burden: Burden) -> None:
        self._output = output
        self._credit = credit
        self._burden = burden
        self._reset_here: OrderedDict[int, None] = OrderedDict()
        self.open: dict[int, Stream] = {}
        self.ready: OrderedDict[int, Stream] = OrderedDict()
        self.newest = 0

    # ── The end of a stream ────────────────────────────────────────────────────────────────────────────────────

    def close_local(self, stream: Stream) -> None:
        """Our half of the stream is over."""
        stream.local_open = stream.takes_body = False
        if not stream.remote_open:
            self._burden.completed += 1
            self.forget(stream)

    def close_remote(self, stream: Stream) -> None:
        """The peer's half of the stream is over."""
        stream.remote_open = False
        if not stream.local_open:
            self._burden.completed += 1
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """The stream is closed. The shell may still hold bytes of it, but they no longer burden the connection's
        window. The stream's window bounds them, and a shell that forgets to give them back must not stall the rest."""
        del self.open[stream.id]
        self.ready.pop(stream.id, None)
        if stream.held:
            self._credit.release(stream.held)
            stream.held = 0

    def put_reset(self, stream_id: int, code: int) -> None:
        self._output.pieces.append(frames.rst_stream(stream_id, code))
        self.ignore(stream_id)

    def ignore(self, stream_id: int) -> None:
        """What still comes for this stream was sent before the peer could know better."""
        self._reset_here[stream_id] = None
        if len(self._reset_here) > _RESETS_REMEMBERED:
            self._reset_here.popitem(last=False)

    def fail(self, stream_id: int, code: ErrorCode, detail: str, events: list[Event]) -> None:
        """The peer broke a rule that costs this stream, which it may never have opened."""
        self.put_reset(stream_id, code)
        stream = self.open.get(stream_id)
        if stream is not None:
            self.forget(stream)
            events.append(StreamReset(stream_id, code, detail, False))
        self._burden.reset()

    def lose(self, code: int, detail: str, *, remote: bool) -> list[StreamReset]:
        """The connection has ended, and every stream with it."""
        lost = [StreamReset(stream_id, code, detail, remote) for stream_id in self.open]
        self.open.clear()
        self.ready.clear()
        return lost

    def on_rst_stream(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not of 4 bytes")
        stream = self.open.get(stream_id)
        if stream is None:
            self.check_not_idle(stream_id, "RST_STREAM")
            self._burden.control("RST_STREAM")
            return
        code = int.from_bytes(payload, "big")
        self.forget(stream)
        refused = code == ErrorCode.REFUSED_STREAM
        events.append(StreamReset(stream_id, code, f"reset by the peer: {name_of(code)}", True, refused))
        self._burden.reset()

    def on_priority(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        """Checked, and otherwise of no interest."""
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._burden.control("PRIORITY")
        if len(payload) != 5 and self.is_idle(stream_id):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not of 5 bytes")
        if len(payload) != 5:
            self.fail(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not of 5 bytes", events)

    # ── Streams that are not open ──────────────────────────────────────────────────────────────────────────────

    def is_idle(self, stream_id: int) -> bool:
        """Whether this stream was never opened. Only clients open any, and those have odd numbers."""
        return stream_id > self.newest or not stream_id & 1

    def check_not_idle(self, stream_id: int, what: str) -> None:
        if self.is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on a stream that was never opened")

    def check_stray(self, stream_id: int, what: str) -> None:
        """A frame for a stream we no longer have: fine only where the peer cannot know that yet."""
        self.check_not_idle(stream_id, what)
        if stream_id not in self._reset_here:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"{what} on a closed stream")
        self._burden.control(f"{what} on a stream that was reset")

    def check_sendable(self, stream_id: int) -> None:
        """Raise `LocalError` for a stream that was never opened."""
        if self.is_idle(stream_id):
            raise LocalError(f"stream {stream_id} was never opened")

    def validate(self) -> None:
        """Raise `AssertionError` unless the state is consistent."""
        for stream_id, stream in self.open.items():
            assert stream.id == stream_id
            assert not self.is_idle(stream_id)
            assert stream.local_open or stream.remote_open, "a closed stream was kept"
        assert self.ready.keys() <= self.open.keys()

    def __repr__(self) -> str:
        return (
            f"<StreamTable {len(self.open)} open, {len(self.ready)} ready, {len(self._reset_here)} reset, "
            f"newest {self.newest}>"
        )
