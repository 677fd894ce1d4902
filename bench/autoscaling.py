"""`python -m bench.autoscaling`: Berth's autoscaler next to Kubernetes' HPA, on simulated pools and virtual time.

The pool is one queue before replicas of a few slots each; service times are exponential. A new replica is ready twenty
seconds after it was asked for, one that is taken away ends at once. Routers let so many requests through to replicas
and turn the rest away, and nobody waits longer than two seconds: what is turned away or waits in vain is a miss, like
an answer after the objective. Both sides see what they would see in a cluster: Berth the counters of the replicas every
two seconds, HPA the mean of a metric over ready pods every fifteen.

HPA is the published algorithm: tolerance 0.1, pods that are not ready count as idle when scaling up, at most twice as
many or four more every fifteen seconds, down to the greatest recommendation of the last five minutes. It is given the
right target; Berth is told nothing.
"""

from __future__ import annotations

import argparse
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from bench import recorded
from bench.results import Row, show, write
from berth.states import ScalingMode, ServiceClass
from controller.core.autoscaling.readings import Counters, JobReading, ReplicaReading
from controller.core.autoscaling.scaler import JobScaler
from controller.core.scaling import ScalingPolicy

TICK_S = 0.05
STARTUP_S = 20.0
SLOTS = 8
SERVICE_S = 0.04
OBJECTIVE_S = 0.4
PATIENCE_S = 2.0
_MOST_IN_FLIGHT = 4096
_MOST_REPLICAS = 200
_BERTH_EVERY_S = 2.0
_HPA_EVERY_S = 15.0
_HPA_TARGET = 0.7
_HPA_TOLERANCE = 0.1
_HPA_WINDOW_S = 300.0
_SEED = 7

# Load is sustained again when so many answers are within the objective, for so long.
_SUSTAINED = 0.99
# Fewer misses than this are none: answers are late by chance.
_NONE = 0.001
_SUSTAINED_S = 10.0


class Seen(NamedTuple):
    """The pool at one moment, as any autoscaler may see it. Counters are of the whole pool since its start."""

    now: float
    wanted: int
    ready: int
    in_flight: int
    at_work: int
    completed: int
    busy_s: float
    queued_s: float


class Autoscaler(Protocol):
    every_s: float

    def replicas(self, seen: Seen) -> int:
        """How many there should be from now on."""


class Berth:
    """The controller's own core, fed with what replicas would report."""

    every_s = _BERTH_EVERY_S

    def __init__(self, replicas: int) -> None:
        self._scaler = JobScaler(replicas, 0.0)
        self._scaling = ScalingPolicy(ScalingMode.BERTH, 1, _MOST_REPLICAS)
        # What each replica has said: the pool's growth is dealt out evenly among those that are ready.
        self._said: list[list[float]] = []
        self._before = Seen(0.0, replicas, replicas, 0, 0, 0, 0.0, 0.0)
        self.sustainable = 0.0

    def replicas(self, seen: Seen) -> int:
        while len(self._said) < seen.ready:
            self._said.append([0.0, 0.0, 0.0])
        del self._said[seen.ready :]
        grown = (
            seen.completed - self._before.completed,
            seen.busy_s - self._before.busy_s,
            seen.queued_s - self._before.queued_s,
        )
        self._before = seen
        for replica in self._said:
            for index, total in enumerate(grown):
                replica[index] += total / len(self._said)
        share = seen.in_flight / max(1, seen.ready)
        reports = tuple(
            ReplicaReading(
                f"r{index}",
                "1",
                seen.now,
                round(completed),
                busy_s,
                queued_s,
                round(share),
                models={"m": Counters(round(completed), busy_s)},
            )
            for index, (completed, busy_s, queued_s) in enumerate(self._said)
        )
        decision = self._scaler.step(JobReading(reports), self._scaling, ServiceClass.PROD, seen.now)
        self.sustainable = decision.sustainable
        return decision.replicas


