"""Leadership by a Lease of Kubernetes: who holds it, and what one candidate may do about that.

Clocks of other machines are never compared with ours. A record says how long it lasts. If it has not changed for so
long, its holder is gone. We count on our own clock, from when we first saw the record so: the same rule as client-go's.

The epoch is the record's `leaseTransitions`. Every new holder raises it past the last holder's, and past every epoch
that it knows of from elsewhere (its disk, a controller, a worker that refused it). So epochs go on growing when the
record is deleted, restored from a backup, or begins after the controllers' own lease was used before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_LEAP = 1000
"""How far a new record starts past the known epochs: nobody saw how often the deleted record changed hands."""


class Record(NamedTuple):
    """The Lease as it was read. `renewed` is only compared; `version` is what a write must be based on."""

    holder: str
    epoch: int
    lasts: float
    renewed: str
    version: str


@dataclass(frozen=True, slots=True)
class CreateRecord:
    """There is no record: make one that says we hold it in `epoch`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """Write ourselves into the record of `version`: as holder in `epoch`, which is new unless we renew."""

    epoch: int
    version: str


@dataclass(frozen=True, slots=True)
class WaitForHolder:
    """Another one holds it in `epoch`, and may for `left` seconds more."""

    epoch: int
    left: float


TenureStep = CreateRecord | HoldRecord | WaitForHolder


class Tenure:
    """What one candidate has seen of the record. `known` is the highest epoch that its disk remembers."""

    def __init__(self, known: int = 0) -> None:
        self._known = known
        self._record: Record | None = None
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<Tenure known={self._known} {self._record}>"

    @property
    def known(self) -> int:
        """The highest epoch seen; it never falls."""
        return self._known

    def see(self, record: Record | None, now: float) -> None:
        """The record is like this, or not there."""
        if _said(record) != _said(self._record):
            self._since = now
        self._record = record
        if record is not None:
            self._known = max(self._known, record.epoch)

    def next_step(self, me: str, floor: int, now: float) -> TenureStep:
        """What `me` may do. A new epoch is above `floor`, and above all that was seen."""
        record, past = self._record, max(self._known, floor)
        if record is None:
            return CreateRecord(past + _LEAP if past else 1)
        if record.holder == me:
            return HoldRecord(record.epoch, record.version)
        left = self._since + record.lasts - now
        if record.holder and left > 0:
            return WaitForHolder(record.epoch, left)
        return HoldRecord(past + 1, record.version)


def _said(record: Record | None) -> Record | None:
    """What its holder wrote: a label that somebody else puts on the object is no sign of the holder's life."""
    return None if record is None else record._replace(version="")
