"""Inspects artifacts off the event loop, a bounded number at a time and for a bounded time.

In a thread: the reader's memory does not depend on the artifact, it executes nothing, and a process of its own would
cost each upload the 0.3 s of importing onnx. `onnx_artifact` imports it at the first upload.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from berth.errors import UnsupportedArtifact
from controller.core.intake import InspectedModel
from controller.intake import onnx_artifact

_AT_ONCE = 2
TIMEOUT_S = 120.0


class Inspector:
    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def inspect(self, path: Path) -> InspectedModel:
        """What the file holds. Raises `UnsupportedArtifact`, also for a file that takes too long to read.

        Its thread cannot be stopped then: it keeps its slot until it ends, so that such files cannot pile up.
        """
        await self._slots.acquire()
        work = asyncio.get_running_loop().run_in_executor(None, onnx_artifact.inspect, path)
        work.add_done_callback(lambda _: self._slots.release())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await asyncio.shield(work)
        except TimeoutError:
            raise UnsupportedArtifact("the artifact takes too long to read") from None
        finally:
            work.add_done_callback(_collect)


def _collect(work: asyncio.Future[InspectedModel]) -> None:
    # Read the error of work that nobody waits for any more.
    if not work.cancelled():
        work.exception()
