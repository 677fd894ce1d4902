"""When replicas came into routers' tables and left them: read from the routers' admin ports, many times a second."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from e2e.kubernetes.pod import PodRun

_EVERY_S = 0.05
_ADMIN_PORT = 9100


@dataclass(slots=True)
class RouteWatch:
    """The replicas that may answer for one model. Times are those of time.monotonic()."""

    routers: Callable[[], list[PodRun]]
    model: str
    now: frozenset[str] = frozenset()
    """Those that every router that is ready has in its table."""
    since: dict[str, float] = field(default_factory=dict)
    """When each one was first seen there."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, replicas: Callable[[frozenset[str]], bool], within: float, what: str) -> None:
        """Wait for the table to be so. Raises AssertionError."""
        try:
            async with asyncio.timeout(within), self._changed:
                await self._changed.wait_for(lambda: replicas(self.now))
        except TimeoutError:
            raise AssertionError(f"not within {within} s: {what}; routed are {sorted(self.now)}") from None

    async def run(self, session: aiohttp.ClientSession) -> None:
        while True:
            tables = [table for run in self.routers() if (table := await self._ask(session, run)) is not None]
            self.now = frozenset.intersection(*tables) if tables else frozenset()
            for replica in self.now:
                self.since.setdefault(replica, time.monotonic())
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(_EVERY_S)

    async def _ask(self, session: aiohttp.ClientSession, run: PodRun) -> frozenset[str] | None:
        if not run.ready:
            return None
        url = f"http://{run.address}:{_ADMIN_PORT}/debug/routes"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(url, params={"model": self.model}) as answer:
                models = (await answer.json())["models"]
                return frozenset(
                    replica for model in models for version in model["versions"] for replica in version["replicas"]
                )
        return None


@asynccontextmanager
async def watching(routers: Callable[[], list[PodRun]], model: str) -> AsyncIterator[RouteWatch]:
    """A watch that runs while the context is open."""
    watch = RouteWatch(routers, model)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        task = asyncio.create_task(watch.run(session), name="route watch")
        try:
            yield watch
        finally:
            task.cancel()
            ended = await asyncio.gather(task, return_exceptions=True)
    if not isinstance(ended[0], asyncio.CancelledError):
        raise ended[0] or AssertionError("the route watch ended unasked")
