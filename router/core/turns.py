"""Whose turn it is, of several processes that accept from one socket, to take the next connection: who has the fewest.

Each process decides for itself, by what all of them say of themselves. It need not be exact: two that decide at the
same instant may both take one, and are even again with the next. What must hold is that somebody may always take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

SILENT_AFTER: Final = 0.25
"""Seconds. Who has said nothing for so long is frozen or dead, and nobody waits for it."""

# Of thousands of connections, a few more here than there do not matter, and taking several at a time saves looks.
_SLACK: Final = 32

# It takes a sibling some tens of microseconds to wake up and take the connection, or until it has done what it is at.
_AT_ONCE: Final = 8
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.004


class Standing(NamedTuple):
    """What a process says of itself. `seen`: when, in seconds on a clock that all of them read. `connections`: those
    that it has from the socket in question."""

    ready: bool
    seen: float
    connections: int


def may_take(own: Standing, others: Sequence[Standing], now: float) -> bool:
    """Whether the process `own` takes the next connection: nobody who is as ready has clearly fewer.

    Processes that cannot serve yet take one only where no process can: somebody has to say so.
    """
    alive = [other for other in others if now - other.seen <= SILENT_AFTER]
    if not own.ready and any(other.ready for other in alive):
        return False
    fewest = min((other.connections for other in alive if other.ready == own.ready), default=own.connections)
    return own.connections <= fewest + fewest // _SLACK


def pause(looks: int) -> float:
    """Seconds until a process whose turn it is not looks whether the connection still waits, after `looks` in vain."""
    if looks < _AT_ONCE:
        return 0.0
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * (1 + looks - _AT_ONCE))
