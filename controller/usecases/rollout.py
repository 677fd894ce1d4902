"""Drives models from what is stored to what is wanted, as observations come in. Level-triggered and idempotent.

`survey` looks, read-only; `settle` looks again under the lock and writes. Several controllers may do both at once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from berth.ids import VersionKey
from berth.states import ServableState, VersionState
from controller.core import rollout
from controller.core.status import VersionStatus
from controller.store import jobs, models, observed, records
from controller.store.transaction import Tx
from controller.usecases import naming
from controller.usecases.placement import homes, try_assign
from controller.usecases.statuses import derive_all

ACTOR = "controller"
Said = dict[VersionKey, list[records.Servable]]
"""What replicas say of each version."""
Seen = dict[tuple[VersionKey, str], rollout.Seen]
"""What counts of each version in each cell."""

# What is told of; the states between them are short and can be read from the resource.
_TOLD = (VersionState.AVAILABLE, VersionState.FAILED, VersionState.RETIRED)


class Work(NamedTuple):
    """What is to be done for some models."""

    release: list[records.Assignment]
    free: list[records.Assignment]
    assign: list[tuple[records.Version, list[records.Assignment], str | None]]
    measured: list[tuple[records.Version, int]]
    tell: list[tuple[records.Version, VersionStatus]]

    @property
    def needs_fleet(self) -> bool:
        return bool(self.release or self.free or self.assign)

    def __bool__(self) -> bool:
        return any(self)


async def survey(tx: Tx, ids: Collection[int]) -> Work:
    """Find what is to be done for the models with these ids."""
    work = Work([], [], [], [], [])
    versions = await models.versions_of(tx, ids)
    held = await jobs.assignments_of(tx, ids)
    servables = await observed.servables_of(tx, {version.key.model_key for version in versions})
    said: Said = {}
    for servable in servables:
        said.setdefault(servable.key, []).append(servable)
    fleet = {job.name: job for job in await jobs.every(tx)}
    replicas = await observed.replicas_of(tx, {assignment.job for assignment in held})
    reports = await observed.cell_reports(tx)
    seen = _count(held, said, replicas, fleet, reports)
    live = {model.id: model for model in await models.find_by_ids(tx, ids)}
    for model_id in {version.model_id for version in versions}:
        own = [version for version in versions if version.model_id == model_id]
        here = [assignment for assignment in held if assignment.model_id == model_id]
        plan(work, live.get(model_id), own, here, seen)
    work.free.extend(assignment for assignment in held if _is_free(assignment, said, reports))
    _plan_announcements(work, versions, derive_all(versions, held, replicas, servables), said)
    return work


async def settle(tx: Tx, ids: Collection[int]) -> Work:
    """Do what `survey` finds. Needs the fleet's lock if the work `needs_fleet`."""
    work = await survey(tx, ids)
    for version, measured in work.measured:
        await models.change_version(tx, version.model_id, version.key.version, measured_bytes=measured)
    for version, status in work.tell:
        await models.change_version(tx, version.model_id, version.key.version, announced=str(status.state))
        subject = naming.model_subject(version.key.model_key, version.key.version)
        tx.tell(f"version.{status.state}", ACTOR, version.key.tenant, subject, reason=status.reason)
    if tx.fleet and work.needs_fleet:
        await _move(tx, work)
    return work


async def _move(tx: Tx, work: Work) -> None:
    for assignment in work.release:
        await jobs.release(tx, assignment)
        tx.change_desired()
    for assignment in work.free:
        await jobs.unassign(tx, assignment)
        if not assignment.deleted:
            await models.touch_version(tx, assignment.model_id, assignment.key.version)
    gone = {(assignment.model_id, assignment.key.version) for assignment in work.free if assignment.deleted}
    if gone:
        # Copies in other cells may still be on their way out.
        left = await jobs.assignments_of(tx, {model_id for model_id, _ in gone})
        for model_id, number in gone - {(assignment.model_id, assignment.key.version) for assignment in left}:
            await models.remove_version(tx, model_id, number)
        await models.remove_emptied(tx)
    for version, held, cell in work.assign:
        # No room is no error here: the next look may find some.
        await try_assign(tx, version, held, cell)


