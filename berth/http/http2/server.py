"""The side of an HTTP/2 connection that accepts requests."""

from __future__ import annotations

from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, LocalError, Malformed
from berth.http.events import Event, RequestReceived
from berth.http.head import RequestHead
from berth.http.http2 import frames
from berth.http.http2.connection import Http2Connection
from berth.http.http2.control import our_settings
from berth.http.http2.life import DRAIN_PING
from berth.http.http2.messages import Message
from berth.http.http2.stream import Stream
from berth.http.limits import Http2Limits

# How `encode_response` begins for 204 and 304: their entries of the static table.
_BODILESS: Final = (b"\x89", b"\x8b")


class Http2Server(Http2Connection):
    """Accepts requests. Its SETTINGS are the first output, before anything was received."""

    def __init__(
        self, limits: Http2Limits | None = None, *, keepalive: float | None = None, keepalive_timeout: float = 20.0
    ) -> None:
        super().__init__(limits or Http2Limits(), keepalive=keepalive, keepalive_timeout=keepalive_timeout)
        self._preface_left = frames.PREFACE
        self._newest = 0
        # The number in our final GOAWAY; streams above it are ignored.
        self._last_accepted = frames.LARGEST_STREAM_ID
        self._out.append(our_settings(self._limits, {frames.MAX_CONCURRENT_STREAMS: self._limits.max_streams}))

    def send_head(self, stream_id: int, block: bytes, end: bool = False, *, length: int | None = None) -> None:
        """The response's head; `block` comes from `encode_response`. Interim (1xx) heads go by `send_informational`.

        `length` is for HTTP/1.1, which frames by it; here a content-length is a field like any other.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_sendable(stream_id)
            return
        if stream.head_sent:
            raise LocalError(f"a second head on {stream!r}")
        stream.head_sent = True
        stream.bodiless = stream.bodiless or block[:1] in _BODILESS
        stream.takes_body = not stream.bodiless
        self._put_block(stream_id, block, end)
        if end:
            self._close_local(stream)

    def send_informational(self, stream_id: int, block: bytes) -> None:
        """An interim response, such as `encode_response(100)`."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_sendable(stream_id)
            return
        if stream.head_sent:
            raise LocalError(f"an interim response after the head on {stream!r}")
        self._put_block(stream_id, block, False)

    def shutdown(self) -> None:
        """Take no new streams and finish those there are; `finished` turns true when that is done.

        In two steps, so that no request in flight is lost (RFC 9113 section 6.8): first a GOAWAY that refuses nothing,
        then, when a PING has shown that the client read it, one that names the last stream.
        """
        if self._closed or self._draining:
            return
        self._draining = True
        self._out.append(frames.goaway(frames.LARGEST_STREAM_ID, ErrorCode.NO_ERROR, b"shutting down"))
        self._out.append(frames.ping(DRAIN_PING))

    @property
    def finished(self) -> bool:
        """Whether the transport can be closed without loss."""
        return self._closed or (self._last_accepted != frames.LARGEST_STREAM_ID and not self._streams)

    def _on_drain_acknowledged(self) -> None:
        if self._draining and self._last_accepted == frames.LARGEST_STREAM_ID:
            self._last_accepted = self._newest
            self._out.append(frames.goaway(self._newest, ErrorCode.NO_ERROR, b"shutting down"))

    def _abandon_streams(self, last: int, code: int, detail: str, events: list[Event]) -> None:
        pass  # a server has no streams of its own

    def _skip_preface(self, data: bytes) -> int:
        left = self._preface_left
        if not left:
            return 0
        given = data[: len(left)]
        if not left.startswith(given):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not HTTP/2")
        self._preface_left = left[len(given) :]
        return len(given)

    def _on_message(self, stream_id: int, message: Message | Malformed, ends: bool, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, message, ends, events)
            return
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's stream with an even number")
        if stream_id <= self._newest:
            self._check_stray(stream_id, "HEADERS")
            return
        self._newest = stream_id
        if stream_id > self._last_accepted:
            self._ignore(stream_id)
            self._burden.control("HEADERS after GOAWAY")
        elif len(self._streams) >= self._limits.max_streams:
            self._refuse(stream_id)
        elif isinstance(message, Malformed):
            self._fail_malformed(stream_id, message, events)
        elif not isinstance(message, RequestHead):
            self._fail_stream(stream_id, ErrorCode.PROTOCOL_ERROR, "not a request", events)
        elif ends and message.content_length:
            self._fail_stream(stream_id, ErrorCode.PROTOCOL_ERROR, "no body, yet one was announced", events)
        else:
            stream = Stream(stream_id, self._peer_initial_window, self._initial_credit)
            stream.head_received = True
            stream.expected = message.content_length
            stream.bodiless = message.method == b"HEAD"
            self._streams[stream_id] = stream
            self._burden.useful += 1
            if ends:
                stream.remote_open = False
            events.append(RequestReceived(stream_id, message, ends))

    def _refuse(self, stream_id: int) -> None:
        """One stream too many. Before it acknowledged our SETTINGS the client could not know."""
        self._put_reset(stream_id, ErrorCode.REFUSED_STREAM)
        if self._settings_acknowledged:
            self._burden.reset()
        else:
            self._burden.control("a stream too many")

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self._newest or not stream_id & 1

    def _last_peer_stream_id(self) -> int:
        return min(self._newest, self._last_accepted)
