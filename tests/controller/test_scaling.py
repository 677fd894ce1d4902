"""Pools and scaling through a whole controller: API, feed, autoscaler and pools file on the real PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from berth.errors import PreconditionFailed
from berth.ids import VersionKey
from berth.model import ObservedCell, ObservedPool, ObservedReplica, ReplicaLoad, ServableLoad
from berth.states import ServableState
from berth.wire import convert
from berth.wire.v1 import desired_pb2
from controller.leadership import SoleLeadership
from controller.loops.autoscaler import Autoscaler
from controller.loops.pools_file import BadPoolsFile, PoolsFile, parse
from controller.store import loads as load_store
from controller.store.transaction import Transactions
from controller.usecases import scaling
from controller.usecases.arrivals import awaiting

Replica = Callable[..., ObservedReplica]
KEY = VersionKey("acme", "digits", 1)
NEXT = KEY._replace(version=2)
VERSION = "/v1/tenants/acme/models/digits/versions/1"
AUTO = {"mode": "berth", "min_replicas": 1, "max_replicas": 20}


async def report(
    controller: Any,
    *replicas: ObservedReplica,
    pools: tuple[ObservedPool, ...] = (),
    wanted: tuple[str, ...] = (),
) -> None:
    if not controller.epoch:
        await controller.lead()
    generation = (await controller.desired()).generation
    cell = ObservedCell("local", controller.epoch, generation, replicas, ("router-1",), pools, wanted)
    await controller.feed.ReportObserved(
        iter([convert.observed_to_wire(cell)]), metadata=controller.credential.metadata()
    )


async def asked(controller: Any, job: str = "pool") -> int | None:
    """What the cell is told to scale the job to."""
    state = convert.desired_from_wire(await controller.desired())
    return next(entry.replicas for entry in state.jobs if entry.name == job)


async def until_asked(controller: Any, replicas: int | None) -> None:
    """Wait until the cell is told so; it is told of every change."""
    request = desired_pb2.WatchDesiredRequest(cell="local")
    watch = controller.feed.WatchDesired(request, metadata=controller.credential.metadata())
    async with asyncio.timeout(20):
        async for message in watch:
            state = convert.desired_from_wire(message)
            if next(entry.replicas for entry in state.jobs if entry.name == "pool") == replicas:
                break
    watch.cancel()


class Fleet:
    """Replicas of a job whose load is told, second by second of a clock that the test moves."""

    def __init__(self, make: Replica, count: int) -> None:
        self._make = make
        self._at = itertools.count(1_700_000_000.0, 2.0)
        self.load = [ReplicaLoad() for _ in range(count)]

    def serve(self, per_second: float, latency_s: float, in_flight: int, wait_s: float = 0.0) -> list[ObservedReplica]:
        """Two seconds later, all replicas alike."""
        at = next(self._at)
        completed = round(2 * per_second)
        self.load = [
            ReplicaLoad(
                load.completed + completed,
                load.busy_s + completed * latency_s,
                load.queued_s + completed * wait_s,
            )
            for load in self.load
        ]
        found = []
        for index, load in enumerate(self.load):
            made = self._make(f"w{index}", (KEY, ServableState.AVAILABLE))
            loads = (ServableLoad(KEY, load.completed, load.busy_s),)
            status = replace(made.status, load=load, loads=loads, in_flight=in_flight)
            found.append(replace(made, status=status, seen_at=at))
        return found


async def test_a_wish_is_pushed_until_the_workload_has_it(controller: Any, observed_replica: Replica) -> None:
    await report(controller, pools=(ObservedPool("pool", "deployment/berth-pool-pool", 2, 1),))
    found = await controller.until("/v1/jobs/pool", lambda job: job["replicas"] == 2)
    assert found["observed"] == {"workload": "deployment/berth-pool-pool", "replicas": 2, "ready": 1}
    assert await asked(controller) is None

    patched = await controller.api.patch("/v1/jobs/pool", json={"replicas": 5})
    assert (patched.json()["wished_replicas"], patched.json()["replicas"]) == (5, 2)
    assert await asked(controller) == 5
    await report(controller, pools=(ObservedPool("pool", "deployment/berth-pool-pool", 5, 2),))
    # With the report, not some time after it: the next one to scale it may come at any moment.
    found = await controller.get("/v1/jobs/pool")
    assert (found["wished_replicas"], found["replicas"]) == (None, 5)
    assert await asked(controller) is None

    # Somebody else scales it: the job follows, and nothing is asked.
    await report(controller, pools=(ObservedPool("pool", "deployment/berth-pool-pool", 3, 3),))
    await controller.until("/v1/jobs/pool", lambda job: job["replicas"] == 3)
    assert await asked(controller) is None
    # A wish for what is there is no wish.
    assert (await controller.api.patch("/v1/jobs/pool", json={"replicas": 3})).json()["wished_replicas"] is None


async def test_a_change_is_not_refused_for_what_was_only_observed(controller: Any, observed_replica: Replica) -> None:
    pool = ObservedPool("pool", "deployment/p", 1, 0)
    await controller.tenant("acme")
    await report(controller, pools=(pool,))
    read = await controller.api.get("/v1/jobs/pool")
    tag = read.headers["etag"]
    # Bytes are reserved, a replica comes and gets ready, and a wish of ours comes true.
    assert (await controller.upload("acme/digits")).status_code == 201
    await report(controller, observed_replica("w0", (KEY, ServableState.AVAILABLE)), pools=(replace(pool, ready=1),))
    seen = await controller.api.get("/v1/jobs/pool", headers={"if-none-match": tag})
    assert seen.status_code == 200, "caches do not miss it"
    assert (seen.json()["observed"]["ready"], seen.json()["reserved_bytes"] > 0) == (1, True)
    wished = await controller.api.patch("/v1/jobs/pool", json={"replicas": 3}, headers={"if-match": tag})
    assert wished.status_code == 200, wished.text
    tag = wished.headers["etag"]
    await report(controller, pools=(replace(pool, replicas=3, ready=2),))
    assert (await controller.get("/v1/jobs/pool"))["wished_replicas"] is None
    auto = {"scaling": {**AUTO, "mode": "external"}}
    changed = await controller.api.patch("/v1/jobs/pool", json=auto, headers={"if-match": tag})
    assert changed.status_code == 200, changed.text
    tag = changed.headers["etag"]
    # The autoscaler's decisions and its HPA's doings are no writes of ours either.
    await controller.until("/v1/jobs/pool", lambda job: job["desired_replicas"] is not None)
    await report(controller, pools=(replace(pool, replicas=7, ready=7),))
    more = {"scaling": {"max_replicas": 30}}
    changed = await controller.api.patch("/v1/jobs/pool", json=more, headers={"if-match": tag})
    assert changed.status_code == 200, changed.text
    # What somebody has written in between is.
    late = await controller.api.patch("/v1/jobs/pool", json=more, headers={"if-match": tag})
    assert late.status_code == 412


@pytest.mark.parametrize("how", ["wish", "kubectl", "memory"])
async def test_a_change_is_refused_for_what_somebody_else_did(controller: Any, how: str) -> None:
    pool = ObservedPool("pool", "deployment/p", 2, 2)
    await report(controller, pools=(pool,))
    tag = (await controller.api.get("/v1/jobs/pool")).headers["etag"]
    if how == "kubectl":
        await report(controller, pools=(replace(pool, replicas=5),))
    else:
        change = {"replicas": 5} if how == "wish" else {"memory_per_replica": 2 << 30}
        assert (await controller.api.patch("/v1/jobs/pool", json=change)).status_code == 200
    late = await controller.api.patch("/v1/jobs/pool", json={"replicas": 4}, headers={"if-match": tag})
    assert late.status_code == 412
    assert (await controller.api.delete("/v1/jobs/pool", headers={"if-match": tag})).status_code == 412


async def test_without_a_workload_the_number_is_the_jobs_own(controller: Any) -> None:
    patched = (await controller.api.patch("/v1/jobs/pool", json={"replicas": 4})).json()
    assert (patched["replicas"], patched["wished_replicas"], patched["observed"]) == (4, None, None)
    assert await asked(controller) is None


@pytest.mark.parametrize(("mode", "owner"), [("berth", "autoscaler"), ("external", "HPA or KEDA")])
async def test_there_are_never_two_owners(controller: Any, mode: str, owner: str) -> None:
    changed = await controller.api.patch("/v1/jobs/pool", json={"scaling": {"mode": mode, "max_replicas": 7}})
    assert changed.json()["scaling"] == {
        "mode": mode,
        "min_replicas": 1,
        "max_replicas": 7,
        "target_queue_ms": 50.0,
        "stabilize_down_s": 300.0,
    }
    refused = await controller.api.patch("/v1/jobs/pool", json={"replicas": 4})
    assert refused.status_code == 409
    assert owner in refused.json()["detail"]
    both = await controller.api.patch("/v1/jobs/pool", json={"replicas": 4, "scaling": {"mode": "manual"}})
    assert (both.status_code, both.json()["replicas"]) == (200, 4)
    wrong = await controller.api.patch("/v1/jobs/pool", json={"scaling": {"min_replicas": 9}})
    assert wrong.status_code == 400


async def test_overload_is_answered_with_replicas_and_a_reason(controller: Any, observed_replica: Replica) -> None:
    """The autoscaler of the running controller, on what the cell reports."""
    fleet = Fleet(observed_replica, 2)
    pool = (ObservedPool("pool", "deployment/p", 2, 2),)
    await report(controller, *fleet.serve(50, 0.04, 2), pools=pool)
    await controller.api.patch("/v1/jobs/pool", json={"scaling": AUTO})
    assert await asked(controller) is None
    found: dict[str, Any] = {}
    async with asyncio.timeout(30), controller.listening() as committed:
        while not found or found["desired_replicas"] in (None, 2):
            for _ in range(5):
                await report(controller, *fleet.serve(200, 2.0, 500, wait_s=1.96), pools=pool)
            # Each of its looks renews its lease.
            await committed("leases")
            found = await controller.get("/v1/jobs/pool")
    assert 2 < found["desired_replicas"] <= 20
    assert "requests wait" in found["desired_reason"]
    assert found["desired_at"]
    await until_asked(controller, found["desired_replicas"])
    events = (await controller.get("/v1/events?limit=500"))["items"]
    scaled = [event for event in events if event["kind"] == "job.scaled"]
    assert (scaled[-1]["subject"], scaled[-1]["actor"]) == ("job/pool", "autoscaler")
    assert scaled[-1]["data"]["reason"] == found["desired_reason"]
    metrics = (await controller.api.get("/metrics")).text
    assert f'berth_job_desired_replicas{{job="pool"}} {float(found["desired_replicas"])}' in metrics
    assert 'berth_job_ready_replicas{job="pool"} 2.0' in metrics
    assert 'berth_job_max_replicas{job="pool"} 20.0' in metrics

    # Back to manual: nothing is asked any more.
    await controller.api.patch("/v1/jobs/pool", json={"scaling": {"mode": "manual"}})
    found = await controller.get("/v1/jobs/pool")
    assert (found["desired_replicas"], found["desired_reason"]) == (None, "")
    assert await asked(controller) is None
    async with asyncio.timeout(20), controller.listening() as committed:
        while "berth_job_max_replicas{" in (await controller.api.get("/metrics")).text:
            await committed("leases")


@pytest.fixture
def autoscaler(transactions: Transactions) -> Autoscaler:
    """One beside the controller's own, which lets go first; its clock moves two seconds a tick."""
    ticks = itertools.count(1000.0, 2.0)
    leadership = SoleLeadership(transactions, "test-autoscaler", "test")
    return Autoscaler(transactions, leadership, CollectorRegistry(), clock=lambda: next(ticks))


