"""Several processes accept from one socket. The next connection is for the one with the fewest.

Each process decides for itself, by the numbers that all of them publish. It need not be exact: two that decide at the
same instant may both take one, and are even again with the next. One thing must hold: somebody may always take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

SILENT_AFTER: Final = 1.0
"""Seconds. Who has said nothing for so long is frozen or dead, and nobody waits for it. On a machine that is out of
cores all are silent for a while."""

# Of thousands of connections, a few more here than there do not matter, and taking several at a time saves looks.
_SLACK: Final = 32
_AT_A_TIME: Final = 64

# A sibling takes the connection within some tens of microseconds, or once it has finished its present work.
_AT_ONCE: Final = 8
_ENOUGH: Final = 16
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.004


class ProcessState(NamedTuple):
    """What a process says of itself. `seen`: when, in seconds on a clock that all of them read. `connections`: those
    that it has from the socket in question."""

    ready: bool
    seen: float
    connections: int


def allowance(own: ProcessState, others: Sequence[ProcessState], now: float) -> int:
    """How many waiting connections the process `own` may take: until it has one more than the process with the fewest.

    Processes that cannot serve yet take connections only where no process can: somebody has to say so.
    """
    alive = [other for other in others if now - other.seen <= SILENT_AFTER]
    if not own.ready and any(other.ready for other in alive):
        return 0
    rivals = [other.connections for other in alive if other.ready == own.ready]
    if not rivals:
        return _AT_A_TIME
    fewest = min(rivals)
    return max(0, min(_AT_A_TIME, fewest + fewest // _SLACK - own.connections + 1))


def pause(looks: int) -> float:
    """Seconds until a process that is not in turn looks again for the waiting connection, after `looks` in vain."""
    return max(0.0, min(_LONGEST_PAUSE, _FIRST_PAUSE * (looks - _AT_ONCE)))


def has_waited_enough(looks: int) -> bool:
    """Whether it takes one after so many looks, 26 ms after the first. A sibling may be stuck in something long or have
    no core to run on: the client need not wait until that one counts as silent."""
    return looks > _ENOUGH
