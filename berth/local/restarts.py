"""When to start a program again that ended unasked. Pure: the clock and the dice are arguments."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import NamedTuple

from berth.reconcile import Backoff

BACKOFF = Backoff(first=0.05, factor=2.0, most=5.0)
# A life this long, in seconds, is a sound one: what ends it is news, not the old trouble again.
SOUND_LIFE_S = 10.0
# A program that was never ready and ends this often in a row will not come up by itself.
MOST_STILLBIRTHS = 5
# What `berth.process` says when a setting is wrong; trying again will not mend it.
_EXIT_SETTINGS = 64


@dataclass(frozen=True, slots=True)
class History:
    """`restarts` counts deaths in all, `failures` those in a row without a sound life between them."""

    restarts: int = 0
    failures: int = 0
    was_ready: bool = False


class Death(NamedTuple):
    """How a life ended. A negative `code` is the number of the signal; None: it could not even be started."""

    code: int | None
    lived_s: float
    was_ready: bool


class StartAgain(NamedTuple):
    after_s: float


class StopTrying(NamedTuple):
    reason: str


def after_death(history: History, death: Death, rng: random.Random) -> tuple[History, StartAgain | StopTrying]:
    """What to do after a death nobody asked for.

    A program that has proved itself once is started again for ever, after at most 5 seconds, the first time almost
    at once. A program that was never ready is given up after five tries, or at once if it says that its settings are
    wrong.
    """
    history = replace(
        history,
        restarts=history.restarts + 1,
        failures=1 if death.lived_s >= SOUND_LIFE_S else history.failures + 1,
        was_ready=history.was_ready or death.was_ready,
    )
    if not history.was_ready:
        if death.code == _EXIT_SETTINGS:
            return history, StopTrying("its settings are wrong")
        if history.failures >= MOST_STILLBIRTHS:
            return history, StopTrying(f"it ended {history.failures} times before it was ready")
    return history, StartAgain(BACKOFF.delay(history.failures, rng))
