"""Models, their labels, and the counters that number their versions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import insert

from berth.ids import ModelKey
from controller.store.mapper import NOW, Mapper, Part
from controller.store.records import ModelRecord
from controller.store.schema import labels, models, version_counters, versions
from controller.store.scope import TenantScope, within
from controller.store.transaction import Tx

_LATEST = (
    select(func.max(versions.c.version))
    .where(versions.c.model_id == models.c.id, versions.c.deleted_at.is_(None))
    .scalar_subquery()
)
_LABELS = (
    select(func.coalesce(func.jsonb_object_agg(labels.c.label, labels.c.version), func.jsonb_build_object()))
    .where(labels.c.model_id == models.c.id)
    .scalar_subquery()
)
_MODEL = Mapper(
    ModelRecord,
    models,
    key=Part((models.c.tenant, models.c.name), ModelKey),
    latest=Part((_LATEST.label("latest"),), lambda value: value),
    labels=Part((_LABELS.label("labels"),), lambda value: value),
    cells=Part((models.c.cells,), tuple),
)


def _live(scope: TenantScope) -> Select[Any]:
    return _MODEL.select().where(within(models.c.tenant, scope), models.c.deleted_at.is_(None))


async def find(tx: Tx, key: ModelKey) -> ModelRecord | None:
    """The model of that name that is not deleted."""
    row = (await tx.execute(_live(key.tenant).where(models.c.name == key.model))).one_or_none()
    return None if row is None else _MODEL.record(row)


async def find_by_ids(tx: Tx, scope: TenantScope, ids: Collection[int]) -> list[ModelRecord]:
    """The models with these ids that are not deleted."""
    return _MODEL.records(await tx.execute(_live(scope).where(models.c.id.in_(ids))))


async def page(tx: Tx, scope: TenantScope, after: str, limit: int) -> list[ModelRecord]:
    """By name, which is no place to go on from if several tenants have it: of one tenant, then."""
    statement = _live(scope).where(models.c.name > after).order_by(models.c.name).limit(limit)
    return _MODEL.records(await tx.execute(statement))


async def every(tx: Tx, scope: TenantScope) -> list[ModelRecord]:
    """All models that are not deleted."""
    return _MODEL.records(await tx.execute(_live(scope)))


async def default_answer_bytes(tx: Tx, tenant: str, but: int) -> int:
    """Sum of the sizes of the default answers of a tenant's models, the one with the id `but` left out."""
    size = func.coalesce(func.sum(func.octet_length(models.c.default_answer)), 0)
    statement = select(size).where(models.c.tenant == tenant, models.c.deleted_at.is_(None), models.c.id != but)
    return int((await tx.execute(statement)).scalar_one())


async def ids_of(tx: Tx, scope: TenantScope, keys: Collection[ModelKey] | None) -> list[int]:
    """Ids of the models with these names, deleted ones among them; of all models for None."""
    statement = select(models.c.id, models.c.tenant, models.c.name).where(within(models.c.tenant, scope))
    if keys is not None:
        statement = statement.where(models.c.name.in_({key.model for key in keys}))
    rows = await tx.execute(statement)
    return [row[0] for row in rows if keys is None or ModelKey(row[1], row[2]) in keys]


async def add(tx: Tx, key: ModelKey, description: str, cells: Sequence[str] = ()) -> ModelRecord:
    values = {"tenant": key.tenant, "name": key.model, "description": description, "cells": list(cells)}
    await tx.execute(models.insert().values(**values))
    found = await find(tx, key)
    assert found is not None
    return found


async def describe(tx: Tx, model: ModelRecord, description: str) -> None:
    await _change(tx, model, description=description)


async def pin(tx: Tx, model: ModelRecord, version: int | None) -> None:
    """Let `version` answer requests that name none; None: the newest."""
    await _change(tx, model, pinned=version)


async def set_cells(tx: Tx, model: ModelRecord, cells: Sequence[str]) -> None:
    """The cells that are to have a copy each; none: one cell, whichever has room first."""
    await _change(tx, model, cells=list(cells))


async def set_default_answer(tx: Tx, model: ModelRecord, text: str | None) -> None:
    await _change(tx, model, default_answer=text)


async def set_label(tx: Tx, model: ModelRecord, label: str, version: int) -> None:
    statement = insert(labels).values(model_id=model.id, label=label, version=version)
    await tx.execute(statement.on_conflict_do_update(index_elements=["model_id", "label"], set_={"version": version}))


async def remove_label(tx: Tx, model: ModelRecord, label: str) -> None:
    await tx.execute(labels.delete().where(labels.c.model_id == model.id, labels.c.label == label))


async def mark_deleted(tx: Tx, model: ModelRecord) -> None:
    """The name is free from now on; versions go when no replica holds them."""
    await tx.execute(labels.delete().where(labels.c.model_id == model.id))
    await _change(tx, model, deleted_at=NOW)
    await tx.execute(
        update(versions)
        .where(versions.c.model_id == model.id, versions.c.deleted_at.is_(None))
        .values(deleted_at=NOW, changed_at=NOW)
    )


async def remove_emptied(tx: Tx) -> None:
    """Delete the rows of deleted models that have no version left, whosoever they were."""
    held = select(versions.c.model_id).where(versions.c.model_id == models.c.id).exists()
    await tx.execute(models.delete().where(models.c.deleted_at.is_not(None), ~held))


async def next_version(tx: Tx, key: ModelKey) -> int:
    """A number never given out before under this name, not even to a model that was deleted since."""
    statement = (
        insert(version_counters)
        .values(tenant=key.tenant, model=key.model, last=1)
        .on_conflict_do_update(index_elements=["tenant", "model"], set_={"last": version_counters.c.last + 1})
        .returning(version_counters.c.last)
    )
    return int((await tx.execute(statement)).scalar_one())


async def _change(tx: Tx, model: ModelRecord, **values: Any) -> None:
    await tx.execute(
        update(models).where(models.c.id == model.id, models.c.tenant == model.key.tenant).values(**values)
    )
