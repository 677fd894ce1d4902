"""Steps of a job's autoscaler, on replicas of a simple model: so many slots, a service time, and one queue."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.states import ScalingMode, ServiceClass
from controller.core.autoscaling.curve import Estimate
from controller.core.autoscaling.demand import Load, need
from controller.core.autoscaling.readings import Counters, JobReading, ReplicaReading, between
from controller.core.autoscaling.scaler import STALE_S, Decision, JobScaler, bound
from controller.core.autoscaling.window import Window
from controller.core.scaling import ScalingPolicy, asked_replicas

PROD, TEMPORARY = ServiceClass.PROD, ServiceClass.TEMPORARY
BERTH = ScalingPolicy(ScalingMode.BERTH, 1, 100)
SLOTS, SERVICE_S, EVERY_S = 8, 0.04, 2.0


class Pool:
    """Replicas that start at once. `step` lets two seconds of load pass, and the scaler see it."""

    def __init__(self, scaling: ScalingPolicy = BERTH, replicas: int = 1, service_class: ServiceClass = PROD) -> None:
        self.scaling, self.service_class = scaling, service_class
        self.replicas = replicas
        self.now = 1000.0
        self.queue = 0.0
        self.scaler = JobScaler(replicas, self.now)
        self.counters: list[list[float]] = []
        self.memory_share = 0.1
        self.cell_ahead_s = 0.0

    def step(self, rate: float, noise: float = 1.0, **reading: object) -> Decision:
        self.now += EVERY_S
        answered = 0.0
        if self.replicas:
            most = self.replicas * SLOTS / SERVICE_S * EVERY_S
            asked = self.queue + rate * EVERY_S * noise
            answered = min(most, asked)
            self.queue = asked - answered
        while len(self.counters) < self.replicas:
            self.counters.append([0.0, 0.0, 0.0])
        del self.counters[self.replicas :]
        waited = self.queue / (answered / EVERY_S) if answered else 0.0
        for one in self.counters:
            one[0] += answered / self.replicas
            one[1] += answered / self.replicas * (SERVICE_S + waited)
            one[2] += answered / self.replicas * waited
        under_way = self.queue + answered / EVERY_S * SERVICE_S
        reports = tuple(
            ReplicaReading(
                f"r{index}",
                "1",
                self.now + self.cell_ahead_s,
                int(completed),
                busy_s,
                queued_s,
                round(under_way / self.replicas),
                memory_share=self.memory_share,
                models={"m": Counters(int(completed), busy_s)},
            )
            for index, (completed, busy_s, queued_s) in enumerate(self.counters)
        )
        fields: dict[str, object] = {"reports": reports, **reading}
        decision = self.scaler.step(JobReading(**fields), self.scaling, self.service_class, self.now)  # type: ignore[arg-type]
        self.scaler.validate()
        self.replicas = decision.replicas
        return decision


@given(
    st.integers(0, 20),
    st.integers(0, 40),
    st.sampled_from([PROD, TEMPORARY]),
    st.sampled_from([0.0, 3.0, 30.0]),
    st.lists(st.tuples(st.floats(0, 20_000), st.booleans(), st.floats(0, 60)), max_size=40),
)
@settings(deadline=None, max_examples=80)
def test_bounds_hold_whatever_is_read(
    least: int, more: int, service_class: ServiceClass, window_s: float, steps: list[tuple[float, bool, float]]
) -> None:
    scaling = ScalingPolicy(ScalingMode.BERTH, least, max(1, least + more), stabilize_down_s=window_s)
    pool = Pool(scaling, replicas=least, service_class=service_class)
    for rate, wanted, age_s in steps:
        decision = pool.step(rate, wanted=wanted, age_s=age_s)
        assert scaling.min_replicas <= decision.replicas <= scaling.max_replicas
        assert decision.reason
        # Whoever waits is answered, however soon the job is to sleep again.
        assert decision.replicas or not wanted or age_s > STALE_S


@given(st.floats(5.0, 3_000.0), st.integers(0, 2**32))
@settings(deadline=None, max_examples=15)
def test_constant_load_settles_and_stays(rate: float, seed: int) -> None:
    rng = random.Random(seed)
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 1, 500, stabilize_down_s=60.0))
    for _ in range(450):
        pool.step(rate, rng.uniform(0.97, 1.03))
    settled = pool.replicas
    # Never too few; and not more than exploring, which has no knee to go by, asks for.
    assert settled * SLOTS >= rate * SERVICE_S
    assert settled <= math.ceil(rate * SERVICE_S) + 1
    for _ in range(150):
        assert pool.step(rate, rng.uniform(0.97, 1.03)).replicas <= settled


def test_load_beyond_the_knee_settles_at_the_slots_that_are_used() -> None:
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 1, 500, stabilize_down_s=60.0))
    for rate in (100, 200, 300, 1_000, 4_000):
        for _ in range(100):
            pool.step(rate)
    seen = {pool.step(4_000).replicas for _ in range(100)}
    assert len(seen) == 1
    # 4,000/s take 160 slots, 20 replicas; with a fifth to spare 25.
    assert 22 <= seen.pop() <= 28


def test_a_wave_is_met_in_one_step_by_what_arrives_and_not_by_the_queue() -> None:
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 1, 1_000))
    for _ in range(60):
        pool.step(150)
    for _ in range(5):
        decision = pool.step(8_000)
    # 8,000/s take 40 replicas.
    assert 40 <= decision.replicas <= 100


def test_fewer_only_after_the_window() -> None:
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 1, 100, stabilize_down_s=120.0))
    for _ in range(800):
        pool.step(2_000)
    high = pool.replicas
    for elapsed in range(0, 110, 2):
        assert pool.step(50).replicas == high, elapsed
    for _ in range(60):
        decision = pool.step(50)
    assert decision.replicas < high


def test_what_an_overload_took_is_kept_twice_as_long() -> None:
    """It came faster than replicas start, and would be missed once more."""
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 1, 100, stabilize_down_s=120.0))
    for rate in (100, 200, 400, 800, 200):
        for _ in range(100):
            pool.step(rate)
    burst = [pool.step(4_000).replicas for _ in range(10)]
    assert max(burst) >= 20
    held = [pool.step(200).replicas for _ in range(150)]
    # From its last step on; what was needed when it was over is forgotten in half the time.
    kept_s = EVERY_S * sum(count >= 20 for count in held)
    assert 200 <= kept_s <= 242
    assert held[-1] == 2


def test_what_came_gradually_is_kept_no_longer_than_asked_for() -> None:
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 1, 100, stabilize_down_s=120.0))
    for rate in range(200, 4_000, 10):
        pool.step(rate)
    high = pool.replicas
    assert high >= 20
    held = [pool.step(200).replicas for _ in range(150)]
    assert EVERY_S * sum(count >= 20 for count in held) <= 160


def test_a_job_that_slept_remembers_no_overload() -> None:
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 0, 100, stabilize_down_s=60.0), service_class=TEMPORARY)
    for rate in [100] * 50 + [3_000] * 10 + [0] * 40:
        pool.step(rate)
    assert pool.replicas == 0
    assert [pool.step(20, wanted=not pool.replicas).replicas for _ in range(20)] == [1] * 20


def test_a_short_dip_changes_nothing() -> None:
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 1, 100, stabilize_down_s=120.0))
    for _ in range(800):
        pool.step(2_000)
    high = pool.replicas
    assert {pool.step(rate).replicas for rate in [100] * 30 + [2_000] * 60} == {high}


def test_old_observations_hold() -> None:
    pool = Pool()
    for _ in range(60):
        pool.step(2_000)
    before = pool.replicas
    for rate in (0.0, 20_000.0):
        decision = pool.step(rate, age_s=STALE_S + 5)
        assert (decision.replicas, decision.reason) == (before, "held: its cell was last heard 20 s ago")
    assert pool.scaler.step(JobReading(age_s=math.inf), BERTH, PROD, pool.now).reason == "held: its cell is not heard"


def test_a_cell_whose_clock_goes_back_is_gone_on_from() -> None:
    """A synchronizer that takes over has a clock of its own; an hour's difference is no hour of silence."""
    pool = Pool()
    for _ in range(60):
        pool.step(20)
    pool.cell_ahead_s = -3_600.0
    assert pool.step(20).replicas == 1
    assert [pool.step(20_000).replicas for _ in range(3)][-1] > 1


