"""The concurrency that one replica sustains for a model, learned from how its latency grows with concurrency.

Nothing is configured. Each sample says: with so many requests under way on a replica, this model took so long. Samples
are averaged in bands of concurrency. The least latency of all bands, without waiting, is that of an idle replica: L0.
(Bands whose differences may be chance count as one: the least of many noisy figures would be too small.) By Little's
law, a replica that answers X requests a second has X * L0 requests really at work; the rest wait. The greatest such
number of all bands is the knee: up to there more concurrency brings more throughput, beyond it only more latency.
(Kleinrock's operating point; BBR finds a network path's capacity in the same way.)

Contract:

1. Until the knee has been seen, the estimate is what was tried and found good: cautious, and it grows as load does.
2. Where requests waited longer than the target, the estimate stays below that concurrency.
3. Once the knee is known, a sample taken under overload never raises the estimate.
4. Evidence fades with a half-life of `HALF_LIFE_S`; a band without enough of it counts for nothing. The knee itself is
   remembered, and believed to be a little higher as time passes: what has become faster is found out, gently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

HALF_LIFE_S = 1800.0
# A band is as wide as the precision that is asked of the knee.
_BAND = 1.15
_LEAST_CONCURRENCY = 0.05
# Answers that make a whole sample, and how many of those prove a band.
_WHOLE = 50
_PROOF = 4.0
# Beyond this much evidence a band forgets its oldest, so that a model whose requests change is learned anew.
_MOST = 20.0
# Latency beyond this multiple of the idle one is waiting, however little of it the replica calls so.
_OVERLOAD = 1.5
_RELAX = 0.01
# A knee that load stays below is believed to be twice as high after this long.
_FORGET_S = 3 * 86_400.0


class Sample(NamedTuple):
    """A model on one replica over an interval: requests of all models under way there, and this model's latency.

    `completed` is how many answers `latency_s` is the mean of; `wait_s` is the part of it spent waiting. `reports` is
    how many intervals of like replicas this is the mean of.
    """

    concurrency: float
    latency_s: float
    wait_s: float
    completed: int
    reports: int = 1


class Estimate(NamedTuple):
    """Requests under way that one replica sustains. `knee`: overload has been seen, so more would not go well."""

    concurrency: float
    idle_s: float
    knee: bool


@dataclass(slots=True)
class _Band:
    weight: float
    at: float
    concurrency: float
    latency_s: float
    wait_s: float

    def add(self, sample: Sample, weight: float, now: float) -> None:
        self.weight = min(self.evidence(now), _MOST - weight) + weight
        self.at = now
        part = weight / self.weight
        self.concurrency += (sample.concurrency - self.concurrency) * part
        self.latency_s += (sample.latency_s - self.latency_s) * part
        self.wait_s += (sample.wait_s - self.wait_s) * part

    @property
    def at_work_s(self) -> float:
        return max(self.latency_s - self.wait_s, 1e-6)

    def evidence(self, now: float) -> float:
        return self.weight * math.exp2(-max(0.0, now - self.at) / HALF_LIFE_S)


def band_of(concurrency: float) -> int:
    """Which band a concurrency falls into: like ones can be averaged before they are learned from."""
    return round(math.log(max(concurrency, _LEAST_CONCURRENCY)) / math.log(_BAND))


class LatencyCurve:
    """What is known of one model. `add` is its only mutator."""

    def __init__(self) -> None:
        self._bands: dict[int, _Band] = {}
        self._ceiling = math.inf
        self._knee: Estimate | None = None
        self._knee_at = 0.0
        self.touched = 0.0

    def __repr__(self) -> str:
        bands = ", ".join(f"{b.concurrency:.1f}: {1e3 * b.latency_s:.1f} ms" for _, b in sorted(self._bands.items()))
        return f"<LatencyCurve {bands}>"

    def add(self, sample: Sample, target_wait_s: float, now: float) -> None:
        """Learn from `sample`. One without answers, or with impossible figures, says nothing."""
        if sample.completed <= 0 or not sample.latency_s > 0 or not sample.concurrency > 0:
            return
        known = self.estimate(target_wait_s, now)
        weight = min(float(sample.reports), sample.completed / _WHOLE, _MOST)
        index = band_of(sample.concurrency)
        band = self._bands.get(index)
        if band is None or band.evidence(now) < 0.01:
            self._bands[index] = _Band(weight, now, sample.concurrency, sample.latency_s, sample.wait_s)
        else:
            band.add(sample, weight, now)
        self.touched = now
        if known is not None and known.knee:
            self._limit(sample, known, weight, target_wait_s)
        found = self._measured(target_wait_s, now)
        if found is not None and found.knee:
            self._knee, self._knee_at = found, now

    def _limit(self, sample: Sample, known: Estimate, weight: float, target_wait_s: float) -> None:
        slow = sample.latency_s > _OVERLOAD * known.idle_s and sample.concurrency > 1
        if slow or sample.wait_s > target_wait_s:
            self._ceiling = min(self._ceiling, known.concurrency)
        elif sample.concurrency >= 0.5 * self._ceiling:
            # It goes well near the ceiling: whatever pressed it down may be over.
            self._ceiling *= 1 + _RELAX * weight

    def estimate(self, target_wait_s: float, now: float) -> Estimate | None:
        """What a replica sustains if requests may wait `target_wait_s`; None without evidence."""
        found = self._measured(target_wait_s, now)
        if self._knee is None or (found is not None and found.knee):
            return found
        # The knee was found once, and load has stayed below it for so long that its bands have faded.
        known = self._knee.concurrency * (1 + max(0.0, now - self._knee_at) / _FORGET_S)
        if found is None:
            return self._knee._replace(concurrency=known)
        return Estimate(max(found.concurrency, known), found.idle_s, knee=True)

    def _measured(self, target_wait_s: float, now: float) -> Estimate | None:
        """As `estimate`, by what the bands say now."""
        bands = [band for band in self._bands.values() if band.evidence(now) >= _PROOF]
        if not bands:
            return None
        idle_s = _idle(bands, now)
        doubtful = [band for band in self._bands.values() if band.evidence(now) < _PROOF and _slow(band, idle_s)]
        if (together := _merged(doubtful, now)) is not None:
            bands.append(together)
        sustained = max(band.concurrency * idle_s / band.latency_s for band in bands)
        limit = _patience(bands, target_wait_s)
        knee = limit < math.inf or any(_slow(band, idle_s) for band in bands)
        return Estimate(min(sustained, limit, self._ceiling) if knee else sustained, idle_s, knee)

    def validate(self) -> None:
        """Raises `AssertionError` if the state cannot be: for tests, after every step."""
        for band in self._bands.values():
            assert band.weight <= _MOST
            assert min(band.concurrency, band.latency_s) > 0
            assert band.wait_s >= 0
        assert self._ceiling > 0


def _idle(bands: list[_Band], now: float) -> float:
    """Seconds that a request takes on an idle replica. That time never shrinks because more requests are under way.
    Neighbouring bands that say it does, by no more than chance, are averaged (pool adjacent violators, the usual way of
    isotonic regression). A greater difference is real: caches were cold, or clocks were low."""
    blocks: list[tuple[float, float]] = []
    for band in sorted(bands, key=lambda band: band.concurrency):
        seconds, weight = band.at_work_s, band.evidence(now)
        while blocks and seconds < blocks[-1][0] <= seconds * (1 + _chance(weight, blocks[-1][1])):
            before_s, before = blocks.pop()
            seconds = (before_s * before + seconds * weight) / (before + weight)
            weight += before
        blocks.append((seconds, weight))
    return min(seconds for seconds, _ in blocks)


def _chance(one: float, other: float) -> float:
    """By what fraction two means of equals may well differ, given the evidence for each: two standard deviations of the
    difference, for service times that vary as much as their mean."""
    return 2.0 * math.sqrt((1 / one + 1 / other) / _WHOLE)


def _slow(band: _Band, idle_s: float) -> bool:
    return band.latency_s > _OVERLOAD * idle_s and band.concurrency > 1


def _merged(bands: list[_Band], now: float) -> _Band | None:
    """Several bands of overload as one, None if they prove nothing together either. Short overloads are each of another
    height and leave a little evidence in many bands; all of it is of the same throughput, the most there is."""
    weights = [band.evidence(now) for band in bands]
    total = sum(weights)
    if total < _PROOF:
        return None

    def mean(values: Iterable[float]) -> float:
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / total

    return _Band(
        total,
        now,
        mean(band.concurrency for band in bands),
        mean(band.latency_s for band in bands),
        mean(band.wait_s for band in bands),
    )


def _patience(bands: list[_Band], target_wait_s: float) -> float:
    """The concurrency at which waiting reaches the target, as far as it is known: between the highest band that waits
    less, and the lowest above it that waits more. If a lower band waits more, that is noise."""
    fine = max((band.concurrency for band in bands if band.wait_s <= target_wait_s), default=0.0)
    over = [band.concurrency for band in bands if band.wait_s > target_wait_s and band.concurrency > fine]
    if not over:
        return math.inf
    return math.sqrt(fine * min(over)) if fine else min(over)
