"""Versions that requests ask for and no replica holds: what to tell the synchronizer, and how often.

A wish is a level, not an event: it holds until a time, and while it does, each stream repeats it about once a second.
So a lost notice or a new leader costs a second, and no bookkeeping.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from berth.ids import VersionKey

# Seconds between two notices of the same wish on one stream; and how long a wish lasts if nobody waits for it: long
# enough to be said once.
REPEAT = 1.0
# At most so many wishes at a time, and so many in one notice. What does not fit is asked for again, if it matters.
MOST_WISHES = 1_024
MOST_IN_NOTICE = 256


class Wanted:
    """The wishes of one router process."""

    def __init__(self) -> None:
        self._until: dict[VersionKey, float] = {}

    def __repr__(self) -> str:
        return f"<Wanted {len(self._until)}>"

    def __len__(self) -> int:
        return len(self._until)

    def ask(self, key: VersionKey, until: float, now: float) -> bool:
        """Someone waits for `key` until a time, or asked for it in vain now. Whether that was not known yet."""
        until = max(until, now + REPEAT)
        known = self._until.get(key)
        if known is None and len(self._until) >= MOST_WISHES:
            self._forget(now)
            if len(self._until) >= MOST_WISHES:
                return False
        if known is None or known < until:
            self._until[key] = until
        return known is None or known <= now

    def fulfilled(self, key: VersionKey) -> None:
        """A replica holds `key`, or nobody can ask for it any more."""
        self._until.pop(key, None)

    def current(self, now: float) -> Iterator[VersionKey]:
        """The wishes of now, the oldest first."""
        self._forget(now)
        return iter(self._until)

    def _forget(self, now: float) -> None:
        for key in [key for key, until in self._until.items() if until <= now]:
            del self._until[key]


class Notices:
    """What one stream has been told."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._said: dict[VersionKey, float] = {}

    def take(self, now: float) -> tuple[VersionKey, ...]:
        """What to say now, and take as said; at most `MOST_IN_NOTICE`, the oldest wishes first."""
        # Kept even if the wish is over: so a wish that comes and goes is not said more often.
        said = {key: at for key, at in self._said.items() if at + REPEAT > now}
        due = (key for key in self._wanted.current(now) if key not in said)
        chosen = tuple(itertools.islice(due, MOST_IN_NOTICE))
        self._said = said | dict.fromkeys(chosen, now)
        return chosen

    def next_at(self, now: float) -> float | None:
        """When `take` has something to say if no wish is added; None if never. Not before `now`."""
        times = [self._said.get(key, now - REPEAT) + REPEAT for key in self._wanted.current(now)]
        return max(now, min(times)) if times else None
