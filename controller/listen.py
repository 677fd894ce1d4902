"""Wakes whoever waits for a change in the database: one LISTEN connection, and a tick that makes certain.

A notification is only a hint to look. Waiters look at the database themselves, so a lost hint costs at most a tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import psycopg
import structlog
from psycopg import sql

from berth.reconcile import Again, Outcome, Repeater
from berth.wake import Wake
from controller.store.address import libpq_url

log = structlog.get_logger(__name__)

_RECONNECT_S = 0.5
_CONNECTED_CHECK_S = 5.0


class DatabaseListener:
    """One wake per channel: at each NOTIFY, and all of them when the connection comes back."""

    def __init__(self, url: str, channels: Iterable[str]) -> None:
        self._url = libpq_url(url)
        self.wakes = {channel: Wake() for channel in channels}

    async def run(self) -> None:
        """Listen until cancelled, over any number of connections."""
        await Repeater(self._look).run()

    async def _look(self) -> Outcome:
        try:
            await self._listen()
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("listening was interrupted", error=str(error).partition("\n")[0])
        return Again(_RECONNECT_S)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=5, application_name="berth-listen"
        )
        async with connection:
            for channel in self.wakes:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            # What happened before LISTEN took effect was not notified.
            for wake in self.wakes.values():
                wake.up()
            while True:
                async for notification in connection.notifies(timeout=_CONNECTED_CHECK_S):
                    self.wakes[notification.channel].up()
                # A connection whose other end vanished without a word is only found out by speaking.
                async with asyncio.timeout(_CONNECTED_CHECK_S):
                    await connection.execute("SELECT 1")
