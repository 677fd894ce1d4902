"""Accepting a version: the transaction at the end of an upload."""

from __future__ import annotations

from berth import footprint
from berth.errors import Unavailable
from berth.ids import ModelKey, check_name
from berth.model import Artifact
from berth.states import VersionState
from controller.core import events, quota
from controller.core.commands import Command
from controller.core.intake import InspectedModel
from controller.core.rollout.target import target
from controller.store import artifacts, assignments, models, tenants, versions
from controller.store.records import VersionRecord
from controller.store.transaction import Tx
from controller.usecases.placement import assign_everywhere
from controller.usecases.tenants import get as get_tenant
from controller.usecases.told import model_members, version_members


async def check_intake(tx: Tx, key: ModelKey, size_bytes: int, *, reserved_bytes: int = 0) -> None:
    """Raises `QuotaExceeded` unless the tenant may have a version of `size_bytes`, and its model, beside what it has.

    `reserved_bytes` are those of its other uploads under way.
    """
    tenant = await get_tenant(tx, key.tenant)
    check_name("model", key.model)
    count, stored = await tenants.usage(tx, tenant.name)
    if await models.find(tx, key) is None:
        quota.check_models(tenant.quota.max_models, count)
    quota.check_bytes(tenant.quota.max_bytes, stored + reserved_bytes, size_bytes)


async def accept(
    tx: Tx, command: Command, key: ModelKey, artifact: Artifact, inspected: InspectedModel
) -> VersionRecord:
    """Give the artifact the model's next version number, a place and a reservation: all of it or nothing.

    Creates the model if it is absent. A version that neither the target nor a label wants (the model is pinned) is
    kept unassigned. What other uploads have reserved is not counted here: this one's own reservation was. Raises
    `QuotaExceeded` (the quota may have become less since), or `InsufficientCapacity` naming what each job was short of.
    """
    await check_intake(tx, key, artifact.size_bytes)
    if not await artifacts.is_live(tx, artifact.sha256):
        raise Unavailable("the artifact was collected before its version was made", retry_after=1.0)
    model = await models.find(tx, key)
    if model is None:
        model = await models.add(tx, key, "")
        tx.tell(command, events.ModelCreated(events.model_subject(key), model_members(model)))
    number = await models.next_version(tx, key)
    wanted = number == target(model.pinned, {model.latest or 0, number} - {0})
    new = versions.NewVersion(
        artifact,
        inspected.signature,
        footprint.estimate(inspected.initializer_bytes, artifact.size_bytes),
        # Unassigned from the start: no event needs to tell of it later.
        announced="" if wanted else str(VersionState.RETIRED),
    )
    version = await versions.add(tx, model, number, new)
    placed: list[str] = []
    if wanted:
        held = await assignments.of_models(tx, key.tenant, [model.id])
        placed = [
            answer.job.name for answer in await assign_everywhere(tx, model.cells, version, held, command.caller.tenant)
        ]
    tx.change_desired()
    tx.tell(
        command,
        events.VersionUploaded(
            events.version_subject(version.key),
            artifact.sha256,
            artifact.size_bytes,
            job=", ".join(placed) or None,
            after={**version_members(version), "jobs": placed},
        ),
    )
    return version
