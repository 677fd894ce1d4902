"""Who is let in: a tenant's rate and concurrency, and the process's own ceiling.

The limits are ceilings per router process (`berth.model.TenantLimits`); a tenant's burst is what it may send in one
second. State exists only for tenants that sent something and whose bucket is not full again.
"""

from __future__ import annotations

from dataclasses import dataclass

from berth.errors import RateLimited, Unavailable
from berth.model import TenantLimits

_SWEEP_EVERY = 1024


@dataclass(slots=True)
class _Account:
    under_way: int = 0
    tokens: float = 0.0
    counted_at: float = 0.0
    rate: float = 0.0


class Admission:
    """One mutator pair, `enter` and `leave`; each `enter` that returned needs one `leave`."""

    def __init__(self, most_under_way: int) -> None:
        self._most_under_way = most_under_way
        self._under_way = 0
        self._accounts: dict[str, _Account] = {}
        self._entered = 0

    def __repr__(self) -> str:
        return f"<Admission under_way={self._under_way} tenants={len(self._accounts)}>"

    @property
    def under_way(self) -> int:
        return self._under_way

    def enter(self, tenant: str, limits: TenantLimits | None, now: float) -> None:
        """Let a request in. Raises `RateLimited` when the tenant has to wait, `Unavailable` when the router is full."""
        if self._under_way >= self._most_under_way:
            raise Unavailable("the router is at its limit of concurrent requests", retry_after=1.0)
        account = self._accounts.get(tenant)
        if limits is not None and (limits.max_concurrent or limits.requests_per_second):
            account = account or _Account(tokens=_burst(limits), counted_at=now)
            self._check(account, limits, now)
        self._accounts[tenant] = account = account or _Account(counted_at=now)
        account.under_way += 1
        self._under_way += 1
        self._entered += 1
        if self._entered % _SWEEP_EVERY == 0:
            self._sweep(now)

    def leave(self, tenant: str) -> None:
        self._under_way -= 1
        account = self._accounts[tenant]
        account.under_way -= 1
        if not account.under_way and not account.rate:
            del self._accounts[tenant]

    def validate(self) -> None:
        assert self._under_way == sum(account.under_way for account in self._accounts.values()), "counts disagree"
        assert all(account.under_way >= 0 for account in self._accounts.values()), "left more often than entered"

    @staticmethod
    def _check(account: _Account, limits: TenantLimits, now: float) -> None:
        if limits.max_concurrent and account.under_way >= limits.max_concurrent:
            raise RateLimited(f"more than {limits.max_concurrent} requests at the same time", retry_after=1.0)
        rate = limits.requests_per_second
        if not account.rate and rate:
            # The limit is new to this account.
            account.tokens = _burst(limits)
            account.counted_at = now
        account.rate = rate
        if not rate:
            return
        elapsed = max(0.0, now - account.counted_at)
        account.tokens = min(_burst(limits), account.tokens + elapsed * rate)
        account.counted_at = now
        if account.tokens < 1.0:
            raise RateLimited(f"more than {rate:g} requests per second", retry_after=(1.0 - account.tokens) / rate)
        account.tokens -= 1.0

    def _sweep(self, now: float) -> None:
        for tenant, account in list(self._accounts.items()):
            refilled = account.tokens + (now - account.counted_at) * account.rate >= max(1.0, account.rate)
            if not account.under_way and refilled:
                del self._accounts[tenant]


def _burst(limits: TenantLimits) -> float:
    return max(1.0, limits.requests_per_second)