def test_replicas_that_cannot_be_seen_hold() -> None:
    pool = Pool(replicas=3)
    assert pool.step(100, reports=()).replicas == 3


@pytest.mark.parametrize(("share", "left"), [(0.5, 1), (0.99, 6)])
def test_nearly_full_memory_keeps_replicas(share: float, left: int) -> None:
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 1, 100, stabilize_down_s=0.0), replicas=6)
    pool.memory_share = share
    for _ in range(400):
        decision = pool.step(100)
    assert (decision.replicas, "memory" in decision.reason) == (left, share > 0.9)


def test_a_temporary_job_sleeps_and_wakes() -> None:
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 0, 10, stabilize_down_s=60.0), service_class=TEMPORARY)
    for _ in range(20):
        pool.step(20)
    assert pool.replicas == 1
    steps = [pool.step(0) for _ in range(40)]
    assert steps[-1].replicas == 0
    assert next(step.reason for step in steps if not step.replicas) == "no request for 60 s"
    assert pool.step(0).replicas == 0
    woken = pool.step(0, wanted=True)
    assert (woken.replicas, woken.reason) == (1, "requests wait for a model, and no replica runs")
    # While it starts it stays awake, and for as long as a request waits for it to load.
    assert {pool.step(0, reports=()).replicas for _ in range(20)} == {1}
    assert {pool.step(0, wanted=True).replicas for _ in range(60)} == {1}


