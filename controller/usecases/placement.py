"""Gives versions a place: what the core decided, written as an assignment and a reservation in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from berth import footprint
from berth.resources import HOST, Resources
from controller.core import rollout
from controller.core.placement import Need, Placed, Refused, place
from controller.store import jobs, models, records
from controller.store.transaction import Tx


async def try_assign(
    tx: Tx, version: records.Version, held: Sequence[records.Assignment], cell: str | None
) -> Placed | Refused | None:
    """Assign `version` in `cell` unless it is assigned there already (None then); a release under way is taken back.

    `held` are the model's assignments. A `cell` of None is any; `homes` says which a model has.
    """
    for assignment in held:
        if assignment.key == version.key and cell in (None, assignment.cell):
            if assignment.releasing_at is not None:
                await jobs.keep(tx, assignment)
                tx.change_desired()
            return None
    need = Need(
        tenant=version.key.tenant,
        model=Resources.host(footprint.corrected(version.estimated_bytes, version.measured_bytes or 0)),
        format=version.artifact.format,
        cell=cell,
    )
    answer = place(await jobs.rooms(tx), need)
    if isinstance(answer, Placed):
        await jobs.assign(tx, version.model_id, version.key.version, answer.job.name, answer.reserved[HOST])
        tx.change_desired()
    return answer


async def assign_everywhere(
    tx: Tx, asked: Sequence[str], version: records.Version, held: Sequence[records.Assignment], asked_by: str | None
) -> list[Placed]:
    """Assign `version` in every cell where its model is at home, or raise `InsufficientCapacity`.

    `asked` are the cells that the model asks for; `asked_by` is the tenant who will read a refusal, None for the
    platform.
    """
    placed = []
    for cell in homes(asked, held):
        answer = await try_assign(tx, version, held, cell)
        if isinstance(answer, Refused):
            raise answer.as_error(asked_by)
        if answer is not None:
            placed.append(answer)
    return placed


async def assign_wanted(tx: Tx, model: records.Model, asked_by: str | None) -> None:
    """Assign every version that the model's target and labels want, or raise `InsufficientCapacity`."""
    held = await jobs.assignments_of(tx, [model.id])
    live = {version.key.version: version for version in await models.versions_of(tx, [model.id]) if not version.deleted}
    for number in sorted(rollout.wanted(rollout.target(model.pinned, live), model.labels)):
        if number in live:
            await assign_everywhere(tx, model.cells, live[number], held, asked_by)


def homes(asked: Sequence[str], held: Sequence[records.Assignment]) -> Sequence[str | None]:
    """The cells in which a model is to have a copy; None is any cell.

    A model that asks for none stays where its newest version is: routers of another cell would not see the next one.
    """
    if asked:
        return asked
    staying = [assignment for assignment in held if assignment.releasing_at is None]
    if not staying:
        return [None]
    return [min(staying, key=lambda assignment: (-assignment.key.version, assignment.cell)).cell]
