"""Counts by version and replica stay within their bounds, lose no request, and let newcomers in."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from berth.ids import VersionKey
from router.control.model_metrics import SECONDS, ModelMetrics
from router.core.tallies import BAD, GOOD, NONE, DurationTally, Labels, Tallies

REST = Labels("", "other", "", "")


def tell(
    tallies: Tallies,
    model: str,
    version: int,
    replica: str,
    outcome: str = GOOD,
    seconds: float = 0.01,
    now: float = 0.0,
) -> None:
    key = VersionKey("t", model, version)
    tallies.add(key, key.servable, replica, outcome, seconds, now)
    tallies.validate()


def counts(tallies: Tallies) -> dict[tuple[Labels, str], int]:
    return {(labels, outcome): sum(tally.buckets) for labels, outcome, tally in tallies.rows()}


def test_each_version_replica_and_outcome_is_counted_by_itself() -> None:
    tallies = Tallies(10, 10, SECONDS)
    for model, version, replica, outcome in [
        ("a", 1, "w1", GOOD),
        ("a", 1, "w1", GOOD),
        ("a", 1, "w1", BAD),
        ("a", 1, "w2", GOOD),
        ("a", 2, "w1", GOOD),
        ("a", 1, "", NONE),
    ]:
        tell(tallies, model, version, replica, outcome)
    assert counts(tallies) == {
        (Labels("t", "a", "1", "w1"), GOOD): 2,
        (Labels("t", "a", "1", "w1"), BAD): 1,
        (Labels("t", "a", "1", "w2"), GOOD): 1,
        (Labels("t", "a", "2", "w1"), GOOD): 1,
        (Labels("t", "a", "1", ""), NONE): 1,
    }


@pytest.mark.parametrize(
    ("models", "series", "labels"),
    [
        (0, 9, {REST}),
        (1, 9, {Labels("t", "a", "1", "w1"), Labels("t", "a", "1", "w2"), REST}),
        (2, 9, {Labels("t", model, "1", replica) for model in "ab" for replica in ("w1", "w2")} | {REST}),
        (2, 3, {Labels("t", "a", "1", "w1"), Labels("t", "a", "1", "w2"), Labels("t", "b", "1", "w1")}
            | {Labels("t", "b", "other", "other"), REST}),
        (9, 1, {Labels("t", "a", "1", "w1")} | {Labels("t", model, "other", "other") for model in "abc"}),
    ],
)  # fmt: skip
def test_what_has_no_room_is_counted_together(models: int, series: int, labels: set[Labels]) -> None:
    tallies = Tallies(models, series, SECONDS)
    for model in "abc":
        for replica in ("w1", "w2"):
            tell(tallies, model, 1, replica)
    assert {found for found, _, _ in tallies.rows()} == labels
    assert sum(counts(tallies).values()) == 6


def test_whoever_is_not_asked_for_gives_up_the_place() -> None:
    tallies = Tallies(2, 2, SECONDS)
    tell(tallies, "a", 1, "old-pod", now=0.0)
    tell(tallies, "b", 1, "w", now=0.0)
    tell(tallies, "b", 1, "w", now=500.0)
    tell(tallies, "a", 1, "new-pod", now=599.0)
    assert (Labels("t", "a", "other", "other"), GOOD) in counts(tallies)
    tell(tallies, "a", 1, "new-pod", now=610.0)
    tell(tallies, "c", 1, "w", now=611.0)
    # Both places are taken by who asked lately, and so are both models.
    assert {labels for labels, _, _ in tallies.rows()} == {
        Labels("t", "b", "1", "w"),
        Labels("t", "a", "1", "new-pod"),
        Labels("t", "a", "other", "other"),
        REST,
    }
    tell(tallies, "c", 1, "w", now=1300.0)
    assert {labels for labels, _, _ in tallies.rows()} == {Labels("t", "c", "1", "w"), REST}


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 2), st.sampled_from(["", "w1", "w2"]), st.floats(0, 900))
    ),
)
def test_no_request_that_was_lately_counted_is_lost(
    models: int, series: int, told: list[tuple[str, int, str, float]]
) -> None:
    tallies, now, lately = Tallies(models, series, SECONDS), 0.0, Counter[float]()
    for model, version, replica, passed in told:
        now += passed
        tell(tallies, model, version, replica, now=now)
        lately[now] += 1
    kept = sum(counts(tallies).values())
    assert sum(count for at, count in lately.items() if at >= now - 600.0) <= kept <= len(told)
    assert len(counts(tallies)) <= series + models + 1


def test_a_tally_has_the_buckets_of_prometheus() -> None:
    tally = DurationTally((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        tally.add(seconds)
    assert tally.up_to() == [("0.1", 2.0), ("1.0", 3.0), ("+Inf", 4.0)]
    assert tally.seconds == pytest.approx(7.65)


def test_the_page_has_a_histogram_for_each() -> None:
    registry, tallies = CollectorRegistry(), Tallies(1, 5, SECONDS)
    ModelMetrics(registry, tallies)
    tell(tallies, "a", 1, "w1", seconds=0.02)
    labels = 'model="a",outcome="good",replica="w1",tenant="t",version="1"'
    page = generate_latest(registry).decode()
    assert f"berth_router_model_seconds_count{{{labels}}} 1.0" in page
    assert f'berth_router_model_seconds_bucket{{le="0.025",{labels}}} 1.0' in page
    assert f'berth_router_model_seconds_bucket{{le="0.01",{labels}}} 0.0' in page


def test_without_models_the_page_names_nobody() -> None:
    registry, tallies = CollectorRegistry(), Tallies(0, 5, SECONDS)
    ModelMetrics(registry, tallies)
    assert not tallies.counts
    assert all(line.startswith("#") for line in generate_latest(registry).decode().splitlines())
