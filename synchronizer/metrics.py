"""What the synchronizer tells its operators. None of it has a label that a tenant chooses."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"berth_synchronizer_{name}", text, registry=registry)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"berth_synchronizer_{name}", text, registry=registry)

        self.leading = gauge("leading", "1 while this synchronizer leads its cell")
        self.lease_held = gauge("lease_held", "1 while the lease is known to be held; 0 and leading: no controller")
        self.epoch = gauge("epoch", "Epoch it leads in, 0 while it does not")
        self.generation = gauge("generation", "Last generation given out")
        self.desired_generation = gauge("desired_generation", "Generation of the desired state acted on")
        self.replicas = gauge("replicas_connected", "Replicas with a live stream")
        self.routers = gauge("routers_connected", "Routers with a live stream")
        self.route_updates = counter("route_updates", "Route tables published")
        self.snapshots = counter("route_snapshots", "Complete tables sent to routers")
        self.pushes = counter("aspired_sets", "Aspired sets sent to replicas")
        self.withdraw_timeouts = counter("withdraw_timeouts", "Versions unloaded though a router had not acknowledged")
        self.wanted = counter("wanted_versions", "Versions that routers said are wanted, repeats included")
        self.wanted_now = gauge("wanted_versions_now", "Different versions wanted in the last seconds")
        self.disk_errors = counter("disk_errors", "Writes to the state folder that failed")
