"""Which replica gets a request: the less loaded of two random ones, away from those that just failed.

Two choices instead of the least loaded of all: with several routers, each knowing only its own requests, picking the
minimum makes them all rush to the same replica (Mitzenmacher, "The Power of Two Choices in Randomized Load
Balancing", 1996). As in grpc-go's balancers, a pick never waits and its outcome is reported by a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from berth.model import ReplicaAddress

# A replica that refused a connection is left alone this long, doubling with each failure in a row.
FIRST_REST = 0.25
LONGEST_REST = 5.0


class Dice(Protocol):
    def random(self) -> float:
        """Uniform in [0, 1)."""


class Place(NamedTuple):
    """A replica's process: a restarted replica is another place, with no history."""

    replica: str
    incarnation: str

    @classmethod
    def of(cls, address: ReplicaAddress) -> Place:
        return cls(address.replica, address.incarnation)


class Outcome(Enum):
    ANSWERED = "answered"
    UNREACHABLE = "unreachable"
    """The connection could not be made, or was lost."""
    OTHER = "other"
    """Cancelled or refused: says nothing of the replica's health."""


@dataclass(slots=True)
class _Record:
    outstanding: int = 0
    failures: int = 0
    rests_until: float = 0.0


Done = Callable[[Outcome, float], None]
"""Called once with the outcome and the time."""


class Selection:
    """Requests under way and recent failures per replica; memory of this router alone, lost with it by design."""

    def __init__(self) -> None:
        self._records: dict[Place, _Record] = {}

    def __repr__(self) -> str:
        resting = sum(1 for record in self._records.values() if record.failures)
        return f"<Selection places={len(self._records)} failing={resting}>"

    def pick(self, candidates: Sequence[ReplicaAddress], now: float, dice: Dice) -> ReplicaAddress:
        """One of `candidates` (at least one). When all of them rest, resting does not count: someone has to answer."""
        if len(candidates) == 1:
            return candidates[0]
        awake = candidates
        if any(record.failures for record in map(self._record, candidates)):
            awake = [address for address in candidates if self._record(address).rests_until <= now] or candidates
        first, second = _two_of(awake, dice)
        return second if self.outstanding(second) < self.outstanding(first) else first

    def outstanding(self, address: ReplicaAddress) -> int:
        return self._record(address).outstanding

    def begin(self, address: ReplicaAddress) -> Done:
        """Count a request to `address` as under way until the returned callable is called."""
        place = Place.of(address)
        record = self._records.setdefault(place, _Record())
        record.outstanding += 1

        def done(outcome: Outcome, now: float) -> None:
            record.outstanding -= 1
            if outcome is Outcome.ANSWERED:
                record.failures = 0
                record.rests_until = 0.0
            elif outcome is Outcome.UNREACHABLE and record.rests_until <= now:
                # One burst of failures counts once: they have one cause.
                record.failures += 1
                record.rests_until = now + min(LONGEST_REST, FIRST_REST * 2.0 ** min(record.failures - 1, 16))

        return done

    def retain(self, places: Collection[Place]) -> None:
        """Forget replicas that are in no table any more; requests still under way there end on their own record."""
        self._records = {place: record for place, record in self._records.items() if place in places}

    def validate(self) -> None:
        for place, record in self._records.items():
            assert record.outstanding >= 0, f"{place} has {record.outstanding} outstanding"
            assert record.failures > 0 or record.rests_until == 0.0, f"{place} rests without a failure"

    def _record(self, address: ReplicaAddress) -> _Record:
        return self._records.get(Place.of(address), _IDLE)


_IDLE = _Record()


def _two_of(candidates: Sequence[ReplicaAddress], dice: Dice) -> tuple[ReplicaAddress, ReplicaAddress]:
    count = len(candidates)
    first = int(dice.random() * count)
    if count == 1:
        return candidates[0], candidates[0]
    # One of the others, each as likely: step 1 to count-1 places on.
    second = (first + 1 + int(dice.random() * (count - 1))) % count
    return candidates[first], candidates[second]
