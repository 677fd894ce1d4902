"""What is kept of an answered request: metrics always, a log line for a sample."""

from __future__ import annotations

import structlog

from router.call import Wire
from router.core.selection import Dice
from router.metrics import RouterMetrics

log = structlog.get_logger(__name__)


class Recorder:
    def __init__(self, metrics: RouterMetrics, log_share: float, dice: Dice) -> None:
        self._metrics = metrics
        self._log_share = log_share
        self._dice = dice

    def answered(self, wire: Wire, code: str, seconds: float, *, request_id: str, model: str) -> None:
        """A client was given an answer. `code` is an HTTP status or the name of a gRPC code."""
        self._metrics.requests.labels(wire.value, code).inc()
        self._metrics.seconds.labels(wire.value).observe(seconds)
        if self._log_share and self._dice.random() < self._log_share:
            log.info(
                "request",
                wire=wire.value,
                code=code,
                ms=round(seconds * 1000.0, 2),
                request_id=request_id,
                model=model[:100],
            )
