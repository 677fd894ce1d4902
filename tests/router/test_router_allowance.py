"""A router's part of a limit, and the buckets that enforce it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.model import TenantLimits
from router.core.allowance import LEAST_BYTES_PER_SECOND, LEAST_REQUESTS_PER_SECOND, Bucket, part_of

MIB = float(2**20)


@pytest.mark.parametrize(
    ("limits", "routers", "expected"),
    [
        ((10.0, 8, MIB), 1, (10.0, 8, MIB)),
        ((10.0, 8, MIB), 0, (10.0, 8, MIB)),
        ((10.0, 8, MIB), 2, (5.0, 4, MIB / 2)),
        ((10.0, 8, MIB), 3, (10 / 3, 3, MIB / 3)),
        # Never nothing: one request at a time, one a second, 64 KiB a second.
        ((10.0, 8, MIB), 100, (1.0, 1, 65_536.0)),
        ((0.5, 1, 1000.0), 4, (0.5, 1, 1000.0)),
        # No limit has no parts.
        ((0.0, 0, 0.0), 4, (0.0, 0, 0.0)),
    ],
)
def test_parts(limits: tuple[float, int, float], routers: int, expected: tuple[float, int, float]) -> None:
    part = part_of(TenantLimits("t", *limits, 3.0), routers)
    assert (part.tenant, part.weight) == ("t", 3.0)
    assert (part.requests_per_second, part.max_concurrent, part.bytes_per_second) == pytest.approx(expected)


@given(st.floats(0, 1e6), st.integers(0, 1000), st.floats(0, 1e9), st.integers(1, 50))
def test_parts_add_up_to_the_limit_or_to_the_floors(rate: float, most: int, size: float, routers: int) -> None:
    part = part_of(TenantLimits("t", rate, most, size), routers)
    for whole, one, least in (
        (rate, part.requests_per_second, LEAST_REQUESTS_PER_SECOND),
        (size, part.bytes_per_second, LEAST_BYTES_PER_SECOND),
        (most, part.max_concurrent, 1),
    ):
        assert (one == 0) == (whole == 0)
        assert one <= whole
        assert one * routers >= whole * (1 - 1e-9)
        assert one * routers <= max(whole * (1 + 1e-9) + routers, least * routers)


@given(st.floats(0.1, 1e6), st.lists(st.tuples(st.floats(0, 3), st.floats(0, 2e6)), max_size=50))
def test_after_the_wait_that_it_names_it_lets_through(rate: float, steps: list[tuple[float, float]]) -> None:
    bucket, now, taken, last = Bucket(rate, 0.0), 0.0, 0.0, 0.0
    for passed, amount in steps:
        now += passed
        now += bucket.wait(amount, now)
        # To within what a float can say of so late a time.
        assert bucket.wait(amount, now) <= math.ulp(now)
        bucket.take(amount)
        taken, last = taken + amount, amount
        # What came before the last one was paid for.
        assert taken - last <= max(1.0, rate) + rate * now + 1e-3 * (1 + taken)
