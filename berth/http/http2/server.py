"""The side of an HTTP/2 connection that accepts requests."""

from __future__ import annotations

from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, LocalError, Malformed
from berth.http.events import Event, RequestReceived
from berth.http.head import RequestHead
from berth.http.http2 import frames
from berth.http.http2.burden import Burden
from berth.http.http2.connection import Http2Connection
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
        limits = limits or Http2Limits()
        burden = Burden(limits.control_frames, limits.resets)
        super().__init__(limits, burden, server=True, keepalive=keepalive, keepalive_timeout=keepalive_timeout)
        self._preface_left = frames.PREFACE
        # The number in our final GOAWAY; streams above it are ignored.
        self._last_accepted = frames.LARGEST_STREAM_ID
        self._settings.send(limits, {frames.MAX_CONCURRENT_STREAMS: limits.max_streams})

    def send_head(self, stream_id: int, block: bytes, end: bool = False, *, length: int | None = None) -> None:
        """The response's head; `block` comes from `encode_response`. Interim (1xx) heads go by `send_informational`.

        `length` is for HTTP/1.1, which frames by it; here a content-length is a field like any other.
        """
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._streams.check_sendable(stream_id)
            return
        if stream.head_sent:
            raise LocalError(f"a second head on {stream!r}")
        stream.head_sent = True
        stream.bodiless = stream.bodiless or block[:1] in _BODILESS
        stream.takes_body = not stream.bodiless
        self._outbound.put_block(stream_id, block, end)
        if end:
            self._streams.close_local(stream)

    def send_informational(self, stream_id: int, block: bytes) -> None:
        """An interim response, such as `encode_response(100)`."""
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._streams.check_sendable(stream_id)
            return
        if stream.head_sent:
            raise LocalError(f"an interim response after the head on {stream!r}")
        self._outbound.put_block(stream_id, block, False)

    def shutdown(self) -> None:
        """Take no new streams and finish those there are; `finished` turns true when that is done.

        In two steps, so that no request in flight is lost (RFC 9113 section 6.8). First comes a GOAWAY that refuses
        nothing. When a PING has shown that the client read it, a second one names the last stream.
        """
        if self._closed or self._draining:
            return
        self._draining = True
        self._output.pieces.append(frames.goaway(frames.LARGEST_STREAM_ID, ErrorCode.NO_ERROR, b"shutting down"))
        self._pings.send_drain()

    @property
    def finished(self) -> bool:
        """Whether the transport can be closed without loss."""
        return self._closed or (self._last_accepted != frames.LARGEST_STREAM_ID and not self._streams.open)

    @property
    def newest(self) -> int:
        """The number of the newest request; 0: there was none yet."""
        return self._streams.newest

    @property
    def unread(self) -> bool:
        """Whether it was cut off by this side, so that the client may still be sending; as in HTTP/1.1."""
        return self._cut_off

    def _on_drain_acknowledged(self) -> None:
        if self._draining and self._last_accepted == frames.LARGEST_STREAM_ID:
            self._last_accepted = newest = self._streams.newest
            self._output.pieces.append(frames.goaway(newest, ErrorCode.NO_ERROR, b"shutting down"))

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
        streams = self._streams
        stream = streams.open.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, message, ends, events)
            return
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's stream with an even number")
        if stream_id <= streams.newest:
            streams.check_stray(stream_id, "HEADERS")
            return
        streams.newest = stream_id
        if stream_id > self._last_accepted:
            streams.ignore(stream_id)
            self._burden.control("HEADERS after GOAWAY")
        elif len(streams.open) >= self._limits.max_streams:
            self._refuse(stream_id)
        elif isinstance(message, Malformed):
            self._fail_malformed(stream_id, message, events)
        elif not isinstance(message, RequestHead):
            streams.fail(stream_id, ErrorCode.PROTOCOL_ERROR, "not a request", events)
        elif ends and message.content_length:
            streams.fail(stream_id, ErrorCode.PROTOCOL_ERROR, "no body, yet one was announced", events)
        else:
            stream = Stream(stream_id, self._outbound.initial_window, self._body_in.initial_credit)
            stream.head_received = True
            stream.expected = message.content_length
            stream.bodiless = message.method == b"HEAD"
            streams.open[stream_id] = stream
            self._burden.useful += 1
            if ends:
                stream.remote_open = False
            events.append(RequestReceived(stream_id, message, ends))

    def _refuse(self, stream_id: int) -> None:
        """One stream too many. Before it acknowledged our SETTINGS the client could not know."""
        self._streams.put_reset(stream_id, ErrorCode.REFUSED_STREAM)
        if self._settings.acknowledged:
            self._burden.reset()
        else:
            self._burden.control("a stream too many")

    def _last_peer_stream_id(self) -> int:
        return min(self._streams.newest, self._last_accepted)
