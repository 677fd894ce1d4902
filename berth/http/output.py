"""What a connection wants written, in order, until the shell takes it."""

from __future__ import annotations


class Output:
    """Held by all connections. Whoever appends a long piece to `pieces` sets `bulky`."""

    __slots__ = ("bulky", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.bulky = False

    def __repr__(self) -> str:
        return f"<Output {len(self.pieces)} pieces, {sum([len(piece) for piece in self.pieces])} bytes>"

    def join(self) -> bytes:
        """All bytes to be written now, joined; they are the caller's from here on."""
        pieces = self.pieces
        if not pieces:
            return b""
        data = b"".join(pieces)
        pieces.clear()
        self.bulky = False
        return data

    def gather(self) -> bytes | list[bytes | memoryview]:
        """As `join`; in pieces where joining them would copy much."""
        if not self.bulky:
            return self.join()
        pieces, self.pieces, self.bulky = self.pieces, [], False
        return pieces
