"""What the router counts. No label carries a tenant, a model or a replica: their number has no bound here."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from berth.model import Order

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RouterMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "berth_router_requests",
            "Answers given, by wire (rest, grpc) and code (HTTP status or gRPC code).",
            ["wire", "code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "berth_router_request_seconds",
            "Time from the whole request in memory to the whole answer.",
            ["wire"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.failures = Counter(
            "berth_router_attempt_failures",
            "Copies that brought no answer: unreached, not_started, broken.",
            ["failure"],
            registry=registry,
        )
        self.retries = Counter(
            "berth_router_retries", "Copies sent because an earlier one brought no answer.", registry=registry
        )
        self.hedges = Counter(
            "berth_router_hedges",
            "Second copies after the hedge delay: sent, won, denied (no budget, or no other replica).",
            ["event"],
            registry=registry,
        )
        self.in_flight = Gauge("berth_router_in_flight", "Requests under way.", registry=registry)
        self.tables = Counter(
            "berth_router_tables_applied", "Updates applied: snapshot or delta.", ["kind"], registry=registry
        )
        self.gaps = Counter("berth_router_feed_gaps", "Updates missed; each costs a snapshot.", registry=registry)
        self.epoch = Gauge("berth_router_route_epoch", "Epoch of the route table.", registry=registry)
        self.generation = Gauge("berth_router_route_generation", "Generation of the route table.", registry=registry)

    def applied(self, kind: str, order: Order) -> None:
        self.tables.labels(kind).inc()
        self.epoch.set(order.epoch)
        self.generation.set(order.generation)
