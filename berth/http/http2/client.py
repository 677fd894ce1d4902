"""The side of an HTTP/2 connection that sends requests."""

from __future__ import annotations

from berth.http.errors import ErrorCode, LocalError, Malformed
from berth.http.events import Event, InformationalReceived, ResponseReceived, StreamReset
from berth.http.head import ResponseHead
from berth.http.http2 import frames
from berth.http.http2.burden import Burden
from berth.http.http2.connection import Http2Connection
from berth.http.http2.messages import Message
from berth.http.http2.stream import Stream
from berth.http.limits import LARGEST_WINDOW, Http2Limits


class Http2Client(Http2Connection):
    """Sends requests. The preface and SETTINGS are the first output; requests may follow at once."""

    def __init__(
        self, limits: Http2Limits | None = None, *, keepalive: float | None = None, keepalive_timeout: float = 20.0
    ) -> None:
        limits = limits or Http2Limits()
        # Resets cost a client nothing: it chose to open the stream.
        burden = Burden(limits.control_frames, LARGEST_WINDOW)
        super().__init__(limits, burden, server=False, keepalive=keepalive, keepalive_timeout=keepalive_timeout)
        self._next = 1
        self._output.pieces.append(frames.PREFACE)
        self._settings.send(limits, {frames.ENABLE_PUSH: 0})

    @property
    def can_open(self) -> bool:
        """Whether `open` would succeed. It may again after any `receive`, or never (see `finished`)."""
        return len(self._streams.open) < self._settings.max_streams and not self._spent

    @property
    def _spent(self) -> bool:
        return self._closed or self._draining or self._peer_going_away is not None or self._next > LARGEST_WINDOW

    @property
    def finished(self) -> bool:
        """Whether the transport can be closed without loss: no stream is open and none can be opened."""
        return self._closed or (self._spent and not self._streams.open)

    def open(self, block: bytes, end: bool = False, *, head_only: bool = False, length: int | None = None) -> int:
        """Start a request; `block` comes from `encode_request`. Returns the stream's id.

        `head_only`: the method is HEAD, so the response has no body whatever its content-length says. `length` is for
        HTTP/1.1. Raises `LocalError` unless `can_open`.
        """
        if not self.can_open:
            raise LocalError(f"no stream can be opened on {self!r}")
        stream_id = self._next
        self._next = stream_id + 2
        stream = Stream(stream_id, self._outbound.initial_window, self._body_in.initial_credit)
        stream.head_sent = True
        stream.bodiless = head_only
        stream.local_open = stream.takes_body = not end
        self._streams.open[stream_id] = stream
        self._streams.newest = stream_id
        self._outbound.put_block(stream_id, block, end)
        return stream_id

    def shutdown(self) -> None:
        """Open no more streams; `finished` turns true when the last has ended."""
        if not self._closed and not self._draining:
            self._draining = True
            self._output.pieces.append(frames.goaway(0, ErrorCode.NO_ERROR))

    def _on_message(self, stream_id: int, message: Message | Malformed, ends: bool, events: list[Event]) -> None:
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._streams.check_stray(stream_id, "HEADERS")
        elif stream.head_received or not stream.remote_open:
            self._on_trailers(stream, message, ends, events)
        elif isinstance(message, Malformed):
            self._fail_malformed(stream_id, message, events)
        elif not isinstance(message, ResponseHead):
            self._streams.fail(stream_id, ErrorCode.PROTOCOL_ERROR, "not a response", events)
        elif message.status < 200:
            self._on_informational(stream, message, ends, events)
        else:
            self._burden.useful += 1
            stream.head_received = True
            bodiless = stream.bodiless or message.status in (204, 304)
            if bodiless:
                stream.expected = 0
            else:
                stream.expected = message.content_length
                if ends and stream.expected:
                    self._streams.fail(stream_id, ErrorCode.PROTOCOL_ERROR, "no body, yet one was announced", events)
                    return
            events.append(ResponseReceived(stream_id, message, ends))
            if ends:
                self._streams.close_remote(stream)

    def _on_informational(self, stream: Stream, message: ResponseHead, ends: bool, events: list[Event]) -> None:
        if ends:
            self._streams.fail(stream.id, ErrorCode.PROTOCOL_ERROR, "an interim response that ends the stream", events)
            return
        self._burden.control("interim response")
        events.append(InformationalReceived(stream.id, message))

    def _abandon_streams(self, last: int, code: int, detail: str, events: list[Event]) -> None:
        for stream in [stream for stream_id, stream in self._streams.open.items() if stream_id > last]:
            self._streams.ignore(stream.id)
            self._streams.forget(stream)
            events.append(StreamReset(stream.id, code, f"the peer goes away: {detail}", True, True))

    def _on_drain_acknowledged(self) -> None:
        pass  # a client drains without asking
