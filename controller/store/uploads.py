"""Uploads under way: reservations, steps and leases. Times are the database's, those of leases while the clock runs.

Every change of an upload names a ticket, and does nothing (returns False or None) once someone else has a later one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import case, delete, func, literal, select, update

from berth.ids import ModelKey
from berth.states import Role
from controller.core.change import UNCHANGED, Unchanged
from controller.core.commands import Caller, Command
from controller.core.intake import BEFORE, Blob, InspectedModel, Requester, Upload, UploadStep, UploadTicket
from controller.store.mapper import NOW, Mapper, Part, plain
from controller.store.schema import artifacts, uploads
from controller.store.transaction import Tx
from controller.store.versions import signature_from_json, signature_to_json


def _requester(actor: str, by: dict[str, Any], key: str | None, fingerprint: bytes | None) -> Requester:
    caller = Caller(actor, Role(by["role"]), by["tenant"])
    command = Command(caller, by["from"], by["request_id"])
    return Requester(command, key, None if fingerprint is None else bytes(fingerprint))


def _requester_columns(requester: Requester) -> dict[str, Any]:
    caller, address, request_id = requester.command
    by = {"role": str(caller.role), "tenant": caller.tenant, "from": address, "request_id": request_id}
    return {
        "actor": caller.key_id,
        "asked_by": by,
        "idempotency_key": requester.idempotency_key,
        "fingerprint": requester.fingerprint,
    }


def _model(found: dict[str, Any] | None) -> InspectedModel | None:
    if found is None:
        return None
    return InspectedModel(signature_from_json(found["signature"]), found["initializer_bytes"])


def _found_column(model: InspectedModel) -> dict[str, Any]:
    signature = signature_to_json(model.signature)
    return {"found": {"signature": signature, "initializer_bytes": model.initializer_bytes}}


_UPLOAD = Mapper(
    Upload,
    uploads,
    ticket=Part((uploads.c.id, uploads.c.fence), UploadTicket),
    key=Part((uploads.c.tenant, uploads.c.model), ModelKey, ModelKey._asdict),
    requester=Part(
        (uploads.c.actor, uploads.c.asked_by, uploads.c.idempotency_key, uploads.c.fingerprint),
        _requester,
        _requester_columns,
    ),
    step=plain(uploads.c.step, UploadStep),
    blobs=Part(
        (uploads.c.blobs,),
        lambda blobs: tuple(Blob(blob["sha256"], blob["size_bytes"]) for blob in blobs),
        lambda blobs: {"blobs": [blob._asdict() for blob in blobs]},
    ),
    model=Part((uploads.c.found,), _model, _found_column),
    age_s=Part((func.extract("epoch", func.clock_timestamp() - uploads.c.created_at),), float),
)


@dataclass(frozen=True, slots=True)
class NewUpload:
    key: ModelKey
    requester: Requester
    reserved_bytes: int
    holder: str
    step: UploadStep = UploadStep.RECEIVING


@dataclass(frozen=True, slots=True)
class _StepDone:
    """What is known once a step is done."""

    step: UploadStep
    blobs: tuple[Blob, ...] | Unchanged = UNCHANGED
    reserved_bytes: int | Unchanged = UNCHANGED
    fingerprint: bytes | Unchanged | None = UNCHANGED
    model: InspectedModel | Unchanged = UNCHANGED


async def usage(tx: Tx, to: ModelKey, requester: Requester, own: int | None = None) -> tuple[int, int]:
    """How many uploads the tenant has under way, and the bytes reserved for its other requests.

    Uploads to one model with one idempotency key are one request, counted as its largest. `own` is the upload that
    asks, `to` the model.
    """
    rows = await tx.execute(
        select(
            uploads.c.id, uploads.c.actor, uploads.c.idempotency_key, uploads.c.model, uploads.c.reserved_bytes
        ).where(uploads.c.tenant == to.tenant)
    )
    asks = (requester.actor, requester.idempotency_key, to.model)
    count = 0
    most: dict[tuple[str, str | int, str], int] = {}
    for upload_id, actor, key, model, reserved in rows:
        count += 1
        same = upload_id == own or (key is not None and (actor, key, model) == asks)
        if not same:
            request = (actor, upload_id if key is None else key, model)
            most[request] = max(most.get(request, 0), reserved)
    return count, sum(most.values())


async def add(tx: Tx, new: NewUpload, lease_s: float) -> UploadTicket:
    statement = uploads.insert().values(**_UPLOAD.values(new), lease_until=_after(lease_s))
    return UploadTicket(*(await tx.execute(statement.returning(uploads.c.id, uploads.c.fence))).one())


async def find(tx: Tx, ticket: UploadTicket) -> Upload | None:
    row = (await tx.execute(_UPLOAD.select().where(_held(ticket)))).one_or_none()
    return None if row is None else _UPLOAD.record(row)


async def reserve(tx: Tx, ticket: UploadTicket, reserved_bytes: int) -> bool:
    values = {"reserved_bytes": reserved_bytes, "changed_at": NOW}
    return await _is_one(tx, update(uploads).where(_held(ticket)).values(values))


async def record_received(
    tx: Tx, ticket: UploadTicket, blobs: tuple[Blob, ...], fingerprint: bytes | None
) -> Upload | None:
    """The reservation becomes what really came."""
    size = sum(blob.size_bytes for blob in blobs)
    done = _StepDone(UploadStep.RECEIVED, blobs=blobs, reserved_bytes=size, fingerprint=fingerprint)
    return await _record(tx, ticket, done)


async def record_stored(tx: Tx, ticket: UploadTicket) -> Upload | None:
    return await _record(tx, ticket, _StepDone(UploadStep.STORED))


async def record_inspected(tx: Tx, ticket: UploadTicket, model: InspectedModel) -> Upload | None:
    return await _record(tx, ticket, _StepDone(UploadStep.INSPECTED, model=model))


async def remove(tx: Tx, ticket: UploadTicket) -> bool:
    """It is a version now, or withdrawn."""
    return await _is_one(tx, delete(uploads).where(_held(ticket)))


async def renew(tx: Tx, ticket: UploadTicket, lease_s: float) -> bool:
    return await _is_one(tx, update(uploads).where(_held(ticket)).values(lease_until=_after(lease_s)))


async def give_back(tx: Tx, ticket: UploadTicket, pause_s: float) -> bool:
    """Let anyone take it over after `pause_s` seconds; its holder was not lost with it."""
    values = {"holder": "", "lease_until": _after(pause_s)}
    return await _is_one(tx, update(uploads).where(_held(ticket)).values(values))


async def ended_leases(tx: Tx, limit: int = 100) -> list[int]:
    """Ids of uploads of any tenant that nobody holds, but for those at a step of a later release."""
    ended = (uploads.c.lease_until < func.clock_timestamp()) & uploads.c.step.in_([str(step) for step in UploadStep])
    statement = select(uploads.c.id).where(ended).order_by(uploads.c.lease_until).limit(limit)
    return [row[0] for row in await tx.execute(statement)]


async def claim(tx: Tx, upload_id: int, holder: str, lease_s: float) -> Upload | None:
    """Hold the upload from now on; None while someone else does, and if there is none."""
    statement = (
        update(uploads)
        .where(uploads.c.id == upload_id, uploads.c.lease_until < func.clock_timestamp())
        .values(
            holder=holder,
            fence=uploads.c.fence + 1,
            losses=uploads.c.losses + case((uploads.c.holder == "", 0), else_=1),
            lease_until=_after(lease_s),
        )
        .returning(*_UPLOAD.columns)
    )
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else _UPLOAD.record(row)


def referred_by_upload() -> Any:
    """Whether an upload has the artifact of the enclosing query among its blobs."""
    wanted = func.jsonb_build_array(func.jsonb_build_object(literal("sha256"), artifacts.c.sha256))
    return select(uploads.c.id).where(uploads.c.blobs.op("@>")(wanted)).exists()


async def _record(tx: Tx, ticket: UploadTicket, done: _StepDone) -> Upload | None:
    """Record a step of an upload that is at the one before."""
    statement = (
        update(uploads)
        .where(_held(ticket), uploads.c.step == str(BEFORE[done.step]))
        .values(**_UPLOAD.values(done), changed_at=NOW)
        .returning(*_UPLOAD.columns)
    )
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else _UPLOAD.record(row)


async def _is_one(tx: Tx, statement: Any) -> bool:
    return (await tx.execute(statement.returning(uploads.c.id))).one_or_none() is not None


def _held(ticket: UploadTicket) -> Any:
    return (uploads.c.id == ticket.upload) & (uploads.c.fence == ticket.fence)


def _after(seconds: float) -> Any:
    return func.clock_timestamp() + timedelta(seconds=seconds)
