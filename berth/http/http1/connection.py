"""The state machine of an HTTP/1.1 connection: what both roles share.

A connection carries one exchange at a time. Each has two halves, a message in and a message out; when both are
complete the next exchange begins or the connection ends. Requests that a client sends ahead (pipelining) wait, unread,
in `backlog`: call `receive(b"")` when an exchange has ended. `wants_data` says whether the shell should read on.

A peer's mistake ends the connection: nobody can know any more where its next message starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

from berth.http.errors import ErrorCode, LocalError, Malformed
from berth.http.events import (
    BodyTooLarge,
    ConnectionClosed,
    DataReceived,
    DataSent,
    Event,
    StreamReset,
    TrailersReceived,
)
from berth.http.head import Field
from berth.http.http1 import encoding
from berth.http.http1.body import BodyReader
from berth.http.limits import BULKY, SMALL, Http1Limits
from berth.http.output import Output

_END_OF_HEAD: Final = b"\r\n\r\n"
_CLOSE: Final = b"connection: close\r\n"
_WITH_BODY: Final = (b"POST ", b"PUT ", b"PATC")


class Mode(Enum):
    """What the message out may still send."""

    HEAD = auto()  # nothing was sent yet
    LENGTH = auto()  # so many bytes
    CHUNKED = auto()
    EOF = auto()  # bytes up to the end of the connection
    NOTHING = auto()  # an answer that has no body, whatever the shell gives us for one
    DONE = auto()


class Http1Connection(ABC):
    """What both roles share. Use `Http1Server` or `Http1Client`; `berth.http` describes the calls and the events."""

    @staticmethod
    def encode_fields(fields: Iterable[Field]) -> bytes:
        """As `encoding.encode_fields`."""
        return encoding.encode_fields(fields)

    @staticmethod
    def encode_request(method: bytes, authority: bytes, path: bytes, fields: Iterable[Field] = ()) -> bytes:
        """As `encoding.encode_request`."""
        return encoding.encode_request(method, authority, path, fields)

    @staticmethod
    def encode_response(status: int, fields: Iterable[Field] = ()) -> bytes:
        """As `encoding.encode_response`."""
        return encoding.encode_response(status, fields)

    def __init__(self, limits: Http1Limits) -> None:
        self._limits = limits
        self._output = Output()
        self._closed = False
        self._paused = False
        # While paused: pieces for the output, and how many bytes of body each stands for.
        self._waiting: deque[tuple[tuple[bytes | memoryview, ...], int]] = deque()
        self._buffer = b""
        self._blank_skipped = False
        # The exchange. Its number stays when it is over.
        self._stream_id = 0
        self._active = False
        self._keep_alive = True
        # Message in.
        self._reader: BodyReader | None = None
        self._received = 0
        self._held = 0
        self._discards = False
        # Message out.
        self._mode = Mode.DONE
        self._left = 0

    # ── Bytes in ───────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, data: bytes) -> list[Event]:
        """The events in `data`, joined to what was received before. Never raises for what a peer can send."""
        events: list[Event] = []
        if self._closed:
            return events
        self._buffer = self._buffer + data if self._buffer else data
        try:
            self._advance(events)
        except Malformed as error:
            self._refuse(error, events)
        return events

    def _advance(self, events: list[Event]) -> None:
        data, pos, end = self._buffer, 0, len(self._buffer)
        while not self._closed:
            if self._reader is not None:
                chunk, stop = self._reader.read(data, pos)
                if stop == pos and not self._reader.done:
                    break
                pos = stop
                self._deliver(self._reader, chunk, events)
            elif pos == end or not self._expects_head():
                break
            else:
                stop = self._read_head(data, pos, events)
                if stop == pos:
                    break
                pos = stop
        self._buffer = data[pos:] if not self._closed else b""

    def _read_head(self, data: bytes, pos: int, events: list[Event]) -> int:
        if not self._blank_skipped and data.startswith(b"\r\n", pos):
            # RFC 9112 section 2.2: an empty line before a request is to be ignored. One, here.
            self._blank_skipped = True
            return pos + 2
        limit = pos + self._limits.head
        end = data.find(_END_OF_HEAD, pos, limit)
        if end >= 0:
            self._blank_skipped = False
            self._on_head(data[pos:end], events)
            return end + 4
        first = data.find(b"\n", pos, limit)
        if first == pos or (first > pos and data[first - 1] != ord("\r")):
            raise Malformed("a line ends with a bare LF")
        if len(data) >= limit:
            raise Malformed("the head is too large", 431)
        return pos

    def _deliver(self, reader: BodyReader, chunk: bytes, events: list[Event]) -> None:
        size = len(chunk)
        self._received += size
        done = reader.done
        if self._received > self._limits.body and not self._discards:
            self._discard()
            events.append(BodyTooLarge(self._stream_id))
        if self._discards:
            self._on_discarded(size, events)
        elif done and reader.trailers:  # a reader gives these alone
            events.append(TrailersReceived(self._stream_id, reader.trailers))
        elif size or done:
            self._held += size
            events.append(DataReceived(self._stream_id, chunk, done))
        if done and not self._closed:
            self._reader = None
            self._on_message_in_complete()

    def _discard(self) -> None:
        """Nobody wants the rest of this body, so nobody has to consume what there was of it either."""
        self._discards = True
        self._held = 0

    def consume(self, stream_id: int, size: int) -> None:
        """The shell is done with `size` bytes of this exchange's body; see `wants_data`."""
        if stream_id != self._stream_id or not self._active or self._discards:
            return
        if size > self._held:
            raise LocalError(f"{size} bytes consumed of {self._held} on {self!r}")
        self._held -= size

    @abstractmethod
    def _expects_head(self) -> bool:
        """Whether the next byte would begin a head."""

    @abstractmethod
    def _on_head(self, raw: bytes, events: list[Event]) -> None:
        """A complete head, without its empty line."""

    @abstractmethod
    def _on_message_in_complete(self) -> None:
        """The peer's half of the exchange is over."""

    @abstractmethod
    def _on_discarded(self, size: int, events: list[Event]) -> None:
        """Some body that nobody wants has been skipped."""

    @abstractmethod
    def _refuse(self, error: Malformed, events: list[Event]) -> None:
        """What was received breaks the rules."""

    # ── Sending ────────────────────────────────────────────────────────────────────────────────────────────────

    def send_data(self, stream_id: int, data: bytes | memoryview, end: bool = False) -> int:
        """Send body; returns how many bytes went into the output: all, unless paused (see `DataSent`).

        The body must be as long as announced. A memoryview must be one of bytes.
        """
        size = len(data)
        if self._is_gone(stream_id):
            return size
        mode = self._mode
        if mode is Mode.HEAD or mode is Mode.DONE:
            raise LocalError(f"body cannot be sent now on {self!r}")
        if mode is Mode.LENGTH:
            if size > self._left or (end and size < self._left):
                raise LocalError(f"{size} bytes of body where {self._left} are left on {self!r}")
            self._left -= size
        accepted = size
        if size and mode is not Mode.NOTHING:
            pieces = encoding.encode_chunk(data) if mode is Mode.CHUNKED else (data,)
            accepted = self._put(pieces, size)
        if end:
            self._end_body(b"")
        return accepted

    def send_trailers(self, stream_id: int, block: bytes) -> None:
        """End the message. `block` comes from `encode_fields`; it is dropped where the body is not chunked."""
        if self._is_gone(stream_id):
            return
        if self._mode is Mode.HEAD or self._mode is Mode.DONE:
            raise LocalError(f"trailers cannot be sent now on {self!r}")
        if self._mode is Mode.LENGTH and self._left:
            raise LocalError(f"{self._left} bytes of body are missing on {self!r}")
        self._end_body(block)

    def _end_body(self, trailers: bytes) -> None:
        if self._mode is Mode.CHUNKED:
            self._put((b"0\r\n", trailers, b"\r\n"), 0)
        elif self._mode is Mode.EOF:
            self._keep_alive = False
        self._mode = Mode.DONE
        self._on_message_out_complete()

    def _put(self, pieces: tuple[bytes | memoryview, ...], size: int) -> int:
        if self._paused:
            if self._waiting and self._waiting[-1][1] + size <= SMALL:
                # A peer that sends single bytes must not make us keep objects for each.
                before, sized = self._waiting[-1]
                self._waiting[-1] = (b"".join((*before, *pieces)),), sized + size
            else:
                self._waiting.append((pieces, size))
            return 0
        self._append(pieces, size)
        return size

    def _append(self, pieces: tuple[bytes | memoryview, ...], size: int) -> None:
        output = self._output
        output.pieces += pieces
        if size >= BULKY:
            output.bulky = True

    def _begin_body(self, block: bytes, end: bool, length: int | None) -> None:
        """Append the head with what frames its body, and remember how the body goes."""
        if end:
            framing = b"" if length is None else b"content-length: %d\r\n" % length
            self._mode = Mode.DONE
        elif length is not None:
            framing, self._mode, self._left = b"content-length: %d\r\n" % length, Mode.LENGTH, length
        else:
            framing, self._mode = b"transfer-encoding: chunked\r\n", Mode.CHUNKED
        self._put((block, framing, b"\r\n"), 0)
        if end:
            self._on_message_out_complete()

    @abstractmethod
    def _on_message_out_complete(self) -> None:
        """Our half of the exchange is over, though some of it may still wait for the transport."""

    def _is_gone(self, stream_id: int) -> bool:
        if stream_id == self._stream_id and self._active:
            return False
        if not 0 < stream_id <= self._stream_id:
            raise LocalError(f"there was no exchange {stream_id} on {self!r}")
        return True

    def reset(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """Give the exchange up. HTTP/1.1 can only do so by ending the connection: see `finished`."""
        if not self._is_gone(stream_id):
            self._active = False
            self._shut()

    def pause(self) -> None:
        """The transport is full: what is sent waits here until `resume`."""
        self._paused = True

    def resume(self) -> list[Event]:
        """The transport has room again. Returns `DataSent` for the body that goes now."""
        self._paused = False
        sent = 0
        for pieces, size in self._waiting:
            self._append(pieces, size)
            sent += size
        self._waiting.clear()
        return [DataSent(self._stream_id, sent)] if sent else []

    def output(self) -> bytes:
        """All bytes to be written now, joined; they are the shell's from here on."""
        return self._output.join()

    def gather(self) -> bytes | list[bytes | memoryview]:
        """As `output`; in pieces where joining them would copy much."""
        return self._output.gather()

    def tick(self, now: float) -> list[Event]:
        """HTTP/1.1 has nothing to do in time; idle connections are the shell's to close."""
        return []

    def close(self, code: int = ErrorCode.NO_ERROR, detail: str = "") -> list[Event]:
        """End the connection at once; an exchange in progress is lost."""
        events: list[Event] = []
        if not self._closed:
            self._end(events, code, detail, remote=False)
        return events

    # ── State ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def closed(self) -> bool:
        """Nothing more will come or go, apart from what `output()` and `resume()` still have."""
        return self._closed

    @property
    def finished(self) -> bool:
        """Whether the transport can be closed once everything is written."""
        return self._closed and not self._waiting

    @property
    def wants_data(self) -> bool:
        """Whether the shell should read on: not while it holds a buffer full of body, or requests wait."""
        limit = self._limits.buffer
        return not self._closed and self._held < limit and len(self._buffer) < limit

    @property
    def backlog(self) -> int:
        """Bytes received and not yet looked at."""
        return len(self._buffer)

    @property
    def open_streams(self) -> int:
        return int(self._active)

    def unsent(self, stream_id: int) -> int:
        """Bytes of this exchange's body that wait for the transport."""
        return sum(size for _, size in self._waiting) if stream_id == self._stream_id else 0

    def _begin(self) -> None:
        self._stream_id += 1
        self._active = True
        self._received = self._held = 0
        self._discards = False

    def _shut(self) -> None:
        self._closed = True
        self._reader = None
        self._buffer = b""
        self._held = 0

    def _end(self, events: list[Event], code: int, detail: str, *, remote: bool) -> None:
        if self._active:
            self._active = False
            events.append(StreamReset(self._stream_id, code, detail, remote))
        self._shut()
        events.append(ConnectionClosed(code, detail, remote))

    def validate(self) -> None:
        """Raise `AssertionError` unless the state is consistent. For tests, after every step."""
        assert self._active or self._closed or self._mode is Mode.DONE, "an exchange ended with half a message"
        assert self._left >= 0
        assert self._held >= 0
        assert self._reader is None or not self._reader.done, "a complete body is still being read"
        if self._closed:
            assert not self._active
            assert not self._buffer
            assert self._reader is None
        assert self._paused or not self._waiting, "output waits for nothing"

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"exchange {self._stream_id}" if self._active else "idle"
        reading = type(self._reader).__name__ if self._reader is not None else "nothing"
        return (
            f"<{type(self).__name__} {state} in={reading} out={self._mode.name} held={self._held} "
            f"backlog={len(self._buffer)}{f' paused, {len(self._waiting)} waiting' if self._paused else ''}>"
        )