def test_a_version_that_was_never_loaded_wakes_a_job_and_keeps_it_awake() -> None:
    scaling = ScalingPolicy(ScalingMode.BERTH, 0, 10, stabilize_down_s=30.0)
    pool = Pool(scaling, replicas=0, service_class=TEMPORARY)
    assert pool.step(0).replicas == 0
    woken = pool.step(0, untried=True)
    assert woken.replicas == 1
    assert "loaded for the first time" in woken.reason
    for _ in range(60):
        assert pool.step(0, untried=True).replicas == 1
    # Loaded, or known not to load: the usual rule from here on.
    awake = sum(pool.step(0).replicas for _ in range(60))
    assert EVERY_S * awake <= scaling.stabilize_down_s
    assert pool.replicas == 0


def test_other_jobs_do_not_sleep() -> None:
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 0, 10, stabilize_down_s=10.0))
    assert {pool.step(0).replicas for _ in range(60)} == {1}


def test_it_begins_with_what_there_was() -> None:
    """A controller that has just taken over knows nothing, and takes nothing away at once."""
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 1, 100, stabilize_down_s=60.0), replicas=12)
    assert {pool.step(100).replicas for _ in range(25)} == {12}
    for _ in range(60):
        pool.step(100)
    assert pool.replicas < 12


def test_replicas_that_nobody_asks_are_not_kept_for_want_of_knowledge() -> None:
    """A wave too short to learn from leaves replicas behind: not for ever."""
    pool = Pool(ScalingPolicy(ScalingMode.BERTH, 2, 100, stabilize_down_s=60.0), replicas=12)
    assert {pool.step(0).replicas for _ in range(29)} == {12}
    decision = pool.step(0)
    assert (decision.replicas, decision.reason) == (2, "no request for 60 s; at least 2 are asked for")


def test_a_pool_that_does_well_is_left_alone_when_the_lead_changes_hands() -> None:
    pool = Pool(replicas=20)
    pool.replicas = 20
    assert {pool.step(3_200).replicas for _ in range(20)} == {20}


def test_a_limit_is_told() -> None:
    decision = bound(Decision(12, "so it is"), ScalingPolicy(ScalingMode.BERTH, 1, 10))
    assert decision == Decision(10, "so it is; 12 would be right, at most 10 are allowed")
    assert bound(Decision(0, "idle"), ScalingPolicy(ScalingMode.BERTH, 2, 10)).replicas == 2


