"""Where replicas are, by the registry folder of one machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog

from berth.registry import LocalRegistry
from synchronizer.core.events import Discovered

log = structlog.get_logger(__name__)


class RegistryDiscovery:
    """Reads the folder every `interval` seconds: cheaper than its notifications are portable."""

    def __init__(self, registry: LocalRegistry, cell: str, *, interval: float = 0.25) -> None:
        self._registry = registry
        self._cell = cell
        self._interval = interval

    async def watch(self) -> AsyncIterator[Discovered]:
        known: Discovered | None = None
        while True:
            try:
                entries = await asyncio.to_thread(self._registry.read)
            except OSError as error:
                # The folder is away: what was known stays known, since an entry is only a hint where to look.
                log.warning("registry cannot be read", error=str(error))
            else:
                mine = {name: address for name, address in entries.items() if address.cell == self._cell}
                found = Discovered(mine)
                if found != known:
                    known = found
                    yield found
            await asyncio.sleep(self._interval)
