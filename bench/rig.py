"""The router as it is deployed, a process of its own with everything switched on, and scripted replicas behind it.

Its route table comes through a real feed, over gRPC, and is acknowledged before anything is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bench import payload
from bench.peers.launch import Side, Upstream
from bench.processes import DidNotStart, Process, free_port, running, wait_listening
from bench.service import Service
from berth.auth.keys import digest
from berth.auth.peer import PeerCredential
from berth.ids import ModelKey
from berth.model import (
    ApiKey,
    ModelRoute,
    Order,
    ReplicaAddress,
    RouteDelta,
    RouteTable,
    Serving,
    TenantLimits,
    VersionRoute,
)
from berth.route_delta import snapshot
from berth.settings import variable_name
from berth.states import Role
from doubles.scripted_route_feed import Opened, ScriptedRouteFeed
from router.settings import RouterSettings

_CORES = sorted(os.sched_getaffinity(0))
TESTED = str(_CORES[0])
"""The core of the process under test, as taskset writes it."""
OTHERS = ",".join(map(str, _CORES[1:])) or TESTED
"""The cores of everything else: clients, upstreams, feed. With one core in all, the same one."""
ALL = ",".join(map(str, _CORES))


class Counters(NamedTuple):
    """Requests that a replica has seen, answered, and had taken back."""

    arrived: int
    answered: int
    withdrawn: int


class Replicas:
    """One process of `bench.upstream`."""

    def __init__(self, process: Process, where: Mapping[str, Upstream]) -> None:
        self.where = where
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def serve(self, service: Service) -> None:
        """From now on, answers take as long as `service` says."""
        await self._ask({"service": asdict(service)})

    async def counters(self) -> dict[str, Counters]:
        return {name: Counters(*counts) for name, counts in (await self._ask({})).items()}

    async def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await _line(self._process)


@asynccontextmanager
async def replicas(names: Sequence[str], folder: Path, *, slots: int = 4) -> AsyncIterator[Replicas]:
    """Replicas of these names in one process."""
    argv = [sys.executable, "-m", "bench.upstream", "--slots", str(slots), *names]
    async with running(argv, cores=OTHERS, log=folder / f"upstream-{names[0]}.log", talks=True) as process:
        where = {name: Upstream(**ports) for name, ports in (await _line(process)).items()}
        yield Replicas(process, where)


class Router(NamedTuple):
    """`feeds`: the stream of each of its processes."""

    side: Side
    feeds: tuple[Opened, ...]

    async def route(self, table: RouteTable) -> None:
        """Have it route by `table`; returns when all its processes say that they do."""
        await self.send(snapshot(table))

    async def send(self, delta: RouteDelta) -> None:
        """Have it apply `delta`; returns when all its processes have."""
        for feed in self.feeds:
            feed.send(delta)
        async with asyncio.timeout(60):
            for feed in self.feeds:
                await feed.acknowledged(delta.order)


@asynccontextmanager
async def router(
    table: RouteTable,
    folder: Path,
    settings: Mapping[str, object],
    *,
    cores: str = TESTED,
    name: str = "berth",
    checkout: Path | None = None,
) -> AsyncIterator[Router]:
    """`python -m router`, routing by `table`; that of another `checkout`, run by the environment in its `.venv`.

    Settings that this router does not have are an error of ours.

    Raises `DidNotStart`.
    """
    if strange := settings.keys() - RouterSettings.model_fields.keys():
        raise ValueError(f"the router has no settings {strange}")
    token = secrets.token_hex(32)
    folder = folder / name
    folder.mkdir()
    (folder / "credential").write_text(token)
    log = folder / "router.log"
    async with AsyncExitStack() as stack:
        feed = await stack.enter_async_context(ScriptedRouteFeed().serve(PeerCredential.from_token(token)))
        http, grpc = free_port(), free_port()
        chosen: dict[str, object] = {
            "route_feeds": feed.address,
            "credential_file": folder / "credential",
            "http_address": f"127.0.0.1:{http}",
            "grpc_address": f"127.0.0.1:{grpc}",
            "instance": "bench",
            **settings,
        }
        env = {variable_name(field): str(value) for field, value in chosen.items()}
        python = sys.executable if checkout is None else str(checkout / ".venv/bin/python")
        argv = [python, "-m", "router"]
        process = await stack.enter_async_context(running(argv, cores=cores, log=log, env=env, folder=checkout))
        expected = int(str(settings.get("processes", 1)))
        try:
            async with asyncio.timeout(30):
                feeds = [await feed.opened.get() for _ in range(expected)]
        except TimeoutError:
            raise DidNotStart(f"of {expected} router processes not all asked for routes") from None
        running_router = Router(Side(name, process.pid, http, grpc), tuple(feeds))
        await running_router.route(table)
        for port in (http, grpc):
            await wait_listening(port, process, log)
        yield running_router


def table_of(where: Mapping[str, Upstream], *, generation: int = 1) -> RouteTable:
    """One tenant with limits that never bite, one model on all replicas."""
    key = ModelKey(payload.TENANT, payload.MODEL)
    addresses = {
        name: ReplicaAddress(name, "bench", "local", f"{name}-1", "127.0.0.1:1", upstream.grpc, upstream.http)
        for name, upstream in where.items()
    }
    entry = VersionRoute(payload.VERSION, tuple(addresses))
    api_key = ApiKey(digest(payload.KEY), payload.TENANT, Role.DEVELOPER)
    return RouteTable(
        order=Order(1, generation),
        models={key: ModelRoute(key, Serving.only(payload.VERSION), (entry,))},
        replicas=addresses,
        keys={api_key.sha256: api_key},
        limits={payload.TENANT: TenantLimits(payload.TENANT, requests_per_second=1e9, max_concurrent=100_000)},
    )


def accept_settings(parser: argparse.ArgumentParser) -> None:
    """Add the option `--set NAME=VALUE`, whose value is a list of pairs."""
    parser.add_argument(
        "--set", metavar="NAME=VALUE", type=_pair, action="append", default=[], help="a setting of the router"
    )


def accept_checkout(parser: argparse.ArgumentParser) -> None:
    """Add the option `--beside DIR`, a path or None."""
    parser.add_argument(
        "--beside",
        metavar="DIR",
        type=lambda text: Path(text).resolve(strict=True),
        help="also measure the router of another checkout (`git worktree add DIR COMMIT`; `make compile` there)",
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("NAME=VALUE is expected")
    return name, value


async def _line(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        document: dict[str, Any] = json.loads(await process.stdout.readline())
    return document
