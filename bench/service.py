"""How long a scripted replica takes to answer: a number of slots, a queue before them, and a distribution."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Service:
    """Milliseconds. A request takes (`least_ms` + an exponential of mean `mean_ms` + `extra_ms`) x `times`; a share
    of `slow_share` takes `slow_ms` instead. All zero: answered at once, with no timer and no queue."""

    least_ms: float = 0.0
    mean_ms: float = 0.0
    extra_ms: float = 0.0
    slow_share: float = 0.0
    slow_ms: float = 0.0
    times: float = 1.0

    def seconds(self, rng: Random) -> float:
        if self.slow_share and rng.random() < self.slow_share:
            return self.slow_ms / 1000.0
        random_ms = rng.expovariate(1.0) * self.mean_ms
        return (self.least_ms + random_ms + self.extra_ms) * self.times / 1000.0

    @property
    def at_once(self) -> bool:
        return not (self.least_ms or self.mean_ms or self.extra_ms or self.slow_share)


@dataclass(slots=True, eq=False)
class _Work:
    reply: Callable[[], None]
    timer: asyncio.TimerHandle | None = None
    withdrawn: bool = False


class Replica:
    """Answers `slots` requests side by side, the others in order of arrival.

    What is withdrawn while it waits costs nothing, and while it runs frees its slot: as a worker of Berth does.
    """

    def __init__(self, service: Service, slots: int, rng: Random) -> None:
        self.service = service
        self.arrived = 0
        self.answered = 0
        self.withdrawn = 0
        self._free = slots
        self._queue: deque[_Work] = deque()
        self._rng = rng

    def begin(self, reply: Callable[[], None]) -> Callable[[], None] | None:
        """Have `reply` called when the work is done, maybe at once. What is returned withdraws the request."""
        self.arrived += 1
        if self.service.at_once:
            self.answered += 1
            reply()
            return None
        work = _Work(reply)
        if self._free:
            self._start(work)
        else:
            self._queue.append(work)

        def withdraw() -> None:
            if work.withdrawn:
                return
            work.withdrawn = True
            self.withdrawn += 1
            if work.timer is not None:
                work.timer.cancel()
                self._release()

        return withdraw

    def _start(self, work: _Work) -> None:
        self._free -= 1
        work.timer = asyncio.get_running_loop().call_later(self.service.seconds(self._rng), self._finish, work)

    def _finish(self, work: _Work) -> None:
        self.answered += 1
        # Whoever withdraws it now is late.
        work.withdrawn = True
        work.reply()
        self._release()

    def _release(self) -> None:
        self._free += 1
        while self._queue and self._free:
            work = self._queue.popleft()
            if not work.withdrawn:
                self._start(work)
