"""kill -9 of each process in turn, under load and while versions are uploaded: nothing acknowledged is lost, no request
fails that a living process could answer, and all is well again without help."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np

from berth.api.schemas import Version
from berth.errors import Retryable
from e2e.conftest import Tenant, make_tenant, upload
from e2e.load import failures, load_on
from e2e.models import multiplier
from e2e.stack import Stack
from e2e.waiting import until

OPTIONS = ("--workers", "2", "--routers", "2", "--synchronizers", "2", "--memory-per-worker", "256MiB")
VICTIMS = ["controller-0", "postgresql", "synchronizer-0", "router-0", "worker-onnxruntime-0"]

StackMaker = Callable[..., Stack]


async def test_every_process_can_be_killed(own_stack: StackMaker, tmp_path: Path) -> None:
    stack = own_stack(*OPTIONS)
    tenant = make_tenant(stack, "steady")
    upload(tenant, "times", multiplier(3), tmp_path)
    accepted: list[Version] = []
    stop = asyncio.Event()
    async with load_on(stack, tenant.key, "times") as load, asyncio.TaskGroup() as tasks:
        tasks.create_task(_keep_uploading(tenant, tmp_path, accepted, stop))
        for victim in VICTIMS:
            await load.wait_for(len(load.samples) + 60)
            killed = stack.kill(victim)
            # A load that goes on while the process is away, while it comes back, and after.
            await asyncio.to_thread(stack.wait_replaced, victim, killed)
            await load.wait_for(len(load.samples) + 60)
            before = len(accepted)
            await asyncio.to_thread(
                until, lambda before=before: len(accepted) > before, within=30, what=f"uploads go on after {victim}"
            )
        stop.set()
    assert failures(load.samples) == []
    assert {sample.answer.outputs["product"][0, 0] for sample in load.samples if sample.answer} == {3.0}
    _check_accepted(tenant, accepted)
    assert stack.stop() == 0, stack.said()


async def test_inference_needs_no_control_plane(own_stack: StackMaker, tmp_path: Path) -> None:
    stack = own_stack("--workers", "2", "--routers", "2", "--memory-per-worker", "256MiB")
    tenant = make_tenant(stack, "island")
    upload(tenant, "times", multiplier(3), tmp_path)
    loads = _loads(stack)
    assert sum(loads.values()) == 2
    workers = {process.name: process.pid for process in stack.named("worker")}
    async with load_on(stack, tenant.key, "times") as load:
        await load.wait_for(60)
        # The supervisor stands still meanwhile, or it would start them again at once.
        os.kill(stack.supervisor_pid, signal.SIGSTOP)
        try:
            for victim in ("synchronizer-0", "controller-0", "postgresql"):
                stack.kill(victim)
            await load.wait_for(len(load.samples) + 300)
            assert not _controller_answers(stack)
        finally:
            os.kill(stack.supervisor_pid, signal.SIGCONT)
        await asyncio.to_thread(_wait_answering, stack, tenant)
        await load.wait_for(len(load.samples) + 300)
    assert failures(load.samples) == []
    assert {process.name: process.pid for process in stack.named("worker")} == workers
    assert _loads(stack) == loads, "something was loaded again"
    # The control plane works: what is asked of it now happens.
    assert upload(tenant, "times", multiplier(4), tmp_path) == 2
    until(lambda: _ask(tenant) == 4.0, within=20, what="version 2 answers")
    assert stack.stop() == 0, stack.said()


async def test_the_standby_synchronizer_takes_over(own_stack: StackMaker, tmp_path: Path) -> None:
    stack = own_stack("--workers", "1", "--synchronizers", "2", "--memory-per-worker", "256MiB")
    tenant = make_tenant(stack, "handed")
    upload(tenant, "times", multiplier(3), tmp_path)
    leader = until(lambda: _leader(stack), within=10, what="one synchronizer leads")
    # Frozen, not dead: it does not know that it is deposed, and must not be believed when it wakes.
    stack.signal(leader, signal.SIGSTOP)
    try:
        until(lambda: _leader(stack, but=leader), within=20, what="the other one leads")
        assert upload(tenant, "times", multiplier(4), tmp_path) == 2
        until(lambda: _ask(tenant) == 4.0, within=20, what="version 2 answers")
    finally:
        stack.signal(leader, signal.SIGCONT)
    until(lambda: not _leads(stack, leader), within=20, what="the deposed one has stepped down")
    assert upload(tenant, "times", multiplier(5), tmp_path) == 3
    until(lambda: _ask(tenant) == 5.0, within=20, what="version 3 answers")
    assert stack.stop() == 0, stack.said()


async def test_hedging_hides_a_frozen_worker(own_stack: StackMaker, tmp_path: Path) -> None:
    stack = own_stack("--workers", "2", "--memory-per-worker", "256MiB", BERTH_HEDGE_DELAY_MS="100")
    tenant = make_tenant(stack, "quick")
    upload(tenant, "times", multiplier(3), tmp_path)
    async with load_on(stack, tenant.key, "times", rate=40) as load:
        await load.wait_for(40)
        stack.signal("worker-onnxruntime-0", signal.SIGSTOP)
        try:
            await load.wait_for(len(load.samples) + 80)
        finally:
            stack.signal("worker-onnxruntime-0", signal.SIGCONT)
        await load.wait_for(len(load.samples) + 40)
    assert failures(load.samples) == []
    # Without a second copy they would wait for two seconds, until the worker runs again.
    assert max(sample.latency_s for sample in load.samples) < 1.5
    assert _metric(stack.processes()["router-0"].ports["admin"], "berth_router_hedges_total") > 0
    assert stack.stop() == 0, stack.said()


async def _keep_uploading(tenant: Tenant, folder: Path, accepted: list[Version], stop: asyncio.Event) -> None:
    """Upload one model after another; `accepted` are those that the API said yes to."""
    number = 0
    while not stop.is_set():
        number += 1
        path = folder / f"upload-{number}.onnx"
        path.write_bytes(multiplier(number))
        try:
            accepted.append(await asyncio.to_thread(tenant.client.versions.upload, f"model-{number % 3}", path))
        except Retryable:
            # The controller or its database is away for longer than the client is patient: not acknowledged.
            continue


def _check_accepted(tenant: Tenant, accepted: list[Version]) -> None:
    """Every acknowledged version is there with the bytes that were sent, and the newest ones answer."""
    assert len({(version.model, version.version) for version in accepted}) == len(accepted)
    for version in accepted:
        assert tenant.client.versions.get(version.model, version.version).sha256 == version.sha256
        assert version.sha256 in {hashlib.sha256(multiplier(number)).hexdigest() for number in range(1, 2000)}
    for model in {version.model for version in accepted}:
        newest = max(version.version for version in tenant.client.versions.list(model))
        tenant.client.wait_available(model, newest, timeout=30)


def _ask(tenant: Tenant) -> float:
    return float(tenant.client.infer("times", {"x": np.ones((1, 4), np.float32)})["product"][0, 0])


def _wait_answering(stack: Stack, tenant: Tenant) -> None:
    until(lambda: _controller_answers(stack), within=30, what="the controller is back")
    tenant.client.wait_available("times", 1, timeout=30)


def _controller_answers(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.controller_url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _metric(process_port: int, name: str) -> float:
    lines = httpx.get(f"http://127.0.0.1:{process_port}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def _loads(stack: Stack) -> dict[str, float]:
    """How often each worker has loaded a version."""
    return {worker.name: _metric(worker.ports["admin"], "berth_worker_loads_total") for worker in stack.named("worker")}


def _leads(stack: Stack, name: str) -> bool:
    return _metric(stack.processes()[name].ports["admin"], "berth_synchronizer_leading") == 1


def _leader(stack: Stack, but: str = "") -> str | None:
    names = [process.name for process in stack.named("synchronizer") if process.name != but]
    return next((name for name in names if _leads(stack, name)), None)
