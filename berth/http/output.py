"""What a connection wants written, in order, until the shell takes it."""

from __future__ import annotations


class Output:
    """The base of all connections. Whoever appends a long piece sets `_bulky`."""

    def __init__(self) -> None:
        self._out: list[bytes | memoryview] = []
        self._bulky = False

    def output(self) -> bytes:
        """All bytes to be written now, joined; they are the shell's from here on."""
        out = self._out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        self._bulky = False
        return data

    def gather(self) -> bytes | list[bytes | memoryview]:
        """As `output`; in pieces where joining them would copy much."""
        if not self._bulky:
            return self.output()
        out, self._out, self._bulky = self._out, [], False
        return out
