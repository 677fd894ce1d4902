"""The side of an HTTP/1.1 connection that sends requests."""

from __future__ import annotations

from typing import Final

from berth.http.errors import ErrorCode, LocalError, Malformed
from berth.http.events import DataReceived, Event, InformationalReceived, ResponseReceived
from berth.http.http1.body import BodyReader, ChunkedReader, EofReader, LengthReader
from berth.http.http1.connection import Http1Connection, Mode
from berth.http.http1.grammar import ResponseFraming, parse_response
from berth.http.limits import Http1Limits
from berth.http.memo import Memo

_WITH_BODY: Final = (b"POST ", b"PUT ", b"PATC")


class Http1Client(Http1Connection):
    """Sends requests, one at a time; whether the connection can be used again, `can_open` says."""

    def __init__(self, limits: Http1Limits | None = None, *, memo: Memo[ResponseFraming] | None = None) -> None:
        super().__init__(limits or Http1Limits())
        self._memo = memo if memo is not None else Memo(self._limits.memo)
        self._head_only = False
        self._head_received = False

    @property
    def can_open(self) -> bool:
        """Whether `open` would succeed now."""
        return not self._closed and not self._active and not self._buffer and not self._waiting

    def open(self, block: bytes, end: bool = False, *, head_only: bool = False, length: int | None = None) -> int:
        """Start a request; `block` comes from `encode_request`. Returns the exchange's number.

        `length` of the body; None: not known, so it goes in chunks. `head_only`: the method is HEAD. Raises
        `LocalError` unless `can_open`.
        """
        if not self.can_open:
            raise LocalError(f"no exchange can begin on {self!r}")
        if end and length:
            raise LocalError(f"an end, yet a body of {length} bytes")
        self._begin()
        self._head_only, self._head_received = head_only, False
        if end:
            length = 0 if block[:4] in _WITH_BODY or block[:5] in _WITH_BODY else None
        self._begin_body(block, end, length)
        return self._stream_id

    def shutdown(self) -> None:
        """Take no more requests after the one in progress."""
        self._keep_alive = False
        if not self._active:
            self._shut()

    def eof(self) -> list[Event]:
        """The server has stopped sending: the end of some bodies, and of all else."""
        events: list[Event] = []
        if self._closed:
            return events
        if self._reader is not None and self._reader.ends_at_eof():
            if not self._discards:
                events.append(DataReceived(self._stream_id, b"", True))
            self._active = False
        if self._active:
            detail = "the server hung up" + ("" if self._head_received or self._buffer else " before it answered")
            self._end(events, ErrorCode.CONNECT_ERROR, detail, remote=True)
        else:
            self._end(events, ErrorCode.NO_ERROR, "the server hung up", remote=True)
        return events

    def _expects_head(self) -> bool:
        if not self._active:
            raise Malformed("an answer that nobody asked for")
        return not self._head_received

    def _on_head(self, raw: bytes, events: list[Event]) -> None:
        framing = self._memo.get(raw)
        if framing is None:
            framing = parse_response(raw, self._limits.fields)
            self._memo.keep(raw, framing)
        head = framing.head
        if head.status < 200:
            if head.status == 101:
                raise Malformed("an upgrade that nobody asked for")
            events.append(InformationalReceived(self._stream_id, head))
            return
        self._head_received = True
        self._keep_alive = self._keep_alive and framing.keep_alive
        if self._head_only or head.status in (204, 304):
            reader: BodyReader | None = None
        elif framing.chunked:
            reader = ChunkedReader(self._limits)
        elif head.content_length is not None:
            reader = LengthReader(head.content_length) if head.content_length else None
        else:
            reader, self._keep_alive = EofReader(), False
        self._reader = reader
        events.append(ResponseReceived(self._stream_id, head, reader is None))
        if reader is None:
            self._on_message_in_complete()

    def _on_discarded(self, size: int, events: list[Event]) -> None:
        pass  # a response is skipped as long as the shell lets it: `reset` ends it

    def _on_message_in_complete(self) -> None:
        if self._mode is not Mode.DONE:
            # Answered before it was all sent: the rest of the request would have to follow, so give up.
            self._keep_alive, self._mode = False, Mode.DONE
            self._waiting.clear()
        self._finish()

    def _on_message_out_complete(self) -> None:
        pass  # the answer ends the exchange

    def _finish(self) -> None:
        self._active = False
        self._held = 0
        if not self._keep_alive:
            self._shut()

    def _refuse(self, error: Malformed, events: list[Event]) -> None:
        self._end(events, ErrorCode.PROTOCOL_ERROR, error.detail, remote=False)
