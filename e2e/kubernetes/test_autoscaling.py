"""Berth's autoscaler sets a pool's replicas: up under load, down to none when nobody asks, and up again for the first
request, which waits in the router for its model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from e2e.conftest import Tenant, upload
from e2e.kubernetes.conftest import Serving
from e2e.kubernetes.installation import POOL
from e2e.load import failures
from e2e.models import multiplier
from e2e.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

BURSTY = "bursty"
STABILIZE_S = 10
_POOL = {
    "name": BURSTY,
    "dedicatedTenant": BURSTY,
    "serviceClass": "temporary",
    "scaling": {"mode": "berth", "minReplicas": 0, "maxReplicas": 3, "stabilizeDownSeconds": STABILIZE_S},
}


@pytest_asyncio.fixture(loop_scope="session")
async def bursty(serving: Serving) -> AsyncIterator[Tenant]:
    """A tenant with a pool of its own that Berth scales, and a model on it."""
    berth = serving.berth
    # A pool can only be dedicated to a tenant that is there.
    tenant = await asyncio.to_thread(berth.make_tenant, BURSTY)
    await berth.upgrade({"workerPools": [{"name": POOL}, _POOL]})
    await berth.in_pool(BURSTY, 1)
    # Placement prefers jobs that have replicas: a model that comes sooner goes to the shared pool.
    jobs = berth.client().jobs

    def seen() -> bool:
        return any(job.name == BURSTY and job.replicas == 1 for job in jobs.list())

    await asyncio.to_thread(until, seen, within=20, what="the pool's replica is seen")
    await asyncio.to_thread(upload, tenant, "times", multiplier(3), berth.folder)
    yield tenant
    await asyncio.to_thread(tenant.client.models.delete, "times")
    await berth.upgrade({"workerPools": [{"name": POOL}]})
    await berth.in_pool(BURSTY, 0)


async def test_to_zero_and_awake_on_the_first_request(serving: Serving, bursty: Tenant) -> None:
    berth = serving.berth
    began = time.monotonic()
    await berth.in_pool(BURSTY, 0)
    serving.note(f"asleep {time.monotonic() - began:.1f} s after the last request ({STABILIZE_S} s are asked for)")
    began = time.monotonic()
    async with berth.load(bursty, "times", rate=4) as load:
        await load.wait_for(1)
        assert failures(load.samples) == []
        serving.note(f"awake: the first answer after {time.monotonic() - began:.2f} s, from no replica at all")
        await load.wait_for(40)
        await berth.in_pool(BURSTY, 1)
    assert failures(load.samples) == []
    serving.note(f"wake-up: {len(load.samples)} requests, {len(failures(load.samples))} failed")
    await berth.in_pool(BURSTY, 0)
