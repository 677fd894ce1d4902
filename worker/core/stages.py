"""The stages of a load, and what is known of a load that is over. All are values, so that another process can give them
as well.

FETCH    artifact           ─► a verified file
LOAD     the file           ─► a version in a runtime, and its signature; waiting for a turn is part of it
WARM     the version        ─► seconds of its quickest run
MEASURE  the version, warm  ─► bytes that it takes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from berth.model import Signature


class Stage(StrEnum):
    FETCH = "fetch"
    LOAD = "load"
    WARM = "warm"
    MEASURE = "measure"


@dataclass(frozen=True, slots=True)
class StageFailure:
    """Why a load got no further. `permanent`: trying again will not help. `reason` is for the tenant."""

    stage: Stage
    reason: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load found out. `stages`: seconds of each stage that was begun; `quickest_run_s`: infinity without one.

    With a `failure`, the rest says nothing.
    """

    stages: Mapping[Stage, float]
    failure: StageFailure | None = None
    signature: Signature | None = None
    measured_bytes: int = 0
    quickest_run_s: float = float("inf")

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())


@dataclass(slots=True)
class StageClock:
    """Accounts a load's time to its stages. Told the time, in seconds on any clock that does not jump."""

    began: float
    stage: Stage = Stage.FETCH
    _done: dict[Stage, float] = field(default_factory=dict)

    def enter(self, stage: Stage, now: float) -> None:
        """`stage` begins, and the one before it is over."""
        self._done = self.stages(now)
        self.stage, self.began = stage, now

    def stages(self, now: float) -> dict[Stage, float]:
        """Seconds of each stage that was begun."""
        return {**self._done, self.stage: self._done.get(self.stage, 0.0) + now - self.began}
