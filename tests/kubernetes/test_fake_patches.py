"""Patches and selectors as values: no server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.kubernetes.kinds import BY_NAME
from doubles.kubernetes.patches import merge_patch
from doubles.kubernetes.selectors import matcher, parse_labels, requirements_of, selector_text, selects
from doubles.kubernetes.status import ApiError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        (["a"], {"a": 1}, {"a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@given(target=JSON, patch=JSON)
def test_patches_leave_what_they_are_given_and_do_the_same_twice(target: Any, patch: Any) -> None:
    before = repr((target, patch))
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert repr((target, patch)) == before


@pytest.mark.parametrize("text", ["a==b==c", "a in b", "a in (b", "=b", "a b"])
def test_selectors_that_mean_nothing(text: str) -> None:
    with pytest.raises(ApiError):
        parse_labels(text)


@given(labels=st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")))
def test_text_and_object_selectors_agree(labels: dict[str, str]) -> None:
    selector = {
        "matchLabels": {"a": "x"},
        "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["x", "y"]},
            {"key": "c", "operator": "DoesNotExist"},
        ],
    }
    text = selector_text(selector)
    assert text == "!c,a=x,b in (x,y)"
    assert selects(parse_labels(text), labels) == selects(requirements_of(selector), labels)


def test_no_selector_matches_nothing_and_an_empty_one_everything() -> None:
    assert not selects(requirements_of(None), {"a": "b"})
    assert selects(requirements_of({}), {"a": "b"})
    assert matcher(BY_NAME["pods"], "", "") is None
