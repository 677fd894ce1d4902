"""Operators scale a pool, Berth fills it: no request fails on the way up or down."""

from __future__ import annotations

import asyncio
import time

import pytest

from berth.demo.load import SteadyLoad, summarize
from e2e.kubernetes.conftest import MODEL, Serving

_SPREAD_WITHIN_S = 30.0

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
        # Those elsewhere are for when there is more to do: a router prefers replicas of its own zone.
        zones = {berth.zone(run) for run in berth.of("router")}
        near = {run.name for run in berth.of("worker") if berth.zone(run) in zones}
        began, routed_at = time.monotonic(), len(load.samples)
        async with asyncio.timeout(_SPREAD_WITHIN_S):
            while not near <= summarize(load.samples[routed_at:]).replicas.keys():
                await load.wait_for(len(load.samples) + 1)
        serving.note(f"all {len(near)} in routers' zones have answered {time.monotonic() - began:.2f} s later")
        began = time.monotonic()
        await berth.scale(2)
        names = await berth.ready("worker", 2)
        serving.note(f"scaled 6 to 2: all gone {time.monotonic() - began:.2f} s after the command")
        await load.wait_for(len(load.samples) + 40)
        assert set(routes.now) == set(names)
    _check(serving, "scaled 2 to 6 to 2", load)


async def test_berth_pool_scale_is_a_wish_that_kubernetes_fulfils(serving: Serving) -> None:
    berth = serving.berth
    admin = berth.client()
    async with berth.load(serving.tenant, MODEL) as load:
        await load.wait_for(20)
        await asyncio.to_thread(admin.jobs.update, "cpu", replicas=3)
        await berth.ready("worker", 3)
        # Fulfilled, it is forgotten: whoever scales the workload next is not overruled.
        await berth.scale(2)
        await berth.ready("worker", 2)
        await load.wait_for(len(load.samples) + 80)
        await berth.ready("worker", 2, within=1)
        assert (await asyncio.to_thread(admin.jobs.get, "cpu")).wished_replicas is None
    _check(serving, "berth pool scale", load)


def _check(serving: Serving, what: str, load: SteadyLoad) -> None:
    serving.check(what, load)
    assert {sample.answer.outputs["product"][0, 0] for sample in load.samples if sample.answer} == {3.0}
