"""The small decisions of the synchronizer, as tables."""

from __future__ import annotations

import pytest

from berth.ids import VersionKey
from berth.model import (
    NEVER,
    Artifact,
    DesiredModel,
    DesiredState,
    ModelRoute,
    Order,
    RouteDelta,
    ServableStatus,
    Serving,
    VersionSpec,
)
from berth.resources import Resources
from berth.states import ServableState
from synchronizer.core.aspire import aspire, held
from synchronizer.core.availability import default_version, describe, has_failed
from synchronizer.core.delta_history import DeltaHistory
from synchronizer.core.leadership import (
    Denied,
    Fenced,
    Granted,
    Lead,
    Leadership,
    LeaseEvent,
    Phase,
    StepDown,
    Unreachable,
)
from synchronizer.core.routes import RouteTableBuilder
from synchronizer.core.withdrawal import Route, RouteLedger

V1, V2, V3 = (VersionKey("t", "m", number) for number in (1, 2, 3))


def spec(key: VersionKey) -> VersionSpec:
    return VersionSpec(key, Artifact("0" * 64, 10), Resources.host(100))


def specs(*keys: VersionKey) -> dict[VersionKey, VersionSpec]:
    return {key: spec(key) for key in keys}


@pytest.mark.parametrize(
    ("desired", "held_there", "routed", "remembered", "expected"),
    [
        ([V1], [], [], [], [V1]),
        ([V2, V1], [V1], [V1], [V1], [V1, V2]),
        ([V2], [V1], [V1], [V1], [V1, V2]),  # still routed: lingers
        ([V2], [V1], [], [V1], [V2]),  # withdrawn: goes
        ([], [V1, V2], [V2], [V1, V2], [V2]),  # drains, or its job is gone
        ([], [], [], [V1], []),
        ([V2], [V1], [V1], [], None),  # its spec is not known: wait
        ([V2], [V1], [], [], [V2]),
    ],
)
def test_aspired_is_desired_and_what_lingers(
    desired: list[VersionKey],
    held_there: list[VersionKey],
    routed: list[VersionKey],
    remembered: list[VersionKey],
    expected: list[VersionKey] | None,
) -> None:
    got = aspire(specs(*desired), held_there, lambda key: key in routed, specs(*remembered))
    assert got == (None if expected is None else tuple(map(spec, expected)))


def test_ended_and_failed_versions_are_not_held() -> None:
    states = dict(zip([V1, V2, V3], [ServableState.END, ServableState.ERROR, ServableState.LOADING], strict=True))
    assert held(ServableStatus(key, state) for key, state in states.items()) == (V3,)


@pytest.mark.parametrize(
    ("target", "replicas", "previous", "expected"),
    [
        (2, {}, 0, 0),
        (2, {2: 1}, 0, 2),
        (2, {1: 2, 2: 1}, 1, 1),  # not yet on as many
        (2, {1: 2, 2: 2}, 1, 2),  # now it is
        (2, {1: 2, 2: 1}, 2, 2),  # half of them restarted: stays
        (2, {1: 3, 2: 1}, 2, 1),  # most of them are gone: the old one carries it
        (2, {1: 3}, 2, 1),
        (0, {1: 2, 3: 2}, 0, 3),  # of equals the newest
        (9, {1: 2, 3: 2}, 1, 3),
        (1, {1: 1, 3: 1}, 3, 1),  # pinned to an older one
    ],
)
def test_default_version(target: int, replicas: dict[int, int], previous: int, expected: int) -> None:
    assert default_version(target, replicas, previous) == expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], "not loaded on any replica yet"),
        ([(ServableState.LOADING, "")], "loading on 1 replica"),
        ([(ServableState.LOADING, ""), (ServableState.NEW, "")], "loading on 2 replicas"),
        ([(ServableState.LOADING, ""), (ServableState.ERROR, "bad")], "loading on 1 replica"),
        ([(ServableState.ERROR, "bad")], "failed: bad"),
        ([(ServableState.ERROR, "")], "failed"),
        ([(ServableState.DRAINING, "")], "being unloaded"),
    ],
)
def test_reasons(states: list[tuple[ServableState, str]], expected: str) -> None:
    statuses = [ServableStatus(V1, state, reason) for state, reason in states]
    assert describe(statuses) == expected
    assert has_failed(statuses) == expected.startswith("failed")