async def test_external_publishes_and_asks_nothing(controller: Any, observed_replica: Replica) -> None:
    fleet = Fleet(observed_replica, 1)
    pool = (ObservedPool("pool", "deployment/p", 1, 1),)
    await report(controller, *fleet.serve(50, 0.04, 2), pools=pool)
    await controller.api.patch("/v1/jobs/pool", json={"scaling": {**AUTO, "mode": "external"}})
    found = await controller.until("/v1/jobs/pool", lambda job: job["desired_replicas"] is not None)
    assert await asked(controller) is None
    assert found["replicas"] == 1
    events = (await controller.get("/v1/events?limit=500"))["items"]
    assert "job.recommended" in {event["kind"] for event in events}


async def announced(controller: Any, kind: str, count: int = 1) -> None:
    """Wait until an event was told so many times."""
    await controller.until(
        "/v1/events?limit=500", lambda page: sum(event["kind"] == kind for event in page["items"]) == count
    )


async def test_a_job_asleep_is_woken_by_requests_that_wait(start_controller: Any, observed_replica: Replica) -> None:
    controller = await start_controller()
    await controller.tenant("acme")
    await controller.job("pool", service_class="temporary", dedicated_tenant="acme", replicas=0)
    # Scaled to zero, and yet the tenant's models have their place there.
    assert (await controller.upload("acme/digits")).json()["job"] == "pool"
    await report(controller, observed_replica("w0", (KEY, ServableState.AVAILABLE)))
    await announced(controller, "version.available")
    await report(controller, pools=(ObservedPool("pool", "deployment/p", 0, 0),))
    await controller.api.patch("/v1/jobs/pool", json={"scaling": {**AUTO, "min_replicas": 0}})
    await until_asked(controller, 0)
    await report(controller, pools=(ObservedPool("pool", "deployment/p", 0, 0),), wanted=("pool",))
    await until_asked(controller, 1)
    found = await controller.get("/v1/jobs/pool")
    assert found["desired_reason"] == "requests wait for a model, and no replica runs"


