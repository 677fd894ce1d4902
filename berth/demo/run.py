"""The demo's seven steps, in the order a person would take them, each timed; promises are checked, not asserted.

The stack is the one of `berth up`, in a folder of its own. Requests are sent by public clients: our SDK, tritonclient,
and the load generator. Nothing retries a failed request of the load.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from berth.client import Berth
from berth.demo.digits import INPUT, LABEL, Digits, load_digits, train_better, train_weak
from berth.demo.findings import Promise, accuracy, find_switch
from berth.demo.load import LoadSample, SteadyLoad, Summary, open_targets, quantile, steady_load, summarize
from berth.errors import BerthError
from berth.headers import AUTHORIZATION_TEXT
from berth.local.blueprint import StackOptions
from berth.local.home import Home
from berth.local.journal import log_to
from berth.local.stack import STACK_ERRORS, Stack, open_stack
from berth.local.supervisor import ProgramFailed
from berth.settings import environment
from berth.states import Role

TENANT = "demo"
MODEL = "digits"
_RATE = 120.0
# Requests of the load before the event and after its effect was seen.
_BEFORE, _AFTER = 180, 180
_WAIT_S = 90.0
_MARK = "made-by-berth-demo"


def run_demo(folder: Path, runtime: str) -> int:
    """Run it; the result is the exit status: 0 if every promise held."""
    try:
        _empty(folder)
        log_to(Home(folder).log("supervisor"))
        with tempfile.TemporaryDirectory(prefix="berth-demo-") as scratch:
            return asyncio.run(_demo(StackOptions(root=folder, runtime=runtime, environ=environment()), Path(scratch)))
    except STACK_ERRORS as error:
        print(f"berth demo: {error}; logs are in {folder / 'logs'}", file=sys.stderr)
    except (BerthError, TimeoutError, FolderNotOurs) as error:
        print(f"berth demo: {type(error).__name__}: {error}", file=sys.stderr)
    return 1


class FolderNotOurs(Exception):
    pass


class Story:
    """Tells what happens, with the time since the start, and keeps the promises for the end."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.promises: list[Promise] = []
        self._step = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._step += 1
        began = time.monotonic()
        print(f"[{self._step}/7] {title}", flush=True)
        yield
        self.say(f"({time.monotonic() - began:.1f} s)")

    def say(self, text: str) -> None:
        print(f"      {text}", flush=True)

    def promise(self, what: str, held: bool, shown: str) -> None:
        self.promises.append(Promise(what, bool(held), shown))
        self.say(f"{'✓' if held else '✗'} {what}: {shown}")


@dataclass(slots=True)
class _Stage:
    """What the steps share."""

    story: Story
    stack: Stack
    scratch: Path
    digits: Digits
    key: str
    client: Berth
    accuracy: float = 0.0
    """Of the version that serves, on all held-out images."""

    @property
    def truth(self) -> list[int]:
        return [int(digit) for digit in self.digits.held_out_digits]

    @property
    def rest(self) -> str:
        return self.stack.endpoints.rest[0]

    @property
    def grpc(self) -> str:
        return self.stack.endpoints.grpc[0]


async def _demo(options: StackOptions, scratch: Path) -> int:
    story = Story()
    async with AsyncExitStack() as exits:
        with story.step(f"Start a stack in {options.root} ({options.runtime})"):
            stack = await exits.enter_async_context(open_stack(options, say=story.say))
            story.say(f"{len(stack.supervisor.children())} processes ready in {stack.started_in_s:.1f} s")
        await stack.client.tenants.create(TENANT)
        made = await stack.client.of(TENANT).keys.create(Role.DEVELOPER, "demo")
        endpoints = stack.endpoints
        with Berth(made.secret, controller=endpoints.controllers[0], router=endpoints.rest[0]) as client:
            stage = _Stage(story, stack, scratch, load_digits(), made.secret, client)
            await _first_version(stage)
            await _held_out_images(stage)
            await _second_version_under_load(stage)
            await _kill_a_worker(stage)
        with story.step("Stop everything"):
            await exits.aclose()
    with story.step("What was promised, and what was seen"):
        _print_table(story)
    return 0 if all(promise.held for promise in story.promises) else 1


