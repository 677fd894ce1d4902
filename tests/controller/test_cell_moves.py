"""Where the copies of a model may go: never the last that answers, whatever is asked for and seen."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import example, given, settings
from hypothesis import strategies as st

from berth.ids import ModelKey, VersionKey
from berth.model import Artifact, Signature
from controller.core import rollout
from controller.store import records
from controller.usecases.placement import homes
from controller.usecases.rollout import Work, plan

MODEL = ModelKey("acme", "digits")
THEN = datetime(2026, 1, 1, tzinfo=UTC)
CELLS = ("east", "north", "west")
ARTIFACT = Artifact("0" * 64, 10)

numbers = st.integers(1, 3)
places = st.tuples(numbers, st.sampled_from(CELLS))


def version(number: int) -> records.Version:
    return records.Version(
        1, VersionKey(*MODEL, number), ARTIFACT, Signature((), ()), 10, 10, "", THEN, THEN, deleted=False
    )


def assignment(number: int, cell: str, releasing: bool) -> records.Assignment:
    key = VersionKey(*MODEL, number)
    return records.Assignment(
        1, key, f"{cell}-pool", cell, ARTIFACT, 10, THEN, THEN if releasing else None, None, False, 10
    )


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
    assigned = [assignment(number, cell, releasing) for (number, cell), releasing in held.items()]
    model = records.Model(1, MODEL, "", pinned, 3, labels, THEN, cells=tuple(sorted(asked)))
    seen = {
        (one.key, one.cell): rollout.Seen(*((1, 1, 1) if (one.key.version, one.cell) in routed else (0, 0, 1)))
        for one in assigned
    }
    work = Work([], [], [], [], [])
    plan(work, model, [version(number) for number in (1, 2, 3)], assigned, seen)

    where = homes(model.cells, assigned)
    answers = {place for place, releasing in held.items() if not releasing} & routed
    gone = {(one.key.version, one.cell) for one in work.release}
    assert not any(held[place] for place in gone), "what is on its way out is released once"
    for number in rollout.wanted(rollout.target(pinned, (1, 2, 3)), labels):
        if any((number, home) not in answers for home in where):
            assert not any(left == number for left, _ in gone)
        assert all(cell not in where for left, cell in gone if left == number)
        there = {cell for (one, cell), releasing in held.items() if one == number and not releasing}
        missing = {home for one, _, home in work.assign if one.key.version == number}
        assert missing == ({None} if where == [None] else set(where) - there)
    if answers:
        assert answers - gone, "never to zero"
