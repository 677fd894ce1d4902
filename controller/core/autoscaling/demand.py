"""How many replicas are needed to answer what arrives: from rates, and from what one replica sustains.

Two answers, for two situations. While replicas keep up, the requests at work are the demand: their number over what one
replica sustains. While they do not, that number says nothing any more: the replicas are busy, and the rest waits. Then
what arrives is compared with what the replicas can answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from controller.core.autoscaling.curve import Estimate

# Of what replicas sustain, this part is used: the rest is for noise, and for the time until new replicas are ready.
UTILISATION = 0.8
# Before overload was ever seen nobody knows what a replica sustains. Growing load gets more replicas as soon as each
# one has more than ever went well (cautious). Steady load is put on fewer, step by step, to see how that goes.
CAUTIOUS = 1 / UTILISATION
CURIOUS = 1.28 / UTILISATION
# A queue that is gone within this time by itself needs no more replicas; else it is to be gone within it.
DRAIN_S = 15.0
# Routers and workers bound their queues: a queue that no longer changes hides requests that are turned away. A longer
# queue may hide more: so many seconds of work in it are taken to hide as much again as is seen.
_HIDDEN_S = 1.0
_FLAT = 0.05
# Requests under way beyond this many times those at work, and some more on each replica, are a queue.
_QUEUE = 2.0
_SLACK = 4.0


@dataclass(frozen=True, slots=True)
class Load:
    """A job over the last seconds. `sustains` is what one replica sustains of the present mix of models, if that is
    known. `growth_per_second` says how fast the number of requests under way grows."""

    at_work: float
    in_flight: float
    growth_per_second: float
    per_second: float
    wait_s: float
    serving: int
    sustains: Estimate | None

    @property
    def arriving(self) -> float:
        """Requests that arrive per second: those that are answered, and those that stay."""
        return max(0.0, self.per_second + self.growth_per_second)

    @property
    def full(self) -> float:
        """How many requests under way the serving replicas sustain together: one each, if nothing is known."""
        return self.serving * (self.sustains.concurrency if self.sustains is not None else 1.0)

    @property
    def capacity(self) -> float:
        """Answers per second that the replicas are known to be able to give, or those that they do give, if that is
        more."""
        return max(self.per_second, self.full / self.sustains.idle_s if self.sustains is not None else 0.0)


class ReplicaNeed(NamedTuple):
    """Replicas, not rounded, and why. `overload`: the replicas that serve do not keep up."""

    replicas: float
    reason: str
    overload: bool = False


def need(load: Load, target_wait_s: float) -> ReplicaNeed:
    """How many replicas `load` needs; as many as serve where too little is known to say."""
    if _is_overload(load, target_wait_s):
        return _need_under_overload(load)
    if load.sustains is None:
        return ReplicaNeed(load.serving, "held: too few answers so far to know what a replica sustains")
    sustained, _, knee = load.sustains
    guess = "" if knee else ", as far as is known"
    return ReplicaNeed(
        load.at_work / (sustained * UTILISATION),
        f"{load.at_work:.1f} requests at work, one replica sustains {sustained:.1f}{guess}",
    )


def _is_overload(load: Load, target_wait_s: float) -> bool:
    late = load.wait_s > target_wait_s or load.in_flight > _QUEUE * load.at_work + _SLACK * load.serving
    return late and load.in_flight > load.full * UTILISATION


def _need_under_overload(load: Load) -> ReplicaNeed:
    queue = max(0.0, load.in_flight - load.full)
    said = (
        f"{queue:.0f} requests wait: {_rate(load.arriving)} arrive, "
        f"{load.serving} replicas answer {_rate(load.per_second)}"
    )
    if load.capacity <= 0:
        return ReplicaNeed(2.0 * load.serving, said, overload=True)
    draining = load.per_second - load.arriving
    if draining > 0 and queue <= DRAIN_S * draining:
        return ReplicaNeed(load.serving, f"{said}, and the queue is gone in {queue / draining:.0f} s", overload=True)
    ratio = load.arriving / load.capacity
    if abs(load.growth_per_second) <= _FLAT * load.per_second:
        ratio *= 1 + min(1.0, queue / (_HIDDEN_S * load.capacity))
    ratio += min(queue / (DRAIN_S * load.capacity), ratio)
    return ReplicaNeed(load.serving * ratio / UTILISATION, said, overload=True)


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def round_up(replicas: float) -> int:
    """Whole replicas, forgiving what arithmetic adds to a whole number."""
    return math.ceil(replicas - 1e-6)
