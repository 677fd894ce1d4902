"""The state of one stream. Only the connection changes it."""

from __future__ import annotations

from collections import deque

# Waits for a window: bytes of body, and whether they end the stream; or a finished HEADERS frame with trailers.
Waiting = tuple[bytes | memoryview, bool]


class Stream:
    """RFC 9113's states are two booleans here: may the peer send (`remote_open`), may we (`local_open`).
    `takes_body`: the shell has sent a head and has not yet given us the end.

    All in bytes: `window`, what we may send; `credit`, what the peer may; `held`, delivered and not yet consumed;
    `unannounced`, consumed and not yet worth a WINDOW_UPDATE. `credit + held + unannounced` is the receive window,
    always. `waiting` is body that the windows hold back, then perhaps the `trailers` frame. `expected` is the announced
    length, `discards`: the body is over its limit, `bodiless`: the answer to HEAD.
    """

    __slots__ = (
        "bodiless",
        "credit",
        "discards",
        "expected",
        "head_received",
        "head_sent",
        "held",
        "id",
        "local_open",
        "received",
        "remote_open",
        "takes_body",
        "trailers",
        "unannounced",
        "waiting",
        "window",
    )

    def __init__(self, stream_id: int, window: int, credit: int) -> None:
        self.id = stream_id
        self.window = window
        self.credit = credit
        self.held = 0
        self.unannounced = 0
        self.remote_open = True
        self.local_open = True
        self.head_received = False
        self.head_sent = False
        self.takes_body = False
        self.expected: int | None = None
        self.received = 0
        self.discards = False
        self.bodiless = False
        self.waiting: deque[Waiting] | None = None
        self.trailers: bytes | None = None

    def __repr__(self) -> str:
        state = {(1, 1): "open", (1, 0): "half-closed (local)", (0, 1): "half-closed (remote)", (0, 0): "closed"}
        waiting = sum(len(data) for data, _ in self.waiting or ())
        return (
            f"<Stream {self.id} {state[self.remote_open, self.local_open]} window={self.window} credit={self.credit} "
            f"held={self.held} waiting={waiting}>"
        )
