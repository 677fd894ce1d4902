"""Versions: the upload that makes one, and what became of it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from berth.api import schemas
from berth.errors import BerthError, InvalidArgument
from berth.headers import CONTENT_DIGEST_TEXT, ETAG_TEXT
from berth.ids import MAX_VERSION, ModelKey, VersionKey
from berth.model import Artifact
from controller.api import views
from controller.api.calls import READERS, WRITERS, Authenticated, Call, Cursor, Limit, make_page, read_cursor
from controller.api.problems import UnsupportedMediaType
from controller.intake.spool import Spooled, spool
from controller.store import assignments, requests
from controller.store import versions as store
from controller.store.records import VersionRecord
from controller.store.transaction import Tx
from controller.usecases import models, versions
from controller.usecases.requests import Answer, Memo, once
from controller.usecases.statuses import statuses

router = APIRouter(prefix="/v1/tenants/{tenant}/models/{model}/versions")

_SHA256 = re.compile(r"\s*sha-256\s*=\s*:([A-Za-z0-9+/=]+):\s*")
_ARTIFACT_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [
        {
            "name": "Content-Digest",
            "in": "header",
            "required": False,
            "description": "sha-256=:BASE64: of the body (RFC 9530).",
            "schema": {"type": "string"},
        }
    ],
}


@router.get("")
async def list_versions(
    call: Authenticated, tenant: str, model: str, limit: Limit = 100, cursor: Cursor = None
) -> schemas.Page[schemas.Version]:
    """Newest first."""
    call.demand_tenant(tenant, READERS)
    (below,) = read_cursor(cursor, [MAX_VERSION])

    async def query(tx: Tx) -> list[schemas.Version]:
        record = await models.get(tx, ModelKey(tenant, model))
        return await _views(tx, tenant, await store.page(tx, record, below, limit + 1))

    return make_page(await call.read(query), limit, lambda item: [item.version])


@router.get("/{version}", response_model=schemas.Version)
async def get_version(call: Authenticated, tenant: str, model: str, version: str) -> Response:
    call.demand_tenant(tenant, READERS)

    async def query(tx: Tx) -> schemas.Version:
        record = await models.get_version(tx, await models.get(tx, ModelKey(tenant, model)), version)
        return (await _views(tx, tenant, [record]))[0]

    return call.show(await call.read(query))


@router.delete("/{version}", status_code=204)
async def delete_version(call: Authenticated, tenant: str, model: str, version: str) -> None:
    """Gone at once for callers; refused while it is pinned or labelled. Its number is never given out again."""
    call.demand_tenant(tenant, WRITERS)
    key = ModelKey(tenant, model)

    async def act(tx: Tx) -> None:
        owner = await models.get(tx, key)
        record = await models.get_version(tx, owner, version)
        call.check_match((await _views(tx, tenant, [record]))[0])
        await models.delete_version(tx, call.caller.key_id, owner, record)

    await call.change(act, key)


@router.post("", status_code=201, response_model=schemas.Version, openapi_extra=_ARTIFACT_BODY)
async def upload_version(call: Authenticated, tenant: str, model: str, request: Request) -> Response:
    """Upload an ONNX file as the model's next version; the model is created if it is absent.

    The file is checked as it arrives and parsed, never run. Then the version is placed: it exists from that moment, or
    nothing does.
    """
    call.demand_tenant(tenant, WRITERS)
    metrics = call.services.metrics
    try:
        answer = await _receive(call, ModelKey(tenant, model), request)
    except (BerthError, ClientDisconnect) as error:
        metrics.uploads.labels(error.status.slug if isinstance(error, BerthError) else "cut").inc()
        raise
    metrics.uploads.labels("replayed" if answer.replayed else "accepted").inc()
    headers = {ETAG_TEXT: f'"{answer.body["etag"]}"', "Location": f"{request.url.path}/{answer.body['version']}"}
    if answer.replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(answer.body, status_code=answer.status, headers=headers)


async def _receive(call: Call, key: ModelKey, request: Request) -> Answer:
    media_type = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if media_type != "application/octet-stream":
        raise UnsupportedMediaType(f"an artifact is application/octet-stream, not {media_type}")
    expected = _announced_digest(request.headers.get(CONTENT_DIGEST_TEXT))
    draft = call.memo(b"")  # checks the header before the body is read
    length = request.headers.get("content-length", "0")

    async def check(tx: Tx) -> None:
        # A request that was answered before is answered again, whatever has filled up since.
        if draft is None or await requests.recall(tx, draft.actor, draft.key) is None:
            await versions.check_intake(tx, key, int(length) if length.isdigit() else 0)

    await call.read(check)
    services = call.services
    async with spool(request.stream(), expected, services.max_artifact_bytes, services.spool) as spooled:
        services.metrics.upload_bytes.inc(spooled.size_bytes)
        return await _accept(call, key, spooled, call.memo(spooled.sha256.encode()))


async def _accept(call: Call, key: ModelKey, spooled: Spooled, memo: Memo | None) -> Answer:
    services = call.services
    inspected = await services.inspect(spooled.path)
    artifact = Artifact(spooled.sha256, spooled.size_bytes)
    await services.transactions.run(lambda tx: versions.announce_artifact(tx, artifact))
    await services.artifacts.put(
        spooled.chunks(), expected_sha256=artifact.sha256, max_bytes=services.max_artifact_bytes
    )
    upload = versions.Upload(artifact, inspected.signature, inspected.initializer_bytes)

    async def act(tx: Tx) -> Answer:
        record = await versions.accept(tx, call.caller, key, upload)
        return Answer(201, (await _views(tx, key.tenant, [record]))[0].model_dump(mode="json"))

    return await call.change(lambda tx: once(tx, memo, act), key)


async def _views(tx: Tx, tenant: str, found: Sequence[VersionRecord]) -> list[schemas.Version]:
    seen = await statuses(tx, tenant, found)
    held = await assignments.of_models(tx, tenant, {record.model_id for record in found})
    where: dict[VersionKey, list[str]] = {}
    for assignment in sorted(held, key=lambda one: one.job):
        where.setdefault(assignment.key, []).append(assignment.job)
    return [views.version(record, seen[record.key], where.get(record.key, ())) for record in found]


def _announced_digest(header: str | None) -> str | None:
    """The SHA-256 of a Content-Digest header in hexadecimal. Other algorithms in it are ignored, as RFC 9530 says."""
    if header is None:
        return None
    for member in header.split(","):
        match = _SHA256.fullmatch(member)
        if match is not None:
            try:
                digest = base64.b64decode(match[1], validate=True)
            except binascii.Error:
                digest = b""
            if len(digest) != 32:
                raise InvalidArgument("Content-Digest: sha-256 is not the Base64 of 32 bytes")
            return digest.hex()
    raise InvalidArgument("Content-Digest names no sha-256=:BASE64:")
