"""Puts on the metrics page what `Tallies` counted by model, version, replica and outcome."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from router.core.tallies import Labels, Tallies

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class ModelMetrics(Collector):
    def __init__(self, registry: CollectorRegistry, tallies: Tallies) -> None:
        self._tallies = tallies
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            "berth_router_model_seconds",
            "Time from admission to the answer, by who gave it and how it ended: good; bad (a replica's refusal); none "
            "came; cached.",
            labels=[*Labels._fields, "outcome"],
        )
        for labels, outcome, tally in self._tallies.rows():
            seconds.add_metric([*labels, outcome], tally.up_to(), tally.seconds)
        yield seconds
