"""A model in several cells: a copy in each, each moved to a new version by what its own routers have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from berth.ids import VersionKey
from berth.model import ObservedReplica
from berth.states import ServableState

AVAILABLE, LOADING = ServableState.AVAILABLE, ServableState.LOADING
V1, V2 = (VersionKey("acme", "digits", number) for number in (1, 2))
MODEL = "/v1/tenants/acme/models/digits"
Replica = Callable[..., ObservedReplica]


@pytest.fixture
async def two_cells(controller: Any) -> Any:
    """A controller with a job in each of the cells `east` and `west`, both with a synchronizer, and a tenant."""
    for cell in ("east", "west"):
        await controller.job(f"{cell}-pool", cell=cell)
        await controller.lead(cell=cell)
    await controller.tenant("acme")
    return controller


async def ask_for(controller: Any, *cells: str) -> None:
    made = await controller.api.post("/v1/tenants/acme/models", json={"name": "digits", "cells": list(cells)})
    assert made.status_code == 201, made.text
    assert made.json()["cells"] == sorted(cells)


async def places(controller: Any) -> dict[tuple[int, str], bool]:
    """Version and job of each assignment, and whether it is on its way out."""
    items = (await controller.get("/v1/assignments"))["items"]
    return {(item["version"], item["job"]): item["releasing"] for item in items}


async def test_a_copy_in_each_cell_that_is_asked_for(two_cells: Any, observed_replica: Replica) -> None:
    await ask_for(two_cells, "west", "east")
    version = (await two_cells.upload("acme/digits")).json()
    assert (version["job"], version["jobs"]) == ("east-pool", ["east-pool", "west-pool"])
    for cell in ("east", "west"):
        (job,) = (await two_cells.desired(cell)).jobs
        assert [spec.ref.version for spec in job.versions] == [1]
    await two_cells.report(observed_replica("e1", (V1, AVAILABLE), job="east-pool", cell="east"), cell="east")
    seen = await two_cells.get(f"{MODEL}/versions/1")
    assert (seen["state"], seen["replicas"]["total"]) == ("available", 1)
    await two_cells.report(observed_replica("w1", (V1, LOADING), job="west-pool", cell="west"), cell="west")
    seen = await two_cells.get(f"{MODEL}/versions/1")
    assert seen["replicas"] == {"total": 2, "available": 1, "loading": 1, "failed": 0, "draining": 0}


async def test_a_cell_goes_on_with_the_old_version_until_its_own_routers_have_the_new_one(
    two_cells: Any, observed_replica: Replica
) -> None:
    await ask_for(two_cells, "east", "west")
    await two_cells.upload("acme/digits")
    for cell in ("east", "west"):
        held = observed_replica(f"{cell}-1", (V1, AVAILABLE), job=f"{cell}-pool", cell=cell)
        await two_cells.report(held, cell=cell)
    await two_cells.until(f"{MODEL}/versions/1", lambda version: version["measured_bytes"] is not None)
    await two_cells.upload("acme/digits")
    both = ((V1, AVAILABLE), (V2, AVAILABLE))
    await two_cells.report(observed_replica("east-1", *both, job="east-pool", cell="east"), cell="east")
    loading = observed_replica("west-1", (V1, AVAILABLE), (V2, LOADING), job="west-pool", cell="west")
    await two_cells.report(loading, cell="west")
    await two_cells.until(
        "/v1/assignments", lambda page: any(item["releasing"] for item in page["items"] if item["job"] == "east-pool")
    )
    assert await places(two_cells) == {
        (1, "east-pool"): True,
        (2, "east-pool"): False,
        (1, "west-pool"): False,
        (2, "west-pool"): False,
    }
    # Freed in its cell, whatever the other still holds.
    await two_cells.report(observed_replica("east-1", (V2, AVAILABLE), job="east-pool", cell="east"), cell="east")
    await two_cells.until(
        "/v1/assignments", lambda page: (1, "east-pool") not in {(one["version"], one["job"]) for one in page["items"]}
    )
    assert (1, "west-pool") in await places(two_cells)
    assert (await two_cells.get(f"{MODEL}/versions/1"))["state"] == "available"


async def test_a_model_that_moves_answers_in_its_old_cell_until_it_does_in_the_new_one(
    two_cells: Any, observed_replica: Replica
) -> None:
    await ask_for(two_cells, "east")
    await two_cells.upload("acme/digits")
    await two_cells.report(observed_replica("e1", (V1, AVAILABLE), job="east-pool", cell="east"), cell="east")
    moved = await two_cells.api.patch(MODEL, json={"cells": ["west"]})
    assert moved.status_code == 200, moved.text
    loading = observed_replica("w1", (V1, LOADING), job="west-pool", cell="west")
    await two_cells.report(loading, cell="west")
    assert await places(two_cells) == {(1, "east-pool"): False, (1, "west-pool"): False}
    await two_cells.report(observed_replica("w1", (V1, AVAILABLE), job="west-pool", cell="west"), cell="west")
    await two_cells.until("/v1/assignments", lambda page: any(item["releasing"] for item in page["items"]))
    assert await places(two_cells) == {(1, "east-pool"): True, (1, "west-pool"): False}
    await two_cells.report(cell="east")
    await two_cells.until("/v1/assignments", lambda page: len(page["items"]) == 1)
    assert (await two_cells.get(f"{MODEL}/versions/1"))["jobs"] == ["west-pool"]


async def test_a_labelled_version_leaves_its_old_cell_only_when_the_new_one_answers_for_it_too(
    two_cells: Any, observed_replica: Replica
) -> None:
    await ask_for(two_cells, "east")
    await two_cells.upload("acme/digits")
    await two_cells.report(observed_replica("e1", (V1, AVAILABLE), job="east-pool", cell="east"), cell="east")
    assert (await two_cells.api.put(f"{MODEL}/labels/stable", json={"version": 1})).status_code == 200
    await two_cells.upload("acme/digits")
    both = ((V1, AVAILABLE), (V2, AVAILABLE))
    await two_cells.report(observed_replica("e1", *both, job="east-pool", cell="east"), cell="east")
    assert (await two_cells.api.patch(MODEL, json={"cells": ["west"]})).status_code == 200
    half = observed_replica("w1", (V1, LOADING), (V2, AVAILABLE), job="west-pool", cell="west")
    await two_cells.report(half, cell="west")
    await two_cells.until("/v1/assignments", lambda page: any(item["releasing"] for item in page["items"]))
    assert {place for place, releasing in (await places(two_cells)).items() if releasing} == {(2, "east-pool")}
    await two_cells.report(observed_replica("w1", *both, job="west-pool", cell="west"), cell="west")
    await two_cells.until("/v1/assignments", lambda page: sum(item["releasing"] for item in page["items"]) == 2)


async def test_a_model_that_asks_for_no_cell_any_more_keeps_one_copy(two_cells: Any, observed_replica: Replica) -> None:
    await ask_for(two_cells, "east", "west")
    await two_cells.upload("acme/digits")
    for cell in ("east", "west"):
        held = observed_replica(f"{cell}-1", (V1, AVAILABLE), job=f"{cell}-pool", cell=cell)
        await two_cells.report(held, cell=cell)
    assert (await two_cells.api.patch(MODEL, json={"cells": []})).status_code == 200
    await two_cells.until("/v1/assignments", lambda page: any(item["releasing"] for item in page["items"]))
    assert await places(two_cells) == {(1, "east-pool"): False, (1, "west-pool"): True}
    await two_cells.report(cell="west")
    await two_cells.until("/v1/assignments", lambda page: len(page["items"]) == 1)
    await two_cells.upload("acme/digits")
    assert await places(two_cells) == {(1, "east-pool"): False, (2, "east-pool"): False}


async def test_a_deleted_version_is_kept_until_every_cell_is_rid_of_it(
    two_cells: Any, observed_replica: Replica
) -> None:
    await ask_for(two_cells, "east", "west")
    await two_cells.upload("acme/digits")
    for cell in ("east", "west"):
        held = observed_replica(f"{cell}-1", (V1, AVAILABLE), job=f"{cell}-pool", cell=cell)
        await two_cells.report(held, cell=cell)
    assert (await two_cells.api.delete(MODEL)).status_code == 204
    await two_cells.report(cell="east")
    await two_cells.until("/v1/assignments", lambda page: len(page["items"]) == 1)
    assert await places(two_cells) == {(1, "west-pool"): True}
    await two_cells.report(cell="west")
    await two_cells.until("/v1/assignments", lambda page: page["items"] == [])
    for cell in ("east", "west"):
        assert (await two_cells.get(f"/v1/jobs/{cell}-pool"))["reserved_bytes"] == 0


async def test_no_room_in_one_cell_places_nothing_in_any(two_cells: Any) -> None:
    await two_cells.tenant("other")
    await two_cells.job("theirs", cell="north", dedicated_tenant="other")
    await two_cells.lead(cell="north")
    await ask_for(two_cells, "east", "north")
    refused = await two_cells.upload("acme/digits")
    assert refused.status_code == 507, refused.text
    assert await places(two_cells) == {}
    assert (await two_cells.get(MODEL))["latest_version"] is None


async def test_a_cell_that_is_none_is_refused(two_cells: Any) -> None:
    refused = await two_cells.api.post("/v1/tenants/acme/models", json={"name": "digits", "cells": ["nowhere"]})
    assert refused.status_code == 400
    assert "nowhere" in refused.json()["detail"]
    await ask_for(two_cells, "east")
    refused = await two_cells.api.patch(MODEL, json={"cells": ["nowhere"]})
    assert refused.status_code == 400
    assert (await two_cells.get(MODEL))["cells"] == ["east"]


async def test_a_model_without_a_wish_stays_in_the_cell_where_it_is(two_cells: Any) -> None:
    await two_cells.upload("acme/digits")
    ((_, first),) = await places(two_cells)
    await two_cells.upload("acme/digits")
    assert {job for _, job in await places(two_cells)} == {first}


async def elsewhere(controller: Any, cell: str) -> dict[int, list[str]]:
    """What the desired state of a cell says of others."""
    (model,) = (await controller.desired(cell)).models
    return {entry.version: list(entry.cells) for entry in model.elsewhere}


async def test_each_cell_is_told_what_the_others_are_to_hold(two_cells: Any, observed_replica: Replica) -> None:
    await ask_for(two_cells, "east")
    await two_cells.upload("acme/digits")
    assert await elsewhere(two_cells, "west") == {1: ["east"]}
    assert await elsewhere(two_cells, "east") == {}
    await two_cells.report(observed_replica("e1", (V1, AVAILABLE), job="east-pool", cell="east"), cell="east")
    before = (await two_cells.desired("east")).generation
    assert (await two_cells.api.patch(MODEL, json={"cells": ["west"]})).status_code == 200
    # Both have it, until west answers; then east is on its way out, and not to be asked any more.
    assert await elsewhere(two_cells, "east") == {1: ["west"]}
    assert (await two_cells.desired("east")).generation > before
    assert await elsewhere(two_cells, "west") == {1: ["east"]}
    await two_cells.report(observed_replica("w1", (V1, AVAILABLE), job="west-pool", cell="west"), cell="west")
    await two_cells.until("/v1/assignments", lambda page: any(item["releasing"] for item in page["items"]))
    assert await elsewhere(two_cells, "west") == {}
    assert await elsewhere(two_cells, "east") == {1: ["west"]}
