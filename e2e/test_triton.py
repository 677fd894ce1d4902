"""The same promises on a real Triton: upload, replace under load, and kill the server itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.conftest import make_tenant, upload
from e2e.load import failures, load_on
from e2e.models import multiplier
from e2e.stack import Stack
from e2e.waiting import until

StackMaker = Callable[..., Stack]


@pytest.mark.triton
async def test_a_model_on_triton(own_stack: StackMaker, tmp_path: Path, triton_home: Path) -> None:
    stack = own_stack("--workers", "2", "--runtime", "triton", BERTH_TRITON_HOME=str(triton_home))
    tenant = make_tenant(stack, "third")
    upload(tenant, "times", multiplier(3), tmp_path)
    async with load_on(stack, tenant.key, "times", rate=20) as load:
        await load.wait_for(20)
        path = tmp_path / "next.onnx"
        path.write_bytes(multiplier(4))
        await asyncio.to_thread(tenant.client.versions.upload, "times", path)
        await asyncio.to_thread(
            until, lambda: load.samples[-1].version == "2", within=60, what="version 2 answers on Triton"
        )
        killed = _tritonserver(stack.processes()["worker-triton-0"].pid)
        os.kill(killed, signal.SIGKILL)
        await load.wait_for(len(load.samples) + 40)
        await asyncio.to_thread(
            until,
            lambda: _tritonserver(stack.processes()["worker-triton-0"].pid) not in (0, killed),
            within=60,
            what="Triton is back",
        )
        await load.wait_for(len(load.samples) + 40)
    assert failures(load.samples) == []
    for sample in load.samples:
        assert sample.answer is not None
        assert set(sample.answer.outputs["product"].ravel()) == {float(int(sample.version) + 2)}
    assert stack.stop() == 0, stack.said()


def _tritonserver(ancestor: int) -> int:
    """The process id of the Triton server below a worker, 0 if there is none now."""
    parents = {}
    names = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (process / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        parents[int(process.name)] = int(rest.split()[1])
        names[int(process.name)] = name
    for pid, name in names.items():
        above = pid
        while above > 1 and above != ancestor:
            above = parents.get(above, 0)
        if name.startswith("tritonserver") and above == ancestor:
            return pid
    return 0
