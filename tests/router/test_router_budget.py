"""Extra copies never exceed the budget: in no window, at no level, whatever is asked."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.ids import VersionKey
from router.core.budget import Budget, Budgets, BudgetScale, BudgetTerms

KEYS = [VersionKey(tenant, model, version) for tenant in "ab" for model in "mn" for version in (1, 2)]
SCALE = BudgetScale(share=0.2, hedge_share=0.1, floor=0.5, reserve=6.0, hedge_floor=0.2, hedge_reserve=3.0)

Step = tuple[int, str, float]
steps = st.lists(
    st.tuples(
        st.integers(0, len(KEYS) - 1),
        st.sampled_from(["request", "hedge", "retry", "hedge", "hedge"]),
        st.sampled_from([0.0, 0.0, 0.0, 0.1, 3.0]),
    ),
    max_size=150,
)


def check_windows(log: list[tuple[float, str]], terms: BudgetTerms, hedges: BudgetTerms) -> None:
    """Every window from one event to another keeps to the terms."""
    for first in range(len(log)):
        requests = extra = hedged = 0
        for now, what in log[first:]:
            requests += what == "request"
            extra += what != "request"
            hedged += what == "hedge"
            seconds = now - log[first][0]
            assert extra <= terms.share * requests + terms.floor * seconds + terms.reserve + 1e-6
            assert hedged <= hedges.share * requests + hedges.floor * seconds + hedges.reserve + 1e-6


def play(budgets: Budgets, script: list[Step]) -> dict[object, list[tuple[float, str]]]:
    """What came and what was granted, by version, by tenant and of all (`None`)."""
    logs: dict[object, list[tuple[float, str]]] = defaultdict(list)
    now = 0.0
    for index, what, passed in script:
        now += passed
        key = KEYS[index]
        account = budgets.account(key)
        if what == "request":
            account.deposit(now)
        elif not (account.take_hedge(now) if what == "hedge" else account.take_retry(now)):
            continue
        budgets.validate()
        for level in (key, key.tenant, None):
            logs[level].append((now, what))
    return logs


@given(steps)
def test_no_window_exceeds_the_budget_of_any_level(script: list[Step]) -> None:
    logs = play(Budgets(SCALE), script)
    for level, log in logs.items():
        factor = 4.0 if level is None else 2.0 if isinstance(level, str) else 1.0
        scale = SCALE.times(factor)
        check_windows(
            log,
            BudgetTerms(scale.share, scale.floor, scale.reserve),
            BudgetTerms(scale.hedge_share, scale.hedge_floor, scale.hedge_reserve),
        )


@given(steps)
def test_forgetting_accounts_makes_no_tokens(script: list[Step]) -> None:
    """With room for two accounts, what the process and those who share an account get stays bounded."""
    budgets = Budgets(SCALE, most=2)
    scale = SCALE.times(4.0)
    check_windows(
        play(budgets, script)[None],
        BudgetTerms(scale.share, scale.floor, scale.reserve),
        BudgetTerms(scale.hedge_share, scale.hedge_floor, scale.hedge_reserve),
    )


def test_memory_is_bounded_and_the_rest_share_one_account() -> None:
    budgets = Budgets(BudgetScale(floor=0.0, hedge_floor=0.0, reserve=4.0, hedge_reserve=2.0), most=100)
    for n in range(1000):
        account = budgets.account(VersionKey("t", f"m{n}", 1))
        # Not full, and so not to be forgotten.
        account.take_retry(0.0)
    assert "versions=100" in repr(budgets)


def test_a_full_account_is_forgotten_when_room_is_needed() -> None:
    budgets = Budgets(BudgetScale(), most=2)
    one, two, three = (budgets.account(VersionKey("t", f"m{n}", 1)) for n in range(3))
    assert all(one.take_retry(0.0) for _ in range(50))
    two.deposit(0.0)
    three.deposit(2.0)
    assert "versions=2" in repr(budgets)
    # It has what is left and what came in two seconds, not a new reserve.
    assert budgets.levels(VersionKey("t", "m0", 1), 2.0)[2].tokens == 60.0


@pytest.mark.parametrize("what", ["hedge", "retry"])
def test_a_token_is_taken_at_every_level_or_at_none(what: str) -> None:
    budgets = Budgets(
        BudgetScale(share=0.0, hedge_share=0.0, floor=0.0, hedge_floor=0.0, reserve=6.0, hedge_reserve=3.0)
    )
    key = VersionKey("t", "m", 1)
    account = budgets.account(key)
    while account.take_hedge(0.0) if what == "hedge" else account.take_retry(0.0):
        pass
    before = [(level.tokens, level.hedge_tokens) for level in budgets.levels(key, 0.0)]
    assert not (account.take_hedge(0.0) if what == "hedge" else account.take_retry(0.0))
    assert [(level.tokens, level.hedge_tokens) for level in budgets.levels(key, 0.0)] == before


def test_one_tenant_cannot_use_up_what_another_needs() -> None:
    budgets = Budgets(BudgetScale(share=0.0, floor=0.0))
    greedy = [budgets.account(VersionKey("greedy", f"m{n}", 1)) for n in range(50)]
    taken = sum(account.take_retry(0.0) for account in greedy for _ in range(50))
    assert taken == 200
    assert budgets.account(VersionKey("modest", "m", 1)).take_retry(0.0)


def test_hedges_have_a_smaller_share_of_their_own() -> None:
    budget = Budget(share=0.0, floor=0.0, reserve=100.0, hedges=BudgetTerms(0.0, 0.0, 3.0))
    assert sum(budget.take_hedge(0.0) for _ in range(20)) == 3
    assert sum(budget.take_retry(0.0) for _ in range(200)) == 97
