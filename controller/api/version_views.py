"""How versions look to callers, with what the database knows of their state and place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from berth.api import schemas
from berth.ids import VersionKey
from controller.api import views
from controller.store import assignments
from controller.store.records import VersionRecord
from controller.store.transaction import Tx
from controller.usecases.statuses import statuses


async def version_views(tx: Tx, tenant: str, found: Sequence[VersionRecord]) -> list[schemas.Version]:
    seen = await statuses(tx, tenant, found)
    held = await assignments.of_models(tx, tenant, {record.model_id for record in found})
    where: dict[VersionKey, list[str]] = {}
    for assignment in sorted(held, key=lambda one: one.job):
        where.setdefault(assignment.key, []).append(assignment.job)
    return [views.version(record, seen[record.key], where.get(record.key, ())) for record in found]


async def render_version(tx: Tx, version: VersionRecord) -> dict[str, Any]:
    """The version's JSON, as an upload is answered."""
    return (await version_views(tx, version.key.tenant, [version]))[0].model_dump(mode="json")
