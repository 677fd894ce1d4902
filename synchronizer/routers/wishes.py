"""Versions that routers want loaded: requests ask for them, and they are assigned, but no replica holds them.

Here they are counted and handed on. Whoever decides what a replica holds may act on them (`OnWanted`). A wish is not a
command: if nobody acts on it, it ends as the router's 503 with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from berth.ids import VersionKey
from synchronizer.metrics import Metrics

# Routers repeat a wish about once a second while requests wait, so after this long it is over.
_LASTS = 3.0
_MOST = 10_000


class OnWanted(Protocol):
    def __call__(self, versions: tuple[VersionKey, ...], /) -> None:
        """A router says that requests ask for these now. Must return at once."""


class WantedVersions:
    """The wishes of the last seconds, of all routers; `and_then` hears the ones that this process may act on."""

    def __init__(
        self,
        leading: Callable[[], bool],
        now: Callable[[], float],
        metrics: Metrics,
        and_then: OnWanted | None = None,
    ) -> None:
        self._leading = leading
        self._now = now
        self._metrics = metrics
        self._and_then = and_then
        self._heard: dict[VersionKey, float] = {}

    def __repr__(self) -> str:
        return f"<WantedVersions {len(self._heard)}>"

    def hear(self, versions: tuple[VersionKey, ...]) -> None:
        """A router wants `versions`. Of no consequence while another synchronizer leads: routers tell it too."""
        if not self._leading():
            return
        now = self._now()
        for key in versions:
            # Moved to the end, so that the oldest come first.
            self._heard.pop(key, None)
            self._heard[key] = now
        while len(self._heard) > _MOST:
            del self._heard[next(iter(self._heard))]
        self._metrics.wanted.inc(len(versions))
        if self._and_then is not None:
            self._and_then(versions)

    def wanted(self) -> tuple[VersionKey, ...]:
        """The versions that are wanted now, the longest silent first."""
        now = self._now()
        while self._heard:
            key = next(iter(self._heard))
            if self._heard[key] + _LASTS > now:
                break
            del self._heard[key]
        return tuple(self._heard)
