"""All that is to be done for one model in all its cells: what to let go, free, assign, prove and tell.

Contract of `plan`:

1. Each cell decides for itself, by the contract of `release`: a cell is a set of routers and what they can reach.
2. A copy in a cell that is none of the model's homes goes last. It waits until every home has the target, that is,
   routes requests to a copy of it that stays. A wanted version waits until every home has that version too; any other
   goes at once.
3. Every wanted version that is live is given a copy in each home that has none. If the copy there is on its way out,
   that release is taken back. A copy that the same plan frees counts as gone.
4. Bytes are freed only when the cell has acted on the release and no replica holds the version (`leaving`).
5. A deleted version is removed with its last copy, and not before. One that is not deleted retires then.
6. What is told and proven follows `announcing`, whatever is moved.
7. Of a deleted model nothing is wanted.

A plan that is carried out changes what is stored and observed, so the next one plans nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from berth.model import Serving
from controller.core.rollout.announcing import announce, status_of
from controller.core.rollout.facts import AssignedCopy, CopyKey, Fleet, KnownVersion, ModelWish, ServableReport
from controller.core.rollout.homes import Assign, Keep, fill, homes
from controller.core.rollout.leaving import is_gone, tally
from controller.core.rollout.release import AssignedVersion, CopyTally, releasable
from controller.core.rollout.target import served, wanted
from controller.core.status import VersionStatus


class Measured(NamedTuple):
    """The largest that a replica measured of a version."""

    version: int
    bytes: int


class Told(NamedTuple):
    """A version has come to a state that is told of."""

    version: int
    status: VersionStatus


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """In the order in which it is to be written. Versions are numbers of the one model that it is for."""

    measure: tuple[Measured, ...] = ()
    prove: tuple[int, ...] = ()
    tell: tuple[Told, ...] = ()
    release: tuple[CopyKey, ...] = ()
    free: tuple[CopyKey, ...] = ()
    retire: tuple[int, ...] = ()
    """Assigned nowhere from now on."""
    remove: tuple[int, ...] = ()
    """Deleted, and gone everywhere."""
    keep: tuple[CopyKey, ...] = ()
    assign: tuple[Assign, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether it changes what cells should hold, or what is reserved."""
        return bool(self.release or self.free or self.keep or self.assign)

    def __bool__(self) -> bool:
        return bool(self.moves or self.measure or self.prove or self.tell)


def plan(
    wish: ModelWish | None,
    versions: Sequence[KnownVersion],
    copies: Sequence[AssignedCopy],
    said: Sequence[ServableReport],
    fleet: Fleet,
) -> RolloutPlan:
    """What is to be done now for the model with these `versions` and `copies`; see the module's contract.

    A `wish` of None is that of a deleted model. `said` is what replicas say of these versions.
    """
    wish, is_deleted = wish or ModelWish(), wish is None
    live = {version.number for version in versions if not version.deleted}
    serving = Serving() if is_deleted else served(wish.pinned, live, wish.labels)
    aim, needed = serving.default, wanted(serving)
    where = homes(wish.cells, copies)
    tallies = {copy.key: found for copy in copies if (found := tally(copy, said, fleet)) is not None}
    freed = [copy for copy in copies if is_gone(copy, said, fleet)]
    left = [copy for copy in copies if copy not in freed]
    steps = [fill(number, home, left) for home in where for number in sorted(needed & live)]
    out = {copy.version for copy in freed} - {copy.version for copy in left}
    news = [(it.number, announce(it, status_of(it, copies, said, fleet), said)) for it in versions]
    return RolloutPlan(
        measure=tuple(Measured(number, it.measured_bytes) for number, it in news if it.measured_bytes is not None),
        prove=tuple(number for number, it in news if it.proven),
        tell=tuple(Told(number, it.tell) for number, it in news if it.tell is not None),
        release=tuple(_released(versions, copies, tallies, aim=aim, needed=needed, where=where)),
        free=tuple(copy.key for copy in freed),
        retire=tuple(sorted(out & live)),
        remove=tuple(sorted(out - live)),
        keep=tuple(step.copy.key for step in steps if isinstance(step, Keep)),
        assign=tuple(step for step in steps if isinstance(step, Assign)),
    )


def _released(
    versions: Sequence[KnownVersion],
    copies: Sequence[AssignedCopy],
    tallies: Mapping[CopyKey, CopyTally],
    *,
    aim: int,
    needed: frozenset[int],
    where: Sequence[str | None],
) -> list[CopyKey]:
    by_number = {version.number: version for version in versions}
    served = {number for number in needed if all(_serves(number, home, copies, tallies) for home in where)}
    released: list[CopyKey] = []
    for cell in sorted({copy.cell for copy in copies}):
        here = {copy.version: copy for copy in copies if copy.cell == cell}
        assigned = {
            number: AssignedVersion(by_number[number].deleted, not copy.stays, by_number[number].proven)
            for number, copy in here.items()
        }
        observed = {number: tallies[copy.key] for number, copy in here.items() if copy.key in tallies}
        let_go = set(releasable(assigned, aim, needed, observed))
        if aim in served and cell not in where:
            let_go |= {
                number for number, copy in here.items() if copy.stays and (number in served or number not in needed)
            }
        released.extend(here[number].key for number in sorted(let_go))
    return released


def _serves(
    number: int, cell: str | None, copies: Sequence[AssignedCopy], tallies: Mapping[CopyKey, CopyTally]
) -> bool:
    """Whether routers of `cell` send requests to a version there, and will: a copy on its way out serves for a moment
    only."""
    return any(
        copy.version == number
        and copy.cell == cell
        and copy.stays
        and copy.key in tallies
        and tallies[copy.key].routed > 0
        for copy in copies
    )
