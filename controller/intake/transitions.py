"""The transactions of an upload: each function is one, and decides by `controller.core.intake`.

They take turns (`uploads=True` of `Transactions.run`): of two that reserve, the second sees what the first reserved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from berth.errors import Unauthenticated, Unavailable
from berth.ids import ModelKey
from berth.model import Artifact
from controller.core import intake
from controller.core.intake import Blob, InspectedModel, Requester, Upload, UploadTicket
from controller.store import artifacts, keys, requests, tenants, uploads
from controller.store.records import VersionRecord
from controller.store.scope import PLATFORM
from controller.store.transaction import Tx
from controller.usecases import versions
from controller.usecases.requests import ApiAnswer, RequestMemo, once
from controller.usecases.tenants import get as get_tenant

Render = Callable[[Tx, VersionRecord], Awaitable[dict[str, Any]]]
"""How a version looks to its client: the answer is remembered in the transaction that makes the version."""


class UploadTakenOver(Unavailable):
    """Another controller drives this upload now: whoever raises this has written nothing."""


async def begin(tx: Tx, key: ModelKey, requester: Requester, declared_bytes: int, holder: str) -> UploadTicket | None:
    """Reserve `declared_bytes` (0 if the client does not say). None: this request was answered before.

    Refuses before the body is read what would be refused after it. Raises `QuotaExceeded`, `RateLimited`, `NotFound`
    for a tenant that is not there.
    """
    if (
        requester.idempotency_key is not None
        and await requests.recall(tx, requester.actor, requester.idempotency_key) is not None
    ):
        # It is answered again, whatever has filled up since.
        return None
    count, reserved = await uploads.usage(tx, key, requester)
    await versions.check_intake(tx, key, declared_bytes, reserved_bytes=reserved)
    intake.check_under_way(count)
    return await uploads.add(tx, uploads.NewUpload(key, requester, declared_bytes, holder), intake.LEASE_S)


async def grow(tx: Tx, key: ModelKey, requester: Requester, ticket: UploadTicket, *, needed: int, wished: int) -> int:
    """Reserve more for a body whose length nobody said; returns how many bytes are reserved now."""
    tenant = await get_tenant(tx, key.tenant)
    _, stored = await tenants.usage(tx, tenant.name)
    _, reserved = await uploads.usage(tx, key, requester, own=ticket.upload)
    granted = intake.reserve(limit=tenant.quota.max_bytes, used=stored + reserved, needed=needed, wished=wished)
    if not await uploads.reserve(tx, ticket, granted):
        raise _taken_over()
    return granted


async def record_received(tx: Tx, ticket: UploadTicket, blobs: tuple[Blob, ...], fingerprint: bytes | None) -> Upload:
    """All bytes are in the holder's spool. Their artifacts are announced: the collector leaves them alone from now on.

    Raises `Unavailable` while the same bytes, unused before, are being deleted.
    """
    for blob in blobs:
        if not await artifacts.touch(tx, blob.sha256, blob.size_bytes):
            raise Unavailable("an unused artifact with the same bytes is being removed", retry_after=2.0)
    return _held(await uploads.record_received(tx, ticket, blobs, fingerprint))


async def record_stored(tx: Tx, ticket: UploadTicket) -> Upload:
    return _held(await uploads.record_stored(tx, ticket))


async def record_inspected(tx: Tx, ticket: UploadTicket, model: InspectedModel) -> Upload:
    return _held(await uploads.record_inspected(tx, ticket, model))


async def place(tx: Tx, upload: Upload, render: Render) -> ApiAnswer:
    """The upload becomes a version, its reservation the version's bytes. Needs the fleet's lock.

    If the same request made one meanwhile, by another upload, its answer is given again. Raises `Unauthenticated` if
    the key that asked is no more.
    """
    if not await uploads.remove(tx, upload.ticket):
        raise _taken_over()
    caller = upload.requester.command.caller
    key = await keys.find(tx, PLATFORM if caller.tenant is None else caller.tenant, caller.key_id)
    if key is None or key.revoked_at is not None:
        raise Unauthenticated("the key was revoked while its upload was under way")
    assert upload.model is not None
    (blob,) = upload.blobs
    artifact, model, requester = Artifact(blob.sha256, blob.size_bytes), upload.model, upload.requester

    async def act(tx: Tx) -> ApiAnswer:
        version = await versions.accept(tx, requester.command, upload.key, artifact, model)
        return ApiAnswer(201, await render(tx, version))

    return await once(tx, _memo(requester), act)


async def withdraw(tx: Tx, ticket: UploadTicket) -> list[str]:
    """End the upload without a version. Returns the digests of condemned artifacts, whose objects are to be deleted.

    Someone else's upload is left alone.
    """
    upload = await uploads.find(tx, ticket)
    if upload is None:
        return []
    await uploads.remove(tx, ticket)
    return await artifacts.condemn_unused(tx, [blob.sha256 for blob in intake.removable(upload)])


async def leave(tx: Tx, ticket: UploadTicket) -> list[str]:
    """The holder stops: whoever comes may go on at once, and if nobody could, withdraw it. Returns as `withdraw`."""
    upload = await uploads.find(tx, ticket)
    if upload is not None and intake.survives(upload):
        await uploads.give_back(tx, ticket, 0.0)
        return []
    return await withdraw(tx, ticket)


def _held(upload: Upload | None) -> Upload:
    if upload is None:
        raise _taken_over()
    return upload


def _taken_over() -> UploadTakenOver:
    return UploadTakenOver("another controller goes on with this upload: ask again with the same Idempotency-Key")


def _memo(requester: Requester) -> RequestMemo | None:
    if requester.idempotency_key is None:
        return None
    assert requester.fingerprint is not None
    return RequestMemo(requester.actor, requester.idempotency_key, requester.fingerprint)
