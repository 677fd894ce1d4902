"""Patches and selectors as values: no server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.kubernetes.kinds import BY_NAME
from doubles.kubernetes.patches import PatchError, apply_patch, json_patch, merge_patch, strategic_merge_patch
from doubles.kubernetes.protobuf import ProtobufError, decode
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


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        (
            {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}]},
            {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]},
            {
                "containers": [
                    {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}
                ]
            },
        ),
        (
            {"containers": [{"name": "a"}, {"name": "b"}]},
            {"containers": [{"$patch": "delete", "name": "a"}], "$setElementOrder/containers": [{"name": "b"}]},
            {"containers": [{"name": "b"}]},
        ),
        (
            {"containers": [{"name": "a"}]},
            {"containers": [{"name": "b"}], "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]},
            {"containers": [{"name": "b"}, {"name": "a"}]},
        ),
        ({"taints": [{"key": "a"}]}, {"taints": [{"key": "b"}]}, {"taints": [{"key": "b"}]}),
        ({"finalizers": ["a"]}, {"finalizers": ["b"]}, {"finalizers": ["a", "b"]}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
        ({"s": {"type": "R", "r": 1}}, {"s": {"$retainKeys": ["type"], "type": "X"}}, {"s": {"type": "X"}}),
        ({"m": {"a": 1}}, {"m": {"$patch": "replace", "b": 2}}, {"m": {"b": 2}}),
        (
            {"ports": [{"port": 80, "name": "a"}]},
            {"ports": [{"port": 81}]},
            {"ports": [{"port": 80, "name": "a"}, {"port": 81}]},
        ),
    ],
)
def test_strategic_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert strategic_merge_patch(target, patch) == result


@pytest.mark.parametrize(
    ("operations", "result"),
    [
        ([{"op": "add", "path": "/l/-", "value": 3}], {"l": [1, 2, 3], "m": {"a/b": 1}}),
        ([{"op": "add", "path": "/l/0", "value": 0}], {"l": [0, 1, 2], "m": {"a/b": 1}}),
        ([{"op": "remove", "path": "/m/a~1b"}], {"l": [1, 2], "m": {}}),
        ([{"op": "replace", "path": "/l/1", "value": 9}], {"l": [1, 9], "m": {"a/b": 1}}),
        ([{"op": "move", "from": "/l/0", "path": "/m/c"}], {"l": [2], "m": {"a/b": 1, "c": 1}}),
        ([{"op": "copy", "from": "/m", "path": "/n"}], {"l": [1, 2], "m": {"a/b": 1}, "n": {"a/b": 1}}),
    ],
)
def test_json_patch(operations: list[Any], result: Any) -> None:
    assert json_patch({"l": [1, 2], "m": {"a/b": 1}}, operations) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/none", "value": 1},
        {"op": "test", "path": "/a", "value": 2},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "none", "path": "/a"},
        {"path": "/a"},
    ],
)
def test_json_patches_that_do_not_fit(operation: Any) -> None:
    with pytest.raises(PatchError):
        json_patch({"a": 1, "l": []}, [operation])


@given(target=JSON, patch=JSON)
def test_patches_leave_what_they_are_given_and_do_the_same_twice(target: Any, patch: Any) -> None:
    before = repr((target, patch))
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    strategic = strategic_merge_patch(target, patch)
    assert strategic_merge_patch(strategic, patch) == strategic
    applied = apply_patch(target, patch, None)
    assert apply_patch(applied, patch, patch) == applied
    assert repr((target, patch)) == before


def test_apply_takes_out_only_what_its_manager_put_in() -> None:
    held = {"env": [{"name": "MINE", "value": "1"}, {"name": "THEIRS", "value": "2"}], "other": 1}
    before = {"env": [{"name": "MINE", "value": "1"}]}
    assert apply_patch(held, {"env": [{"name": "NEW", "value": "3"}]}, before) == {
        "env": [{"name": "NEW", "value": "3"}, {"name": "THEIRS", "value": "2"}],
        "other": 1,
    }


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


def test_protobuf_of_typed_clients() -> None:
    """As Go encodes an Eviction: text is written even where it is empty."""
    metadata = b"\x0a\x05pod-1\x12\x00\x1a\x07default"
    eviction = b"\x0a" + bytes([len(metadata)]) + metadata + b"\x12\x02\x08\x05"
    meta = b"\x0a\x09policy/v1\x12\x08Eviction"
    envelope = b"k8s\x00\x0a" + bytes([len(meta)]) + meta + b"\x12" + bytes([len(eviction)]) + eviction
    assert decode(envelope) == {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "pod-1", "namespace": "default"},
        "deleteOptions": {"gracePeriodSeconds": 5},
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"k8s\x00",
        b"k8s\x00\x0a\x05\x12\x03Pod",
        b"k8s\x00\x0a\x0a\x12\x08Evict",
        b"k8s\x00\x0a\x80",
        b"k8s\x00\x09\x00",
    ],
)
def test_protobuf_that_cannot_be_read(body: bytes) -> None:
    with pytest.raises(ProtobufError):
        decode(body)
