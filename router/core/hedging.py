"""When a second copy of a request is sent, and where: backup requests after Dean and Barroso ("The Tail at Scale",
2013). The adaptive delay and the budget are after Finagle's BackupRequestFilter.

The delay is the latency at which the tail begins (`latency`). Only a share of the requests exceed it: the same share
that the budget allows as extra load (`budget`). It is estimated on the low side, and the budget corrects it. The tokens
in hand are the integral of those allowed less those spent; the fewer there are, the more the delay is stretched, up to
fourfold. So the whole budget is spent, on the requests that wait longest, and no more. When all replicas become slow at
once, more requests pass the delay than the budget has tokens for, and the rest wait, as they should. A delay is never
shorter than `latency` says: its rule for withdrawn copies counts on that.

Some requests are not hedged: those that ask for it (`berth-no-hedge`), that are not idempotent, that are part of a
stream or a sequence, or whose version has not enough history. A twin that is due is denied when it would not help: no
fit replica beside the first, most replicas of the version with clearly more to do than usual, nothing left in the
budget. Such a state may pass while the request still waits: it asks again after `again`, less and less often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum

from berth.ids import VersionKey
from berth.model import ReplicaAddress
from router.core.attempts import Attempts, Denial
from router.core.latency import LatencyLine
from router.core.selection import Dice, Selection

ADAPTIVE = None
"""The delay that is learned."""

# This part of the reserve is plenty. Below it the delay grows, up to `_STRETCH` times when nothing is left.
_PLENTY = 0.8
_STRETCH = 4.0

# Causes that may pass in a moment; and when to look again: in seconds, and as a part of the time waited.
_PASSING = frozenset((Denial.BUDGET, Denial.NO_REPLICA, Denial.OVERLOADED))
_SOONEST = 0.005
_PART = 0.25


class HedgeEvent(Enum):
    SENT = "sent"
    WON = "won"
    """The twin's answer was used."""
    RECALLED = "recalled"
    """The other copy was withdrawn while it was under way: what it had done by then is lost, the rest is not done."""
    WASTED = "wasted"
    """The other copy had been answered too: it could not be recalled, and its work was for nothing."""


class Unarmed(Enum):
    """Why a request will have no second copy, however long it takes."""

    OFF = "off"
    ASKED = "asked"
    """By the client, or because repeating it is not safe."""
    ALONE = "alone"
    """One replica holds the version."""
    NO_HISTORY = "no_history"


class Hedging:
    """`delay` is in seconds: 0 for never, `ADAPTIVE`, or the same for all. One per process; it counts what it did."""

    def __init__(self, selection: Selection, delay: float | None = ADAPTIVE) -> None:
        self._selection = selection
        self._delay = delay
        self._events: Counter[HedgeEvent] = Counter()
        self._denials: Counter[Denial] = Counter()
        self._unarmed: Counter[Unarmed] = Counter()

    def __repr__(self) -> str:
        mode = "adaptive" if self._delay is ADAPTIVE else f"after {self._delay:g} s" if self._delay else "off"
        return f"<Hedging {mode} sent={self._events[HedgeEvent.SENT]} won={self._events[HedgeEvent.WON]}>"

    @property
    def delay(self) -> float | None:
        return self._delay

    @property
    def events(self) -> Mapping[HedgeEvent, int]:
        return self._events

    @property
    def denials(self) -> Mapping[Denial, int]:
        return self._denials

    @property
    def unarmed(self) -> Mapping[Unarmed, int]:
        return self._unarmed

    def arm(self, line: LatencyLine | None, *, allowed: bool, replicas: int, in_hand: float = 1.0) -> float | None:
        """After how many seconds a request's first copy gets a twin; None for never.

        `allowed`: neither the client nor the kind of request forbids it. `in_hand`: what part of the reserve for
        hedges is there, 0 to 1.
        """
        if not allowed:
            reason = Unarmed.ASKED
        elif self._delay == 0.0:
            reason = Unarmed.OFF
        elif replicas < 2:
            reason = Unarmed.ALONE
        elif self._delay is not ADAPTIVE:
            return self._delay
        elif line is not None and line.tail is not None:
            return line.tail if in_hand >= _PLENTY else line.tail * _STRETCH ** (1.0 - in_hand / _PLENTY)
        else:
            reason = Unarmed.NO_HISTORY
        self._unarmed[reason] += 1
        return None

    def twin(
        self,
        attempts: Attempts,
        first: ReplicaAddress,
        versions: tuple[VersionKey, VersionKey],
        candidates: Sequence[ReplicaAddress],
        *,
        now: float,
        dice: Dice,
    ) -> ReplicaAddress | Denial:
        """Where the twin of the copy at `first` goes, or why there is none (yet).

        `versions`: that of the first copy, and the one in the table now, at `candidates`. A denial is counted when it
        is the request's first.
        """
        if self._selection.overloaded(candidates, now):
            return self._deny(attempts, Denial.OVERLOADED)
        step = attempts.hedge(now, *versions, self._selection.fit_for_extra(candidates, first, now))
        if isinstance(step, Denial):
            return self._deny(attempts, step)
        self._events[HedgeEvent.SENT] += 1
        return self._selection.pick_twin(step.among, first, now, dice)

    @staticmethod
    def again(denial: Denial, waited: float) -> float | None:
        """In how many seconds a request that has waited so long, and was denied its twin, asks again; None: never.

        In proportion to the time waited: few questions however long it takes. The newest requests, which a twin helps
        most, ask most often.
        """
        return max(_SOONEST, _PART * waited) if denial in _PASSING else None

    def _deny(self, attempts: Attempts, denial: Denial) -> Denial:
        if not attempts.denied:
            attempts.denied = True
            self._denials[denial] += 1
        return denial

    def count(self, event: HedgeEvent) -> None:
        """Something came of a twin."""
        self._events[event] += 1
