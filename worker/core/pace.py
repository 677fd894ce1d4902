"""How quick a version's runs are, and so where the next one takes place: on the event loop, watched, or in the pool.

A hop to a thread costs 20 to 60 µs of CPU, many times a tiny run (5 µs). What runs on the loop holds up everybody else
meanwhile. A version can be quick on zeros and endless on other values, so no judgement is final but one.

1. A version runs in the pool until one run took less than `QUICK_S`, in its warm-up or in the pool.
2. On the loop a run has `INLINE_LIMIT_S`. One that needs more is ended, begun again in the pool, and the version stays
   there. It comes back by 1, unless it computed for half of that limit: then it never does. On a crowded machine the
   process itself may not have run for so long, which is not the model's fault.
3. After `SLOW_RUNS` runs in a row on the loop that took `SLOW_S` each, the version goes to the pool; 1 brings it back.
4. Inputs above `INLINE_BYTES` go to the pool, whatever the version.
"""

from __future__ import annotations

QUICK_S = 100e-6
INLINE_LIMIT_S = 0.02
INLINE_BYTES = 64 * 1024
SLOW_S = 1e-3
SLOW_RUNS = 3


class Pace:
    """What is known of one version. Seconds of a run are elapsed time, unless it says otherwise."""

    __slots__ = ("_distrusted", "_slow_runs", "inline")

    def __init__(self) -> None:
        self.inline = False
        """Whether runs with small inputs take place on the loop."""
        self._distrusted = False
        self._slow_runs = 0

    def __repr__(self) -> str:
        return f"<Pace {'loop' if self.inline else 'pool'}{' for good' if self._distrusted else ''}>"

    def ran_apart(self, seconds: float) -> None:
        """A run off the loop is over: in the pool, or the quickest of a warm-up (infinity: there was none)."""
        if seconds < QUICK_S and not self._distrusted:
            self.inline = True

    def ran_inline(self, seconds: float) -> None:
        """A run on the loop is over."""
        if seconds < SLOW_S:
            self._slow_runs = 0
            return
        self._slow_runs += 1
        if self._slow_runs >= SLOW_RUNS:
            self._slow_runs, self.inline = 0, False

    def overran(self, cpu_seconds: float) -> None:
        """A run on the loop was ended at its limit; `cpu_seconds` is for how long the thread computed."""
        self.inline = False
        if cpu_seconds >= INLINE_LIMIT_S / 2:
            self._distrusted = True
