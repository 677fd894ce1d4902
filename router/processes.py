"""Several router processes on one pair of ports: the parent starts them, keeps them alive and speaks for them.

The parent listens and the children accept, each when it has the fewest connections (`router.core.turns`). Connections
that nobody has accepted yet wait in the parent's queue. So a child that freezes or dies takes none of them with it, and
clients find the port open while all children are away. The parent itself carries no request: it answers on the admin
port. `/readyz` is ok while at least one child is ready; `/metrics` has the children's series with a label `process`.
`/debug/…` is asked of a child, on the admin port of its own that it logs.

A child that ends unasked is started again. SIGHUP replaces them one by one. The new one is ready before the old one is
asked to drain: so clients that are sent away find somebody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from berth.settings import variable_name
from router.listening.seats import Seats
from router.listening.shared_ports import RouterPorts, SharedPorts, open_shared
from router.settings import Inherited, RouterSettings

log = structlog.get_logger(__name__)

_START_TIMEOUT = 30.0
_SCRAPE_TIMEOUT = 2.0
_POLL = 0.25
# Between two starts of a child that does not stay.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# After its drain a child has this long to end; then it is killed.
_MARGIN = 5.0


class _Child(NamedTuple):
    process: asyncio.subprocess.Process
    seat: int
    admin: str


class Processes:
    """The children by number."""

    def __init__(self, settings: RouterSettings, environ: Mapping[str, str], shared: SharedPorts) -> None:
        self._settings = settings
        self._environ = environ
        self._shared = shared
        self._seats = Seats(shared.seats)
        # Who was given a seat, None while it is being started. Free again when that process has ended.
        self._seated: dict[int, asyncio.subprocess.Process | None] = {}
        self._children: dict[int, _Child] = {}
        self._ready: set[int] = set()
        self._replacing = asyncio.Lock()
        self.metrics: dict[int, str] = {}

    @property
    def pids(self) -> list[int]:
        return [child.process.pid for child in self._children.values()]

    def readiness(self) -> str | None:
        return None if self._ready else "no process is ready"

    async def keep(self, number: int, first: asyncio.Event) -> None:
        """Run child `number` for ever, starting it again when it ends; `first` is set once it listens."""
        pause = _FIRST_PAUSE
        while True:
            child = await self._start(number)
            if child is None:
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            pause = _FIRST_PAUSE
            self._children[number] = child
            first.set()
            await self._until_ended(child)
            current = self._children[number]
            while current.process is not child.process:
                # It was replaced; what counts is its successor.
                child = current
                await self._until_ended(child)
                current = self._children[number]
            del self._children[number]
            self._ready.discard(number)
            log.error("a process ended unasked", process=number, status=child.process.returncode)

    async def renew_all(self) -> None:
        """Put a new child in the place of each, one after the other."""
        async with self._replacing:
            for number, old in list(self._children.items()):
                new = await self._start(number)
                if new is None:
                    log.error("a process could not be replaced", process=number)
                    return
                await self._until_ready(new)
                if self._children.get(number) is not old:
                    # It ended meanwhile, and `keep` has started another.
                    await self._stop(new)
                    continue
                self._children[number] = new
                await self._stop(old)

    async def stop(self) -> None:
        children = list(self._children.values())
        await asyncio.gather(*(self._stop(child) for child in children))

    async def watch(self) -> None:
        """Learn again and again who is ready."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SCRAPE_TIMEOUT)) as session:
            while True:
                for number, child in list(self._children.items()):
                    ready = await _is_ready(session, child)
                    (self._ready.add if ready else self._ready.discard)(number)
                    text = await _get(session, child, "/metrics")
                    if text is not None:
                        self.metrics[number] = text
                await asyncio.sleep(_POLL)

    async def _start(self, number: int) -> _Child | None:
        seat = min(set(range(len(self._seats))) - self._seated.keys())
        self._seated[seat] = None
        inherited = Inherited(self._shared.rest.fileno(), self._shared.grpc.fileno(), self._shared.seats, seat)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "router"),
                env=self._environment(number, inherited),
                stdout=asyncio.subprocess.PIPE,
                pass_fds=inherited[:3],
            )
        except BaseException:
            del self._seated[seat]
            raise
        self._seated[seat] = process
        admin = await self._admin_of(process, number)
        child = _Child(process, seat, admin or "")
        if admin is None:
            await self._until_ended(child)
            return None
        return child

    async def _admin_of(self, process: asyncio.subprocess.Process, number: int) -> str | None:
        """Where it answers, once it listens. None, and it is killed, if that takes too long."""
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                line = await process.stdout.readline()
            return f"http://127.0.0.1:{json.loads(line)['admin']}"
        except (TimeoutError, json.JSONDecodeError):
            log.error("a process does not start", process=number, status=process.returncode)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return None
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise

    async def _until_ended(self, child: _Child) -> None:
        await child.process.wait()
        if self._seated.get(child.seat) is child.process:
            del self._seated[child.seat]
            # So that its siblings stop waiting for it.
            self._seats.clear(child.seat)

    def _environment(self, number: int, inherited: Inherited) -> dict[str, str]:
        ours = {
            "admin_address": "127.0.0.1:0",
            "instance": f"{self._settings.instance}-{number}",
            "processes": "1",
            "shared_ports": str(inherited),
            "parent_pid": str(os.getpid()),
        }
        if self._settings.state_dir is not None:
            ours["state_dir"] = str(self._settings.state_dir / f"process-{number}")
            Path(ours["state_dir"]).mkdir(parents=True, exist_ok=True)
        return {**self._environ, **{variable_name(name): value for name, value in ours.items()}}

    async def _until_ready(self, child: _Child) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SCRAPE_TIMEOUT)) as session:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_START_TIMEOUT):
                    while True:
                        if await _is_ready(session, child):
                            return
                        await asyncio.sleep(_POLL / 5)

    async def _stop(self, child: _Child) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
        try:
            async with asyncio.timeout(self._settings.drain_s + _MARGIN):
                await self._until_ended(child)
        except TimeoutError:
            log.error("a process does not stop: killed", pid=child.process.pid)
            child.process.kill()
            await self._until_ended(child)


