"""A local stack: everything started, made ready, and followed up. `berth up`, the demo and whole-process tests use it.

Programs start all at once, because most of their start is importing, and each waits for those it needs. Workers are
started from what was known last time, before the controller can be asked.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog

from berth.auth.keys import new_key
from berth.client.clients import AsyncBerth
from berth.errors import BerthError, Conflict, NotFound, Unauthenticated
from berth.local.blueprint import CELL, Blueprint, Endpoints, StackOptions
from berth.local.crew import WorkerSpec, crew_of, plan_crew, wanted_crew
from berth.local.home import Home, HomeInUse, read_json, write_private
from berth.local.leftovers import end_leftovers
from berth.local.ports import NoFreePort, PortBook
from berth.local.postgres import PostgresError, PostgresServer
from berth.local.programs import Postgres
from berth.local.supervisor import ChildState, ChildView, ProgramFailed, Supervisor
from berth.local.triton_env import Say, TritonUnavailable, ensure_triton
from berth.reconcile import Again, Outcome, Repeater
from berth.states import Role, Runtime

log = structlog.get_logger(__name__)

DEFAULT_TENANT = "default"
_DEFAULT_WORKERS = 2
_READY_TIMEOUT_S = 60.0
_FOLLOW_EVERY_S = 0.5
_SERVING_POLL_S = 0.05

OnChange = Callable[[ChildView], None]
STACK_ERRORS = (HomeInUse, NoFreePort, PostgresError, ProgramFailed, TritonUnavailable)
"""Why a stack cannot be had here. Their texts are for the person who asked for it."""

_WORKER = "worker-"


@dataclass(frozen=True, slots=True)
class _WantedJob:
    """The job that `berth up` itself sees to."""

    name: str
    runtime: str
    replicas: int
    memory_per_replica: int
    cell: str = CELL


@dataclass(slots=True)
class Stack:
    """A stack that is up. The admin key lets its holder do everything; `default_key` is a developer's."""

    home: Home
    endpoints: Endpoints
    supervisor: Supervisor
    client: AsyncBerth
    """A client with the admin key."""
    admin_key: str = field(repr=False)
    default_key: str = field(repr=False, default="")
    started_in_s: float = 0.0
    serving: int = 0
    """Versions that were being served, on every replica of their job, when the stack was called ready."""

    def pid_of(self, program: str) -> int | None:
        """The process id of a program such as `router-0` or `worker-onnxruntime-1`."""
        return next((view.pid for view in self.supervisor.children() if view.name == program), None)


@asynccontextmanager
async def open_stack(
    options: StackOptions, on_change: OnChange | None = None, say: Say = log.info
) -> AsyncIterator[Stack]:
    """A stack that is ready, in `options.root`, until the context is left; then it drains and stops.

    `say` is told of what takes long. Raises one of `STACK_ERRORS`.
    """
    began = time.monotonic()
    home = Home(options.root.resolve())
    with home.hold():
        await asyncio.to_thread(end_leftovers, home.processes, frozenset({Postgres.name}))
        admin_key = home.secret(home.admin_key, new_key)
        home.make_credential()
        blueprint = Blueprint(options, home, PortBook(random.Random()))
        endpoints = blueprint.endpoints
        async with (
            AsyncBerth(admin_key, controller=endpoints.controllers[0], router=endpoints.rest[0]) as client,
            Supervisor(home.processes, on_change=on_change) as supervisor,
        ):
            stack = Stack(home, endpoints, supervisor, client, admin_key)
            crew = _Crew(home, blueprint, supervisor, partial(ensure_triton, options.triton_home, say))
            await _start(options, home, blueprint, supervisor, crew)
            await _ensure_job(client, options)
            stack.default_key = await _ensure_default_tenant(client, home)
            jobs = await client.jobs.list()
            await crew.follow(wanted_crew(jobs, CELL))
            await _all_ready(supervisor)
            stack.serving = await _await_serving(client)
            stack.started_in_s = time.monotonic() - began
            supervisor.beside(_follow_jobs(client, crew), "follow jobs")
            yield stack


class _Crew:
    """The worker processes: what they were started with is remembered here, and whether they live in the supervisor."""

    def __init__(
        self, home: Home, blueprint: Blueprint, supervisor: Supervisor, prepare_triton: Callable[[], None]
    ) -> None:
        self._home = home
        self._blueprint = blueprint
        self._supervisor = supervisor
        self._prepare_triton = prepare_triton
        self._triton_is_there = False
        self._running: dict[str, WorkerSpec] = {}

    async def start(self, specs: Iterable[WorkerSpec]) -> None:
        """Start workers. Raises `TritonUnavailable`, after those that do without Triton have been started."""
        for spec in sorted(specs, key=lambda spec: spec.runtime == Runtime.TRITON):
            if spec.runtime == Runtime.TRITON and not self._triton_is_there:
                await asyncio.to_thread(self._prepare_triton)
                self._triton_is_there = True
            self._running[spec.replica] = spec
            self._supervisor.start(self._blueprint.worker(spec))

    async def follow(self, wanted: dict[str, WorkerSpec]) -> None:
        """Take one step towards `wanted`: returns when what had to stop has drained and stopped."""
        ready = {
            view.name.removeprefix(_WORKER)
            for view in self._supervisor.children()
            if view.state is ChildState.READY and view.name.startswith(_WORKER)
        }
        plan = plan_crew(wanted, self._running, ready)
        if plan.start or plan.stop:
            log.info("workers follow the jobs", start=[spec.replica for spec in plan.start], stop=plan.stop)
        async with asyncio.TaskGroup() as stopping:
            for replica in plan.stop:
                stopping.create_task(self._stop(replica))
        try:
            await self.start(plan.start)
        finally:
            self._remember()

    async def _stop(self, replica: str) -> None:
        await self._supervisor.stop(f"{_WORKER}{replica}")
        del self._running[replica]

    def _remember(self) -> None:
        text = json.dumps([list(spec) for spec in self._running.values()])
        if not self._home.workers.exists() or self._home.workers.read_text() != text:
            write_private(self._home.workers, text)


