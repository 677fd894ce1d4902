"""Versions come and go under load: no request fails, none is answered by a mixture, and the API tells the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from berth.client import AsyncBerth
from berth.demo.load import LoadSample
from berth.errors import NotFound
from berth.states import VersionState
from e2e.conftest import Tenant, make_tenant, upload
from e2e.load import failures, load_on
from e2e.models import multiplier
from e2e.stack import Stack
from e2e.waiting import until

StackMaker = Callable[..., Stack]
ONES = {"x": np.ones((1, 4), np.float32)}


async def test_new_versions_under_load(stack: Stack, tmp_path: Path) -> None:
    tenant = make_tenant(stack, "rolling")
    upload(tenant, "times", multiplier(1), tmp_path)
    seen: dict[int, list[VersionState]] = {}
    async with load_on(stack, tenant.key, "times", rate=100) as load, asyncio.TaskGroup() as tasks:
        stop = asyncio.Event()
        watching = tasks.create_task(_watch(stack, tenant, seen, stop))
        for factor in range(2, 6):
            path = tmp_path / "next.onnx"
            path.write_bytes(multiplier(factor))
            accepted = await asyncio.to_thread(tenant.client.versions.upload, "times", path)
            assert accepted.version == factor
            await asyncio.to_thread(tenant.client.wait_available, "times", factor, 30)
            await _until_answered_by(load.samples, factor)
            await load.wait_for(len(load.samples) + 50)
        stop.set()
        await watching
    assert failures(load.samples) == []
    _check_answers(load.samples)
    assert {sample.version for sample in load.samples} == {"1", "2", "3", "4", "5"}
    for version in (2, 3, 4):
        assert VersionState.AVAILABLE in seen[version]
        until(partial(_is_retired, tenant, version), within=20, what=f"{version} is retired")
    assert _state(tenant, 5) is VersionState.AVAILABLE


async def test_a_pin_rolls_back_and_an_unpin_forward(stack: Stack, tmp_path: Path) -> None:
    tenant = make_tenant(stack, "pinning")
    upload(tenant, "times", multiplier(1), tmp_path)
    upload(tenant, "times", multiplier(2), tmp_path)
    async with load_on(stack, tenant.key, "times") as load:
        for pinned, answering in ((1, 1), (None, 2)):
            if pinned is None:
                await asyncio.to_thread(tenant.client.models.unpin, "times")
            else:
                await asyncio.to_thread(tenant.client.models.pin, "times", pinned)
            await _until_answered_by(load.samples, answering)
    assert failures(load.samples) == []
    _check_answers(load.samples)


async def test_workers_come_and_go_under_load(own_stack: StackMaker, tmp_path: Path) -> None:
    stack = own_stack("--workers", "1", "--memory-per-worker", "256MiB")
    tenant = make_tenant(stack, "breathing")
    upload(tenant, "times", multiplier(1), tmp_path)
    with stack.client() as admin:
        async with load_on(stack, tenant.key, "times") as load:
            await asyncio.to_thread(admin.jobs.update, "onnxruntime", replicas=3)
            await asyncio.to_thread(until, lambda: _replicas(load.samples[-30:]) == 3, within=30, what="three answer")
            await asyncio.to_thread(admin.jobs.update, "onnxruntime", replicas=1)
            await asyncio.to_thread(until, lambda: len(stack.named("worker")) == 1, within=30, what="one is left")
            await load.wait_for(len(load.samples) + 60)
    assert failures(load.samples) == []
    assert stack.stop() == 0, stack.said()


def test_a_deleted_model_is_gone_and_its_memory_free(stack: Stack, tmp_path: Path) -> None:
    tenant = make_tenant(stack, "leaving")
    with stack.client() as admin:
        before = admin.jobs.get("onnxruntime").reserved_bytes
        upload(tenant, "times", multiplier(1), tmp_path)
        assert admin.jobs.get("onnxruntime").reserved_bytes > before
        tenant.client.models.delete("times")
        until(lambda: _asked(tenant) == "gone", within=20, what="the router knows no such model")
        until(lambda: admin.jobs.get("onnxruntime").reserved_bytes == before, within=20, what="its reservation is free")
        held = {servable.tenant for replica in admin.replicas() for servable in replica.servables}
        assert "leaving" not in held


def test_everything_serves_again_after_a_restart(own_stack: StackMaker, tmp_path: Path) -> None:
    stack = own_stack("--workers", "2", "--memory-per-worker", "256MiB")
    tenant = make_tenant(stack, "lasting")
    for number in range(1, 6):
        upload(tenant, f"model-{number}", multiplier(number), tmp_path)
    assert stack.stop() == 0, stack.said()
    stack.start()
    answers = [float(tenant.client.infer(f"model-{n}", ONES)["product"][0, 0]) for n in range(1, 6)]
    assert answers == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert stack.stop() == 0, stack.said()


async def _watch(stack: Stack, tenant: Tenant, seen: dict[int, list[VersionState]], stop: asyncio.Event) -> None:
    """Read the states over and over; whatever is said to be available must answer when asked by number."""
    async with AsyncBerth(tenant.key, controller=stack.controller_url, router=stack.router_url) as client:
        while not stop.is_set():
            for version in await client.versions.list("times"):
                states = seen.setdefault(version.version, [])
                if states[-1:] != [version.state]:
                    states.append(version.state)
                if version.state is VersionState.AVAILABLE:
                    await _check_truth(client, version.version)


async def _check_truth(client: AsyncBerth, number: int) -> None:
    try:
        answer = await client.infer("times", ONES, number)
    except NotFound:
        # It may have been superseded since it was read: then the API says so now.
        state = (await client.versions.get("times", number)).state
        assert state is not VersionState.AVAILABLE, f"version {number} is said to be available"
        return
    assert answer["product"][0, 0] == number


async def _until_answered_by(samples: list[LoadSample], version: int) -> None:
    await asyncio.to_thread(
        until, lambda: samples[-1].version == str(version), within=30, what=f"version {version} answers"
    )


def _check_answers(samples: list[LoadSample]) -> None:
    """Version N multiplies by N, in both outputs, in every single answer."""
    for sample in samples:
        assert sample.answer is not None
        values = {float(v) for output in sample.answer.outputs.values() for v in output.ravel()}
        assert values == {float(sample.answer.version)}


def _replicas(samples: list[LoadSample]) -> int:
    return len({sample.answer.replica for sample in samples if sample.answer})


def _state(tenant: Tenant, version: int) -> VersionState:
    return tenant.client.versions.get("times", version).state


def _is_retired(tenant: Tenant, version: int) -> bool:
    return _state(tenant, version) is VersionState.RETIRED


def _asked(tenant: Tenant) -> str:
    status = httpx.post(
        f"{tenant.client.transport.target.router}/v2/models/times/infer",
        json={"inputs": []},
        headers={"authorization": f"Bearer {tenant.key}"},
    ).status_code
    return "gone" if status == 404 else str(status)
