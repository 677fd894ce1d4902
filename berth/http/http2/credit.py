"""The window that we grant to the peer for the bodies of all streams together (RFC 9113 section 6.9)."""

from __future__ import annotations

from berth.http.errors import ConnectionFault, ErrorCode
from berth.http.http2 import frames
from berth.http.output import Output


class ConnectionCredit:
    """`credit`: bytes the peer may still send. `unannounced`: bytes consumed and not yet worth a WINDOW_UPDATE."""

    __slots__ = ("_output", "_size", "credit", "unannounced")

    def __init__(self, size: int, output: Output) -> None:
        self._output = output
        self._size = size
        self.credit = size
        self.unannounced = 0

    def charge(self, size: int) -> None:
        """So many flow-controlled bytes have come. Raises `ConnectionFault` if they are more than the window."""
        if size > self.credit:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more body than the connection's window")
        self.credit -= size

    def release(self, size: int) -> None:
        """So many of them are done with."""
        self.unannounced += size
        # Half a window at a time: rare enough to cost nothing, early enough that the peer never stalls on it.
        if self.unannounced * 2 >= self._size:
            self._output.pieces.append(frames.window_update(0, self.unannounced))
            self.credit += self.unannounced
            self.unannounced = 0

    def validate(self, held: int) -> None:
        """`held`: bytes of all streams that were charged and not released. Raises `AssertionError`."""
        assert self.credit >= 0
        assert self.credit + self.unannounced + held == self._size, "connection credit leaked"
        assert self.unannounced * 2 < self._size, "the peer may stall"

    def __repr__(self) -> str:
        return f"<ConnectionCredit {self.credit} of {self._size}, {self.unannounced} unannounced>"
