"""What cells report of copies: how many replicas have one, and whether it is gone."""

from __future__ import annotations

from collections.abc import Iterable

from berth.states import ServableState
from controller.core.rollout.facts import AssignedCopy, Fleet, ServableReport
from controller.core.rollout.release import CopyTally


def tally(copy: AssignedCopy, said: Iterable[ServableReport], fleet: Fleet) -> CopyTally | None:
    """What counts of a copy in its cell; None where no present leader reports the cell: nothing is known there."""
    if copy.cell not in fleet.acted_on:
        return None
    here = [it for it in _of(copy, said) if it.status.state is not ServableState.END]
    routed = sum(it.routed and fleet.is_connected(it.cell, it.replica) for it in here)
    failed = sum(it.status.state is ServableState.ERROR for it in here)
    return CopyTally(routed, len(here), fleet.replicas_wanted[copy.job], failed)


def is_gone(copy: AssignedCopy, said: Iterable[ServableReport], fleet: Fleet) -> bool:
    """Whether the bytes of a copy can be given to others: its cell has acted on the release, and no replica, connected
    or not, was last heard to hold the version."""
    acted_on = fleet.acted_on.get(copy.cell)
    if copy.left_out_from is None or acted_on is None or acted_on < copy.left_out_from:
        return False
    return all(it.status.state is ServableState.END and not it.routed for it in _of(copy, said))


def _of(copy: AssignedCopy, said: Iterable[ServableReport]) -> list[ServableReport]:
    return [it for it in said if it.version == copy.version and it.cell == copy.cell]
