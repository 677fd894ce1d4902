"""Uploads under way: reservations, steps and leases. Times are the database's, those of leases while the clock runs.

Every change of an upload names a ticket, and does nothing (returns False or None) once someone else has a later one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import case, delete, func, literal, select, update

from berth.ids import ModelKey
from berth.states import Role
from controller.core.commands import Caller, Command
from controller.core.intake import NEXT, Blob, InspectedModel, Requester, Upload, UploadStep, UploadTicket
from controller.store.schema import artifacts, uploads, versions
from controller.store.transaction import Tx
from controller.store.versions import signature_from_json, signature_to_json


class NewUpload(NamedTuple):
    key: ModelKey
    requester: Requester
    reserved_bytes: int
    holder: str


_AGE = func.extract("epoch", func.clock_timestamp() - uploads.c.created_at).label("age_s")


async def usage(tx: Tx, tenant: str, requester: Requester, own: int | None = None) -> tuple[int, int]:
    """How many uploads the tenant has under way, and the bytes reserved for requests other than this one.

    Uploads with one idempotency key are one request, counted as its largest. `own` is the upload that asks.
    """
    rows = await tx.execute(
        select(uploads.c.id, uploads.c.actor, uploads.c.idempotency_key, uploads.c.reserved_bytes).where(
            uploads.c.tenant == tenant
        )
    )
    count = 0
    most: dict[tuple[str, str | int], int] = {}
    for upload_id, actor, key, reserved in rows:
        count += 1
        same = upload_id == own or (key is not None and (actor, key) == (requester.actor, requester.idempotency_key))
        if not same:
            request = (actor, upload_id if key is None else key)
            most[request] = max(most.get(request, 0), reserved)
    return count, sum(most.values())


async def add(tx: Tx, new: NewUpload, lease_s: float) -> UploadTicket:
    statement = (
        uploads.insert()
        .values(
            tenant=new.key.tenant,
            model=new.key.model,
            step=str(UploadStep.RECEIVING),
            reserved_bytes=new.reserved_bytes,
            actor=new.requester.actor,
            asked_by=_asked_by(new.requester.command),
            idempotency_key=new.requester.idempotency_key,
            holder=new.holder,
            lease_until=_after(lease_s),
        )
        .returning(uploads.c.id, uploads.c.fence)
    )
    return UploadTicket(*(await tx.execute(statement)).one())


async def find(tx: Tx, ticket: UploadTicket) -> Upload | None:
    row = (await tx.execute(select(uploads, _AGE).where(_held(ticket)))).one_or_none()
    return None if row is None else _from_row(row)


async def reserve(tx: Tx, ticket: UploadTicket, reserved_bytes: int) -> bool:
    values = {"reserved_bytes": reserved_bytes, "changed_at": func.now()}
    return await _is_one(tx, update(uploads).where(_held(ticket)).values(values))


async def record_received(
    tx: Tx, ticket: UploadTicket, blobs: tuple[Blob, ...], fingerprint: bytes | None
) -> Upload | None:
    """The reservation becomes what really came."""
    size = sum(blob.size_bytes for blob in blobs)
    values = {"blobs": [blob._asdict() for blob in blobs], "reserved_bytes": size, "fingerprint": fingerprint}
    return await _advance(tx, ticket, UploadStep.RECEIVING, values)


async def record_stored(tx: Tx, ticket: UploadTicket) -> Upload | None:
    return await _advance(tx, ticket, UploadStep.RECEIVED, {})


async def record_inspected(tx: Tx, ticket: UploadTicket, model: InspectedModel) -> Upload | None:
    signature = signature_to_json(model.signature)
    found = {"signature": signature, "initializer_bytes": model.initializer_bytes}
    return await _advance(tx, ticket, UploadStep.STORED, {"found": found})


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
    """Ids of uploads that nobody holds."""
    statement = select(uploads.c.id).where(uploads.c.lease_until < func.clock_timestamp())
    return [row[0] for row in await tx.execute(statement.order_by(uploads.c.lease_until).limit(limit))]


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
        .returning(uploads, _AGE)
    )
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else _from_row(row)


async def condemn_unused(tx: Tx, blobs: tuple[Blob, ...]) -> list[str]:
    """Mark those of these artifacts that no version and no upload refers to: their objects are about to be deleted."""
    digests = [blob.sha256 for blob in blobs]
    by_version = select(versions.c.sha256).where(versions.c.sha256 == artifacts.c.sha256).exists()
    statement = (
        update(artifacts)
        .where(artifacts.c.sha256.in_(digests), ~by_version, ~referred_by_upload())
        .values(condemned_at=func.now())
        .returning(artifacts.c.sha256)
    )
    return [row[0] for row in await tx.execute(statement)]


def referred_by_upload() -> Any:
    """Whether an upload has the artifact of the enclosing query among its blobs."""
    wanted = func.jsonb_build_array(func.jsonb_build_object(literal("sha256"), artifacts.c.sha256))
    return select(uploads.c.id).where(uploads.c.blobs.op("@>")(wanted)).exists()


async def _advance(tx: Tx, ticket: UploadTicket, done: UploadStep, values: dict[str, Any]) -> Upload | None:
    """Record the step that follows `done`, with what became known by it."""
    statement = (
        update(uploads)
        .where(_held(ticket), uploads.c.step == str(done))
        .values(step=str(NEXT[done]), changed_at=func.now(), **values)
        .returning(uploads, _AGE)
    )
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else _from_row(row)


async def _is_one(tx: Tx, statement: Any) -> bool:
    return (await tx.execute(statement.returning(uploads.c.id))).one_or_none() is not None


def _asked_by(command: Command) -> dict[str, str | None]:
    caller = command.caller
    return {
        "role": str(caller.role),
        "tenant": caller.tenant,
        "from": command.address,
        "request_id": command.request_id,
    }


def _held(ticket: UploadTicket) -> Any:
    return (uploads.c.id == ticket.upload) & (uploads.c.fence == ticket.fence)


def _after(seconds: float) -> Any:
    return func.clock_timestamp() + timedelta(seconds=seconds)


def _from_row(row: Any) -> Upload:
    model = None
    if row.found is not None:
        signature = signature_from_json(row.found["signature"])
        model = InspectedModel(signature, row.found["initializer_bytes"])
    fingerprint = None if row.fingerprint is None else bytes(row.fingerprint)
    by = row.asked_by
    command = Command(Caller(row.actor, Role(by["role"]), by["tenant"]), by.get("from", ""), by.get("request_id", ""))
    return Upload(
        ticket=UploadTicket(row.id, row.fence),
        key=ModelKey(row.tenant, row.model),
        requester=Requester(command, row.idempotency_key, fingerprint),
        step=UploadStep(row.step),
        blobs=tuple(Blob(item["sha256"], item["size_bytes"]) for item in row.blobs),
        model=model,
        losses=row.losses,
        age_s=float(row.age_s),
    )
