"""Versions: the upload that makes one, and what became of it."""

from __future__ import annotations

import base64
import binascii
import re

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from berth.api import schemas
from berth.errors import BerthError, InsufficientCapacity, InvalidArgument
from berth.headers import ETAG_TEXT
from berth.ids import MAX_VERSION, ModelKey
from controller.api.calls import (
    READERS,
    WRITERS,
    Authenticated,
    AuthenticatedCall,
    Cursor,
    Limit,
    make_page,
    read_cursor,
)
from controller.api.problems import UnsupportedMediaType
from controller.api.version_views import version_views
from controller.core.intake import Requester
from controller.intake.receiving import Incoming
from controller.store import versions as store
from controller.store.transaction import Tx
from controller.usecases import models

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
        return await version_views(tx, tenant, await store.page(tx, record, below, limit + 1))

    return make_page(await call.read(query), limit, lambda item: [item.version])


@router.get("/{version}", response_model=schemas.Version)
async def get_version(call: Authenticated, tenant: str, model: str, version: str) -> Response:
    call.demand_tenant(tenant, READERS)

    async def query(tx: Tx) -> schemas.Version:
        record = await models.get_version(tx, await models.get(tx, ModelKey(tenant, model)), version)
        return (await version_views(tx, tenant, [record]))[0]

    return call.show(await call.read(query))


@router.delete("/{version}", status_code=204)
async def delete_version(call: Authenticated, tenant: str, model: str, version: str) -> None:
    """Gone at once for callers; refused while it is pinned or labelled. Its number is never given out again."""
    call.demand_tenant(tenant, WRITERS)
    key = ModelKey(tenant, model)

    async def act(tx: Tx) -> None:
        owner = await models.get(tx, key)
        record = await models.get_version(tx, owner, version)
        call.check_match((await version_views(tx, tenant, [record]))[0])
        await models.delete_version(tx, call.command, owner, record)

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
        answer = await call.services.receive(_incoming(call, ModelKey(tenant, model), request), request.stream())
    except (BerthError, ClientDisconnect) as error:
        if isinstance(error, InsufficientCapacity):
            metrics.placement_refusals.inc()
        metrics.uploads.labels(error.status.slug if isinstance(error, BerthError) else "cut").inc()
        raise
    metrics.uploads.labels("replayed" if answer.replayed else "accepted").inc()
    headers = {ETAG_TEXT: f'"{answer.body["etag"]}"', "Location": f"{request.url.path}/{answer.body['version']}"}
    if answer.replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(answer.body, status_code=answer.status, headers=headers)


def _incoming(call: AuthenticatedCall, key: ModelKey, request: Request) -> Incoming:
    media_type = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if media_type != "application/octet-stream":
        raise UnsupportedMediaType(f"an artifact is application/octet-stream, not {media_type}")
    draft = call.memo(b"")  # checks the header before the body is read
    length = request.headers.get("content-length", "0")

    def fingerprint(sha256: str) -> bytes:
        memo = call.memo(sha256.encode())
        assert memo is not None
        return memo.fingerprint

    return Incoming(
        key=key,
        requester=Requester(call.command, None if draft is None else draft.key),
        declared_bytes=int(length) if length.isdigit() else 0,
        expected_sha256=_announced_digest(request.headers.get("content-digest")),
        fingerprint=fingerprint,
    )


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
