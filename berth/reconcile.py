"""The level-triggered loop, shared by everything that drives the world towards a state: look, act, look again.

The result of a look decides when the next one comes: when something changes, after a time, or after a delay that grows
with each failure. `Reconciler` looks at many keys, each never twice at once; changes that come meanwhile collapse into
one more look. `Repeater` looks at one thing. Idea: controller-runtime's workqueue.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from berth.wake import Wake

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Done:
    """The key is as it should be, or will never be and says so in its state: look again when it is added."""


@dataclass(frozen=True, slots=True)
class Again:
    """Nothing failed, but look again after `after` seconds."""

    after: float


@dataclass(frozen=True, slots=True)
class Retry:
    """It failed for now: look again after a delay that grows with each failure in a row.

    `anew`: it had worked since the failure before, so this is the first in a row.
    """

    reason: str
    anew: bool = False


Outcome = Done | Again | Retry


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays in seconds with full jitter on the upper half, so that failures do not march in step."""

    first: float = 0.1
    factor: float = 2.0
    most: float = 30.0

    def delay(self, failures: int, rng: random.Random) -> float:
        """The delay after the `failures`-th failure in a row, counted from 1."""
        full: float = min(self.most, self.first * self.factor ** min(failures - 1, 64))
        return full * (0.5 + 0.5 * rng.random())


class _Failures:
    """How often one thing has failed in a row, and how long to wait because of it."""

    def __init__(self, backoff: Backoff, rng: random.Random) -> None:
        self._backoff = backoff
        self._rng = rng
        self._in_a_row = 0

    def __bool__(self) -> bool:
        return self._in_a_row > 0

    def after(self, outcome: Outcome) -> float | None:
        """Seconds until the next look; None: when something changes."""
        match outcome:
            case Done():
                self._in_a_row = 0
                return None
            case Again(after=seconds):
                self._in_a_row = 0
                return seconds
            case Retry(anew=anew):
                self._in_a_row = 1 if anew else self._in_a_row + 1
                return self._backoff.delay(self._in_a_row, self._rng)


class Repeater:
    """Looks at one thing until cancelled: at once, and again when `wake` wakes it or as the look before has said.

    A change does not cut the delay after a failure short. A look that raises ends the loop. For errors that may happen
    it returns `Retry`, and logs those worth a line.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[Outcome]],
        *,
        wake: Wake | None = None,
        backoff: Backoff | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._look = look
        self._wake = wake or Wake()
        self._failures = _Failures(backoff or Backoff(), rng or random.Random())

    def look_again(self) -> None:
        """Look as soon as possible."""
        self._wake.up()

    async def run(self) -> None:
        """Look until cancelled."""
        waiter = self._wake.waiter()
        while True:
            outcome = await self._look()
            pause = self._failures.after(outcome)
            if isinstance(outcome, Retry):
                await asyncio.sleep(pause or 0.0)
            else:
                await waiter.wait(pause)


class Reconciler(Generic[K]):
    """Runs `look(key)` for added keys, at most `concurrency` at a time. An exception in `look` counts as `Retry`."""

    def __init__(
        self,
        name: str,
        look: Callable[[K], Awaitable[Outcome]],
        *,
        concurrency: int = 8,
        backoff: Backoff | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._name = name
        self._look = look
        self._backoff = backoff or Backoff()
        self._rng = rng or random.Random()
        self._slots = asyncio.Semaphore(concurrency)
        # Every key is in at most one of: queued, running, or waiting for its timer.
        self._queue: asyncio.Queue[K] = asyncio.Queue()
        self._queued: set[K] = set()
        self._running: set[K] = set()
        self._dirty: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, _Failures] = {}

    def __repr__(self) -> str:
        return (
            f"<Reconciler {self._name} queued={len(self._queued)} running={len(self._running)} "
            f"waiting={len(self._timers)} failing={len(self._failures)}>"
        )

    def add(self, key: K) -> None:
        """Look at `key` as soon as possible; what it was waiting for no longer matters."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._dirty.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._queue.put_nowait(key)

    def forget(self, key: K) -> None:
        """Drop the timer and the failure count of a key that no longer exists; a running look is left to end."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._dirty.discard(key)
        self._failures.pop(key, None)

    async def run(self) -> None:
        """Reconcile until cancelled; looks under way are then cancelled and awaited."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    key = await self._queue.get()
                    await self._slots.acquire()
                    self._queued.discard(key)
                    self._running.add(key)
                    tasks.create_task(self._run_one(key), name=f"{self._name}:{key}")
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _run_one(self, key: K) -> None:
        try:
            outcome = await self._look(key)
        except Exception as error:
            # A named boundary: one key's fault must not stop the others.
            log.exception("reconcile failed", loop=self._name, key=str(key))
            outcome = Retry(repr(error))
        finally:
            self._running.discard(key)
            self._slots.release()
        self._settle(key, outcome)

    def _settle(self, key: K, outcome: Outcome) -> None:
        failures = self._failures.setdefault(key, _Failures(self._backoff, self._rng))
        after = failures.after(outcome)
        if not failures:
            del self._failures[key]
        if isinstance(outcome, Retry) and after is not None:
            log.info("will retry", loop=self._name, key=str(key), reason=outcome.reason, after_s=round(after, 3))
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)
        elif after is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(after, self._fire, key)

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)
