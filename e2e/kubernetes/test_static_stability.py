"""What controls the data path may be away: routers and workers go on."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from e2e.conftest import upload
from e2e.kubernetes.conftest import MODEL, Serving
from e2e.models import multiplier
from e2e.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

RATE = 40
AWAY_S = {"fake": 3}  # of load; elsewhere long enough for leases and watches to end
BACK_S = 120  # Kubernetes' own controllers look again every 30 s or so after such an outage


async def test_the_api_server_is_away(serving: Serving) -> None:
    berth = serving.berth
    if berth.cluster.kind == "given":
        return
    before = {run.name: run.pids for run in berth.of("worker")}
    async with berth.load(serving.tenant, MODEL, RATE) as load:
        await load.wait_for(RATE)
        async with berth.cluster.api_server_away():
            await load.wait_for(len(load.samples) + AWAY_S.get(berth.cluster.kind, 20) * RATE)
        # It is back, and the cell follows it again.
        await berth.scale(3)
        await berth.ready("worker", 3, within=BACK_S)
        await berth.scale(2)
        await berth.ready("worker", 2)
        await load.wait_for(len(load.samples) + RATE)
    serving.check("API server away", load)
    now = {run.name: run.pids for run in berth.of("worker")}
    assert {name: pids for name, pids in now.items() if name in before}.items() <= before.items(), "none was restarted"


async def test_the_leading_synchronizer_is_killed(serving: Serving) -> None:
    berth = serving.berth
    leader = await asyncio.to_thread(until, berth.leader, within=20, what="one synchronizer leads")
    async with berth.load(serving.tenant, MODEL, RATE) as load:
        await load.wait_for(RATE)
        killed = leader.pids["synchronizer"]
        os.kill(killed, signal.SIGKILL)

        def succeeded() -> bool:
            # The standby, or the same one started again before the lease was over.
            now = berth.leader()
            return now is not None and now.pids.get("synchronizer") not in (None, killed)

        await asyncio.to_thread(until, succeeded, within=20, what="another process leads")
        version = await asyncio.to_thread(upload, serving.tenant, "second", multiplier(5), berth.folder)
        assert version == 1
        await load.wait_for(len(load.samples) + RATE)
        await berth.ready("synchronizer", 2)
    assert leader.containers[0].restarts == 1
    serving.check("leader killed", load)
    await asyncio.to_thread(serving.tenant.client.models.delete, "second")
