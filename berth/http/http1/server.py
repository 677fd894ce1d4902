"""The side of an HTTP/1.1 connection that accepts requests."""

from __future__ import annotations

from typing import Final

from berth.http.errors import ErrorCode, LocalError, Malformed
from berth.http.events import BodyTooLarge, Event, RequestReceived
from berth.http.http1 import encoding
from berth.http.http1.body import BodyReader, ChunkedReader, LengthReader
from berth.http.http1.connection import Http1Connection, Mode
from berth.http.http1.grammar import RequestFraming, parse_request
from berth.http.limits import Http1Limits
from berth.http.memo import Memo

_CLOSE: Final = b"connection: close\r\n"


class Http1Server(Http1Connection):
    """Accepts requests. `scheme` is the transport's; `memo` may be shared by all connections of one scheme and limits.

    A request that was sent ahead waits until the whole answer before it is in the output: so a client that asks and
    never reads is owed one answer.
    """

    def __init__(
        self,
        limits: Http1Limits | None = None,
        *,
        scheme: bytes = b"http",
        memo: Memo[RequestFraming] | None = None,
    ) -> None:
        super().__init__(limits or Http1Limits())
        self._scheme = scheme
        self._memo = memo if memo is not None else Memo(self._limits.memo)
        self._last = False
        self._modern = True
        self._bodiless = False
        self._continue_owed = False
        self._discard_left = 0
        self._unread = False

    @property
    def newest(self) -> int:
        """The number of the newest request; 0: there was none yet."""
        return self._stream_id

    @property
    def unread(self) -> bool:
        """Whether it ended with something unread that the client may still be sending. After `finished` a shell should
        then close its writing side first and read on for a moment: the client would lose the answer to a TCP reset."""
        return self._unread

    def _shut(self) -> None:
        self._unread = self._unread or self._reader is not None or bool(self._buffer)
        super()._shut()

    def send_head(self, stream_id: int, block: bytes, end: bool = False, *, length: int | None = None) -> None:
        """The response's head; `block` comes from `encode_response`. Interim (1xx) heads go by `send_informational`.

        `length` of the body; None: not known, so it goes in chunks (to HTTP/1.0: until the connection ends). With
        `end` there is no body, and `length` is what an answer to HEAD, or a 304, announces.
        """
        if self._is_gone(stream_id):
            return
        if self._mode is not Mode.HEAD:
            raise LocalError(f"a second head on {self!r}")
        status = block[9:12]
        bodiless = self._bodiless or status in (b"204", b"304")
        if end and length and not bodiless:
            raise LocalError(f"an end, yet a body of {length} bytes")
        if self._last or self._continue_owed:
            # A client that was not told to continue may send its body or not: nobody could tell where it ends.
            self._keep_alive = False
        unframed = length is None and not end and not self._modern and not bodiless
        if unframed:
            self._keep_alive = False
        if not self._keep_alive:
            block += _CLOSE
        elif not self._modern:
            block += b"connection: keep-alive\r\n"
        if bodiless or unframed:
            framing = b"" if length is None or status == b"204" else b"content-length: %d\r\n" % length
            self._mode = Mode.EOF if unframed else Mode.NOTHING
            self._put((block, framing, b"\r\n"), 0)
            if end:
                self._end_body(b"")
            return
        self._begin_body(block, end, 0 if end else length)

    def send_informational(self, stream_id: int, block: bytes) -> None:
        """An interim response, such as `encode_response(100)`. Nothing is sent to HTTP/1.0."""
        if self._is_gone(stream_id):
            return
        if self._mode is not Mode.HEAD:
            raise LocalError(f"an interim response after the head on {self!r}")
        if block[9:12] == b"100":
            self._continue_owed = False
        if self._modern:
            self._put((block, b"\r\n"), 0)

    def shutdown(self) -> None:
        """Finish the exchange in progress, tell the client that it is the last, and end."""
        self._last = True
        if not self._active and not self._buffer:
            self._shut()

    def eof(self) -> list[Event]:
        """The client has stopped sending. One that still waits for an answer counts as gone, as with most proxies."""
        events: list[Event] = []
        if not self._closed:
            clean = not self._active and not self._buffer
            self._end(events, ErrorCode.NO_ERROR if clean else ErrorCode.CANCEL, "the client hung up", remote=True)
        return events

    def _expects_head(self) -> bool:
        return not self._active and not self._waiting

    def _on_head(self, raw: bytes, events: list[Event]) -> None:
        framing = self._memo.get(raw)
        if framing is None:
            framing = parse_request(raw, self._scheme, self._limits.fields)
            self._memo.keep(raw, framing)
        head = framing.head
        self._begin()
        self._mode = Mode.HEAD
        self._keep_alive, self._modern = framing.keep_alive, framing.modern
        self._bodiless = head.method == b"HEAD"
        length = head.content_length
        if framing.chunked:
            self._reader = ChunkedReader(self._limits)
        elif length:
            self._reader = LengthReader(length)
        ended = self._reader is None
        self._continue_owed = head.expects_continue and not ended
        events.append(RequestReceived(self._stream_id, head, ended))
        if length is not None and length > self._limits.body:
            self._discard()
            events.append(BodyTooLarge(self._stream_id))
        self._discard_left = self._limits.discard

    def _deliver(self, reader: BodyReader, chunk: bytes, events: list[Event]) -> None:
        if chunk:
            self._continue_owed = False  # the client did not wait
        super()._deliver(reader, chunk, events)

    def _on_discarded(self, size: int, events: list[Event]) -> None:
        self._discard_left -= size
        if self._discard_left >= 0:
            return
        if self._active and self._mode is not Mode.DONE:
            # The answer comes first. Reading on would be endless, so the connection ends with the exchange.
            self._keep_alive = False
        else:
            self._end(events, ErrorCode.ENHANCE_YOUR_CALM, "more body than is worth skipping", remote=False)

    def _on_message_in_complete(self) -> None:
        if self._mode is Mode.DONE:
            self._next()

    def _on_message_out_complete(self) -> None:
        if self._reader is None or not self._keep_alive:
            self._next()
        else:
            self._discard()  # the answer is out; what is left of the request is skipped

    def _next(self) -> None:
        self._active = False
        self._held = 0
        if not self._keep_alive:
            self._shut()

    def _refuse(self, error: Malformed, events: list[Event]) -> None:
        self._unread = True
        if not self._active or self._mode is Mode.HEAD:
            self._mode = Mode.DONE
            body = error.detail.encode() + b"\n"
            block = encoding.encode_response(error.status, ((b"content-type", b"text/plain; charset=utf-8"),))
            self._put((block, _CLOSE, b"content-length: %d\r\n\r\n" % len(body), body), 0)
        self._end(events, ErrorCode.PROTOCOL_ERROR, error.detail, remote=False)
