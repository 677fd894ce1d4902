"""A killed PostgreSQL, two controllers, a placement race at the level of transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from berth.errors import InsufficientCapacity
from berth.ids import ModelKey
from berth.local.postgres import PostgresServer
from berth.model import Artifact, Signature
from berth.resources import HOST, Resources
from berth.states import Role, Runtime
from controller.core.commands import Caller, Command
from controller.core.intake import InspectedModel
from controller.core.jobs import NewJob
from controller.core.quota import Quota
from controller.store import artifacts, assignments, cells, jobs
from controller.store.address import libpq_url
from controller.store.scope import EVERY_TENANT
from controller.store.transaction import Transactions, Tx
from controller.usecases import tenants, versions

ADMIN = Command(Caller("admin", Role.ADMIN, None))
QUOTA = Quota(max_models=1000, max_bytes=1 << 40)
ARTIFACT = Artifact("a" * 64, 1_100_000)
JOB = NewJob("local", Runtime.ONNXRUNTIME, "cpu", 1, 1 << 30)


async def test_nothing_acknowledged_is_lost_when_postgresql_is_killed(tmp_path: Path, start_controller: Any) -> None:
    server = PostgresServer(tmp_path / "pg")
    await asyncio.to_thread(server.start)
    try:
        controller = await start_controller(database_url=server.url, database_patience_s=15)
        await controller.job("pool")
        await controller.lead()
        watching = controller.feed.WatchDesired(_watch(), metadata=controller.credential.metadata())
        state = await watching.read()
        acknowledged = []
        for turn in range(2):
            for number in range(5):
                answer = await controller.api.post("/v1/tenants", json={"name": f"t{turn}-{number}"})
                assert answer.status_code == 201
                acknowledged.append(answer.json()["name"])
            assert server.pid is not None
            process = psutil.Process(server.pid)
            process.kill()
            process.wait(10)
            # Asked while it is away, and answered when it is back.
            late = asyncio.create_task(controller.api.post("/v1/tenants", json={"name": f"late-{turn}"}))
            assert (await controller.api.get("/readyz")).status_code == 503
            await asyncio.to_thread(server.start)
            assert (await late).status_code == 201
            acknowledged.append(f"late-{turn}")
        found = [tenant["name"] for tenant in (await controller.get("/v1/tenants?limit=500"))["items"]]
        assert set(acknowledged) <= set(found)
        # Watchers were never cut off, and LISTEN is back.
        async with asyncio.timeout(15):
            while len(state.limits) < len(found):
                state = await watching.read()
        watching.cancel()
        await controller.stop()
    finally:
        await asyncio.to_thread(server.stop)


def _watch() -> Any:
    from berth.wire.v1 import desired_pb2

    return desired_pb2.WatchDesiredRequest(cell="local")


@pytest.fixture
async def pools(database_url: str) -> AsyncIterator[list[Transactions]]:
    """The connections of two controllers."""
    pools = [Transactions(database_url, CollectorRegistry()) for _ in range(2)]
    yield pools
    for pool in pools:
        await pool.close()


async def test_placements_of_two_controllers_never_over_commit(pools: list[Transactions]) -> None:
    """Eight writers in two pools, as of two controllers, into two jobs with room for 6 + 4 of 24 versions."""
    size = await _prepare(pools[0], 6, 4)

    async def write(writer: int) -> int:
        placed = 0
        for turn in range(3):
            try:
                await _place(pools[writer % 2], f"m{writer}-{turn}")
            except InsufficientCapacity:
                continue
            placed += 1
        return placed

    placed = sum(await asyncio.gather(*(write(writer) for writer in range(8))))
    fleet = await pools[0].read(jobs.every)
    held = await pools[0].read(lambda tx: assignments.page(tx, EVERY_TENANT, ("", "", 0, ""), 100))
    assert placed == len(held) == 10
    for job in fleet:
        on_it = [entry.reserved for entry in held if entry.job == job.name]
        assert job.reserved == sum(on_it, start=Resources())
        assert job.reserved.fits_in(job.capacity)
        assert job.capacity[HOST] - size < job.reserved[HOST]
    # The lock makes writers wait for each other instead of failing.
    assert sum(pool.retries for pool in pools) == 0


async def test_the_database_itself_refuses_to_over_commit(transactions: Transactions, database_url: str) -> None:
    await _prepare(transactions, 1, 1)
    with (
        psycopg.connect(libpq_url(database_url), autocommit=True) as connection,
        pytest.raises(psycopg.errors.CheckViolation, match="ck_jobs_no_over_commit"),
    ):
        connection.execute("UPDATE jobs SET reserved_bytes = memory_per_replica + 1")


async def _prepare(transactions: Transactions, first: int, second: int) -> int:
    """A tenant, and two jobs with room for that many versions; returns the size of one."""
    from berth.footprint import estimate

    size = estimate(1_000_000, 1_100_000)

    async def use_case(tx: Tx) -> None:
        await tenants.create(tx, ADMIN, "acme", QUOTA)
        await cells.ensure(tx, "local")
        for name, room in (("first", first), ("second", second)):
            await jobs.add(tx, name, replace(JOB, memory_per_replica=room * size + size // 2))
        await artifacts.touch(tx, ARTIFACT.sha256, ARTIFACT.size_bytes)

    await transactions.run(use_case, fleet=True)
    return size


async def _place(transactions: Transactions, model: str) -> None:
    inspected = InspectedModel(Signature((), ()), 1_000_000)
    key = ModelKey("acme", model)
    await transactions.run(lambda tx: versions.accept(tx, ADMIN, key, ARTIFACT, inspected), fleet=True)
