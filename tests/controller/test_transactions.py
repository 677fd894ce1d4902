"""Transactions on the real PostgreSQL: retries, the fleet's lock, lost connections, the order of events."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from berth.errors import Conflict, Unavailable
from controller.core.commands import START
from controller.core.events import TenantDeleted, tenant_subject
from controller.core.quota import Quota
from controller.store import events, tenants
from controller.store.address import libpq_url
from controller.store.schema import cells
from controller.store.scope import EVERY_TENANT
from controller.store.transaction import Transactions, Tx
from controller.usecases import requests

QUOTA = Quota(max_models=10, max_bytes=1000)


async def bump(tx: Tx) -> int:
    value: int = (await tx.execute(text("SELECT max_models FROM tenants WHERE name = 't'"))).scalar_one()
    await tx.execute(text("UPDATE tenants SET max_models = :value WHERE name = 't'"), {"value": value + 1})
    return value + 1


async def test_conflicting_increments_are_all_kept(transactions: Transactions) -> None:
    await transactions.run(lambda tx: tenants.add(tx, "t", replace(QUOTA, max_models=0)))
    await asyncio.gather(*(transactions.run(bump) for _ in range(12)))
    tenant = await transactions.read(lambda tx: tenants.find(tx, "t"))
    assert tenant is not None
    assert tenant.quota.max_models == 12


async def test_under_the_fleets_lock_nothing_conflicts(transactions: Transactions) -> None:
    await transactions.run(lambda tx: tenants.add(tx, "t", replace(QUOTA, max_models=0)))
    await asyncio.gather(*(transactions.run(bump, fleet=True) for _ in range(24)))
    tenant = await transactions.read(lambda tx: tenants.find(tx, "t"))
    assert tenant is not None
    assert tenant.quota.max_models == 24
    assert transactions.retries == 0


async def test_a_refused_use_case_writes_nothing(transactions: Transactions) -> None:
    async def refuse(tx: Tx) -> None:
        await tenants.add(tx, "t", QUOTA)
        tx.change_desired()
        tx.tell(START, TenantDeleted(tenant_subject("t"), {}))
        raise Conflict("no")

    await transactions.run(lambda tx: tx.execute(cells.insert().values(name="local", generation=1)))
    with pytest.raises(Conflict):
        await transactions.run(refuse, fleet=True)
    assert await transactions.read(lambda tx: tenants.find(tx, "t")) is None
    assert await transactions.read(lambda tx: events.page(tx, EVERY_TENANT, 0, 10)) == []


async def test_desired_state_changes_only_under_the_lock(transactions: Transactions) -> None:
    async def forget_the_lock(tx: Tx) -> None:
        tx.change_desired()

    with pytest.raises(AssertionError, match="only under the fleet's lock"):
        await transactions.run(forget_the_lock)


async def test_reads_cannot_write(transactions: Transactions) -> None:
    with pytest.raises(Exception, match="read-only transaction"):
        await transactions.read(lambda tx: tenants.add(tx, "t", QUOTA))


async def test_a_connection_lost_before_commit_is_made_good(transactions: Transactions, database_url: str) -> None:
    attempts = 0

    async def use_case(tx: Tx) -> int:
        nonlocal attempts
        attempts += 1
        pid = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        if attempts == 1:
            with psycopg.connect(libpq_url(database_url), autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        await tenants.add(tx, "t", QUOTA)
        return attempts

    assert await transactions.run(use_case) == 2
    assert await transactions.read(lambda tx: tenants.find(tx, "t")) is not None


async def test_connections_that_died_in_the_pool_are_replaced(transactions: Transactions, database_url: str) -> None:
    await asyncio.gather(*(transactions.ping() for _ in range(3)))
    with psycopg.connect(libpq_url(database_url), autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert await transactions.read(lambda tx: tenants.find(tx, "t")) is None
    await transactions.run(lambda tx: tenants.add(tx, "t", QUOTA))


async def test_an_absent_database_is_unavailable() -> None:
    from prometheus_client import CollectorRegistry

    transactions = Transactions("postgresql://nobody@127.0.0.1:1/none", CollectorRegistry(), patience_s=0.1)
    with pytest.raises(Unavailable):
        await transactions.ping()
    with pytest.raises(Unavailable):
        await transactions.read(lambda tx: tenants.find(tx, "t"))
    with pytest.raises(Unavailable):
        async with transactions.lead(1):
            pass
    await transactions.close()


async def test_one_leads_at_a_time(transactions: Transactions) -> None:
    async with transactions.lead(7) as first, transactions.lead(7) as second, transactions.lead(8) as other:
        assert (first, second, other) == (True, False, True)
    async with transactions.lead(7) as again:
        assert again


async def test_events_are_numbered_in_the_order_of_commits(transactions: Transactions) -> None:
    """A reader that follows by id misses none, however many write at once."""
    seen: list[int] = []
    done = asyncio.Event()

    async def follow() -> None:
        while not done.is_set() or len(seen) < 60:
            found = await transactions.read(lambda tx: events.page(tx, EVERY_TENANT, seen[-1] if seen else 0, 5))
            seen.extend(event.id for event in found)

    async def write(number: int) -> None:
        async def use_case(tx: Tx) -> None:
            tx.tell(START, TenantDeleted(tenant_subject(f"n{number}"), {}))

        await transactions.run(use_case)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        for number in range(60):
            tasks.create_task(write(number))
            if number % 10 == 0:
                await transactions.ping()
        done.set()
    assert len(seen) == 60
    assert seen == sorted(seen)


async def test_one_of_two_equal_requests_acts_and_both_get_its_answer(transactions: Transactions) -> None:
    memo = requests.RequestMemo("key-1", "again", b"f" * 32)
    both = asyncio.Barrier(2)
    names = iter(("first", "second"))

    async def act(tx: Tx) -> requests.ApiAnswer:
        name = next(names, "third")
        assert await tenants.add(tx, name, QUOTA)
        if name != "third":
            async with asyncio.timeout(5):
                await both.wait()  # neither sees the other's answer before it has acted
        return requests.ApiAnswer(201, {"name": name})

    answers = await asyncio.gather(*(transactions.run(lambda tx: requests.once(tx, memo, act)) for _ in range(2)))
    bodies: list[dict[str, Any]] = [answer.body for answer in answers]
    assert bodies[0] == bodies[1]
    assert sorted(answer.replayed for answer in answers) == [False, True]
    assert transactions.retries >= 1
    found = await transactions.read(lambda tx: tenants.page(tx, EVERY_TENANT, "", 10))
    assert [tenant.name for tenant in found] == [bodies[0]["name"]]


async def test_the_same_key_for_another_request_is_refused(transactions: Transactions) -> None:
    async def act(_: Tx) -> requests.ApiAnswer:
        return requests.ApiAnswer(201, {})

    await transactions.run(lambda tx: requests.once(tx, requests.RequestMemo("k", "x", b"1" * 32), act))
    with pytest.raises(Conflict, match="different request"):
        await transactions.run(lambda tx: requests.once(tx, requests.RequestMemo("k", "x", b"2" * 32), act))
    # Another caller's keys are their own.
    answer = await transactions.run(lambda tx: requests.once(tx, requests.RequestMemo("other", "x", b"2" * 32), act))
    assert not answer.replayed
