"""What one replica sustains, learned from noisy samples of simulated replicas."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.autoscaling.curve import HALF_LIFE_S, LatencyCurve, Sample

Latency = Callable[[float], float]
TARGET_S = 0.05


def hard(slots: float, service_s: float) -> Latency:
    """Flat until all slots are taken, then in proportion: what a runtime with that many workers does."""
    return lambda n: service_s * max(1.0, n / slots)


def soft(slots: float, service_s: float) -> Latency:
    """The same with a rounded corner."""
    return lambda n: service_s * (1 + (n / slots) ** 4) ** 0.25


def fill(
    curve: LatencyCurve,
    latency: Latency,
    levels: list[float],
    rng: random.Random,
    *,
    noise: float = 0.1,
    service_s: float | None = None,
    now: float = 0.0,
) -> float:
    """A dozen samples at each level. With `service_s` the replica says what of the latency is waiting."""
    for level in levels:
        for _ in range(12):
            now += 2.0
            seen = latency(level) * rng.lognormvariate(0, noise)
            wait = max(0.0, latency(level) - service_s) if service_s is not None else 0.0
            curve.add(Sample(level, seen, min(wait, seen), 100), TARGET_S, now)
            curve.validate()
    return now


@given(
    st.floats(2.0, 200.0),
    st.floats(0.002, 2.0),
    st.sampled_from([hard, soft]),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=60)
def test_the_knee_is_found_within_a_fifth(
    slots: float, service_s: float, shape: Callable[[float, float], Latency], seed: int
) -> None:
    curve = LatencyCurve()
    levels = [slots * factor for factor in (0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.6, 2.5)]
    now = fill(curve, shape(slots, service_s), levels, random.Random(seed), noise=0.05)
    found = curve.estimate(math.inf, now)
    assert found is not None
    assert found.knee
    assert found.concurrency == pytest.approx(slots, rel=0.2)
    assert found.idle_s == pytest.approx(service_s, rel=0.2)


def test_the_least_of_many_noisy_bands_is_not_taken_for_the_idle_latency() -> None:
    """Twenty bands of 0.1 s, each off by 5 %: their least is some 9 % too small, what is estimated half of that."""
    least, estimated = [], []
    for seed in range(40):
        rng, curve, now, seen = random.Random(seed), LatencyCurve(), 0.0, []
        for band in range(20):
            seen.append(0.1 * rng.lognormvariate(0, 0.05))
            for _ in range(6):
                now += 2.0
                curve.add(Sample(0.5 * 1.15**band, seen[-1], 0.0, 60), math.inf, now)
        found = curve.estimate(math.inf, now)
        assert found is not None
        least.append(min(seen))
        estimated.append(found.idle_s)
        assert min(seen) <= found.idle_s <= 0.105
    assert fmean(least) < 0.092
    assert fmean(estimated) > 0.094


def test_replicas_that_are_slow_while_idle_are_no_noise() -> None:
    """Cold caches and low clocks: what a replica sustains is not taken for more than it is."""
    curve = LatencyCurve()
    levels = [0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 16.0, 32.0]
    now = fill(curve, lambda n: hard(8, 0.1 if n > 1.5 else 0.2)(n), levels, random.Random(3), noise=0.05)
    found = curve.estimate(math.inf, now)
    assert found is not None
    assert found.idle_s == pytest.approx(0.1, rel=0.1)
    assert found.concurrency == pytest.approx(8.0, rel=0.15)


def test_short_overloads_of_many_heights_are_evidence_together() -> None:
    """Each leaves one sample in a band of its own, which proves nothing alone."""
    curve = LatencyCurve()
    now = fill(curve, hard(8, 0.1), [3.0, 6.0], random.Random(9), noise=0.01)
    for level in (60.0, 90.0, 140.0):
        now += 120.0
        curve.add(Sample(level, level / 80.0, level / 80.0 - 0.1, 160), TARGET_S, now)
    before = curve.estimate(TARGET_S, now)
    assert before is not None
    assert not before.knee
    for level in (200.0, 300.0):
        now += 120.0
        curve.add(Sample(level, level / 80.0, level / 80.0 - 0.1, 160), TARGET_S, now)
    after = curve.estimate(TARGET_S, now)
    assert after is not None
    assert after.knee
    assert after.concurrency == pytest.approx(8.0, rel=0.1)


def test_nothing_is_claimed_without_evidence() -> None:
    curve = LatencyCurve()
    assert curve.estimate(TARGET_S, 0.0) is None
    for _ in range(3):
        curve.add(Sample(1.0, 0.1, 0.0, 10), TARGET_S, 0.0)
    assert curve.estimate(TARGET_S, 0.0) is None


@pytest.mark.parametrize(
    "sample", [Sample(0.0, 0.1, 0.0, 9), Sample(1.0, 0.0, 0.0, 9), Sample(1.0, math.nan, 0.0, 9), Sample(1, 1, 0, 0)]
)
def test_what_makes_no_sense_is_ignored(sample: Sample) -> None:
    curve = LatencyCurve()
    for _ in range(100):
        curve.add(sample, TARGET_S, 0.0)
    curve.validate()
    assert curve.estimate(TARGET_S, 0.0) is None


def test_before_the_knee_the_estimate_is_what_was_tried() -> None:
    curve = LatencyCurve()
    now = fill(curve, hard(16, 0.1), [1.0, 2.0, 4.0], random.Random(1), noise=0.02)
    found = curve.estimate(TARGET_S, now)
    assert found is not None
    assert not found.knee
    assert found.concurrency == pytest.approx(4.0, rel=0.1)


def test_waiting_longer_than_the_target_is_stayed_below() -> None:
    """Slow requests on one slot: each that waits, waits long, well before the throughput ends."""
    curve = LatencyCurve()
    now = fill(curve, lambda n: 0.5 * (1 + n), [0.05, 0.1, 0.5, 0.9], random.Random(2), noise=0.01, service_s=0.5)
    found = curve.estimate(TARGET_S, now)
    assert found is not None
    assert found.knee
    assert 0.05 <= found.concurrency <= 0.5


def test_a_flood_whose_waiting_is_told_is_seen_through_at_once() -> None:
    curve = LatencyCurve()
    now = fill(curve, hard(10, 0.1), [400.0], random.Random(4), noise=0.01, service_s=0.1)
    found = curve.estimate(TARGET_S, now)
    assert found is not None
    assert found.concurrency == pytest.approx(10.0, rel=0.2)


@given(
    st.floats(2.0, 50.0),
    st.lists(
        st.tuples(st.floats(0.1, 500.0), st.floats(0.01, 30.0), st.floats(0.0, 10.0), st.integers(1, 500)), max_size=60
    ),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=60)
def test_overload_never_raises_a_known_estimate(
    slots: float, samples: list[tuple[float, float, float, int]], seed: int
) -> None:
    curve = LatencyCurve()
    levels = [slots * factor for factor in (0.2, 0.5, 1.0, 2.0)]
    now = fill(curve, hard(slots, 0.1), levels, random.Random(seed))
    for concurrency, latency_s, wait_s, completed in samples:
        now += 2.0
        before = curve.estimate(TARGET_S, now)
        assert before is not None
        sample = Sample(max(concurrency, 1.01), latency_s, min(wait_s, latency_s), completed)
        overload = sample.latency_s > 1.5 * before.idle_s or sample.wait_s > TARGET_S
        curve.add(sample, TARGET_S, now)
        curve.validate()
        after = curve.estimate(TARGET_S, now)
        assert after is not None
        if before.knee and overload and after.knee:
            assert after.concurrency <= before.concurrency * (1 + 1e-9)


def test_a_model_that_becomes_faster_is_believed_again() -> None:
    curve = LatencyCurve()
    levels = [1.0, 2.0, 4.0, 6.0, 12.0]
    now = fill(curve, hard(4, 0.1), levels, random.Random(5), noise=0.02)
    slow = curve.estimate(math.inf, now)
    for _ in range(20):
        now = fill(curve, hard(16, 0.1), [1.0, 2.0, 4.0, 6.0, 12.0], random.Random(6), noise=0.02, now=now)
    fast = curve.estimate(math.inf, now)
    assert slow is not None
    assert fast is not None
    assert slow.concurrency == pytest.approx(4.0, rel=0.2)
    assert fast.concurrency > 2 * slow.concurrency


def test_evidence_fades() -> None:
    curve = LatencyCurve()
    now = fill(curve, hard(8, 0.1), [2.0, 4.0], random.Random(7))
    assert curve.estimate(TARGET_S, now) is not None
    assert curve.estimate(TARGET_S, now + 6 * HALF_LIFE_S) is None


def test_the_knee_is_remembered_and_tried_again_gently() -> None:
    curve = LatencyCurve()
    now = fill(curve, hard(8, 0.1), [2.0, 4.0, 7.0, 16.0], random.Random(8), noise=0.02)
    first = curve.estimate(math.inf, now)
    # Load that stays low for a day says nothing of what it was.
    for _ in range(48):
        now = fill(curve, hard(8, 0.1), [3.0], random.Random(9), noise=0.02, now=now + 1800.0)
    later = curve.estimate(math.inf, now)
    asleep = curve.estimate(math.inf, now + 86_400.0)
    assert first is not None
    assert later is not None
    assert asleep is not None
    assert first.concurrency < later.concurrency < 1.4 * first.concurrency
    assert later.concurrency < asleep.concurrency
    assert later.knee
