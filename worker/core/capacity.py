"""The memory ledger: what the versions of this replica take, and whether one more may be loaded.

Two sums are kept apart, because they are known with different certainty:

* **reserved**: what placement set aside. This sum is exact, and keeps the controller's own inequality: over everything
  held or loading it is at most `memory`, on every device.
* **physical**: what is really taken. For what is held, that is the larger of reserved and measured; a load adds what it
  needs for a moment beyond its reservation. This sum may be up to `headroom` above `memory`. So a measurement a little
  above an estimate does not lock out the last version of a full job, yet the bound holds.

A load whose transient need exceeds the headroom is let through when no other load is under way. To refuse it for ever
would make an accepted version unloadable, and alone its peak is as small as it can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from berth.footprint import transient
from berth.model import VersionSpec
from berth.resources import HOST, Resources
from berth.states import ServableState


class Charge(NamedTuple):
    """What one servable takes: reserved, taken beyond that, taken while loading; and loads under way.

    `used` is for reports: bytes of the host measured, or reserved while they cannot be measured yet. Only the host's
    memory is measured, and only there do loads peak. On other devices the reservation is taken to be what is used.
    """

    reserved: Resources = Resources()
    excess: Resources = Resources()
    transient: Resources = Resources()
    loads: int = 0
    used: int = 0

    def plus(self, other: Charge) -> Charge:
        return Charge(
            self.reserved + other.reserved,
            self.excess + other.excess,
            self.transient + other.transient,
            self.loads + other.loads,
            self.used + other.used,
        )

    def minus(self, other: Charge) -> Charge:
        return Charge(
            self.reserved - other.reserved,
            self.excess - other.excess,
            self.transient - other.transient,
            self.loads - other.loads,
            self.used - other.used,
        )


NOTHING = Charge()


_HEADROOM = Resources.host(512 * 2**20)


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """`memory` bounds reservations; `headroom` comes on top, for loads; `max_loads` run at once."""

    memory: Resources
    headroom: Resources = _HEADROOM
    max_loads: int = 4


@dataclass(frozen=True, slots=True)
class MemoryLedger:
    """The sums of all charges, as a value: adding a charge gives another ledger."""

    limits: MemoryLimits
    total: Charge = NOTHING

    @property
    def free(self) -> Resources:
        """What can still be reserved; below 0 if reservations grew after the load."""
        return self.limits.memory - self.total.reserved

    def recharge(self, old: Charge, new: Charge) -> MemoryLedger:
        """The ledger after one servable's charge went from `old` to `new`."""
        if old == new:
            return self
        return MemoryLedger(self.limits, self.total.minus(old).plus(new))

    def obstacle(self, spec: VersionSpec) -> str | None:
        """Why `spec` cannot be loaded now, in words for its tenant and operator, or None if it can."""
        limits, total = self.limits, self.total
        if lacking := spec.reserved.short_of(limits.memory):
            device = lacking.parts[0][0]
            of = "" if device == HOST else f" of {device}"
            return f"needs {spec.reserved[device]} bytes{of}, more than the {limits.memory[device]} of this replica"
        if total.loads >= limits.max_loads:
            return "waiting for other loads to finish"
        if not spec.reserved.fits_in(self.free):
            return f"waiting for memory: needs {spec.reserved}"
        come = charge(ServableState.LOADING, spec, 0)
        ceiling = limits.memory + limits.headroom
        resident = total.reserved + total.excess + come.reserved
        if not resident.fits_in(ceiling):
            return "waiting for memory: versions held here take more than was reserved for them"
        if total.loads and not (resident + total.transient + come.transient).fits_in(ceiling):
            return "waiting for other loads to finish"
        return None


def charge(state: ServableState, spec: VersionSpec, measured_bytes: int) -> Charge:
    """What a servable in `state` takes."""
    match state:
        case ServableState.LOADING:
            peak = Resources.host(transient(spec.artifact.size_bytes))
            return Charge(spec.reserved, transient=peak, loads=1, used=spec.reserved[HOST])
        case ServableState.AVAILABLE | ServableState.DRAINING | ServableState.UNLOADING:
            excess = Resources.host(max(0, measured_bytes - spec.reserved[HOST]))
            return Charge(spec.reserved, excess, used=measured_bytes)
        case _:
            return NOTHING