def reading(at: float = 0.0, completed: int = 0, busy_s: float = 0.0, **fields: object) -> ReplicaReading:
    return ReplicaReading("r", str(fields.pop("incarnation", "1")), at, completed, busy_s, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (reading(1.0), reading(1.0)),
        (reading(2.0), reading(1.0)),
        (reading(1.0), reading(2.0, incarnation="2")),
        (reading(1.0, 5, 1.0), reading(2.0, 4, 1.0)),
        (reading(1.0, 5, 1.0), reading(2.0, 6, 0.5)),
    ],
)
def test_reports_that_do_not_follow_each_other_say_nothing(before: ReplicaReading, now: ReplicaReading) -> None:
    assert between(before, now) is None


def test_rates_are_differences() -> None:
    before = reading(10.0, 100, 50.0, queued_s=10.0, models={"a": Counters(60, 20.0)})
    now = reading(14.0, 140, 70.0, queued_s=12.0, models={"a": Counters(80, 32.0), "new": Counters(5, 1.0)})
    found = between(before, now)
    assert found is not None
    assert (found.per_second, found.concurrency, found.at_work, found.wait_s) == (10.0, 5.0, 4.5, 0.05)
    # A model that was not known before is part of the rest until its next report.
    assert found.models == {"a": Counters(20, 12.0), "": Counters(20, 8.0)}


TEN = Estimate(10.0, 0.04, knee=True)


@pytest.mark.parametrize(
    ("load", "replicas", "overload"),
    [
        (Load(16.0, 16, 0, 400, 0.0, 4, TEN), 2.0, False),
        (Load(0.0, 0, 0, 0, 0.0, 4, TEN), 0.0, False),
        # Two replicas answer 500/s; 1,500/s arrive, and half a thousand wait.
        (Load(20.0, 520, 1000, 500, 0.5, 2, TEN), 2 * (3 + 500 / 7500) / 0.8, True),
        # It drains within two seconds.
        (Load(20.0, 520, -250, 500, 0.5, 2, TEN), 2.0, True),
        # It does not change any more: what is turned away cannot be seen.
        (Load(20.0, 1020, 0, 500, 2.0, 2, TEN), 2 * (2 + 1000 / 7500) / 0.8, True),
        # Too little is known to say that it is too much, or too little.
        (Load(60.0, 60, 0, 400, 0.0, 4, None), 4.0, False),
        # Nothing was answered yet.
        (Load(0.0, 500, 250, 0, 0.0, 2, None), 4.0, True),
    ],
)
def test_need(load: Load, replicas: float, overload: bool) -> None:
    found = need(load, 0.05)
    assert found.replicas == pytest.approx(replicas)
    assert found.overload is overload


def test_windows() -> None:
    window = Window(10.0)
    assert (window.greatest(), window.mean(5), window.growth(5)) == (0.0, 0.0, 0.0)
    for at, value in ((0, 9.0), (4, 1.0), (6, 3.0), (8, 7.0)):
        window.add(value, at)
    assert (window.greatest(), window.mean(4), window.growth(4)) == (9.0, 11 / 3, 1.5)
    window.add(5.0, 12)
    assert window.greatest() == 7.0
    window.add(6.0, 11)  # a clock that goes back
    assert window.mean(0) == 5.5
    assert (window.mean(2, ago=4), window.mean(1, ago=9)) == (5.0, 1.0)


@pytest.mark.parametrize(
    ("mode", "wished", "decided", "asked"),
    [
        (ScalingMode.MANUAL, None, 3, None),
        (ScalingMode.MANUAL, 8, 3, 8),
        (ScalingMode.BERTH, 8, 3, 3),
        (ScalingMode.BERTH, 8, None, None),
        (ScalingMode.EXTERNAL, 8, 3, None),
    ],
)
def test_one_owner(mode: ScalingMode, wished: int | None, decided: int | None, asked: int | None) -> None:
    assert asked_replicas(mode, wished, decided) == asked
