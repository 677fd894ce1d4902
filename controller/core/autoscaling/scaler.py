"""The autoscaler of one job: what it remembers, and the step it takes on each reading.

A step looks at what happened since the last reading, learns from it, and asks `demand` how many replicas that takes.

Contract of `step`:

1. The answer is within the policy's bounds, always, whatever is read.
2. Old readings (`STALE_S`) change nothing: the last answer is held. So does a job whose replicas cannot be seen.
3. Up at once. Down only to the most that was needed in the last `stabilize_down_s` seconds, and never below the most
   that an overload needed in twice that time.
4. A need within `TOLERANCE` of what there is changes nothing, so constant load settles.
5. To zero only for temporary jobs with a lower bound of zero, after `stabilize_down_s` without any request, and only if
   every version was loaded once. A request that waits for a model to be loaded counts. From zero to one as soon as a
   request waits, or a version comes that was never loaded.
6. Every answer has its reason in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from berth.states import ServiceClass
from controller.core.autoscaling.curve import Estimate, LatencyCurve, Sample, band_of
from controller.core.autoscaling.demand import CAUTIOUS, CURIOUS, Load, need, round_up
from controller.core.autoscaling.readings import Counters, JobReading, Rates, ReplicaReading, between
from controller.core.autoscaling.window import Window
from controller.core.scaling import ScalingPolicy

STALE_S = 15.0
TOLERANCE = 0.1
# The last seconds decide about more replicas, half a minute about fewer.
_SHORT_S = 6.0
_LONG_S = 30.0
# A jump is seen in two strides at most, as each is longer than a mean.
_STRIDES = 3
_STRIDE_S = (_LONG_S - _SHORT_S) / _STRIDES
# About as long as a replica takes to start, load and be routed to.
_AHEAD_S = 20.0
# Many small steps down are one larger one.
_DOWN_EVERY_S = 15.0
# A need from an overload is kept so many times as long. It came faster than replicas start, so it costs misses each
# time that it comes anew. A need that came gradually can be met in time again.
_OVERLOAD_KEPT = 2.0
# Memory that is nearly full: fewer replicas would each have more requests under way, which take memory of their own.
_PRESSED = 0.95
_MOST_CURVES = 2_000
# Any replica sustains one request, however few were tried.
_LEAST = 1.0
# Of the requests at work, this part must be of models that something is known of.
_ENOUGH = 0.5


class Decision(NamedTuple):
    """`sustainable` is what one replica sustains of the present mix, 0 where nothing is known."""

    replicas: int
    reason: str
    sustainable: float = 0.0


@dataclass(slots=True)
class _Sum:
    """Intervals of several replicas, of one model in one band."""

    reports: int = 0
    concurrency: float = 0.0
    completed: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0

    def add(self, rates: Rates, grown: Counters) -> None:
        self.reports += 1
        self.concurrency += rates.concurrency
        self.completed += grown.completed
        self.busy_s += grown.busy_s
        self.waited_s += rates.wait_s * grown.completed

    def sample(self) -> Sample:
        return Sample(
            self.concurrency / self.reports,
            self.busy_s / self.completed,
            self.waited_s / self.completed,
            self.completed,
            self.reports,
        )


class JobScaler:
    """`step` is the only mutator. `now` is monotonic, in seconds."""

    def __init__(self, replicas: int, now: float) -> None:
        """Begins with `replicas`, the last answer that anyone gave: they count as needed now."""
        self._last = Decision(replicas, "as it was")
        self._decided = False
        self._curves: dict[str, LatencyCurve] = {}
        self._before: dict[str, ReplicaReading] = {}
        self._at_work = Window(_LONG_S)
        self._in_flight = Window(_LONG_S)
        self._per_second = Window(_LONG_S)
        self._needed = Window(0.0)
        self._needed.add(replicas, now)
        self._needed_in_overload = Window(0.0)
        self._active_at = now
        self._overload_at = -math.inf
        self._down_at = -math.inf
        self._load: Load | None = None
        # What one replica sustains of the present mix, and what it might: see `demand`.
        self._sustains: Estimate | None = None
        self._might: Estimate | None = None

    def __repr__(self) -> str:
        return f"<JobScaler {self._last.replicas} replicas, {len(self._curves)} models>"

    @property
    def decided(self) -> bool:
        """Whether it has taken a step."""
        return self._decided

    def step(self, reading: JobReading, scaling: ScalingPolicy, service_class: ServiceClass, now: float) -> Decision:
        """How many replicas the job should have from now on."""
        self._decided = True
        if reading.age_s > STALE_S:
            heard = "is not heard" if math.isinf(reading.age_s) else f"was last heard {reading.age_s:.0f} s ago"
            return self._hold(scaling, f"held: its cell {heard}")
        rates = self._observe(reading, scaling, now)
        asked = any(report.in_flight for report in reading.reports) or any(each.completed for each in rates)
        if asked or reading.wanted or reading.untried:
            self._active_at = now
        decision = self._decide(reading, rates, scaling, service_class, now)
        self._last = bound(decision, scaling)
        return self._last

    def validate(self) -> None:
        """Raises `AssertionError` if the state cannot be: for tests, after every step."""
        for curve in self._curves.values():
            curve.validate()
        assert len(self._curves) <= _MOST_CURVES
        assert self._last.replicas >= 0
        assert self._last.reason

    def _hold(self, scaling: ScalingPolicy, reason: str) -> Decision:
        self._last = bound(Decision(self._last.replicas, reason, self._last.sustainable), scaling)
        return self._last

    def _observe(self, reading: JobReading, scaling: ScalingPolicy, now: float) -> list[Rates]:
        """Learn from what happened since the last reading."""
        found = []
        reports = {}
        for report in reading.reports:
            before = self._before.get(report.name)
            if before is not None and before.incarnation == report.incarnation:
                if report.at == before.at:
                    reports[report.name] = before
                    continue
                # A report that is older by its cell's clock says that the clock went back: go on from it.
                rates = between(before, report)
                if rates is not None:
                    found.append(rates)
                # A report names only the models with requests since the one before.
                reports[report.name] = replace(report, models={**before.models, **report.models})
            else:
                reports[report.name] = report
        self._before = reports
        self._learn(found, scaling, now)
        while len(self._curves) > _MOST_CURVES:
            del self._curves[min(self._curves, key=lambda model: self._curves[model].touched)]
        return found

    def _learn(self, found: list[Rates], scaling: ScalingPolicy, now: float) -> None:
        """Replicas of a job are alike, so those in one band are one sample: many replicas cost little."""
        sums: dict[tuple[str, int], _Sum] = {}
        for rates in found:
            if rates.concurrency > 0:
                band = band_of(rates.concurrency)
                for model, grown in rates.models.items():
                    sums.setdefault((model, band), _Sum()).add(rates, grown)
        for (model, _), total in sums.items():
            self._curves.setdefault(model, LatencyCurve()).add(total.sample(), scaling.target_queue_s, now)

    def _decide(
        self, reading: JobReading, rates: list[Rates], scaling: ScalingPolicy, service_class: ServiceClass, now: float
    ) -> Decision:
        last = self._last.replicas
        idle = now - self._active_at
        to_zero = service_class is ServiceClass.TEMPORARY and scaling.min_replicas == 0
        self._needed.seconds = scaling.stabilize_down_s
        self._needed_in_overload.seconds = _OVERLOAD_KEPT * scaling.stabilize_down_s
        # Not in the step that sees a request, however short the wait is to be: it would never wake.
        if to_zero and 0 < idle >= scaling.stabilize_down_s:
            self._needed, self._needed_in_overload = Window(0.0), Window(0.0)
            return Decision(0, f"no request for {idle:.0f} s")
        if reading.wanted and not last:
            self._needed.add(1, now)
            return Decision(1, "requests wait for a model, and no replica runs")
        if reading.untried and not last:
            self._needed.add(1, now)
            return Decision(1, "a version has yet to be loaded for the first time, and no replica runs")
        if to_zero and not last:
            return Decision(0, "nobody asks for its models")
        if not last:
            return Decision(1, "only temporary jobs sleep")
        if 0 < idle >= scaling.stabilize_down_s and (self._load is None or self._load.sustains is None):
            # Too few requests to learn from, and now none: what was added for them is not kept for ever.
            return Decision(1, f"no request for {idle:.0f} s")
        self._load = load = self._measure(reading, rates, scaling, now) or self._load
        if load is None or not any(report.serving for report in reading.reports):
            return Decision(last, "held: no replica serves yet", self._last.sustainable)
        return self._follow(load, reading, scaling, now)

    def _measure(self, reading: JobReading, rates: list[Rates], scaling: ScalingPolicy, now: float) -> Load | None:
        """The load of the last seconds; None if no replica said anything new."""
        if not rates:
            return None
        in_flight = float(sum(report.in_flight for report in reading.reports))
        self._at_work.add(sum(each.at_work for each in rates), now)
        self._in_flight.add(in_flight, now)
        self._per_second.add(sum(each.per_second for each in rates), now)
        completed = sum(each.completed for each in rates)
        # Fewer replicas were tried: wait for what that shows.
        explore = CURIOUS if now - self._down_at < _LONG_S else CAUTIOUS
        if mix := _mix(rates):
            self._sustains = self._sustained(mix, scaling, explore, now)
            self._might = self._sustained(mix, scaling, CURIOUS, now)
        return Load(
            at_work=self._ahead(now),
            in_flight=in_flight,
            growth_per_second=self._in_flight.growth(_SHORT_S / 2),
            per_second=self._per_second.mean(_SHORT_S / 2),
            wait_s=sum(each.wait_s * each.completed for each in rates) / completed if completed else 0.0,
            serving=sum(report.serving for report in reading.reports),
            sustains=self._sustains,
        )

    def _ahead(self, now: float) -> float:
        """Requests at work soon. A trend goes on while new replicas start, if it has held for half a minute: what has
        jumped does not jump again. Growth is no trend if replicas only came to the aid of others."""
        means = [self._at_work.mean(_SHORT_S, ago * _STRIDE_S) for ago in range(_STRIDES + 1)]
        slopes = sorted((later - earlier) / _STRIDE_S for later, earlier in pairwise(means))
        if now - self._overload_at < _LONG_S or slopes[0] <= 0:
            return means[0]
        return means[0] + slopes[0] * _AHEAD_S

    def _sustained(
        self, mix: Mapping[str, float], scaling: ScalingPolicy, explore: float, now: float
    ) -> Estimate | None:
        """What one replica sustains of a mix of models. Each model takes as much of it as its own curve says. Models
        that are asked too rarely to have a curve count like the others. None if most of the mix is unknown."""
        taken, idle_s, told, knee = 0.0, 0.0, 0.0, True
        for model, share in mix.items():
            curve = self._curves.get(model)
            found = curve.estimate(scaling.target_queue_s, now) if curve is not None else None
            if found is None:
                continue
            concurrency = found.concurrency if found.knee else max(found.concurrency * explore, _LEAST)
            taken += share / concurrency
            idle_s += share * found.idle_s
            told += share
            knee = knee and found.knee
        return Estimate(told / taken, idle_s / told, knee) if told > _ENOUGH else None

    def _follow(self, load: Load, reading: JobReading, scaling: ScalingPolicy, now: float) -> Decision:
        last = self._last.replicas
        sustainable = load.sustains.concurrency if load.sustains is not None else 0.0
        wanted = need(load, scaling.target_queue_s)
        if load.sustains is None and not wanted.overload:
            return Decision(last, wanted.reason)
        steady = wanted
        if wanted.overload:
            self._overload_at = now
        else:
            long = replace(load, at_work=self._at_work.mean(_LONG_S), sustains=self._might)
            steady = need(long, scaling.target_queue_s)
        self._needed_in_overload.add(wanted.replicas if wanted.overload else 0.0, now)
        # Nobody knows that the part of a replica is needed while trying with fewer.
        tries = self._might is not None and not self._might.knee and not steady.overload
        self._needed.add(max(1, int(steady.replicas) if tries else round_up(steady.replicas)), now)
        if wanted.replicas > last * (1 + TOLERANCE):
            self._needed.add(round_up(wanted.replicas), now)
            return Decision(round_up(wanted.replicas), wanted.reason, sustainable)
        least = max(1, int(self._needed.greatest()), round_up(self._needed_in_overload.greatest()))
        if least >= last or now - self._down_at < _DOWN_EVERY_S:
            return Decision(last, steady.reason, sustainable)
        if any(report.memory_share > _PRESSED for report in reading.reports):
            return Decision(last, "held: the memory of a replica is nearly full", sustainable)
        self._down_at = now
        said = f"{steady.reason}; no more than {least} needed for {scaling.stabilize_down_s:g} s"
        return Decision(least, said, sustainable)


def bound(decision: Decision, scaling: ScalingPolicy) -> Decision:
    """The decision within the policy's bounds. Its reason says so if the bounds changed it."""
    if decision.replicas > scaling.max_replicas:
        return decision._replace(
            replicas=scaling.max_replicas,
            reason=f"{decision.reason}; {decision.replicas} would be right, at most {scaling.max_replicas} are allowed",
        )
    if decision.replicas < scaling.min_replicas:
        return decision._replace(
            replicas=scaling.min_replicas, reason=f"{decision.reason}; at least {scaling.min_replicas} are asked for"
        )
    return decision


def _mix(rates: list[Rates]) -> dict[str, float]:
    """Each model's share of the requests under way."""
    busy: dict[str, float] = {}
    for each in rates:
        for model, grown in each.models.items():
            busy[model] = busy.get(model, 0.0) + grown.busy_s / each.seconds
    total = sum(busy.values())
    return {model: share / total for model, share in busy.items()} if total > 0 else {}
