"""Counts what a peer makes us do for nothing, and says when it is too much.

Every flood is made of frames that cost us work and move nothing: rapid reset, settings, ping, empty frames, window
updates of one byte, resets that the peer provokes from us. They are counted against a fixed allowance, which grows with
useful work and starts anew at each tick. So an idle connection may ping for years, a busy one may update its windows as
often as it must, and a flood ends within one allowance. No clock: the shell calls `tick` once a second.
"""

from __future__ import annotations

from typing import Final

from berth.http.errors import ConnectionFault, ErrorCode

_CONTROL_PER_USEFUL_FRAME: Final = 4


class Burden:
    """`useful` is raised by the connection for each frame that carried something, in either direction."""

    __slots__ = ("_control", "_control_limit", "_reset_limit", "_resets", "completed", "useful")

    def __init__(self, control_limit: int, reset_limit: int) -> None:
        self._control_limit = control_limit
        self._reset_limit = reset_limit
        self.tick()

    def tick(self) -> None:
        self.useful = 0
        self.completed = 0
        self._control = 0
        self._resets = 0

    def control(self, what: str) -> None:
        """One more frame that moved nothing. Raises `ConnectionFault` when it is one too many."""
        self._control += 1
        if self._control > self._control_limit + _CONTROL_PER_USEFUL_FRAME * self.useful:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many frames that move nothing, the last: {what}")

    def reset(self) -> None:
        """One more stream that the peer opened in vain. Raises `ConnectionFault` when it is one too many."""
        self._resets += 1
        if self._resets > self._reset_limit + self.completed:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many streams were reset")

    def __repr__(self) -> str:
        return f"<Burden {self._control} control, {self._resets} resets, {self.useful} useful>"
