"""Versions: immutable but for what becomes known of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select, update

from berth.ids import VersionKey
from berth.model import Artifact, Signature, TensorSpec
from berth.states import ArtifactFormat, VersionState
from controller.store.mapper import NOW, Mapper, Part, whether
from controller.store.records import ModelRecord, VersionRecord
from controller.store.schema import models, versions
from controller.store.scope import TenantScope, within
from controller.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version as it is added. `estimated_bytes` is what to reserve for it until it is measured."""

    artifact: Artifact
    signature: Signature
    estimated_bytes: int
    announced: str = ""
    """The state that nobody needs to be told of any more."""


def signature_to_json(signature: Signature) -> dict[str, Any]:
    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]

    return {"inputs": tensors(signature.inputs), "outputs": tensors(signature.outputs)}


def signature_from_json(value: dict[str, Any]) -> Signature:
    def tensors(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(item["name"], item["datatype"], tuple(item["shape"])) for item in items)

    return Signature(tensors(value["inputs"]), tensors(value["outputs"]))


def _artifact(sha256: str, size_bytes: int, format: str) -> Artifact:
    return Artifact(sha256, size_bytes, ArtifactFormat(format))


ARTIFACT = Part(
    (versions.c.sha256, versions.c.size_bytes, versions.c.format),
    _artifact,
    lambda it: {"sha256": it.sha256, "size_bytes": it.size_bytes, "format": str(it.format)},
)
KEY = Part((models.c.tenant, models.c.name, versions.c.version), VersionKey)
_VERSION = Mapper(
    VersionRecord,
    versions,
    key=KEY,
    artifact=ARTIFACT,
    signature=Part(
        (versions.c.signature,), signature_from_json, lambda signature: {"signature": signature_to_json(signature)}
    ),
    deleted=whether(versions.c.deleted_at),
    # A controller of the release before says only that it was measured. When none of those runs any more, and a
    # migration has made up for what they left out, the second column can go.
    proven=Part(
        (versions.c.proven_at, versions.c.measured_bytes),
        lambda proven_at, measured_bytes: proven_at is not None or measured_bytes is not None,
    ),
)


def _rows(scope: TenantScope) -> Select[Any]:
    joined = _VERSION.select().join_from(versions, models, models.c.id == versions.c.model_id)
    return joined.where(within(models.c.tenant, scope))


def _live_of(model: ModelRecord) -> Select[Any]:
    return _rows(model.key.tenant).where(versions.c.model_id == model.id, versions.c.deleted_at.is_(None))


async def add(tx: Tx, model: ModelRecord, number: int, new: NewVersion) -> VersionRecord:
    await tx.execute(versions.insert().values(model_id=model.id, version=number, **_VERSION.values(new)))
    found = await find(tx, model, number)
    assert found is not None
    return found


async def find(tx: Tx, model: ModelRecord, number: int) -> VersionRecord | None:
    """The version, unless it is deleted."""
    row = (await tx.execute(_live_of(model).where(versions.c.version == number))).one_or_none()
    return None if row is None else _VERSION.record(row)


async def page(tx: Tx, model: ModelRecord, below: int, limit: int) -> list[VersionRecord]:
    """Newest first, from the one before `below`."""
    statement = _live_of(model).where(versions.c.version < below).order_by(versions.c.version.desc()).limit(limit)
    return _VERSION.records(await tx.execute(statement))


async def of_models(tx: Tx, scope: TenantScope, model_ids: Collection[int]) -> list[VersionRecord]:
    """All versions of these models, the deleted ones among them."""
    return _VERSION.records(await tx.execute(_rows(scope).where(versions.c.model_id.in_(model_ids))))


async def live_numbers(tx: Tx, scope: TenantScope) -> dict[int, list[int]]:
    """The version numbers of every model that are not deleted, by the model's id."""
    found: dict[int, list[int]] = {}
    statement = (
        select(versions.c.model_id, versions.c.version)
        .join_from(versions, models, models.c.id == versions.c.model_id)
        .where(versions.c.deleted_at.is_(None), within(models.c.tenant, scope))
    )
    for model_id, number in await tx.execute(statement):
        found.setdefault(model_id, []).append(number)
    return found


async def record_measurement(tx: Tx, version: VersionRecord, measured_bytes: int) -> None:
    """The largest that a replica measured."""
    await _change(tx, version, measured_bytes=measured_bytes)


async def record_proof(tx: Tx, version: VersionRecord) -> None:
    """A replica has loaded it, and it answers there."""
    await _change(tx, version, proven_at=NOW)


async def record_announcement(tx: Tx, version: VersionRecord, state: VersionState) -> None:
    """An event tells of this state."""
    await _change(tx, version, announced=str(state))


async def record_retirement(tx: Tx, version: VersionRecord) -> None:
    """Its state changed now: it is assigned nowhere any more."""
    await _change(tx, version, changed_at=NOW)


async def mark_deleted(tx: Tx, version: VersionRecord) -> None:
    await _change(tx, version, deleted_at=NOW, changed_at=NOW)


async def remove(tx: Tx, version: VersionRecord) -> None:
    await tx.execute(versions.delete().where(_is(version)))


async def _change(tx: Tx, version: VersionRecord, **values: Any) -> None:
    await tx.execute(update(versions).where(_is(version)).values(**values))


def _is(version: VersionRecord) -> Any:
    return (versions.c.model_id == version.model_id) & (versions.c.version == version.key.version)
