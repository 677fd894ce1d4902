"""Structured logs and the Prometheus text endpoint, the same in every process."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

__all__ = ["CONTENT_TYPE_LATEST", "configure_logging", "metrics_text"]

_SAMPLES_A_TURN: Final = 200

# Without local variables: keys and tensors are among them.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def configure_logging(component: str, instance: str, level: str, log_format: str) -> None:
    """Send every log line of the process to stderr, marked with its component and instance."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _origin(component, instance),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if log_format == "console"
        else structlog.processors.JSONRenderer(default=str)
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, _TRACEBACKS, renderer] if log_format == "json" else [*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    # Libraries speak at warning: their info lines repeat ours, and an access log per request is the router's task.
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


async def metrics_text(registry: CollectorRegistry) -> bytes:
    """The Prometheus exposition of `registry`. In turns: thousands of samples take 7 µs each, and others wait for the
    event loop."""
    page = bytearray()
    for family in registry.collect():
        samples = family.samples
        for start in range(0, max(len(samples), 1), _SAMPLES_A_TURN):
            family.samples = samples[start : start + _SAMPLES_A_TURN]
            text = generate_latest(_Told(family))
            # What a family is comes once, before all its samples.
            page += text if not start else b"".join(line for line in text.splitlines(True) if line[:1] != b"#")
            await asyncio.sleep(0)
    return bytes(page)


class _Told(CollectorRegistry):
    """One family, for the library to spell out."""

    def __init__(self, family: Metric) -> None:
        super().__init__()
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _origin(component: str, instance: str) -> structlog.typing.Processor:
    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["component"] = component
        event["instance"] = instance
        return event

    return add
