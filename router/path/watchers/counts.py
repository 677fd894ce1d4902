"""Counts, and a log line for each copy that failed."""

from __future__ import annotations

import structlog

from router.control.metrics import RouterMetrics
from router.core.attempts import Failure
from router.core.routes import Resolved
from router.core.tallies import Tallies
from router.path.meeting import Asking, Copy
from router.path.watchers.watcher import Watcher

log = structlog.get_logger(__name__)


class CountsAttempts(Watcher):
    """What did not go as it should."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: RouterMetrics) -> None:
        self._metrics = metrics

    def repeated(self, request: Asking) -> None:
        self._metrics.retries.inc()

    def passed_on(self, request: Asking, cell: str) -> None:
        self._metrics.passed_on.labels(cell).inc()

    def failed(self, copy: Copy, failure: Failure, why: str) -> None:
        self._metrics.failures.labels(failure.value).inc()
        log.info(
            "attempt failed",
            request_id=copy.request.request_id.decode("latin-1"),
            replica=copy.address.replica,
            failure=failure.value,
            why=why,
        )


class CountsModels(Watcher):
    """How many requests there were and how long they took, by version, replica and outcome."""

    __slots__ = ("_tallies",)

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies

    def concluded(
        self, request: Asking, resolved: Resolved, replica: str, outcome: str, seconds: float, now: float
    ) -> None:
        self._tallies.add(resolved.key, resolved.servable, replica, outcome, seconds, now)
