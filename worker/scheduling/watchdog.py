"""Ends ONNX Runtime runs that take too long, from a thread of its own.

An event loop cannot do that for a run that it is itself executing: it would be the one that waits. The thread looks
every 10 ms while there are runs, and sleeps when there have been none for a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TICK_S = 0.01
_IDLE_TICKS = 100


class Watchdog:
    """Sets `terminate` on the RunOptions it watches when their time is over."""

    def __init__(self) -> None:
        # Replaced item by item under the interpreter lock: arming costs two dict operations and no other lock.
        self._armed: dict[int, tuple[float, Any]] = {}
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

    @contextmanager
    def limit(self, options: Any, seconds: float) -> Iterator[None]:
        """End the run that uses `options` when the context has been open for `seconds`, give or take a tick."""
        self.arm(options, seconds)
        try:
            yield
        finally:
            self.disarm(options)

    def arm(self, options: Any, seconds: float) -> None:
        self._armed[id(options)] = (time.monotonic() + seconds, options)
        if self._asleep:
            self._wake.set()

    def disarm(self, options: Any) -> None:
        self._armed.pop(id(options), None)

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _watch(self) -> None:
        quiet = 0
        while not self._closed:
            armed = tuple(self._armed.values())
            now = time.monotonic()
            for deadline, options in armed:
                if deadline <= now:
                    options.terminate = True
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
