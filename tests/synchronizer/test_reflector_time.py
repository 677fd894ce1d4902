"""What a reflector says of its age, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from synchronizer.cluster.metrics import ClusterMetrics
from synchronizer.cluster.reflector import Reflector
from synchronizer.core.pods import read_pod

pytestmark = pytest.mark.looptime


class QuietApi:
    """Answers every watch, says nothing in it, and ends it in time: a server without bookmarks and without news."""

    def __init__(self) -> None:
        self.watches = 0

    async def call(self, *_: str, **__: Any) -> dict[str, Any]:
        return {"items": [], "metadata": {"resourceVersion": "7"}}

    @asynccontextmanager
    async def stream(self, _: str, query: Mapping[str, str]) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
        self.watches += 1

        async def read() -> bytes:
            await asyncio.sleep(float(query["timeoutSeconds"]))
            return b""

        yield read


async def test_a_quiet_collection_is_not_a_stale_one() -> None:
    registry = CollectorRegistry()
    api = QuietApi()
    reflector = Reflector(api, "/api/v1/namespaces/n/pods", "", read_pod, ClusterMetrics(registry))  # type: ignore[arg-type]

    async def follow() -> None:
        async for _ in reflector.watch():
            pass

    task = asyncio.create_task(follow())
    ages = []
    for _ in range(60):
        await asyncio.sleep(10.0)
        ages.append(registry.get_sample_value("berth_discovery_age_seconds", {"collection": "pods"}))
    task.cancel()
    await asyncio.wait([task])
    assert api.watches >= 9
    assert max(age for age in ages if age is not None) < 70
