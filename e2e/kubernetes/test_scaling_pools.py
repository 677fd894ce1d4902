"""Operators scale a pool, Berth fills it: no request fails on the way up or down."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from berth.demo.load import Sample, summarize
from e2e.kubernetes.conftest import MODEL, Serving
from e2e.load import failures
from e2e.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_kubectl_scale_under_load(serving: Serving) -> None:
    berth = serving.berth
    async with berth.load(serving.tenant, MODEL) as load, berth.routes(MODEL) as routes:
        await load.wait_for(40)
        before = {run.name for run in berth.of("worker")}
        began = time.monotonic()
        await berth.scale(6)
        names = await berth.ready("worker", 6)
        await routes.until(lambda now: now == set(names), 30, "all six are routed")
        new = [run for run in berth.of("worker") if run.name not in before]
        assert len(new) == 4
        routed = max(routes.since[run.name] for run in new)
        after_ready = [routes.since[run.name] - (run.ready_at or 0) for run in new]
        serving.note(f"scaled 2 to 6: all routed {routed - began:.2f} s after the command")
        serving.note(f"pod ready to routed: {min(after_ready):.2f} to {max(after_ready):.2f} s")
        await load.wait_for(len(load.samples) + 80)
        assert len(summarize(load.samples[-80:]).replicas) >= 5, "the new replicas get requests"
        began = time.monotonic()
        await berth.scale(2)
        names = await berth.ready("worker", 2)
        serving.note(f"scaled 6 to 2: all gone {time.monotonic() - began:.2f} s after the command")
        await load.wait_for(len(load.samples) + 40)
        assert set(routes.now) == set(names)
    _check(serving, load.samples)


async def test_berth_pool_scale_is_a_wish_that_kubernetes_fulfils(serving: Serving) -> None:
    berth = serving.berth
    admin = berth.client()
    async with berth.load(serving.tenant, MODEL) as load:
        await load.wait_for(20)
        await asyncio.to_thread(admin.jobs.update, "cpu", replicas=3)
        await berth.ready("worker", 3)
        # Fulfilled and seen to be so, it is forgotten: whoever scales the workload next is not overruled.
        forgotten = partial(until, lambda: admin.jobs.get("cpu").wished_replicas is None, within=20, what="no wish")
        await asyncio.to_thread(forgotten)
        await berth.scale(2)
        await berth.ready("worker", 2)
        await load.wait_for(len(load.samples) + 80)
        await berth.ready("worker", 2, within=1)
    _check(serving, load.samples)


def _check(serving: Serving, samples: list[Sample]) -> None:
    serving.note(f"{len(samples)} requests, {len(failures(samples))} failed")
    assert failures(samples) == []
    assert {sample.answer.outputs["product"][0, 0] for sample in samples if sample.answer} == {3.0}