async def _start(options: StackOptions, home: Home, blueprint: Blueprint, supervisor: Supervisor, crew: _Crew) -> None:
    """Start everything, and return when the first controller answers."""
    # All others wait for the controller, and it imports the most. So it comes first, even before its database: it waits
    # for that by itself.
    database_url = options.database_url
    if not database_url:
        home.postgres.parent.mkdir(mode=0o700, exist_ok=True)
        server = await asyncio.to_thread(PostgresServer, home.postgres)
        database_url = server.url
        supervisor.start(Postgres(server))
    controllers = blueprint.controllers(database_url)
    for command in (*controllers, *blueprint.synchronizers(), *blueprint.routers()):
        supervisor.start(command)
    await crew.start(_expected_crew(options, home))
    await supervisor.wait_ready(controllers[0].name, _READY_TIMEOUT_S)


def _expected_crew(options: StackOptions, home: Home) -> list[WorkerSpec]:
    """A guess at the workers to come: those that ran last and those asked for now. Corrected a moment later."""
    try:
        known = [WorkerSpec(*entry) for entry in read_json(home.workers) or []]
    except TypeError:
        known = []
    mine = [spec for spec in known if spec.job == options.runtime]
    if options.workers is not None or not mine:
        mine = list(crew_of(_job_of(options)))
    return [spec for spec in known if spec.job != options.runtime] + mine


def _job_of(options: StackOptions) -> _WantedJob:
    replicas = _DEFAULT_WORKERS if options.workers is None else options.workers
    return _WantedJob(options.runtime, options.runtime, replicas, options.memory_per_worker)


async def _ensure_job(client: AsyncBerth, options: StackOptions) -> None:
    """The job named after the runtime exists, with as many replicas as were asked for, if a number was."""
    wanted = _job_of(options)
    try:
        job = await client.jobs.get(wanted.name)
    except NotFound:
        await client.jobs.create(
            wanted.name,
            runtime=wanted.runtime,
            replicas=wanted.replicas,
            memory_per_replica=wanted.memory_per_replica,
            cell=CELL,
        )
        return
    if options.workers is not None and job.replicas != options.workers:
        await client.jobs.update(wanted.name, replicas=options.workers)


async def _ensure_default_tenant(client: AsyncBerth, home: Home) -> str:
    """The key of a developer of the tenant `default`, made anew where the one on disk is not accepted."""
    try:
        await client.tenants.create(DEFAULT_TENANT)
    except Conflict:
        log.debug("the default tenant is there")
    key = home.default_key.read_text().strip() if home.default_key.exists() else ""
    if key and await _is_accepted(key, client):
        return key
    created = await client.of(DEFAULT_TENANT).keys.create(Role.DEVELOPER, "made by berth up")
    write_private(home.default_key, created.secret + "\n")
    return created.secret


async def _is_accepted(key: str, client: AsyncBerth) -> bool:
    async with client.with_key(key) as other:
        try:
            return (await other.whoami()).tenant == DEFAULT_TENANT
        except Unauthenticated:
            return False


async def _all_ready(supervisor: Supervisor) -> None:
    async with asyncio.timeout(_READY_TIMEOUT_S):
        for view in supervisor.children():
            await supervisor.wait_ready(view.name, _READY_TIMEOUT_S)


async def _await_serving(client: AsyncBerth) -> int:
    """Wait, within limits, until all replicas of a job serve what is assigned to it; return the number of versions."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while True:
        assigned = {(a.tenant, a.model, a.version, a.job) for a in await client.assignments() if not a.releasing}
        jobs = {job.name: job.replicas for job in await client.jobs.list() if job.cell == CELL}
        replicas = await client.replicas()
        served = 0
        settled = True
        for tenant, model, version, job in assigned:
            states = [
                servable
                for replica in replicas
                if replica.job == job and replica.connected
                for servable in replica.servables
                if (servable.tenant, servable.model, servable.version) == (tenant, model, version)
            ]
            routed = sum(servable.routed for servable in states)
            failed = sum(servable.state == "error" for servable in states)
            served += routed >= jobs.get(job, 0) > 0
            settled &= routed + failed >= jobs.get(job, 0)
        if settled or time.monotonic() > deadline:
            return served
        await asyncio.sleep(_SERVING_POLL_S)


async def _follow_jobs(client: AsyncBerth, crew: _Crew) -> None:
    """Keep local workers as many as the jobs say. While no controller answers, nothing changes."""

    async def look() -> Outcome:
        try:
            jobs = await client.jobs.list()
        except BerthError as error:
            log.debug("cannot read the jobs", error=str(error))
            return Again(_FOLLOW_EVERY_S)
        try:
            await crew.follow(wanted_crew(jobs, CELL))
        except TritonUnavailable as error:
            log.error("no worker for Triton can be started", reason=str(error))
        return Again(_FOLLOW_EVERY_S)

    await Repeater(look).run()