async def test_a_job_asleep_is_woken_for_a_new_version(start_controller: Any, observed_replica: Replica) -> None:
    """Also where an older one answers elsewhere, so that no request ever waits for it."""
    controller = await start_controller()
    await controller.tenant("acme")
    await controller.job("shared")
    assert (await controller.upload("acme/digits")).json()["job"] == "shared"
    await controller.job("pool", service_class="temporary", dedicated_tenant="acme", replicas=0)
    scaling = {**AUTO, "min_replicas": 0, "stabilize_down_s": 0}
    await controller.api.patch("/v1/jobs/pool", json={"scaling": scaling})
    older = observed_replica("s0", (KEY, ServableState.AVAILABLE), job="shared")
    asleep, awake = (ObservedPool("pool", "deployment/p", replicas, replicas) for replicas in (0, 1))
    await report(controller, older, pools=(asleep,))
    await announced(controller, "version.available")
    await until_asked(controller, 0)

    assert (await controller.upload("acme/digits")).json()["job"] == "pool"
    await until_asked(controller, 1)
    found = await controller.get("/v1/jobs/pool")
    assert found["desired_reason"] == "a version has yet to be loaded for the first time, and no replica runs"
    newer = observed_replica("w0", (NEXT, ServableState.AVAILABLE))
    newer = replace(newer, status=replace(newer.status, in_flight=0))
    await report(controller, older, newer, pools=(awake,))
    await announced(controller, "version.available", 2)
    # It has taken over, and nobody asks for it: the older one goes, and the job sleeps again.
    await until_asked(controller, 0)
    await controller.until(VERSION, lambda version: version["state"] == "draining")
    await report(controller, pools=(asleep,))
    await controller.until(VERSION, lambda version: version["state"] == "retired")
    assert await asked(controller) == 0


