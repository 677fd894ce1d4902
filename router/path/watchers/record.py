"""What is kept of an answered request: counts always, a log line for a sample.

Counted in plain numbers and put on the metrics page when it is scraped: a metric of the client library costs a lock and
a look-up of its labels each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from router.core.selection import Dice
from router.core.tallies import DurationTally
from router.path.request import Wire

log = structlog.get_logger(__name__)

_SECONDS: Final[tuple[float, ...]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


class _Count:
    """Of one wire: answers by code, and how long they took."""

    __slots__ = ("codes", "name", "tally")

    def __init__(self, name: str) -> None:
        self.name = name
        self.codes: dict[str | int, int] = {}
        self.tally = DurationTally(_SECONDS)


class AnswerRecorder(Collector):
    def __init__(self, registry: CollectorRegistry, log_share: float, dice: Dice) -> None:
        self._rest, self._grpc = _Count("rest"), _Count("grpc")
        self._log_share = log_share
        self._dice = dice
        registry.register(self)

    def answered(
        self, wire: Wire, code: str | int, seconds: float, request_id: bytes, model: str, cell: str = ""
    ) -> None:
        """A client was given an answer. `code` is an HTTP status or the name of a gRPC code.

        `cell` is the other cell that the request was passed on to.
        """
        counted = self._rest if wire is Wire.REST else self._grpc
        codes = counted.codes
        codes[code] = codes.get(code, 0) + 1
        counted.tally.add(seconds)
        if self._log_share and self._dice.random() < self._log_share:
            log.info(
                "request",
                wire=wire.value,
                code=str(code),
                ms=round(seconds * 1000.0, 2),
                request_id=request_id.decode("latin-1"),
                model=model[:100],
                **({"passed_on": cell} if cell else {}),
            )

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "berth_router_requests",
            "Answers given, by wire (rest, grpc) and code (HTTP status or gRPC code).",
            labels=["wire", "code"],
        )
        seconds = HistogramMetricFamily(
            "berth_router_request_seconds", "Time from the head of a request to its whole answer.", labels=["wire"]
        )
        for counted in (self._rest, self._grpc):
            for code, count in counted.codes.items():
                requests.add_metric([counted.name, str(code)], count)
            seconds.add_metric([counted.name], counted.tally.up_to(), counted.tally.seconds)
        yield requests
        yield seconds
