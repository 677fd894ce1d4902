"""What the control API counts besides requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge


class ApiMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.uploads = Counter("berth_uploads", "Uploads of versions, by outcome", ["outcome"], registry=registry)
        self.placement_refusals = Counter(
            "berth_placement_refusals", "Requests refused for want of room", registry=registry
        )
        self.open_streams = 0
        streams = Gauge("berth_event_streams", "Open event streams", registry=registry)
        streams.set_function(lambda: self.open_streams)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts an event stream while it is open."""
        self.open_streams += 1
        try:
            yield
        finally:
            self.open_streams -= 1