async def _first_version(stage: _Stage) -> None:
    story = stage.story
    with story.step("Train a weak classifier of handwritten digits, upload it, wait until it serves"):
        file = stage.scratch / "weak.onnx"
        await asyncio.to_thread(train_weak, stage.digits, file)
        story.say(f"trained and exported to ONNX: {file.stat().st_size:,} bytes")
        began = time.monotonic()
        version = await _upload(stage, file)
        story.say(f"version {version} is available {time.monotonic() - began:.2f} s after the upload began")


async def _upload(stage: _Stage, file: Path) -> int:
    made = await asyncio.to_thread(stage.client.versions.upload, MODEL, file)
    await asyncio.to_thread(stage.client.wait_available, MODEL, made.version, _WAIT_S)
    return made.version


async def _held_out_images(stage: _Stage) -> None:
    """Each held-out image alone, over REST with our SDK and over gRPC with tritonclient."""
    story = stage.story
    truth = stage.truth
    with story.step(f"Ask about {len(truth)} images it has never seen, over REST and over gRPC"):
        answers: dict[str, list[int]] = {}
        replicas: Counter[str] = Counter()
        for protocol, ask in (("REST", _ask_rest), ("gRPC", _ask_grpc)):
            labels, latencies, seen = await asyncio.to_thread(ask, stage)
            answers[protocol] = labels
            replicas += seen
            latencies.sort()
            story.say(
                f"{protocol}: {100 * accuracy(labels, truth):.1f} % right; "
                f"p50 {1e3 * quantile(latencies, 0.5):.2f} ms, p99 {1e3 * quantile(latencies, 0.99):.2f} ms"
            )
        story.say("answered by " + ", ".join(f"{name} ({count})" for name, count in sorted(replicas.items())))
        same = answers["REST"] == answers["gRPC"]
        story.promise("REST and gRPC agree", same, f"{len(truth)} images")
        stage.accuracy = accuracy(answers["REST"], truth)
        story.promise("All replicas answer", len(replicas) == len(_workers(stage.stack)), f"{len(replicas)} replicas")


_Asked = tuple[list[int], list[float], Counter[str]]


def _ask_rest(stage: _Stage) -> _Asked:
    labels: list[int] = []
    latencies: list[float] = []
    replicas: Counter[str] = Counter()
    for image in stage.digits.held_out_images:
        began = time.perf_counter()
        answer = stage.client.infer_traced(MODEL, {INPUT: image[np.newaxis]}, outputs=[LABEL])
        latencies.append(time.perf_counter() - began)
        labels.append(int(answer.outputs[LABEL][0]))
        replicas[answer.replica] += 1
    return labels, latencies, replicas


def _ask_grpc(stage: _Stage) -> _Asked:
    from tritonclient import grpc as triton

    labels: list[int] = []
    latencies: list[float] = []
    headers = {AUTHORIZATION_TEXT: f"Bearer {stage.key}"}
    with triton.InferenceServerClient(stage.grpc) as client:
        for image in stage.digits.held_out_images:
            tensor = triton.InferInput(INPUT, [1, len(image)], "FP32")
            tensor.set_data_from_numpy(image[np.newaxis])
            wanted = [triton.InferRequestedOutput(LABEL)]
            began = time.perf_counter()
            result = client.infer(MODEL, [tensor], outputs=wanted, headers=headers)
            latencies.append(time.perf_counter() - began)
            labels.append(int(result.as_numpy(LABEL)[0]))
    # tritonclient does not hand out the metadata that names the replica.
    return labels, latencies, Counter()


async def _second_version_under_load(stage: _Stage) -> None:
    story = stage.story
    with story.step(f"Upload a better version while {_RATE:.0f} requests a second keep flowing"):
        file = stage.scratch / "better.onnx"
        await asyncio.to_thread(train_better, stage.digits, file)
        clock = asyncio.get_running_loop().time
        async with _load(stage) as load:
            await load.wait_for(_BEFORE)
            began = clock()
            version = await _upload(stage, file)
            available_at = clock()
            await _until(load, lambda sample: sample.version == str(version), streak=_AFTER)
        switch = find_switch(load.samples, "1", str(version))
        total = summarize(load.samples)
        story.say(
            f"available after {available_at - began:.2f} s; first answer of version {version} "
            f"after {(switch.first_new_at or 0) - began:.2f} s, last of version 1 after "
            f"{(switch.last_old_at or 0) - began:.2f} s"
        )
        story.say(f"p50 {1e3 * total.p50:.2f} ms, p99 {1e3 * total.p99:.2f} ms during the change")
        _promise_no_failures(story, "A new version fails no request", total)
        story.promise(
            "Every answer is of one version or the other",
            switch.strangers == 0 and switch.old > 0 and switch.new > 0,
            f"{switch.old} of version 1, {switch.new} of version {version}",
        )
        labels, _, _ = await asyncio.to_thread(_ask_rest, stage)
        before, after = stage.accuracy, accuracy(labels, stage.truth)
        story.promise(
            "Accuracy rises", after > before, f"{100 * before:.1f} % → {100 * after:.1f} % of {len(labels)} images"
        )


