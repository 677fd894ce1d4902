"""Events, as pages or as a stream that a reader resumes where it stopped.

A stream keeps no queue. It remembers the last id it sent, and reads on from there when something may have happened. So
a slow reader costs nothing and misses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse

from berth.api import schemas
from berth.errors import BerthError, InvalidArgument, Retryable, Unavailable
from controller.api import views
from controller.api.calls import (
    OPERATORS,
    READERS,
    Authenticated,
    AuthenticatedCall,
    Cursor,
    Limit,
    make_page,
    read_cursor,
)
from controller.store import events
from controller.store.scope import EVERY_TENANT, TenantScope
from controller.store.transaction import Tx
from controller.usecases import keys
from controller.usecases.tenants import get as get_tenant

router = APIRouter(prefix="/v1")

MEDIA_TYPE = "text/event-stream"
_POLL_S = 2.0
HEARTBEAT_S = 15.0
_BATCH = 200
_MOST_READERS = 200
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, or a stream of the events from now on (after `Last-Event-ID` or `after`, if given).",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
After = Annotated[int | None, Query(ge=0, lt=1 << 63, description="Only events with a larger id.")]
LastEventId = Annotated[str | None, Header(max_length=20)]


@router.get("/events", response_model=schemas.Page[schemas.Event], responses=_STREAM)
async def list_events(
    call: Authenticated,
    limit: Limit = 100,
    cursor: Cursor = None,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Any:
    call.demand(OPERATORS)
    return await _answer(call, EVERY_TENANT, limit, cursor, _start(after, last_event_id))


@router.get("/tenants/{tenant}/events", response_model=schemas.Page[schemas.Event], responses=_STREAM)
async def list_tenant_events(
    call: Authenticated,
    *,
    tenant: str,
    limit: Limit = 100,
    cursor: Cursor = None,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Any:
    call.demand_tenant(tenant, READERS)
    await call.read(lambda tx: get_tenant(tx, tenant))
    return await _answer(call, tenant, limit, cursor, _start(after, last_event_id))


async def _answer(
    call: AuthenticatedCall, scope: TenantScope, limit: int, cursor: str | None, start: int | None
) -> Any:
    if MEDIA_TYPE in call.request.headers.get("accept", ""):
        return await _stream(call, scope, start)
    (position,) = read_cursor(cursor, [start or 0])
    found = await call.read(lambda tx: events.page(tx, scope, position, limit + 1))
    return make_page([views.event(record) for record in found], limit, lambda item: [item.id])


async def _stream(call: AuthenticatedCall, scope: TenantScope, start: int | None) -> Response:
    if call.services.metrics.open_streams >= _MOST_READERS:
        raise Unavailable("too many event streams are open", retry_after=10.0)
    position = await call.read(events.last_id) if start is None else start
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_follow(call, scope, position), media_type=MEDIA_TYPE, headers=headers)


async def _follow(call: AuthenticatedCall, scope: TenantScope, position: int) -> AsyncIterator[str]:
    services = call.services
    loop = asyncio.get_running_loop()
    spoke_at = loop.time()
    # The comment makes proxies and clients see the headers at once.
    yield f": events after {position}\nretry: 1000\n\n"
    with services.metrics.stream():
        news = services.events.waiter()
        while not services.closing.is_set():
            try:
                found = await call.read(lambda tx, after=position: _next(tx, call, scope, after))  # type: ignore[misc]
            except Retryable:
                found = []  # the database is away: the reader waits with us
            except BerthError:
                return  # the key was revoked
            for event in found:
                position = event.id
                yield f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
            if found:
                spoke_at = loop.time()
            elif loop.time() - spoke_at >= HEARTBEAT_S:
                spoke_at = loop.time()
                yield ": alive\n\n"
            if len(found) < _BATCH:
                await news.wait(_POLL_S)


async def _next(tx: Tx, call: AuthenticatedCall, scope: TenantScope, after: int) -> list[schemas.Event]:
    await keys.still_valid(tx, call.caller)
    return [views.event(record) for record in await events.page(tx, scope, after, _BATCH)]


def _start(after: int | None, last_event_id: str | None) -> int | None:
    """Where to go on. The place of a reader that resumes counts more than the place in its first request."""
    if last_event_id is None:
        return after
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 18):
        raise InvalidArgument("Last-Event-ID is not the id of an event")
    return int(last_event_id)
