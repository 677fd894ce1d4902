"""A mirror of a collection converges to the server's state, whatever is dropped, compacted or listed in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from synchronizer.core.mirror import Gap, Mirror


def item(name: str, version: int, value: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "value": value}


def event(kind: str, name: str, version: int, value: int = 0) -> dict[str, Any]:
    return {"type": kind, "object": item(name, version, value)}


def value_of(item: Mapping[str, Any]) -> int:
    return int(item["value"])


class Conversations(RuleBasedStateMachine):
    """A server with a history that it forgets, and a client that lists and watches it."""

    @initialize()
    def begin(self) -> None:
        self.version = 1
        self.state: dict[str, int] = {}
        self.history: list[tuple[int, dict[str, Any]]] = []
        self.forgotten = 1  # events up to this version cannot be watched from before any more
        self.mirror: Mirror[int] = Mirror(value_of)
        self.watching = False
        self.was: dict[str, int] = {}

    @rule(name=st.sampled_from("abc"), value=st.integers(0, 2))
    def put(self, name: str, value: int) -> None:
        self.version += 1
        kind = "MODIFIED" if name in self.state else "ADDED"
        self.state[name] = value
        self.history.append((self.version, event(kind, name, self.version, value)))

    @rule(name=st.sampled_from("abc"))
    def delete(self, name: str) -> None:
        if self.state.pop(name, None) is not None:
            self.version += 1
            self.history.append((self.version, event("DELETED", name, self.version)))

    @rule()
    def compact(self) -> None:
        self.forgotten, self.history = self.version, []

    @rule()
    def drop(self) -> None:
        self.watching = False

    @rule()
    def bookmark(self) -> None:
        if self.watching and int(self.mirror.version or 0) >= self.forgotten and not self.pending():
            assert not self.mirror.read_event(event("BOOKMARK", "", self.version))

    @rule(how_many=st.integers(1, 4))
    def deliver(self, how_many: int) -> None:
        for _ in range(how_many):
            if self.watching:
                self.step()

    @rule()
    def connect(self) -> None:
        self.converse()

    def converse(self) -> None:
        if self.mirror.version is None or not self.watching:
            self.mirror.read_list(
                (item(name, self.version, value) for name, value in self.state.items()), f"{self.version}"
            )
        self.watching = True

    def pending(self) -> list[dict[str, Any]]:
        assert self.mirror.version is not None
        return [told for version, told in self.history if version > int(self.mirror.version)]

    def step(self) -> None:
        assert self.mirror.version is not None
        if int(self.mirror.version) < self.forgotten:
            with pytest.raises(Gap) as gap:
                self.mirror.read_event({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
            assert gap.value.reason == "gone"
            self.watching = False
        elif pending := self.pending():
            before = self.mirror.items
            assert self.mirror.read_event(pending[0]) == (self.mirror.items != before)

    @invariant()
    def what_is_known_was_true_as_of_its_version(self) -> None:
        if self.mirror.version is not None and int(self.mirror.version) >= self.forgotten and not self.pending():
            assert self.mirror.items == self.state

    def teardown(self) -> None:
        for _ in range(3):
            self.converse()
            while self.watching and (self.pending() or int(self.mirror.version or 0) < self.forgotten):
                self.step()
        assert self.mirror.items == self.state


TestConversations = Conversations.TestCase
TestConversations.settings = settings(max_examples=100, stateful_step_count=40)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"type": "ERROR", "object": {"code": 410}}, "gone"),
        ({"type": "ERROR", "object": {"code": 500, "message": "no"}}, "refused"),
        ({"type": "ADDED"}, "malformed"),
        ({"type": "ADDED", "object": {"metadata": {"name": "a"}, "value": 1}}, "malformed"),
        ({"type": "ADDED", "object": {"metadata": {"resourceVersion": "9"}, "value": 1}}, "malformed"),
        ({"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "9"}}}, "malformed"),
        ({"type": "MOVED", "object": item("a", 9, 1)}, "malformed"),
        ({}, "malformed"),
    ],
)
def test_what_is_no_event_is_a_gap_and_changes_nothing(told: dict[str, Any], reason: str) -> None:
    mirror = Mirror(value_of)
    mirror.read_list([item("a", 3, 1)], "5")
    with pytest.raises(Gap) as gap:
        mirror.read_event(told)
    assert gap.value.reason == reason
    assert (mirror.items, mirror.version) == ({"a": 1}, "5")


def test_the_first_list_is_news_even_if_empty_and_the_same_again_is_none() -> None:
    mirror = Mirror(value_of)
    assert mirror.version is None
    assert mirror.read_list([], "1")
    assert not mirror.read_list([], "2")
    assert mirror.version == "2"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), max_size=8))
def test_what_was_given_out_does_not_change_any_more(puts: list[tuple[str, int]]) -> None:
    mirror = Mirror(value_of)
    mirror.read_list([], "1")
    given_out = []
    for version, (name, value) in enumerate(puts, start=2):
        mirror.read_event(event("MODIFIED", name, version, value))
        given_out.append((mirror.items, dict(mirror.items)))
    assert all(one == then for one, then in given_out)
