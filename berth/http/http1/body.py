"""Readers of bodies: of known length, chunked, or up to the end of the connection.

Each is fed with `read(data, pos)`, which returns some of the body and where it stopped reading; `done` tells when the
body is complete. A reader never looks past its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from berth.http.errors import Malformed
from berth.http.head import Fields
from berth.http.http1.grammar import parse_trailers
from berth.http.limits import Http1Limits

_HEX: Final = b"0123456789abcdefABCDEF"
_IN_EXTENSION: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
# Size in hexadecimal digits: 2**56 bytes are enough, and leading zeros are no way to make a line long.
_SIZE_DIGITS: Final = 14


class BodyReader(Protocol):
    done: bool
    trailers: Fields

    def read(self, data: bytes, pos: int) -> tuple[bytes, int]:
        """The body in `data` from `pos` on (perhaps empty), and the position where the used part of `data` ends.

        Where nothing was used and `done` is false, more data is needed. Raises `Malformed`.
        """
        ...

    def ends_at_eof(self) -> bool:
        """Whether a connection that ends now leaves a complete body."""
        ...


class LengthReader:
    """Exactly `length` bytes."""

    __slots__ = ("_left", "done", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.trailers: Fields = ()

    def read(self, data: bytes, pos: int) -> tuple[bytes, int]:
        chunk = data[pos : pos + self._left]
        self._left -= len(chunk)
        self.done = not self._left
        return chunk, pos + len(chunk)

    def ends_at_eof(self) -> bool:
        return False


class EofReader:
    """Everything until the peer hangs up: answers of old servers."""

    __slots__ = ("done", "trailers")

    def __init__(self) -> None:
        self.done = False
        self.trailers: Fields = ()

    def read(self, data: bytes, pos: int) -> tuple[bytes, int]:
        return data[pos:], len(data)

    def ends_at_eof(self) -> bool:
        return True


class ChunkedReader:
    """Chunks of RFC 9112 section 7.1, then trailers. Extensions are checked, limited and dropped."""

    __slots__ = ("_extensions", "_left", "_limits", "_state", "done", "trailers")

    def __init__(self, limits: Http1Limits) -> None:
        self._limits = limits
        self._left = 0
        self._extensions = limits.chunk_extensions
        # A plain function: a bound method would make each body a cycle for the garbage collector.
        self._state: Callable[[ChunkedReader, bytes, int], tuple[bytes, int]] = ChunkedReader._read_size
        self.done = False
        self.trailers: Fields = ()

    def read(self, data: bytes, pos: int) -> tuple[bytes, int]:
        return self._state(self, data, pos)

    def ends_at_eof(self) -> bool:
        return False

    def _read_size(self, data: bytes, pos: int) -> tuple[bytes, int]:
        limit = pos + _SIZE_DIGITS + self._extensions + 2
        end = data.find(b"\r\n", pos, limit)
        if end < 0:
            # Refused as soon as it cannot become right, also by its length, so that nobody is waited for in vain.
            self._check_size_line(data[pos:limit].removesuffix(b"\r"))
            return b"", pos
        size = self._check_size_line(data[pos:end])
        if not size:
            raise Malformed("a chunk without a size")
        self._extensions -= end - pos - len(size)
        self._left = int(size, 16)
        self._state = ChunkedReader._read_chunk if self._left else ChunkedReader._read_trailers
        return b"", end + 2

    def _check_size_line(self, line: bytes) -> bytes:
        """The digits of a size line, whole or begun."""
        size, semicolon, extension = line.partition(b";")
        if len(size) > _SIZE_DIGITS or size.translate(None, _HEX) or (semicolon and not size):
            raise Malformed("a chunk size is not a hexadecimal number")
        if extension.translate(None, _IN_EXTENSION):
            raise Malformed("a chunk extension holds a control character")
        if len(line) - len(size) > self._extensions:
            raise Malformed("chunk extensions are too long")
        return size

    def _read_chunk(self, data: bytes, pos: int) -> tuple[bytes, int]:
        chunk = data[pos : pos + self._left]
        self._left -= len(chunk)
        pos += len(chunk)
        if not self._left:
            self._state = ChunkedReader._read_chunk_end
        return chunk, pos

    def _read_chunk_end(self, data: bytes, pos: int) -> tuple[bytes, int]:
        ending = data[pos : pos + 2]
        if not b"\r\n".startswith(ending):
            raise Malformed("a chunk is longer than its size")
        if len(ending) < 2:
            return b"", pos
        self._state = ChunkedReader._read_size
        return b"", pos + 2

    def _read_trailers(self, data: bytes, pos: int) -> tuple[bytes, int]:
        if data.startswith(b"\r\n", pos):
            self.done = True
            return b"", pos + 2
        limit = pos + self._limits.trailers
        end = data.find(b"\r\n\r\n", pos, limit)
        if end < 0:
            if len(data) >= limit:
                raise Malformed("trailers are too long", 431)
            return b"", pos
        self.trailers = parse_trailers(data[pos:end], self._limits.fields)
        self.done = True
        return b"", end + 4
