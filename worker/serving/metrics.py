"""What is counted of inference. Nothing is labelled by tenant or model: those series would be without bound."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from berth.errors import BerthError

# From a tiny model in process to a minute; seconds.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

PROTOCOLS = ("rest", "grpc")
OK = "ok"
CANCELLED = "cancelled"
NOT_STARTED = "not-started"


class InferenceMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "berth_worker_inference_requests",
            "Inference requests by protocol and outcome: ok, cancelled, not-started, or the slug of an error.",
            ("protocol", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "berth_worker_inference_seconds",
            "Time from a complete request to its encoded answer, of requests that succeeded.",
            ("protocol",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._registry = registry
        self.in_flight = Gauge("berth_worker_inference_in_flight", "Requests being answered now.", registry=registry)
        self.wasted = Counter(
            "berth_worker_wasted",
            "Requests given up, by their client or for their deadline, after their run had begun.",
            registry=registry,
        )
        # Looking a child up by its labels costs more than moving it.
        self._ok = {
            protocol: (self._requests.labels(protocol, OK), self._seconds.labels(protocol)) for protocol in PROTOCOLS
        }

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """A gauge whose value is `read()` at the time of the scrape."""
        Gauge(f"berth_worker_inference_{name}", description, registry=self._registry).set_function(read)

    def succeeded(self, protocol: str, seconds: float) -> None:
        requests, histogram = self._ok[protocol]
        requests.inc()
        histogram.observe(seconds)

    def ended(self, protocol: str, outcome: str | BerthError) -> None:
        slug = outcome.status.slug if isinstance(outcome, BerthError) else outcome
        self._requests.labels(protocol, slug).inc()
