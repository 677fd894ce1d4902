"""`make bench-first-answer`: from an acknowledged upload to the first answer through the router, on a fresh stack.

Each model is new, so nothing is cached: the artifact is stored, placed, loaded, routed and queried. Also says how long
`berth up` takes the first and the second time, and what the idle stack weighs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.results import Row, show, write
from berth.client import Berth
from berth.errors import NotFound, Retryable
from berth.states import Role
from e2e.models import multiplier
from e2e.stack import Stack

MODELS = 20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), ("--workers", "2"))
        try:
            rows = [_timed_start(stack, "berth up, first time", None)]
            rows.append(_weight(stack))
            rows += _first_answers(stack, Path(folder))
            stack.stop()
            rows.append(_timed_start(stack, f"berth up, again, with {MODELS} models", 5.0))
            stack.stop()
        finally:
            stack.abandon()
    write("first-answer", 1, rows)
    show("First answers", rows)


def _timed_start(stack: Stack, what: str, target: float | None) -> Row:
    began = time.monotonic()
    stack.start()
    return Row(what, time.monotonic() - began, "s", target)


def _first_answers(stack: Stack, folder: Path) -> list[Row]:
    with stack.client() as admin:
        admin.tenants.create("bench")
        key = admin.of("bench").keys.create(Role.DEVELOPER).secret
    uploads, answers = [], []
    with stack.client(key) as client:
        for number in range(1, MODELS + 1):
            path = folder / "model.onnx"
            path.write_bytes(multiplier(number))
            began = time.monotonic()
            client.versions.upload(f"model-{number}", path)
            acknowledged = time.monotonic()
            _ask_until_answered(stack, key, f"model-{number}", number)
            uploads.append(acknowledged - began)
            answers.append(time.monotonic() - acknowledged)
    return [
        Row("upload, p50", statistics.median(uploads), "s"),
        Row("acknowledged → first answer, p50", statistics.median(answers), "s", 1.0),
        Row("acknowledged → first answer, worst", max(answers), "s"),
    ]


def _ask_until_answered(stack: Stack, key: str, model: str, factor: float) -> None:
    deadline = time.monotonic() + 30
    # One attempt: the client's own patience with a model that is not loaded yet would be measured with it.
    with Berth(key, controller=stack.controller_url, router=stack.router_url, attempts=1) as client:
        while True:
            try:
                answer = client.infer(model, {"x": np.ones((1, 4), np.float32)})
            except (NotFound, Retryable):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
                continue
            if answer["product"][0, 0] != factor:
                raise SystemExit(f"{model} answered {answer}")
            return


def _weight(stack: Stack) -> Row:
    """Proportional set size of everything that runs, so that shared pages count once."""
    pids = {process.pid for process in stack.processes().values()} | {stack.supervisor_pid}
    family = set(pids)
    while True:
        children = {int(path.name) for path in Path("/proc").glob("[0-9]*") if _parent(path) in family} - family
        if not children:
            break
        family |= children
    return Row("idle stack with 2 workers", sum(map(_pss, family)) / 2**20, "MiB", 600)


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
