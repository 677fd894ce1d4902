"""From upload to release, with a scripted synchronizer on the real feed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from berth.ids import VersionKey
from berth.model import ObservedReplica
from berth.states import ServableState

Replica = Callable[..., ObservedReplica]
AVAILABLE, LOADING, ERROR, DRAINING = (
    ServableState.AVAILABLE,
    ServableState.LOADING,
    ServableState.ERROR,
    ServableState.DRAINING,
)
V1, V2, V3 = (VersionKey("acme", "digits", number) for number in (1, 2, 3))
MODEL = "/v1/tenants/acme/models/digits"


async def serve(controller: Any, observed_replica: Replica) -> None:
    """Version 1 is available, and what it takes was measured."""
    await controller.tenant("acme")
    await controller.upload("acme/digits")
    await controller.lead()
    await controller.report(observed_replica("w1", (V1, AVAILABLE)))
    await controller.until(f"{MODEL}/versions/1", lambda version: version["measured_bytes"] is not None)


async def succeed(controller: Any, observed_replica: Replica) -> None:
    """Version 1 is available, and version 2 has been uploaded."""
    await serve(controller, observed_replica)
    await controller.upload("acme/digits")


async def test_states_are_told_as_replicas_report_them(controller: Any, observed_replica: Replica) -> None:
    await controller.tenant("acme")
    await controller.upload("acme/digits")
    await controller.lead()
    path = f"{MODEL}/versions/1"
    assert (await controller.get(path))["state"] == "pending"
    await controller.report(observed_replica("w1", (V1, LOADING)))
    assert (await controller.get(path))["state"] == "loading"
    await controller.report(observed_replica("w1", (V1, AVAILABLE), routed=False))
    assert (await controller.get(path))["state"] == "loading"
    await controller.report(observed_replica("w1", (V1, AVAILABLE)))
    version = await controller.get(path)
    assert (version["state"], version["measured_bytes"]) == ("available", 200_000)
    assert version["replicas"] == {"total": 1, "available": 1, "loading": 0, "failed": 0, "draining": 0}
    await controller.report(observed_replica("w1", (V1, ERROR), reason="out of memory"))
    version = await controller.get(path)
    assert version["state"] == "failed"
    assert "out of memory" in version["reason"]
    events = await controller.until(
        "/v1/tenants/acme/events", lambda page: page["items"][-1]["kind"] == "version.failed"
    )
    kinds = [event["kind"] for event in events["items"] if event["actor"] == "controller"]
    assert kinds == ["version.available", "version.failed"]


async def test_the_predecessor_leaves_after_the_target_is_routed_and_its_bytes_are_freed(
    controller: Any, observed_replica: Replica
) -> None:
    await succeed(controller, observed_replica)
    await controller.report(observed_replica("w1", (V1, AVAILABLE), (V2, LOADING)))
    assert [held["releasing"] for held in (await controller.get("/v1/assignments"))["items"]] == [False, False]

    await controller.report(observed_replica("w1", (V1, AVAILABLE), (V2, AVAILABLE)))
    await controller.until(f"{MODEL}/versions/1", lambda version: version["state"] == "draining")
    state = await controller.desired()
    assert [spec.ref.version for spec in state.jobs[0].versions] == [2]

    # Not freed while a replica holds it, nor by a report that has not acted on the release.
    await controller.report(observed_replica("w1", (V1, DRAINING), (V2, AVAILABLE)))
    await controller.report(observed_replica("w1", (V2, AVAILABLE)), generation=state.generation - 1)
    assert len((await controller.get("/v1/assignments"))["items"]) == 2

    await controller.report(observed_replica("w1", (V2, AVAILABLE)))
    retired = await controller.until(f"{MODEL}/versions/1", lambda version: version["state"] == "retired")
    assert retired["job"] is None
    (left,) = (await controller.get("/v1/assignments"))["items"]
    assert (await controller.get("/v1/jobs/pool"))["reserved_bytes"] == left["reserved_bytes"]


async def test_a_broken_target_never_takes_the_working_version_away(controller: Any, observed_replica: Replica) -> None:
    await succeed(controller, observed_replica)
    await controller.report(observed_replica("w1", (V1, AVAILABLE), (V2, ERROR), reason="no"))
    await controller.until("/v1/tenants/acme/events", lambda page: page["items"][-1]["kind"] == "version.failed")
    assert not any(held["releasing"] for held in (await controller.get("/v1/assignments"))["items"])


async def test_a_version_that_failed_everywhere_frees_its_bytes_for_the_next(
    controller: Any, observed_replica: Replica
) -> None:
    await succeed(controller, observed_replica)
    await controller.report(observed_replica("w1", (V1, AVAILABLE), (V2, ERROR), reason="no"))
    await controller.upload("acme/digits")
    await controller.report(observed_replica("w1", (V1, AVAILABLE), (V2, ERROR), (V3, LOADING), reason="no"))
    held = await controller.until(
        "/v1/assignments", lambda page: any(assignment["releasing"] for assignment in page["items"])
    )
    assert {item["version"]: item["releasing"] for item in held["items"]} == {1: False, 2: True, 3: False}


async def test_pinning_a_retired_version_places_it_again(controller: Any, observed_replica: Replica) -> None:
    await succeed(controller, observed_replica)
    await controller.report(observed_replica("w1", (V1, AVAILABLE), (V2, AVAILABLE)))
    await controller.until(f"{MODEL}/versions/1", lambda version: version["state"] == "draining")
    await controller.report(observed_replica("w1", (V2, AVAILABLE)))
    await controller.until(f"{MODEL}/versions/1", lambda version: version["state"] == "retired")

    # As little as there can be, and less is left than was measured.
    await controller.api.patch("/v1/jobs/pool", json={"memory_per_replica": 1 << 20})
    fillers = [(await controller.upload(f"acme/filler{number}")).status_code for number in range(12)]
    assert fillers[-1] == 507
    pin = {"serving": {"policy": "pinned", "version": 1}}
    refused = await controller.api.patch(MODEL, json=pin)
    assert refused.status_code == 507
    assert (await controller.get(MODEL))["serving"]["policy"] == "latest"
    await controller.api.patch("/v1/jobs/pool", json={"memory_per_replica": 1 << 30})
    pinned = await controller.api.patch(MODEL, json=pin)
    assert pinned.json()["serving"] == {"policy": "pinned", "version": 1}
    assert pinned.json()["serves"] == {"versions": [{"version": 1, "weight": 1}], "labels": {}}
    assert (await controller.get(f"{MODEL}/versions/1"))["state"] == "pending"
    state = await controller.desired()
    assert {entry.model: entry.target for entry in state.models}["digits"] == 1
    # A version that nothing wants is kept unassigned.
    third = await controller.upload("acme/digits")
    assert (third.json()["state"], third.json()["job"]) == ("retired", None)
    for version in ({"policy": "pinned", "version": 9}, {"policy": "pinned"}, {"policy": "latest", "version": 1}):
        assert (await controller.api.patch(MODEL, json={"serving": version})).status_code == 400
    unpinned = await controller.api.patch(MODEL, json={"serving": {"policy": "latest"}})
    assert unpinned.json()["serving"]["policy"] == "latest"
    assert (await controller.get(f"{MODEL}/versions/3"))["job"] == "pool"


async def test_labels_promise_that_the_version_answers(controller: Any, observed_replica: Replica) -> None:
    await controller.tenant("acme")
    await controller.upload("acme/digits")
    await controller.lead()
    label = f"{MODEL}/labels/stable"
    early = await controller.api.put(label, json={"version": 1})
    assert early.status_code == 409
    assert "force" in early.json()["detail"]
    await controller.report(observed_replica("w1", (V1, AVAILABLE)))
    assert (await controller.api.put(label, json={"version": 1})).json()["labels"] == {"stable": 1}
    assert (await controller.api.put(f"{MODEL}/labels/7", json={"version": 1})).status_code == 400
    assert (await controller.api.put(label, json={"version": 5})).status_code == 400
    state = await controller.desired()
    assert dict(state.models[0].labels) == {"stable": 1}

    await controller.upload("acme/digits")
    forced = await controller.api.put(f"{MODEL}/labels/next?force=true", json={"version": 2})
    assert forced.json()["labels"] == {"stable": 1, "next": 2}
    # Labelled versions stay, although another one answers by default.
    await controller.report(observed_replica("w1", (V1, AVAILABLE), (V2, AVAILABLE)))
    await controller.until("/v1/tenants/acme/events", lambda page: page["items"][-1]["kind"] == "version.available")
    assert not any(held["releasing"] for held in (await controller.get("/v1/assignments"))["items"])
    kept = await controller.api.delete(f"{MODEL}/versions/1")
    assert (kept.status_code, kept.json()["labels"]) == (409, ["stable"])
    assert (await controller.api.delete(label)).status_code == 204
    assert (await controller.api.delete(label)).status_code == 404


async def test_a_deleted_model_drains_and_its_name_starts_with_new_numbers(
    controller: Any, observed_replica: Replica
) -> None:
    await controller.tenant("acme")
    await controller.upload("acme/digits")
    await controller.lead()
    await controller.report(observed_replica("w1", (V1, AVAILABLE)))
    assert (await controller.api.delete(MODEL)).status_code == 204
    assert (await controller.api.get(MODEL)).status_code == 404
    assert (await controller.desired()).jobs[0].versions == []
    assert (await controller.api.delete("/v1/tenants/acme")).status_code == 409

    again = await controller.upload("acme/digits")
    assert again.json()["version"] == 2
    await controller.report(observed_replica("w1", (V1, DRAINING), (V2, LOADING)))
    assert len((await controller.get("/v1/assignments"))["items"]) == 2
    await controller.report(observed_replica("w1", (V2, AVAILABLE)))
    left = await controller.until("/v1/assignments", lambda page: len(page["items"]) == 1)
    assert left["items"][0]["version"] == 2
    assert [entry["version"] for entry in (await controller.get(f"{MODEL}/versions"))["items"]] == [2]


async def test_a_deleted_newest_version_makes_way_for_the_one_before(
    controller: Any, observed_replica: Replica
) -> None:
    await succeed(controller, observed_replica)
    await controller.report(observed_replica("w1", (V1, AVAILABLE), (V2, AVAILABLE)))
    await controller.until(f"{MODEL}/versions/1", lambda version: version["state"] == "draining")
    assert (await controller.api.delete(f"{MODEL}/versions/2")).status_code == 204
    assert (await controller.api.get(f"{MODEL}/versions/2")).status_code == 404
    # Wanted again before it had left.
    await controller.until(f"{MODEL}/versions/1", lambda version: version["state"] == "available")
    state = await controller.desired()
    assert [spec.ref.version for spec in state.jobs[0].versions] == [1]
    assert state.models[0].target == 1


async def test_lost_observations_free_nothing(controller: Any, observed_replica: Replica, database_url: str) -> None:
    """Unlogged tables are empty after a crash of PostgreSQL: silence must not look like an empty cell."""
    import psycopg

    from controller.store.address import libpq_url

    await serve(controller, observed_replica)
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        connection.execute("TRUNCATE observed_cells, observed_replicas, observed_servables")
    await controller.api.delete(MODEL)
    await controller.upload("acme/other")
    assert len((await controller.get("/v1/assignments"))["items"]) == 2
    await controller.lead()
    await controller.report()
    await controller.until("/v1/assignments", lambda page: len(page["items"]) == 1)


async def test_replicas_are_shown_as_reported(controller: Any, observed_replica: Replica) -> None:
    await controller.lead()
    await controller.report(observed_replica("w1", (V1, AVAILABLE)), observed_replica("w2"))
    replicas = (await controller.get("/v1/replicas"))["items"]
    assert [entry["name"] for entry in replicas] == ["w1", "w2"]
    assert replicas[0]["servables"][0]["routed"] is True
    assert (await controller.get("/v1/replicas?limit=1"))["next_cursor"]
    await controller.report(observed_replica("w2"))
    assert [entry["name"] for entry in (await controller.get("/v1/replicas"))["items"]] == ["w2"]


async def test_eight_writers_never_over_commit(controller: Any) -> None:
    """Uploads race for two nearly full jobs through the whole API."""
    await controller.tenant("acme")
    size = (await controller.upload("acme/probe")).json()["estimated_bytes"]
    assert (await controller.api.delete("/v1/tenants/acme/models/probe")).status_code == 204
    room = {"pool": 5, "second": 3}
    await controller.job("second", memory_per_replica=max(room["second"] * size + size // 2, 1 << 20))
    # The deleted probe still has its bytes: no synchronizer has let go of it.
    room_pool = max((room["pool"] + 1) * size + size // 2, 1 << 20)
    assert (await controller.api.patch("/v1/jobs/pool", json={"memory_per_replica": room_pool})).status_code == 200

    async def writer(number: int) -> list[int]:
        return [(await controller.upload(f"acme/m{number}-{turn}")).status_code for turn in range(3)]

    codes = [code for group in await asyncio.gather(*(writer(number) for number in range(8))) for code in group]
    jobs = {job["name"]: job for job in (await controller.get("/v1/jobs"))["items"]}
    assigned = (await controller.get("/v1/assignments?limit=500"))["items"]
    for name, job in jobs.items():
        reserved = sum(entry["reserved_bytes"] for entry in assigned if entry["job"] == name)
        assert reserved == job["reserved_bytes"] <= job["memory_per_replica"]
        assert job["memory_per_replica"] - reserved < size, "room was left while writers were refused"
    assert set(codes) == {201, 507}
    assert codes.count(201) == len(assigned) - 1