class Hpa:
    """Horizontal pod autoscaling as Kubernetes documents it, of a metric that has a mean over ready pods."""

    every_s = _HPA_EVERY_S

    def __init__(self, replicas: int, metric: Callable[[Seen], float], target: float) -> None:
        self._metric = metric
        self._target = target
        self._recommended: deque[tuple[float, int]] = deque([(0.0, replicas)])
        self._means: deque[float] = deque(maxlen=2)

    def replicas(self, seen: Seen) -> int:
        # Metrics are means over about half a minute by the time that HPA reads them.
        self._means.append(self._metric(seen))
        mean = sum(self._means) / len(self._means)
        wanted = self._desired(mean, seen)
        limit = max(2 * seen.wanted, seen.wanted + 4)
        wanted = max(1, min(wanted, limit, _MOST_REPLICAS))
        self._recommended.append((seen.now, wanted))
        while self._recommended[0][0] < seen.now - _HPA_WINDOW_S:
            self._recommended.popleft()
        return max(wanted, *(count for _, count in self._recommended)) if wanted < seen.wanted else wanted

    def _desired(self, mean: float, seen: Seen) -> int:
        ratio = mean / self._target
        if abs(ratio - 1) <= _HPA_TOLERANCE:
            return seen.wanted
        if ratio > 1 and seen.wanted > seen.ready:
            # Pods that are not ready are taken to be idle, which may turn the decision round.
            ratio = ratio * seen.ready / seen.wanted
            if ratio <= 1 + _HPA_TOLERANCE:
                return seen.wanted
            return math.ceil(ratio * seen.wanted)
        return math.ceil(ratio * seen.ready)


def hpa_on_cpu(replicas: int) -> Hpa:
    """Targets 70 % of the slots at work: utilisation, which cannot exceed 100 %."""
    return Hpa(replicas, lambda seen: seen.at_work / (SLOTS * max(1, seen.ready)), _HPA_TARGET)


def hpa_on_concurrency(replicas: int) -> Hpa:
    """Targets 70 % of the slots in requests under way for each pod, waiting ones included."""
    return Hpa(replicas, lambda seen: seen.in_flight / max(1, seen.ready), _HPA_TARGET * SLOTS)


class Outcome(NamedTuple):
    """`misses` is the share of all requests; `sustained_s` the time from the step until load was sustained again."""

    misses: float
    replica_hours: float
    sustained_s: float
    most: int
    changes: int


class Scenario(NamedTuple):
    """Arrivals per second at a time; `step_at` is from when on `Outcome.sustained_s` counts. The pool begins with the
    replicas for `at_first` arrivals per second; None: for those of the first moment."""

    name: str
    seconds: float
    rate: Callable[[float], float]
    step_at: float = math.inf
    at_first: float | None = None


