"""Single situations of the cell that the state machine would meet only by luck."""

from __future__ import annotations

from dataclasses import replace

import pytest

from berth.ids import VersionKey
from berth.model import (
    NEVER,
    Artifact,
    DesiredJob,
    DesiredModel,
    DesiredState,
    Order,
    ReplicaAddress,
    ReplicaStatus,
    RouteDelta,
    ServableStatus,
    Serving,
    VersionSpec,
)
from berth.resources import Resources
from berth.states import Runtime, ServableState
from synchronizer.core.assigned import AssignedVersions
from synchronizer.core.cell import Cell, Timings
from synchronizer.core.events import (
    DesiredArrived,
    Discovered,
    Instructions,
    Led,
    Lost,
    Reported,
    Reserved,
    RouterGone,
    RouterSeen,
    SteppedDown,
)

V1, V2 = VersionKey("t", "m", 1), VersionKey("t", "m", 2)
W = ReplicaAddress("w", "j", "c", "1", "c:1", "g:1", "h:1")


def desired(generation: int, *keys: VersionKey) -> DesiredArrived:
    specs = tuple(VersionSpec(key, Artifact("0" * 64, 10), Resources.host(100)) for key in keys)
    models = (DesiredModel(V1.model_key, Serving.only(1)),)
    return DesiredArrived(DesiredState("c", generation, (DesiredJob("j", Runtime.ONNXRUNTIME, specs),), models))


def report(accepted: Order, *available: VersionKey, refused: bool = False) -> Reported:
    servables = tuple(ServableStatus(key, ServableState.AVAILABLE) for key in available)
    return Reported(ReplicaStatus(W, accepted, servables), refused)


def leader(*events: DesiredArrived, epoch: int = 2) -> Cell:
    cell = Cell("c", Timings())
    cell.step([Discovered({"w": W}), Reserved(0, 1000), *events, Led(epoch)], 0.0)
    return cell


def routes(outcome: Instructions) -> dict[int, tuple[str, ...]]:
    assert outcome.publish is not None
    return {entry.version: entry.replicas for model in outcome.publish.models for entry in model.versions}


def test_a_new_leader_publishes_only_what_was_confirmed_in_its_epoch() -> None:
    """A deposed leader's last set may still reach the worker; once it accepted ours, it cannot."""
    cell = leader(desired(1, V1))
    first = cell.step([report(Order(1, 77), V1)], 0.1)
    assert first.publish is None
    (push,) = first.pushes
    assert routes(cell.step([report(push.aspired.order, V1)], 0.2)) == {1: ("w",)}


def test_what_is_not_confirmed_in_time_is_left_out() -> None:
    cell = leader(desired(1, V1))
    cell.step([report(Order(1, 77), V1)], 0.1)
    assert cell.step([], 1.9).publish is None
    assert routes(cell.step([], 2.0)) == {1: ()}


def test_a_version_that_comes_back_is_routed_once_the_replica_has_taken_it_back() -> None:
    cell = leader(desired(1, V1, V2))
    (push,) = cell.step([report(NEVER, V1, V2)], 0.1).pushes
    published = cell.step([report(push.aspired.order, V1, V2)], 0.2)
    assert published.publish is not None
    cell.step([RouterSeen(1, "r", published.publish.order)], 10.0)
    withdrawn = cell.step([desired(2, V1)], 10.1)
    assert withdrawn.publish is not None
    assert withdrawn.pushes == (), "V2 lingers"
    (without,) = cell.step([RouterSeen(1, "r", withdrawn.publish.order)], 10.2).pushes
    assert [spec.key for spec in without.aspired.versions] == [V1]
    (again,) = cell.step([desired(3, V1, V2)], 10.3).pushes
    late = cell.step([report(push.aspired.order, V1, V2)], 10.4)
    assert late.publish is None, "the set without it is still under way"
    assert routes(cell.step([report(again.aspired.order, V1, V2)], 10.5))[2] == ("w",)


@pytest.mark.parametrize("refused", [True, False])
def test_generations_that_the_disk_forgot_are_skipped(refused: bool) -> None:
    cell = leader(desired(1, V1))
    outcome = cell.step([report(Order(2, 500), V1, refused=refused)], 0.1)
    (push,) = outcome.pushes
    assert push.aspired.order == Order(2, 501)
    outcome = cell.step([report(push.aspired.order, V1), RouterSeen(1, "r", Order(2, 700))], 0.2)
    assert outcome.publish is not None
    assert outcome.publish.order == Order(2, 701)


def test_nothing_is_given_out_beyond_what_is_reserved() -> None:
    cell = leader(desired(1, V1))
    stuck = cell.step([report(Order(2, 5000), V1)], 0.1)
    assert (stuck.pushes, stuck.publish, stuck.reserve_after) == ((), None, 5000)
    (push,) = cell.step([Reserved(5000, 6000)], 0.2).pushes
    assert push.aspired.order == Order(2, 5001)


def test_every_table_says_how_many_routers_share_the_limits() -> None:
    """One that vanished goes on answering with its last table, so it counts until the grace is over."""
    cell = leader(desired(1, V1))
    (push,) = cell.step([report(NEVER, V1)], 0.1).pushes
    first = cell.step([report(push.aspired.order, V1), RouterSeen(1, "r1", NEVER)], 0.2).publish
    assert first is not None
    assert first.routers == 1
    assert cell.step([RouterSeen(1, "r1", first.order)], 0.3).publish is None
    second = cell.step([RouterSeen(2, "r2", NEVER)], 0.4).publish
    assert second == RouteDelta(first.order.generation, second.order if second else NEVER, routers=2)
    assert cell.table().routers == 2
    cell.step([RouterSeen(1, "r1", second.order), RouterSeen(2, "r2", second.order)], 0.5)
    assert cell.step([RouterGone(2)], 1.0).publish is None
    assert cell.step([RouterSeen(3, "r2", second.order)], 2.0).publish is None, "it was away for a second"
    cell.step([RouterGone(3)], 3.0)
    assert cell.step([], 7.9).publish is None
    third = cell.step([], 8.0).publish
    assert third is not None
    assert third.routers == 1