@pytest.mark.parametrize(
    ("resumable", "events", "phase", "last"),
    [
        (0, [], Phase.STANDBY, None),
        (0, [Granted(3, 3.0)], Phase.LEADING, Lead(3)),
        (0, [Granted(3, 3.0), Granted(3, 3.0)], Phase.LEADING, None),
        (0, [Granted(3, 3.0), Granted(4, 3.0)], Phase.LEADING, Lead(4)),
        (0, [Granted(3, 3.0), Unreachable()], Phase.LEADING, None),  # static stability
        (0, [Granted(3, 3.0), Denied(4)], Phase.STANDBY, StepDown("another synchronizer holds the lease of epoch 4")),
        (0, [Granted(3, 3.0), Fenced(4)], Phase.DEPOSED, StepDown("epoch 4 is over or another's")),
        (0, [Granted(3, 3.0), Fenced(2)], Phase.LEADING, None),
        (0, [Granted(3, 3.0), Fenced(4), Granted(3, 3.0)], Phase.DEPOSED, None),
        (0, [Granted(3, 3.0), Fenced(4), Unreachable()], Phase.DEPOSED, None),
        (0, [Granted(3, 3.0), Fenced(4), Denied(4), Granted(5, 3.0)], Phase.LEADING, Lead(5)),
        (0, [Unreachable()], Phase.STANDBY, None),  # never led: the lease may be another's
        (7, [Unreachable()], Phase.LEADING, Lead(7)),
        (7, [Denied(7)], Phase.STANDBY, None),
        (7, [Denied(7), Unreachable()], Phase.STANDBY, None),
        (7, [Unreachable(), Granted(8, 3.0)], Phase.LEADING, Lead(8)),
        (7, [Unreachable(), Fenced(8), Unreachable()], Phase.DEPOSED, None),
    ],
)
def test_leadership(resumable: int, events: list[LeaseEvent], phase: Phase, last: Lead | StepDown | None) -> None:
    leadership = Leadership(resumable)
    instruction = None
    for event in events:
        instruction = leadership.on(event, 0.0)
        leadership.validate()
    assert (leadership.phase, instruction) == (phase, last)


def test_a_lease_is_held_until_it_expires() -> None:
    leadership = Leadership()
    leadership.on(Granted(1, 3.0), 10.0)
    assert leadership.holds_lease(12.9)
    assert not leadership.holds_lease(13.0)
    assert leadership.phase is Phase.LEADING


def test_history_answers_what_it_remembers() -> None:
    history = DeltaHistory(most=2)
    history.append(RouteDelta(0, Order(1, 1)))
    assert history.since(NEVER) is None
    assert history.since(Order(1, 1)) == ()
    deltas = [RouteDelta(1, Order(1, 4)), RouteDelta(4, Order(1, 5)), RouteDelta(5, Order(1, 9))]
    for delta in deltas:
        history.append(delta)
    assert history.latest == Order(1, 9)
    assert history.since(Order(1, 4)) == tuple(deltas[1:])
    assert history.since(Order(1, 1)) is None, "it fell out"
    assert history.since(Order(1, 6)) is None, "it never was"
    assert history.since(Order(2, 5)) is None, "another epoch's"
    history.append(RouteDelta(0, Order(2, 10)))
    assert history.since(Order(1, 9)) is None


R = Route("w", V1)


def ledger(now: float = 0.0) -> RouteLedger:
    """One that met all its routers long ago, with one router that has applied generation 1."""
    made = RouteLedger(1, now - 100.0, grace=5.0, timeout=10.0)
    made.router_seen(1, "r1", Order(1, 1))
    made.published(1, [], [], now)
    made.settle(now)
    return made


def test_a_route_is_routed_once_every_router_has_it() -> None:
    routes = ledger()
    routes.router_seen(2, "r2", Order(1, 1))
    routes.published(2, [R], [], 0.0)
    assert routes.may_be_routed(R, 0.0)
    routes.router_seen(1, "r1", Order(1, 2))
    assert routes.routed("w") == frozenset()
    routes.router_seen(2, "r2", Order(1, 2))
    assert routes.routed("w") == {V1}
    routes.router_seen(3, "starting", NEVER)
    assert routes.routed("w") == {V1}, "a router without a table answers nothing"
    for session in (1, 2, 3):
        routes.router_gone(session, 1.0)
    assert routes.routed("w") == frozenset(), "nobody can ask"
    routes.validate()


