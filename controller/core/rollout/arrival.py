"""Which versions a sleeping job is woken for, because they have to be loaded before anybody asks for them.

A job asleep is woken by requests. But nobody knows whether a version works that was never loaded. While an older one
answers in its place, no request will ever wait for it: the rollout would never end, and nobody would be told.

Contract of `is_awaited`:

1. Only the target, and what a label points at: others are asked for by number, if at all.
2. Not what could not be loaded. It is tried again when somebody asks for it, not for as long as the job exists.
3. Not a version that routers of its cell know, or that fails there now: it has arrived.
4. Of the others: a version that was never loaded anywhere. Also the target, where routers of its cell send requests to
   a version that is there only until the target answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from berth.states import ServableState, VersionState
from controller.core.rollout.facts import AssignedCopy, KnownVersion, ModelWish, ServableReport
from controller.core.rollout.target import served, wanted


class Arrival(NamedTuple):
    """An assigned version and what is seen of it in its cell. `announced` is the last state that was told of it, ""
    before the first; `answering` are the other versions of its model that routers of the cell send requests to."""

    version: int
    announced: str
    routed: bool = False
    failed: bool = False
    answering: frozenset[int] = frozenset()


def is_awaited(arrival: Arrival, target: int, wanted: Collection[int]) -> bool:
    """Whether the job of `arrival` is to run until the version is there; see the module's contract."""
    if arrival.version not in wanted or arrival.routed or arrival.failed or arrival.announced == VersionState.FAILED:
        return False
    stood_in_for = arrival.version == target and not arrival.answering <= frozenset(wanted)
    return arrival.announced != VersionState.AVAILABLE or stood_in_for


def awaiting(
    wish: ModelWish, versions: Sequence[KnownVersion], copies: Iterable[AssignedCopy], said: Sequence[ServableReport]
) -> frozenset[str]:
    """The jobs of those `copies` of a model that are awaited."""
    live = [version.number for version in versions if not version.deleted]
    serving = served(wish.pinned, live, wish.labels)
    needed = wanted(serving)
    announced = {version.number: version.announced for version in versions}
    return frozenset(
        copy.job
        for copy in copies
        if is_awaited(_arrival(copy, announced[copy.version], said), serving.default, needed)
    )


def _arrival(copy: AssignedCopy, announced: str, said: Sequence[ServableReport]) -> Arrival:
    here = [it for it in said if it.cell == copy.cell]
    routed = {it.version for it in here if it.routed}
    return Arrival(
        copy.version,
        announced,
        routed=copy.version in routed,
        failed=any(it.version == copy.version and it.status.state is ServableState.ERROR for it in here),
        answering=frozenset(routed - {copy.version}),
    )
