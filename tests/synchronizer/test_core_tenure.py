"""Candidates for one Lease, with clocks of their own and writes that may be lost on the way back.

After every step: nobody holds an epoch that another one has held, and epochs of new holders only grow; also when the
Lease is deleted, or replaced by an old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from synchronizer.core.tenure import CreateRecord, HoldRecord, Record, Tenure, TenureStep, WaitForHolder

TTL = 3.0


def record(holder: str = "a", epoch: int = 4, renewed: str = "1", version: str = "1") -> Record:
    return Record(holder, epoch, TTL, renewed, version)


@pytest.mark.parametrize(
    ("seen", "me", "floor", "expected"),
    [
        ([(None, 0.0)], "b", 0, CreateRecord(1)),
        ([(None, 0.0)], "b", 7, CreateRecord(1007)),
        ([(record(), 0.0), (None, 1.0)], "b", 0, CreateRecord(1004)),
        ([(record(), 0.0)], "a", 0, HoldRecord(4, "1")),
        ([(record(), 0.0)], "b", 0, WaitForHolder(4, 2.0)),
        ([(record(), -2.0)], "b", 0, HoldRecord(5, "1")),
        ([(record(), -2.0)], "b", 9, HoldRecord(10, "1")),
        ([(record(), -2.0), (record(renewed="2", version="2"), 0.5)], "b", 0, WaitForHolder(4, 2.5)),
        # A label put on it by somebody is no sign of life, but the next write is based on it.
        ([(record(), -2.0), (record(version="2"), 0.5)], "b", 0, HoldRecord(5, "2")),
        ([(record(holder=""), 1.0)], "b", 0, HoldRecord(5, "1")),
        # Renewing does not make a new epoch, whatever is known elsewhere: that is for who is asked to lead.
        ([(record(), 0.0)], "a", 9, HoldRecord(4, "1")),
        # The Lease is an old one, from a backup.
        ([(record(epoch=8), 0.0), (record(holder="", epoch=2), 0.5)], "b", 0, HoldRecord(9, "1")),
    ],
)
def test_what_a_candidate_may_do(
    seen: list[tuple[Record | None, float]], me: str, floor: int, expected: TenureStep
) -> None:
    tenure = Tenure()
    for sight, now in seen:
        tenure.see(sight, now)
    assert tenure.next_step(me, floor, 1.0) == expected


def test_what_the_disk_knows_counts() -> None:
    assert Tenure(12).next_step("a", 0, 0.0) == CreateRecord(1012)


@dataclass
class Candidate:
    name: str
    offset: float
    rate: float
    tenure: Tenure = field(default_factory=Tenure)
    epoch: int = 0
    until: float = 0.0
    asked: float = 0.0
    step: TenureStep | None = None

    def clock(self, now: float) -> float:
        return self.offset + self.rate * now


class Stage(RuleBasedStateMachine):
    """Clocks differ by any offset, and by a twentieth in rate; a holder counts on less than its record says.

    `elsewhere` is what candidates learn outside the Lease: from disks, controllers, and those who refused them.
    """

    @initialize(
        offsets=st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
        rates=st.lists(st.floats(0.95, 1.05), min_size=3, max_size=3),
    )
    def begin(self, offsets: list[float], rates: list[float]) -> None:
        self.now = 0.0
        self.stored: Record | None = None
        self.version = 0
        self.reigns: dict[int, str] = {}
        self.elsewhere = 0
        self.candidates = [Candidate(name, offsets[at], rates[at]) for at, name in enumerate("abc")]

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 3.5]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    def decide(self, who: int) -> None:
        one = self.candidates[who]
        one.tenure.see(self.stored, one.clock(self.now))
        one.asked, one.step = self.now, one.tenure.next_step(one.name, self.elsewhere, one.clock(self.now))
        if isinstance(one.step, WaitForHolder):
            one.epoch = 0

    def write(self, who: int, answered: bool) -> None:
        one = self.candidates[who]
        step, one.step = one.step, None
        seen = step.version if isinstance(step, HoldRecord) else None
        there = self.stored.version if self.stored is not None else None
        if isinstance(step, CreateRecord | HoldRecord) and seen == there:
            self.put(one, step.epoch, answered)

    def put(self, one: Candidate, epoch: int, answered: bool) -> None:
        self.version += 1
        self.stored = Record(one.name, epoch, TTL, str(self.now), str(self.version))
        if self.reigns.get(epoch) != one.name:
            assert epoch > max(self.reigns, default=0), "a new holder's epoch is past all others"
        self.reigns[epoch] = one.name
        self.elsewhere = max(self.elsewhere, epoch)
        if answered:
            one.tenure.see(self.stored, one.clock(self.now))
            one.epoch, one.until = epoch, one.asked + TTL * 0.9

    @rule(who=st.integers(0, 2), answered=st.booleans())
    def ask(self, who: int, answered: bool) -> None:
        """Read, decide and write in one go. The answer to the write may be lost."""
        self.decide(who)
        self.write(who, answered)

    @rule(who=st.integers(0, 2))
    def restart(self, who: int) -> None:
        one = self.candidates[who]
        one.tenure, one.epoch, one.step, one.name = Tenure(), 0, None, one.name + "'"

    @rule(who=st.integers(0, 2))
    def release(self, who: int) -> None:
        one = self.candidates[who]
        if self.stored is not None and self.stored.holder == one.name:
            self.version += 1
            self.stored = self.stored._replace(holder="", version=str(self.version))
            one.epoch = 0


class Candidates(Stage):
    """Others write between what one reads and what it writes: the version is then another, and nothing happens."""

    @rule(who=st.integers(0, 2))
    def read(self, who: int) -> None:
        self.decide(who)

    @rule(who=st.integers(0, 2), answered=st.booleans())
    def write_late(self, who: int, answered: bool) -> None:
        self.write(who, answered)

    @invariant()
    def one_at_most_is_sure(self) -> None:
        sure = [one for one in self.candidates if one.epoch and one.until > self.now]
        assert len(sure) <= 1
        assert all(self.reigns[one.epoch] == one.name for one in sure)


class Disasters(Stage):
    """The Lease is deleted or restored: two may lead for a while, but never in the same epoch.

    Not promised is what a deletion between the read and the write of another candidate does, a few milliseconds: the
    first of the two to renew finds out.
    """

    @rule()
    def delete(self) -> None:
        self.stored = None

    @rule(back=st.integers(1, 5))
    def restore(self, back: int) -> None:
        if self.stored is not None:
            self.version += 1
            self.stored = self.stored._replace(
                holder="", epoch=max(1, self.stored.epoch - back), version=str(self.version)
            )

    @invariant()
    def no_two_are_sure_of_one_epoch(self) -> None:
        sure = [one for one in self.candidates if one.epoch and one.until > self.now]
        assert len({one.epoch for one in sure}) == len(sure)


TestCandidates = Candidates.TestCase
TestDisasters = Disasters.TestCase
TestCandidates.settings = TestDisasters.settings = settings(max_examples=100, stateful_step_count=40)
