"""Halves of a conversation that end together."""

from __future__ import annotations

import asyncio


async def first_of(*tasks: asyncio.Task[None]) -> None:
    """Wait until one task ends, end the others, and pass on how it ended.

    Not a task group: Python 3.11's loses a cancellation that comes just as one of its tasks fails.
    """
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()
