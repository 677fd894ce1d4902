"""What is to be done for a model over all its cells: the last copy that answers stays, whatever is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from berth.ids import VersionKey
from berth.model import ServableStatus
from berth.states import ServableState, VersionState
from controller.core.rollout.facts import (
    AssignedCopy,
    CopyKey,
    Fleet,
    KnownReplica,
    KnownVersion,
    ModelWish,
    ServableReport,
)
from controller.core.rollout.homes import Assign, Keep, fill, homes
from controller.core.rollout.plan import Measured, RolloutPlan, plan
from controller.core.rollout.target import served, wanted

CELLS = ("east", "north", "west")
AVAILABLE, LOADING, ERROR, END = (
    ServableState.AVAILABLE,
    ServableState.LOADING,
    ServableState.ERROR,
    ServableState.END,
)
MEGABYTE = 1 << 20

numbers = st.integers(1, 3)
places = st.tuples(numbers, st.sampled_from(CELLS))


def known(
    number: int, *, deleted: bool = False, measured_bytes: int = MEGABYTE, announced: str = "available"
) -> KnownVersion:
    return KnownVersion(number, deleted, proven=True, measured_bytes=measured_bytes, announced=announced)


def copy(number: int, cell: str, *, releasing: bool = False, left_out_from: int = 2) -> AssignedCopy:
    made = AssignedCopy(number, f"{cell}-pool", cell, 1.0)
    return made._replace(releasing_at=5.0, left_out_from=left_out_from) if releasing else made


def said(
    number: int, cell: str, state: ServableState = AVAILABLE, *, routed: bool | None = None, measured: int = MEGABYTE
) -> ServableReport:
    key = VersionKey("acme", "digits", number)
    status = ServableStatus(key, state, since=3.0, measured_bytes=measured)
    return ServableReport(cell, f"{cell}-1", number, status, state is AVAILABLE if routed is None else routed)


def fleet(*silent: str, acted_on: int = 1, replicas: int = 1) -> Fleet:
    """One replica in each cell; the `silent` cells have said nothing."""
    return Fleet(
        {cell: acted_on for cell in CELLS if cell not in silent},
        [KnownReplica(cell, f"{cell}-1", f"{cell}-pool", connected=True) for cell in CELLS],
        {f"{cell}-pool": replicas for cell in CELLS},
    )


EAST, WEST = ModelWish(cells=("east",)), ModelWish(cells=("west",))
ANY = ModelWish()
ONE, TWO = known(1), known(2)


@pytest.mark.parametrize(
    ("wish", "versions", "copies", "heard", "expected"),
    [
        pytest.param(ANY, [ONE], [copy(1, "east")], [said(1, "east")], RolloutPlan(), id="all is well"),
        pytest.param(EAST, [ONE], [], [], RolloutPlan(assign=(Assign(1, "east"),)), id="not placed yet"),
        pytest.param(
            ModelWish(cells=("east", "west")),
            [ONE, TWO],
            [copy(1, "east"), copy(2, "east"), copy(1, "west")],
            [said(1, "east"), said(2, "east", LOADING), said(1, "west")],
            RolloutPlan(assign=(Assign(2, "west"),)),
            id="each home gets its copy",
        ),
        pytest.param(
            ModelWish(cells=("east", "west")),
            [ONE, TWO],
            [copy(1, "east"), copy(2, "east"), copy(1, "west"), copy(2, "west")],
            [said(1, "east"), said(2, "east"), said(1, "west"), said(2, "west", LOADING)],
            RolloutPlan(release=(CopyKey(1, "east-pool"),)),
            id="each cell moves by itself",
        ),
        pytest.param(
            WEST,
            [ONE],
            [copy(1, "east"), copy(1, "west")],
            [said(1, "east"), said(1, "west", LOADING)],
            RolloutPlan(),
            id="the old cell answers until the new one does",
        ),
        pytest.param(
            WEST,
            [ONE],
            [copy(1, "east"), copy(1, "west")],
            [said(1, "east"), said(1, "west")],
            RolloutPlan(release=(CopyKey(1, "east-pool"),)),
            id="the new cell answers",
        ),
        pytest.param(
            WEST._replace(labels={"stable": 1}),
            [ONE, TWO],
            [copy(1, "east"), copy(2, "east"), copy(1, "west"), copy(2, "west")],
            [said(1, "east"), said(2, "east"), said(1, "west", LOADING), said(2, "west")],
            RolloutPlan(release=(CopyKey(2, "east-pool"),)),
            id="a labelled version waits for its own copy",
        ),
        pytest.param(
            EAST,
            [ONE],
            [copy(1, "east", releasing=True)],
            [said(1, "east")],
            RolloutPlan(keep=(CopyKey(1, "east-pool"),)),
            id="wanted again before it has left",
        ),
        pytest.param(
            EAST,
            [ONE],
            [copy(1, "east", releasing=True, left_out_from=1)],
            [],
            RolloutPlan(free=(CopyKey(1, "east-pool"),), retire=(1,), assign=(Assign(1, "east"),)),
            id="wanted again, and it has left",
        ),
        pytest.param(
            ANY,
            [known(1, deleted=True), TWO],
            [copy(1, "east", releasing=True, left_out_from=1), copy(1, "west", releasing=True), copy(2, "east")],
            [said(1, "west"), said(2, "east")],
            RolloutPlan(free=(CopyKey(1, "east-pool"),)),
            id="a deleted version stays while another cell holds it",
        ),
        pytest.param(
            None,
            [known(1, deleted=True)],
            [copy(1, "east", releasing=True, left_out_from=1)],
            [said(1, "east", END, routed=False)],
            RolloutPlan(free=(CopyKey(1, "east-pool"),), remove=(1,)),
            id="a deleted model goes with its last copy",
        ),
        pytest.param(
            ANY,
            [KnownVersion(1)],
            [copy(1, "east")],
            [said(1, "east", measured=0, routed=False)],
            RolloutPlan(prove=(1,)),
            id="loaded is proven, measured or not",
        ),
    ],
)
def test_moves(
    wish: ModelWish | None,
    versions: list[KnownVersion],
    copies: list[AssignedCopy],
    heard: list[ServableReport],
    expected: RolloutPlan,
) -> None:
    assert replace(plan(wish, versions, copies, heard, fleet()), tell=()) == expected


AVAILABLE_NOW, FAILED_NOW, RETIRED_NOW = VersionState.AVAILABLE, VersionState.FAILED, VersionState.RETIRED


@pytest.mark.parametrize(
    ("version", "heard", "told", "measured", "proven"),
    [
        (KnownVersion(1), [], [], [], []),
        (KnownVersion(1), [said(1, "east", LOADING)], [], [], []),
        (KnownVersion(1), [said(1, "east", measured=9)], [AVAILABLE_NOW], [9], [1]),
        (KnownVersion(1), [said(1, "east", measured=0)], [AVAILABLE_NOW], [], [1]),
        (KnownVersion(1), [said(1, "east", routed=False, measured=0)], [], [], [1]),  # loaded, not routed yet
        (known(1, measured_bytes=7), [said(1, "east", measured=9), said(1, "west", LOADING, measured=99)], [], [9], []),
        (known(1), [said(1, "east", measured=9)], [], [], []),  # it never shrinks
        (known(1), [said(1, "east", ERROR)], [FAILED_NOW], [], []),
        (known(1, announced="failed"), [said(1, "east", ERROR)], [], [], []),
        (known(1, deleted=True), [said(1, "east", ERROR)], [], [], []),
    ],
)
def test_news(
    version: KnownVersion, heard: list[ServableReport], told: list[VersionState], measured: list[int], proven: list[int]
) -> None:
    found = plan(ANY, [version], [copy(1, "east")], heard, fleet())
    assert [one.status.state for one in found.tell] == told
    assert found.measure == tuple(Measured(1, size) for size in measured)
    assert found.prove == tuple(proven)
    assert bool(found) is bool(told or measured or proven or found.release)


def test_a_version_without_a_copy_is_told_to_have_retired() -> None:
    found = plan(ANY._replace(pinned=2), [ONE, TWO], [copy(2, "east")], [said(2, "east")], fleet())
    assert [(told.version, told.status.state) for told in found.tell] == [(1, RETIRED_NOW)]


def test_a_cell_that_says_nothing_frees_and_releases_nothing() -> None:
    copies = [copy(1, "east", releasing=True, left_out_from=1), copy(1, "west"), copy(2, "west")]
    found = plan(ANY, [ONE, TWO], copies, [], fleet(*CELLS))
    assert not found.release
    assert not found.free


@pytest.mark.parametrize(
    ("home", "copies", "step"),
    [
        (None, [], Assign(1, None)),
        ("east", [copy(1, "west")], Assign(1, "east")),
        ("east", [copy(2, "east")], Assign(1, "east")),
        ("east", [copy(1, "east")], None),
        (None, [copy(1, "west")], None),
        (None, [copy(1, "east", releasing=True), copy(1, "west")], None),
        ("east", [copy(1, "east", releasing=True)], Keep(copy(1, "east", releasing=True))),
    ],
)
def test_what_a_home_lacks(home: str | None, copies: list[AssignedCopy], step: Keep | Assign | None) -> None:
    assert fill(1, home, copies) == step


@pytest.mark.parametrize(
    ("asked", "copies", "expected"),
    [
        ((), [], [None]),
        (("east", "west"), [copy(1, "north")], ["east", "west"]),
        ((), [copy(1, "east"), copy(2, "west")], ["west"]),
        ((), [copy(2, "west"), copy(2, "east")], ["east"]),
        ((), [copy(2, "west", releasing=True), copy(1, "east")], ["east"]),
        ((), [copy(2, "west", releasing=True)], [None]),
    ],
)
def test_homes(asked: tuple[str, ...], copies: list[AssignedCopy], expected: list[str | None]) -> None:
    assert list(homes(asked, copies)) == expected


@given(
    st.dictionaries(places, st.booleans(), min_size=1),
    st.sets(places),
    st.sets(st.sampled_from(CELLS)),
    st.none() | numbers,
    st.dictionaries(st.sampled_from(["stable", "canary"]), numbers),
)
# It moves back while its copy there is still on its way out, and routed to.
@example({(3, "east"): True, (3, "west"): False}, {(3, "east"), (3, "west")}, {"east"}, None, {})
@settings(max_examples=300, deadline=None)
def test_what_answers_stays_until_all_homes_have_it(
    held: dict[tuple[int, str], bool],
    routed: set[tuple[int, str]],
    asked: set[str],
    pinned: int | None,
    labels: dict[str, int],
) -> None:
    copies = [copy(number, cell, releasing=releasing) for (number, cell), releasing in held.items()]
    wish = ModelWish(pinned, labels, tuple(sorted(asked)))
    heard = [said(number, cell) for number, cell in sorted(routed & held.keys())]
    found = plan(wish, [known(number) for number in (1, 2, 3)], copies, heard, fleet())

    where = homes(wish.cells, copies)
    answers = {place for place, releasing in held.items() if not releasing} & routed
    gone = {(place.version, place.job.removesuffix("-pool")) for place in found.release}
    assert not any(held[place] for place in gone), "what is on its way out is released once"
    for number in wanted(served(pinned, (1, 2, 3), labels)):
        if any((number, home) not in answers for home in where):
            assert not any(left == number for left, _ in gone)
        assert all(cell not in where for left, cell in gone if left == number)
        there = {cell for (one, cell), releasing in held.items() if one == number and not releasing}
        kept = {place.job.removesuffix("-pool") for place in found.keep if place.version == number}
        given = {step.cell for step in found.assign if step.version == number}
        assert not kept & given
        assert kept | given == (
            {None} if where == [None] and not kept else set(where) - there if where != [None] else kept
        )
    if answers:
        assert answers - gone, "never to zero"


class SeveralCells(RuleBasedStateMachine):
    """A model whose owner changes his mind while its cells converge, each at its own pace, and fall silent.

    Every cell has one replica. It loads what the cell has heard of, unless the version is broken; what is left out it
    unloads once it holds all the rest that works. Plans are carried out at once, and there is always room.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generation = 1
        self.versions: dict[int, KnownVersion] = {}
        self.broken: set[int] = set()
        self.wish = ModelWish()
        self.copies: dict[CopyKey, AssignedCopy] = {}
        self.aspired: dict[str, set[int]] = {cell: set() for cell in CELLS}
        self.acted_on: dict[str, int] = dict.fromkeys(CELLS, 1)
        self.loaded: dict[str, set[int]] = {cell: set() for cell in CELLS}
        self.heard: dict[str, list[ServableReport]] = {cell: [] for cell in CELLS}
        self.reported: dict[str, int] = {}

    def live(self) -> set[int]:
        return {number for number, version in self.versions.items() if not version.deleted}

    def assign(self, step: Assign) -> None:
        cell = step.cell or "east"
        made = copy(step.version, cell)
        self.copies[made.key] = made

    @rule(broken=st.booleans())
    def upload(self, broken: bool) -> None:
        number = max(self.versions, default=0) + 1
        self.versions[number] = KnownVersion(number)
        if broken:
            self.broken.add(number)

    @rule(number=st.none() | st.integers(1, 4))
    def pin(self, number: int | None) -> None:
        if number is None or number in self.live():
            self.wish = self.wish._replace(pinned=number)

    @rule(number=st.integers(0, 4))
    def label(self, number: int) -> None:
        if number in self.live() | {0}:
            self.wish = self.wish._replace(labels={"stable": number} if number else {})

    @rule(cells=st.sets(st.sampled_from(CELLS)))
    def ask_for(self, cells: set[str]) -> None:
        self.wish = self.wish._replace(cells=tuple(sorted(cells)))

    @rule(cell=st.sampled_from(CELLS))
    def hear(self, cell: str) -> None:
        self.aspired[cell] = {one.version for one in self.copies.values() if one.cell == cell and one.stays}
        self.acted_on[cell] = self.generation

    @rule(cell=st.sampled_from(CELLS))
    def converge(self, cell: str) -> None:
        works = self.aspired[cell] - self.broken
        self.loaded[cell] = works if self.loaded[cell] >= works else self.loaded[cell] | works

    @rule(cell=st.sampled_from(CELLS))
    def report(self, cell: str) -> None:
        failed = (self.aspired[cell] & self.broken) - self.loaded[cell]
        self.heard[cell] = [said(number, cell) for number in sorted(self.loaded[cell])]
        self.heard[cell] += [said(number, cell, ERROR, routed=False) for number in sorted(failed)]
        self.reported[cell] = self.acted_on[cell]

    @rule()
    def lose_observations(self) -> None:
        self.heard = {cell: [] for cell in CELLS}
        self.reported = {}

    @rule()
    def roll(self) -> None:
        made = self.planned()
        if made.moves:
            self.generation += 1
        for number in made.prove:
            self.versions[number] = self.versions[number]._replace(proven=True)
        for measured in made.measure:
            self.versions[measured.version] = self.versions[measured.version]._replace(measured_bytes=measured.bytes)
        for told in made.tell:
            self.versions[told.version] = self.versions[told.version]._replace(announced=str(told.status.state))
        for place in made.release:
            self.copies[place] = self.copies[place]._replace(releasing_at=5.0, left_out_from=self.generation)
        for place in made.free:
            cell = self.copies.pop(place).cell
            assert place.version not in self.loaded[cell], "nothing is freed that a replica holds"
        for place in made.keep:
            self.copies[place] = self.copies[place]._replace(releasing_at=None, left_out_from=None)
        for step in made.assign:
            self.assign(step)
        again = self.planned()
        assert not again.keep
        assert not again.assign
        assert not again.measure
        assert not again.prove
        assert not again.tell or made.release or made.free or made.keep or made.assign

    def planned(self) -> RolloutPlan:
        known_fleet = Fleet(
            self.reported,
            [KnownReplica(cell, f"{cell}-1", f"{cell}-pool", connected=True) for cell in CELLS],
            {f"{cell}-pool": 1 for cell in CELLS},
        )
        heard = [one for cell in CELLS for one in self.heard[cell]]
        return plan(self.wish, list(self.versions.values()), list(self.copies.values()), heard, known_fleet)

    @invariant()
    def at_most_one_copy_in_each_cell(self) -> None:
        where = [(one.version, one.cell) for one in self.copies.values()]
        assert len(where) == len(set(where))

    @invariant()
    def what_was_seen_to_answer_and_stays_is_never_all_let_go(self) -> None:
        proven = {number for number, version in self.versions.items() if version.proven}
        if proven:
            assert any(one.stays for one in self.copies.values() if one.version in proven)


SeveralCells.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSeveralCells = SeveralCells.TestCase