async def supervise(
    environ: Mapping[str, str],
    settings: RouterSettings,
    stop: asyncio.Event,
    on_listening: Callable[[RouterPorts], None] = lambda _: None,
) -> None:
    """Run `settings.processes` routers until `stop` is set. Raises `SettingsError` if a port cannot be had."""
    from berth.admin import serve_admin

    loop = asyncio.get_running_loop()
    with open_shared(settings) as shared:
        rest, grpc = (listening.getsockname()[1] for listening in (shared.rest, shared.grpc))
        processes = Processes(settings, environ, shared)
        registry = CollectorRegistry()
        registry.register(_Children(processes))
        async with (
            serve_admin(settings.admin_address, processes.readiness, registry) as admin,
            _running(processes, settings.processes),
        ):
            log.info("listening", rest_port=rest, grpc_port=grpc, admin_port=admin, processes=processes.pids)
            on_listening(RouterPorts(rest, grpc, admin))
            replacements: set[asyncio.Task[None]] = set()

            def renew() -> None:
                task = loop.create_task(processes.renew_all())
                replacements.add(task)
                task.add_done_callback(replacements.discard)

            loop.add_signal_handler(signal.SIGHUP, renew)
            try:
                await stop.wait()
                # First no new connections; then the children are asked to drain.
                shared.end_listening()
            finally:
                loop.remove_signal_handler(signal.SIGHUP)
                for task in replacements:
                    task.cancel()


@asynccontextmanager
async def _running(processes: Processes, count: int) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        firsts = [asyncio.Event() for _ in range(count)]
        kept = [tasks.create_task(processes.keep(number, first)) for number, first in enumerate(firsts)]
        kept.append(tasks.create_task(processes.watch()))
        try:
            for first in firsts:
                await first.wait()
            yield
        finally:
            for task in kept:
                task.cancel()
            await processes.stop()


class _Children(Collector):
    """The children's series, each with the number of its process."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for number, text in sorted(self._processes.metrics.items()):
            for family in text_string_to_metric_families(text):
                kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {**sample.labels, "process": str(number)}
                    kept.add_sample(sample.name, labels, sample.value, sample.timestamp)
        yield from families.values()


async def _is_ready(session: aiohttp.ClientSession, child: _Child) -> bool:
    return await _get(session, child, "/readyz") is not None


async def _get(session: aiohttp.ClientSession, child: _Child, path: str) -> str | None:
    try:
        async with session.get(child.admin + path) as response:
            return await response.text() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None
