"""How much extra work the router may cause: token buckets shared by hedges and retries.

Every request pays a fraction of a token in; every extra copy takes one out. After Finagle's RetryBudget and
BackupRequestFilter: a fixed share instead of a fixed count, so that extra load cannot grow when everything is slow.

There is one bucket for the process, one per tenant and one per version. An extra copy takes a token from each of the
three: so one tenant's trouble cannot use up the other tenants' tokens, nor one version's trouble those of its tenant's
other versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

from berth.ids import VersionKey

K = TypeVar("K")

_LOOKED_AT: Final = 4


class BudgetTerms(NamedTuple):
    """In any window, extra copies are at most `share` x requests + `floor` x seconds + `reserve`."""

    share: float
    floor: float
    reserve: float


class Budget:
    """One bucket for all extra copies, and within it a smaller one for hedges alone.

    In any window, extra copies keep to `terms` and hedges among them to `hedges`. Hedges leave half of the reserve to
    retries: a hedge makes an answer faster, a retry makes it an answer.
    """

    __slots__ = (
        "_counted_at",
        "_floor",
        "_hedge_floor",
        "_hedge_reserve",
        "_hedge_share",
        "_hedge_tokens",
        "_reserve",
        "_share",
        "_tokens",
    )

    def __init__(
        self,
        *,
        share: float = 0.1,
        floor: float = 5.0,
        reserve: float = 100.0,
        hedges: BudgetTerms | None = None,
        now: float = 0.0,
    ) -> None:
        self._share, self._floor, self._reserve = share, floor, reserve
        self._hedge_share, self._hedge_floor, self._hedge_reserve = hedges or BudgetTerms(share, floor, reserve)
        # The only state: tokens in hand at the time they were last counted.
        self._tokens = reserve
        self._hedge_tokens = self._hedge_reserve
        self._counted_at = now

    def __repr__(self) -> str:
        return f"<Budget tokens={self._tokens:.1f} of {self._reserve:.0f}, hedges={self._hedge_tokens:.1f}>"

    @property
    def tokens(self) -> float:
        return self._tokens

    @property
    def hedge_tokens(self) -> float:
        return self._hedge_tokens

    def is_full(self, now: float) -> bool:
        """Whether it is as good as a new one."""
        self._count(now)
        return self._tokens >= self._reserve and self._hedge_tokens >= self._hedge_reserve

    def deposit(self, now: float) -> float:
        """A request has come. Returns the part of the hedges' reserve that is in hand, 0 to 1."""
        self._count(now)
        # Every request passes here three times: comparisons instead of min().
        tokens = self._tokens + self._share
        self._tokens = tokens if tokens < self._reserve else self._reserve  # noqa: FURB136
        tokens = self._hedge_tokens + self._hedge_share
        if tokens < self._hedge_reserve:
            self._hedge_tokens = tokens
            return tokens / self._hedge_reserve
        self._hedge_tokens = self._hedge_reserve
        return 1.0

    def has_retry(self, now: float) -> bool:
        self._count(now)
        return self._tokens >= 1.0

    def has_hedge(self, now: float) -> bool:
        self._count(now)
        return self._hedge_tokens >= 1.0 and self._tokens - 1.0 >= self._reserve / 2

    def take_retry(self, now: float) -> bool:
        """Take a token for a second copy of a request whose first is lost; False if there is none."""
        if not self.has_retry(now):
            return False
        self._tokens -= 1.0
        return True

    def take_hedge(self, now: float) -> bool:
        """Take a token for a second copy beside the first; False if the hedges' share is used up."""
        if not self.has_hedge(now):
            return False
        self._tokens -= 1.0
        self._hedge_tokens -= 1.0
        return True

    def validate(self) -> None:
        assert 0.0 <= self._tokens <= self._reserve, self
        assert 0.0 <= self._hedge_tokens <= self._hedge_reserve, self

    def _count(self, now: float) -> None:
        elapsed = now - self._counted_at
        if elapsed > 0.0:
            self._counted_at = now
            if self._tokens < self._reserve:
                self._tokens = min(self._reserve, self._tokens + elapsed * self._floor)
            if self._hedge_tokens < self._hedge_reserve:
                self._hedge_tokens = min(self._hedge_reserve, self._hedge_tokens + elapsed * self._hedge_floor)


