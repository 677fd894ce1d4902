"""Who is let in, who waits and for how long, and who is next."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from berth.errors import DeadlineExceeded, RateLimited, Unavailable
from berth.model import TenantLimits
from router.core.accounts import Admitted, Bounds, NotAdmitted, Queued, Settled, Ticket, Why
from router.core.admission import Admission

ROOM = Bounds(requests=64, size=1000, seconds=5.0)
SHORT = Bounds(requests=8, size=100, seconds=2.0)


def admitted(admission: Admission, limits: TenantLimits | None, now: float, *, stay: bool = False) -> bool:
    answer = admission.enter(limits.tenant if limits is not None else "free", limits, now)
    if isinstance(answer, Admitted) and not stay:
        admission.leave(answer, now)
    return isinstance(answer, Admitted)


def slot(answer: Admitted | Queued | NotAdmitted) -> Admitted:
    assert isinstance(answer, Admitted), answer
    return answer


def ticket(answer: Admitted | Queued | NotAdmitted) -> Ticket:
    assert isinstance(answer, Queued), answer
    return answer.ticket


def refused(answer: Admitted | Queued | NotAdmitted) -> NotAdmitted:
    assert isinstance(answer, NotAdmitted), answer
    return answer


def now_admitted(settled: Sequence[Settled]) -> list[Ticket]:
    return [entry.ticket for entry in settled if isinstance(entry.answer, Admitted)]


# --- a tenant's own limits --------------------------------------------------------------------------------------------


def test_concurrency() -> None:
    admission, limits = Admission(100), TenantLimits("t", max_concurrent=2)
    first = slot(admission.enter("t", limits, 0.0))
    slot(admission.enter("t", limits, 0.0))
    answer = refused(admission.enter("t", limits, 0.0))
    assert (type(answer.error), answer.why) == (RateLimited, Why.CONCURRENCY)
    assert admitted(admission, TenantLimits("other", max_concurrent=2), 0.0)
    admission.leave(first, 0.0)
    assert admitted(admission, limits, 0.0)
    admission.validate()


def test_concurrency_counts_those_that_wait() -> None:
    admission, limits = Admission(1, queue=ROOM, hold=ROOM), TenantLimits("t", max_concurrent=3)
    first = slot(admission.enter("t", limits, 0.0))
    queued = ticket(admission.enter("t", limits, 0.0))
    held = ticket(admission.enter("t", limits, 0.0, cold=True))
    assert refused(admission.enter("t", limits, 0.0)).why is Why.CONCURRENCY
    admission.abandon(held)
    assert now_admitted(admission.leave(first, 0.1)) == [queued]
    ticket(admission.enter("t", limits, 0.1))
    admission.validate()


def test_rate_with_a_burst_of_one_second() -> None:
    admission, limits = Admission(100), TenantLimits("t", requests_per_second=10.0)
    assert [admitted(admission, limits, 0.0) for _ in range(12)].count(True) == 10
    assert [admitted(admission, limits, 0.25) for _ in range(12)].count(True) == 2
    assert [admitted(admission, limits, 60.0) for _ in range(12)].count(True) == 10


def test_slow_rates_say_when_to_come_back() -> None:
    admission, limits = Admission(100), TenantLimits("t", requests_per_second=0.1)
    assert admitted(admission, limits, 0.0)
    error = refused(admission.enter("t", limits, 4.0)).error
    assert isinstance(error, RateLimited)
    assert error.retry_after == pytest.approx(6.0)
    assert admitted(admission, limits, 10.0)


def test_bytes_are_paid_for_and_a_large_body_leaves_a_debt() -> None:
    admission, limits = Admission(100), TenantLimits("t", bytes_per_second=1000.0)
    slot(admission.enter("t", limits, 0.0, size=400))
    slot(admission.enter("t", limits, 0.0, size=600))
    answer = refused(admission.enter("t", limits, 0.0, size=100))
    assert answer.why is Why.BYTES
    assert isinstance(answer.error, RateLimited)
    assert answer.error.retry_after == pytest.approx(0.1)
    slot(admission.enter("t", limits, 0.0, size=0))
    # Larger than any burst: it passes when the bucket is full, and its debt is paid off first.
    slot(admission.enter("t", limits, 1.0, size=5000))
    answer = refused(admission.enter("t", limits, 2.0, size=1))
    assert isinstance(answer.error, RateLimited)
    assert answer.error.retry_after == pytest.approx(3.001)
    slot(admission.enter("t", limits, 5.1, size=100))


def test_what_is_refused_is_not_charged() -> None:
    admission, limits = Admission(1), TenantLimits("t", requests_per_second=2.0, bytes_per_second=100.0)
    stranger = slot(admission.enter("other", None, 0.0))
    assert [refused(admission.enter("t", limits, 0.0, size=90)).why for _ in range(5)] == [Why.FULL] * 5
    admission.leave(stranger, 0.0)
    admission.leave(slot(admission.enter("t", limits, 0.0, size=90)), 0.0)
    assert refused(admission.enter("t", limits, 0.0, size=90)).why is Why.BYTES
    assert admission.check("t", limits, 0.0) is None
    admission.leave(slot(admission.enter("t", limits, 0.0)), 0.0)
    check = admission.check("t", limits, 0.0)
    assert check is not None
    assert check.why is Why.RATE


def test_limits_may_come_and_go() -> None:
    admission = Admission(100)
    assert all(admitted(admission, TenantLimits("t"), 0.0, stay=True) for _ in range(50))
    limited = TenantLimits("t", requests_per_second=3.0)
    assert [admitted(admission, limited, 0.0) for _ in range(5)] == [True, True, True, False, False]
    # Halved while it is empty: it does not get a new burst.
    assert not admitted(admission, TenantLimits("t", requests_per_second=1.5), 0.1)
    assert all(admitted(admission, TenantLimits("t"), 0.0) for _ in range(50))
    admission.validate()


def test_memory_is_only_kept_for_tenants_that_are_active() -> None:
    admission = Admission(10)
    for number in range(5000):
        assert admitted(admission, TenantLimits(f"t{number}", requests_per_second=5.0), number * 1.0)
        assert admitted(admission, None, number * 1.0)
    assert int(repr(admission).rpartition("=")[2][:-1]) < 2100


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "leave"]), st.floats(0.0, 1.0), st.integers(0, 300)), max_size=200),
    st.floats(0.1, 20.0),
    st.integers(0, 5),
    st.floats(1.0, 200.0),
)
def test_never_more_than_the_limits(
    steps: list[tuple[str, float, int]], rate: float, most: int, per_second: float
) -> None:
    admission, limits = Admission(50), TenantLimits("t", rate, most, per_second)
    now, entered, size = 0.0, 0, 0
    inside: list[Admitted] = []
    for what, passed, weight in steps:
        now += passed
        if what == "leave":
            if inside:
                admission.leave(inside.pop(), now)
        elif isinstance(answer := admission.enter("t", limits, now, size=weight), Admitted):
            # All before the last one fits in; the last one may be larger than the bucket.
            assert not weight or size <= per_second + per_second * now + 1e-3
            entered += 1
            size += weight
            inside.append(answer)
        admission.validate()
        assert admission.under_way == len(inside)
        assert not most or len(inside) <= most
        assert entered <= max(1.0, rate) + rate * now + 1e-6


# --- the router's slots -----------------------------------------------------------------------------------------------


def test_without_a_queue_the_router_has_a_hard_ceiling() -> None:
    admission = Admission(2)
    first = slot(admission.enter("a", None, 0.0))
    slot(admission.enter("b", None, 0.0))
    answer = refused(admission.enter("c", None, 0.0))
    assert (type(answer.error), answer.why) == (Unavailable, Why.FULL)
    admission.leave(first, 0.0)
    slot(admission.enter("c", None, 0.0))
    admission.validate()


def test_first_in_first_out() -> None:
    admission = Admission(1, queue=ROOM)
    holder = slot(admission.enter("a", None, 0.0))
    tickets = [ticket(admission.enter("a", None, 0.0)) for _ in range(4)]
    seen = []
    for step in range(4):
        (settled,) = admission.leave(holder, 0.1 * step)
        holder = slot(settled.answer)
        seen.append(settled.ticket)
    assert seen == tickets
    assert admission.leave(holder, 1.0) == []


@pytest.mark.parametrize(
    ("bounds", "sizes", "expected"),
    [
        # One tenant alone may have half of the room, in requests and in bytes.
        (Bounds(8, 1000, 5.0), [0] * 6, 4),
        (Bounds(64, 100, 5.0), [10] * 8, 5),
        (Bounds(64, 100, 5.0), [51], 1),
        (Bounds(64, 100, 5.0), [101], 0),
        (Bounds(1, 100, 5.0), [1, 1], 1),
        (Bounds(0, 100, 5.0), [1], 0),
        (Bounds(64, 100, 0.0), [1], 0),
    ],
)
def test_the_room_for_one_tenant(bounds: Bounds, sizes: list[int], expected: int) -> None:
    admission = Admission(1, queue=bounds)
    slot(admission.enter("other", None, 0.0))
    answers = [admission.enter("a", None, 0.0, size=size) for size in sizes]
    assert [isinstance(answer, Queued) for answer in answers] == [n < expected for n in range(len(sizes))]
    admission.validate()


def test_there_is_room_for_who_waits_for_nothing_yet() -> None:
    admission = Admission(1, queue=Bounds(16, 1600, 5.0))
    slot(admission.enter("other", None, 0.0))
    counts = []
    for tenant in "abcd":
        answers = [admission.enter(tenant, None, 0.0, size=10) for _ in range(20)]
        counts.append(sum(isinstance(answer, Queued) for answer in answers))
    assert counts == [8, 4, 2, 1]


def test_who_cannot_make_it_is_refused_at_once() -> None:
    admission = Admission(2, queue=ROOM)
    for _ in range(40):
        admission.leave(slot(admission.enter("a", None, 0.0)), 1.0)  # a's requests take a second
    slots = [slot(admission.enter("a", None, 2.0)) for _ in range(2)]
    # Two slots, one second each: each in the queue costs half a second.
    first = ticket(admission.enter("a", None, 2.0, deadline=2.6))
    assert first.until == 2.6
    answer = refused(admission.enter("a", None, 2.0, deadline=2.6))
    assert (type(answer.error), answer.why) == (Unavailable, Why.LATE)
    for _ in range(8):
        ticket(admission.enter("a", None, 2.0))
    late = refused(admission.enter("a", None, 2.0))
    assert late.why is Why.LATE, "the queue's own limit of five seconds"
    assert isinstance(late.error, Unavailable)
    assert late.error.retry_after == pytest.approx(5.0)
    # Another tenant shares the slots with one, not with ten.
    guest = ticket(admission.enter("b", None, 2.0, deadline=3.5))
    # It has had nothing yet, so it is next; the one that it overtakes is told when its time is up.
    assert now_admitted(admission.leave(slots[0], 2.5)) == [guest]
    assert [entry.ticket for entry in admission.expire(2.6)] == [first]


def test_time_outs_are_noticed_in_the_queue() -> None:
    admission = Admission(1, queue=ROOM)
    slot(admission.enter("a", None, 0.0))
    patient = ticket(admission.enter("a", None, 0.0))
    hasty = ticket(admission.enter("b", None, 0.0, deadline=1.0))
    assert admission.next_expiry() == 1.0
    assert admission.expire(0.99) == []
    ((gone, answer),) = admission.expire(1.0)
    assert gone == hasty
    assert isinstance(refused(answer).error, DeadlineExceeded)
    assert admission.next_expiry() == patient.until == 5.0
    ((gone, answer),) = admission.expire(5.0)
    assert (gone, refused(answer).why) == (patient, Why.TIMED_OUT)
    assert isinstance(refused(answer).error, Unavailable)
    assert admission.next_expiry() is None
    admission.validate()


def test_an_expired_request_is_not_let_in_by_a_late_leave() -> None:
    admission = Admission(1, queue=ROOM)
    holder = slot(admission.enter("a", None, 0.0))
    gone = ticket(admission.enter("a", None, 0.0, deadline=1.0))
    there = ticket(admission.enter("a", None, 0.0))
    settled = admission.leave(holder, 1.5)
    assert {entry.ticket: type(entry.answer) for entry in settled} == {gone: NotAdmitted, there: Admitted}


def test_a_held_request_takes_no_slot_and_gets_one_when_its_model_is_there() -> None:
    admission = Admission(1, queue=ROOM, hold=SHORT)
    held = [ticket(admission.enter("a", None, 0.0, cold=True)) for _ in range(3)]
    assert (admission.held, admission.under_way) == (3, 0)
    warm = admission.warm(held, 1.0)
    assert now_admitted(warm) == held[:1]
    assert (admission.held, admission.queued) == (0, 2)
    admission.validate()
    # The time to wait for a slot begins now.
    assert admission.expire(2.5) == []
    holder = slot(warm[0].answer)
    assert [entry.number for entry in now_admitted(admission.leave(holder, 2.6))] == [held[1].number]
    assert [entry.ticket.number for entry in admission.expire(6.0)] == [held[2].number]
    assert admission.warm(held, 6.0) == []
    admission.validate()


def test_held_requests_time_out_and_their_room_is_theirs_alone() -> None:
    admission = Admission(1, hold=SHORT)
    held = [ticket(admission.enter("a", None, 0.0, size=10, cold=True)) for _ in range(4)]
    assert refused(admission.enter("a", None, 0.0, cold=True)).why is Why.COLD
    ticket(admission.enter("b", None, 0.5, deadline=1.0, cold=True))
    (early,) = admission.expire(1.0)
    assert isinstance(refused(early.answer).error, DeadlineExceeded)
    late = admission.expire(2.0)
    assert [entry.ticket for entry in late] == held
    assert {refused(entry.answer).why for entry in late} == {Why.COLD}
    admission.validate()


# --- fairness ---------------------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """Tenants that always want more: each keeps `depth` requests waiting. Runs on its own clock."""

    admission: Admission
    weights: dict[str, float]
    seconds: dict[str, tuple[float, float]]
    depth: int = 4
    now: float = 0.0
    served: dict[str, int] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)

    def run(self, until: float, rng: random.Random) -> None:
        ends: list[tuple[float, int, Admitted]] = []
        waiting = dict.fromkeys(self.weights, 0)
        limits = {name: TenantLimits(name, weight=weight) for name, weight in self.weights.items()}
        numbers = itertools.count()
        steps = 0

        def start(taken: Admitted) -> None:
            seconds = rng.uniform(*self.seconds[taken.tenant])
            ends.append((self.now + seconds, next(numbers), taken))
            self.served[taken.tenant] = self.served.get(taken.tenant, 0) + 1
            self.held[taken.tenant] = self.held.get(taken.tenant, 0.0) + seconds

        while self.now < until:
            for name in self.weights:
                while waiting[name] < self.depth:
                    answer = self.admission.enter(name, limits[name], self.now)
                    if isinstance(answer, Admitted):
                        start(answer)
                    else:
                        ticket(answer)
                        waiting[name] += 1
            steps += 1
            if steps % 97 == 0:
                self.admission.validate()
            ends.sort()
            self.now, _, taken = ends.pop(0)
            for settled in self.admission.leave(taken, self.now):
                assert isinstance(settled.answer, Admitted)
                waiting[settled.ticket.tenant] -= 1
                start(settled.answer)


FOREVER = Bounds(10_000, 10**9, 1e9)


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_slots_go_by_weight(slots: int) -> None:
    crowd = Crowd(Admission(slots, queue=FOREVER), {"a": 1.0, "b": 2.0, "c": 5.0}, dict.fromkeys("abc", (1.0, 1.0)))
    crowd.run(800.0 / slots * 3, random.Random(1))
    shares = {name: crowd.served[name] / weight for name, weight in crowd.weights.items()}
    assert max(shares.values()) - min(shares.values()) <= 2 * slots


def test_slow_requests_get_no_more_of_the_router_than_fast_ones() -> None:
    crowd = Crowd(Admission(10, queue=FOREVER), {"slow": 1.0, "fast": 1.0}, {"slow": (2.0, 4.0), "fast": (0.05, 0.15)})
    crowd.run(300.0, random.Random(2))
    assert crowd.held["slow"] / crowd.held["fast"] == pytest.approx(1.0, abs=0.1)
    assert crowd.served["fast"] > 20 * crowd.served["slow"]


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=5),
    means=st.lists(st.floats(0.4, 2.0), min_size=5, max_size=5),
    slots=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_slot_time_is_shared_by_weight(weights: list[float], means: list[float], slots: int, seed: int) -> None:
    names = [f"t{number}" for number in range(len(weights))]
    crowd = Crowd(
        Admission(slots, queue=FOREVER),
        dict(zip(names, weights, strict=True)),
        {name: (mean * 0.5, mean * 1.5) for name, mean in zip(names, means, strict=False)},
        depth=slots + 1,
    )
    # Long enough for the smallest weight to have had a hundred of the longest requests.
    crowd.run(100 * max(means) * sum(weights) / min(weights) / slots, random.Random(seed))
    normal = [crowd.held.get(name, 0.0) / weight for name, weight in crowd.weights.items()]
    # What is still under way is counted in full, and each slot's charge is corrected only when it ends.
    slack = 2 * (slots + 1) * 1.5 * max(means) / min(weights)
    assert max(normal) - min(normal) <= slack


def test_a_newcomer_is_served_next_and_an_absence_earns_nothing() -> None:
    admission = Admission(1, queue=FOREVER)
    holder = slot(admission.enter("hog", None, 0.0))
    for _ in range(50):
        ticket(admission.enter("hog", None, 0.0))
    order = []
    now = 0.0
    for step in range(20):
        if step == 10:
            for _ in range(6):
                ticket(admission.enter("guest", None, now))
        now += 1.0
        (settled,) = admission.leave(holder, now)
        holder = slot(settled.answer)
        order.append(settled.ticket.tenant)
    assert order[:10] == ["hog"] * 10
    assert "guest" in order[10:12]
    assert 4 <= order[10:20].count("guest") <= 6


# --- everything at once -----------------------------------------------------------------------------------------------

TENANTS = {
    "a": TenantLimits("a"),
    "b": TenantLimits("b", max_concurrent=4, weight=3.0),
    "c": TenantLimits("c", requests_per_second=2.0, bytes_per_second=50.0, weight=0.5),
}


class AdmissionMachine(RuleBasedStateMachine):
    """Requests that come, wait, leave and give up in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.inside: list[Admitted] = []
        self.queued: dict[int, Ticket] = {}
        self.held: dict[int, Ticket] = {}
        self.came: list[int] = []

    @initialize(slots=st.integers(1, 4))
    def begin(self, slots: int) -> None:
        self.slots = slots
        self.admission = Admission(slots, queue=SHORT, hold=SHORT)

    def take(self, settled: list[Settled]) -> None:
        for entry, answer in settled:
            waiting = self.queued if entry.number in self.queued else self.held
            known = waiting.pop(entry.number)
            assert known.tenant == entry.tenant
            if isinstance(answer, Admitted):
                assert known.until > self.now or waiting is self.held, "an expired request was let in"
                assert known.deadline > self.now
                mine = [number for number, other in self.queued.items() if other.tenant == entry.tenant]
                if waiting is self.queued:
                    order = {number: place for place, number in enumerate(self.came)}
                    assert all(order[entry.number] < order[number] for number in mine), "not first in, first out"
                self.inside.append(answer)
            elif waiting is self.queued:
                assert known.until <= self.now

    @rule(
        tenant=st.sampled_from(sorted(TENANTS)),
        size=st.integers(0, 40),
        patience=st.sampled_from([0.0, 0.3, 1.0, 30.0]),
        cold=st.booleans(),
    )
    def enter(self, tenant: str, size: int, patience: float, cold: bool) -> None:
        deadline = self.now + patience
        answer = self.admission.enter(tenant, TENANTS[tenant], self.now, size=size, deadline=deadline, cold=cold)
        if isinstance(answer, Admitted):
            assert not cold
            assert not self.queued, "it overtook those that wait"
            self.inside.append(answer)
        elif isinstance(answer, Queued):
            assert answer.ticket.until > self.now
            (self.held if cold else self.queued)[answer.ticket.number] = answer.ticket
            if not cold:
                self.came.append(answer.ticket.number)

    @precondition(lambda self: self.inside)
    @rule(which=st.integers(0, 100))
    def leave(self, which: int) -> None:
        self.take(self.admission.leave(self.inside.pop(which % len(self.inside)), self.now))

    @rule(seconds=st.floats(0.0, 2.5))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = self.admission.next_expiry()
        assert due is not None or not (self.queued or self.held), "nobody would be told"
        self.take(self.admission.expire(self.now))
        assert all(entry.until > self.now for entry in (*self.queued.values(), *self.held.values()))

    @precondition(lambda self: self.queued or self.held)
    @rule(which=st.integers(0, 100))
    def abandon(self, which: int) -> None:
        everyone = {**self.queued, **self.held}
        number = sorted(everyone)[which % len(everyone)]
        self.admission.abandon(everyone[number])
        self.queued.pop(number, None)
        self.held.pop(number, None)

    @precondition(lambda self: self.held)
    @rule(count=st.integers(1, 4))
    def warm(self, count: int) -> None:
        warmed = [self.held[number] for number in sorted(self.held)[:count]]
        settled = self.admission.warm(warmed, self.now)
        self.take(settled)
        for entry in warmed:
            if self.held.pop(entry.number, None) is not None:
                until = min(entry.deadline, self.now + SHORT.seconds)
                self.queued[entry.number] = entry._replace(until=until)
                self.came.append(entry.number)

    @rule()
    def drain(self) -> None:
        """However it got here, leaving alone lets everyone in who waits for a slot: no wake-up is lost."""
        before = set(self.queued)
        for _ in range(len(before)):
            if not self.queued:
                break
            self.take(self.admission.leave(self.inside.pop(0), self.now))
        assert not self.queued

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "admission"):
            return
        self.admission.validate()
        assert self.admission.under_way == len(self.inside) <= self.slots
        assert (self.admission.queued, self.admission.held) == (len(self.queued), len(self.held))
        for waiting in (self.queued, self.held):
            assert len(waiting) <= SHORT.requests + len(self.came)
            assert sum(entry.size for entry in self.held.values()) <= SHORT.size
        present = [taken.tenant for taken in self.inside]
        present += [entry.tenant for entry in (*self.queued.values(), *self.held.values())]
        assert present.count("b") <= 4


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
