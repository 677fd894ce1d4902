"""Models, labels, version counters and versions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import insert

from berth.ids import ModelKey, VersionKey
from berth.model import Artifact, Signature, TensorSpec
from berth.states import ArtifactFormat
from controller.store import records
from controller.store.schema import labels, models, version_counters, versions
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
_MODEL = select(
    models.c.id,
    models.c.tenant,
    models.c.name,
    models.c.description,
    models.c.pinned,
    _LATEST.label("latest"),
    _LABELS.label("labels"),
    models.c.created_at,
    models.c.default_answer,
    models.c.cells,
)
_VERSION = select(
    versions.c.model_id,
    models.c.tenant,
    models.c.name,
    versions.c.version,
    versions.c.sha256,
    versions.c.size_bytes,
    versions.c.format,
    versions.c.signature,
    versions.c.estimated_bytes,
    versions.c.measured_bytes,
    versions.c.announced,
    versions.c.created_at,
    versions.c.changed_at,
    versions.c.deleted_at,
    versions.c.proven_at,
).join_from(versions, models, models.c.id == versions.c.model_id)


async def find(tx: Tx, key: ModelKey) -> records.Model | None:
    """The model of that name that is not deleted."""
    statement = _MODEL.where(models.c.tenant == key.tenant, models.c.name == key.model, models.c.deleted_at.is_(None))
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else _model(row)


async def find_by_ids(tx: Tx, ids: Collection[int]) -> list[records.Model]:
    """The models with these ids that are not deleted."""
    rows = await tx.execute(_MODEL.where(models.c.id.in_(ids), models.c.deleted_at.is_(None)))
    return [_model(row) for row in rows]


async def page(tx: Tx, tenant: str, after: str, limit: int) -> list[records.Model]:
    statement = (
        _MODEL.where(models.c.tenant == tenant, models.c.deleted_at.is_(None), models.c.name > after)
        .order_by(models.c.name)
        .limit(limit)
    )
    return [_model(row) for row in await tx.execute(statement)]


async def every(tx: Tx) -> list[records.Model]:
    """All models that are not deleted."""
    return [_model(row) for row in await tx.execute(_MODEL.where(models.c.deleted_at.is_(None)))]


async def default_answer_bytes(tx: Tx, tenant: str, but: int) -> int:
    """Sum of the sizes of the default answers of a tenant's models, the one with the id `but` left out."""
    size = func.coalesce(func.sum(func.octet_length(models.c.default_answer)), 0)
    statement = select(size).where(models.c.tenant == tenant, models.c.deleted_at.is_(None), models.c.id != but)
    return int((await tx.execute(statement)).scalar_one())


async def add(tx: Tx, key: ModelKey, description: str, cells: Sequence[str] = ()) -> records.Model:
    values = {"tenant": key.tenant, "name": key.model, "description": description, "cells": list(cells)}
    await tx.execute(models.insert().values(**values))
    found = await find(tx, key)
    assert found is not None
    return found


async def change(tx: Tx, model_id: int, **values: Any) -> None:
    await tx.execute(update(models).where(models.c.id == model_id).values(**values))


async def mark_deleted(tx: Tx, model_id: int) -> None:
    """The name is free from now on; versions go when no replica holds them."""
    await tx.execute(labels.delete().where(labels.c.model_id == model_id))
    await change(tx, model_id, deleted_at=func.now())
    await tx.execute(
        update(versions)
        .where(versions.c.model_id == model_id, versions.c.deleted_at.is_(None))
        .values(deleted_at=func.now(), changed_at=func.now())
    )


async def remove_emptied(tx: Tx) -> None:
    """Delete the rows of deleted models that have no version left."""
    held = select(versions.c.model_id).where(versions.c.model_id == models.c.id).exists()
    await tx.execute(models.delete().where(models.c.deleted_at.is_not(None), ~held))


async def set_label(tx: Tx, model_id: int, label: str, version: int) -> None:
    statement = insert(labels).values(model_id=model_id, label=label, version=version)
    await tx.execute(statement.on_conflict_do_update(index_elements=["model_id", "label"], set_={"version": version}))


async def remove_label(tx: Tx, model_id: int, label: str) -> None:
    await tx.execute(labels.delete().where(labels.c.model_id == model_id, labels.c.label == label))


async def next_version(tx: Tx, key: ModelKey) -> int:
    """A number never given out before under this name, not even to a model that was deleted since."""
    statement = (
        insert(version_counters)
        .values(tenant=key.tenant, model=key.model, last=1)
        .on_conflict_do_update(index_elements=["tenant", "model"], set_={"last": version_counters.c.last + 1})
        .returning(version_counters.c.last)
    )
    return int((await tx.execute(statement)).scalar_one())


