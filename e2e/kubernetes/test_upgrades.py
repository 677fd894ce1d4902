"""Upgrades and restarts under load: no request fails."""

from __future__ import annotations

import time

import pytest

from e2e.kubernetes.conftest import MODEL, REPLICAS, Serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

COMPONENTS = {"worker": REPLICAS, "router": 2, "synchronizer": 2, "controller": 1}


async def test_helm_upgrade_of_everything_at_once(serving: Serving) -> None:
    berth = serving.berth
    before = {component: {run.uid for run in berth.of(component)} for component in COMPONENTS}
    async with berth.load(serving.tenant, MODEL) as load:
        await load.wait_for(40)
        began = time.monotonic()
        # Every pod's template has the cell's log level in it, so all of them are renewed.
        level = "debug" if berth.values.get("logLevel", "info") == "info" else "info"
        await berth.upgrade({"logLevel": level})
        for component, count in COMPONENTS.items():
            await berth.renewed(component, before[component], count)
        serving.note(f"helm upgrade: every pod renewed in {time.monotonic() - began:.2f} s")
        await load.wait_for(len(load.samples) + 80)
    serving.check("helm upgrade", load)


@pytest.mark.long
@pytest.mark.parametrize(
    ("component", "workload", "kind"),
    [
        ("worker", "pool-cpu", "deployments"),
        ("router", "router", "deployments"),
        ("synchronizer", "synchronizer", "statefulsets"),
        ("controller", "controller", "deployments"),
    ],
)
async def test_rolling_restart(serving: Serving, component: str, workload: str, kind: str) -> None:
    berth = serving.berth
    before = {run.uid for run in berth.of(component)}
    async with berth.load(serving.tenant, MODEL) as load:
        await load.wait_for(40)
        began = time.monotonic()
        await berth.restart(workload, kind)
        await berth.renewed(component, before, COMPONENTS[component])
        serving.note(f"{component}: {COMPONENTS[component]} pods renewed in {time.monotonic() - began:.2f} s")
        await load.wait_for(len(load.samples) + 80)
    serving.check(f"{component} restart", load)
