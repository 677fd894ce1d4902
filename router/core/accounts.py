"""Admission's records of tenants, and its terms: slots, tickets, refusals, queues.

Nothing here decides who is next; `router.core.admission` does.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from berth.errors import BerthError, RateLimited
from berth.model import TenantLimits
from router.core.allowance import Bucket

UNLIMITED: Final = TenantLimits("")


class Why(Enum):
    """Why a request was refused, for counting."""

    RATE = "rate"
    BYTES = "bytes"
    CONCURRENCY = "concurrency"
    FULL = "full"
    """No slot, and no room to wait for one."""
    LATE = "late"
    """It would have waited for longer than it may."""
    TIMED_OUT = "timed_out"
    """Its time was up while it waited for a slot."""
    COLD = "cold"
    """Its version is not loaded, and it could not, or not any longer, be held."""


class Admitted:
    """A slot, to be given back with `leave`: each is itself alone."""

    __slots__ = ("charged", "since", "tenant")

    def __init__(self, tenant: str, since: float, charged: float) -> None:
        self.tenant = tenant
        self.since = since
        self.charged = charged

    def __repr__(self) -> str:
        return f"<Admitted {self.tenant} since {self.since:.3f}>"


class Ticket(NamedTuple):
    """A place in a queue. `until` is when waiting ends in a refusal, at the latest at `deadline`; `size` in bytes."""

    number: int
    tenant: str
    size: int
    deadline: float
    until: float


class Queued(NamedTuple):
    ticket: Ticket


class NotAdmitted(NamedTuple):
    error: BerthError
    why: Why


class Settled(NamedTuple):
    """What became of a request that waited."""

    ticket: Ticket
    answer: Admitted | NotAdmitted


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many requests may wait, with how many bytes of bodies together, and for how many seconds each; 0: none."""

    requests: int
    size: int
    seconds: float


NOBODY_WAITS: Final = Bounds(0, 0, 0.0)


class Room:
    """What waits for one reason, of all tenants."""

    __slots__ = ("bounds", "requests", "size")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.requests = 0
        self.size = 0

    def has_space(self, mine: WaitingLine, size: int) -> bool:
        return (
            len(mine.tickets) < self.bounds.requests - self.requests
            and mine.size + size <= self.bounds.size - self.size
        )


class WaitingLine:
    """What waits for one reason, of one tenant."""

    __slots__ = ("_room", "size", "tickets")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.size = 0
        self.tickets: OrderedDict[int, Ticket] = OrderedDict()

    def add(self, ticket: Ticket) -> None:
        self.tickets[ticket.number] = ticket
        self._count(1, ticket.size)

    def pop(self, number: int) -> Ticket | None:
        ticket = self.tickets.pop(number, None)
        if ticket is not None:
            self._count(-1, -ticket.size)
        return ticket

    def pop_first(self) -> Ticket:
        _, ticket = self.tickets.popitem(last=False)
        self._count(-1, -ticket.size)
        return ticket

    def _count(self, requests: int, size: int) -> None:
        self.size += size
        self._room.requests += requests
        self._room.size += size


@dataclass(slots=True)
class TenantAccount:
    """A tenant. `tag` is the virtual time at which its next request may start; `owed` are seconds to charge with it."""

    name: str
    queue: WaitingLine
    held: WaitingLine
    limits: TenantLimits = UNLIMITED
    requests: Bucket | None = None
    size: Bucket | None = None
    under_way: int = 0
    tag: float = 0.0
    owed: float = 0.0
    seconds: float = 0.0
    listed: bool = False

    @property
    def present(self) -> int:
        return self.under_way + len(self.queue.tickets) + len(self.held.tickets)

    def set_limits(self, limits: TenantLimits, now: float) -> None:
        self.limits = limits
        self.requests = _bucket(self.requests, limits.requests_per_second, now)
        self.size = _bucket(self.size, limits.bytes_per_second, now)

    def refusal(self, size: int, now: float) -> NotAdmitted | None:
        """Why the tenant may not send a body of `size` bytes now."""
        limits = self.limits
        if limits.max_concurrent and self.present >= limits.max_concurrent:
            error = RateLimited(
                f"more than {limits.max_concurrent} requests at the same time", retry_after=self.seconds or 1.0
            )
            return NotAdmitted(error, Why.CONCURRENCY)
        if self.requests is not None and (wait := self.requests.wait(1.0, now)):
            text = f"more than {self.requests.rate:g} requests per second"
            return NotAdmitted(RateLimited(text, retry_after=wait), Why.RATE)
        if self.size is not None and size and (wait := self.size.wait(size, now)):
            text = f"more than {self.size.rate:g} bytes of requests per second"
            return NotAdmitted(RateLimited(text, retry_after=wait), Why.BYTES)
        return None

    def charge(self, size: int) -> None:
        if self.requests is not None:
            self.requests.take(1.0)
        if self.size is not None:
            self.size.take(size)

    def is_idle(self, now: float) -> bool:
        """Whether it has no request here and its limits are as good as new."""
        full = all(bucket is None or bucket.is_full(now) for bucket in (self.requests, self.size))
        return full and not self.listed and not self.present


def _bucket(bucket: Bucket | None, rate: float, now: float) -> Bucket | None:
    if not rate:
        return None
    if bucket is None:
        return Bucket(rate, now)
    bucket.set_rate(rate, now)
    return bucket
