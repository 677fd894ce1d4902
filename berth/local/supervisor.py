"""Keeps programs running: starts them, notices when they are ready or dead, starts them again, stops them in order.

All knowledge about the children is here, in `_children`, and mirrored into a state file that other programs may read.
Children are only ever signalled through the handle they were started with.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import structlog

from berth.local.home import write_private
from berth.local.leftovers import birth_of
from berth.local.programs import LaunchFailed, Program, RunningProgram
from berth.local.restarts import Death, History, StopTrying, after_death

log = structlog.get_logger(__name__)

_PROBE_EVERY_S = 0.05


class ChildState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """It died, and is started again in a moment."""
    FAILED = "failed"
    """It died and is given up; the reason says why."""
    STOPPING = "stopping"


class ProgramFailed(Exception):
    pass


class ChildView(NamedTuple):
    """What can be said of a child now. `ready_after_s` is from the start of its latest life."""

    name: str
    state: ChildState
    pid: int | None
    restarts: int
    ready_after_s: float | None
    reason: str


@dataclass(slots=True)
class _Child:
    program: Program
    state: ChildState = ChildState.STARTING
    pid: int | None = None
    history: History = field(default_factory=History)
    launched_at: float = 0.0
    ready_after_s: float | None = None
    reason: str = ""
    asked_to_stop: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Use as an async context manager: leaving it stops every child, later stages first."""

    def __init__(
        self,
        state_file: Path,
        *,
        rng: random.Random | None = None,
        on_change: Callable[[ChildView], None] | None = None,
    ) -> None:
        self._state_file = state_file
        self._rng = rng or random.Random()
        self._on_change = on_change
        self._children: dict[str, _Child] = {}
        self._changed = asyncio.Condition()
        self._tasks = asyncio.TaskGroup()
        self._beside: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Supervisor {', '.join(f'{view.name}:{view.state}' for view in self.children())}>"

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for task in self._beside:
                task.cancel()
            await self.stop_all()
        finally:
            # An error of the body stays what it is, instead of being wrapped into a group as a task's would be.
            cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
            try:
                await self._tasks.__aexit__(*((kind, error, trace) if cancelled else (None, None, None)))
            finally:
                self._state_file.unlink(missing_ok=True)

    def children(self) -> tuple[ChildView, ...]:
        return tuple(_view(child) for child in self._children.values())

    def start(self, program: Program) -> None:
        """Run `program` until it is stopped. Its name must not be in use."""
        if program.name in self._children:
            raise ValueError(f"{program.name} is running already")
        child = _Child(program)
        self._children[program.name] = child
        self._tasks.create_task(self._keep(child), name=program.name)

    def beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something of our own beside the children, until the supervisor ends. If it fails, so does all."""
        self._beside.append(self._tasks.create_task(work, name=name))

    async def wait_ready(self, name: str, timeout_s: float) -> None:
        """Return when the child is ready. Raises `ProgramFailed` if it is given up, stopped, or not ready in time."""
        child = self._children.get(name)
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                while child is not None and child.state is not ChildState.READY:
                    if child.state is ChildState.FAILED:
                        raise ProgramFailed(f"{name} cannot run: {child.reason}")
                    if child.gone.is_set() or child.asked_to_stop.is_set():
                        break
                    await self._changed.wait()
                else:
                    if child is not None:
                        return
        except TimeoutError:
            raise ProgramFailed(f"{name} was not ready after {timeout_s:g} s") from None
        raise ProgramFailed(f"{name} is not running")

    async def stop(self, name: str) -> None:
        """Stop a child gracefully, then by force, and forget it."""
        child = self._children.get(name)
        if child is None:
            return
        child.asked_to_stop.set()
        await child.gone.wait()

    async def stop_all(self) -> None:
        """Stop every child: those of the highest stage first, together; then the next."""
        stages = sorted({child.program.stage for child in self._children.values()}, reverse=True)
        for stage in stages:
            names = [name for name, child in self._children.items() if child.program.stage == stage]
            async with asyncio.TaskGroup() as stopping:
                for name in names:
                    stopping.create_task(self.stop(name))

    async def _keep(self, child: _Child) -> None:
        try:
            while not child.asked_to_stop.is_set():
                death = await self._live(child)
                if child.asked_to_stop.is_set():
                    break
                child.history, decision = after_death(child.history, death, self._rng)
                child.pid = None
                if isinstance(decision, StopTrying):
                    child.reason = f"{decision.reason}{': ' if child.reason else ''}{child.reason}"
                    await self._change(child, ChildState.FAILED)
                    await child.asked_to_stop.wait()
                    break
                log.warning("child ended unasked", child=child.program.name, code=death.code, again_s=decision.after_s)
                await self._change(child, ChildState.WAITING)
                await _wait_at_most(child.asked_to_stop, decision.after_s)
        finally:
            del self._children[child.program.name]
            child.gone.set()
            self._write_state()
        async with self._changed:
            self._changed.notify_all()

    async def _live(self, child: _Child) -> Death:
        """Run the program once, to its end."""
        clock = asyncio.get_running_loop().time
        child.launched_at, child.ready_after_s = clock(), None
        await self._change(child, ChildState.STARTING)
        try:
            life = await child.program.launch()
        except LaunchFailed as error:
            child.reason = str(error)
            return Death(None, clock() - child.launched_at, was_ready=False)
        try:
            child.pid, child.reason = life.pid, ""
            self._write_state()
            async with asyncio.TaskGroup() as tasks:
                probing = tasks.create_task(self._await_readiness(child))
                stopping = tasks.create_task(self._stop_when_asked(child, life))
                code = await life.wait()
                probing.cancel()
                if not child.asked_to_stop.is_set():
                    stopping.cancel()
        finally:
            await life.kill()
        if code:
            child.reason = f"exit status {code}" if code > 0 else f"signal {-code}"
        return Death(code, clock() - child.launched_at, was_ready=child.ready_after_s is not None)

    async def _await_readiness(self, child: _Child) -> None:
        while True:
            if await child.program.is_ready():
                break
            await asyncio.sleep(_PROBE_EVERY_S)
        child.ready_after_s = asyncio.get_running_loop().time() - child.launched_at
        if not child.asked_to_stop.is_set():
            await self._change(child, ChildState.READY)

    async def _stop_when_asked(self, child: _Child, life: RunningProgram) -> None:
        await child.asked_to_stop.wait()
        await self._change(child, ChildState.STOPPING)
        await life.stop()

    async def _change(self, child: _Child, state: ChildState) -> None:
        child.state = state
        self._write_state()
        if self._on_change is not None:
            self._on_change(_view(child))
        async with self._changed:
            self._changed.notify_all()

    def _write_state(self) -> None:
        processes: list[dict[str, Any]] = [
            {
                "name": child.program.name,
                "state": child.state,
                "pid": child.pid,
                "born": birth_of(child.pid) if child.pid else None,
                "restarts": child.history.restarts,
                "ports": dict(child.program.ports),
            }
            for child in self._children.values()
        ]
        document = {"supervisor": os.getpid(), "written_at": time.time(), "processes": processes}
        write_private(self._state_file, json.dumps(document, indent=1))


def _view(child: _Child) -> ChildView:
    return ChildView(
        child.program.name, child.state, child.pid, child.history.restarts, child.ready_after_s, child.reason
    )


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
