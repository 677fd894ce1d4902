"""Puts the cores' own counts on the metrics page. They are read when it is scraped, so requests pay nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.core.attempts import Denial
from router.core.budget import Budgets
from router.core.hedging import HedgeEvent, Hedging, Unarmed
from router.core.selection import Cause, Selection

E = TypeVar("E", bound=Enum)


class CoreMetrics(Collector):
    """Hedges, ejections and what is left of the budget."""

    def __init__(self, registry: CollectorRegistry, hedging: Hedging, selection: Selection, budgets: Budgets) -> None:
        self._hedging = hedging
        self._selection = selection
        self._budgets = budgets
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        hedging = self._hedging
        yield _counter(
            "berth_router_hedges",
            "Second copies: sent; won (answered first); recalled (the loser was withdrawn under way); wasted (it could "
            "not be).",
            "event",
            HedgeEvent,
            hedging.events,
        )
        yield _counter(
            "berth_router_hedges_denied", "Second copies that were due and not sent.", "reason", Denial, hedging.denials
        )
        yield _counter(
            "berth_router_hedges_unarmed",
            "Requests that could have no second copy.",
            "reason",
            Unarmed,
            hedging.unarmed,
        )
        yield _counter("berth_router_ejections", "Replicas judged unfit.", "cause", Cause, self._selection.ejections)
        tokens = GaugeMetricFamily("berth_router_budget_tokens", "Extra copies in hand.", labels=["for"])
        tokens.add_metric(["all"], self._budgets.everything.tokens)
        tokens.add_metric(["hedges"], self._budgets.everything.hedge_tokens)
        yield tokens


def _counter(name: str, text: str, label: str, kinds: type[E], counts: Mapping[E, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for kind in kinds:
        family.add_metric([kind.value], counts.get(kind, 0))
    return family
