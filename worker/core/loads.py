"""How much work a replica does: what it has answered, how long that took, and how much of it was waiting.

Kept as sums since the start, so that a lost report loses nothing. Adding to them is on the path of every request: plain
attributes, and no lock, since all of it happens on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from berth.ids import VersionKey
from berth.model import ReplicaLoad, ServableLoad

# Versions come and go for months. Sums of versions that are gone are dropped once there are so many more sums than
# versions.
_SPARE = 1_000


class _Sum:
    __slots__ = ("busy_s", "completed", "fresh", "key")

    def __init__(self, key: VersionKey) -> None:
        self.key = key
        self.completed = 0
        self.busy_s = 0.0
        # Whether it is among those that readers have yet to be told of.
        self.fresh = False


class LoadReader:
    """One who is told of the versions that had requests since the last time."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._untold: dict[VersionKey, _Sum] = {}

    def note(self, sums: list[_Sum]) -> None:
        self._untold.update((one.key, one) for one in sums)

    def collect(self) -> tuple[ServableLoad, ...]:
        """In no particular order."""
        self._loads.hand_out()
        untold, self._untold = self._untold, {}
        return tuple(ServableLoad(one.key, one.completed, one.busy_s) for one in untold.values())


class Loads:
    """The sums of a replica. All seconds are from a complete request to its answer."""

    def __init__(self) -> None:
        self._completed = 0
        self._busy_s = 0.0
        self._queued_s = 0.0
        self._sums: dict[VersionKey, _Sum] = {}
        self._fresh: list[_Sum] = []
        self._readers: set[LoadReader] = set()

    def __repr__(self) -> str:
        return f"<Loads {self.total} of {len(self._sums)} versions>"

    @property
    def total(self) -> ReplicaLoad:
        return ReplicaLoad(self._completed, self._busy_s, self._queued_s)

    def add(self, key: VersionKey, seconds: float, queued: float = 0.0, completed: int = 1) -> None:
        """A request is over. One that was given up counts as work, and not as `completed`."""
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = _Sum(key)
        self._completed += completed
        self._busy_s += seconds
        self._queued_s += queued
        found.completed += completed
        found.busy_s += seconds
        if not found.fresh:
            found.fresh = True
            self._fresh.append(found)

    @contextmanager
    def reader(self) -> Iterator[LoadReader]:
        """A reader that is told of what comes from now on, for as long as the context is open."""
        self.hand_out()
        reader = LoadReader(self)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def hand_out(self) -> None:
        """Tell all readers of what is new."""
        fresh, self._fresh = self._fresh, []
        for one in fresh:
            one.fresh = False
        for reader in self._readers:
            reader.note(fresh)

    def retain(self, held: frozenset[VersionKey]) -> None:
        """Forget versions that are gone, now and then. One that comes back begins at zero."""
        if len(self._sums) > len(held) + _SPARE:
            self._sums = {key: one for key, one in self._sums.items() if key in held}
