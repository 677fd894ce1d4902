"""Models, their serving policy and their labels."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from berth.api import schemas
from berth.ids import ModelKey
from controller.api import views
from controller.api.calls import (
    READERS,
    WRITERS,
    Authenticated,
    Cursor,
    Limit,
    fingerprint_of,
    make_page,
    read_cursor,
)
from controller.store import models as store
from controller.store.transaction import Tx
from controller.usecases import models
from controller.usecases.tenants import get as get_tenant

router = APIRouter(prefix="/v1/tenants/{tenant}/models")


@router.get("")
async def list_models(
    call: Authenticated, tenant: str, limit: Limit = 100, cursor: Cursor = None
) -> schemas.Page[schemas.Model]:
    call.demand_tenant(tenant, READERS)
    (after,) = read_cursor(cursor, [""])

    async def query(tx: Tx) -> list[schemas.Model]:
        await get_tenant(tx, tenant)
        return [views.model(record) for record in await store.page(tx, tenant, after, limit + 1)]

    return make_page(await call.read(query), limit, lambda item: [item.name])


@router.post("", status_code=201, response_model=schemas.Model)
async def create_model(call: Authenticated, tenant: str, body: schemas.ModelCreate) -> Response:
    call.demand_tenant(tenant, WRITERS)
    key = ModelKey(tenant, body.name)

    async def act(tx: Tx) -> schemas.Model:
        return views.model(await models.create(tx, call.command, key, body.description, body.cells))

    return await call.create(act, fingerprint=fingerprint_of(body))


@router.get("/{model}", response_model=schemas.Model)
async def get_model(call: Authenticated, tenant: str, model: str) -> Response:
    call.demand_tenant(tenant, READERS)
    return call.show(views.model(await call.read(lambda tx: models.get(tx, ModelKey(tenant, model)))))


@router.patch("/{model}", response_model=schemas.Model)
async def update_model(call: Authenticated, tenant: str, model: str, body: schemas.ModelUpdate) -> Response:
    """Describe the model, pin a version, let the newest answer again, choose its cells, or set what to answer when no
    replica does.

    A pinned version that had left is placed. A default answer has the outputs of the newest version.
    """
    call.demand_tenant(tenant, WRITERS)
    key = ModelKey(tenant, model)

    async def act(tx: Tx) -> schemas.Model:
        record = await models.get(tx, key)
        call.check_match(views.model(record))
        if body.description is not None:
            await models.describe(tx, call.command, record, body.description)
        if body.serving is not None:
            pinned = models.policy_to_pinned(body.serving.policy, body.serving.version)
            await models.serve(tx, call.command, record, pinned)
        if body.cells is not None:
            await models.ask_for_cells(tx, call.command, await models.get(tx, key), body.cells)
        if "default_answer" in body.model_fields_set:
            answer = body.default_answer
            outputs = None if answer is None else answer.model_dump()["outputs"]
            await models.set_default_answer(tx, call.command, record, outputs)
        return views.model(await models.get(tx, key))

    return call.show(await call.change(act, key))


@router.delete("/{model}", status_code=204)
async def delete_model(call: Authenticated, tenant: str, model: str) -> None:
    """Gone at once for callers; replicas drain, and the memory is free when none holds a version any more."""
    call.demand_tenant(tenant, WRITERS)
    key = ModelKey(tenant, model)

    async def act(tx: Tx) -> None:
        record = await models.get(tx, key)
        call.check_match(views.model(record))
        await models.delete(tx, call.command, record)

    await call.change(act, key)


@router.put("/{model}/labels/{label}", response_model=schemas.Model)
async def set_label(
    call: Authenticated,
    tenant: str,
    model: str,
    label: str,
    *,
    body: schemas.LabelSet,
    force: Annotated[bool, Query(description="Also for a version that is not available now.")] = False,
) -> Response:
    call.demand_tenant(tenant, WRITERS)
    key = ModelKey(tenant, model)

    async def act(tx: Tx) -> schemas.Model:
        record = await models.get(tx, key)
        call.check_match(views.model(record))
        await models.set_label(tx, call.command, record, label, body.version, force=force)
        return views.model(await models.get(tx, key))

    return call.show(await call.change(act, key))


@router.delete("/{model}/labels/{label}", status_code=204)
async def remove_label(call: Authenticated, tenant: str, model: str, label: str) -> None:
    call.demand_tenant(tenant, WRITERS)
    key = ModelKey(tenant, model)

    async def act(tx: Tx) -> None:
        record = await models.get(tx, key)
        call.check_match(views.model(record))
        await models.remove_label(tx, call.command, record, label)

    await call.change(act, key)
