from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from berth.demo.findings import accuracy, find_switch


class One(NamedTuple):
    due_at: float
    ended_at: float
    version: str


def test_a_switch_is_told_by_when_answers_came() -> None:
    samples = [One(0, 1, "1"), One(1, 2, "1"), One(1, 3, "2"), One(2, 3.5, "1"), One(3, 4, ""), One(3, 5, "2")]
    switch = find_switch(samples, "1", "2")
    assert (switch.first_new_at, switch.last_old_at, switch.old, switch.new, switch.strangers) == (3, 3.5, 3, 2, 0)


def test_a_switch_that_never_came() -> None:
    switch = find_switch([One(0, 1, "1"), One(0, 1, "9")], "1", "2")
    assert (switch.first_new_at, switch.strangers) == (None, 1)


@given(st.lists(st.integers(0, 9), max_size=30))
def test_accuracy_is_a_share(digits: list[int]) -> None:
    assert accuracy(digits, digits) == (1.0 if digits else 0.0)
    assert accuracy([10] * len(digits), digits) == 0.0
