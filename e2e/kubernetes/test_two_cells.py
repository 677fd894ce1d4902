"""Two cells under one controller: a model in both answers in both, the loss of one is nothing to the other, and what
one cell's routers cannot answer those of the other do."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from berth.demo.load import LoadSample, SteadyLoad
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
_UNREACHED = ("could be reached, here or in another cell", "lost before it answered")


@asynccontextmanager
async def second_cell(serving: Serving, namespace: str, changes: Mapping[str, Any]) -> AsyncIterator[Installation]:
    """A second cell in a namespace of its own, with one worker."""
    await serving.berth.upgrade(_POOLS)
    await serving.berth.job_known("far-cpu")
    async with joined(serving.berth, namespace, FAR, {**_POOLS, **changes}) as installation:
        await installation.in_pool("far-cpu", 1)
        yield installation
    await serving.berth.upgrade({"workerPools": [{"name": POOL}]})


@pytest_asyncio.fixture(loop_scope="session")
async def far(serving: Serving) -> AsyncIterator[Installation]:
    """A cell that knows of no other's routers."""
    async with second_cell(serving, "berth-far", {}) as installation:
        yield installation


@pytest_asyncio.fixture(loop_scope="session")
async def leaning(serving: Serving) -> AsyncIterator[Installation]:
    """A cell that passes on to the first what it cannot answer."""
    host = serving.berth.service("router")
    cells = [{"cell": NEAR, "rest": f"{host}:8000", "grpc": f"{host}:8001"}]
    async with second_cell(serving, f"berth-{secrets.token_hex(3)}", {"otherCells": cells}) as installation:
        yield installation


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
        await far.lose()
        began = time.monotonic()
        await asyncio.to_thread(_upload, tenant, 2, berth.folder)
        await _answered_by(near, 2, within=20)
        serving.note(f"far cell lost: version 2 answers near after {time.monotonic() - began:.2f} s")
        await _answered_only_by(near, 2, within=20)

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
            await _answered_only_by(load, 2, within=20)
        assert failures(load.samples[caught_up:]) == []
    serving.check("far cell lost and back, near", near)
    await asyncio.to_thread(tenant.client.models.delete, "times")


async def test_a_cell_without_workers_is_answered_for(serving: Serving, leaning: Installation) -> None:
    berth = serving.berth
    tenant = await asyncio.to_thread(berth.make_tenant, "leaning")
    await asyncio.to_thread(tenant.client.models.create, "times", cells=[NEAR, FAR])
    await asyncio.to_thread(upload, tenant, "times", multiplier(1), berth.folder)
    own, others = ({run.name for run in cell.of("worker")} for cell in (leaning, berth))
    async with leaning.load(tenant, "times", RATE) as load:
        await _until(load, lambda sample: _replica(sample) in own)
        for run in leaning.of("worker"):
            run.kill()
        began = time.monotonic()
        await leaning.scale(0, "far-cpu")
        await _until(load, lambda sample: _replica(sample) in others)
        serving.note(f"all workers of a cell killed: another cell answers after {time.monotonic() - began:.2f} s")
        await leaning.in_pool("far-cpu", 0)
        settled = len(load.samples)
        await load.wait_for(settled + 2 * RATE)
        assert {_replica(sample) for sample in load.samples[settled:]} <= others
        await leaning.scale(1, "far-cpu")
        await leaning.in_pool("far-cpu", 1)
        (worker,) = leaning.of("worker")
        await _until(load, lambda sample: _replica(sample) == worker.name)
        back = len(load.samples)
        await load.wait_for(back + RATE)
        assert {_replica(sample) for sample in load.samples[back:]} == {worker.name}
    serving.check("all workers of a cell lost and back, at its routers", load)
    await asyncio.to_thread(tenant.client.models.delete, "times")


async def test_a_model_of_one_cell_is_answered_in_both(serving: Serving, leaning: Installation) -> None:
    berth = serving.berth
    tenant = await asyncio.to_thread(berth.make_tenant, "onesided")
    await asyncio.to_thread(tenant.client.models.create, "alone", cells=[NEAR])
    await asyncio.to_thread(upload, tenant, "alone", multiplier(3), berth.folder)
    async with leaning.load(tenant, "alone", RATE) as load:
        await load.wait_for(3 * RATE)
    serving.check("a model of the other cell alone", load)

    url = f"http://{leaning.service('router')}:8000/v2/models/alone"
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with httpx.AsyncClient(headers=headers) as client:
        assert (await client.get(url)).json()["versions"] == ["1"]
        assert (await client.get(f"{url}/ready")).status_code == 200
        refused = await client.get(url, headers={"berth-passed-on": "anybody"})
        assert (refused.status_code, refused.json()) == (404, {"error": "model 'alone' serves no version"})

    async with leaning.load(tenant, "alone", RATE) as load:
        await load.wait_for(RATE)
        routers = {run.uid: run.pids["router"] for run in berth.of("router")}
        for pid in routers.values():
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        await _until(load, lambda sample: bool(sample.error))
        killed = len(load.samples)
        await _until(load, lambda sample: not sample.error, after=killed, within=60)
        serving.note(f"routers of the other cell killed: answered again after {time.monotonic() - began:.2f} s")
        await berth.ready("router", len(routers))
        back = len(load.samples)
        await load.wait_for(back + 2 * RATE)
        assert failures(load.samples[back:]) == []
    away = [sample for sample in load.samples if sample.error]
    serving.note(
        f"meanwhile {len(away)} of {len(load.samples)} requests failed, each within "
        f"{max(sample.latency_s for sample in away):.2f} s"
    )
    for sample in away:
        assert sample.error.startswith(("status 503: ", "UNAVAILABLE: ")), sample.error
        assert any(text in sample.error for text in _UNREACHED), sample.error
    await asyncio.to_thread(tenant.client.models.delete, "alone")


def _upload(tenant: Tenant, factor: int, folder: Path) -> None:
    path = folder / "next.onnx"
    path.write_bytes(multiplier(factor))
    tenant.client.versions.upload("times", path)


def _replica(sample: LoadSample) -> str:
    return "" if sample.answer is None else sample.answer.replica


async def _until(
    load: SteadyLoad, found: Callable[[LoadSample], bool], after: int | None = None, within: float = 20
) -> None:
    """Wait for a request that ends from now on (or `after` so many) and is so."""
    at = len(load.samples) if after is None else after
    async with asyncio.timeout(within):
        while not any(map(found, load.samples[at:])):
            await load.wait_for(len(load.samples) + 1)


async def _answered_only_by(load: SteadyLoad, version: int, within: float) -> None:
    """Wait until all of a second's answers are of a version: each router learns of it for itself."""
    async with asyncio.timeout(within):
        since = len(load.samples)
        while len(load.samples) < since + RATE:
            await load.wait_for(len(load.samples) + 1)
            if load.samples[-1].version != str(version):
                since = len(load.samples)


async def _answered_by(load: SteadyLoad, version: int, within: float) -> None:
    """Wait for the first answer of a version."""
    async with asyncio.timeout(within):
        while not any(sample.version == str(version) for sample in load.samples):
            await load.wait_for(len(load.samples) + 1)
