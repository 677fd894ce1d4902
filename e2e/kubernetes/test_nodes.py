"""Nodes go: drained by an operator, or lost without a word. No request fails."""

from __future__ import annotations

import time

import pytest

from e2e.kubernetes.conftest import MODEL, REPLICAS, Serving

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_kubectl_drain_of_a_node_with_everything_on_it(serving: Serving) -> None:
    berth = serving.berth
    node = berth.of("worker")[0].pod["spec"]["nodeName"]
    async with berth.load(serving.tenant, MODEL) as load:
        await load.wait_for(40)
        began = time.monotonic()
        try:
            moved = await berth.drain(node)
            serving.note(f"drained a node of {len(moved)} pods in {time.monotonic() - began:.2f} s")
            for component, count in (("worker", REPLICAS), ("router", 2), ("synchronizer", 2), ("controller", 1)):
                await berth.ready(component, count)
            await load.wait_for(len(load.samples) + 80)
        finally:
            await berth.uncordon(node)
    serving.check("drain", load)


async def test_a_lost_node_is_hidden_by_retries(serving: Serving) -> None:
    berth = serving.berth
    node = berth.of("worker")[0].pod["spec"]["nodeName"]
    async with berth.load(serving.tenant, MODEL) as load:
        await load.wait_for(40)
        began = time.monotonic()
        victims = await berth.kubelet.lose(node)
        try:
            berth.cluster.notice_loss(node)
            await berth.replaced("worker", victims)
            serving.note(f"lost a node of {len(victims)} pods: workers replaced after {time.monotonic() - began:.2f} s")
            await load.wait_for(len(load.samples) + 80)
        finally:
            berth.kubelet.restore(node)
    for component, count in (("worker", REPLICAS), ("router", 2), ("synchronizer", 2), ("controller", 1)):
        await berth.ready(component, count)
    serving.check("lost node", load)
