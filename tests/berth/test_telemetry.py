"""The metrics page is the library's, and leaves the event loop its turns."""

import asyncio
import types
from collections.abc import Generator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from berth.telemetry import metrics_text


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let the event loop go round once."""
    yield


def registry_of(labels: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("requests", "How many.", registry=registry).inc()
    Gauge("empty", "Nothing yet.", ["what"], registry=registry)
    seconds = Histogram("seconds", "How long.", ["what"], registry=registry)
    for number in range(labels):
        seconds.labels(f'line\n"{number}"').observe(number / 100)
    return registry


def without_times(page: bytes) -> list[str]:
    return [line.split(" ")[0] if "_created" in line else line for line in page.decode().splitlines()]


async def test_the_page_is_what_the_library_says() -> None:
    registry = registry_of(3)
    assert without_times(await metrics_text(registry)) == without_times(generate_latest(registry))


async def test_others_have_their_turn_while_a_long_page_is_written() -> None:
    registry = registry_of(100)
    writing = asyncio.create_task(metrics_text(registry))
    turns = 0
    while not writing.done():
        turns += 1
        await turn()
    assert turns >= 8
    told, expected = without_times(await writing), without_times(generate_latest(registry))
    assert sorted(told) == sorted(expected)
    assert [line for line in told if line.startswith("#")] == [line for line in expected if line.startswith("#")]