@pytest.mark.parametrize("event", [report(Order(3, 1)), RouterSeen(1, "r", Order(3, 1))])
def test_a_later_epoch_fences_and_nothing_is_lost_with_it(event: Reported | RouterSeen) -> None:
    cell = leader(desired(1, V1))
    cell.step([report(Order(1, 1))], 0.1)
    assert cell.step([event, desired(2, V2)], 0.2) == Instructions(fenced=3)
    cell.step([SteppedDown()], 0.3)
    assert cell.desired_generation == 2
    assert cell.step([report(Order(1, 1)), Lost("w")], 0.4) == Instructions()
    cell.validate()


def test_an_older_desired_state_is_ignored() -> None:
    cell = leader(desired(5, V1))
    cell.step([report(Order(1, 1))], 0.1)
    assert cell.step([desired(4)], 0.2).pushes == ()
    assert cell.desired_generation == 5


def test_a_sign_of_life_changes_nothing() -> None:
    cell = leader(desired(1, V1))
    (push,) = cell.step([report(NEVER, V1)], 0.1).pushes
    cell.step([report(push.aspired.order, V1)], 0.2)
    outcome = cell.step([report(push.aspired.order, V1)], 1.2)
    assert (outcome.publish, outcome.pushes, outcome.changed) == (None, (), False)
    assert cell.observed(1000.0).replicas[0].seen_at == 1001.2


def test_what_was_left_out_once_is_not_put_in_again() -> None:
    """Reports are older than the sets under way: following each of them would never end."""
    cell = leader(desired(1, V1))
    (first,) = cell.step([report(NEVER)], 0.1).pushes
    loaded_meanwhile = report(Order(1, 80), V1, V2)
    assert cell.step([loaded_meanwhile], 0.2).pushes == ()
    assert cell.step([report(first.aspired.order, V1)], 0.3).pushes == ()


def test_a_replica_that_cannot_be_sent_a_set_yet_is_believed_after_a_while() -> None:
    """It holds a version whose spec nobody knows any more: what else it holds must not lose its routes."""
    cell = leader(desired(1, V1))
    assert cell.step([report(Order(1, 80), V1, V2), RouterSeen(1, "r", Order(1, 79))], 0.1).pushes == ()
    assert cell.step([], 1.9).publish is None
    published = cell.step([], 2.0).publish
    assert published is not None
    assert [entry.replicas for model in published.models for entry in model.versions] == [("w",)]
    assert cell.step([RouterSeen(1, "r", published.order)], 2.1).pushes == (), "other routers may have V2 still"
    (push,) = cell.step([], 5.0).pushes
    assert [spec.key for spec in push.aspired.versions] == [V1]


def test_the_spec_of_a_version_that_was_desired_before_is_remembered() -> None:
    cell = leader(desired(1, V1, V2), desired(2, V1))
    (push,) = cell.step([report(Order(1, 80), V1, V2)], 0.1).pushes
    assert [spec.key for spec in push.aspired.versions] == [V1, V2]


def test_a_job_is_wanted_until_its_version_is_loaded_and_staffed_while_a_replica_may_load_it() -> None:
    cell = leader(desired(1, V1))
    assert cell.wanting([V1]) == ("j",)
    assert cell.wanting([V2]) == ()
    assert not cell.is_staffed("j")
    cell.step([report(NEVER)], 0.1)
    assert (cell.wanting([V1]), cell.is_staffed("j")) == (("j",), True)
    cell.step([Discovered({"w": W}, leaving=frozenset({"w"}))], 0.2)
    assert not cell.is_staffed("j")
    cell.step([Discovered({"w": W}), Lost("w")], 0.3)
    assert not cell.is_staffed("j")


def test_a_newer_state_changes_the_jobs_that_it_changes() -> None:
    def state(generation: int, **jobs: tuple[VersionKey, ...]) -> DesiredState:
        made = tuple(
            DesiredJob(
                name,
                Runtime.ONNXRUNTIME,
                tuple(VersionSpec(key, Artifact("0" * 64, 10), Resources.host(100)) for key in keys),
            )
            for name, keys in jobs.items()
        )
        return DesiredState("c", generation, made, (DesiredModel(V1.model_key, Serving.only(1)),))

    assigned = AssignedVersions()
    assert assigned.generation is None
    assert assigned.adopt(state(1, a=(V1,), b=(V1,))) == {"a", "b"}
    assert assigned.adopt(state(2, a=(V1,), b=(V1, V2))) == {"b"}
    assert assigned.jobs_of([V2]) == {"b"}
    assert assigned.named("b") == {V1, V2}
    assert assigned.adopt(state(3, a=(V1,))) == {"b"}
    assert assigned.dropped.keys() == {V1, V2}
    assert (assigned.specs("b"), assigned.named("b")) == ({}, frozenset())
    # Its model is gone: nobody can ask for it by name.
    assert assigned.adopt(replace(state(4, a=(V1,)), models=())) == {"a"}
    assert assigned.specs("a").keys() == {V1}
    assert not assigned.named("a")
