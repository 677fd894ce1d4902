"""Who is let in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import RateLimited, Unavailable
from berth.model import TenantLimits
from router.core.admission import Admission


def admitted(admission: Admission, limits: TenantLimits | None, now: float, *, stay: bool = False) -> bool:
    tenant = limits.tenant if limits is not None else "free"
    try:
        admission.enter(tenant, limits, now)
    except RateLimited:
        return False
    if not stay:
        admission.leave(tenant)
    return True


def test_concurrency() -> None:
    admission, limits = Admission(100), TenantLimits("t", max_concurrent=2)
    assert [admitted(admission, limits, 0.0, stay=True) for _ in range(3)] == [True, True, False]
    assert admitted(admission, TenantLimits("other", max_concurrent=2), 0.0)
    admission.leave("t")
    assert admitted(admission, limits, 0.0)
    admission.validate()


def test_rate_with_a_burst_of_one_second() -> None:
    admission, limits = Admission(100), TenantLimits("t", requests_per_second=10.0)
    assert [admitted(admission, limits, 0.0) for _ in range(12)].count(True) == 10
    assert [admitted(admission, limits, 0.25) for _ in range(12)].count(True) == 2
    assert [admitted(admission, limits, 60.0) for _ in range(12)].count(True) == 10


def test_slow_rates_say_when_to_come_back() -> None:
    admission, limits = Admission(100), TenantLimits("t", requests_per_second=0.1)
    assert admitted(admission, limits, 0.0)
    with pytest.raises(RateLimited) as refused:
        admission.enter("t", limits, 4.0)
    assert refused.value.retry_after == pytest.approx(6.0)
    assert admitted(admission, limits, 10.0)


def test_limits_may_come_and_go() -> None:
    admission = Admission(100)
    assert all(admitted(admission, TenantLimits("t"), 0.0, stay=True) for _ in range(50))
    limited = TenantLimits("t", requests_per_second=3.0)
    assert [admitted(admission, limited, 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert all(admitted(admission, None, 0.0) for _ in range(50))
    assert all(admitted(admission, TenantLimits("t"), 0.0) for _ in range(50))
    admission.validate()


def test_the_router_has_a_ceiling_of_its_own() -> None:
    admission = Admission(2)
    admission.enter("a", None, 0.0)
    admission.enter("b", None, 0.0)
    with pytest.raises(Unavailable):
        admission.enter("c", None, 0.0)
    admission.leave("a")
    admission.enter("c", None, 0.0)
    admission.validate()


def test_memory_is_only_kept_for_tenants_that_are_active() -> None:
    admission = Admission(10)
    for number in range(5000):
        assert admitted(admission, TenantLimits(f"t{number}", requests_per_second=5.0), number * 1.0)
        assert admitted(admission, None, number * 1.0)
    assert int(repr(admission).rpartition("=")[2][:-1]) < 2100


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "leave"]), st.floats(0.0, 1.0)), max_size=200),
    st.floats(0.1, 20.0),
    st.integers(0, 5),
)
def test_never_more_than_the_limits(steps: list[tuple[str, float]], rate: float, most: int) -> None:
    admission, limits = Admission(50), TenantLimits("t", rate, most)
    now, entered, inside = 0.0, 0, 0
    for what, passed in steps:
        now += passed
        if what == "leave":
            if inside:
                admission.leave("t")
                inside -= 1
        elif admitted(admission, limits, now, stay=True):
            entered += 1
            inside += 1
        admission.validate()
        assert admission.under_way == inside
        assert not most or inside <= most
        assert entered <= max(1.0, rate) + rate * now + 1e-6
