"""What a row says of memory by device, whichever release wrote it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.resources import HOST, Resources
from berth.states import ArtifactFormat, Runtime
from controller.core.jobs import JobChange, NewJob
from controller.core.placement import Need, Placed, place
from controller.store import cells, jobs
from controller.store.address import libpq_url
from controller.store.amounts import amount, document
from controller.store.transaction import Transactions, Tx

sizes = st.integers(0, 1 << 50)


@pytest.mark.parametrize(
    ("host_bytes", "stored", "said"),
    [
        pytest.param(7, {HOST: 7}, Resources.host(7), id="both agree"),
        pytest.param(7, None, Resources.host(7), id="the release before made the row"),
        pytest.param(9, {HOST: 7}, Resources.host(9), id="the release before reserved more"),
        pytest.param(5, {HOST: 7}, Resources.host(5), id="the release before freed some"),
        pytest.param(0, {HOST: 7}, Resources(), id="the release before freed all"),
        pytest.param(7, {HOST: 7, "gpu": 3}, Resources.of({HOST: 7, "gpu": 3}), id="another device"),
        pytest.param(9, {"gpu": 3}, Resources.of({HOST: 9, "gpu": 3}), id="another device, which alone was written"),
    ],
)
def test_what_a_row_says(host_bytes: int, stored: dict[str, int] | None, said: Resources) -> None:
    assert amount(host_bytes, stored) == said


@given(st.dictionaries(st.sampled_from([HOST, "gpu"]), sizes).map(Resources.of), sizes)
def test_the_bytes_of_the_host_are_what_every_release_keeps(written: Resources, later: int) -> None:
    assert amount(written[HOST], document(written)) == written
    read = amount(later, document(written))
    assert read[HOST] == later
    assert read["gpu"] == written["gpu"]


# In the database, beside controllers of the release before, which write the bytes of the host alone


ADD_BEFORE = (
    "INSERT INTO jobs (name, cell, runtime, hardware, replicas, memory_per_replica, service_class) "
    "VALUES ('old', 'local', 'onnxruntime', 'cpu', 1, 1000, 'prod')"
)
RESERVE_BEFORE = "UPDATE jobs SET reserved_bytes = reserved_bytes + %s WHERE name = %s"
GPU = Resources.of({HOST: 100, "gpu": 40})


@pytest.fixture
async def before(transactions: Transactions, database_url: str) -> AsyncIterator[psycopg.Connection[Any]]:
    """What the release before has a connection to: a job of ours, `new`, and one of its own, `old`."""

    async def ours(tx: Tx) -> None:
        await cells.ensure(tx, "local")
        await jobs.add(tx, "new", NewJob("local", Runtime.ONNXRUNTIME, "cpu", 1, 1000))

    await transactions.run(ours, fleet=True)
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        connection.execute(ADD_BEFORE)
        yield connection


async def reserved(transactions: Transactions, job: str) -> Resources:
    found = await transactions.read(lambda tx: jobs.find(tx, job))
    assert found is not None
    return found.reserved


@pytest.mark.parametrize("job", ["new", "old"])
async def test_both_releases_reserve_and_free(
    transactions: Transactions, before: psycopg.Connection[Any], job: str
) -> None:
    await transactions.run(lambda tx: jobs.reserve(tx, job, GPU), fleet=True)
    assert await reserved(transactions, job) == GPU
    before.execute(RESERVE_BEFORE, [50, job])
    assert await reserved(transactions, job) == Resources.of({HOST: 150, "gpu": 40})
    await transactions.run(lambda tx: jobs.reserve(tx, job, Resources.host(10)), fleet=True)
    (row,) = before.execute("SELECT reserved_bytes, reserved FROM jobs WHERE name = %s", [job]).fetchall()
    assert row == (160, {"host": 160, "gpu": 40}), "what the release before left behind is made good"
    await transactions.run(lambda tx: jobs.free(tx, job, GPU), fleet=True)
    assert await reserved(transactions, job) == Resources.host(60)
    before.execute(RESERVE_BEFORE, [-60, job])
    assert await reserved(transactions, job) == Resources()


async def test_the_memory_of_a_job_is_changed_by_both(
    transactions: Transactions, before: psycopg.Connection[Any]
) -> None:
    async def capacities() -> dict[str, Resources]:
        return {job.name: job.capacity for job in await transactions.read(jobs.rooms)}

    assert await capacities() == {"new": Resources.host(1000), "old": Resources.host(1000)}
    before.execute("UPDATE jobs SET capacity = capacity || '{\"gpu\": 40}' WHERE name = 'new'")
    before.execute("UPDATE jobs SET memory_per_replica = 800")
    assert await capacities() == {"new": Resources.of({HOST: 800, "gpu": 40}), "old": Resources.host(800)}
    for job in ("new", "old"):
        change = JobChange(memory_per_replica=900)
        await transactions.run(lambda tx, job=job, change=change: jobs.change(tx, job, change), fleet=True)  # type: ignore[misc]
    assert await capacities() == {"new": Resources.of({HOST: 900, "gpu": 40}), "old": Resources.host(900)}


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_places_what_nothing_is_over_committed(
    transactions: Transactions, before: psycopg.Connection[Any], seed: int
) -> None:
    rng = random.Random(seed)
    before.execute("UPDATE jobs SET capacity = capacity || '{\"gpu\": 300}' WHERE name = 'new'")
    placed: list[tuple[str, Resources]] = []
    for _ in range(40):
        wanted = Resources.of({HOST: rng.randint(1, 300), "gpu": rng.choice((0, 0, 90))})
        if placed and rng.random() < 0.3:
            job, wanted = placed.pop(rng.randrange(len(placed)))
            if wanted["gpu"] or rng.random() < 0.5:
                await transactions.run(lambda tx, job=job, wanted=wanted: jobs.free(tx, job, wanted), fleet=True)  # type: ignore[misc]
            else:
                before.execute(RESERVE_BEFORE, [-wanted[HOST], job])
        elif rng.random() < 0.5:
            need = Need("acme", wanted, ArtifactFormat.ONNX)
            answer = place(await transactions.read(jobs.rooms), need)
            if isinstance(answer, Placed):
                job = answer.job.name
                await transactions.run(lambda tx, job=job, wanted=wanted: jobs.reserve(tx, job, wanted), fleet=True)  # type: ignore[misc]
                placed.append((job, wanted))
        else:
            # The release before looks at bytes alone.
            row = before.execute(
                "SELECT name FROM jobs WHERE memory_per_replica - reserved_bytes >= %s ORDER BY name", [wanted[HOST]]
            ).fetchone()
            if row is not None:
                before.execute(RESERVE_BEFORE, [wanted[HOST], row[0]])
                placed.append((row[0], Resources.host(wanted[HOST])))
        for room in await transactions.read(jobs.rooms):
            assert room.reserved == sum((size for job, size in placed if job == room.name), start=Resources())
            assert room.reserved.fits_in(room.capacity)
