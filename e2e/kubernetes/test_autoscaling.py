"""Berth's autoscaler finds how many replicas a pool needs. Its own pools are scaled by it: up under load, down to none
when nobody asks, and up again for the first request, which waits in the router for its model. Others are scaled by
Kubernetes' HPA, which asks it over the external metrics API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from berth.api import schemas
from berth.demo.load import summarize
from e2e.conftest import Tenant, upload
from e2e.kubernetes.api import Object, Refused
from e2e.kubernetes.conftest import Serving
from e2e.kubernetes.external_metrics import READER, STRANGER, external_metrics, read_as
from e2e.kubernetes.installation import POOL, RELEASE
from e2e.load import failures
from e2e.models import multiplier, slow
from e2e.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

STABILIZE_S = 10
# One run at a time, and each takes some 50 ms of a core: a replica answers about twenty requests a second.
SLOW_ROUNDS = 80_000
SLOW_RATE = 40
MOST_IN_FLIGHT = 16
_ONE_AT_A_TIME = {"BERTH_INFERENCE_THREADS": 1, "BERTH_INTRA_OP_THREADS": 1}
_SCALED_WITHIN_S = 60.0


@asynccontextmanager
async def pool_of(serving: Serving, name: str, model: bytes, pool: Object) -> AsyncIterator[Tenant]:
    """A tenant with a model on a pool of its own, all three called `name`, while the context is open."""
    berth = serving.berth
    # A pool can only be dedicated to a tenant that is there.
    tenant = await asyncio.to_thread(berth.make_tenant, name)
    await berth.upgrade({"workerPools": [{"name": POOL}, {"name": name, "dedicatedTenant": name, **pool}]})
    await berth.in_pool(name, 1)
    await berth.job_known(name)
    await asyncio.to_thread(upload, tenant, name, model, berth.folder)
    try:
        yield tenant
        await asyncio.to_thread(tenant.client.models.delete, name)
    finally:
        await berth.upgrade({"workerPools": [{"name": POOL}]})
    await berth.in_pool(name, 0)


async def test_to_zero_and_awake_on_the_first_request(serving: Serving) -> None:
    berth = serving.berth
    scaling = {"mode": "berth", "minReplicas": 0, "maxReplicas": 3, "stabilizeDownSeconds": STABILIZE_S}
    pool = {"serviceClass": "temporary", "scaling": scaling}
    async with pool_of(serving, "bursty", multiplier(3), pool) as bursty:
        began = time.monotonic()
        await berth.in_pool("bursty", 0)
        serving.note(f"asleep {time.monotonic() - began:.1f} s after the last request ({STABILIZE_S} s are asked for)")
        began = time.monotonic()
        async with berth.load(bursty, "bursty", rate=4) as load:
            await load.wait_for(1)
            assert failures(load.samples) == []
            serving.note(f"awake: the first answer after {time.monotonic() - began:.2f} s, from no replica at all")
            await load.wait_for(40)
            await berth.in_pool("bursty", 1)
        serving.check("wake-up", load)
        await berth.in_pool("bursty", 0)
        # Nobody asks: a new version has to be loaded once all the same, or its rollout would wait for ever.
        began = time.monotonic()
        await asyncio.to_thread(upload, bursty, "bursty", multiplier(5), berth.folder)
        serving.note(f"asleep: a new version is available after {time.monotonic() - began:.1f} s, without a request")
        await berth.in_pool("bursty", 0)


async def test_load_that_one_replica_cannot_carry(serving: Serving) -> None:
    scaling = {"mode": "berth", "minReplicas": 1, "maxReplicas": 3, "stabilizeDownSeconds": STABILIZE_S}
    async with pool_of(serving, "busy", slow(SLOW_ROUNDS), {"scaling": scaling, "settings": _ONE_AT_A_TIME}) as busy:
        await _up_and_down(serving, busy)


async def test_an_hpa_scales_by_the_number_of_the_autoscaler(serving: Serving) -> None:
    if serving.berth.cluster.plane is None:
        return  # needs the aggregation layer and the HPA controller, and a front proxy whose authority is ours to read
    scaling = {"mode": "external", "minReplicas": 1, "maxReplicas": 3, "stabilizeDownSeconds": STABILIZE_S}
    hpa = {"enabled": True, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}
    pool = {"scaling": scaling, "hpa": hpa, "settings": _ONE_AT_A_TIME}
    async with external_metrics(serving.berth), pool_of(serving, "followed", slow(SLOW_ROUNDS), pool) as followed:
        path = f"/apis/autoscaling/v2/namespaces/{serving.berth.namespace}/horizontalpodautoscalers"
        await _up_and_down(serving, followed)
        (value,) = await read_as(serving.berth, READER, "followed")
        assert (value["metricLabels"]["job"], value["value"]) == ("followed", "1")
        with pytest.raises(Refused, match=r"403: .*cannot list resource"):
            await read_as(serving.berth, STRANGER, "followed")
        hpa_seen = await serving.berth.api.get(f"{path}/{RELEASE}-pool-followed")
        conditions = {each["type"]: each for each in hpa_seen["status"]["conditions"]}
        assert conditions["ScalingActive"]["status"] == "True", conditions
        assert conditions["AbleToScale"]["status"] == "True", conditions
        serving.note(
            f"HPA: {conditions['ScalingActive']['reason']}, last scaled at {hpa_seen['status']['lastScaleTime']}"
        )


async def _up_and_down(serving: Serving, tenant: Tenant) -> None:
    berth, pool = serving.berth, tenant.name
    jobs = berth.client().jobs
    async with berth.load(tenant, pool, SLOW_RATE, MOST_IN_FLIGHT) as load, berth.routes(pool) as routes:
        began = time.monotonic()
        job = await asyncio.to_thread(
            until, lambda: _decided(jobs.get(pool)), within=_SCALED_WITHIN_S, what="more replicas are found right"
        )
        serving.note(f"{pool}: {job.desired_replicas} replicas decided after {time.monotonic() - began:.1f} s of load")
        serving.note(f"{pool}: because {job.desired_reason}")
        await routes.until(lambda now: len(now) >= 2, _SCALED_WITHIN_S, "a second replica is routed")
        serving.note(f"{pool}: routed after {time.monotonic() - began:.1f} s of load")
        await load.wait_for(len(load.samples) + 200)
        assert len(summarize(load.samples[-100:]).replicas) >= 2, "the new replica gets requests"
    serving.check(f"{pool}: load that one replica cannot carry", load)
    began = time.monotonic()
    await berth.in_pool(pool, 1)
    reason = (await asyncio.to_thread(jobs.get, pool)).desired_reason
    serving.note(f"{pool}: one replica {time.monotonic() - began:.1f} s after the load, because {reason}")


def _decided(job: schemas.Job) -> Any:
    return job if (job.desired_replicas or 0) > 1 else None
