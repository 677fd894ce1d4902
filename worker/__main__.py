"""`python -m worker`. Heavy imports happen after the settings are found to be right."""

from __future__ import annotations

import asyncio
import sys

from berth.process import run
from berth.settings import environment
from worker.settings import WorkerSettings


async def serve(settings: WorkerSettings, stop: asyncio.Event) -> None:
    from worker import service

    await service.run(settings, stop)


if __name__ == "__main__":
    sys.exit(run("worker", WorkerSettings, serve, environment(), sys.argv[1:]))