async def test_a_version_is_awaited_until_it_is_known_to_work_or_not(
    start_controller: Any, transactions: Transactions, observed_replica: Replica
) -> None:
    controller = await start_controller()
    await controller.tenant("acme")
    await controller.job("pool", service_class="temporary", dedicated_tenant="acme")

    async def awaited() -> bool:
        return await transactions.read(lambda tx: awaiting(tx, ["pool"])) == {"pool"}

    async def tell(*held: tuple[VersionKey, ServableState]) -> None:
        await report(controller, *([observed_replica("w0", *held)] if held else []))

    assert not await awaited()
    await controller.upload("acme/digits")
    await tell()
    assert await awaited()
    await tell((KEY, ServableState.LOADING))
    assert await awaited()
    await tell((KEY, ServableState.AVAILABLE))
    await announced(controller, "version.available")
    assert not await awaited()
    await tell()
    assert not await awaited(), "it sleeps"

    await controller.upload("acme/digits")
    assert await awaited()
    await tell((KEY, ServableState.AVAILABLE), (NEXT, ServableState.ERROR))
    await announced(controller, "version.failed")
    assert not await awaited()
    await tell()
    assert not await awaited(), "it is not tried for ever"

    # Pinned, so the new one is not for those who name none.
    await controller.upload("acme/digits")
    assert await awaited()
    pinned = {"serving": {"policy": "pinned", "version": 1}}
    assert (await controller.api.patch("/v1/tenants/acme/models/digits", json=pinned)).status_code == 200
    assert not await awaited()
    assert await transactions.read(lambda tx: awaiting(tx, [])) == frozenset()