def plan(
    work: Work,
    model: records.Model | None,
    versions: list[records.Version],
    held: list[records.Assignment],
    seen: Seen,
) -> None:
    """Add to `work` what is to be released and assigned of a model; None is one that was deleted.

    Each cell for itself: it is a set of routers, and what they can reach.
    """
    by_number = {version.key.version: version for version in versions}
    live = [number for number, version in by_number.items() if not version.deleted]
    target = rollout.target(model.pinned, live) if model is not None else 0
    wanted = rollout.wanted(target, model.labels if model is not None else {})
    where = homes(model.cells if model is not None else (), held)
    # A copy elsewhere is the last to go: it answers until each home does.
    served = {number for number in wanted if all(_serves(number, home, held, seen) for home in where)}
    for cell in sorted({assignment.cell for assignment in held}):
        here = [assignment for assignment in held if assignment.cell == cell]
        assigned = {
            assignment.key.version: rollout.Held(
                deleted=assignment.deleted,
                releasing=assignment.releasing_at is not None,
                proven=by_number[assignment.key.version].measured_bytes is not None,
            )
            for assignment in here
        }
        counts = {key.version: count for (key, at), count in seen.items() if at == cell and key in _keys(here)}
        let_go = rollout.releasable(assigned, target, wanted, counts)
        if target in served and cell not in where:
            let_go |= {
                number
                for number, state in assigned.items()
                if not state.releasing and (number in served or number not in wanted)
            }
        work.release.extend(assignment for assignment in here if assignment.key.version in let_go)
    for home in where:
        there = {
            assignment.key.version
            for assignment in held
            if assignment.releasing_at is None and home in (None, assignment.cell)
        }
        for number in sorted(wanted - there):
            if number in live:
                work.assign.append((by_number[number], held, home))


def _keys(held: list[records.Assignment]) -> set[VersionKey]:
    return {assignment.key for assignment in held}


def _serves(number: int, cell: str | None, held: list[records.Assignment], seen: Seen) -> bool:
    """Whether routers of `cell` send requests to version `number` of the model that has these assignments, and will:
    a copy on its way out serves for a moment only."""
    return any(
        seen[assignment.key, assignment.cell].routed > 0
        for assignment in held
        if assignment.key.version == number
        and assignment.cell == cell
        and assignment.releasing_at is None
        and (assignment.key, assignment.cell) in seen
    )


def _count(
    held: list[records.Assignment],
    said: Said,
    replicas: list[records.Replica],
    fleet: dict[str, records.Job],
    reports: dict[str, records.CellReport],
) -> Seen:
    """Nothing counts in a cell that has no report of its present leader: see `rollout`."""
    connected = {(replica.cell, replica.name) for replica in replicas if replica.connected}
    seen: Seen = {}
    for assignment in held:
        if assignment.cell not in reports:
            continue
        here = [
            servable
            for servable in said.get(assignment.key, ())
            if servable.cell == assignment.cell and servable.state != ServableState.END
        ]
        routed = sum(servable.routed and (servable.cell, servable.replica) in connected for servable in here)
        failed = sum(servable.state == ServableState.ERROR for servable in here)
        seen[assignment.key, assignment.cell] = rollout.Seen(routed, len(here), fleet[assignment.job].replicas, failed)
    return seen


def _is_free(assignment: records.Assignment, said: Said, reports: dict[str, records.CellReport]) -> bool:
    """Whether the bytes can be given to others: the cell has acted on the release, and no replica, connected or not,
    was last heard to hold the version."""
    report = reports.get(assignment.cell)
    if assignment.releasing_generation is None or report is None:
        return False
    return report.desired_generation >= assignment.releasing_generation and not any(
        servable.state != ServableState.END or servable.routed
        for servable in said.get(assignment.key, ())
        if servable.cell == assignment.cell
    )


def _plan_announcements(
    work: Work,
    versions: list[records.Version],
    states: dict[VersionKey, VersionStatus],
    said: Said,
) -> None:
    for version in versions:
        loaded = [
            servable.measured_bytes
            for servable in said.get(version.key, ())
            if servable.state == ServableState.AVAILABLE
        ]
        if loaded and max(loaded) > (version.measured_bytes or 0):
            work.measured.append((version, max(loaded)))
        status = states[version.key]
        if not version.deleted and status.state in _TOLD and status.state != version.announced:
            work.tell.append((version, status))
