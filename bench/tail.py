"""`make bench-tail`: what hedging does to the slowest requests, and what it costs.

Three replicas, each a process with four slots and a queue, take 1 ms plus an exponential of 1 ms. Then something goes
wrong with them. The same fixed schedule of requests goes through a router that does not hedge, one that does, and
Envoy with `hedge_on_per_try_timeout` at 10 ms, in turn. Of several rounds the median of each figure counts: pooled,
one round in which the machine was busy with something else would be the whole tail.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from bench import open_load
from bench.compare import BESIDE, KEPT
from bench.open_load import Outcome, Sample, median, summarize
from bench.peers import envoy
from bench.peers.launch import Missing, Side, Upstream
from bench.results import Row, show, write
from bench.rig import OTHERS, TESTED, Replicas, accept_checkout, accept_settings, replicas, router, table_of
from bench.service import Service
from router.settings import RouterSettings

NONE, BERTH, ENVOY = "none", "berth", "envoy"
HEALTHY, STRAGGLERS, ONE_SLOW, ALL_SLOW, FROZEN = (
    "all healthy", "1 % take 200 ms", "one of three +50 ms", "all x10", "one frozen for 2 s",
)  # fmt: skip

_BASE = Service(least_ms=1.0, mean_ms=1.0)
_NAMES = ("replica-a", "replica-b", "replica-c")
_HEDGE_MS = 10.0
_FREEZE_AFTER_S, _FREEZE_S = 0.5, 2.0

WITHOUT: Mapping[str, object] = {"hedge_delay_ms": 0}


class Plan(NamedTuple):
    """`settings`: those of the router that hedges, beyond its defaults. `beside`: another checkout, measured too."""

    rounds: int
    rate: float
    seconds: float
    settle: float
    settings: Mapping[str, object]
    beside: Path | None = None


async def measure(plan: Plan, folder: Path, notes: list[str]) -> dict[tuple[str, str], Outcome]:
    """What became of the requests, by scenario and side."""
    rounds: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        behind = [await stack.enter_async_context(replicas([name], folder)) for name in _NAMES]
        sides = await _sides(stack, behind, plan, folder, notes)
        for number in range(plan.rounds):
            for scenario, bring_about in _SCENARIOS.items():
                for name, side in sides.items():
                    await bring_about(behind)
                    await open_load.drive(side.grpc, plan.rate, plan.settle)
                    before = await _arrived(behind)
                    found = await _drive(scenario, side, behind, plan)
                    outcome = summarize(found, await _arrived(behind) - before)
                    rounds[scenario, name].append(outcome)
                    _say(f"round {number + 1}  {scenario:20s} {_line(name, outcome)}")
    return {key: median(outcomes) for key, outcomes in rounds.items()}


async def _sides(
    stack: AsyncExitStack, behind: list[Replicas], plan: Plan, folder: Path, notes: list[str]
) -> dict[str, Side]:
    where: dict[str, Upstream] = {name: upstream for each in behind for name, upstream in each.where.items()}
    table = table_of(where)
    sides = {}
    ours: list[tuple[str, Mapping[str, object], Path | None]] = [(NONE, WITHOUT, None), (BERTH, plan.settings, None)]
    if plan.beside is not None:
        ours.append((BESIDE, plan.settings, plan.beside))
    for name, settings, checkout in ours:
        running = await stack.enter_async_context(router(table, folder, settings, name=name, checkout=checkout))
        sides[name] = running.side
    (folder / "envoy").mkdir()
    try:
        start = envoy.start(list(where.values()), folder / "envoy", TESTED, hedge_ms=_HEDGE_MS)
        sides[ENVOY] = await stack.enter_async_context(start)
    except Missing as missing:
        notes.append(f"missing: {missing}")
        _say(notes[-1])
    return sides


async def _drive(scenario: str, side: Side, behind: list[Replicas], plan: Plan) -> list[Sample]:
    if scenario != FROZEN:
        return await open_load.drive(side.grpc, plan.rate, plan.seconds)
    async with asyncio.TaskGroup() as tasks:
        seconds = max(plan.seconds, _FREEZE_AFTER_S + _FREEZE_S + 0.5)
        load = tasks.create_task(open_load.drive(side.grpc, plan.rate, seconds))
        await asyncio.sleep(_FREEZE_AFTER_S)
        os.kill(behind[0].pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(_FREEZE_S)
        finally:
            os.kill(behind[0].pid, signal.SIGCONT)
    return load.result()


async def _set(behind: list[Replicas], *services: Service) -> None:
    for each, service in zip(behind, services, strict=True):
        await each.serve(service)


def _same(service: Service) -> Callable[[list[Replicas]], Awaitable[None]]:
    return lambda behind: _set(behind, service, service, service)


_SCENARIOS: Mapping[str, Callable[[list[Replicas]], Awaitable[None]]] = {
    HEALTHY: _same(_BASE),
    STRAGGLERS: _same(replace(_BASE, slow_share=0.01, slow_ms=200.0)),
    ONE_SLOW: lambda behind: _set(behind, replace(_BASE, extra_ms=50.0), _BASE, _BASE),
    ALL_SLOW: _same(replace(_BASE, times=10.0)),
    FROZEN: _same(_BASE),
}


async def _arrived(behind: list[Replicas]) -> int:
    return sum([counters.arrived for each in behind for counters in (await each.counters()).values()])


def rows_of(outcomes: Mapping[tuple[str, str], Outcome], budget: float) -> list[Row]:
    """The figures that have a target. `budget`: the share of extra requests that hedging may cause."""

    def sides(scenario: str, figure: Callable[[Outcome], float]) -> dict[str, float]:
        return {side: figure(outcome) for (name, side), outcome in outcomes.items() if name == scenario}

    def row(scenario: str, what: str, value: float, target: float, *, unit: str = "x",
            of: Callable[[Outcome], float], better: Literal["higher", "lower"] = "lower") -> Row:  # fmt: skip
        return Row(f"{scenario}: {what}", value, unit, target, better, sides(scenario, of))

    def p99(outcome: Outcome) -> float:
        return outcome.p99 * 1000.0

    def p999(outcome: Outcome) -> float:
        return outcome.p999 * 1000.0

    def extra(outcome: Outcome) -> float:
        return outcome.extra * 100.0

    def goodput(outcome: Outcome) -> float:
        return outcome.goodput

    ours = {name: outcomes[name, BERTH] for name in _SCENARIOS}
    none = {name: outcomes[name, NONE] for name in _SCENARIOS}
    slow, healthy = ours[ONE_SLOW], ours[HEALTHY]
    percent = budget * 100.0
    lag, all_slow = ours[STRAGGLERS], ours[ALL_SLOW]
    rows = [
        row(STRAGGLERS, "p99.9 (ms) over no hedging", lag.p999 / none[STRAGGLERS].p999, 0.1, of=p999),
        row(STRAGGLERS, "extra load", extra(lag), 2.0, unit="%", of=extra),
        row(ONE_SLOW, "p99 (ms) over all healthy", slow.p99 / healthy.p99, 2.0, of=p99),
        row(ONE_SLOW, "extra load", extra(slow), percent, unit="%", of=extra),
        row(ALL_SLOW, "extra load", extra(all_slow), percent, unit="%", of=extra),
        row(ALL_SLOW, "goodput over no hedging", all_slow.goodput / none[ALL_SLOW].goodput, 0.99, of=goodput,
            better="higher"),
        row(FROZEN, "p99.9 (ms) over no hedging", ours[FROZEN].p999 / none[FROZEN].p999, 0.1, of=p999),
    ]  # fmt: skip
    if (STRAGGLERS, ENVOY) in outcomes:
        theirs = outcomes[STRAGGLERS, ENVOY]
        rows.insert(1, row(STRAGGLERS, "p99.9 (ms) over Envoy's hedge", lag.p999 / theirs.p999, 1.0, of=p999))
    for scenario in _SCENARIOS:
        if (scenario, BESIDE) in outcomes:
            before = outcomes[scenario, BESIDE]
            rows.append(row(scenario, "p99 (ms) over beside", ours[scenario].p99 / before.p99, 1 / KEPT, of=p99))
    return rows


def _budget(settings: Mapping[str, object]) -> float:
    """The share of extra requests that the router allows hedges, or hedges and retries together."""
    name = "hedge_share" if "hedge_share" in RouterSettings.model_fields else "extra_load"
    return float(str(settings.get(name, RouterSettings.model_fields[name].default)))


def _line(side: str, outcome: Outcome) -> str:
    quantiles = " ".join(f"{value * 1000.0:8.1f}" for value in outcome[1:5])
    return f"{side:6s} p50 p95 p99 p99.9 (ms) {quantiles}  good {outcome.goodput:7.2%}"


def _figures(outcome: Outcome) -> dict[str, float]:
    names = ("p50 ms", "p95 ms", "p99 ms", "p99.9 ms")
    quantiles = {name: seconds * 1000.0 for name, seconds in zip(names, outcome[1:5], strict=True)}
    return {**quantiles, "extra load %": outcome.extra * 100.0, "goodput %": outcome.goodput * 100.0}


def _show_all(outcomes: Mapping[tuple[str, str], Outcome]) -> None:
    table = Table("replicas", "hedging", "p50", "p95", "p99", "p99.9 ms", "extra load", "goodput")
    for (scenario, side), outcome in outcomes.items():
        quantiles = [f"{value * 1000.0:.1f}" for value in outcome[1:5]]
        table.add_row(scenario, side, *quantiles, f"{outcome.extra:+.1%}", f"{outcome.goodput:.2%}")
    Console().print(table)


_say = partial(print, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=400.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    accept_settings(parser)
    accept_checkout(parser)
    given = parser.parse_args()
    plan = Plan(given.rounds, given.rate, given.seconds, 1.0, dict(given.set), given.beside)
    if given.quick:
        plan = plan._replace(rounds=1, seconds=1.0, settle=0.5)
    os.sched_setaffinity(0, map(int, OTHERS.split(",")))
    notes: list[str] = [f"the router that hedges runs with {plan.settings or 'its defaults'}"]
    began = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = asyncio.run(measure(plan, Path(folder), notes))
    notes.append(f"load average at the start {began:.1f}, at the end {os.getloadavg()[0]:.1f}")
    rows = rows_of(outcomes, _budget(plan.settings))
    detail = {f"{scenario} / {side}": _figures(outcome) for (scenario, side), outcome in outcomes.items()}
    write("tail", plan.rounds, rows, notes, detail)
    _show_all(outcomes)
    show("Tails", rows)
    for note in notes:
        _say(note)


if __name__ == "__main__":
    main()
