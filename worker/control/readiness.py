"""What the worker says when it is probed, and whether its event loop keeps up.

Ready means: this replica is worth having. It serves what it was told to hold, or has tried to. Until then a rolling
upgrade must not take the next one away. Later loads do not make it unready: it goes on serving what it has.

Alive means that the event loop turns: an answer to /healthz proves it. Only a stuck process fails this probe. To
restart one that is slow, or that waits for a synchronizer, would only make things worse.
"""

from __future__ import annotations

import asyncio

import structlog

from worker.keeping.keeper import Keeper
from worker.runtimes.protocol import ModelRuntime

log = structlog.get_logger(__name__)

_BEAT_S = 0.25
# A loop that was held up longer than this has delayed every request; a healthy one is at most some milliseconds late.
_LATE_S = 0.5


class LoopPulse:
    """Measures how late the event loop is."""

    def __init__(self) -> None:
        self._worst = 0.0

    async def beat(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            late = clock() - due
            self._worst = max(self._worst, late)
            if late >= _LATE_S:
                log.warning("the event loop was held up; every request was", seconds=round(late, 3))

    def worst_since_asked(self) -> float:
        """Seconds, since the last time it was asked."""
        worst, self._worst = self._worst, 0.0
        return worst


class Probed:
    """The state behind the probes. It exists before there is anything to be asked of."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.pulse = LoopPulse()
        self._stop = stop
        self._clock = asyncio.get_running_loop().time
        self._keeper: Keeper | None = None
        self._runtime: ModelRuntime | None = None
        self._patient_until = 0.0
        self._settled = False

    def listening(self, keeper: Keeper, runtime: ModelRuntime, patience_s: float) -> None:
        """All ports are open and announced. The first loads are waited for, `patience_s` seconds at most: a version
        that takes for ever must not hold up a rollout for ever."""
        self._keeper, self._runtime = keeper, runtime
        self._patient_until = self._clock() + patience_s

    def readiness(self) -> str | None:
        """Why the worker is not ready, or None."""
        if self._stop.is_set():
            return "asked to stop"
        if self._keeper is None or self._runtime is None:
            return "starting"
        if self._runtime.trouble is not None:
            return self._runtime.trouble
        self._settled = self._settled or self._keeper.settled or self._clock() >= self._patient_until
        if self._settled:
            return None
        return "loading what it was told to hold" if self._keeper.aspires else "not told yet what to hold"
