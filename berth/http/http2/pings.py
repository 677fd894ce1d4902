"""PING (RFC 9113 section 6.7): the shell's own, those that tell a silent peer from a dead one, and a drain's."""

from __future__ import annotations

from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode, LocalError
from berth.http.events import Event, PingAcknowledged
from berth.http.http2 import frames
from berth.http.http2.burden import Burden
from berth.http.output import Output

_DRAIN: Final = b"draining"
_KEEPALIVE: Final = b"berth-ka"


class Pings:
    """After `keepalive` seconds of silence the peer is asked; after `timeout` more without a word it counts as gone.

    `heard`: bytes have come since the last tick.
    """

    __slots__ = ("_asked_at", "_burden", "_heard_at", "_keepalive", "_output", "_timeout", "heard")

    def __init__(self, output: Output, burden: Burden, keepalive: float | None, timeout: float) -> None:
        self._output = output
        self._burden = burden
        self._keepalive = keepalive
        self._timeout = timeout
        self._heard_at: float | None = None
        self._asked_at: float | None = None
        self.heard = True

    def send(self, payload: bytes) -> None:
        """The shell's own."""
        if len(payload) != 8 or payload in (_DRAIN, _KEEPALIVE):
            raise LocalError(f"{payload!r} cannot be a PING's payload here")
        self._output.pieces.append(frames.ping(payload))

    def send_drain(self) -> None:
        """A ping whose acknowledgement shows that the peer has read everything before it."""
        self._output.pieces.append(frames.ping(_DRAIN))

    def on_ping(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> bool:
        """Whether it acknowledges the drain's."""
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not of 8 bytes")
        self._burden.control("PING")
        if not flags & frames.ACK:
            self._output.pieces.append(frames.ping(payload, ack=True))
        elif payload == _DRAIN:
            return True
        elif payload != _KEEPALIVE:
            events.append(PingAcknowledged(payload))
        return False

    def tick(self, now: float) -> bool:
        """Whether the peer counts as gone. `now` is monotonic, in seconds."""
        if self.heard or self._heard_at is None:
            self.heard = False
            self._heard_at, self._asked_at = now, None
        elif self._keepalive is None:
            pass
        elif self._asked_at is None:
            if now - self._heard_at >= self._keepalive:
                self._asked_at = now
                self._output.pieces.append(frames.ping(_KEEPALIVE))
        elif now - self._asked_at >= self._timeout:
            return True
        return False

    def __repr__(self) -> str:
        return f"<Pings heard at {self._heard_at}, asked at {self._asked_at}>"
