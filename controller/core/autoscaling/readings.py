"""What is seen of a job at one moment, and what happened between two moments.

Replicas report counters that only grow. Differences of two reports are rates that no lost report can spoil: it only
makes the interval longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Counters(NamedTuple):
    """Cumulative, of one model on one replica: requests answered, and their seconds from arrival to answer."""

    completed: int
    busy_s: float


@dataclass(frozen=True, slots=True)
class ReplicaReading:
    """One replica's report, made at `at` by its own cell's clock. Counters are cumulative within an incarnation.

    `serving`: routers send it requests. `models` may lack those that had no requests lately.
    """

    name: str
    incarnation: str
    at: float
    completed: int = 0
    busy_s: float = 0.0
    queued_s: float = 0.0
    in_flight: int = 0
    serving: bool = True
    memory_share: float = 0.0
    models: Mapping[str, Counters] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobReading:
    """A job now. `age_s` is how old the newest report of its cell is.

    `wanted`: requests wait for one of its models, which no replica has loaded. `untried`: the job is to hold a version
    that was never loaded yet, or that has yet to take over from an older one (`core.rollout.arrival`).
    """

    reports: tuple[ReplicaReading, ...] = ()
    wanted: bool = False
    untried: bool = False
    age_s: float = 0.0


class Rates(NamedTuple):
    """One replica between two reports. `concurrency` is the mean number of requests under way, by Little's law, and
    `at_work` how many of them did not wait.

    `wait_s` is the mean time that a request waited before it ran; `models` has the growth of each model's counters.
    """

    seconds: float
    per_second: float
    concurrency: float
    at_work: float
    completed: int
    wait_s: float
    models: Mapping[str, Counters]


OTHERS = ""
"""The name under which a report's remainder is counted: what it does not break down by model."""


def between(before: ReplicaReading, now: ReplicaReading) -> Rates | None:
    """What happened between two reports of a replica; None if they say nothing: it restarted, or no time passed."""
    seconds = now.at - before.at
    completed = now.completed - before.completed
    if now.incarnation != before.incarnation or seconds <= 0 or completed < 0 or now.busy_s < before.busy_s:
        return None
    busy_s = now.busy_s - before.busy_s
    queued_s = min(max(0.0, now.queued_s - before.queued_s), busy_s)
    wait_s = queued_s / completed if completed else 0.0
    models = {}
    for name, counters in now.models.items():
        # A model that is seen for the first time may have been under way long before: its growth is not known yet.
        known = before.models.get(name, counters)
        grown = Counters(counters.completed - known.completed, counters.busy_s - known.busy_s)
        if grown.completed > 0 and grown.busy_s > 0:
            models[name] = grown
    rest = Counters(
        completed - sum(grown.completed for grown in models.values()),
        busy_s - sum(grown.busy_s for grown in models.values()),
    )
    if rest.completed > 0 and rest.busy_s > 0:
        models[OTHERS] = rest
    return Rates(
        seconds, completed / seconds, busy_s / seconds, (busy_s - queued_s) / seconds, completed, wait_s, models
    )
