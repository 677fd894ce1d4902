"""How streams and connections end (RFC 9113 section 5.4), and how a silent peer is told from a dead one."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, LocalError
from berth.http.events import ConnectionClosed, Event, StreamReset
from berth.http.http2 import frames
from berth.http.http2.blocks import BlockReader
from berth.http.http2.body_in import BodyIn
from berth.http.http2.burden import Burden
from berth.http.http2.stream import Stream
from berth.http.limits import Http2Limits

# Streams we reset, on which the peer may not have heard of it yet. Older ones are forgotten.
_RESETS_REMEMBERED: Final = 1024
DRAIN_PING: Final = b"draining"
KEEPALIVE_PING: Final = b"berth-ka"


class Life(BodyIn):
    """Ends streams, and the connection with them."""

    def __init__(self, limits: Http2Limits, *, keepalive: float | None, keepalive_timeout: float) -> None:
        super().__init__(limits, Burden(limits.control_frames, limits.resets))
        self._rest = b""
        self._closed = False
        self._reset_here: OrderedDict[int, None] = OrderedDict()
        # A header block of which HEADERS, but not END_HEADERS, has arrived.
        self._block: list[bytes] = []
        self._blocks = BlockReader(limits)
        self._keepalive = keepalive
        self._keepalive_timeout = keepalive_timeout
        self._heard = True
        self._heard_at: float | None = None
        self._pinged_at: float | None = None

    def eof(self) -> list[Event]:
        """The transport has ended. Streams still open are lost."""
        events: list[Event] = []
        if not self._closed:
            clean = not self._streams
            self._end(events, ErrorCode.NO_ERROR if clean else ErrorCode.CONNECT_ERROR, "the peer hung up", remote=True)
        return events

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
        if len(payload) != 8 or payload in (DRAIN_PING, KEEPALIVE_PING):
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
                self._out.append(frames.ping(KEEPALIVE_PING))
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
