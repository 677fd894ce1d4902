"""Lending what is held: requests borrow a version, and it is not unloaded while somebody has it."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from types import TracebackType

from berth.ids import VersionKey
from worker.runtimes.protocol import Loaded, NotHeld


class Guard(AbstractContextManager[Loaded]):
    """Lends one version. Entering borrows, leaving gives back; it may be entered many times at once.

    One object per version, not per request: a borrow is a dict lookup and two additions. Not thread-safe.
    """

    __slots__ = ("_idle", "_key", "_loaded", "borrowers", "open")

    def __init__(self, key: VersionKey, loaded: Loaded) -> None:
        self._key = key
        self._loaded = loaded
        self._idle: asyncio.Event | None = None
        self.open = True
        self.borrowers = 0

    def __repr__(self) -> str:
        return f"<Guard {self._key} {'open' if self.open else 'closed'} borrowers={self.borrowers}>"

    def __enter__(self) -> Loaded:
        if not self.open:
            raise NotHeld(str(self._key))
        self.borrowers += 1
        return self._loaded

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.borrowers -= 1
        if not self.borrowers and self._idle is not None:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until nobody has it. Meaningful once it is closed."""
        if self.borrowers:
            self._idle = asyncio.Event()
            await self._idle.wait()


class Lending:
    """Implements `Servables`: what can be borrowed now. The hot path reads one dict here and nothing else."""

    def __init__(self) -> None:
        self._guards: dict[VersionKey, Guard] = {}
        self._keys: frozenset[VersionKey] | None = None

    def __repr__(self) -> str:
        return f"<Lending {len(self._guards)}>"

    def __len__(self) -> int:
        return len(self._guards)

    def acquire(self, key: VersionKey) -> AbstractContextManager[Loaded]:
        """Borrow a version: it is not unloaded while the context is open. Raises `NotHeld`. Never waits."""
        try:
            return self._guards[key]
        except KeyError:
            raise NotHeld(str(key)) from None

    def held(self) -> frozenset[VersionKey]:
        """The versions that can be acquired now."""
        if self._keys is None:
            self._keys = frozenset(self._guards)
        return self._keys

    def offer(self, key: VersionKey, guard: Guard) -> None:
        """From now on it can be borrowed."""
        guard.open = True
        self._guards[key] = guard
        self._keys = None

    def withdraw(self, key: VersionKey) -> None:
        """From now on nobody can borrow it; whoever has it keeps it until they give it back."""
        self._guards.pop(key).open = False
        self._keys = None
