"""Whether this synchronizer leads its cell: a state machine over lease replies and signs of other leaders.

The lease in PostgreSQL decides who leads; epochs make a mistake harmless. A leader that cannot reach any controller
goes on past the end of its lease: while no controller answers, nobody else can take it. Whoever takes it later is given
a higher epoch, which workers and routers prefer. The first of them to show that epoch deposes this leader.

    STANDBY ──granted, or resumed──► LEADING ──denied──► STANDBY
                                        │ fenced
                                        ▼
    LEADING ◄──granted above the fence─ DEPOSED ──denied──► STANDBY
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    STANDBY = "standby"
    LEADING = "leading"
    DEPOSED = "deposed"


@dataclass(frozen=True, slots=True)
class Granted:
    """A controller gave or renewed the lease; it holds for `ttl` seconds from when it was asked for."""

    epoch: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Denied:
    """A controller answered that another one holds the lease of `epoch`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No controller answered."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """A worker, a router or a controller showed that `epoch`, and all before it, is over or another's."""

    epoch: int


LeaseEvent = Granted | Denied | Unreachable | Fenced


@dataclass(frozen=True, slots=True)
class Lead:
    """Lead in `epoch`. Also given to one who leads already, when its epoch changes."""

    epoch: int


@dataclass(frozen=True, slots=True)
class StepDown:
    """Stop pushing and publishing at once."""

    reason: str


RoleChange = Lead | StepDown

_NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.STANDBY: frozenset({Phase.STANDBY, Phase.LEADING}),
    Phase.LEADING: frozenset(Phase),
    Phase.DEPOSED: frozenset(Phase),
}


class Leadership:
    """`resumable` is the epoch that this synchronizer's disk says it led when it ended, 0 if none.

    It is used only while no controller has answered since the start: one that answers knows better.
    """

    def __init__(self, resumable: int = 0) -> None:
        self.phase = Phase.STANDBY
        self.epoch = 0
        self._resumable = resumable
        self._fence = 0
        self._lease_until = 0.0

    def __repr__(self) -> str:
        return f"<Leadership {self.phase} epoch={self.epoch} fence={self._fence}>"

    def on(self, event: LeaseEvent, now: float) -> RoleChange | None:
        """Take in one event; the answer is what to do, if anything."""
        before, epoch = self.phase, self.epoch
        match event:
            case Granted():
                self._resumable = 0
                if event.epoch > self._fence:
                    self.phase, self.epoch = Phase.LEADING, event.epoch
                    self._lease_until = now + event.ttl
                reason = ""
            case Denied():
                self._resumable = 0
                self._fence = max(self._fence, event.epoch)
                self.phase = Phase.STANDBY
                reason = f"another synchronizer holds the lease of epoch {event.epoch}"
            case Unreachable():
                if self.phase is Phase.STANDBY and self._resumable > self._fence:
                    self.phase, self.epoch = Phase.LEADING, self._resumable
                self._resumable = 0
                reason = ""
            case Fenced():
                self._fence = max(self._fence, event.epoch)
                if self.phase is Phase.LEADING and event.epoch >= self.epoch:
                    self.phase = Phase.DEPOSED
                reason = f"epoch {event.epoch} is over or another's"
        assert self.phase in _NEXT[before]
        if self.phase is not Phase.LEADING:
            self.epoch = 0
            return StepDown(reason) if before is Phase.LEADING else None
        return Lead(self.epoch) if self.epoch != epoch else None

    @property
    def resumable(self) -> int:
        """The epoch to remember on disk for a restart without controllers; 0 if there is none."""
        return self.epoch or self._resumable

    @property
    def fence(self) -> int:
        """The highest epoch known to be over or another's."""
        return self._fence

    def lease_left(self, now: float) -> float:
        """For how many seconds nobody else can lead. Within that time it is safe to write what has no other protection
        against a second leader. 0 while the lease is not known to be held."""
        return max(0.0, self._lease_until - now) if self.phase is Phase.LEADING else 0.0

    def holds_lease(self, now: float) -> bool:
        """Whether the lease is known to be held. A leader without a known lease leads on what it last knew."""
        return self.phase is Phase.LEADING and now < self._lease_until

    def validate(self) -> None:
        """Raise AssertionError where the pieces contradict each other."""
        assert (self.epoch > 0) == (self.phase is Phase.LEADING)
        assert self.phase is not Phase.LEADING or self.epoch > self._fence, "leads in an epoch known to be over"
