"""Pools, as the synchronizer needs them: what runs the replicas of jobs here, and how many it is to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from berth.model import DesiredState, ObservedPool


class Pools(Protocol):
    def observe(self) -> tuple[ObservedPool, ...]:
        """What is known now; nothing where nothing is known yet."""

    def hear(self, desired: DesiredState) -> None:
        """A controller said this just now, perhaps again. What only the disk says is not passed on here."""

    async def run(self, lease_left: Callable[[], float], changed: Callable[[], None]) -> None:
        """Keep watch until cancelled, and scale while `lease_left` says for how many seconds this synchronizer leads
        for certain; `changed` is called when `observe` has something new."""
