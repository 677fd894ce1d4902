"""Route tables and their differences: what a router ends up with is what the synchronizer meant."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.ids import ModelKey
from berth.model import (
    NEVER,
    ApiKey,
    ModelRoute,
    Order,
    ReplicaAddress,
    RouteDelta,
    RouteTable,
    Serving,
    TenantLimits,
    VersionRoute,
)
from berth.route_delta import GapError, StaleDelta, apply_delta, difference, snapshot
from berth.states import Role

NAMES = st.sampled_from(["a", "b", "c", "d"])
VERSIONS = st.builds(
    VersionRoute, st.integers(1, 3), st.lists(NAMES, max_size=2, unique=True).map(tuple), st.sampled_from(["", "x"])
)
MODELS = st.builds(
    ModelRoute,
    st.builds(ModelKey, NAMES, NAMES),
    st.builds(Serving.only, st.integers(0, 3), st.dictionaries(NAMES, st.integers(1, 3), max_size=1)),
    st.lists(VERSIONS, max_size=2).map(tuple),
    elsewhere=st.dictionaries(st.integers(1, 2), st.just(("far",)), max_size=1),
)
ADDRESSES = st.builds(
    lambda name, start: ReplicaAddress(name, "job", "cell", start, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"),
    NAMES,
    st.sampled_from(["one", "two"]),
)
KEYS = st.builds(ApiKey, st.sampled_from([b"1", b"2", b"3"]), NAMES, st.sampled_from(Role))
LIMITS = st.builds(TenantLimits, NAMES, st.sampled_from([0.0, 5.0]), st.integers(0, 2))


@st.composite
def tables(draw: st.DrawFn, generation: int) -> RouteTable:
    return RouteTable(
        Order(1, generation),
        {route.key: route for route in draw(st.lists(MODELS, max_size=4))},
        {address.replica: address for address in draw(st.lists(ADDRESSES, max_size=4))},
        {key.sha256: key for key in draw(st.lists(KEYS, max_size=3))},
        {limits.tenant: limits for limits in draw(st.lists(LIMITS, max_size=3))},
        draw(st.integers(1, 3)),
    )


@given(tables(4), tables(9))
def test_applying_the_difference_gives_the_new_table(old: RouteTable, new: RouteTable) -> None:
    before = dataclasses.replace(old, models=dict(old.models), keys=dict(old.keys))
    assert apply_delta(old, difference(old, new)) == new
    assert old == before, "the old table is a snapshot that others may be reading"


@given(tables(4), tables(9))
def test_a_snapshot_replaces_whatever_was_there(old: RouteTable, new: RouteTable) -> None:
    assert apply_delta(old, snapshot(new)) == new
    assert apply_delta(RouteTable(), snapshot(new)) == new


@given(tables(4))
def test_nothing_changed_is_an_empty_difference(table: RouteTable) -> None:
    later = dataclasses.replace(table, order=Order(1, 5))
    assert difference(table, later) == RouteDelta(base=4, order=Order(1, 5), routers=table.routers)
    assert apply_delta(table, difference(table, later)).models is table.models


@pytest.mark.parametrize(
    ("table", "base", "order", "refusal"),
    [
        (Order(2, 5), 5, Order(2, 6), None),
        (Order(2, 5), 0, Order(2, 6), None),
        (Order(2, 5), 0, Order(2, 5), None),
        (Order(2, 5), 0, Order(3, 1), None),
        (NEVER, 0, Order(1, 1), None),
        (Order(2, 5), 4, Order(2, 6), GapError),
        (Order(2, 5), 6, Order(2, 7), GapError),
        (Order(2, 5), 5, Order(3, 6), GapError),
        (NEVER, 5, Order(1, 6), GapError),
        (Order(2, 5), 0, Order(2, 4), StaleDelta),
        (Order(2, 5), 3, Order(2, 4), StaleDelta),
        (Order(2, 5), 0, Order(1, 99), StaleDelta),
        (Order(2, 5), 5, Order(1, 99), StaleDelta),
    ],
)
def test_what_fits_and_what_is_refused(table: Order, base: int, order: Order, refusal: type[Exception] | None) -> None:
    if refusal is None:
        assert apply_delta(RouteTable(table), RouteDelta(base, order)).order == order
    else:
        with pytest.raises(refusal):
            apply_delta(RouteTable(table), RouteDelta(base, order))


def test_no_difference_leads_across_epochs() -> None:
    with pytest.raises(ValueError, match="epoch"):
        difference(RouteTable(Order(1, 5)), RouteTable(Order(2, 6)))
