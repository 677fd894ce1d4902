"""How well one replica does, seen from this router: its pace, its silence, its failures.

Latencies are compared as *pace*: the time a request took over what is typical of its version and size. So a replica
that serves the heavy models looks no slower than its neighbour, and one figure tells the load of one more request
there. Two figures are kept of it:

* `pace_at(now)` for choosing: a peak-EWMA (Finagle's and linkerd's), which jumps up and comes down slowly. A jump is
  at most fourfold, so that one straggler does not empty a replica. Without news it decays to 1 and the replica is tried
  again. Time spent waiting without any answer counts already: a frozen process never reports.
* `level` for judging: a short mean of clipped paces, to be compared with that of its peers.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import Final

from router.core.latency import FLOOR, LatencyLine

# Seconds in which a peak falls to a third.
_DECAY: Final = 2.0
_LARGEST_JUMP: Final = 4.0
# A level of `SLOW` takes three slow requests close together: chance makes two of them every other minute.
_WEIGHT: Final = 0.15
# The usual number of requests under way is a mean over about this many seconds.
_USUAL: Final = 30.0
_BEGINNING: Final = 50
_FEW: Final = 3
_REMEMBERED: Final = 128
# What is left of the longest latency with each answer: a half after 350.
_FADING: Final = 0.998
_NOISE: Final = 1.5

SLOW: Final = 2.0
"""How many times slower than its peers a replica is whose latencies are not normal any more."""

RAMP: Final = 10.0
"""Seconds in which a new replica comes to its full share."""
_FIRST_SHARE: Final = 0.1

# A replica that refused a connection is left alone this long, doubling with each failure in a row.
FIRST_REST: Final = 0.25
LONGEST_REST: Final = 5.0
# A replica judged unfit is left alone longer: the judgement took several requests, and may be wrong.
FIRST_EJECTION: Final = 1.0
LONGEST_EJECTION: Final = 30.0
# Well for this long: what was before does not lengthen the next ejection.
_FORGIVEN: Final = 60.0
TRIALS: Final = 3
"""Good answers in a row that end a probation."""


class Fitness(Enum):
    FIT = "fit"
    EJECTED = "ejected"
    PROBATION = "probation"
    """The ejection is over: one request at a time may go there until `TRIALS` of them went well."""


class Cause(Enum):
    """Why a replica was ejected."""

    FAILURES = "failures"
    SLOW = "slow"
    TRIAL = "trial"
    """It failed in its probation."""


class Health:
    """The record of one process of a replica. `selection` is its only user; every change is one of the methods."""

    __slots__ = (
        "_begun",
        "_counted_at",
        "_longest",
        "_pace",
        "_paced_at",
        "_rejoined_at",
        "_waited_typical",
        "_waiting_since",
        "born",
        "ejections",
        "failures",
        "level",
        "misses",
        "outstanding",
        "paces",
        "plain_from",
        "pushed_back_until",
        "rests_until",
        "returns_at",
        "slow",
        "standing",
        "taught",
        "trials",
        "usual",
    )

    def __init__(self, now: float) -> None:
        self.born = now
        self.outstanding = 0
        self.usual = 0.0
        self._counted_at = now
        self._begun = 0
        # Unreachable: a fact, and a short rest.
        self.failures = 0
        self.rests_until = 0.0
        # Unfit: a judgement.
        self.standing = Fitness.FIT
        self.returns_at = 0.0
        self.ejections = 0
        self.trials = 0
        self._rejoined_at = now
        self.misses = 0
        self.slow = False
        self.level = 1.0
        self.paces = 0
        self._pace = 1.0
        self._paced_at = now
        self._waiting_since: float | None = None
        self._waited_typical = 0.0
        # The longest that it took to answer anything, s, slowly forgotten.
        self._longest = 0.0
        self.pushed_back_until = 0.0
        # The observations it made last, to be taken back should it turn out that they are not normal.
        self.taught: deque[tuple[LatencyLine, int]] = deque(maxlen=_REMEMBERED)
        # From this time on a pick need not look at anything above.
        self.plain_from = now + RAMP

    # What is asked

    def pace_at(self, now: float) -> float:
        """How long one more request would take here, in typical latencies, by all that is known at `now`."""
        pace = self._pace
        if pace != 1.0:
            pace = 1.0 + (pace - 1.0) * math.exp((self._paced_at - now) / _DECAY)
        if self._waiting_since is not None:
            waited = (now - self._waiting_since) / self._waited_typical
            return max(pace, waited)
        return pace

    def load_at(self, now: float) -> float:
        """What a request more would wait, in typical latencies. Paces that chance can make are all the same."""
        pace = self.pace_at(now)
        return (self.outstanding + 1) * (pace if pace > _NOISE else 1.0)

    def is_open(self, now: float) -> bool:
        """Whether a request may go here at all, be it as a trial."""
        if self.standing is not Fitness.FIT:
            return now >= self.returns_at and not self.outstanding
        return now >= self.rests_until

    def share_at(self, now: float) -> float:
        """Its share of what an old replica gets: grows in slow start, stays small on probation."""
        if self.standing is not Fitness.FIT:
            return _FIRST_SHARE
        age = now - self.born
        return 1.0 if age >= RAMP else max(_FIRST_SHARE, age / RAMP)

    @property
    def representative(self) -> bool:
        """Whether its latencies say what is normal."""
        return not self.slow and self.standing is Fitness.FIT

    def is_strained(self, now: float) -> bool:
        """Whether it has clearly more to do than usual, or does it clearly slower: twice, and beyond chance."""
        return self.outstanding > 2.0 * self.usual + 2.0 or (self.paces >= _FEW and self.level > 2.0)

    # What happens

    def began(self, now: float, typical: float | None) -> None:
        weight = (now - self._counted_at) / _USUAL
        if self._begun < _BEGINNING:
            # A plain mean at first: what is usual is not nothing just because the router has only begun to look.
            self._begun += 1
            weight = max(weight, 1.0 / self._begun)
        if weight > 0.0:
            self.usual += (self.outstanding - self.usual) * (min(1.0, weight))
            self._counted_at = now
        self.outstanding += 1
        if self._waiting_since is None:
            # For a version without history nobody knows how long is long. But a silence longer than any answer took so
            # far is suspect.
            usual = self._longest if typical is None else typical
            if usual > 0.0:
                self._waiting_since = now
                self._waited_typical = max(usual, FLOOR)

    def ended(self) -> None:
        self.outstanding -= 1
        if not self.outstanding:
            self._waiting_since = None

    def teach(self, line: LatencyLine, now: float, seconds: float) -> None:
        """Have `line` learn of an observation, if it is one of a normal replica."""
        if self.representative:
            self.taught.append((line, line.record(now, seconds)))

    def answered(self, now: float, seconds: float, typical: float | None) -> None:
        """It answered after `seconds`."""
        self._waiting_since = None
        self.misses = 0
        self.failures = 0
        self.rests_until = 0.0
        longest = self._longest * _FADING
        self._longest = max(seconds, longest)
        if typical is not None:
            pace = _pace(seconds, typical)
            self._weigh(now, pace)
            self.level += ((min(_LARGEST_JUMP, pace)) - self.level) * _WEIGHT
            self.paces += 1

    def kept_waiting(self, now: float, seconds: float, typical: float | None) -> None:
        """A request was withdrawn after `seconds` because that was too long: it would have taken longer still."""
        self.misses += 1
        if typical is not None and (pace := _pace(seconds, typical)) > self.pace_at(now):
            self._weigh(now, pace)
            self.level += (max(self.level, min(pace, _LARGEST_JUMP)) - self.level) * _WEIGHT
            self.paces += 1

    def faulted(self) -> None:
        """It answered that it cannot."""
        self._waiting_since = None
        self.misses += 1

    def unreachable(self, now: float) -> None:
        if self.rests_until <= now:
            # One burst of failures counts once: they have one cause.
            self.failures += 1
            self.rests_until = now + min(LONGEST_REST, FIRST_REST * 2.0 ** min(self.failures - 1, 16))
            self.plain_from = max(self.plain_from, self.rests_until)

    # What is decided

    def compare(self, usual: float) -> float:
        """How many times slower it is than its peers, whose level is `usual`. From `SLOW` on it is marked as slow."""
        ratio = self.level / usual
        self.slow = ratio >= SLOW
        if self.slow:
            self._take_back()
        return ratio

    def eject(self, now: float) -> None:
        forgiven = self.standing is Fitness.FIT and now >= self._rejoined_at + _FORGIVEN
        self.ejections = 1 if forgiven else self.ejections + 1
        self.standing = Fitness.EJECTED
        self.returns_at = now + min(LONGEST_EJECTION, FIRST_EJECTION * 2.0 ** min(self.ejections - 1, 16))
        self.plain_from = math.inf
        self._take_back()
        self._forget()

    def put_on_probation(self) -> None:
        self.standing = Fitness.PROBATION
        self._forget()

    def readmit(self, now: float) -> None:
        """Fit again, and slowly: what made it unfit may have been its load."""
        self.standing = Fitness.FIT
        self.born = self._rejoined_at = now
        self.plain_from = now + RAMP
        self._forget()

    def validate(self) -> None:
        assert self.outstanding >= 0, f"{self.outstanding} outstanding"
        assert self.failures > 0 or self.rests_until == 0.0, "rests without a failure"
        assert self._pace > 0.0
        assert self._waiting_since is None or self.outstanding, "waits for nothing"
        assert self.standing is Fitness.FIT or self.plain_from == math.inf, "unfit, and picked as if it were not"

    def _forget(self) -> None:
        self.trials = self.misses = self.paces = 0
        self.level = self._pace = 1.0
        self.slow = False

    def _take_back(self) -> None:
        for line, observation in self.taught:
            line.take_back(observation)
        self.taught.clear()

    def _weigh(self, now: float, pace: float) -> None:
        kept = math.exp((self._paced_at - now) / _DECAY)
        known = 1.0 + (self._pace - 1.0) * kept
        if pace > known:
            self._pace = min(pace, max(known, 1.0) * _LARGEST_JUMP)
        else:
            self._pace = self._pace * kept + pace * (1.0 - kept)
        self._paced_at = now


def _pace(seconds: float, typical: float) -> float:
    return (max(FLOOR, seconds)) / (max(FLOOR, typical))
