"""`python -m synchronizer`. Heavy imports happen after the settings are found to be right."""

from __future__ import annotations

import asyncio
import sys

from berth.process import run
from berth.settings import environment
from synchronizer.settings import SynchronizerSettings


async def serve(settings: SynchronizerSettings, stop: asyncio.Event) -> None:
    from synchronizer import service

    await service.run(settings, stop)


if __name__ == "__main__":
    sys.exit(run("synchronizer", SynchronizerSettings, serve, environment(), sys.argv[1:]))
