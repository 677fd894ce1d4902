"""Who is let in, who waits, and who is told to come again.

A request passes its tenant's own limits first (rate, bytes, concurrency). One over a limit is refused at once: waiting
would only hide it. Then it needs one of the router's slots. When all are taken, it waits in its tenant's queue, first
in, first out. Free slots go to the queues by start-time fair queueing (Goyal, Vin, Cheng, 1996): a tenant is charged
the time for which its requests hold slots, divided by its weight, and the least charged tenant is next. A request is
charged the tenant's usual time when it starts, and the difference when it ends. So a tenant with slow requests gets as
much of the router as one with fast ones, not more.

A request for a version that is not loaded can be *held* instead, without a slot, until `warm` says that it is there.

Waiting is bounded. A tenant may hold as much of the waiting room as is still free (dynamic thresholds, Choudhury and
Hahne, 1998): one tenant alone can fill half of it, and there is always room for a tenant that has nothing waiting yet.
A request is refused at once if, by its place in the queue, its deadline or the queue's own time limit comes first. A
request whose time is up while it waits is answered then, not when a slot gets free.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from berth.errors import BerthError, DeadlineExceeded, Unavailable
from berth.model import TenantLimits
from router.core.accounts import (
    NOBODY_WAITS,
    UNLIMITED,
    Admitted,
    Bounds,
    NotAdmitted,
    Queued,
    Room,
    Settled,
    TenantAccount,
    Ticket,
    WaitingLine,
    Why,
)

_SWEEP_EVERY: Final = 1024
# How long a request is assumed to hold its slot until the first one has ended.
_UNKNOWN: Final = 0.01
# How much one request moves the mean of its tenant, and of all.
_TENANT_GAIN, _ROUTER_GAIN = 1 / 8, 1 / 64


class Admission:
    """The state of one router process. Every `Admitted` needs one `leave`; every `Queued` ends by being settled, or
    by `abandon`. `now` is in seconds of one monotonic clock throughout."""

    def __init__(self, slots: int, *, queue: Bounds = NOBODY_WAITS, hold: Bounds = NOBODY_WAITS) -> None:
        self._slots = slots
        self._under_way = 0
        self._queue = Room(queue)
        self._hold = Room(hold)
        self._accounts: dict[str, TenantAccount] = {}
        # Tenants whose requests wait for a slot, each once, the least charged first. An entry whose tenant has
        # nothing waiting any more is dropped when it comes up.
        self._ready: list[tuple[float, int, TenantAccount]] = []
        self._ready_weight = 0.0
        # When each waiting request's time is up. Entries of requests that wait no more are dropped when they come up.
        self._ends: list[tuple[float, int, str]] = []
        self._virtual = 0.0
        self._seconds = 0.0
        self._numbers = 0
        self._entered = 0

    def __repr__(self) -> str:
        return (
            f"<Admission under_way={self._under_way}/{self._slots} queued={self._queue.requests} "
            f"held={self._hold.requests} tenants={len(self._accounts)}>"
        )

    @property
    def under_way(self) -> int:
        return self._under_way

    @property
    def queued(self) -> int:
        return self._queue.requests

    @property
    def held(self) -> int:
        return self._hold.requests

    @property
    def holds(self) -> bool:
        """Whether a request for a version that is not loaded may wait for it."""
        return self._hold.bounds.requests > 0 and self._hold.bounds.seconds > 0

    def check(self, tenant: str, limits: TenantLimits | None, now: float) -> NotAdmitted | None:
        """What `enter` would say of the tenant's own limits to a request of unknown size. Takes nothing."""
        return self._account(tenant, limits, now).refusal(0, now)

    def enter(
        self,
        tenant: str,
        limits: TenantLimits | None,
        now: float,
        *,
        size: int = 0,
        deadline: float = float("inf"),
        cold: bool = False,
    ) -> Admitted | Queued | NotAdmitted:
        """Let a request with `size` bytes of body in, or not, or not yet. `cold`: its version is not loaded."""
        self._entered += 1
        if self._entered % _SWEEP_EVERY == 0:
            self._sweep(now)
        account = self._account(tenant, limits, now)
        refusal = account.refusal(size, now)
        if refusal is not None:
            return refusal
        answer: Admitted | Queued | NotAdmitted
        if cold:
            answer = self._hold_back(account, size, deadline, now)
        elif self._under_way < self._slots:
            answer = self._start(account, max(self._virtual, account.tag), now)
        else:
            answer = self._line_up(account, size, deadline, now)
        if not isinstance(answer, NotAdmitted):
            account.charge(size)
        return answer

    def leave(self, slot: Admitted, now: float) -> list[Settled]:
        """Give a slot back; says whose it is now, and whose time was up."""
        account = self._accounts[slot.tenant]
        account.under_way -= 1
        self._under_way -= 1
        seconds = max(0.0, now - slot.since)
        account.owed += seconds - slot.charged
        account.seconds += (seconds - account.seconds) * (_TENANT_GAIN if account.seconds else 1.0)
        self._seconds += (seconds - self._seconds) * (_ROUTER_GAIN if self._seconds else 1.0)
        if not self._queue.requests:
            return []
        return self.expire(now) + self._fill(now)

    def warm(self, tickets: Iterable[Ticket], now: float) -> list[Settled]:
        """The version that held requests wait for is loaded: each gets a slot, or a place in the queue for one."""
        settled: list[Settled] = []
        for ticket in tickets:
            account = self._accounts.get(ticket.tenant)
            if account is None or account.held.pop(ticket.number) is None:
                continue
            if self._under_way < self._slots:
                settled.append(Settled(ticket, self._start(account, max(self._virtual, account.tag), now)))
                continue
            # Its room was given to it when it came.
            until = min(ticket.deadline, now + self._queue.bounds.seconds)
            if until <= now:
                settled.append(Settled(ticket, _full(self._seconds)))
                continue
            self._append(account, ticket._replace(until=until))
        return settled

    def expire(self, now: float) -> list[Settled]:
        """Refuse the requests whose time is up."""
        settled: list[Settled] = []
        while self._ends and self._ends[0][0] <= now:
            _, number, tenant = heapq.heappop(self._ends)
            found = self._find(number, tenant)
            if found is None or found[1].until > now:
                continue
            line, ticket = found
            self._drop(line, ticket)
            settled.append(Settled(ticket, _timed_out(ticket, now, cold=line is self._accounts[tenant].held)))
        return settled

    def next_expiry(self) -> float | None:
        """When `expire` should be called; it may have nothing to do then. None while nobody waits."""
        return self._ends[0][0] if self._queue.requests or self._hold.requests else None

    def abandon(self, ticket: Ticket) -> None:
        """The client of a waiting request has gone. One that is settled already is left alone."""
        found = self._find(ticket.number, ticket.tenant)
        if found is not None:
            self._drop(found[0], ticket)

    def validate(self) -> None:
        accounts = self._accounts.values()
        assert self._under_way == sum(account.under_way for account in accounts), "counts disagree"
        assert all(account.under_way >= 0 for account in accounts), "left more often than entered"
        assert self._under_way <= self._slots, "more requests than slots"
        assert self._under_way == self._slots or not self._queue.requests, "a slot is free and somebody waits"
        for room, lines in ((self._queue, [a.queue for a in accounts]), (self._hold, [a.held for a in accounts])):
            assert room.requests == sum(len(line.tickets) for line in lines), "waiting requests are miscounted"
            assert room.size == sum(line.size for line in lines), "waiting bytes are miscounted"
            assert all(line.size == sum(t.size for t in line.tickets.values()) for line in lines), "bytes"
        listed = [account.name for _, _, account in self._ready]
        assert len(set(listed)) == len(listed), "a tenant is listed twice"
        assert set(listed) == {account.name for account in accounts if account.listed}, "the list is wrong"
        waiting = {account.name: account.limits.weight for account in accounts if account.queue.tickets}
        assert set(waiting) <= set(listed), "a waiting tenant is not listed"
        assert abs(self._ready_weight - sum(waiting.values())) < 1e-6, "weights are miscounted"
        ends = {(until, number) for until, number, _ in self._ends}
        for account in accounts:
            for ticket in (*account.queue.tickets.values(), *account.held.tickets.values()):
                assert (ticket.until, ticket.number) in ends, "a wait would never end"

    # --- accounts ------------------------------------------------------------------------------------------------

    def _account(self, tenant: str, limits: TenantLimits | None, now: float) -> TenantAccount:
        account = self._accounts.get(tenant)
        if account is None:
            account = TenantAccount(tenant, WaitingLine(self._queue), WaitingLine(self._hold))
            self._accounts[tenant] = account
        limits = limits or UNLIMITED
        # Identity settles most calls: what was resolved is remembered with its limits.
        if limits is not account.limits and limits != account.limits:
            if account.queue.tickets:
                self._ready_weight += limits.weight - account.limits.weight
            account.set_limits(limits, now)
        return account

    def _sweep(self, now: float) -> None:
        # An idle tenant's charge matters only while others wait.
        contended = self._queue.requests > 0
        for tenant, account in list(self._accounts.items()):
            if account.is_idle(now) and not (contended and account.tag > self._virtual):
                del self._accounts[tenant]

    def _find(self, number: int, tenant: str) -> tuple[WaitingLine, Ticket] | None:
        account = self._accounts.get(tenant)
        if account is not None:
            for line in (account.queue, account.held):
                ticket = line.tickets.get(number)
                if ticket is not None:
                    return line, ticket
        return None

    # --- slots ---------------------------------------------------------------------------------------------------

    def _start(self, account: TenantAccount, at: float, now: float) -> Admitted:
        """Take a slot for the account at the virtual time `at`."""
        charged = account.seconds or self._seconds or _UNKNOWN
        self._virtual = max(self._virtual, at)
        account.tag = at + (charged + account.owed) / account.limits.weight
        account.owed = 0.0
        account.under_way += 1
        self._under_way += 1
        return Admitted(account.name, now, charged)

    def _fill(self, now: float) -> list[Settled]:
        """Give free slots to those that wait."""
        settled: list[Settled] = []
        while self._ready and self._under_way < self._slots:
            at, _, account = heapq.heappop(self._ready)
            account.listed = False
            if not account.queue.tickets:
                continue
            ticket = account.queue.pop_first()
            settled.append(Settled(ticket, self._start(account, at, now)))
            if account.queue.tickets:
                self._list(account)
            else:
                self._ready_weight -= account.limits.weight
        return settled

    # --- waiting -------------------------------------------------------------------------------------------------

    def _line_up(self, account: TenantAccount, size: int, deadline: float, now: float) -> Queued | NotAdmitted:
        wait = self._expected_wait(account)
        until = min(deadline, now + self._queue.bounds.seconds)
        if not self._queue.bounds.seconds or not self._queue.has_space(account.queue, size):
            return _full(wait)
        if now + wait >= until:
            return _late(wait)
        ticket = self._ticket(account, size, deadline, until)
        self._append(account, ticket)
        return Queued(ticket)

    def _hold_back(self, account: TenantAccount, size: int, deadline: float, now: float) -> Queued | NotAdmitted:
        until = min(deadline, now + self._hold.bounds.seconds)
        if until <= now or not self._hold.has_space(account.held, size):
            return NotAdmitted(Unavailable("the model is not loaded, and no more requests can wait for it"), Why.COLD)
        ticket = self._ticket(account, size, deadline, until)
        account.held.add(ticket)
        self._end(ticket)
        return Queued(ticket)

    def _expected_wait(self, account: TenantAccount) -> float:
        """Seconds until a request that lines up now gets its slot, if no other tenant comes: the number ahead of it,
        divided by the tenant's part of the slots. 0 while nothing is known."""
        seconds = account.seconds or self._seconds
        weight = account.limits.weight
        weights = self._ready_weight + (0.0 if account.queue.tickets else weight)
        return (len(account.queue.tickets) + 1) * seconds * weights / (weight * self._slots)

    def _ticket(self, account: TenantAccount, size: int, deadline: float, until: float) -> Ticket:
        self._numbers += 1
        return Ticket(self._numbers, account.name, size, deadline, until)

    def _append(self, account: TenantAccount, ticket: Ticket) -> None:
        if not account.queue.tickets:
            self._ready_weight += account.limits.weight
            if not account.listed:
                account.tag = max(self._virtual, account.tag)
                self._list(account)
        account.queue.add(ticket)
        self._end(ticket)

    def _list(self, account: TenantAccount) -> None:
        self._numbers += 1
        account.listed = True
        heapq.heappush(self._ready, (account.tag, self._numbers, account))

    def _end(self, ticket: Ticket) -> None:
        heapq.heappush(self._ends, (ticket.until, ticket.number, ticket.tenant))
        if len(self._ends) > 64 + 4 * (self._queue.requests + self._hold.requests):
            self._ends = [end for end in self._ends if self._find(end[1], end[2]) is not None]
            heapq.heapify(self._ends)

    def _drop(self, line: WaitingLine, ticket: Ticket) -> None:
        line.pop(ticket.number)
        account = self._accounts[ticket.tenant]
        if line is account.queue and not line.tickets:
            self._ready_weight -= account.limits.weight


def _full(wait: float) -> NotAdmitted:
    return NotAdmitted(Unavailable("the router is at its limit of requests", retry_after=max(1.0, wait)), Why.FULL)


def _late(wait: float) -> NotAdmitted:
    error = Unavailable(f"the router is busy: the wait would be about {wait:.1f} s", retry_after=max(1.0, wait))
    return NotAdmitted(error, Why.LATE)


def _timed_out(ticket: Ticket, now: float, *, cold: bool) -> NotAdmitted:
    what = "the model to be loaded" if cold else "its turn"
    error: BerthError
    if ticket.deadline <= now:
        error = DeadlineExceeded(f"the deadline passed while the request waited for {what}")
    else:
        error = Unavailable(f"the request has waited for {what} too long")
    return NotAdmitted(error, Why.COLD if cold else Why.TIMED_OUT)
