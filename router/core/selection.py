"""Chooses the replica for a request: the less loaded of two random fit ones.

Two choices instead of the least loaded of all: several routers each know only their own requests, and if each picked
the minimum, all would rush to the same replica (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
1996). Load is pace times requests under way, one more included (`health`). As in grpc-go's balancers, a pick never
waits and its outcome is reported by a callable.

Outliers are judged against their peers, the replicas of the same job, which hold the same versions and get one mix:

* *slow*: twice the median pace of its peers; its latencies stop counting as normal. Thrice: ejected.
* *failing*: several requests in a row failed or had to be withdrawn, while its peers do clearly better. A tenant's
  broken model fails on all replicas alike and ejects none.

At most half of a job's replicas are ejected; the others carry the load, and if they are as bad, the judgement was
wrong. An ejection ends in a probation of one request at a time, longer each time it fails, and then in a slow start.
A replica that cannot be reached is not judged but rests briefly; any number of replicas may rest.

In one zone or another: a replica of the router's own zone is preferred until it has twice the load of one elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol

from berth.model import ReplicaAddress
from router.core.health import FIRST_REST, LONGEST_REST, SLOW, TRIALS, Cause, Fitness, Health
from router.core.latency import LatencyLine

__all__ = [
    "FIRST_REST",
    "LONGEST_REST",
    "Cause",
    "CopyOutcome",
    "Dice",
    "Done",
    "ReplicaPlace",
    "ReplicaState",
    "Selection",
]

TOO_SLOW: Final = 3.0
_MISSES: Final = 5
_FEW: Final = 3
_SPILL: Final = 2.0
_REVIEW: Final = 0.5


class Dice(Protocol):
    def random(self) -> float:
        """Uniform in [0, 1)."""


class ReplicaPlace(NamedTuple):
    """A replica's process: a restarted replica is another place, with no history."""

    replica: str
    incarnation: str

    @classmethod
    def of(cls, address: ReplicaAddress) -> ReplicaPlace:
        return cls(address.replica, address.incarnation)


class CopyOutcome(Enum):
    ANSWERED = "answered"
    FAULTY = "faulty"
    """It answered, and another replica might have done better."""
    LOST = "lost"
    """Withdrawn because it took too long: its twin answered, or the deadline passed."""
    UNREACHABLE = "unreachable"
    """The connection could not be made, or was lost."""
    OTHER = "other"
    """Cancelled by the client or refused: says nothing of the replica's health."""


class ReplicaState(NamedTuple):
    """A replica for the operator's eyes. Times are seconds from now; `load` is in typical latencies."""

    replica: str
    incarnation: str
    standing: str
    outstanding: int
    usual: float
    load: float
    pace: float
    level: float
    slow: bool
    share: float
    ejections: int
    returns_in: float
    rests_for: float
    pushed_back_for: float


class _Job:
    """The replicas of one job, peers of each other."""

    __slots__ = ("places", "review_at")

    def __init__(self) -> None:
        self.places: set[tuple[str, str]] = set()
        self.review_at = 0.0


Done = Callable[[CopyOutcome, float], None]
"""Called once with the outcome and the time."""


class _Flight:
    """A copy under way. A class and not a closure: one is made per copy, and it is seen in a debugger."""

    __slots__ = ("_address", "_began", "_line", "_record", "_selection", "_tail", "_typical")

    def __init__(
        self,
        selection: Selection,
        address: ReplicaAddress,
        record: Health,
        *,
        line: LatencyLine | None,
        began: float,
        typical: float | None,
        tail: float | None,
    ) -> None:
        self._selection = selection
        self._address = address
        self._record = record
        self._line = line
        self._began = began
        self._typical = typical
        self._tail = tail

    def __repr__(self) -> str:
        return f"<copy at {self._address.replica} since {self._began:.3f}>"

    def __call__(self, outcome: CopyOutcome, now: float) -> None:
        record, seconds = self._record, now - self._began
        record.ended()
        if outcome is CopyOutcome.ANSWERED:
            if self._line is not None:
                record.teach(self._line, now, seconds)
            record.answered(now, seconds, self._typical)
        elif outcome is CopyOutcome.LOST:
            # Censored: a copy withdrawn before the tail tells nothing; one withdrawn later was in the tail.
            if self._line is not None and self._tail is not None and seconds >= self._tail:
                record.teach(self._line, now, seconds)
            record.kept_waiting(now, seconds, self._typical)
        elif outcome is CopyOutcome.FAULTY:
            record.faulted()
        elif outcome is CopyOutcome.UNREACHABLE:
            record.unreachable(now)
        if record.standing is Fitness.PROBATION or record.misses >= _MISSES:
            self._selection.judge(self._address, record, outcome, now)


