"""What the cell is told, and what it answers: facts in, imperatives out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from berth.model import AspiredSet, DesiredState, Order, ReplicaAddress, ReplicaStatus, RouteDelta


@dataclass(frozen=True, slots=True)
class Led:
    """This synchronizer leads from now on, in `epoch`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SteppedDown:
    """It leads no more."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Generations after `after` up to `upto` may be given out: the disk remembers that they may have been."""

    after: int
    upto: int


@dataclass(frozen=True, slots=True)
class DesiredArrived:
    state: DesiredState


@dataclass(frozen=True, slots=True)
class Discovered:
    """The complete set of registered replicas of the cell, by name; those of `leaving` will end, whatever they say."""

    addresses: Mapping[str, ReplicaAddress]
    leaving: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reported:
    """A replica reported on its stream.

    `refused`: it did not take the last set it was sent. `opened`: the stream is new, so what was sent before may not
    have arrived.
    """

    status: ReplicaStatus
    refused: bool = False
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream of a replica broke, fell silent, or could not be opened."""

    replica: str


@dataclass(frozen=True, slots=True)
class RouterSeen:
    """A router connected on stream `session` or acknowledged on it: `applied` is the table it routes by."""

    session: int
    router: str
    applied: Order


@dataclass(frozen=True, slots=True)
class RouterGone:
    session: int


CellEvent = Led | SteppedDown | Reserved | DesiredArrived | Discovered | Reported | Lost | RouterSeen | RouterGone


class Push(NamedTuple):
    """Send `aspired` to `replica`; it replaces whatever waits to be sent there."""

    replica: str
    aspired: AspiredSet


class Instructions(NamedTuple):
    """What to do after a step, in this order."""

    fenced: int = 0
    """Not 0: someone shows this epoch, later than ours. Step down; the rest is empty."""
    publish: RouteDelta | None = None
    pushes: tuple[Push, ...] = ()
    changed: bool = False
    """What `observed` says has changed."""
    reserve_after: int | None = None
    """Reserve more generations, all after this one."""
    wake_at: float | None = None
    """Step again at this time though no event came."""