async def test_without_a_workload_the_autoscaler_sets_the_jobs_own_number(controller: Any) -> None:
    """`berth up`: its supervisor follows the job."""
    await report(controller)
    await controller.api.patch("/v1/jobs/pool", json={"scaling": {**AUTO, "min_replicas": 3}})
    found = await controller.until("/v1/jobs/pool", lambda job: job["replicas"] == 3)
    assert (found["desired_replicas"], found["observed"]) == (3, None)


async def test_nothing_is_decided_before_anything_is_seen(
    controller: Any, autoscaler: Autoscaler, transactions: Transactions
) -> None:
    await controller.api.patch("/v1/jobs/pool", json={"scaling": AUTO})
    await autoscaler.tick()
    assert (await controller.get("/v1/jobs/pool"))["desired_replicas"] is None


async def test_one_of_two_leads_and_the_other_takes_over(transactions: Transactions) -> None:
    first, second = (SoleLeadership(transactions, "something", name) for name in ("a", "b"))
    epoch = await first.renew()
    assert epoch is not None
    assert await second.renew() is None
    assert await first.renew() == epoch
    await first.resign()
    assert await second.renew() == epoch + 1
    assert await first.renew() is None
    # What the first still wants to write is refused, although it has not noticed yet.
    await transactions.run(second.check)
    await second.resign()
    third = SoleLeadership(transactions, "something", "c")
    assert await third.renew() == epoch + 2
    with pytest.raises(PreconditionFailed):
        await transactions.run(second.check)


async def test_a_leader_that_was_replaced_unnoticed_is_refused(transactions: Transactions) -> None:
    first = SoleLeadership(transactions, "something", "a", ttl_s=0.0)
    assert await first.renew() == 1
    assert await SoleLeadership(transactions, "something", "b").renew() == 2
    with pytest.raises(PreconditionFailed):
        await transactions.run(first.check)


async def test_loads_are_merged_until_the_replica_restarts(
    controller: Any, transactions: Transactions, observed_replica: Replica
) -> None:
    other = VersionKey("acme", "other", 1)
    made = observed_replica("w0", (KEY, ServableState.AVAILABLE), (other, ServableState.AVAILABLE))

    async def tell(incarnation: str, *loads: ServableLoad) -> dict[str, Any]:
        address = replace(made.status.address, incarnation=incarnation)
        status = replace(made.status, address=address, loads=loads, load=ReplicaLoad(9, 2.0, 1.0))
        await report(controller, replace(made, status=status))
        cells = await transactions.read(lambda tx: load_store.of_cells(tx, ["pool"]))
        (found,) = cells["local"].replicas["pool"]
        assert (found.completed, found.busy_s, found.queued_s, found.in_flight, found.serving) == (9, 2.0, 1.0, 3, True)
        assert cells["local"].age_s < 60
        return {name: tuple(counters) for name, counters in found.models.items()}

    one, two = ServableLoad(KEY, 5, 1.0), ServableLoad(other, 4, 0.5)
    assert await tell("1", one) == {KEY.servable: (5, 1.0)}
    assert await tell("1", two) == {KEY.servable: (5, 1.0), other.servable: (4, 0.5)}
    assert await tell("1") == {KEY.servable: (5, 1.0), other.servable: (4, 0.5)}
    assert await tell("2", two) == {other.servable: (4, 0.5)}


async def test_a_report_without_pools_forgets_them(controller: Any, transactions: Transactions) -> None:
    await report(
        controller, pools=(ObservedPool("pool", "deployment/p", 2, 2), ObservedPool("x", "deployment/x", 1, 0))
    )
    assert (await controller.get("/v1/jobs/pool"))["observed"]["ready"] == 2
    await report(controller)
    assert (await controller.get("/v1/jobs/pool"))["observed"] is None
    view = await transactions.read(scaling.survey)
    assert [pool for _, pool in view.jobs] == [None]


# The pools file -----------------------------------------------------------------------------------------------------


def pool_entry(job: str = "gpu", **values: Any) -> dict[str, Any]:
    return {"job": job, "runtime": "triton", "hardware": "", "memory_per_replica": "8GiB", **values}


