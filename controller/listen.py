"""Wakes whoever waits for a change in the database: one LISTEN connection, and a tick that makes certain.

A notification is only a hint to look. Waiters look at the database themselves, so a lost hint costs at most a tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import psycopg
import structlog
from psycopg import sql

from controller.store.address import libpq_url

log = structlog.get_logger(__name__)

_RECONNECT_S = 0.5
_CONNECTED_CHECK_S = 5.0


class Pulse:
    """Something happened, look again. Take a `ticket` before looking and wait on it after: no beat is missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        return self._event

    def beat(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    @staticmethod
    async def wait(ticket: asyncio.Event, timeout: float) -> bool:
        """Whether there was a beat since `ticket` was taken, within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await ticket.wait()
        except TimeoutError:
            return False
        return True


class Listener:
    """Beats one pulse per channel at each NOTIFY, and all of them when the connection comes back."""

    def __init__(self, url: str, channels: Iterable[str]) -> None:
        self._url = libpq_url(url)
        self.pulses = {channel: Pulse() for channel in channels}

    async def run(self) -> None:
        """Listen until cancelled, over any number of connections."""
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.warning("listening was interrupted", error=str(error).partition("\n")[0])
            await asyncio.sleep(_RECONNECT_S)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=5, application_name="berth-listen"
        )
        async with connection:
            for channel in self.pulses:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            # What happened before LISTEN took effect was not notified.
            for pulse in self.pulses.values():
                pulse.beat()
            while True:
                async for notification in connection.notifies(timeout=_CONNECTED_CHECK_S):
                    self.pulses[notification.channel].beat()
                # A connection whose other end vanished without a word is only found out by speaking.
                async with asyncio.timeout(_CONNECTED_CHECK_S):
                    await connection.execute("SELECT 1")
