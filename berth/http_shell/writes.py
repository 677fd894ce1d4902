"""Joins what connections write: each that has output is flushed once, when the batch of events at hand is done.

A batch is what one turn of the event loop finds to read. Several clients whose requests go to one replica then cost one
write to it, and several answers from one replica reach a client in one.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Flushable(Protocol):
    marked: bool
    """Whether it is to be flushed; only `Writes` changes it."""

    def flush(self) -> None:
        """Write what there is to be written."""


class Writes:
    """One per event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self._marked: list[Flushable] = []

    def mark(self, connection: Flushable) -> None:
        """Have `connection` flushed when the batch is done. Callers look at `marked` first, to save the call."""
        if connection.marked:
            return
        connection.marked = True
        if not self._marked:
            self._call_soon(self._flush)
        self._marked.append(connection)

    def _flush(self) -> None:
        marked, self._marked = self._marked, []
        for connection in marked:
            connection.marked = False
            connection.flush()
