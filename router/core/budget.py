"""How much extra work the router may cause: a token bucket shared by hedges and retries.

Every request pays a fraction of a token in; every extra copy takes one out. After Finagle's RetryBudget and
BackupRequestFilter: a fixed share instead of a fixed count, so that extra load cannot grow when everything is slow.
"""

from __future__ import annotations


class Budget:
    """In any window, extra copies are at most `share` x requests + `floor` x seconds + `reserve`.

    Hedges leave half of the reserve to retries: a hedge makes an answer faster, a retry makes it an answer.
    """

    def __init__(self, *, share: float = 0.1, floor: float = 5.0, reserve: float = 100.0, now: float = 0.0) -> None:
        self._share = share
        self._floor = floor
        self._reserve = reserve
        # The only state: tokens in hand at the time they were last counted.
        self._tokens = reserve
        self._counted_at = now

    def __repr__(self) -> str:
        return f"<Budget tokens={self._tokens:.1f} of {self._reserve:.0f}>"

    @property
    def tokens(self) -> float:
        return self._tokens

    def deposit(self, now: float) -> None:
        """A request has come."""
        self._count(now)
        self._tokens = min(self._reserve, self._tokens + self._share)

    def take_retry(self, now: float) -> bool:
        """Take a token for a second copy of a request whose first is lost; False if there is none."""
        return self._take(now, keep=0.0)

    def take_hedge(self, now: float) -> bool:
        """Take a token for a second copy beside the first; False if only the retries' half is left."""
        return self._take(now, keep=self._reserve / 2)

    def _take(self, now: float, keep: float) -> bool:
        self._count(now)
        if self._tokens - 1.0 < keep:
            return False
        self._tokens -= 1.0
        return True

    def _count(self, now: float) -> None:
        elapsed = max(0.0, now - self._counted_at)
        self._counted_at = now
        self._tokens = min(self._reserve, self._tokens + elapsed * self._floor)
