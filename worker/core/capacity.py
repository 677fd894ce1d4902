"""The memory ledger: what the versions of this replica take, and whether one more may be loaded.

Two sums are kept apart, because they are known with different certainty:

* **reserved**: what placement set aside. Exact, and the same inequality that the controller keeps:
  the sum over everything held or loading is at most `memory_bytes`.
* **physical**: what is really taken: the larger of reserved and measured for what is held, plus what a load needs for
  a moment beyond its reservation. It may use `headroom_bytes` more than `memory_bytes`. So a measurement that comes
  out a little above an estimate does not lock out the last version of a full job, yet the bound holds.

A load whose transient need exceeds the headroom is let through when no other load is under way: refusing it for ever
would make an accepted version unloadable, and alone its peak is the smallest that it can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from berth.footprint import transient
from berth.model import VersionSpec
from berth.states import ServableState


class Charge(NamedTuple):
    """What one servable takes: bytes reserved, bytes taken beyond that, bytes taken while loading, loads under way.

    `used` is for reports: bytes measured, or reserved while they cannot be measured yet.
    """

    reserved: int = 0
    excess: int = 0
    transient: int = 0
    loads: int = 0
    used: int = 0


NOTHING = Charge()


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """`memory_bytes` bounds reservations; `headroom_bytes` come on top, for loads; `max_loads` run at once."""

    memory_bytes: int
    headroom_bytes: int = 512 * 2**20
    max_loads: int = 4


@dataclass(frozen=True, slots=True)
class MemoryLedger:
    """The sums of all charges, as a value: adding a charge gives another ledger."""

    limits: MemoryLimits
    total: Charge = NOTHING

    @property
    def free_bytes(self) -> int:
        """Bytes that can still be reserved; below 0 if reservations grew after the load."""
        return self.limits.memory_bytes - self.total.reserved

    def recharge(self, old: Charge, new: Charge) -> MemoryLedger:
        """The ledger after one servable's charge went from `old` to `new`."""
        if old == new:
            return self
        return MemoryLedger(
            self.limits, Charge(*(have - out + come for have, out, come in zip(self.total, old, new, strict=True)))
        )

    def obstacle(self, spec: VersionSpec) -> str | None:
        """Why `spec` cannot be loaded now, in words for its tenant and operator, or None if it can."""
        limits, total = self.limits, self.total
        if spec.reserved_bytes > limits.memory_bytes:
            return f"needs {spec.reserved_bytes} bytes, more than the {limits.memory_bytes} of this replica"
        if total.loads >= limits.max_loads:
            return "waiting for other loads to finish"
        if spec.reserved_bytes > self.free_bytes:
            return f"waiting for memory: needs {spec.reserved_bytes} bytes"
        come = charge(ServableState.LOADING, spec, 0)
        ceiling = limits.memory_bytes + limits.headroom_bytes
        resident = total.reserved + total.excess + come.reserved
        if resident > ceiling:
            return "waiting for memory: versions held here take more than was reserved for them"
        if total.loads and resident + total.transient + come.transient > ceiling:
            return "waiting for other loads to finish"
        return None


def charge(state: ServableState, spec: VersionSpec, measured_bytes: int) -> Charge:
    """What a servable in `state` takes."""
    match state:
        case ServableState.LOADING:
            return Charge(spec.reserved_bytes, 0, transient(spec.artifact.size_bytes), 1, spec.reserved_bytes)
        case ServableState.AVAILABLE | ServableState.DRAINING | ServableState.UNLOADING:
            return Charge(spec.reserved_bytes, max(0, measured_bytes - spec.reserved_bytes), used=measured_bytes)
        case _:
            return NOTHING