async def _kill_a_worker(stage: _Stage) -> None:
    story = stage.story
    with story.step("kill -9 one worker while requests keep flowing"):
        clock = asyncio.get_running_loop().time
        name = _workers(stage.stack)[0]
        replica = name.removeprefix("worker-")
        async with _load(stage) as load:
            await load.wait_for(_BEFORE)
            pid = stage.stack.pid_of(name)
            if pid is None:
                raise ProgramFailed(f"{name} does not run")
            killed_at = clock()
            os.kill(pid, signal.SIGKILL)
            story.say(f"killed {name}, pid {pid}")
            # The dead process may have answered last just before; its successor is the one with another pid.
            await _until_replaced(stage.stack, name, pid)
            replaced_at = clock()
            await _until(
                load, lambda sample: _replica(sample) == replica and sample.due_at > replaced_at, streak=_AFTER
            )
        back = min(
            sample.ended_at for sample in load.samples if _replica(sample) == replica and sample.due_at > replaced_at
        )
        total = summarize(load.samples)
        story.say("answered by " + ", ".join(f"{name} ({count})" for name, count in sorted(total.replicas.items())))
        _promise_no_failures(story, "kill -9 of a worker fails no request", total)
        story.promise(
            "The worker comes back by itself",
            True,
            f"process ready after {replaced_at - killed_at:.2f} s, answering after {back - killed_at:.2f} s",
        )


@asynccontextmanager
async def _load(stage: _Stage) -> AsyncIterator[SteadyLoad]:
    """The steady load over both protocols, on single images."""
    inputs = [{INPUT: image[np.newaxis]} for image in stage.digits.held_out_images]
    async with (
        open_targets(model=MODEL, key=stage.key, rest_urls=[stage.rest], grpc_targets=[stage.grpc]) as targets,
        steady_load(targets, inputs, _RATE) as load,
    ):
        yield load


async def _until(load: SteadyLoad, reached: Callable[[LoadSample], bool], streak: int) -> None:
    """Wait for the first sample that `reached` accepts, and for `streak` more. Raises `TimeoutError`."""
    at = 0
    async with asyncio.timeout(_WAIT_S):
        while True:
            for sample in load.samples[at:]:
                at += 1
                if reached(sample):
                    await load.wait_for(at + streak, _WAIT_S)
                    return
            await load.wait_for(at + 1, _WAIT_S)


async def _until_replaced(stack: Stack, name: str, pid: int) -> None:
    async with asyncio.timeout(_WAIT_S):
        while True:
            if stack.pid_of(name) not in (pid, None):
                break
            await asyncio.sleep(0.01)
        await stack.supervisor.wait_ready(name, _WAIT_S)


def _promise_no_failures(story: Story, what: str, total: Summary) -> None:
    story.promise(what, total.failed == 0, f"{total.requests} sent, {total.failed} failed")
    for error, count in total.errors.most_common(5):
        story.say(f"  {count} times {error}")


def _replica(sample: LoadSample) -> str:
    return "" if sample.answer is None else sample.answer.replica


def _workers(stack: Stack) -> list[str]:
    return sorted(view.name for view in stack.supervisor.children() if view.name.startswith("worker-"))


def _print_table(story: Story) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table("promise", "held", "seen", box=SIMPLE)
    for promise in story.promises:
        table.add_row(promise.what, "[green]yes" if promise.held else "[red]NO", promise.shown)
    table.add_section()
    table.add_row("Time for everything", "", f"{time.monotonic() - story.began:.1f} s")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _empty(folder: Path) -> None:
    """Make `folder` anew. Raises `FolderNotOurs` if it holds anything that no demo made."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise FolderNotOurs(f"{folder} is not empty and was not made by `berth demo`: choose another with --dir")
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / _MARK).touch()
