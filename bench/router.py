"""`make bench-router`: what the router costs, next to Envoy, nginx, HAProxy and a pass-through of grpc.aio.

All sides run at once, each alone with its core while it is measured; the load, the replicas and the feed have the
others. A figure is requests per second of CPU time that the process (and its children) used: on a machine with other
work, that says more than the clock. Each round measures every side in turn; ratios are taken within a round, and the
median round counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench import h2load, payload
from bench.compare import BESIDE, KEPT, OURS, Rounds, medians, quantile, ratios
from bench.h2load import BadLoad, Load, Shape
from bench.peers import envoy, grpc_aio, haproxy, nginx
from bench.peers.launch import Missing, Side
from bench.processes import DidNotStart, cpu_seconds
from bench.results import Row, show, write
from bench.rig import (
    ALL,
    OTHERS,
    TESTED,
    Replicas,
    Router,
    accept_checkout,
    accept_settings,
    replicas,
    router,
    table_of,
)
from bench.route_table import measure_lookups, measure_updates
from router.settings import RouterSettings

_GRPC = (Shape("gRPC", 32, 1), Shape("gRPC", 4, 8))
_HTTP = (Shape("HTTP/1.1", 32),)
_LARGE = (Shape("gRPC", 8, 1, payload.LARGE), Shape("HTTP/1.1", 8, 1, payload.LARGE))
_ALONE = (Shape("gRPC", 1, 1), Shape("HTTP/1.1", 1))


class Plan(NamedTuple):
    """Rounds, seconds per measurement, models in the table, the words that a row must contain, settings of the router
    beyond its defaults, and another checkout whose router is measured too."""

    rounds: int
    seconds: float
    models: int
    only: str
    settings: Mapping[str, object]
    beside: Path | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """What runs while it is measured. `notes` say what could not be."""

    plan: Plan
    folder: Path
    behind: Replicas
    ours: Router
    sides: list[Side]
    notes: list[str]
    detail: dict[str, dict[str, float]]

    def note(self, line: str) -> None:
        self.notes.append(line)
        _say(line)

    async def load(self, side: Side, shape: Shape, seconds: float, *, latencies: bool = False) -> Load:
        """Raises `BadLoad`."""
        return await h2load.drive(shape, _port(side, shape), seconds, self.folder, latencies=latencies)


async def measure(plan: Plan, folder: Path, notes: list[str], detail: dict[str, dict[str, float]]) -> list[Row]:
    """All rows; `notes` and `detail` are added to."""
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(replicas(["replica-a", "replica-b"], folder))
        ours = await stack.enter_async_context(router(table_of(behind.where), folder, plan.settings))
        bench = Bench(plan, folder, behind, ours, [ours.side], notes, detail)
        if plan.beside is not None:
            other = router(table_of(behind.where), folder, plan.settings, name=BESIDE, checkout=plan.beside)
            bench.sides.append((await stack.enter_async_context(other)).side)
        await _start_peers(stack, bench)
        rows: list[Row] = []
        for shape in (*_GRPC, *_HTTP, *_LARGE):
            if plan.only in str(shape):
                rows += _rows(shape, await _throughput(bench, shape))
        for shape in _ALONE:
            if plan.only in str(shape):
                rows += await _or_note(bench, _added_latency(bench, shape))
        if plan.only in "2 processes":
            rows += await _or_note(bench, _two_processes(bench))
        if plan.only in "models":
            _say("table of many models")
            rows += measure_lookups(plan.models)
            rows += await measure_updates(ours, plan.models, plan.rounds)
        return rows


async def _or_note(bench: Bench, rows: Awaitable[list[Row]]) -> list[Row]:
    """`rows`, or none and a note of what went wrong: the other measurements still count."""
    try:
        return await rows
    except (BadLoad, DidNotStart) as bad:
        bench.note(f"failed: {bad}")
        return []


async def _start_peers(stack: AsyncExitStack, bench: Bench) -> None:
    upstreams = list(bench.behind.where.values())
    for peer in (envoy, haproxy, nginx, grpc_aio):
        own = bench.folder / peer.__name__.rpartition(".")[2]
        own.mkdir()
        # nginx's worker leaves root's identity behind and still writes here.
        own.chmod(0o777)
        try:
            bench.sides.append(await stack.enter_async_context(peer.start(upstreams, own, TESTED)))
        except Missing as missing:
            bench.note(f"missing: {missing}")


async def _throughput(bench: Bench, shape: Shape) -> dict[str, list[float]]:
    """Requests per CPU-second, by side and round."""
    found: dict[str, list[float]] = defaultdict(list)
    busy: dict[str, list[_Used]] = defaultdict(list)
    able = [side for side in bench.sides if _port(side, shape)]
    for number in range(bench.plan.rounds):
        for side in able:
            try:
                # The first round opens upstream connections and fills caches: not what is measured.
                if number == 0:
                    await bench.load(side, shape, max(1.0, bench.plan.seconds / 4))
                used = await _cost(bench, side, shape)
            except BadLoad as bad:
                bench.note(f"{side.name} failed: {bad}")
                continue
            found[side.name].append(used.requests / used.cpu)
            busy[side.name].append(used)
            figures = f"{found[side.name][-1]:9,.0f} /CPU-s  {used.rate:9,.0f} /s  {used.core:4.0%} of its core"
            _say(f"{shape}  {side.name:9s} {figures}")
    for name, rounds in busy.items():
        bench.detail[f"{shape} / {name}"] = {
            "requests per CPU-second": statistics.median(found[name]),
            "requests per second": statistics.median(used.rate for used in rounds),
            "share of its core": statistics.median(used.core for used in rounds),
        }
    return found


class _Used(NamedTuple):
    requests: int
    cpu: float
    rate: float
    """Per second of the clock."""
    core: float
    """CPU-seconds per second. A proxy that is not kept busy reads and writes less at a time, and costs more."""
    evenness: float
    """CPU of all processes over that of the busiest: 2.0 when two share the work equally."""


async def _cost(bench: Bench, side: Side, shape: Shape) -> _Used:
    """Raises `BadLoad` when requests failed, or were answered by something other than the replicas."""
    seen = await _arrived(bench.behind)
    before = cpu_seconds(side.pid)
    load = await bench.load(side, shape, bench.plan.seconds)
    used = {pid: spent - before.get(pid, 0.0) for pid, spent in cpu_seconds(side.pid).items()}
    seen = await _arrived(bench.behind) - seen
    if seen < load.requests:
        raise BadLoad(f"{shape}: {load.requests} answers, of which only {seen} came from the replicas")
    cpu = max(0.01, sum(used.values()))
    return _Used(load.requests, cpu, load.requests / load.seconds, cpu / load.seconds, cpu / max(0.01, *used.values()))


async def _arrived(behind: Replicas) -> int:
    return sum(counters.arrived for counters in (await behind.counters()).values())


def _rows(shape: Shape, found: Rounds) -> list[Row]:
    what = f"{shape}: requests per CPU-second"
    targets: dict[str, float | None]
    if shape.size >= payload.LARGE_FROM:
        targets = {"envoy": 1.0, "haproxy": None, "nginx": None, "grpc.aio": None}
    elif shape.wire == "gRPC":
        targets = {"envoy": 1.5, "grpc.aio": 10.0, "haproxy": None}
    else:
        targets = {"envoy": 1.5, "nginx": 0.6, "haproxy": None}
    rows = ratios(what, found, {**targets, BESIDE: KEPT})
    if not rows and found.get(OURS):
        rows = [Row(what, medians(found)[OURS], "/CPU-s", None, "higher", medians(found))]
    return rows


async def _added_latency(bench: Bench, shape: Shape) -> list[Row]:
    """What a hop adds to a direct call, one request at a time, in microseconds."""
    compared = [side for side in bench.sides if side.name in (OURS, BESIDE, "envoy")]
    upstream = next(iter(bench.behind.where.values()))
    direct = Side("direct", 0, _port_of(upstream.http), _port_of(upstream.grpc))
    added: dict[float, dict[str, list[float]]] = {0.5: defaultdict(list), 0.99: defaultdict(list)}
    for _ in range(bench.plan.rounds):
        seen = {}
        for side in (direct, *compared):
            seen[side.name] = (await bench.load(side, shape, bench.plan.seconds, latencies=True)).latencies
        for share, found in added.items():
            base = quantile(seen[direct.name], share)
            found[direct.name].append(base * 1e6)
            for side in compared:
                # Never nothing: a ratio of noise is no ratio.
                found[side.name].append(max(1.0, (quantile(seen[side.name], share) - base) * 1e6))
    for share, found in added.items():
        figures = ", ".join(f"{name} {value:,.0f} µs" for name, value in medians(found).items())
        _say(f"{shape}  p{share * 100:g}: {figures}")
    rows = []
    for share, found in added.items():
        what = f"{shape} at a time: added p{share * 100:g} (µs)"
        one = ratios(what, found, {"envoy": 1.0, BESIDE: 1 / KEPT}, "lower")
        rows += one or [Row(what, medians(found)[OURS], "µs", None, "lower", medians(found))]
    return rows


async def _two_processes(bench: Bench) -> list[Row]:
    """Efficiency and evenness of two processes on one port, as a multiple of what one can do with its core.

    Throughput by the clock would need cores of their own for the load and the replicas: on two cores the two processes
    would be measured fighting the load generator.
    """
    if "processes" not in RouterSettings.model_fields:
        bench.note("not available: 2 processes (the router has no setting `processes`)")
        return []
    shape = Shape("gRPC", 32, 1)
    found: dict[str, list[float]] = {"one": [], "two": []}
    table = table_of(bench.behind.where)
    async with router(table, bench.folder, {**bench.plan.settings, "processes": 2}, cores=ALL, name="berth-2") as two:
        await bench.load(two.side, shape, 1.0)
        for _ in range(bench.plan.rounds):
            for name, side in (("one", bench.ours.side), ("two", two.side)):
                used = await _cost(bench, side, shape)
                found[name].append(used.requests / used.cpu * (used.evenness if name == "two" else 1.0))
                _say(f"{name} process(es) {used.requests / used.cpu:9,.0f} /CPU-s, evenness {used.evenness:.2f}")
    values = [two / one for one, two in zip(found["one"], found["two"], strict=True)]
    return [Row("2 processes, over one", statistics.median(values), "x", 1.8, "higher", medians(found))]


def _port(side: Side, shape: Shape) -> int:
    return side.grpc if shape.wire == "gRPC" else side.http


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--only", default="", help="only what has these words in its name, such as 'gRPC 32'")
    accept_settings(parser)
    accept_checkout(parser)
    given = parser.parse_args()
    h2load.require()
    plan = Plan(given.rounds, given.seconds, 100_000, given.only, dict(given.set), given.beside)
    if given.quick:
        plan = plan._replace(rounds=1, seconds=1.0, models=5_000)
    os.sched_setaffinity(0, map(int, OTHERS.split(",")))
    began = os.getloadavg()[0]
    notes: list[str] = [f"the router runs with {plan.settings or 'its defaults'}"]
    detail: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        rows = asyncio.run(measure(plan, Path(folder), notes, detail))
    notes.append(f"load average at the start {began:.1f}, at the end {os.getloadavg()[0]:.1f}")
    write("router", plan.rounds, rows, notes, detail)
    show("Router", rows)
    for note in notes:
        _say(note)


if __name__ == "__main__":
    main()
