"""What the intake counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class IntakeMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.received_bytes = Counter("berth_upload_bytes", "Bytes of artifacts received", registry=registry)
        self.resumed = Counter(
            "berth_uploads_resumed",
            "Uploads taken over from a controller that stopped or was lost, by outcome",
            ["outcome"],
            registry=registry,
        )
