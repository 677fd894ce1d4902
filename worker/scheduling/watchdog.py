"""Ends runs that take too long, from a thread of its own.

An event loop cannot end a run that it executes itself: it is waiting for that run. The thread looks every 10 ms while
there are runs, and sleeps when there have been none for a second.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

_TICK_S = 0.01
_IDLE_TICKS = 100


class Stoppable(Protocol):
    def stop(self) -> None:
        """Called in the watchdog's thread, again and again until it is disarmed."""


class Watchdog:
    """Stops the runs that it watches when their time is over, give or take a tick."""

    def __init__(self) -> None:
        # Replaced item by item under the interpreter lock: arming costs two dict operations and no other lock.
        self._armed: dict[int, tuple[float, Stoppable]] = {}
        self._wake = threading.Event()
        self._asleep = False
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="run-watchdog", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Watchdog armed={len(self._armed)}{' asleep' if self._asleep else ''}>"

    @property
    def armed(self) -> int:
        """How many runs are watched now."""
        return len(self._armed)

    def arm(self, run: Stoppable, seconds: float) -> None:
        self._armed[id(run)] = (time.monotonic() + seconds, run)
        if self._asleep:
            self._wake.set()

    def disarm(self, run: Stoppable) -> None:
        self._armed.pop(id(run), None)

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _watch(self) -> None:
        quiet = 0
        while not self._closed:
            armed = tuple(self._armed.values())
            now = time.monotonic()
            for deadline, run in armed:
                if deadline <= now:
                    run.stop()
            quiet = 0 if armed else quiet + 1
            if quiet < _IDLE_TICKS:
                time.sleep(_TICK_S)
                continue
            self._asleep = True
            # Whoever armed before it could see that we sleep is found here; whoever arms later wakes us.
            if not self._armed:
                self._wake.wait()
            self._wake.clear()
            self._asleep = False
            quiet = 0
