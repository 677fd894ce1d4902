"""Jobs to wake for versions that have yet to be loaded: reads what `core.rollout.arrival` decides on."""

from __future__ import annotations

from collections.abc import Collection

from controller.core.rollout import arrival
from controller.store import assignments, models, observed, versions
from controller.store.scope import EVERY_TENANT
from controller.store.transaction import Tx
from controller.usecases.facts import copy_of, known, said_by, wish_of


async def awaiting(tx: Tx, names: Collection[str]) -> frozenset[str]:
    """Those of the jobs `names` that are to hold a version which has yet to be loaded. Usually none: then this is one
    query that finds nothing."""
    unsettled = await assignments.unsettled(tx, EVERY_TENANT, names)
    if not unsettled:
        return frozenset()
    ids = {assignment.model_id for assignment in unsettled}
    own = await versions.of_models(tx, EVERY_TENANT, ids)
    said = await observed.servables_of(tx, EVERY_TENANT, {assignment.key.model_key for assignment in unsettled})
    found: set[str] = set()
    for model in await models.find_by_ids(tx, EVERY_TENANT, ids):
        found |= arrival.awaiting(
            wish_of(model),
            [known(version) for version in own if version.model_id == model.id],
            [copy_of(assignment) for assignment in unsettled if assignment.model_id == model.id],
            [said_by(servable) for servable in said if servable.key.model_key == model.key],
        )
    return frozenset(found)
