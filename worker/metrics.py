"""The worker's metrics. Never one series per model: a scrape would grow with the tenants."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

_LOAD_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300)


class WorkerMetrics:
    """Counters that the keeper moves, and gauges that are read from their owner at each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.loads = Counter("berth_worker_loads", "Loads by how they ended.", ["outcome"], registry=registry)
        self.load_seconds = Histogram(
            "berth_worker_load_seconds",
            "Time from the decision to load until AVAILABLE, fetching included.",
            buckets=_LOAD_SECONDS,
            registry=registry,
        )
        self.unloads = Counter("berth_worker_unloads", "Versions let go of.", registry=registry)
        self.lost = Counter("berth_worker_lost", "Versions that their runtime lost by itself.", registry=registry)
        self.forced_drains = Counter(
            "berth_worker_forced_drains", "Drains cut short by their time limit.", registry=registry
        )
        self.refused_sets = Counter("berth_worker_refused_aspired_sets", "Aspired sets refused.", registry=registry)

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """A gauge whose value is `read()` at the time of the scrape."""
        Gauge(f"berth_worker_{name}", description, registry=self._registry).set_function(read)
