"""`python -m controller`. Heavy imports happen after the settings are found to be right."""

from __future__ import annotations

import asyncio
import sys

from berth.process import run
from berth.settings import environment
from controller.settings import ControllerSettings


async def serve(settings: ControllerSettings, stop: asyncio.Event) -> None:
    from controller import service

    await service.run(settings, stop)


def main() -> None:
    sys.exit(run("controller", ControllerSettings, serve, environment(), sys.argv[1:]))


if __name__ == "__main__":
    main()
