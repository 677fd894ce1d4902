"""What events carry."""

from __future__ import annotations

from berth.ids import ModelKey, VersionKey
from berth.states import Role
from controller.core import events
from controller.core.commands import ROLLOUT, Caller, Command

ASKED = Command(Caller("key-1", Role.DEVELOPER, "acme"), "10.0.0.7", "r-1")
DIGITS = events.model_subject(ModelKey("acme", "digits"))


def test_who_asked_and_from_where_is_told() -> None:
    told = events.ModelPinned(DIGITS, 2, {"pinned": None}, {"pinned": 2}).data(ASKED)
    assert told == {
        "version": 2,
        "before": {"pinned": None},
        "after": {"pinned": 2},
        "from": "10.0.0.7",
        "request_id": "r-1",
    }
    assert ASKED.actor == "key-1"


def test_what_nobody_asked_for_comes_from_nowhere() -> None:
    told = events.VersionRetired(events.version_subject(VersionKey("acme", "digits", 1)), "", {}, {}).data(ROLLOUT)
    assert told == {"reason": "", "before": {}, "after": {}}
    assert ROLLOUT.actor == "controller"


def test_values_are_spelled_as_the_api_does() -> None:
    key = events.KeyWasCreated(events.key_subject(None, "key-2"), Role.ADMIN, {"role": Role.ADMIN, "more": (1, 2)})
    assert key.data(ROLLOUT) == {"role": "admin", "after": {"role": "admin", "more": [1, 2]}}
    job = events.JobUpdated(events.job_subject("pool"), {"replicas": 2}, {"replicas": 1}, {"replicas": 2})
    assert job.data(ROLLOUT) == {"replicas": 2, "before": {"replicas": 1}, "after": {"replicas": 2}}
    assert "cells" not in events.ModelUpdated(DIGITS, {}, {}).data(ROLLOUT)
    assert events.ModelUpdated(DIGITS, {}, {}, cells=[]).data(ROLLOUT)["cells"] == []


def test_subjects_belong_to_those_who_may_see_them() -> None:
    assert events.tenant_subject("acme") == ("acme", "tenant/acme")
    assert events.key_subject(None, "k") == (None, "key/k")
    assert DIGITS == ("acme", "model/digits")
    assert events.version_subject(VersionKey("acme", "digits", 3)) == ("acme", "model/digits/versions/3")
    assert events.job_subject("pool") == (None, "job/pool")


def test_of_an_update_the_members_that_differ_are_told() -> None:
    assert events.difference({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}) == (
        {"b": 2, "c": 3},
        {"b": 4, "d": 5},
    )
