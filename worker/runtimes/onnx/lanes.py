"""The threads in which versions are loaded, warmed up and freed, beside those that answer."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from berth.settling import settle
from worker.threads import in_thread

T = TypeVar("T")

_NICENESS = 10


class LoadLane:
    """One thread at low priority. Whoever loads holds `turn`, so that its measurement has no other's load in it."""

    def __init__(self, name: str) -> None:
        self.turn = asyncio.Lock()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_lower_priority)

    async def run(self, work: Callable[[], T], stop: Callable[[], None]) -> T:
        """Run `work` in the thread; cancelling asks it to `stop`."""
        return await in_thread(self._thread, work, stop=stop)

    async def finish(self, work: Callable[[], None]) -> None:
        """Run `work` in the thread, and wait for it even if cancelled."""
        await settle(asyncio.wrap_future(self._thread.submit(work)))

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` in the thread some time."""
        self._thread.submit(work)

    async def close(self) -> None:
        await settle(asyncio.to_thread(self._thread.shutdown))


def _lower_priority() -> None:
    """Nice to the threads that answer. On Linux niceness belongs to the thread; elsewhere this does nothing."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
