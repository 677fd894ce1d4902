"""Gives versions a place: what the core decided, written as an assignment and a reservation in one transaction."""

from __future__ import annotations

from controller.core import footprint, rollout
from controller.core.placement import Need, Placed, Refused, place
from controller.store import jobs, models, records
from controller.store.transaction import Tx


async def try_assign(tx: Tx, version: records.Version, held: list[records.Assignment]) -> Placed | Refused | None:
    """Assign `version` unless it is assigned already (None then); a release under way is taken back.

    `held` are the model's assignments. A model stays in one cell: routers of another would not see its new version.
    """
    for assignment in held:
        if assignment.key == version.key:
            if assignment.releasing_at is not None:
                await jobs.keep(tx, version.model_id, version.key.version)
                tx.change_desired()
            return None
    need = Need(
        tenant=version.key.tenant,
        model_bytes=footprint.corrected(version.estimated_bytes, version.measured_bytes or 0),
        format=version.artifact.format,
        cell=next((assignment.cell for assignment in held if assignment.releasing_at is None), None),
    )
    answer = place(await jobs.rooms(tx), need)
    if isinstance(answer, Placed):
        await jobs.assign(tx, version.model_id, version.key.version, answer.job.name, answer.reserved_bytes)
        tx.change_desired()
    return answer


async def assign_wanted(tx: Tx, model: records.Model, asked_by: str | None) -> None:
    """Assign every version that the model's target and labels want, or raise `InsufficientCapacity`.

    `asked_by` is the tenant who will read the refusal, None for the platform.
    """
    held = await jobs.assignments_of(tx, [model.id])
    live = {version.key.version: version for version in await models.versions_of(tx, [model.id]) if not version.deleted}
    for number in sorted(rollout.wanted(rollout.target(model.pinned, live), model.labels)):
        if number in live:
            answer = await try_assign(tx, live[number], held)
            if isinstance(answer, Refused):
                raise answer.as_error(asked_by)
