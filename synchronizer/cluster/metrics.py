"""What is known of the talk with the cluster's API. Labels are ours or an operator's, never a tenant's."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class ClusterMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"berth_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"berth_{name}", text, labels, registry=registry)

        self.age = gauge(
            "discovery_age_seconds", "Seconds since the cluster's API last said something of a collection", "collection"
        )
        self.objects = gauge("discovery_objects", "Objects known of a collection", "collection")
        self.relists = counter("discovery_relists", "Complete lists read, the first included", "collection")
        self.watch_errors = counter(
            "discovery_watch_errors", "Lists and watches that failed, by reason", "collection", "reason"
        )
        self.requests = counter(
            "kubernetes_requests", "Requests to the cluster's API; code 0: no answer", "verb", "code"
        )
        self.scalings = counter("pool_scalings", "Workloads told to have another number of replicas", "job")
        self.blocked = gauge("pool_blocked", "1 while a job's workload cannot be scaled, by reason", "job", "reason")
