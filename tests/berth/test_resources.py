"""Amounts of memory by device: they add up, and what fits never exceeds on any device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.resources import HOST, Resources

DEVICES = st.sampled_from([HOST, "gpu", "gpu1"])
amounts = st.dictionaries(DEVICES, st.integers(-100, 100)).map(Resources.of)


@given(amounts, amounts, amounts)
def test_sums(one: Resources, two: Resources, three: Resources) -> None:
    assert one + two == two + one
    assert hash(one + two) == hash(two + one)
    assert (one + two) + three == one + (two + three)
    assert one + two - two == one
    assert one - one == Resources()
    assert not one - one
    assert (one + two).total == one.total + two.total
    for device in (HOST, "gpu", "gpu1", "none such"):
        assert (one + two)[device] == one[device] + two[device]
        assert (one - two)[device] == one[device] - two[device]


@given(amounts, amounts)
def test_what_fits(wanted: Resources, room: Resources) -> None:
    devices = (HOST, "gpu", "gpu1")
    assert wanted.fits_in(room) == all(wanted[device] <= room[device] for device in devices)
    short = wanted.short_of(room)
    assert {device: max(0, wanted[device] - room[device]) for device in devices} == {d: short[d] for d in devices}
    assert wanted.fits_in(room + short)


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (Resources(), "0 bytes"),
        (Resources.host(0), "0 bytes"),
        (Resources.host(7), "7 bytes"),
        (Resources.of({"gpu": 5, HOST: 0}), "5 bytes of gpu"),
        (Resources.of({HOST: 7, "gpu": 5}), "5 bytes of gpu and 7 bytes"),
    ],
)
def test_words(amount: Resources, words: str) -> None:
    assert str(amount) == words


def test_the_order_and_the_zeros_of_a_mapping_mean_nothing() -> None:
    assert Resources.of({HOST: 1, "gpu": 2, "x": 0}) == Resources.of({"gpu": 2, HOST: 1})
    assert Resources.of({HOST: 3}) == Resources.host(3)