async def add_version(
    tx: Tx, model_id: int, number: int, artifact: Artifact, *, signature: Signature, estimated_bytes: int
) -> None:
    await tx.execute(
        versions.insert().values(
            model_id=model_id,
            version=number,
            sha256=artifact.sha256,
            size_bytes=artifact.size_bytes,
            format=str(artifact.format),
            signature=signature_to_json(signature),
            estimated_bytes=estimated_bytes,
        )
    )


async def find_version(tx: Tx, model_id: int, number: int) -> records.Version | None:
    """The version, unless it is deleted."""
    statement = _VERSION.where(
        versions.c.model_id == model_id, versions.c.version == number, versions.c.deleted_at.is_(None)
    )
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else _version(row)


async def page_versions(tx: Tx, model_id: int, below: int, limit: int) -> list[records.Version]:
    """Newest first, from the one before `below`."""
    statement = (
        _VERSION.where(versions.c.model_id == model_id, versions.c.version < below, versions.c.deleted_at.is_(None))
        .order_by(versions.c.version.desc())
        .limit(limit)
    )
    return [_version(row) for row in await tx.execute(statement)]


async def versions_of(tx: Tx, model_ids: Collection[int]) -> list[records.Version]:
    """All versions of these models, the deleted ones among them."""
    return [_version(row) for row in await tx.execute(_VERSION.where(versions.c.model_id.in_(model_ids)))]


async def live_numbers(tx: Tx) -> dict[int, list[int]]:
    """The version numbers of every model that are not deleted."""
    found: dict[int, list[int]] = {}
    statement = select(versions.c.model_id, versions.c.version).where(versions.c.deleted_at.is_(None))
    for model_id, number in await tx.execute(statement):
        found.setdefault(model_id, []).append(number)
    return found


async def change_version(tx: Tx, model_id: int, number: int, **values: Any) -> None:
    await tx.execute(
        update(versions).where(versions.c.model_id == model_id, versions.c.version == number).values(**values)
    )


async def prove_version(tx: Tx, model_id: int, number: int) -> None:
    """A replica has loaded it, and it answers there."""
    await change_version(tx, model_id, number, proven_at=func.now())


async def touch_version(tx: Tx, model_id: int, number: int) -> None:
    """Its state changed now: it is assigned nowhere any more."""
    await change_version(tx, model_id, number, changed_at=func.now())


async def mark_version_deleted(tx: Tx, model_id: int, number: int) -> None:
    await change_version(tx, model_id, number, deleted_at=func.now(), changed_at=func.now())


async def remove_version(tx: Tx, model_id: int, number: int) -> None:
    await tx.execute(versions.delete().where(versions.c.model_id == model_id, versions.c.version == number))


async def ids_of(tx: Tx, keys: Collection[ModelKey] | None) -> list[int]:
    """Ids of the models with these names, deleted ones among them; of all models for None."""
    statement: Select[Any] = select(models.c.id, models.c.tenant, models.c.name)
    if keys is not None:
        statement = statement.where(models.c.name.in_({key.model for key in keys}))
    rows = await tx.execute(statement)
    return [row[0] for row in rows if keys is None or ModelKey(row[1], row[2]) in keys]


def signature_to_json(signature: Signature) -> dict[str, Any]:
    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]

    return {"inputs": tensors(signature.inputs), "outputs": tensors(signature.outputs)}


def signature_from_json(value: dict[str, Any]) -> Signature:
    def tensors(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(item["name"], item["datatype"], tuple(item["shape"])) for item in items)

    return Signature(tensors(value["inputs"]), tensors(value["outputs"]))


def _model(row: Any) -> records.Model:
    model = records.Model(row[0], ModelKey(row[1], row[2]), *row[3:])
    return model._replace(cells=tuple(model.cells))


def _version(row: Any) -> records.Version:
    return records.Version(
        model_id=row[0],
        key=VersionKey(row[1], row[2], row[3]),
        artifact=Artifact(row[4], row[5], ArtifactFormat(row[6])),
        signature=signature_from_json(row[7]),
        estimated_bytes=row[8],
        measured_bytes=row[9],
        announced=row[10],
        created_at=row[11],
        changed_at=row[12],
        deleted=row[13] is not None,
        # A controller of the release before says only that it was measured. When none of those runs any more (and a
        # migration has made up for what they left out), the second half can go.
        proven=row[14] is not None or row[9] is not None,
    )
