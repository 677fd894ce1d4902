"""Work in a thread, for whoever may change their mind."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

from berth.settling import settle

T = TypeVar("T")


async def in_thread(
    executor: concurrent.futures.Executor, work: Callable[[], T], *, stop: Callable[[], None], patience: float = 60.0
) -> T:
    """Run `work` in a thread of `executor`, and raise what it raises.

    Cancelling drops it if it has not begun. Else `stop` is called, and given `patience` seconds to take effect.
    """
    running = executor.submit(work)
    future = asyncio.wrap_future(running)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not running.cancel():
            stop()
            await settle(asyncio.wait([future], timeout=patience))
        if future.done() and not future.cancelled():
            future.exception()  # read: nobody waits for it any more
        raise
