"""Two cells under one controller: a model in both answers in both, and the loss of one is nothing to the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from berth.demo.load import SteadyLoad
from e2e.conftest import Tenant, upload
from e2e.kubernetes.conftest import Serving
from e2e.kubernetes.installation import POOL, Installation, joined
from e2e.load import failures
from e2e.models import multiplier

pytestmark = pytest.mark.asyncio(loop_scope="session")

NEAR, FAR = "local", "far"
RATE = 20
_POOLS = {"workerPools": [{"name": POOL, "cell": NEAR}, {"name": "far-cpu", "cell": FAR}]}
_START_LIMIT_S = 60.0


@pytest_asyncio.fixture(loop_scope="session")
async def far(serving: Serving) -> AsyncIterator[Installation]:
    """A second cell in a namespace of its own, with one worker."""
    await serving.berth.upgrade(_POOLS)
    await serving.berth.job_known("far-cpu")
    async with joined(serving.berth, "berth-far", FAR, _POOLS) as installation:
        await installation.in_pool("far-cpu", 1)
        yield installation
    await serving.berth.upgrade({"workerPools": [{"name": POOL}]})


async def test_a_lost_cell_is_nothing_to_the_other(serving: Serving, far: Installation) -> None:
    berth = serving.berth
    tenant = await asyncio.to_thread(berth.make_tenant, "everywhere")
    await asyncio.to_thread(tenant.client.models.create, "times", cells=[NEAR, FAR])
    await asyncio.to_thread(upload, tenant, "times", multiplier(1), berth.folder)
    async with far.load(tenant, "times", RATE) as load:
        await _answered_by(load, 1, within=20)
    async with berth.load(tenant, "times", RATE) as near, far.load(tenant, "times", RATE) as load:
        await near.wait_for(RATE)
        await load.wait_for(RATE)
    serving.check("two cells, near", near)
    serving.check("two cells, far", load)

    async with berth.load(tenant, "times", RATE) as near:
        await near.wait_for(RATE)
        far.lose()
        began = time.monotonic()
        await asyncio.to_thread(_upload, tenant, 2, berth.folder)
        await _answered_by(near, 2, within=20)
        serving.note(f"far cell lost: version 2 answers near after {time.monotonic() - began:.2f} s")
        await near.wait_for(len(near.samples) + RATE)
        assert {sample.version for sample in near.samples[-RATE:]} == {"2"}

        await far.dark()
        far.restore()
        began = time.monotonic()
        for component in ("synchronizer", "router"):
            await far.ready(component, 2, within=_START_LIMIT_S)
        await far.in_pool("far-cpu", 1)
        async with far.load(tenant, "times", RATE) as load:
            await _answered_by(load, 2, within=20)
            serving.note(f"far cell back: version 2 answers there {time.monotonic() - began:.2f} s after its nodes")
            caught_up = len(load.samples)
            await load.wait_for(caught_up + RATE)
        assert {sample.version for sample in load.samples[caught_up:]} == {"2"}
        assert failures(load.samples[caught_up:]) == []
    serving.check("far cell lost and back, near", near)
    await asyncio.to_thread(tenant.client.models.delete, "times")


def _upload(tenant: Tenant, factor: int, folder: Path) -> None:
    path = folder / "next.onnx"
    path.write_bytes(multiplier(factor))
    tenant.client.versions.upload("times", path)


async def _answered_by(load: SteadyLoad, version: int, within: float) -> None:
    """Wait for the first answer of a version."""
    async with asyncio.timeout(within):
        while not any(sample.version == str(version) for sample in load.samples):
            await load.wait_for(len(load.samples) + 1)