@dataclass(frozen=True, slots=True)
class BudgetScale:
    """The terms of one level's buckets: all levels have the same shares, higher ones larger floors and reserves."""

    share: float = 0.1
    hedge_share: float = 0.015
    floor: float = 5.0
    reserve: float = 100.0
    hedge_floor: float = 0.1
    hedge_reserve: float = 10.0

    def times(self, factor: float) -> BudgetScale:
        """The same shares, `factor` times the floors and reserves."""
        return BudgetScale(
            self.share,
            self.hedge_share,
            self.floor * factor,
            self.reserve * factor,
            self.hedge_floor * factor,
            self.hedge_reserve * factor,
        )

    def budget(self, now: float) -> Budget:
        hedges = BudgetTerms(self.hedge_share, self.hedge_floor, self.hedge_reserve)
        return Budget(share=self.share, floor=self.floor, reserve=self.reserve, hedges=hedges, now=now)


class _Accounts(Generic[K]):
    """Budgets by key, at most `most`. Only a full one is forgotten, since it comes back as a full one; when there is no
    room, those without an account share one."""

    def __init__(self, scale: BudgetScale, most: int, now: float) -> None:
        self._scale = scale
        self._most = most
        self._by_key: dict[K, Budget] = {}
        self._crowd = scale.budget(now)

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, key: K, now: float) -> Budget:
        account = self._by_key.get(key)
        if account is None:
            if len(self._by_key) >= self._most and not self._made_room(now):
                return self._crowd
            account = self._by_key[key] = self._scale.budget(now)
        return account

    def validate(self) -> None:
        for account in (self._crowd, *self._by_key.values()):
            account.validate()

    def _made_room(self, now: float) -> bool:
        # A few at a time, going round: a walk over thousands would make the requests behind it wait.
        for key in list(islice(self._by_key, _LOOKED_AT)):
            account = self._by_key.pop(key)
            if account.is_full(now):
                return True
            self._by_key[key] = account
        return False


class Budgets:
    """The buckets of the process, of its tenants and of their versions. `scale` is a version's; a tenant may have twice
    its reserve, the process four times."""

    def __init__(self, scale: BudgetScale | None = None, *, most: int = 8192, now: float = 0.0) -> None:
        scale = scale or BudgetScale()
        self._everything = scale.times(4.0).budget(now)
        self._tenants: _Accounts[str] = _Accounts(scale.times(2.0), most, now)
        self._versions: _Accounts[VersionKey] = _Accounts(scale, most, now)

    def __repr__(self) -> str:
        return f"<Budgets {self._everything!r} tenants={len(self._tenants)} versions={len(self._versions)}>"

    @property
    def everything(self) -> Budget:
        """The bucket of the whole process."""
        return self._everything

    def account(self, key: VersionKey) -> BudgetAccount:
        """Where a request for `key` pays and takes; a request has one for as long as it is under way."""
        return BudgetAccount(self, key)

    def levels(self, key: VersionKey, now: float) -> tuple[Budget, Budget, Budget]:
        """The buckets that `key` draws on. Looked up each time: one that is not full is never forgotten."""
        return self._everything, self._tenants.of(key.tenant, now), self._versions.of(key, now)

    def validate(self) -> None:
        self._everything.validate()
        self._tenants.validate()
        self._versions.validate()


class BudgetAccount:
    """The three buckets of one version as one: a token is taken from each or from none."""

    __slots__ = ("_budgets", "_key")

    def __init__(self, budgets: Budgets, key: VersionKey) -> None:
        self._budgets = budgets
        self._key = key

    def deposit(self, now: float) -> float:
        """A request has come. Returns the part of the hedges' reserve that is in hand, at the level that has least."""
        least = 1.0
        for level in self._budgets.levels(self._key, now):
            least = min(least, level.deposit(now))
        return least

    def take_retry(self, now: float) -> bool:
        """As `Budget.take_retry`, at all levels."""
        levels = self._budgets.levels(self._key, now)
        if not all(level.has_retry(now) for level in levels):
            return False
        for level in levels:
            level.take_retry(now)
        return True

    def take_hedge(self, now: float) -> bool:
        """As `Budget.take_hedge`, at all levels."""
        levels = self._budgets.levels(self._key, now)
        if not all(level.has_hedge(now) for level in levels):
            return False
        for level in levels:
            level.take_hedge(now)
        return True
