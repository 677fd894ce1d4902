"""What one tenant may send in a second: token buckets, and one router's part of a limit that all routers share."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

from berth.model import TenantLimits

# A router's part is at least this, or the whole limit if that is less. A client that stays on one connection, and so on
# one router, must be able to do something.
LEAST_REQUESTS_PER_SECOND: Final = 1.0
LEAST_BYTES_PER_SECOND: Final = 65_536.0

# Refilling in many small steps loses a little to rounding.
_ROUNDING: Final = 1e-9


def part_of(limits: TenantLimits, routers: int) -> TenantLimits:
    """The ceilings of one of `routers` routers: equal parts, rounded up, with a floor."""
    if routers <= 1:
        return limits
    return dataclasses.replace(
        limits,
        requests_per_second=_part(limits.requests_per_second, routers, LEAST_REQUESTS_PER_SECOND),
        max_concurrent=math.ceil(limits.max_concurrent / routers),
        bytes_per_second=_part(limits.bytes_per_second, routers, LEAST_BYTES_PER_SECOND),
    )


def _part(whole: float, routers: int, least: float) -> float:
    return max(whole / routers, min(whole, least))


class Bucket:
    """Holds at most what comes in one second, and at least 1.

    An amount larger than the bucket passes when the bucket is full, and leaves a debt: otherwise it would never pass.
    """

    __slots__ = ("_counted_at", "_level", "_rate", "_size")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._size = max(1.0, rate)
        self._level = self._size
        self._counted_at = now

    def __repr__(self) -> str:
        return f"<Bucket {self._level:g} of {self._size:g}>"

    @property
    def rate(self) -> float:
        return self._rate

    def set_rate(self, rate: float, now: float) -> None:
        """Go on at another rate, as full as before in proportion."""
        level = self._count(now) / self._size
        self._rate = rate
        self._size = max(1.0, rate)
        self._level = level * self._size

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken; 0 if now."""
        short = min(amount, self._size) - self._count(now)
        return short / self._rate if short > _ROUNDING * self._size else 0.0

    def take(self, amount: float) -> None:
        """Take what `wait` has just allowed."""
        self._level -= amount

    def is_full(self, now: float) -> bool:
        return self._count(now) >= self._size

    def _count(self, now: float) -> float:
        elapsed = max(0.0, now - self._counted_at)
        self._counted_at = max(now, self._counted_at)
        self._level = min(self._size, self._level + elapsed * self._rate)
        return self._level