class Selection:
    """What this router knows of replicas; its memory alone, lost with it by design."""

    def __init__(self, zone: str = "") -> None:
        self._zone = zone
        # Keys are plain tuples equal to a `ReplicaPlace`, which are quicker to make.
        self._records: dict[tuple[str, str], Health] = {}
        self._jobs: dict[str, _Job] = {}
        self._ejections: Counter[Cause] = Counter()

    def __repr__(self) -> str:
        unfit = sum(record.standing is not Fitness.FIT for record in self._records.values())
        return f"<Selection places={len(self._records)} unfit={unfit}>"

    @property
    def ejections(self) -> Mapping[Cause, int]:
        """How many there were since the start, by cause."""
        return self._ejections

    def pick(self, candidates: Sequence[ReplicaAddress], now: float, dice: Dice) -> ReplicaAddress:
        """One of `candidates` (at least one). When none of them is fit, that does not count: someone has to answer."""
        if len(candidates) == 1:
            return candidates[0]
        first, second = self._two_of(candidates, dice)
        one = self._records.get((first.replica, first.incarnation))
        two = self._records.get((second.replica, second.incarnation))
        if one is None or two is None or now < one.plain_from or now < two.plain_from:
            one, two = self._record(first, now), self._record(second, now)
            if not (_takes_part(one, two, now, dice) and _takes_part(two, one, now, dice)):
                fit = self._fit(candidates, now)
                if len(fit) == 1:
                    return fit[0]
                first, second = self._two_of(fit, dice)
                one, two = self._record(first, now), self._record(second, now)
        handicap = _SPILL if self._zone and first.zone == self._zone != second.zone else 1.0
        return second if two.load_at(now) * handicap < one.load_at(now) else first

    def first_fit(self, candidates: Sequence[ReplicaAddress], now: float) -> ReplicaAddress:
        """The first of `candidates` (at least one, in order of preference) that is not resting; if all rest, the
        first."""
        for address in candidates:
            record = self._records.get((address.replica, address.incarnation))
            if record is None or record.is_open(now):
                return address
        return candidates[0]

    def pick_twin(
        self, candidates: Sequence[ReplicaAddress], first: ReplicaAddress, now: float, dice: Dice
    ) -> ReplicaAddress:
        """One of `candidates` (at least one, of `fit_for_extra`) for a second copy beside the one at `first`. It is in
        another zone if possible: a slow replica often means a slow zone."""
        elsewhere = [address for address in candidates if _zone_of(address) != _zone_of(first)]
        return self.pick(elsewhere or candidates, now, dice)

    def fit_for_extra(
        self, candidates: Sequence[ReplicaAddress], first: ReplicaAddress, now: float
    ) -> tuple[ReplicaAddress, ...]:
        """Those of `candidates` that may get a second copy beside the one at `first`: fit, not resting, not pushing
        back. Slow ones only if there is no other: for a stuck first copy even a slow replica is a help."""
        fit = tuple(
            address
            for address in candidates
            if address != first
            and (record := self._record(address, now)).standing is Fitness.FIT
            and record.rests_until <= now
            and record.pushed_back_until <= now
        )
        return tuple(address for address in fit if not self._record(address, now).slow) or fit

    def accepting_retries(self, candidates: Sequence[ReplicaAddress], now: float) -> tuple[ReplicaAddress, ...]:
        """Those of `candidates` that have not asked to be spared repeats."""
        return tuple(address for address in candidates if self._record(address, now).pushed_back_until <= now)

    def overloaded(self, candidates: Sequence[ReplicaAddress], now: float) -> bool:
        """Whether more than half of `candidates` have clearly more to do than usual: then another copy helps nobody."""
        strained = sum(self._record(address, now).is_strained(now) for address in candidates)
        return 2 * strained > len(candidates)

    def outstanding(self, address: ReplicaAddress) -> int:
        record = self._records.get((address.replica, address.incarnation))
        return 0 if record is None else record.outstanding

    def begin(
        self, address: ReplicaAddress, now: float, line: LatencyLine | None = None, *, twin: bool = False
    ) -> Done:
        """Count a copy to `address` as under way until the returned callable is called.

        `line` has the latencies of its version and size; what they learn of this copy is decided here, by the rules
        of `router.core.latency`. `twin`: the copy is a hedge.
        """
        record = self._record(address, now)
        typical = None if line is None else line.typical
        # Where the tail began when this copy was sent: if it is withdrawn, that counts only beyond this.
        tail = None if line is None else line.tail
        record.began(now, typical)
        if record.standing is Fitness.EJECTED and now >= record.returns_at:
            record.put_on_probation()
        job = self._jobs.get(address.job)
        if job is not None and now >= job.review_at:
            self._review(job, now)

        return _Flight(self, address, record, line=None if twin else line, began=now, typical=typical, tail=tail)

    def push_back(self, address: ReplicaAddress, until: float) -> None:
        """The replica asks to be spared second copies until then."""
        record = self._records.get((address.replica, address.incarnation))
        if record is not None:
            record.pushed_back_until = max(record.pushed_back_until, until)

    def retain(self, places: Collection[tuple[str, str]]) -> None:
        """Forget replicas that are in no table any more; requests still under way there end on their own record."""
        self._records = {place: record for place, record in self._records.items() if place in places}
        for name, job in list(self._jobs.items()):
            job.places &= self._records.keys()
            job.review_at = 0.0
            if not job.places:
                del self._jobs[name]

    def states(self, now: float) -> list[ReplicaState]:
        """What is known of each replica at `now`."""
        return [
            ReplicaState(
                replica,
                incarnation,
                record.standing.value,
                record.outstanding,
                record.usual,
                record.load_at(now),
                record.pace_at(now),
                record.level,
                record.slow,
                record.share_at(now),
                record.ejections,
                max(0.0, record.returns_at - now) if record.standing is Fitness.EJECTED else 0.0,
                max(0.0, record.rests_until - now),
                max(0.0, record.pushed_back_until - now),
            )
            for (replica, incarnation), record in sorted(self._records.items())
        ]

    def validate(self) -> None:
        for place, record in self._records.items():
            try:
                record.validate()
            except AssertionError as error:
                raise AssertionError(f"{place}: {error}") from None
        for name, job in self._jobs.items():
            # After a table took replicas away the next review sees to it.
            assert job.review_at == 0.0 or 2 * self._unfit(job) <= len(job.places), f"more than half of {name} is out"

    def _record(self, address: ReplicaAddress, now: float) -> Health:
        place = (address.replica, address.incarnation)
        record = self._records.get(place)
        if record is None:
            record = self._records[place] = Health(now)
            self._jobs.setdefault(address.job, _Job()).places.add(place)
        return record

    def _fit(self, candidates: Sequence[ReplicaAddress], now: float) -> Sequence[ReplicaAddress]:
        """Those of `candidates` that get their full share; if none, those that get a part of it; if none, all."""
        open_ones = [address for address in candidates if self._record(address, now).is_open(now)]
        old = [address for address in open_ones if self._record(address, now).share_at(now) >= 1.0]
        return old or open_ones or candidates

    def _two_of(self, candidates: Sequence[ReplicaAddress], dice: Dice) -> tuple[ReplicaAddress, ReplicaAddress]:
        """Two different ones of at least two; the first of the own zone if any is."""
        count = len(candidates)
        first = int(dice.random() * count)
        if self._zone and candidates[first].zone != self._zone:
            near = [index for index, address in enumerate(candidates) if address.zone == self._zone]
            if near:
                first = near[int(dice.random() * len(near))]
        # One of the others, each as likely: step 1 to count-1 places on.
        second = (first + 1 + int(dice.random() * (count - 1))) % count
        return candidates[first], candidates[second]

    # Judgements

    def _review(self, job: _Job, now: float) -> None:
        """Compare the replicas of a job with each other, twice a second at most; whichever request comes first does."""
        job.review_at = now + _REVIEW
        unfit = [record for place in job.places if (record := self._records[place]).standing is not Fitness.FIT]
        unfit.sort(key=lambda record: record.returns_at)
        while 2 * len(unfit) > len(job.places):
            unfit.pop(0).readmit(now)
        for place in job.places:
            record = self._records[place]
            if record.standing is not Fitness.FIT or record.paces < _FEW:
                continue
            usual = self._usual_level(job, place)
            if usual is not None and record.compare(usual) >= TOO_SLOW:
                self._eject(job, record, Cause.SLOW, now)

    def judge(self, address: ReplicaAddress, record: Health, outcome: CopyOutcome, now: float) -> None:
        """After something that happened to `record`: is it still fit, or fit again?"""
        job = self._jobs.get(address.job)
        place = (address.replica, address.incarnation)
        if job is None or self._records.get(place) is not record or outcome is CopyOutcome.OTHER:
            # No table has it any more, or it says nothing.
            return
        if record.standing is Fitness.PROBATION:
            usual = self._usual_pace(job, place, now)
            if outcome is not CopyOutcome.ANSWERED or record.pace_at(now) >= TOO_SLOW * usual:
                self._eject(job, record, Cause.TRIAL, now)
                return
            record.trials += 1
            if record.trials >= TRIALS:
                record.readmit(now)
        elif record.standing is Fitness.FIT and record.misses >= _MISSES:
            others = sorted(self._records[peer].misses for peer in job.places if peer != place)
            # If peers fail as often in a row, the fault is not this replica's.
            if others and 2 * others[len(others) // 2] < record.misses:
                self._eject(job, record, Cause.FAILURES, now)

    def _usual_level(self, job: _Job, place: tuple[str, str]) -> float | None:
        """The median level of the other replicas of the job that have one."""
        peers = (self._records[peer] for peer in job.places if peer != place)
        levels = sorted(peer.level for peer in peers if peer.paces >= _FEW and peer.standing is Fitness.FIT)
        return levels[len(levels) // 2] if levels else None

    def _usual_pace(self, job: _Job, place: tuple[str, str], now: float) -> float:
        """What a trial is compared with. A level is clipped: when all peers are slower than its limit, their paces say
        more."""
        level = self._usual_level(job, place) or 1.0
        if level < SLOW:
            return level
        peers = (self._records[peer] for peer in job.places if peer != place)
        paces = sorted(peer.pace_at(now) for peer in peers if peer.standing is Fitness.FIT)
        return max(level, paces[len(paces) // 2]) if paces else level

    def _eject(self, job: _Job, record: Health, cause: Cause, now: float) -> None:
        if record.standing is Fitness.FIT and 2 * (self._unfit(job) + 1) > len(job.places):
            return
        record.eject(now)
        self._ejections[cause] += 1

    def _unfit(self, job: _Job) -> int:
        return sum(self._records[place].standing is not Fitness.FIT for place in job.places)


def _takes_part(record: Health, other: Health, now: float, dice: Dice) -> bool:
    """Whether a replica drawn with `other` stays. A newcomer stays with probability equal to its share, and always if
    it has less load than its share of `other`'s."""
    if not record.is_open(now):
        return False
    share = record.share_at(now)
    return share >= 1.0 or dice.random() < share or record.load_at(now) < share * other.load_at(now)


def _zone_of(address: ReplicaAddress) -> str:
    return address.zone or address.cell