class Pool:
    """Replicas, their queue, and what came of the requests."""

    def __init__(self, replicas: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self.wanted = replicas
        self.ready = replicas
        self._starting: deque[float] = deque()
        self._queue: deque[tuple[float, int]] = deque()
        self._waiting = 0
        self._at_work = 0
        self._completed, self._busy_s, self._queued_s = 0, 0.0, 0.0
        self.requests, self.missed = 0, 0.0
        self.replica_seconds = 0.0

    def seen(self, now: float) -> Seen:
        return Seen(
            now,
            self.wanted,
            self.ready,
            self._at_work + self._waiting,
            self._at_work,
            self._completed,
            self._busy_s,
            self._queued_s,
        )

    def scale(self, replicas: int, now: float) -> None:
        for _ in range(self.wanted, replicas):
            self._starting.append(now + STARTUP_S)
        for _ in range(replicas, self.wanted):
            if self._starting:
                self._starting.pop()
            else:
                self.ready -= 1
        self.wanted = replicas

    def tick(self, now: float, rate: float) -> tuple[int, float]:
        """One tick; how many requests came and how many of them, or of those before, were missed."""
        while self._starting and self._starting[0] <= now:
            self._starting.popleft()
            self.ready += 1
        self.replica_seconds += self.wanted * TICK_S
        came = int(self._rng.poisson(rate * TICK_S))
        missed = self._enqueue(now, came)
        # Slots are never idle while someone waits; how many turns they get in a tick is chance.
        turns = int(self._rng.poisson(self.ready * SLOTS * TICK_S / SERVICE_S))
        missed += self._start(now, turns)
        self.requests += came
        self.missed += missed
        return came, missed

    def _enqueue(self, now: float, came: int) -> float:
        room = max(0, _MOST_IN_FLIGHT - self._waiting - self._at_work)
        taken = min(came, room)
        if taken:
            self._queue.append((now, taken))
            self._waiting += taken
        return came - taken

    def _start(self, now: float, turns: int) -> float:
        missed, started = 0.0, 0
        while self._queue:
            came_at, count = self._queue[0]
            waited = now - came_at
            if waited >= PATIENCE_S:
                self._queue.popleft()
                self._waiting -= count
                missed += count
                continue
            taken = min(count, turns - started)
            if taken <= 0:
                break
            missed += taken * math.exp(-max(0.0, OBJECTIVE_S - waited) / SERVICE_S)
            self._account(taken, waited)
            started += taken
            self._waiting -= taken
            if taken == count:
                self._queue.popleft()
            else:
                self._queue[0] = (came_at, count - taken)
        self._at_work = min(round(started * SERVICE_S / TICK_S), self.ready * SLOTS)
        return missed

    def _account(self, count: int, waited: float) -> None:
        self._completed += count
        self._queued_s += count * waited
        self._busy_s += count * waited + float(self._rng.gamma(count, SERVICE_S))


def run(scenario: Scenario, make: Callable[[int], Autoscaler], seed: int = _SEED) -> Outcome:
    """One autoscaler on one load. Equal seeds give equal outcomes."""
    rng = np.random.default_rng(seed)
    at_first = scenario.rate(0.0) if scenario.at_first is None else scenario.at_first
    replicas = max(1, math.ceil(at_first * SERVICE_S / SLOTS / _HPA_TARGET))
    pool, scaler = Pool(replicas, rng), make(replicas)
    next_at, most, changes = scaler.every_s, replicas, 0
    good_since, sustained_at = math.inf, math.inf
    recent: deque[tuple[int, float]] = deque(maxlen=round(1 / TICK_S))
    for index in range(round(scenario.seconds / TICK_S)):
        now = index * TICK_S
        recent.append(pool.tick(now, scenario.rate(now)))
        if now >= scenario.step_at and sustained_at == math.inf:
            came, missed = (sum(values) for values in zip(*recent, strict=True))
            good_since = min(good_since, now) if missed <= (1 - _SUSTAINED) * came else math.inf
            if now - good_since >= _SUSTAINED_S:
                sustained_at = good_since
        if now >= next_at:
            next_at += scaler.every_s
            wanted = scaler.replicas(pool.seen(now))
            changes += wanted != pool.wanted
            most = max(most, wanted)
            pool.scale(wanted, now)
    return Outcome(
        pool.missed / max(1, pool.requests),
        pool.replica_seconds / 3600,
        sustained_at - scenario.step_at if scenario.step_at < math.inf else 0.0,
        most,
        changes,
    )


def step(at: float = 60.0) -> Callable[[float], float]:
    """10 requests a second, then 10,000."""
    return lambda now: 10.0 if now < at else 10_000.0


def ramp() -> Callable[[float], float]:
    """From 100 to 5,000 requests a second in ten minutes, and back in ten."""
    return lambda now: 100 + 4_900 * max(0.0, 1 - abs(now - 700) / 600)


def diurnal() -> Callable[[float], float]:
    """A day in an hour, between 200 and 4,000 requests a second."""
    return lambda now: 2_100 - 1_900 * math.cos(2 * math.pi * now / 3600)


def spikes() -> Callable[[float], float]:
    """1,000 requests a second, and four times as many for a minute every ten."""
    return lambda now: 4_000.0 if 300 <= now % 600 < 360 else 1_000.0


def trace(seconds: float, seed: int = _SEED) -> Callable[[float], float]:
    """Like recorded traffic of a public service: a day's curve, noise that lasts for minutes, and bursts whose heights
    have a long tail; one value for each second."""
    rng = np.random.default_rng(seed)
    times = np.arange(int(seconds) + 1)
    day = 1_500 - 900 * np.cos(2 * np.pi * times / 5400)
    steps = rng.normal(0, 0.02, len(times))
    drift = np.empty(len(times))
    level = 0.0
    for index, shock in enumerate(steps):
        level = 0.995 * level + shock
        drift[index] = level
    rates = day * np.exp(drift)
    for begins in np.flatnonzero(rng.random(len(times)) < 1 / 400):
        height, length = min(3.0, 0.5 * (1 + rng.pareto(2.0))), rng.exponential(60)
        rates += np.where(times >= begins, day * height * np.exp(-np.maximum(0, times - begins) / length), 0.0)
    return lambda now: float(rates[min(int(now), len(rates) - 1)])


def replayed(name: str, recording: recorded.Recording, times: float) -> Scenario:
    """A recorded load, `times` as high. Raises `ValueError` if it is more than the simulated pool can ever answer."""
    replicas = math.ceil(times * recording.highest * SERVICE_S / SLOTS)
    if replicas > _MOST_REPLICAS:
        raise ValueError(
            f"at its height it takes {replicas:,} simulated replicas, and there are {_MOST_REPLICAS}: make it less"
        )
    return Scenario(name, recording.seconds, recording.rate(times), at_first=times * recording.at_first)


def shipped(load: str, times: float) -> Scenario:
    """A load of `bench/loads`."""
    return replayed(f"recorded {load}", recorded.read(recorded.LOADS / f"azure-llm-2023-{load}.json"), times)


def scenarios(seed: int = _SEED) -> tuple[Scenario, ...]:
    """All loads; the trace is another for each seed."""
    return (
        Scenario("step 10 to 10,000/s", 600, step(), step_at=60),
        Scenario("ramp", 1_500, ramp()),
        Scenario("diurnal", 7_200, diurnal()),
        Scenario("spikes", 1_800, spikes()),
        Scenario("trace", 5_400, trace(5_400, seed)),
        shipped("conversation", 200),
        shipped("code", 400),
    )


SCENARIOS = scenarios()
SIDES: dict[str, Callable[[int], Autoscaler]] = {
    "berth": Berth,
    "hpa cpu": hpa_on_cpu,
    "hpa concurrency": hpa_on_concurrency,
}


def compare(scenarios: tuple[Scenario, ...] = SCENARIOS, seed: int = _SEED) -> dict[str, dict[str, Outcome]]:
    """Every side on every load."""
    return {scenario.name: {side: run(scenario, make, seed) for side, make in SIDES.items()} for scenario in scenarios}


def rows_of(found: dict[str, dict[str, Outcome]]) -> list[Row]:
    """Misses and cost against the HPA that scales on concurrency, the better one, and how long the step took."""
    rows = []
    for name, sides in found.items():
        berth, best = sides["berth"], sides["hpa concurrency"]
        misses = {side: 100 * one.misses for side, one in sides.items()}
        hours = {side: one.replica_hours for side, one in sides.items()}
        target = 100 * max(best.misses, _NONE)
        rows.append(Row(f"{name}: missed", 100 * berth.misses, "%", target, sides=misses))
        rows.append(
            Row(f"{name}: replica-hours over HPA's", berth.replica_hours / best.replica_hours, "x", 1.1, sides=hours)
        )
        if berth.sustained_s:
            times = {side: one.sustained_s for side, one in sides.items()}
            rows.append(Row(f"{name}: sustained after", berth.sustained_s, "s", 60.0, sides=times))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=_SEED, help="of all chance, and of the trace")
    parser.add_argument("--recorded", type=Path, metavar="FILE", help="a load of your own, instead of those here")
    parser.add_argument("--times", type=float, default=1.0, help="how many times as high as it was recorded")
    given = parser.parse_args()
    if given.recorded is None:
        report(given.seed)
        return
    try:
        scenario = replayed(given.recorded.name, recorded.read(given.recorded), given.times)
    except (OSError, ValueError) as error:
        parser.error(f"{given.recorded}: {error}")
    # Kept nowhere: what is kept is of loads that all have.
    show("Autoscaling, simulated", rows_of(compare((scenario,), given.seed)))


def report(seed: int) -> None:
    """All loads here, shown and kept."""
    found = compare(scenarios(seed), seed)
    rows = rows_of(found)
    detail = {
        f"{name}, {side}": {
            "missed %": 100 * one.misses,
            "replica-hours": one.replica_hours,
            "most replicas": one.most,
            "changes": one.changes,
        }
        for name, sides in found.items()
        for side, one in sides.items()
    }
    show("Autoscaling, simulated", rows)
    write("autoscaling", 1, rows, [f"Simulated on virtual time, seed {seed}."], detail)


if __name__ == "__main__":
    main()