def test_a_withdrawal_ends_when_every_router_acknowledged() -> None:
    routes = ledger()
    routes.router_seen(2, "r2", Order(1, 1))
    routes.published(2, [R], [], 0.0)
    routes.published(3, [], [R], 0.0)
    routes.router_seen(1, "r1", Order(1, 3))
    routes.settle(1.0)
    assert routes.may_be_routed(R, 1.0)
    routes.router_seen(2, "r2", Order(1, 3))
    assert routes.settle(1.0)
    assert not routes.may_be_routed(R, 1.0)
    routes.validate()


def test_a_stuck_router_holds_a_withdrawal_up_for_ten_seconds_only() -> None:
    routes = ledger()
    routes.published(2, [R], [], 0.0)
    routes.published(3, [], [R], 0.0)
    routes.settle(9.9)
    assert routes.may_be_routed(R, 9.9)
    assert routes.next_deadline(9.9) == 10.0
    assert routes.settle(10.0)
    assert not routes.may_be_routed(R, 10.0)
    assert routes.timed_out == 1


def test_a_vanished_router_counts_for_its_grace() -> None:
    routes = ledger()
    routes.published(2, [R], [], 0.0)
    routes.published(3, [], [R], 0.0)
    routes.router_gone(1, 1.0)
    routes.settle(5.9)
    assert routes.may_be_routed(R, 5.9)
    routes.settle(6.0)
    assert not routes.may_be_routed(R, 6.0)
    assert routes.timed_out == 0


def test_a_route_published_again_is_not_ended_by_its_old_withdrawal() -> None:
    routes = ledger()
    routes.published(2, [R], [], 0.0)
    routes.published(3, [], [R], 0.0)
    routes.published(4, [R], [], 0.0)
    routes.router_seen(1, "r1", Order(1, 4))
    routes.settle(20.0)
    assert routes.may_be_routed(R, 20.0)
    assert routes.routed("w") == {V1}
    routes.validate()


def test_a_new_leader_supposes_that_any_route_may_exist() -> None:
    routes = RouteLedger(2, 0.0, grace=5.0, timeout=10.0)
    assert routes.may_be_routed(R, 0.0)
    routes.router_seen(1, "r1", Order(1, 80))
    routes.published(81, [], [], 0.0)
    routes.router_seen(1, "r1", Order(2, 81))
    assert routes.may_be_routed(R, 4.9), "another router may still have to find us"
    assert not routes.may_be_routed(R, 5.0)
    never = RouteLedger(2, 0.0, grace=5.0, timeout=10.0)
    assert never.may_be_routed(R, 9.9)
    assert not never.may_be_routed(R, 10.0)


def test_a_late_word_of_an_old_stream_does_not_count() -> None:
    routes = ledger()
    routes.router_seen(5, "r1", Order(1, 1))
    routes.router_seen(1, "r1", Order(1, 9))
    routes.router_gone(1, 0.0)
    assert routes.routers() == ("r1",)
    assert routes.routed_floor() == 1


def test_routers_hear_of_what_other_cells_are_to_hold_when_that_changes() -> None:
    board = RouteTableBuilder()

    def publish(generation: int, elsewhere: dict[int, tuple[str, ...]]) -> tuple[ModelRoute, ...] | None:
        model = DesiredModel(V1.model_key, Serving.only(1), elsewhere=elsewhere)
        board.set_desired(DesiredState("c", generation, models=(model,)))
        published = board.publish(Order(1, generation))
        return None if published is None else published.delta.models

    assert publish(1, {1: ("far",)}) == (ModelRoute(V1.model_key, Serving(), (), elsewhere={1: ("far",)}),)
    assert publish(2, {1: ("far",)}) is None
    assert publish(3, {1: ("far", "other")}) == (
        ModelRoute(V1.model_key, Serving(), (), elsewhere={1: ("far", "other")}),
    )
    assert publish(4, {}) == (ModelRoute(V1.model_key, Serving(), ()),)
