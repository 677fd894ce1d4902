"""What a synchronizer needs from around its cell: where replicas are, who leads, and what runs replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Protocol

from berth.model import DesiredState, ObservedPool
from synchronizer.core.events import Discovered
from synchronizer.core.leadership import Leadership


class Discovery(Protocol):
    def watch(self) -> AsyncIterator[Discovered]:
        """The complete set of replicas of the cell: once at the beginning, and after each change."""


class Lease(NamedTuple):
    """A controller's answer to who leads: `epoch` is that of the holder, whoever it is."""

    granted: bool
    epoch: int
    expires_in: float


class Leases(Protocol):
    """Whoever decides which synchronizer leads a cell."""

    async def lease(
        self, cell: str, holder: str, ttl: float, *, release: bool, timeout: float
    ) -> tuple[bool, int, float]:
        """Acquire, renew or release; the answer has the fields of `Lease`. Raises `Unavailable` if there is none."""


class Pools(Protocol):
    def observe(self) -> tuple[ObservedPool, ...]:
        """What is known now; nothing where nothing is known yet."""

    def hear(self, desired: DesiredState) -> None:
        """A controller said this just now, perhaps again. What only the disk says is not passed on here."""

    async def run(self, lease_left: Callable[[], float], changed: Callable[[], None]) -> None:
        """Keep watch until cancelled, and scale while `lease_left` says for how many seconds this synchronizer leads
        for certain; `changed` is called when `observe` has something new."""


class Surroundings(NamedTuple):
    """Without `leases` the controllers decide who leads; without `pools` nothing is known of what runs the replicas."""

    discovery: Discovery
    leases: Callable[[Leadership], Leases] | None = None
    pools: Pools | None = None
