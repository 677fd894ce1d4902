"""Gives versions a place: what the core decided, written as an assignment and a reservation in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from berth import footprint
from berth.resources import Resources
from controller.core.placement import Need, Placed, PlacementRefused, place
from controller.core.rollout.homes import Assign, Keep, fill, homes
from controller.core.rollout.target import served, wanted
from controller.store import assignments, jobs, versions
from controller.store.records import AssignmentRecord, ModelRecord, VersionRecord
from controller.store.transaction import Tx
from controller.usecases.facts import copy_of


async def find_place(tx: Tx, version: VersionRecord, cell: str | None) -> Placed | PlacementRefused:
    """Assign `version` to the best job of `cell` (of any for None). Nothing is written if none has room."""
    need = Need(
        tenant=version.key.tenant,
        model=Resources.host(footprint.corrected(version.estimated_bytes, version.measured_bytes or 0)),
        format=version.artifact.format,
        cell=cell,
    )
    answer = place(await jobs.rooms(tx), need)
    if isinstance(answer, Placed):
        await assignments.assign(tx, version, answer.job.name, answer.reserved)
        tx.change_desired()
    return answer


async def assign_everywhere(
    tx: Tx, asked: Sequence[str], version: VersionRecord, held: Sequence[AssignmentRecord], asked_by: str | None
) -> list[Placed]:
    """Assign `version` in every cell where its model is at home, or raise `InsufficientCapacity`.

    `asked` are the cells that the model asks for, `held` the assignments of all its versions; `asked_by` is the tenant
    who will read a refusal, None for the platform. A release under way is taken back.
    """
    copies = [copy_of(assignment) for assignment in held]
    placed = []
    for home in homes(asked, copies):
        match fill(version.key.version, home, copies):
            case Keep(copy):
                await assignments.keep(tx, held[copies.index(copy)])
                tx.change_desired()
            case Assign():
                answer = await find_place(tx, version, home)
                if isinstance(answer, PlacementRefused):
                    raise answer.as_error(asked_by)
                placed.append(answer)
            case None:
                pass
    return placed


async def assign_wanted(tx: Tx, model: ModelRecord, asked_by: str | None) -> None:
    """Assign every version that the model's target and labels want, or raise `InsufficientCapacity`."""
    held = await assignments.of_models(tx, model.key.tenant, [model.id])
    own = await versions.of_models(tx, model.key.tenant, [model.id])
    live = {version.key.version: version for version in own if not version.deleted}
    for number in sorted(wanted(served(model.pinned, live, model.labels))):
        if number in live:
            await assign_everywhere(tx, model.cells, live[number], held, asked_by)