def write(path: Path, *pools: dict[str, Any]) -> None:
    path.write_text(json.dumps({"pools": pools}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pools.json"


@pytest.fixture
def reader(transactions: Transactions, file: Path) -> PoolsFile:
    return PoolsFile(file, transactions, SoleLeadership(transactions, "test-pools", "test"), CollectorRegistry())


async def test_jobs_follow_the_file(controller: Any, reader: PoolsFile, file: Path) -> None:
    write(file, pool_entry(scaling={"mode": "berth", "max_replicas": 4}), pool_entry("cpu", runtime="onnxruntime"))
    await reader.tick()
    job = await controller.get("/v1/jobs/gpu")
    assert (job["runtime"], job["hardware"], job["memory_per_replica"]) == ("triton", "cpu", 8 << 30)
    assert (job["from_file"], job["scaling"]["mode"], job["scaling"]["max_replicas"]) == (True, "berth", 4)
    generation = (await controller.desired()).generation
    await reader.tick()
    assert (await controller.desired()).generation == generation

    write(file, pool_entry(memory_per_replica="16GiB", scaling={"mode": "manual"}))
    await reader.tick()
    job = await controller.get("/v1/jobs/gpu")
    assert (job["memory_per_replica"], job["scaling"]["mode"]) == (16 << 30, "manual")
    assert (await controller.api.get("/v1/jobs/cpu")).status_code == 404
    # What the API made is not the file's business.
    assert (await controller.get("/v1/jobs/pool"))["from_file"] is False
    kinds = [(event["kind"], event["subject"]) for event in (await controller.get("/v1/events"))["items"]]
    assert ("job.created", "job/gpu") in kinds
    assert ("job.deleted", "job/cpu") in kinds


async def test_the_api_does_not_undo_the_file(controller: Any, reader: PoolsFile, file: Path) -> None:
    write(file, pool_entry(), pool_entry("auto", scaling={"mode": "manual"}))
    await reader.tick()
    for refused in (
        await controller.api.delete("/v1/jobs/gpu"),
        await controller.api.patch("/v1/jobs/gpu", json={"memory_per_replica": 1 << 30}),
        await controller.api.patch("/v1/jobs/auto", json={"scaling": {"mode": "berth"}}),
    ):
        assert refused.status_code == 409
        assert "managed by the pools file" in refused.json()["detail"]
    # Replicas may be wished for, and scaling belongs to the API where the file does not name it.
    assert (await controller.api.patch("/v1/jobs/gpu", json={"replicas": 3})).json()["wished_replicas"] == 3
    assert (await controller.api.patch("/v1/jobs/gpu", json={"scaling": {"mode": "berth"}})).status_code == 200
    await reader.tick()
    assert (await controller.get("/v1/jobs/gpu"))["scaling"]["mode"] == "berth"


async def test_a_job_of_the_api_is_adopted(controller: Any, reader: PoolsFile, file: Path) -> None:
    write(file, pool_entry("pool", runtime="onnxruntime", memory_per_replica="2GiB"))
    await reader.tick()
    job = await controller.get("/v1/jobs/pool")
    assert (job["from_file"], job["memory_per_replica"], job["replicas"]) == (True, 2 << 30, 1)


async def test_what_is_assigned_is_kept_and_the_conflict_told_once(
    controller: Any, reader: PoolsFile, file: Path
) -> None:
    await controller.tenant("acme")
    assert (await controller.upload("acme/digits")).json()["job"] == "pool"
    write(file, pool_entry("pool", runtime="triton", memory_per_replica="1MiB"))
    reserved = (await controller.get("/v1/jobs/pool"))["reserved_bytes"]
    for _ in range(3):
        await reader.tick()
    job = await controller.get("/v1/jobs/pool")
    assert (job["runtime"], job["from_file"]) == ("onnxruntime", True)
    assert "runtime stays onnxruntime" in job["file_problem"]
    assert job["memory_per_replica"] >= reserved
    write(file)
    for _ in range(3):
        await reader.tick()
    assert "no longer in the pools file" in (await controller.get("/v1/jobs/pool"))["file_problem"]
    events = (await controller.get("/v1/events?limit=500"))["items"]
    assert [event["kind"] for event in events].count("pool.conflict") == 2


async def test_a_file_that_moves_a_bound_takes_nothing_back(controller: Any, reader: PoolsFile, file: Path) -> None:
    manual = {"mode": "manual", "max_replicas": 4}
    write(file, pool_entry(scaling=manual))
    await reader.tick()
    await controller.api.patch("/v1/jobs/gpu", json={"replicas": 3})
    write(file, pool_entry(scaling={**manual, "max_replicas": 5}))
    await reader.tick()
    job = await controller.get("/v1/jobs/gpu")
    assert (job["scaling"]["max_replicas"], job["wished_replicas"]) == (5, 3)
    write(file, pool_entry(scaling={**manual, "mode": "external"}))
    await reader.tick()
    assert (await controller.get("/v1/jobs/gpu"))["wished_replicas"] is None


async def test_a_pool_that_is_refused_no_more_is_not_counted(transactions: Transactions, file: Path) -> None:
    registry = CollectorRegistry()
    reader = PoolsFile(file, transactions, SoleLeadership(transactions, "test-pools", "test"), registry)
    write(file, pool_entry(dedicated_tenant="ghost"))
    await reader.tick()
    assert registry.get_sample_value("berth_pools_refused") == 1
    write(file)
    await reader.tick()
    assert registry.get_sample_value("berth_pools_refused") == 0


async def test_a_tenant_that_does_not_exist_refuses_one_pool_and_not_the_others(
    controller: Any, reader: PoolsFile, file: Path
) -> None:
    write(file, pool_entry(dedicated_tenant="ghost"), pool_entry("fine"))
    await reader.tick()
    assert (await controller.api.get("/v1/jobs/gpu")).status_code == 404
    assert (await controller.get("/v1/jobs/fine"))["from_file"] is True
    await controller.tenant("ghost")
    await reader.tick()
    assert (await controller.get("/v1/jobs/gpu"))["dedicated_tenant"] == "ghost"


async def test_a_file_that_is_gone_changes_nothing(controller: Any, transactions: Transactions, file: Path) -> None:
    gone = PoolsFile(file, transactions, SoleLeadership(transactions, "test-pools", "test"), CollectorRegistry())
    await gone.tick()
    assert "cannot be read" in gone.problem
    assert [job["name"] for job in (await controller.get("/v1/jobs"))["items"]] == ["pool"]


async def test_a_bad_file_changes_nothing(controller: Any, reader: PoolsFile, file: Path) -> None:
    write(file, pool_entry())
    await reader.tick()
    write(file, pool_entry(memory_per_replica="plenty"))
    await reader.tick()
    assert "pool 'gpu': memory_per_replica" in reader.problem
    assert (await controller.get("/v1/jobs/gpu"))["memory_per_replica"] == 8 << 30
    assert (await controller.get("/v1/jobs/gpu"))["from_file"] is True
    write(file, pool_entry(memory_per_replica="4GiB"))
    await reader.tick()
    assert reader.problem == ""
    assert (await controller.get("/v1/jobs/gpu"))["memory_per_replica"] == 4 << 30


async def test_two_controllers_read_the_same_file(start_controller: Any, file: Path) -> None:
    write(file, pool_entry(), pool_entry("cpu", runtime="onnxruntime"))
    first = await start_controller(pools_file=file)
    second = await start_controller(pools_file=file)
    for controller in (first, second):
        found = await controller.until("/v1/jobs", lambda page: len(page["items"]) == 2)
        assert [job["name"] for job in found["items"]] == ["cpu", "gpu"]
    events = (await first.get("/v1/events?limit=500"))["items"]
    assert [event["kind"] for event in events].count("job.created") == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "it is not JSON"),
        (b"[]", 'it is not {"pools"'),
        (b'{"pools": [], "more": 1}', 'it is not {"pools"'),
        (b'{"pools": [1]}', "pool 1: "),
        (b'{"pools": [{"memory_per_replica": "1GiB"}]}', "pool 1: job: "),
        (json.dumps({"pools": [pool_entry(job="Bad Name")]}).encode(), "pool 'Bad Name': job: "),
        (json.dumps({"pools": [pool_entry(extra=1)]}).encode(), "pool 'gpu': extra: "),
        (json.dumps({"pools": [pool_entry(memory_per_replica="1KiB")]}).encode(), "pool 'gpu': memory_per_replica: "),
        (json.dumps({"pools": [pool_entry(), pool_entry()]}).encode(), "pool 'gpu' is there twice"),
        (
            json.dumps({"pools": [pool_entry(scaling={"min_replicas": 5, "max_replicas": 2})]}).encode(),
            "pool 'gpu': scaling: Value error, min_replicas 5 is more than max_replicas 2",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(content: bytes, problem: str) -> None:
    with pytest.raises(BadPoolsFile) as caught:
        parse(content)
    assert problem in str(caught.value)
