"""Drives models from what is stored to what is wanted, as observations come in. Level-triggered and idempotent.

`survey` reads and has the core plan, read-only; `settle` does so again under the lock and writes the plan. Several
controllers may do both at once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from controller.core import events
from controller.core.commands import ROLLOUT
from controller.core.rollout.facts import CopyKey
from controller.core.rollout.plan import RolloutPlan, plan
from controller.store import assignments, jobs, models, observed
from controller.store import versions as version_store
from controller.store.records import AssignmentRecord, VersionRecord
from controller.store.scope import EVERY_TENANT
from controller.store.transaction import Tx
from controller.usecases.facts import copy_of, fleet_of, known, said_by, wish_of
from controller.usecases.placement import find_place


class ModelWork(NamedTuple):
    """The plan for one model, and the rows that it speaks of."""

    plan: RolloutPlan
    versions: dict[int, VersionRecord]
    assignments: dict[CopyKey, AssignmentRecord]


class RolloutStep(NamedTuple):
    """Something that was done to a version, for logs and metrics."""

    kind: str
    version: str


async def survey(tx: Tx, ids: Collection[int]) -> list[ModelWork]:
    """Find what is to be done for the models with these ids; models that need nothing are left out."""
    versions = await version_store.of_models(tx, EVERY_TENANT, ids)
    held = await assignments.of_models(tx, EVERY_TENANT, ids)
    servables = await observed.servables_of(tx, EVERY_TENANT, {version.key.model_key for version in versions})
    replicas = await observed.replicas_of(tx, {assignment.job for assignment in held})
    fleet = fleet_of(await observed.cell_reports(tx), replicas, await jobs.every(tx))
    live = {model.id: model for model in await models.find_by_ids(tx, EVERY_TENANT, ids)}
    found = []
    for model_id in {version.model_id for version in versions}:
        own = {version.key.version: version for version in versions if version.model_id == model_id}
        here = [assignment for assignment in held if assignment.model_id == model_id]
        keys = {version.key for version in own.values()}
        work = plan(
            wish_of(live[model_id]) if model_id in live else None,
            [known(version) for version in own.values()],
            [copy_of(assignment) for assignment in here],
            [said_by(servable) for servable in servables if servable.key in keys],
            fleet,
        )
        if work:
            found.append(ModelWork(work, own, {copy_of(assignment).key: assignment for assignment in here}))
    return found


def needs_fleet(found: Collection[ModelWork]) -> bool:
    """Whether `settle` needs the fleet's lock for it."""
    return any(work.plan.moves for work in found)


async def settle(tx: Tx, ids: Collection[int]) -> list[RolloutStep]:
    """Do what `survey` finds. Without the fleet's lock, leave what moves something to a look that has it."""
    found = await survey(tx, ids)
    for work in found:
        await _write_news(tx, work)
        if tx.fleet:
            await _move(tx, work)
    if tx.fleet and any(work.plan.remove for work in found):
        await models.remove_emptied(tx)
    return [step for work in found for step in _steps(work, moved=tx.fleet)]


async def _write_news(tx: Tx, work: ModelWork) -> None:
    for number, measured in work.plan.measure:
        await version_store.record_measurement(tx, work.versions[number], measured)
    for number in work.plan.prove:
        await version_store.record_proof(tx, work.versions[number])
    for number, status in work.plan.tell:
        version = work.versions[number]
        await version_store.record_announcement(tx, version, status.state)
        before, after = {"state": version.announced or None}, {"state": status.state}
        kind = events.STATE_EVENTS[status.state]
        tx.tell(ROLLOUT, kind(events.version_subject(version.key), status.reason, before, after))


async def _move(tx: Tx, work: ModelWork) -> None:
    for place in work.plan.release:
        await assignments.release(tx, work.assignments[place])
        tx.change_desired()
    for place in work.plan.free:
        await assignments.unassign(tx, work.assignments[place])
    for number in work.plan.retire:
        await version_store.record_retirement(tx, work.versions[number])
    for number in work.plan.remove:
        await version_store.remove(tx, work.versions[number])
    for place in work.plan.keep:
        await assignments.keep(tx, work.assignments[place])
        tx.change_desired()
    for number, cell in work.plan.assign:
        # No room is no error here: the next look may find some.
        await find_place(tx, work.versions[number], cell)


def _steps(work: ModelWork, *, moved: bool) -> list[RolloutStep]:
    done = [("tell", told.version) for told in work.plan.tell]
    if moved:
        done += [("release", place.version) for place in work.plan.release]
        done += [("free", place.version) for place in work.plan.free]
        done += [("assign", place.version) for place in work.plan.keep]
        done += [("assign", step.version) for step in work.plan.assign]
    return [RolloutStep(kind, str(work.versions[number].key)) for kind, number in done]
