"""What the router counts. No label carries a tenant, a model or a replica: their number has no bound here."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from berth.model import Order


class RouterMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter(
            "berth_router_attempt_failures",
            "Copies that brought no answer: unreached, not_started, broken.",
            ["failure"],
            registry=registry,
        )
        self.retries = Counter(
            "berth_router_retries", "Copies sent because an earlier one brought no answer.", registry=registry
        )
        self.passed_on = Counter(
            "berth_router_passed_on",
            "Requests passed on to the routers of another cell, each time that one was.",
            # Not `cell`: a scraper gives the router's own cell that name.
            ["to"],
            registry=registry,
        )
        self.cache = Counter(
            "berth_router_cache",
            "Requests that could be answered from the prediction cache: hit, miss.",
            ["event"],
            registry=registry,
        )
        self.cache_bytes = Gauge("berth_router_cache_bytes", "Bytes of answers that are kept.", registry=registry)
        self.defaults = Counter(
            "berth_router_default_answers", "Default answers given in place of a replica's.", registry=registry
        )
        self.waiting = Gauge(
            "berth_router_waiting", "Requests that wait, by what for: slot, model.", ["what"], registry=registry
        )
        self.refused = Counter(
            "berth_router_refused",
            "Requests refused before any replica saw them: rate, bytes, concurrency (the tenant's limits); full, late, "
            "timed_out (no slot); cold (not loaded).",
            ["why"],
            registry=registry,
        )
        self.wanted = Counter(
            "berth_router_wanted_notices",
            "Versions named to synchronizers as wanted, repeats included.",
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
